//! The contracts of the two first sidecars, row by row: method, path, request, status, and every key of the answer with its type, in a
//! table that can be read beside their sources. What they got wrong (WD in the defect list) is marked where a row differs from them.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use winston_tests::http::{Answer, request};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::{Setup, Sidecar};

/// What a request carries.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// JSON with its content type.
    Json(&'static str),
    /// A form, which neither sidecar took.
    Form(&'static str),
}

use Body::{Form, Json, None as Empty};

/// One row: token or not, method, path, body, status, shape of the answer (see [`matches`]).
struct Row(bool, &'static str, &'static str, Body, u16, Value);

/// A shape is JSON whose strings are types: `string`, `int`, `number`, `null`, `iso` (a time with milliseconds), `sha256`, `uuid`, `=text`
/// for this text, `~text` for one that contains it. Objects have exactly these keys, but those that begin with `?` may be missing. A list of one shape is a list
/// of any number (but not none) of it.
fn matches(shape: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = || Err(format!("{place}: {value} is not {shape}"));
    match shape {
        Value::Object(keys) => {
            let Value::Object(values) = value else { return wrong() };
            for (key, shape) in keys {
                let (name, optional) = key.strip_prefix('?').map_or((key.as_str(), false), |name| (name, true));
                match values.get(name) {
                    Some(value) => matches(shape, value, &format!("{place}.{name}"))?,
                    None if optional => {}
                    None => return Err(format!("{place}: {name} is missing in {value}")),
                }
            }
            let known = |name: &String| keys.contains_key(name) || keys.contains_key(&format!("?{name}"));
            match values.keys().find(|name| !known(name)) {
                Some(name) => Err(format!("{place}: {name} is too much in {value}")),
                None => Ok(()),
            }
        }
        Value::Array(shapes) if shapes.len() == 1 => {
            let Value::Array(values) = value else { return wrong() };
            if values.is_empty() {
                return wrong();
            }
            values.iter().enumerate().try_for_each(|(at, value)| matches(&shapes[0], value, &format!("{place}[{at}]")))
        }
        Value::Array(shapes) => {
            let Value::Array(values) = value else { return wrong() };
            if values.len() != shapes.len() {
                return wrong();
            }
            let pairs = shapes.iter().zip(values).enumerate();
            pairs.into_iter().try_for_each(|(at, (shape, value))| matches(shape, value, &format!("{place}[{at}]")))
        }
        Value::String(kind) => {
            let text = value.as_str().unwrap_or("");
            let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fits = match kind.as_str() {
                "string" => value.is_string(),
                "int" => value.is_u64(),
                "number" => value.is_number(),
                "null" => value.is_null(),
                "sha256" => text.len() == 64 && hexadecimal(text),
                "iso" => text.len() == 24 && text.ends_with('Z') && &text[10..11] == "T" && &text[19..20] == ".",
                "time" => text.ends_with('Z') && text.get(10..11) == Some("T"),
                other => match (other.strip_prefix('='), other.strip_prefix('~')) {
                    (Some(wanted), _) => text == wanted,
                    (None, Some(part)) => text.contains(part),
                    (None, None) => return Err(format!("{place}: {other} is no kind")),
                },
            };
            if fits { Ok(()) } else { wrong() }
        }
        other if other == value => Ok(()),
        _ => wrong(),
    }
}

fn call(sidecar: &Sidecar, row: &Row) -> Result<Answer> {
    let Row(token, method, path, body, ..) = row;
    let bearer = format!("Bearer {TEST_TOKEN}");
    let mut headers = Vec::new();
    if *token {
        headers.push(("Authorization", bearer.as_str()));
    }
    let body = match body {
        Empty => "",
        Json(text) => {
            headers.push(("Content-Type", "application/json"));
            text
        }
        Form(text) => {
            headers.push(("Content-Type", "application/x-www-form-urlencoded"));
            text
        }
    };
    request(sidecar.address(), method, path, &headers, body.as_bytes())
}

/// Runs the rows one after the other and tells of all that differ.
fn check(sidecar: &Sidecar, rows: &[Row]) -> Result<()> {
    let mut wrong = Vec::new();
    for row in rows {
        let Row(_, method, path, _, status, shape) = row;
        let answer = call(sidecar, row)?;
        let is_json = answer.header("content-type") == Some("application/json");
        let told = if answer.status != *status {
            Err(format!("{} instead of {status}: {}", answer.status, answer.text()))
        } else if !is_json {
            Err(format!("not JSON: {:?}", answer.header("content-type")))
        } else {
            matches(shape, &answer.json()?, "answer")
        };
        if let Err(why) = told {
            wrong.push(format!("{method} {path}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// An error of today: the old `error` text, and beside it what programs can rely on.
fn error(text: &str) -> Value {
    json!({ "error": format!("={text}"), "code": "string", "request_id": "string", "?path": "string", "?remedy": "string" })
}

/// An error that was a page of HTML or a message of the runtime, of which only the status was promised.
fn any_error() -> Value {
    json!({ "error": "string", "code": "string", "request_id": "string", "?path": "string" })
}

fn tenant() -> Result<Sidecar> {
    let sidecar = Setup::new()?.env("WINSTON_TENANT_ID", "test-tenant").start()?;
    sidecar.agent_writes(".openclaw/openclaw.json", "{}")?;
    sidecar.agent_writes(".openclaw/gateway.token", "secret")?;
    sidecar.agent_writes(".openclaw/credentials/x.json", "secret")?;
    sidecar.agent_writes(".openclaw/skills/old/SKILL.md", "old")?;
    sidecar.agent_writes(".openclaw/.winston/changes.jsonl", "old log")?;
    std::fs::create_dir_all(sidecar.data().join("workspace"))?;
    std::os::unix::fs::symlink("nowhere", sidecar.data().join("dangling"))?;
    std::os::unix::fs::symlink("nowhere", sidecar.data().join(".openclaw/dangling"))?;
    sidecar.wait_for_history(".openclaw/skills/old/SKILL.md", &["agent create"])?;
    Ok(sidecar)
}

#[test]
fn the_first_sidecar() -> Result<()> {
    let sidecar = tenant()?;
    let written = |path: &str| {
        json!({
            "success": true, "path": format!("={path}"), "size": "int", "hash": "sha256",
            // New: not in the old answer, which clients read by name.
            "created": sidecar_bool(), "seq": "int",
        })
    };
    fn sidecar_bool() -> Value {
        json!(true)
    }
    let file = |path: &str, content: &str| {
        json!({
            "path": format!("={path}"), "content": format!("={content}"), "size": content.len(), "modified": "iso", "hash": "sha256",
        })
    };
    let health = json!({ "status": "=ok", "service": "=winston-sidecar", "uptime": "number" });
    let mut health_with_token = health.clone();
    health_with_token["tenant_id"] = json!("=test-tenant");
    let directory =
        |name: &str| json!({ "name": format!("={name}"), "type": "=directory", "size": "null", "modified": "iso" });
    check(
        &sidecar,
        &[
            // WD24: whose it is, only with the token. X68: clients send Bearer and a content type always.
            Row(false, "GET", "/health", Empty, 200, health),
            Row(true, "GET", "/health", Json(""), 200, health_with_token),
            Row(false, "GET", "/files", Empty, 401, error("Unauthorized")),
            Row(false, "PUT", "/files/a.md", Json("{\"content\":\"x\"}"), 401, error("Unauthorized")),
            Row(false, "GET", "/changes", Empty, 401, error("Unauthorized")),
            // Writing: 200 for creation too, empty text, parents made.
            Row(true, "PUT", "/files/test-soul.md", Json("{\"content\":\"# Soul\\n\"}"), 200, written("test-soul.md")),
            Row(true, "PUT", "/files/empty.md", Json("{\"content\":\"\"}"), 200, written("empty.md")),
            Row(
                true,
                "PUT",
                "/files/skills/s/SKILL.md",
                Json("{\"content\":\"x\"}"),
                200,
                written("skills/s/SKILL.md"),
            ),
            Row(true, "PUT", "/files/with%20space.md", Json("{\"content\":\"x\"}"), 200, written("with space.md")),
            // WD6: only the directory is ours.
            Row(
                true,
                "PUT",
                "/files/.winston-notes.md",
                Json("{\"content\":\"x\"}"),
                200,
                written(".winston-notes.md"),
            ),
            Row(true, "PUT", "/files/a.md", Json("{}"), 400, error("Missing content field")),
            Row(true, "PUT", "/files/a.md", Json("{\"content\":null}"), 400, error("Missing content field")),
            Row(true, "PUT", "/files/a.md", Json("{\"content\":false}"), 400, error("Missing content field")),
            Row(true, "PUT", "/files/a.md", Json("{\"content\":0}"), 400, error("Missing content field")),
            Row(true, "PUT", "/files/a.md", Empty, 400, error("Missing content field")),
            Row(true, "PUT", "/files/a.md", Form("content=x"), 400, any_error()),
            Row(true, "PUT", "/files/a.md", Json("{\"content\":"), 400, any_error()),
            Row(true, "PUT", "/files/../a.md", Json("{\"content\":\"x\"}"), 403, error("Access denied")),
            Row(
                true,
                "PUT",
                "/files/.winston/a.md",
                Json("{\"content\":\"x\"}"),
                403,
                error("Cannot modify .winston directory"),
            ),
            // Reading.
            Row(true, "GET", "/files/test-soul.md", Empty, 200, file("test-soul.md", "# Soul\n")),
            Row(true, "GET", "/files/empty.md", Empty, 200, file("empty.md", "")),
            Row(true, "GET", "/files/gone.md", Empty, 404, {
                let mut shape = error("File not found");
                shape["path"] = json!("=gone.md");
                shape
            }),
            Row(true, "GET", "/files/..%2fdata-evil", Empty, 403, error("Access denied")),
            // WD7: our own directory does not exist.
            Row(true, "GET", "/files/.winston/epoch", Empty, 404, error("File not found")),
            // Was 500 EISDIR.
            Row(true, "GET", "/files/skills", Empty, 409, any_error()),
            Row(true, "GET", "/files/", Empty, 409, any_error()),
            // Listing: WD17, a dangling link is an entry like others. Sorted, which the old order allowed.
            Row(
                true,
                "GET",
                "/files",
                Empty,
                200,
                json!({ "path": "=", "items": [
                directory(".openclaw"),
                { "name": "=.winston-notes.md", "type": "=file", "size": 1, "modified": "iso" },
                { "name": "=dangling", "type": "=file", "size": "null", "modified": "iso" },
                { "name": "=empty.md", "type": "=file", "size": 0, "modified": "iso" },
                directory("skills"),
                { "name": "=test-soul.md", "type": "=file", "size": 7, "modified": "iso" },
                { "name": "=with space.md", "type": "=file", "size": 1, "modified": "iso" },
                directory("workspace"),
            ] }),
            ),
            Row(
                true,
                "GET",
                "/files?path=skills/",
                Empty,
                200,
                json!({ "path": "=skills/", "items": [directory("s")] }),
            ),
            Row(true, "GET", "/files?path=gone", Empty, 404, error("Directory not found")),
            Row(true, "GET", "/files?path=../data-evil", Empty, 403, error("Access denied")),
            // WD16: killed the process.
            Row(true, "GET", "/files?path=a&path=b", Empty, 400, any_error()),
            // Was 500 ENOTDIR.
            Row(true, "GET", "/files?path=test-soul.md", Empty, 409, any_error()),
            // Changes: newest first.
            Row(
                true,
                "GET",
                "/changes?limit=2",
                Empty,
                200,
                json!({ "changes": [
                v1_change(".winston-notes.md"), v1_change("with space.md"),
            ] }),
            ),
            // Odd limits mean the default.
            Row(true, "GET", "/changes?limit=0", Empty, 200, json!({ "changes": [v1_any_change()] })),
            Row(true, "GET", "/changes?limit=x", Empty, 200, json!({ "changes": [v1_any_change()] })),
            Row(true, "GET", "/changes?limit=-1", Empty, 200, json!({ "changes": [v1_any_change()] })),
            Row(true, "GET", "/nothing", Empty, 404, any_error()),
        ],
    )
}

fn v1_change(path: &str) -> Value {
    let mut change = v1_any_change();
    change["path"] = json!(format!("={path}"));
    change["action"] = json!("=create");
    change["source"] = json!("=admin");
    change
}

/// The four old keys, and what is new beside them.
fn v1_any_change() -> Value {
    json!({
        "timestamp": "time", "path": "string", "source": "string", "action": "string",
        "seq": "int", "?hash": "sha256", "?previous_hash": "sha256", "?size": "int", "?actor": "string",
    })
}

#[test]
fn the_later_sidecar() -> Result<()> {
    let sidecar = tenant()?;
    let written =
        |path: &str, size: u64| json!({ "success": true, "path": format!("={path}"), "size": size, "hash": "sha256" });
    let file = |path: &str, content: &str| {
        json!({
            "content": format!("={content}"),
            "metadata": { "path": format!("={path}"), "size": content.len(), "mtime": "iso", "hash": "sha256" },
        })
    };
    let entry = |name: &str, kind: &str| json!({ "name": format!("={name}"), "type": format!("={kind}"), "size": "int", "mtime": "iso" });
    let health = json!({ "status": "=ok", "service": "=winston-sidecar", "uptime": "number" });
    let mut health_with_token = health.clone();
    health_with_token["tenant_id"] = json!("=test-tenant");
    health_with_token["state_dir"] = json!("~/data/.openclaw");
    // WD18: the old one wrote it anew, with other numbers, and without the second key and the last line end.
    const EXACT: &str = "{\"content\":\"{\\\"n\\\":12345678901234567890,\\\"n\\\":1}\\n\"}";
    check(
        &sidecar,
        &[
            Row(false, "GET", "/winston/health", Empty, 200, health),
            Row(true, "GET", "/winston/health", Empty, 200, health_with_token),
            Row(false, "GET", "/winston/files/", Empty, 401, error("Unauthorized")),
            Row(false, "GET", "/winston/changes", Empty, 401, error("Unauthorized")),
            Row(false, "PUT", "/winston/files/a.md", Json("{\"content\":\"x\"}"), 401, error("Unauthorized")),
            Row(true, "PUT", "/winston/files/SOUL.md", Json("{\"content\":\"soul\"}"), 200, written("SOUL.md", 4)),
            Row(true, "PUT", "/winston/files/SOUL.md", Json("{\"content\":\"soul2\"}"), 200, written("SOUL.md", 5)),
            Row(
                true,
                "PUT",
                "/winston/files/memory/day.md",
                Json("{\"content\":\"day\"}"),
                200,
                written("memory/day.md", 3),
            ),
            Row(
                true,
                "PUT",
                "/winston/files/skills/new/SKILL.md",
                Json("{\"content\":\"x\"}"),
                200,
                written("skills/new/SKILL.md", 1),
            ),
            Row(
                true,
                "PUT",
                "/winston/files/workspace/notes.md",
                Json("{\"content\":\"n\"}"),
                200,
                written("workspace/notes.md", 1),
            ),
            // WD19: an empty file.
            Row(
                true,
                "PUT",
                "/winston/files/hooks/empty.md",
                Json("{\"content\":\"\"}"),
                200,
                written("hooks/empty.md", 0),
            ),
            Row(true, "PUT", "/winston/files/hooks/exact.json", Json(EXACT), 200, written("hooks/exact.json", 33)),
            Row(
                true,
                "GET",
                "/winston/files/hooks/exact.json",
                Empty,
                200,
                file("hooks/exact.json", "{\"n\":12345678901234567890,\"n\":1}\n"),
            ),
            // WD6.
            Row(
                true,
                "PUT",
                "/winston/files/.winston-notes.md",
                Json("{\"content\":\"x\"}"),
                200,
                written(".winston-notes.md", 1),
            ),
            Row(true, "PUT", "/winston/files/a.md", Json("{}"), 400, error("Missing content field")),
            // WD20: was 500 and HTML.
            Row(true, "PUT", "/winston/files/a.md", Empty, 400, error("Missing content field")),
            Row(true, "PUT", "/winston/files/a.md", Json("{"), 400, any_error()),
            Row(true, "PUT", "/winston/files/../a.md", Json("{\"content\":\"x\"}"), 403, error("Access denied")),
            Row(
                true,
                "PUT",
                "/winston/files/.winston/a.md",
                Json("{\"content\":\"x\"}"),
                403,
                error("Cannot write to Winston internal directory"),
            ),
            // WD8: secrets were served and could be overwritten.
            Row(true, "PUT", "/winston/files/gateway.token", Json("{\"content\":\"x\"}"), 403, any_error()),
            Row(true, "GET", "/winston/files/gateway.token", Empty, 403, any_error()),
            Row(true, "GET", "/winston/files/credentials/x.json", Empty, 403, any_error()),
            Row(true, "GET", "/winston/files/credentials", Empty, 403, any_error()),
            Row(true, "GET", "/winston/files/SOUL.md", Empty, 200, file("SOUL.md", "soul2")),
            Row(true, "GET", "/winston/files/openclaw.json", Empty, 200, file("openclaw.json", "{}")),
            Row(true, "GET", "/winston/files/skills/old/SKILL.md", Empty, 200, file("skills/old/SKILL.md", "old")),
            Row(true, "GET", "/winston/files/gone.md", Empty, 404, error("File not found")),
            Row(true, "GET", "/winston/files/gone/", Empty, 404, error("File not found")),
            Row(true, "GET", "/winston/files/..%2f..%2fetc", Empty, 403, error("Access denied")),
            // WD7: hidden, and so is the log of the sidecar that was here before.
            Row(true, "GET", "/winston/files/.winston/changes.jsonl", Empty, 404, error("File not found")),
            // Directories, in the root the names that mean the workspace too. WD17, WD23: also without the slash.
            Row(true, "GET", "/winston/files/", Empty, 200, root(&entry)),
            Row(true, "GET", "/winston/files", Empty, 200, root(&entry)),
            Row(
                true,
                "GET",
                "/winston/files/skills",
                Empty,
                200,
                json!({ "files": [entry("new", "directory"), entry("old", "directory")] }),
            ),
            Row(
                true,
                "GET",
                "/winston/files/workspace",
                Empty,
                200,
                json!({ "files": [
                entry("SOUL.md", "file"), entry("memory", "directory"), entry("notes.md", "file"),
            ] }),
            ),
            // WD23: was passed on to the gateway with the caller's token.
            Row(true, "GET", "/winston/nothing", Empty, 404, any_error()),
            Row(true, "GET", "/winston/", Empty, 404, any_error()),
            Row(true, "GET", "/winston", Empty, 404, any_error()),
            Row(true, "POST", "/winston/files/a.md", Json("{}"), 405, any_error()),
            // Changes: oldest first, four keys, `limit` honoured.
            Row(
                true,
                "GET",
                "/winston/changes",
                Empty,
                200,
                json!({ "changes": [v2_change("string", "string", "string")] }),
            ),
            Row(
                true,
                "GET",
                "/winston/changes?limit=8",
                Empty,
                200,
                json!({ "changes": [
                v2_change("=SOUL.md", "=created", "=admin"),
                v2_change("=SOUL.md", "=modified", "=admin"),
                v2_change("=memory/day.md", "=created", "=admin"),
                v2_change("=skills/new/SKILL.md", "=created", "=admin"),
                v2_change("=workspace/notes.md", "=created", "=admin"),
                v2_change("=hooks/empty.md", "=created", "=admin"),
                v2_change("=hooks/exact.json", "=created", "=admin"),
                    v2_change("=.winston-notes.md", "=created", "=admin"),
            ] }),
            ),
        ],
    )?;
    Ok(())
}

fn root(entry: &dyn Fn(&str, &str) -> Value) -> Value {
    json!({ "files": [
        entry(".winston-notes.md", "file"),
        entry("SOUL.md", "file"),
        entry("credentials", "directory"),
        entry("dangling", "file"),
        entry("gateway.token", "file"),
        entry("hooks", "directory"),
        entry("memory", "directory"),
        entry("openclaw.json", "file"),
        entry("skills", "directory"),
        entry("workspace", "directory"),
    ] })
}

fn v2_change(file: &str, action: &str, source: &str) -> Value {
    json!({ "timestamp": "time", "file": file, "action": action, "source": source })
}

/// X7: one file with two names is one file and one change.
#[test]
fn both_contracts_show_one_store_and_one_history() -> Result<()> {
    let sidecar = tenant()?;
    let headers = [("Content-Type", "application/json")];
    sidecar.call("PUT", "/winston/files/SOUL.md", &headers, br#"{"content":"later"}"#)?.expect(200)?;
    assert_eq!(sidecar.get("/files/workspace/SOUL.md")?.expect(200)?.json()?["content"], "later");
    assert_eq!(std::fs::read(sidecar.data().join("workspace/SOUL.md"))?, b"later");
    assert!(!sidecar.data().join(".openclaw/SOUL.md").exists());
    sidecar.put("workspace/SOUL.md", "first")?.expect(200)?;
    sidecar.call("DELETE", "/files/workspace/SOUL.md", &[], b"")?.expect(200)?;
    // Outside of what the later contract can name.
    sidecar.put("elsewhere.md", "x")?.expect(200)?;
    assert_eq!(sidecar.history("workspace/SOUL.md")?, ["admin create", "admin update", "admin delete"]);
    let later = sidecar.get("/winston/changes?limit=3")?.expect(200)?.json()?;
    let told: Vec<_> = later["changes"]
        .as_array()
        .context("changes")?
        .iter()
        .map(|change| (change["file"].clone(), change["action"].clone()))
        .collect();
    assert_eq!(told, ["created", "modified", "deleted"].map(|action| (json!("SOUL.md"), json!(action))));
    Ok(())
}

/// Old clients know three words; a rename has a fourth, and one number.
#[test]
fn a_rename_is_two_changes_to_old_clients() -> Result<()> {
    let sidecar = tenant()?;
    sidecar.put(".openclaw/skills/one.md", "x")?.expect(200)?;
    let to = json!({"to": ".openclaw/skills/two.md"}).to_string();
    let moved = sidecar.call(
        "POST",
        "/files/.openclaw/skills/one.md?op=move",
        &[("Content-Type", "application/json")],
        to.as_bytes(),
    )?;
    let seq = moved.expect(200)?.json()?["seq"].clone();

    let told = |target: &str, path: &str| -> Result<Vec<Value>> {
        let changes = sidecar.get(target)?.expect(200)?.json()?["changes"].take();
        let changes = changes.as_array().cloned().context("changes")?;
        Ok(changes.into_iter().map(|change| json!([change[path], change["action"]])).collect())
    };
    let v1 = told("/changes?limit=2", "path")?;
    assert!(v1.contains(&json!([".openclaw/skills/two.md", "create"])), "{v1:?}");
    assert!(v1.contains(&json!([".openclaw/skills/one.md", "delete"])), "{v1:?}");
    let v2 = told("/winston/changes", "file")?;
    assert_eq!(v2[v2.len() - 2..].iter().filter(|change| change[0] == "skills/two.md").count(), 1, "{v2:?}");
    assert!(v2.contains(&json!(["skills/two.md", "created"])), "{v2:?}");
    assert!(v2.contains(&json!(["skills/one.md", "deleted"])), "{v2:?}");

    let after = seq.as_u64().context("seq")? - 1;
    let page = sidecar.get(&format!("/changes?after={after}&limit=9"))?.expect(200)?.json()?;
    let change = &page["changes"][0];
    let found = [&change["seq"], &change["action"], &change["path"], &change["previous_path"]];
    assert_eq!(json!(found), json!([seq, "rename", ".openclaw/skills/two.md", ".openclaw/skills/one.md"]));
    Ok(())
}

#[test]
fn a_workspace_inside_the_state_directory_has_the_same_names() -> Result<()> {
    let setup = Setup::new()?;
    let workspace = setup.data().join(".openclaw/workspace").display().to_string();
    let sidecar = setup.env("OPENCLAW_WORKSPACE_DIR", &workspace).start()?;
    let headers = [("Content-Type", "application/json")];
    sidecar.call("PUT", "/winston/files/USER.md", &headers, br#"{"content":"u"}"#)?.expect(200)?;
    assert_eq!(sidecar.history(".openclaw/workspace/USER.md")?, ["admin create"]);
    let root = sidecar.get("/winston/files/")?.expect(200)?.json()?;
    let names: Vec<_> = root["files"].as_array().context("files")?.iter().map(|item| item["name"].clone()).collect();
    assert_eq!(names.iter().filter(|name| **name == "USER.md").count(), 1);
    assert_eq!(names.iter().filter(|name| **name == "workspace").count(), 1);
    Ok(())
}

/// What a program asks that looks after many tenants.
#[test]
fn version_and_metrics() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    sidecar.get("/nothing")?.expect(404)?;
    check(
        &sidecar,
        &[
            Row(false, "GET", "/version", Empty, 401, error("Unauthorized")),
            Row(false, "GET", "/metrics", Empty, 401, error("Unauthorized")),
            Row(
                true,
                "GET",
                "/version",
                Empty,
                200,
                json!({ "service": "=winston-sidecar", "version": "string", "protocol": "int" }),
            ),
        ],
    )?;
    let metrics = sidecar.get("/metrics")?.expect(200)?;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let text = metrics.text();
    for line in [
        "winston_journal_head_seq 1",
        "winston_watch_files 1",
        "winston_sync_state{state=\"disabled\"} 1",
        "winston_gateway_state{state=\"disabled\"} 1",
        "winston_http_answers_total{status=\"4xx\"} 3",
        "winston_http_streams{kind=\"events\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').context("value")?.1;
        value.parse::<f64>().with_context(|| line.to_owned())?;
    }
    Ok(())
}
