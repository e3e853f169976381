//! Keys of the configuration that control owns: a merge patch (RFC 7396) that holds for good. Pure.
//!
//! Everything that the patch does not name belongs to the tenant. A key that control gives up keeps the value that it has.

use serde_json::Value;

use crate::merge::{self, PatchError};

/// Most keys that are named in a report.
const MOST_NAMED: usize = 50;

/// The configuration with the patch applied: comments and order of what is not touched stay. `None`: it is as the patch wants it already.
pub(super) fn enforced(config: &str, patch: &Value) -> Result<Option<String>, PatchError> {
    let patched = merge::patch(config, patch)?;
    Ok((patched.content != config).then_some(patched.content))
}

/// The keys that a patch names, as dotted paths.
pub(super) fn keys(patch: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    name(patch, &mut String::new(), &mut keys);
    keys
}

fn name(patch: &Value, path: &mut String, keys: &mut Vec<String>) {
    let Value::Object(members) = patch else { return };
    for (key, value) in members {
        if keys.len() == MOST_NAMED {
            return;
        }
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        if value.as_object().is_some_and(|members| !members.is_empty()) {
            name(value, path, keys);
        } else {
            keys.push(path.clone());
        }
        path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tenants_part_stays_as_it_is() {
        let theirs = "{\n  // mine\n  agents: {x: 1},\n  gateway: {port: 1, bind: 'lan'},\n}\n";
        let patch = json!({"gateway": {"bind": "loopback", "tls": null}});
        let enforced_once = enforced(theirs, &patch).unwrap().unwrap();
        assert!(enforced_once.contains("// mine\n  agents: {x: 1},"), "{enforced_once}");
        assert!(enforced_once.contains("\"loopback\"") && !enforced_once.contains("lan"), "{enforced_once}");
        assert_eq!(enforced(&enforced_once, &patch), Ok(None));
        assert!(enforced("not json {", &patch).is_err());
    }

    #[test]
    fn keys_are_named_by_their_paths() {
        let patch = json!({"gateway": {"bind": "loopback", "auth": {"token": null}}, "x": {}, "y": [1]});
        assert_eq!(keys(&patch), ["gateway.auth.token", "gateway.bind", "x", "y"]);
        assert!(keys(&json!({})).is_empty());
    }
}
