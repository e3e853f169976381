//! Our own look at a configuration, for what the gateway's validation does not see: it takes configurations with which the gateway does not
//! start, or starts and lets nobody in. Pure.

use serde_json::Value;
use winston_wire::ConfigIssue;

/// What the checks have to know of the tenant.
pub(super) struct Surroundings<'a> {
    /// Port on which the gateway is supervised.
    pub(super) port: u16,
    /// Whether the gateway's environment has this variable, with something in it.
    pub(super) has_variable: &'a dyn Fn(&str) -> bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// With these the configuration is not used.
    pub(super) errors: Vec<ConfigIssue>,
    /// These do not stop it.
    pub(super) warnings: Vec<ConfigIssue>,
}

impl Findings {
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(ConfigIssue { path: path.to_owned(), message: message.into() });
    }

    fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(ConfigIssue { path: path.to_owned(), message: message.into() });
    }
}

const TOKEN_VARIABLE: &str = "OPENCLAW_GATEWAY_TOKEN";
const PASSWORD_VARIABLE: &str = "OPENCLAW_GATEWAY_PASSWORD";

/// What it means that the sidecar cannot call the gateway.
const WITHOUT_CALLS: &str = "the sidecar calls the gateway with its token; without it a stop does not wait for turns, the gateway cannot be suspended, \
     and channels that it has suppressed are not started again";

/// Looks at a configuration that could be parsed.
pub(super) fn check(config: &Value, surroundings: &Surroundings<'_>) -> Findings {
    let mut findings = Findings::default();
    if !config.is_object() {
        findings.error("", "the configuration is not an object");
        return findings;
    }
    // What is included may set anything that is not set here.
    let gateway = config.get("gateway");
    let includes = config.get("$include").is_some() || gateway.is_some_and(|section| section.get("$include").is_some());
    mode(config, includes, &mut findings);
    port(config, surroundings.port, &mut findings);
    access(config, includes, surroundings, &mut findings);
    variables(config, &mut String::new(), surroundings, &mut findings);
    findings
}

fn mode(config: &Value, includes: bool, findings: &mut Findings) {
    match config.pointer("/gateway/mode") {
        Some(mode) if mode == "local" => {}
        None if includes => {}
        None => findings.error("gateway.mode", "is missing: without \"local\" the gateway does not start"),
        Some(mode) => findings.error("gateway.mode", format!("is {mode}: only \"local\" runs a gateway here")),
    }
}

fn port(config: &Value, supervised: u16, findings: &mut Findings) {
    if let Some(port) = config.pointer("/gateway/port").filter(|port| **port != supervised) {
        findings.error("gateway.port", format!("is {port}, but the gateway of this tenant listens on {supervised}"));
    }
}

/// Who gets in.
fn access(config: &Value, includes: bool, surroundings: &Surroundings<'_>, findings: &mut Findings) {
    let auth = |key: &str| config.pointer(&format!("/gateway/auth/{key}"));
    let set = |key: &str| auth(key).is_some_and(|value| !value.is_null() && value != "");
    let token = set("token") || (surroundings.has_variable)(TOKEN_VARIABLE);
    let password = set("password") || (surroundings.has_variable)(PASSWORD_VARIABLE);
    let mode = auth("mode").and_then(Value::as_str);
    let admits = match mode {
        Some("token") => token,
        Some("password") => password,
        Some("trusted-proxy") => true,
        Some("none") => false,
        _ => token || password,
    };
    match mode {
        Some("token") if !token && !includes => {
            findings.error("gateway.auth.token", "is missing: the gateway would make up a token that nobody knows");
        }
        Some("password") if !password && !includes => findings.error("gateway.auth.password", "is missing"),
        None if !admits && !includes => {
            findings.warning("gateway.auth", "is missing: the gateway will make up a token that nobody knows");
        }
        _ => {}
    }
    if let Some(mode) = mode.filter(|mode| *mode != "token") {
        findings.warning("gateway.auth.mode", format!("is \"{mode}\": {WITHOUT_CALLS}"));
    } else if !(surroundings.has_variable)(TOKEN_VARIABLE) {
        findings.warning("gateway.auth", format!("{TOKEN_VARIABLE} is not set: {WITHOUT_CALLS}"));
    }
    match config.pointer("/gateway/bind").and_then(Value::as_str) {
        Some("loopback") => {}
        Some(bind) if !admits && !includes => {
            findings.error("gateway.bind", format!("is \"{bind}\" without a secret that would keep others out"));
        }
        Some(bind) => {
            findings.warning("gateway.bind", format!("is \"{bind}\": others than the front door can connect"))
        }
        None if includes => {}
        None => findings.warning("gateway.bind", "is not set: in a container the gateway then listens everywhere"),
    }
}

/// Keys with secrets: without their value the gateway or a channel is there and does not work.
fn needs_its_value(path: &str) -> bool {
    let mut keys = path.split('.');
    match (keys.next(), keys.next()) {
        (Some("gateway"), Some("auth")) => true,
        (Some("channels"), Some(_)) => {
            let name = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
            ["token", "secret", "password", "key"].iter().any(|ending| name.ends_with(ending))
        }
        _ => false,
    }
}

