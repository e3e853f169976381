//! What the gateway's configuration says that concerns the front door, and what it lacks.

use jsonc_parser::{JsonArray, JsonObject, JsonValue, ParseOptions, parse_to_value};

use super::route::{TELEGRAM_PATH, TELEGRAM_PORT, Webhook};

/// Webhooks that are looked at; a configuration has a few accounts.
const MOST_WEBHOOKS: usize = 64;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) webhooks: Vec<Webhook>,
    /// Where the gateway would look for a user that a proxy has authenticated, in lower case.
    pub(super) user_header: Option<String>,
    /// What has to be set for browsers to get in through us, one sentence each.
    pub(super) advice: Vec<String>,
}

impl Default for View {
    fn default() -> Self {
        Self { webhooks: vec![default_webhook()], user_header: None, advice: Vec::new() }
    }
}

fn default_webhook() -> Webhook {
    Webhook { path: TELEGRAM_PATH.to_owned(), port: TELEGRAM_PORT }
}

impl View {
    /// Of a configuration's text. `origin` is the public one, if it is known; `own_ports` are never a webhook's.
    pub(super) fn of(text: &str, origin: Option<&str>, own_ports: &[u16]) -> Self {
        let Ok(Some(JsonValue::Object(config))) = parse_to_value(text, &ParseOptions::default()) else {
            // The supervisor says what is wrong with it.
            return Self::default();
        };
        let gateway = config.get_object("gateway");
        let user_header = gateway.and_then(|gateway| {
            let proxy = gateway.get_object("auth")?.get_object("trustedProxy")?;
            Some(proxy.get_string("userHeader")?.to_ascii_lowercase())
        });
        Self { webhooks: webhooks(&config, own_ports), user_header, advice: advice(gateway, origin) }
    }
}

fn webhooks(config: &JsonObject<'_>, own_ports: &[u16]) -> Vec<Webhook> {
    let telegram = config.get_object("channels").and_then(|channels| channels.get_object("telegram"));
    let Some(telegram) = telegram else { return vec![default_webhook()] };
    let base = webhook(telegram, &default_webhook());
    let mut found = vec![base.clone()];
    let accounts = telegram.get_object("accounts");
    let mut accounts: Vec<_> = accounts.into_iter().flat_map(|accounts| accounts.clone().into_iter()).collect();
    // The parsed object has no order of its own.
    accounts.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (_, account) in accounts.into_iter().take(MOST_WEBHOOKS) {
        if let JsonValue::Object(account) = account {
            found.push(webhook(&account, &base));
        }
    }
    // A door that leads back to itself, or to the file API.
    found.retain(|webhook| {
        webhook.path.starts_with('/') && webhook.path.len() > 1 && !own_ports.contains(&webhook.port)
    });
    found.dedup();
    found
}

fn webhook(object: &JsonObject<'_>, otherwise: &Webhook) -> Webhook {
    let path = object.get_string("webhookPath").map(|path| path.to_string());
    let port = object.get_number("webhookPort").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    Webhook { path: path.unwrap_or_else(|| otherwise.path.clone()), port: port.unwrap_or(otherwise.port) }
}

