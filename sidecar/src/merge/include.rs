//! Files that a configuration includes. Pure but for the reader that it is given.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::fs::TenantPath;

/// Most included files, and most bytes of them.
const MOST_FILES: usize = 32;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Most names that are looked for: a file may be included often, and many may be missing.
const MOST_NAMES: usize = 256;

/// Deepest chain of files that include each other, and deepest nesting of what comes out.
const DEEPEST: usize = 10;
const MOST_LEVELS: usize = 512;

/// What one value counts for beside its text.
const VALUE_BYTES: usize = 16;

/// The included files below the configuration's directory, by their path relative to it. What cannot be read is left out: the validation says so.
pub(crate) fn included(
    directory: &TenantPath,
    config: &Value,
    mut read: impl FnMut(&TenantPath) -> Option<Vec<u8>>,
) -> Vec<(String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = names(config);
    let (mut bytes, mut tried) = (0, 0);
    while let Some(name) = waiting.pop().filter(|_| tried < MOST_NAMES) {
        tried += 1;
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

/// What a configuration amounts to with the `files` that [`included`] has found, by name: what is included first, several files one over the
/// other, and what stands beside `$include` over that. Objects are merged, lists put together, anything else replaced. `None` when it would be larger
/// or deeper than what is looked at: a few files can include each other for ever.
pub(crate) fn resolved(config: &Value, files: &BTreeMap<String, Value>) -> Option<Value> {
    let mut resolving = Resolving { files, left: MOST_BYTES };
    super::json::deep(|| resolving.resolve(config, "", 0, 0)).flatten()
}

struct Resolving<'a> {
    files: &'a BTreeMap<String, Value>,
    /// Bytes that may still come out.
    left: usize,
}

impl Resolving<'_> {
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.left = self.left.checked_sub(bytes + VALUE_BYTES)?;
        Some(())
    }

    /// `base`: the directory of the file in which the value stands; `depth`: how many files that is deep; `level`: how many values.
    fn resolve(&mut self, value: &Value, base: &str, depth: usize, level: usize) -> Option<Value> {
        self.take(value.as_str().map_or(0, str::len)).filter(|()| level < MOST_LEVELS)?;
        match value {
            Value::Array(items) => items.iter().map(|item| self.resolve(item, base, depth, level + 1)).collect(),
            Value::Object(members) => {
                let files = self.files;
                let mut whole = Value::Null;
                let named = members.get("$include").map(named).unwrap_or_default();
                for name in named.into_iter().filter(|_| depth < DEEPEST) {
                    let Ok(path) = TenantPath::parse(format!("{base}/{name}").trim_start_matches('/')) else {
                        continue;
                    };
                    let Some(file) = files.get(path.as_str()) else { continue };
                    let base = path.split().map_or("", |(base, _)| base);
                    whole = over(whole, self.resolve(file, base, depth + 1, level + 1)?);
                }
                let mut beside = Map::new();
                for (key, value) in members.iter().filter(|(key, _)| *key != "$include") {
                    self.take(key.len())?;
                    beside.insert(key.clone(), self.resolve(value, base, depth, level + 1)?);
                }
                Some(if beside.is_empty() && !whole.is_null() { whole } else { over(whole, Value::Object(beside)) })
            }
            value => Some(value.clone()),
        }
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
        let files = files.map(|(name, text)| (name.to_owned(), crate::merge::value(text).unwrap())).into();
        let expected = json!({
            "gateway": {
                "bind": "loopback", "trustedProxies": ["::1", "127.0.0.1"],
                "auth": {"mode": "token", "trustedProxy": {"userHeader": "X-User"}},
            },
            "agents": [1, 2],
            "missing": {},
        });
        assert_eq!(resolved(&config, &files), Some(expected));
        let circle = BTreeMap::from([("a.json5".to_owned(), json!({"b": {"$include": "a.json5"}}))]);
        assert!(resolved(&json!({"$include": "a.json5"}), &circle).unwrap()["b"]["b"].is_object());
    }

    #[test]
    fn files_that_grow_without_end_come_to_nothing() {
        let config = json!({"$include": "a.json5"});
        let files = |value| BTreeMap::from([("a.json5".to_owned(), value)]);
        let many = json!({"x": {"$include": vec!["a.json5"; 20]}, "y": {"$include": vec!["a.json5"; 20]}});
        assert_eq!(resolved(&config, &files(many)), None, "often");
        let long = json!({"a": {"$include": "a.json5"}, "b": {"$include": "a.json5"}, "c": "c".repeat(1 << 20)});
        assert_eq!(resolved(&config, &files(long)), None, "large");
        let deep = (0..400).fold(json!({"$include": "a.json5"}), |inner, _| json!({ "x": inner }));
        assert_eq!(resolved(&config, &files(deep)), None, "deep");
        let missing: Vec<_> = (0..10_000).map(|number| format!("{number}.json5")).collect();
        let mut looked = 0;
        let directory = TenantPath::parse(".openclaw").unwrap();
        included(&directory, &json!({ "$include": missing }), |_| {
            looked += 1;
            None
        });
        assert_eq!(looked, MOST_NAMES);
    }
}
