//! The gateway's environment: an allow-list, completed by what we set ourselves.
//!
//! The agent runs commands with the gateway's environment, so nothing of ours may be in it. Several variables would
//! also change how the gateway behaves under supervision: a leaked `INVOCATION_ID` makes it believe in systemd,
//! `NODE_COMPILE_CACHE` puts a launcher process between us and it, `OPENCLAW_NO_RESPAWN` makes it restart in place.

use super::GatewayConfig;

/// What the gateway gets if the sidecar has it.
const ALLOWED: &[&str] = &[
    // The machine.
    "PATH",
    "LANG",
    "TZ",
    "TMPDIR",
    "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    // Model providers.
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OPENROUTER_API_KEY",
    // Not `MOONSHOT_API_KEY`, which makes the gateway fetch a plugin before it is ready.
    "MOONSHOT_PLATFORM_API_KEY",
    "XAI_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "DEEPSEEK_API_KEY",
    // Channels.
    "TELEGRAM_BOT_TOKEN",
    "TELEGRAM_WEBHOOK_SECRET",
    "DISCORD_BOT_TOKEN",
    "SLACK_BOT_TOKEN",
    "SLACK_APP_TOKEN",
    // The gateway's own secrets.
    GATEWAY_TOKEN,
    "OPENCLAW_GATEWAY_PASSWORD",
    "OPENCLAW_HOOKS_TOKEN",
];

/// The gateway's shared secret.
const GATEWAY_TOKEN: &str = "OPENCLAW_GATEWAY_TOKEN";

/// What the gateway never gets, not even on request.
const FORBIDDEN: &[&str] = &[
    "SETUP_PASSWORD",
    "DATABASE_URL",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "NODE_COMPILE_CACHE",
    // Code that a shell runs before the command that it was given.
    "BASH_ENV",
    "ENV",
];

/// What the gateway never gets, by how it begins; of OpenClaw's own variables it gets what is in [`ALLOWED`], because
/// the others move its files or change how it runs.
const FORBIDDEN_PREFIXES: &[&str] = &["WINSTON_", "OPENCLAW_", "LD_"];

/// What `NODE_OPTIONS` must not contain: it would run other code within the gateway, or open it to a debugger.
const FOREIGN_CODE: &[&str] = &[
    "--require",
    "-r",
    "--import",
    "--inspect",
    "--loader",
    "--experimental-loader",
    "--experimental-config-file",
    "--experimental-default-config-file",
    "--snapshot-blob",
];

/// What we set, so that asking for it can only be a misunderstanding.
const OURS: &[&str] = &[
    "OPENCLAW_SUPERVISOR_MODE",
    "OPENCLAW_STATE_DIR",
    "OPENCLAW_WORKSPACE_DIR",
    "HOME",
    "OPENCLAW_GATEWAY_PORT",
    "OPENCLAW_DISABLE_BONJOUR",
    "OPENCLAW_NO_AUTO_UPDATE",
    "OPENCLAW_EXEC_SHELL_SNAPSHOT",
];

/// Shorter values are no secrets, and replacing them would only make the log unreadable.
const SHORTEST_SECRET: usize = 8;

/// The gateway's directory for temporary files: what it gets as `TMPDIR`. Ours stays another one, because what root writes must not
/// lie where the agent can exchange it.
const TEMPORARY: &str = "WINSTON_GATEWAY_TMPDIR";