/// Variables that are named and that the gateway does not have.
fn variables(value: &Value, path: &mut String, surroundings: &Surroundings<'_>, findings: &mut Findings) {
    let mut missing = |path: &str, name: &str| {
        if (surroundings.has_variable)(name) {
            return;
        }
        let message = format!("needs the variable {name}, which the gateway does not have");
        if needs_its_value(path) { findings.error(path, message) } else { findings.warning(path, message) }
    };
    match value {
        Value::String(text) => references(text).for_each(|name| missing(path, name)),
        Value::Object(members) => {
            if let (Some("env"), Some(name)) = (
                members.get("source").and_then(Value::as_str),
                members.get("id").and_then(Value::as_str).filter(|name| is_variable(name)),
            ) {
                missing(path, name);
            }
            for (key, value) in members {
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                variables(value, path, surroundings, findings);
                path.truncate(length);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| variables(item, path, surroundings, findings)),
        _ => {}
    }
}

fn is_variable(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// The names in `${NAME}`; `$${NAME}` is the text itself.
fn references(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${").filter(|(at, _)| !text[..*at].ends_with('$')).filter_map(|(at, _)| {
        let rest = &text[at + 2..];
        rest.find('}').map(|end| &rest[..end]).filter(|name| is_variable(name))
    })
}

/// The names of the variables that a `.env` file sets.
pub(super) fn names_in_env_file(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        Some(name.trim()).filter(|name| is_variable(name) && !value.trim().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "gateway": {
                "mode": "local", "port": 18789, "bind": "loopback",
                "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"},
            },
        })
    }

    fn check_with(config: &Value, variables: &[&str]) -> (Vec<String>, Vec<String>) {
        let has_variable = |name: &str| variables.contains(&name);
        let findings = check(config, &Surroundings { port: 18789, has_variable: &has_variable });
        let paths = |issues: Vec<ConfigIssue>| issues.into_iter().map(|issue| issue.path).collect();
        (paths(findings.errors), paths(findings.warnings))
    }

    fn errors(config: &Value) -> Vec<String> {
        check_with(config, &[TOKEN_VARIABLE]).0
    }

    #[test]
    fn what_the_gateway_starts_with_passes() {
        assert_eq!(check_with(&good(), &[TOKEN_VARIABLE]), (vec![], vec![]));
        assert_eq!(errors(&json!({"gateway": {"mode": "local"}})), [""; 0]);
    }

    #[test]
    fn what_the_validation_does_not_see_is_found() {
        let changed = |pointer: &str, value: Value| {
            let mut config = good();
            if let Some(place) = config.pointer_mut(pointer) {
                *place = value;
            }
            config
        };
        for (config, path) in [
            (json!([]), ""),
            (json!({}), "gateway.mode"),
            (json!({"gateway": {"bind": "loopback"}}), "gateway.mode"),
            (changed("/gateway/mode", json!("remote")), "gateway.mode"),
            (changed("/gateway/port", json!(18790)), "gateway.port"),
            (changed("/gateway/port", json!("18789")), "gateway.port"),
            (changed("/gateway/auth", json!({"mode": "password"})), "gateway.auth.password"),
            (changed("/gateway/auth/token", json!("${OTHER_TOKEN}")), "gateway.auth.token"),
            (changed("/gateway/auth/token", json!({"source": "env", "id": "OTHER_TOKEN"})), "gateway.auth.token"),
        ] {
            assert_eq!(errors(&config), [path], "{config}");
        }
        let mut open = changed("/gateway/bind", json!("lan"));
        assert_eq!(check_with(&open, &[TOKEN_VARIABLE]), (vec![], vec!["gateway.bind".to_owned()]));
        open["gateway"]["auth"] = json!({"mode": "none"});
        assert_eq!(errors(&open), ["gateway.bind"]);
        let proxied = changed("/gateway/auth", json!({"mode": "trusted-proxy"}));
        assert_eq!(check_with(&proxied, &[TOKEN_VARIABLE]), (vec![], vec!["gateway.auth.mode".to_owned()]));
        assert_eq!(
            check_with(&changed("/gateway/auth/token", json!("x")), &[]),
            (vec![], vec!["gateway.auth".to_owned()])
        );
        let tokenless = changed("/gateway/auth", json!({"mode": "token"}));
        assert_eq!(check_with(&tokenless, &[]).0, ["gateway.auth.token"]);
    }

    #[test]
    fn a_missing_variable_is_an_error_only_where_nothing_works_without_it() {
        let mut config = good();
        config["channels"] = json!({"telegram": {
            "botToken": "${BOT}", "accounts": {"a": {"webhookSecret": "x${SECRET}"}}, "apiRoot": "${ROOT}/x",
        }});
        config["models"] = json!({"key": "${KEY}", "literal": "$${NOT_ONE}", "lower": "${lower}", "list": ["${LIST}"]});
        let (errors, warnings) = check_with(&config, &[TOKEN_VARIABLE]);
        assert_eq!(errors, ["channels.telegram.accounts.a.webhookSecret", "channels.telegram.botToken"]);
        assert_eq!(warnings, ["channels.telegram.apiRoot", "models.key", "models.list"]);
    }

    #[test]
    fn what_is_included_is_not_missed() {
        assert_eq!(errors(&json!({"$include": "./base.json5"})), [""; 0]);
        assert_eq!(errors(&json!({"gateway": {"$include": "./gateway.json5", "port": 1}})), ["gateway.port"]);
    }

    #[test]
    fn a_file_of_variables_is_read_for_its_names() {
        let text = "# x\nA=1\nexport B = 'two'\nEMPTY=\nlower=1\nC_3=\"x\"\nnot a line";
        assert_eq!(names_in_env_file(text).collect::<Vec<_>>(), ["A", "B", "C_3"]);
    }
}
