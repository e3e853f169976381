//! Files that a configuration includes. Pure but for the reader that it is given.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::fs::TenantPath;

/// Most included files, and most bytes of them.
const MOST_FILES: usize = 32;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Deepest chain of files that include each other.
const DEEPEST: usize = 10;

/// The included files below the configuration's directory, by their path relative to it. What cannot be read is left out: the validation says so.
pub(crate) fn included(
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
        if let Some(value) = std::str::from_utf8(&content).ok().and_then(|text| super::value(text).ok()) {
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

/// What a configuration amounts to with its `files`, as [`included`] has found them: what is included first, several files one over the other,
/// and what stands beside `$include` over that. Objects are merged, lists put together, anything else replaced.
pub(crate) fn resolved(config: &Value, files: &[(String, Vec<u8>)]) -> Value {
    let texts = files.iter().filter_map(|(name, content)| Some((name.as_str(), std::str::from_utf8(content).ok()?)));
    let values = texts.filter_map(|(name, text)| Some((name, super::value(text).ok()?))).collect();
    resolve(config, "", &values, 0)
}

fn resolve(value: &Value, base: &str, files: &BTreeMap<&str, Value>, depth: usize) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| resolve(item, base, files, depth)).collect(),
        Value::Object(members) => {
            let mut whole = Value::Null;
            let named = members.get("$include").map(named).unwrap_or_default();
            for name in named.into_iter().filter(|_| depth < DEEPEST) {
                let Ok(path) = TenantPath::parse(format!("{base}/{name}").trim_start_matches('/')) else { continue };
                let Some(file) = files.get(path.as_str()) else { continue };
                let base = path.split().map_or("", |(base, _)| base);
                whole = over(whole, resolve(file, base, files, depth + 1));
            }
            let beside = members.iter().filter(|(key, _)| *key != "$include");
            let beside: Map<_, _> =
                beside.map(|(key, value)| (key.clone(), resolve(value, base, files, depth))).collect();
            if beside.is_empty() && !whole.is_null() { whole } else { over(whole, Value::Object(beside)) }
        }
        value => value.clone(),
    }
}

fn over(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (key, value) in above {
                let merged = over(below.remove(&key).unwrap_or(Value::Null), value);
                below.insert(key, merged);
            }
            Value::Object(below)
        }
        (Value::Array(mut below), Value::Array(above)) => {
            below.extend(above);
            Value::Array(below)
        }
        (_, above) => above,
    }
}

/// The files that the value of an `$include` names.
fn named(value: &Value) -> Vec<String> {
    match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(all) => all.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

/// What `$include` names, anywhere in a value.
fn names(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                names.extend(members.get("$include").map(named).unwrap_or_default());
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

    #[test]
    fn included_files_are_below_what_stands_beside_them() {
        let config = json!({
            "gateway": {"$include": ["./base.json5", "sub/more.json5"], "bind": "loopback"},
            "agents": {"$include": "agents.json5"},
            "missing": {"$include": "nowhere.json5"},
        });
        let files = [
            ("agents.json5", "[1, 2]"),
            ("base.json5", "{bind: 'lan', auth: {mode: 'token'}, trustedProxies: ['::1']}"),
            ("sub/more.json5", "{auth: {$include: 'auth.json5'}, trustedProxies: ['127.0.0.1']}"),
            ("sub/auth.json5", "{trustedProxy: {userHeader: 'X-User'}}"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        let expected = json!({
            "gateway": {
                "bind": "loopback", "trustedProxies": ["::1", "127.0.0.1"],
                "auth": {"mode": "token", "trustedProxy": {"userHeader": "X-User"}},
            },
            "agents": [1, 2],
            "missing": {},
        });
        assert_eq!(resolved(&config, &files), expected);
        let circle = [("a.json5".to_owned(), b"{b: {$include: 'a.json5'}}".to_vec())];
        assert!(resolved(&json!({"$include": "a.json5"}), &circle)["b"]["b"].is_object());
    }
}
