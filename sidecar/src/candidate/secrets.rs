//! Values of a configuration that nobody should read in a verdict.

use serde_json::Value;

use super::examine::parsed;

/// Shortest value that is taken for a secret.
const SHORTEST_SECRET: usize = 8;

/// Values under keys that sound like secrets, longest first.
pub(super) fn secrets_in(config: &[u8]) -> Vec<String> {
    let mut secrets = Vec::new();
    if let Ok(value) = parsed(config) {
        collect_secrets(&value, false, &mut secrets);
    }
    secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
    secrets
}

fn collect_secrets(value: &Value, secret: bool, secrets: &mut Vec<String>) {
    match value {
        Value::String(text) if secret && text.len() >= SHORTEST_SECRET && !text.contains("${") => {
            secrets.push(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_secrets(item, secret, secrets)),
        Value::Object(members) => {
            for (key, value) in members {
                let key = key.to_ascii_lowercase();
                let secret = secret || ["token", "secret", "password", "key"].iter().any(|end| key.ends_with(end));
                collect_secrets(value, secret, secrets);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_configuration_are_known_by_their_keys() {
        let text = br#"{gateway: {auth: {token: "long-secret-1"}}, models: {apiKey: ["long-secret-22", "short"]},
            other: "not-a-secret", ref: {token: "${NAME_OF_IT}"}}"#;
        assert_eq!(secrets_in(text), ["long-secret-22", "long-secret-1"]);
        assert!(secrets_in(b"no json {").is_empty());
    }
}
