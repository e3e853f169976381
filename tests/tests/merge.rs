//! Edits that are put together: pushes with local edits, callers' edits with what is on disk, patches with the file they change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use serde_json::{Value, json};
use winston_tests::http::Answer;
use winston_tests::process::skip;
use winston_tests::script::{ScriptedControl, check_in_answer, ordinary};
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::tenant::{Tenant, hash};
use winston_tests::wait::eventually;

const SOUL: &str = "workspace/SOUL.md";
const CONFIG: &str = ".openclaw/openclaw.json";

fn content(sidecar: &Sidecar, path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(sidecar.data().join(path))?)
}

/// A file that control knows, then an edit of the agent and a push at the same time.
fn meet(tenant: &Tenant, sidecar: &Sidecar, path: &str, [base, local, pushed]: [&str; 3]) -> Result<()> {
    tenant.push(&format!("{path}?force=true"), base)?;
    tenant.wait_until_even(sidecar)?;
    sidecar.pause()?;
    sidecar.agent_writes(path, local)?;
    tenant.push_with(path, pushed, &[("X-Winston-Actor", "Test Person")])?.expect(200)?;
    sidecar.resume()?;
    tenant.wait_until_even(sidecar)?;
    Ok(())
}

/// Different lines, different keys: the merged version is written as the push's, both sides' versions are in history, and the next push
/// does not take the merged version for one of its own.
#[test]
fn a_push_is_merged_with_an_edit_that_it_does_not_touch() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "merged@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    let text = ["1\n2\n3\n4\n5\n", "1\n2\n3\n4\nagent\n", "pushed\n2\n3\n4\n5\n"];
    meet(&tenant, &sidecar, SOUL, text)?;
    let merged = "pushed\n2\n3\n4\nagent\n";
    assert_eq!(content(&sidecar, SOUL)?, merged);
    assert_eq!(sidecar.history(SOUL)?, ["system create", "agent update", "system update"]);
    let last = sidecar.changes()?.pop().unwrap_or_default();
    assert_eq!((&last["actor"], &last["generation"]), (&json!("Test Person"), &json!(2)), "{last}");
    assert_eq!(last["previous_hash"], hash(text[1]));
    assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    let versions = tenant.versions(SOUL)?;
    assert!(text.iter().chain([&merged]).all(|version| versions.contains(&hash(version))), "{versions:?}");
    assert_eq!(tenant.listed(SOUL)?["hash"], hash(merged));

    // Another edit and another push, after a kill.
    let sidecar = sidecar.kill()?.start()?;
    tenant.wait_until_even(&sidecar)?;
    sidecar.pause()?;
    sidecar.agent_writes(SOUL, "pushed\n2\n3\n4\nagent again\n")?;
    tenant.push(SOUL, "pushed again\n2\n3\n4\nagent\n")?;
    sidecar.resume()?;
    tenant.wait_until_even(&sidecar)?;
    assert_eq!(content(&sidecar, SOUL)?, "pushed again\n2\n3\n4\nagent again\n");

    let config = [
        "{\n  // kept\n  model: \"small\",\n  port: 1,\n}\n",
        "{\n  // kept\n  model: \"small\",\n  port: 2, // mine\n}\n",
        "{\n  // kept\n  model: \"large\",\n  port: 1,\n}\n",
    ];
    meet(&tenant, &sidecar, CONFIG, config)?;
    assert_eq!(content(&sidecar, CONFIG)?, "{\n  // kept\n  model: \"large\",\n  port: 2, // mine\n}\n");
    Ok(())
}

