//! The contract of the later sidecar, below `/winston`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::table::Body::{Json, None as Empty};
use crate::table::{Row, any_error, check, error};
use crate::tenant;

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
    // The old one wrote it anew, with other numbers, and without the second key and the last line end.
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
            // An empty file.
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
            // Only the directory is ours.
            Row(
                true,
                "PUT",
                "/winston/files/.winston-notes.md",
                Json("{\"content\":\"x\"}"),
                200,
                written(".winston-notes.md", 1),
            ),
            Row(true, "PUT", "/winston/files/a.md", Json("{}"), 400, error("Missing content field")),
            // The old one answered 500 and HTML.
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
            // The old one served secrets and let them be overwritten.
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
            // Hidden, and so is the log of the sidecar that was here before.
            Row(true, "GET", "/winston/files/.winston/changes.jsonl", Empty, 404, error("File not found")),
            // Directories, in the root the names that mean the workspace too; also without the slash.
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
            // The old one passed it on to the gateway with the caller's token.
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
