//! Files that a configuration includes, for its validation in another directory. Pure but for the reader that it is given.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fs::TenantPath;
use crate::merge;

/// Most included files, and most bytes of them.
const MOST_FILES: usize = 32;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The included files below the configuration's directory, by their path relative to it. What cannot be read is left out: the validation says so.
pub(super) fn included(
    directory: &TenantPath,
    config: &Value,
    mut read: impl FnMut(&TenantPath) -> Option<Vec<u8>>,
) -> Vec<(String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = names(config);
    let mut bytes = 0;
    while let Some(name) = waiting.pop() {
        let Ok(path) = TenantPath::parse(&name) else { continue };
        let Some(path) = (!path.is_root()).then(|| TenantPath::parse(&format!("{directory}/{path}")).ok()).flatten()
        else {
            continue;
        };
        let Some(name) = path.below(directory).map(str::to_owned) else { continue };
        if found.contains_key(&name) || found.len() == MOST_FILES {
            continue;
        }
        let Some(content) = read(&path).filter(|content| bytes + content.len() <= MOST_BYTES) else { continue };
        bytes += content.len();
        if let Some(value) = std::str::from_utf8(&content).ok().and_then(|text| merge::value(text).ok()) {
            // Relative to the including file's own directory.
            let base = name.rsplit_once('/').map_or("", |(base, _)| base);
            waiting.extend(
                names(&value).into_iter().map(|name| format!("{base}/{name}").trim_start_matches('/').to_owned()),
            );
        }
        found.insert(name, content);
    }
    found.into_iter().collect()
}

/// What `$include` names, anywhere in a value.
fn names(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                match members.get("$include") {
                    Some(Value::String(name)) => names.push(name.clone()),
                    Some(Value::Array(all)) => {
                        names.extend(all.iter().filter_map(|name| name.as_str().map(str::to_owned)))
                    }
                    _ => {}
                }
                waiting.extend(members.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    names.retain(|name| !name.starts_with('/'));
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_found_once_also_in_circles_and_never_outside() {
        let directory = TenantPath::parse(".openclaw").unwrap();
        let config = json!({
            "$include": ["./a.json5", "../workspace/x.json", "/etc/passwd"],
            "agents": {"$include": "sub/b.json5"},
        });
        let read = |path: &TenantPath| match path.as_str() {
            ".openclaw/a.json5" => Some(b"{$include: 'sub/b.json5'}".to_vec()),
            ".openclaw/sub/b.json5" => Some(b"{$include: ['b.json5', 'c.json5']}".to_vec()),
            ".openclaw/sub/c.json5" => Some(b"{}".to_vec()),
            other => panic!("{other}"),
        };
        let found = included(&directory, &config, read);
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.json5", "sub/b.json5", "sub/c.json5"]);
    }
}
