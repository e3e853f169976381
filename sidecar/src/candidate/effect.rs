//! What a change of `openclaw.json` makes the gateway do: nothing, take it over while it runs, or start anew. Pure.
//!
//! The table is the gateway's own (OpenClaw 2026.9, its reload policies), in short: the longest prefix of a changed key decides, and a key that
//! no prefix names needs a restart. A wrong entry costs time, not safety: a gateway that restarts itself unexpectedly is followed, and one
//! that was restarted needlessly was away for a few seconds.

use serde_json::{Map, Value};

/// What the gateway does with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Effect {
    /// It reads the values when it needs them.
    None,
    /// It takes them over while it runs.
    Hot,
    /// A new process reads them.
    Restart,
}

use Effect::{Hot, None as Nothing, Restart};

/// Keys by prefix; `*` stands for one key of any name.
const TABLE: &[(&str, Effect)] = &[
    ("gateway", Restart),
    ("gateway.remote", Nothing),
    ("gateway.reload", Nothing),
    ("gateway.auth.token", Hot),
    ("gateway.auth.rateLimit", Hot),
    ("gateway.auth.allowTailscale", Hot),
    ("gateway.auth.identityScopes", Hot),
    ("gateway.auth.trustedProxy", Hot),
    ("gateway.http.endpoints", Hot),
    ("gateway.http.securityHeaders.strictTransportSecurity", Hot),
    ("gateway.tools", Hot),
    ("gateway.cliAgents", Hot),
    ("gateway.controlUi.enabled", Hot),
    ("gateway.controlUi.environment", Hot),
    ("gateway.controlUi.github", Hot),
    ("gateway.controlUi.sessionObserver", Hot),
    ("gateway.controlUi.embedSandbox", Hot),
    ("gateway.controlUi.allowedOrigins", Hot),
    ("gateway.nodes", Hot),
    ("gateway.terminal", Hot),
    ("gateway.roles", Hot),
    ("gateway.trustedProxies", Hot),
    ("gateway.allowRealIpFallback", Hot),
    ("gateway.publicOrigin", Hot),
    ("discovery", Restart),
    ("discovery.mdns.mode", Hot),
    ("mcp", Hot),
    ("mcp.apps", Restart),
    ("secrets", Nothing),
    ("secrets.egressProxy", Restart),
    ("agents", Nothing),
    ("agents.defaults", Hot),
    ("agents.entries", Hot),
    ("agents.ownership", Hot),
    ("models", Hot),
    ("channels", Hot),
    ("hooks", Hot),
    ("cron", Hot),
    ("tools", Hot),
    ("plugins", Hot),
    ("approvals", Hot),
    ("auth", Hot),
    ("acp", Hot),
    ("broadcast", Hot),
    ("diagnostics.enabled", Hot),
    ("diagnostics.flags", Hot),
    ("skills.workshop.autonomous.mode", Hot),
    ("session.scope", Hot),
    ("session.store", Hot),
    ("transcripts", Hot),
    ("update.checkOnStart", Hot),
    ("update.channel", Hot),
    ("update.auto.enabled", Hot),
    ("telemetry", Hot),
    ("commands", Hot),
    ("accessGroups", Hot),
    ("tts", Hot),
    ("meta", Nothing),
    ("identity", Nothing),
    ("wizard", Nothing),
    ("logging", Nothing),
    ("bindings", Nothing),
    ("audio", Nothing),
    ("routing", Nothing),
    ("messages", Nothing),
    ("session", Nothing),
    ("talk", Nothing),
    ("skills", Nothing),
    ("tui", Nothing),
    ("ui", Nothing),
];

/// The gateway's keys that change between two configurations, as dotted paths of objects; lists and single values count as one.
pub(super) fn changed(old: &Value, new: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    compare(&mut String::new(), Some(old), Some(new), &mut keys);
    keys
}

fn compare(path: &mut String, old: Option<&Value>, new: Option<&Value>, keys: &mut Vec<String>) {
    if old == new {
        return;
    }
    let nothing = Map::new();
    let (old, new) = match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => (old, new),
        // Below a section that comes or goes each key counts for itself.
        (None, Some(Value::Object(new))) if !new.is_empty() => (&nothing, new),
        (Some(Value::Object(old)), None) if !old.is_empty() => (old, &nothing),
        _ => return keys.push(path.clone()),
    };
    let length = path.len();
    for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        compare(path, old.get(key), new.get(key), keys);
        path.truncate(length);
    }
}

/// What these changes need, all together.
pub(super) fn effect<'a>(keys: impl IntoIterator<Item = &'a String>) -> Effect {
    keys.into_iter().map(|key| of_key(key)).max().unwrap_or(Effect::None)
}

fn of_key(key: &str) -> Effect {
    let matches = |prefix: &str| key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let longest = TABLE.iter().filter(|(prefix, _)| matches(prefix)).max_by_key(|(prefix, _)| prefix.len());
    longest.map_or(Restart, |(_, effect)| *effect)
}

/// Whether a running gateway takes no change over (`gateway.reload.mode` is `off`).
pub(super) fn reload_is_off(config: &Value) -> bool {
    config.pointer("/gateway/reload/mode").and_then(Value::as_str) == Some("off")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn between(old: &Value, new: &Value) -> Effect {
        effect(&changed(old, new))
    }

    #[test]
    fn the_longest_prefix_decides_and_unknown_keys_restart() {
        for (key, expected) in [
            ("agents.defaults.model.primary", Hot),
            ("agents.list", Nothing),
            ("gateway.port", Restart),
            ("gateway.bind", Restart),
            ("gateway.auth.mode", Restart),
            ("gateway.auth.token", Hot),
            ("gateway.auth.tokenFile", Restart),
            ("gateway.controlUi.basePath", Restart),
            ("gateway.controlUi.allowedOrigins", Hot),
            ("gateway.tls.cert", Restart),
            ("discovery.mdns.mode", Hot),
            ("discovery.wideArea.enabled", Restart),
            ("logging.level", Nothing),
            ("meta.lastTouchedVersion", Nothing),
            ("newSection.x", Restart),
            ("gatewayX", Restart),
        ] {
            assert_eq!(of_key(key), expected, "{key}");
        }
    }

    #[test]
    fn every_changed_key_is_named_once() {
        let old = json!({"a": {"b": 1, "c": [1]}, "d": {}, "e": {"f": {"g": 1}}, "same": {"x": null}});
        let new = json!({"a": {"b": 2, "c": [2]}, "d": 1, "h": {"i": {"j": 1}}, "same": {"x": null}});
        let mut keys = changed(&old, &new);
        keys.sort();
        assert_eq!(keys, ["a.b", "a.c", "d", "e.f.g", "h.i.j"]);
        assert!(changed(&new, &new).is_empty());
    }

    #[test]
    fn one_key_that_needs_a_restart_is_enough() {
        let old = json!({"gateway": {"port": 1}, "logging": {"level": "info"}});
        assert_eq!(between(&old, &json!({"gateway": {"port": 1}, "logging": {"level": "debug"}})), Nothing);
        assert_eq!(between(&old, &json!({"gateway": {"port": 2}, "logging": {"level": "debug"}})), Restart);
        assert_eq!(between(&old, &json!({"gateway": {"port": 1}})), Nothing);
        assert_eq!(between(&json!({}), &json!({"models": {"x": 1}})), Hot);
    }
}
