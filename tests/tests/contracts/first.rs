//! The contract of the first sidecar.

use anyhow::Result;
use serde_json::{Value, json};

use crate::table::Body::{Form, Json, None as Empty};
use crate::table::{Row, any_error, check, error};
use crate::tenant;

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
            // Whose it is, only with the token. Clients send Bearer and a content type always.
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
            // Only the directory is ours.
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
            // Our own directory does not exist.
            Row(true, "GET", "/files/.winston/epoch", Empty, 404, error("File not found")),
            // Was 500 EISDIR.
            Row(true, "GET", "/files/skills", Empty, 409, any_error()),
            Row(true, "GET", "/files/", Empty, 409, any_error()),
            // Listing: a dangling link is an entry like others. Sorted, which the old order allowed.
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
            // The old one died of it.
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