fn advice(gateway: Option<&JsonObject<'_>>, origin: Option<&str>) -> Vec<String> {
    let mut advice = Vec::new();
    let has = |list: Option<&JsonArray<'_>>, wanted: &[&str]| {
        list.is_some_and(|list| {
            let mut texts = list.iter().filter_map(|value| match value {
                JsonValue::String(text) => Some(text.as_ref()),
                _ => None,
            });
            texts.any(|text| wanted.contains(&text))
        })
    };
    let proxies = gateway.and_then(|gateway| gateway.get_array("trustedProxies"));
    if !has(proxies, &["127.0.0.1", "127.0.0.1/32", "127.0.0.0/8"]) {
        advice.push(
            "gateway.trustedProxies lacks \"127.0.0.1\": the gateway answers 403 proxy_attribution_required to everybody who comes through the front door"
                .to_owned(),
        );
    }
    let control_ui = gateway.and_then(|gateway| gateway.get_object("controlUi"));
    let origins = control_ui.and_then(|control_ui| control_ui.get_array("allowedOrigins"));
    let is_open = match origin {
        Some(origin) => has(origins, &[origin, "*"]),
        None => origins.is_some(),
    };
    if !is_open {
        let origin = origin.unwrap_or("the public https origin");
        advice.push(format!(
            "gateway.controlUi.allowedOrigins lacks {origin}: the gateway closes browsers' connections with 1008 origin not allowed"
        ));
    }
    if gateway.is_none_or(|gateway| gateway.get_string("bind").map(AsRef::as_ref) != Some("loopback")) {
        advice.push(
            "gateway.bind is not \"loopback\": in a container the gateway may listen on every address, beside the front door"
                .to_owned(),
        );
    }
    if gateway.is_none_or(|gateway| gateway.get_string("publicOrigin").is_none()) {
        advice.push("gateway.publicOrigin is not set: links that the gateway makes lead to loopback".to_owned());
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> View {
        View::of(text, Some("https://t.example.com"), &[8080, 18790])
    }

    fn hooks(text: &str) -> Vec<(String, u16)> {
        view(text).webhooks.into_iter().map(|webhook| (webhook.path, webhook.port)).collect()
    }

    #[test]
    fn webhooks_are_where_the_configuration_says() {
        let default = vec![(TELEGRAM_PATH.to_owned(), TELEGRAM_PORT)];
        assert_eq!(hooks("{}"), default);
        assert_eq!(hooks("{ nonsense"), default);
        assert_eq!(hooks(r#"{channels: {telegram: {enabled: true}}}"#), default);
        assert_eq!(
            hooks(
                r#"{"channels":{"telegram":{"webhookPath":"/tg","webhookPort":9000,"accounts":{"a":{"webhookPath":"/tg-a"},"b":{"webhookPort":9001}}}}}"#
            ),
            [("/tg".to_owned(), 9000), ("/tg-a".to_owned(), 9000), ("/tg".to_owned(), 9001)]
        );
    }

    #[test]
    fn a_webhook_never_leads_to_ourselves() {
        for port in ["8080", "18790"] {
            assert!(hooks(&format!(r#"{{"channels":{{"telegram":{{"webhookPort":{port}}}}}}}"#)).is_empty(), "{port}");
        }
        assert!(hooks(r#"{"channels":{"telegram":{"webhookPath":"/"}}}"#).is_empty());
        assert!(hooks(r#"{"channels":{"telegram":{"webhookPath":"tg"}}}"#).is_empty());
        for odd in ["0", "70000", "\"9000\"", "-1", "1.5"] {
            let text = format!(r#"{{"channels":{{"telegram":{{"webhookPort":{odd}}}}}}}"#);
            assert_eq!(hooks(&text)[0].1, TELEGRAM_PORT, "{odd}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let complete = r#"{
            // JSON5
            gateway: {
                bind: "loopback", publicOrigin: "https://t.example.com", trustedProxies: ["::1", "127.0.0.1"],
                controlUi: { allowedOrigins: ["https://t.example.com"] },
                auth: { trustedProxy: { userHeader: "X-Company-User" } },
            },
        }"#;
        assert_eq!(view(complete).advice, [""; 0]);
        assert_eq!(view(complete).user_header.as_deref(), Some("x-company-user"));
        for (part, instead, word) in [
            ("\"::1\", \"127.0.0.1\"", "\"::1\"", "trustedProxies"),
            ("[\"https://t.example.com\"]", "[\"https://other.example.com\"]", "allowedOrigins"),
            ("\"loopback\"", "\"lan\"", "gateway.bind"),
            ("publicOrigin", "other", "publicOrigin"),
        ] {
            let advice = view(&complete.replace(part, instead)).advice;
            assert!(advice.len() == 1 && advice[0].contains(word), "{word}: {advice:?}");
        }
        assert_eq!(view("{}").advice.len(), 4);
    }
}