/// Never a marker on disk.
#[test]
fn what_touches_each_other_is_left_to_a_person() -> Result<()> {
    let control = Tenant::control()?;
    let tenant = Tenant::create(&control, "touching@test.example")?;
    let sidecar = tenant.sidecar()?.start()?;
    meet(&tenant, &sidecar, SOUL, ["1\n2\n", "1\nagent\n", "1\npushed\n"])?;
    assert_eq!(content(&sidecar, SOUL)?, "1\nagent\n");
    meet(&tenant, &sidecar, CONFIG, ["{\"a\": 1}", "{\"a\": 2}", "{\"a\": 3}"])?;
    assert_eq!(content(&sidecar, CONFIG)?, "{\"a\": 2}");
    let paths: Vec<_> = sidecar.status()?["sync"]["conflicts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|conflict| conflict["path"].clone())
        .collect();
    assert_eq!(paths, [SOUL, CONFIG]);
    Ok(())
}

/// Killed when a merge is remembered and not yet written, the first one or one on top of another: what is on disk is known for what it is at the next start, so the
/// agent's part of it goes into the merge again.
#[test]
fn a_merge_that_is_killed_before_it_is_written_is_made_again() -> Result<()> {
    const FILE: &str = "workspace/state.json";
    let (base, local) = (r#"{"agent":1,"pushed":1}"#, r#"{"agent":2,"pushed":1}"#);
    let pushes = [r#"{"agent":1,"pushed":2}"#, r#"{"agent":1,"pushed":3}"#];
    for kill in 1..=2 {
        let pushed = Arc::new(AtomicUsize::new(0));
        let offered = Arc::clone(&pushed);
        let control = ScriptedControl::start(move |seen| {
            let generation = offered.load(Ordering::Relaxed);
            match seen.call.split_once(" /api/sidecar/") {
                Some((_, "check-in")) => {
                    let mut answer = check_in_answer(seen.body["head_seq"].as_u64().unwrap_or(0));
                    answer["desired_generation"] = generation.into();
                    (200, answer)
                }
                Some((_, "desired")) if generation > 0 => {
                    // Both made for the version that control knows, the agent's first one.
                    let hash = hash(pushes[generation - 1]);
                    let file = json!({"path": FILE, "generation": generation, "hash": hash, "base": self::hash(base)});
                    (200, json!({"generation": generation, "files": [file]}))
                }
                Some((_, rest)) if rest.starts_with("contents/") => {
                    let wanted = rest.trim_start_matches("contents/");
                    let content = pushes.iter().find(|content| hash(content) == wanted).copied().unwrap_or("null");
                    (200, serde_json::from_str(content).unwrap_or_default())
                }
                _ => ordinary(seen).unwrap_or_default(),
            }
        })?;
        let setup = Setup::new()?.env("WINSTON_CONTROL_URL", &control.url());
        let failing = match setup.clone().failpoints(&format!("merge-remembered=kill@{kill}")) {
            Ok(failing) => failing,
            Err(reason) => {
                skip("a_merge_that_is_killed_before_it_is_written_is_made_again", &reason);
                return Ok(());
            }
        };
        let mut sidecar = failing.start()?;
        let mut history = vec!["agent create", "agent update"];
        for (content, known) in [(base, 1), (local, 2)] {
            sidecar.agent_writes(FILE, content)?;
            sidecar.wait_for_history(FILE, &history[..known])?;
        }
        for (generation, merged) in [(1, r#"{"agent":2,"pushed":2}"#), (2, r#"{"agent":2,"pushed":3}"#)] {
            let before = content(&sidecar, FILE)?;
            pushed.store(generation, Ordering::Relaxed);
            if generation == kill {
                eventually("it dies", || sidecar.ended())?;
                assert_eq!(content(&sidecar, FILE)?, before, "nothing is written yet");
                drop(sidecar);
                sidecar = setup.start()?;
            }
            history.push("system update");
            sidecar.wait_for_history(FILE, &history)?;
            assert_eq!(content(&sidecar, FILE)?, merged, "kill {kill}, push {generation}");
        }
        assert_eq!(sidecar.status()?["sync"]["conflicts"], json!([]));
    }
    Ok(())
}

fn patch(sidecar: &Sidecar, target: &str, headers: &[(&str, &str)], change: &Value) -> Result<Answer> {
    let mut all = vec![("Content-Type", "application/merge-patch+json")];
    all.extend_from_slice(headers);
    sidecar.call("PATCH", &format!("/files/{target}"), &all, change.to_string().as_bytes())
}

#[test]
fn a_patch_keeps_what_it_does_not_name() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let config =
        "{\n  // who may talk\n  channels: { telegram: { enabled: false } },\n  'model': 'small', // cheap\n}\n";
    sidecar.put(CONFIG, config)?.expect(200)?;
    let change = json!({"channels": {"telegram": {"enabled": true}}});
    let stale = [("If-Match", format!("\"{}\"", hash("other")))];
    let stale: Vec<_> = stale.iter().map(|(name, value)| (*name, value.as_str())).collect();
    patch(&sidecar, CONFIG, &stale, &change)?.expect(412)?;
    assert_eq!(content(&sidecar, CONFIG)?, config);

    let tag = format!("\"{}\"", hash(config));
    let headers = [("If-Match", tag.as_str()), ("X-Winston-Actor", "Test Person")];
    let done = patch(&sidecar, CONFIG, &headers, &change)?.expect(200)?.json()?;
    let wanted = config.replace("false", "true");
    assert_eq!(content(&sidecar, CONFIG)?, wanted);
    assert_eq!((&done["comments_kept"], &done["hash"]), (&json!(true), &json!(hash(&wanted))));
    let last = sidecar.changes()?.pop().unwrap_or_default();
    assert_eq!((&last["source"], &last["actor"]), (&json!("admin"), &json!("Test Person")));
    Ok(())
}

#[test]
fn a_patch_that_cannot_be_faithful_is_refused() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    patch(&sidecar, CONFIG, &[], &json!({}))?.expect(404)?;
    sidecar.call("PATCH", &format!("/files/{CONFIG}"), &[], b"{}")?.expect(415)?;
    for text in ["{", "[1 2]", "{a: NaN}", ""] {
        sidecar.put(CONFIG, text)?.expect(200)?;
        let answer = patch(&sidecar, CONFIG, &[], &json!({"a": 1}))?.expect(409)?.json()?;
        assert_eq!(answer["code"], "not_json", "{text}: {answer}");
        assert_eq!(content(&sidecar, CONFIG)?, text);
    }
    let text = "{ list: [1, /* why */ 2] }";
    sidecar.put(CONFIG, text)?.expect(200)?;
    let answer = patch(&sidecar, CONFIG, &[], &json!({"list": [3]}))?.expect(409)?.json()?;
    assert_eq!((&answer["code"], content(&sidecar, CONFIG)?.as_str()), (&json!("cannot_keep_comments"), text));
    let answer = patch(&sidecar, &format!("{CONFIG}?lossy=true"), &[], &json!({"list": [3]}))?.expect(200)?.json()?;
    assert_eq!(answer["comments_kept"], false);
    patch(&sidecar, ".winston/applied", &[], &json!({}))?.expect(403)?;
    Ok(())
}

#[test]
fn a_callers_edit_is_merged_with_what_is_on_disk() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let (base, ours) = ("1\n2\n3\n4\n5\n", "1\n2\n3\n4\nagent\n");
    sidecar.put(SOUL, base)?.expect(200)?;
    sidecar.put(SOUL, ours)?.expect(200)?;
    let merge =
        |body: &Value| sidecar.call("POST", &format!("/files/{SOUL}?op=merge"), &[], body.to_string().as_bytes());

    let refused = merge(&json!({"base": base, "content": "1\n2\n3\n4\nmine\n"}))?.expect(409)?.json()?;
    assert_eq!(refused["code"], "merge_conflict");
    assert_eq!((&refused["current_hash"], &refused["base_hash"]), (&json!(hash(ours)), &json!(hash(base))));
    assert_eq!(content(&sidecar, SOUL)?, ours);

    // The base by its hash: the journal still has it.
    let done = merge(&json!({"base_hash": hash(base), "content": "mine\n2\n3\n4\n5\n"}))?.expect(200)?.json()?;
    let merged = "mine\n2\n3\n4\nagent\n";
    assert_eq!((&done["hash"], &done["merged"]), (&json!(hash(merged)), &json!(true)));
    assert_eq!(content(&sidecar, SOUL)?, merged);

    let answer = merge(&json!({"base_hash": hash("never seen"), "content": "x"}))?.expect(409)?.json()?;
    assert_eq!(answer["code"], "base_unknown");
    merge(&json!({"content": "x"}))?.expect(400)?;
    sidecar.call("POST", &format!("/files/{SOUL}"), &[], b"{}")?.expect(400)?;
    Ok(())
}
