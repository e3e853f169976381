//! `openclaw.json`.

use serde_json::{Value, json};

use super::{Facts, Layout, Settings, models_section, provider_model};

/// The gateway's configuration, pretty-printed. The gateway may rewrite it later; it is an ordinary tenant file.
pub(crate) fn config(facts: &Facts, settings: &Settings, layout: &Layout) -> String {
    let model = provider_model(&facts.selected_model);
    let mut config = json!({
        "gateway": {
            // Without `mode` the gateway refuses to start.
            "mode": "local",
            "port": layout.gateway_port,
            "bind": "loopback",
            "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"},
            // The sidecar's front door adds forwarding headers, from loopback.
            "trustedProxies": ["127.0.0.1", "::1"],
            "reload": {"mode": "hybrid"},
            // A terminal with the gateway's environment is not for tenants.
            "terminal": {"enabled": false},
        },
        "agents": {
            "defaults": {
                "workspace": literal(&layout.workspace),
                // The workspace's files come from us, not from a first-run ritual.
                "skipBootstrap": true,
                "model": {"primary": model},
            },
        },
        "update": {"checkOnStart": false},
        "discovery": {"mdns": {"mode": "off"}},
    });
    if let Some(models) = models_section(&model) {
        config["models"] = models;
    }
    if let Some(origin) = &layout.public_origin {
        config["gateway"]["controlUi"] = json!({"allowedOrigins": [literal(origin)]});
        config["gateway"]["publicOrigin"] = literal(origin);
    }
    if settings.telegram_token_set {
        config["channels"] = json!({
            "telegram": {
                "enabled": true,
                "botToken": "${TELEGRAM_BOT_TOKEN}",
                "dmPolicy": "pairing",
            },
        });
    }
    let mut text = format!("{config:#}");
    text.push('\n');
    text
}

/// A string in which OpenClaw replaces nothing.
fn literal(text: &str) -> Value {
    text.replace("${", "$${").into()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn parsed(settings: &Settings, layout: &Layout) -> Value {
        let (facts, _) = samples::hostile();
        serde_json::from_str(&config(&facts, settings, layout)).unwrap()
    }

    #[test]
    fn only_the_intended_variables_are_replaced() {
        let (facts, settings) = samples::hostile();
        let layout = Layout { workspace: "/srv/${HOME}/workspace".to_owned(), ..samples::layout() };
        let text = config(&facts, &settings, &layout);
        assert_eq!(text.matches("\"${").count(), 1, "{text}");
        assert!(text.contains("/srv/$${HOME}/workspace"));
    }

    #[test]
    fn telegram_is_there_only_with_a_token() {
        let mut settings = Settings::default();
        settings.channels.telegram = true;
        assert!(parsed(&settings, &samples::layout()).get("channels").is_none());
        settings.telegram_token_set = true;
        let telegram = &parsed(&settings, &samples::layout())["channels"]["telegram"];
        assert_eq!(telegram["botToken"], "${TELEGRAM_BOT_TOKEN}");
    }

    #[test]
    fn a_kimi_model_brings_its_provider() {
        let (mut facts, settings) = samples::hostile();
        let config =
            |facts: &Facts| -> Value { serde_json::from_str(&config(facts, &settings, &samples::layout())).unwrap() };
        assert!(config(&facts).get("models").is_none());
        facts.selected_model = "kimi-k2.5".to_owned();
        let config = config(&facts);
        assert_eq!(config["agents"]["defaults"]["model"]["primary"], "moonshot-api/kimi-k2.5");
        assert_eq!(config["models"]["providers"]["moonshot-api"]["models"][0]["id"], "kimi-k2.5");
    }

    #[test]
    fn a_public_origin_is_allowed() {
        let mut layout = samples::layout();
        assert!(parsed(&Settings::default(), &layout)["gateway"].get("controlUi").is_none());
        layout.public_origin = Some("https://tenant.example.com".to_owned());
        let config = parsed(&Settings::default(), &layout);
        assert_eq!(config["gateway"]["controlUi"]["allowedOrigins"][0], "https://tenant.example.com");
        assert_eq!(config["gateway"]["publicOrigin"], "https://tenant.example.com");
    }
}