/// Picks from the sidecar's own environment what the gateway inherits. `extra` is `WINSTON_GATEWAY_ENV`: further
/// names, separated by commas. The error lists every name in it that the gateway must not have.
pub(crate) fn inherited(
    own: impl IntoIterator<Item = (String, String)>,
    extra: &str,
) -> Result<Vec<(String, String)>, Vec<String>> {
    let extra: Vec<&str> = extra.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut mistakes: Vec<String> = extra.iter().filter_map(|name| mistake(name)).collect();
    let own: Vec<(String, String)> = own.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let temporary = own.iter().find(|(name, _)| name == TEMPORARY).map(|(_, path)| ("TMPDIR".to_owned(), path.clone()));
    if temporary.as_ref().is_some_and(|(_, path)| !path.starts_with('/')) {
        mistakes.push(format!("{TEMPORARY} must be an absolute path"));
    }
    let picked: Vec<(String, String)> = own
        .into_iter()
        .filter(|(name, _)| allowed(name) || extra.contains(&&**name))
        .filter(|(name, _)| mistake(name).is_none())
        .filter(|(name, _)| temporary.is_none() || name != "TMPDIR")
        .collect();
    let picked: Vec<_> = picked.into_iter().chain(temporary).collect();
    let options = picked.iter().find(|(name, _)| name == "NODE_OPTIONS");
    if let Some(option) = options.and_then(|(_, value)| foreign_code(value)) {
        mistakes.push(format!("WINSTON_GATEWAY_ENV passes NODE_OPTIONS on, which must not contain {option}"));
    }
    if mistakes.is_empty() { Ok(picked) } else { Err(mistakes) }
}

/// The whole environment of the gateway. What we set wins.
pub(super) fn complete(config: &GatewayConfig) -> Vec<(String, String)> {
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let mut ours = vec![
        // A restart that the gateway wants is an exit with 0; a process that we start reads its settings anew.
        ("OPENCLAW_SUPERVISOR_MODE", "external".to_owned()),
        ("OPENCLAW_STATE_DIR", path(&config.state_dir)),
        ("OPENCLAW_WORKSPACE_DIR", path(&config.workspace_dir)),
        ("HOME", path(&config.home)),
        ("OPENCLAW_GATEWAY_PORT", config.port.to_string()),
        // Nobody discovers a tenant by multicast.
        ("OPENCLAW_DISABLE_BONJOUR", "1".to_owned()),
        // The version is the operator's decision.
        ("OPENCLAW_NO_AUTO_UPDATE", "1".to_owned()),
        // What a command sees is what we set, not what a login shell on the volume adds.
        ("OPENCLAW_EXEC_SHELL_SNAPSHOT", "0".to_owned()),
    ];
    if let Some(secret) = &config.rpc_secret {
        ours.push((GATEWAY_TOKEN, secret.expose().to_owned()));
    }
    let inherited = config
        .environment
        .iter()
        .filter(|(name, _)| ours.iter().all(|(own, _)| own != name))
        .cloned()
        .collect::<Vec<_>>();
    let ours = ours.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    inherited.into_iter().chain(ours).collect()
}

/// Values that must not show in the gateway's log, longest first so that none hides a part of another.
pub(super) fn secrets(config: &GatewayConfig) -> Vec<String> {
    let mut secrets = Vec::new();
    for (name, value) in complete(config) {
        secrets.extend(userinfo(&value));
        // What is not on our list was asked for by name: we do not know what it is.
        let asked_for = !allowed(&name) && !OURS.contains(&name.as_str());
        if (is_secret(&name) || asked_for) && value.len() >= SHORTEST_SECRET {
            secrets.push(value);
        }
    }
    secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
    secrets
}

/// The credentials in a URL, as of a proxy: with their `@`, by which they are recognised however short they are, and
/// the password as it is in the URL and as it is meant.
fn userinfo(value: &str) -> Vec<String> {
    let authority = value.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    let Some((credentials, _)) = authority.and_then(|authority| authority.rsplit_once('@')) else {
        return Vec::new();
    };
    let password = credentials.split_once(':').map_or(credentials, |(_, password)| password);
    let meant = percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned();
    let alone = [password.to_owned(), meant].into_iter().filter(|secret| secret.len() >= SHORTEST_SECRET);
    alone.chain([format!("{credentials}@")]).collect()
}

/// The first option in `NODE_OPTIONS` that is in [`FOREIGN_CODE`]. Node takes quotes and backslashes away, and an
/// underscore for a dash.
fn foreign_code(options: &str) -> Option<&'static str> {
    let plain = options.replace(['"', '\\'], "").replace('_', "-").to_ascii_lowercase();
    let words: Vec<&str> = plain.split_ascii_whitespace().collect();
    FOREIGN_CODE.iter().copied().find(|option| words.iter().any(|word| word.starts_with(option)))
}

