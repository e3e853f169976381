//! `GET /search`: what is found, what is left alone and what ends a search.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::sidecar::{Setup, Sidecar};

fn search(sidecar: &Sidecar, query: &str) -> Result<Value> {
    sidecar.get(&format!("/search?{query}"))?.expect(200)?.json()
}

fn paths(answer: &Value) -> Vec<String> {
    let matches = answer["matches"].as_array().into_iter().flatten();
    matches.map(|found| found["path"].as_str().unwrap_or("?").to_owned()).collect()
}

#[test]
fn lines_are_found_with_their_place() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("workspace/SOUL.md", "one\ntwo Näil three\n")?.expect(200)?;
    sidecar.put("workspace/memory/day.md", "a.b\nNÄIL\n")?.expect(200)?;
    let answer = search(&sidecar, "q=n%C3%A4il")?;
    assert_eq!(
        answer,
        json!({ "matches": [
            { "path": "workspace/SOUL.md", "line": 2, "column": 5, "text": "two Näil three" },
            { "path": "workspace/memory/day.md", "line": 2, "column": 1, "text": "NÄIL" },
        ], "truncated": null })
    );
    assert_eq!(paths(&search(&sidecar, "q=N%C3%A4il&case=true")?), ["workspace/SOUL.md"]);
    assert_eq!(paths(&search(&sidecar, "q=n%C3%A4il&path=workspace/memory")?), ["workspace/memory/day.md"]);
    // Plain text, not a pattern.
    assert!(paths(&search(&sidecar, "q=a?b")?).is_empty());
    assert_eq!(paths(&search(&sidecar, "q=a.b")?), ["workspace/memory/day.md"]);
    Ok(())
}

#[test]
fn what_has_no_history_or_is_no_text_is_left_alone() -> Result<()> {
    let setup = Setup::new()?.env("WINSTON_MAX_FILE_BYTES", "1000");
    std::fs::write(setup.outside().join("outside.md"), "needle")?;
    let sidecar = setup.start()?;
    sidecar.agent_writes("workspace/yes.md", "needle")?;
    sidecar.agent_writes("workspace/binary.md", b"needle\0")?;
    sidecar.agent_writes("workspace/latin.md", b"needle \xe9")?;
    sidecar.agent_writes("workspace/large.md", "needle ".repeat(200))?;
    sidecar.agent_writes("workspace/node_modules/x.js", "needle")?;
    sidecar.agent_writes(".openclaw/.env", "needle")?;
    sidecar.agent_writes(".openclaw/credentials/x.json", "needle")?;
    std::os::unix::fs::symlink(sidecar.data().join("../outside.md"), sidecar.data().join("workspace/link.md"))?;
    std::os::unix::fs::symlink(sidecar.data().join(".."), sidecar.data().join("workspace/out"))?;
    let answer = search(&sidecar, "q=needle")?;
    assert_eq!(paths(&answer), ["workspace/yes.md"]);
    assert_eq!(answer["truncated"], Value::Null);
    sidecar.get("/search?q=needle&path=.openclaw/credentials")?.expect(403)?;
    sidecar.get("/search?q=needle&path=../")?.expect(403)?;
    assert_eq!(sidecar.get("/search?q=needle&path=.winston")?.expect(404)?.json()?["code"], "not_found");
    Ok(())
}

#[test]
fn a_search_ends_at_its_limit_and_says_so() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("workspace/many.md", &"needle\n".repeat(50))?.expect(200)?;
    let answer = search(&sidecar, "q=needle&limit=7")?;
    assert_eq!((paths(&answer).len(), &answer["truncated"]), (7, &json!("matches")));
    let answer = search(&sidecar, "q=needle&limit=50")?;
    assert_eq!((paths(&answer).len(), &answer["truncated"]), (50, &Value::Null));
    let long = format!("{}needle{}", "x".repeat(100_000), "y".repeat(100_000));
    sidecar.put("workspace/long.md", &long)?.expect(200)?;
    let answer = search(&sidecar, "q=needle")?;
    let text = answer["matches"][0]["text"].as_str().context("text")?;
    assert!(text.contains("needle") && text.chars().count() <= 202, "{text}");
    assert_eq!(answer["matches"][0]["column"], 100_001);
    for query in ["", "q=", "q=a%0Ab", &format!("q={}", "x".repeat(257)), "q=a&case=perhaps"] {
        assert_eq!(sidecar.get(&format!("/search?{query}"))?.expect(400)?.json()?["code"], "bad_query", "{query}");
    }
    Ok(())
}