fn allowed(name: &str) -> bool {
    ALLOWED.contains(&name) || name.starts_with("LC_")
}

fn is_secret(name: &str) -> bool {
    ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|ending| name.to_ascii_uppercase().ends_with(ending))
}

/// Why the gateway must not have this name, if so.
fn mistake(name: &str) -> Option<String> {
    let why = if OURS.contains(&name) {
        "which the sidecar sets itself"
    } else if allowed(name) {
        return None;
    } else if FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        "which the gateway must never see"
    } else if name.contains(['=', '\0']) {
        "which cannot be the name of a variable"
    } else {
        return None;
    };
    Some(format!("WINSTON_GATEWAY_ENV names {name}, {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{GatewayConfig, Limits};
    use winston_wire::env::Secret;

    fn pairs(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("value of {name}"))).collect()
    }

    fn names(environment: &[(String, String)]) -> Vec<&str> {
        environment.iter().map(|(name, _)| name.as_str()).collect()
    }

    const HOSTILE: &[&str] = &[
        "WINSTON_SIDECAR_TOKEN",
        "WINSTON_CONTROL_URL",
        "WINSTON_GATEWAY_ENV",
        "SETUP_PASSWORD",
        "DATABASE_URL",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "SYSTEMD_EXEC_PID",
        "OPENCLAW_SYSTEMD_UNIT",
        "NODE_COMPILE_CACHE",
        "OPENCLAW_NO_RESPAWN",
        "NODE_OPTIONS",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "AWS_SECRET_ACCESS_KEY",
        "RAILWAY_TOKEN",
        "OPENCLAW_STATE_DIR",
        "OPENCLAW_CONFIG_PATH",
        "OPENCLAW_SUPERVISOR_MODE",
        "HOME",
        "PWD",
        "SHLVL",
        "BASH_ENV",
        "NOTIFY_SOCKET",
    ];

    #[test]
    fn a_hostile_environment_yields_only_what_is_allowed() {
        let mut own = pairs(HOSTILE);
        own.extend(pairs(ALLOWED));
        own.extend(pairs(&["LC_ALL", "LC_CTYPE"]));
        let picked = inherited(own, "").expect("no extra names");
        let mut expected = ALLOWED.to_vec();
        expected.extend(["LC_ALL", "LC_CTYPE"]);
        assert_eq!(names(&picked), expected);
    }

    #[test]
    fn the_gateway_has_temporary_files_of_its_own() {
        let own = |path: &str| vec![("TMPDIR".to_owned(), "/ours".to_owned()), (TEMPORARY.to_owned(), path.to_owned())];
        let picked = inherited(own("/theirs"), "").expect("absolute");
        assert_eq!(picked, [("TMPDIR".to_owned(), "/theirs".to_owned())]);
        assert!(inherited(own("theirs"), "").is_err());
        assert_eq!(inherited(own(""), "").expect("unset"), [("TMPDIR".to_owned(), "/ours".to_owned())]);
    }

    #[test]
    fn extra_names_are_passed_on() {
        let own = pairs(&["MY_SKILL_KEY", "OTHER"]);
        let picked = inherited(own, " MY_SKILL_KEY, ,UNSET ").expect("allowed");
        assert_eq!(names(&picked), ["MY_SKILL_KEY"]);
    }

    #[test]
    fn every_forbidden_extra_name_is_reported() {
        let more = [
            "WINSTON_X",
            "WINSTON_",
            "OPENCLAW_NO_RESPAWN",
            "OPENCLAW_CONFIG_PATH",
            "OPENCLAW_SYSTEMD_UNIT",
            "LD_PRELOAD",
            "LD_AUDIT",
        ];
        for name in FORBIDDEN.iter().chain(OURS).chain(&more) {
            let mistakes = inherited(pairs(&[name]), name).expect_err(name);
            assert!(mistakes[0].contains(name), "{mistakes:?}");
        }
        let mistakes = inherited(Vec::new(), "DATABASE_URL,WINSTON_A,HOME,FINE").expect_err("three");
        assert_eq!(mistakes.len(), 3);
        let asked =
            inherited(pairs(&[GATEWAY_TOKEN, "LC_ALL"]), "OPENCLAW_GATEWAY_TOKEN,LC_ALL").expect("allowed anyway");
        assert_eq!(names(&asked), [GATEWAY_TOKEN, "LC_ALL"]);
    }

    #[test]
    fn node_options_may_not_bring_code_or_open_an_inspector() {
        let options = |value: &str| vec![("NODE_OPTIONS".to_owned(), value.to_owned())];
        assert!(inherited(options("--inspect"), "").expect("not asked").is_empty());
        assert!(inherited(options("--max-old-space-size=800 --trace-warnings"), "NODE_OPTIONS").is_ok());
        for value in [
            "--inspect",
            "--enable-x --INSPECT-brk=0.0.0.0",
            "--inspect_brk",
            "--require /data/x.js",
            "--require=/data/x.js",
            "-r /data/x.js",
            "--max-old-space-size=800 --import=data:text/javascript,1",
            "\"--requ\\ire\" /data/x.js",
            "--experimental_loader ./x.mjs",
        ] {
            assert!(inherited(options(value), "NODE_OPTIONS").is_err(), "{value}");
        }
    }

    fn config(environment: Vec<(String, String)>) -> GatewayConfig {
        GatewayConfig {
            program: "openclaw".into(),
            state_dir: "/data/.openclaw".into(),
            workspace_dir: "/data/workspace".into(),
            home: "/data/.home".into(),
            port: 18789,
            identity: None,
            environment,
            rpc_secret: Some(Secret::new("rpc-secret-for-tests")),
            memory_limit: None,
            limits: Limits::default(),
            logs: super::super::LogSettings::default(),
        }
    }

    #[test]
    fn what_we_set_wins_and_appears_once() {
        let mut inherited = pairs(OURS);
        inherited.extend(pairs(&["PATH", GATEWAY_TOKEN]));
        let complete = complete(&config(inherited));
        let value = |wanted: &str| {
            let found: Vec<&str> =
                complete.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect();
            assert_eq!(found.len(), 1, "{wanted}");
            found[0].to_owned()
        };
        assert_eq!(value("OPENCLAW_SUPERVISOR_MODE"), "external");
        assert_eq!(value("OPENCLAW_GATEWAY_PORT"), "18789");
        assert_eq!(value("HOME"), "/data/.home");
        assert_eq!(value("PATH"), "value of PATH");
        assert_eq!(value(GATEWAY_TOKEN), "rpc-secret-for-tests");
    }

    #[test]
    fn secrets_are_found_by_name() {
        let mut environment = pairs(&["OPENAI_API_KEY", "PATH", "MY_PASSWORD"]);
        environment.push(("SHORT_TOKEN".to_owned(), "abc".to_owned()));
        assert_eq!(
            secrets(&config(environment)),
            ["value of OPENAI_API_KEY", "rpc-secret-for-tests", "value of MY_PASSWORD",]
        );
    }

    #[test]
    fn what_was_asked_for_and_credentials_of_proxies_are_secret() {
        let environment = [
            ("MY_SKILL_SETTING", "asked for by name"),
            ("SHORT", "seven77"),
            ("HTTPS_PROXY", "http://me:p%40ssw%C3%B6rd@proxy.example:3128/"),
            ("http_proxy", "http://u:pw@proxy.example"),
            ("NO_PROXY", "localhost,me@example"),
            ("LANG", "C.UTF-8 and more"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(
            secrets(&config(environment)),
            [
                "rpc-secret-for-tests",
                "me:p%40ssw%C3%B6rd@",
                "asked for by name",
                "p%40ssw%C3%B6rd",
                "p@sswörd",
                "u:pw@"
            ]
        );
    }
}
