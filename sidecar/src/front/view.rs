//! What the gateway's configuration says that concerns the front door, and what it lacks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::route::{TELEGRAM_PATH, TELEGRAM_PORT, Webhook};

/// Webhooks that are looked at; a configuration has a few accounts.
const MOST_WEBHOOKS: usize = 64;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) webhooks: Vec<Webhook>,
    /// Where the gateway may look for a user that a proxy has authenticated, in lower case.
    pub(super) user_headers: BTreeSet<String>,
    /// What has to be set for browsers to get in through us, one sentence each.
    pub(super) advice: Vec<String>,
}

impl Default for View {
    fn default() -> Self {
        Self { webhooks: vec![default_webhook()], user_headers: BTreeSet::new(), advice: Vec::new() }
    }
}

fn default_webhook() -> Webhook {
    Webhook { path: TELEGRAM_PATH.to_owned(), port: TELEGRAM_PORT }
}

impl View {
    /// Of a configuration with what it includes, which `included` are one by one. `origin` is the public one, if it is known; `own_ports` are
    /// never a webhook's.
    pub(super) fn of(config: &Value, included: &[Value], origin: Option<&str>, own_ports: &[u16]) -> Self {
        let mut user_headers = BTreeSet::new();
        for value in included.iter().chain([config]) {
            find_user_headers(value, &mut user_headers);
        }
        Self { webhooks: webhooks(config, own_ports), user_headers, advice: advice(&config["gateway"], origin) }
    }
}

/// Wherever it stands: a header too many that is taken away harms nobody.
fn find_user_headers(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(name) if key == "userHeader" => {
                        found.insert(name.trim().to_ascii_lowercase());
                    }
                    value => find_user_headers(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find_user_headers(item, found)),
        _ => {}
    }
}

fn webhooks(config: &Value, own_ports: &[u16]) -> Vec<Webhook> {
    let telegram = &config["channels"]["telegram"];
    if !telegram.is_object() {
        return vec![default_webhook()];
    }
    let base = webhook(telegram, &default_webhook());
    let mut found = vec![base.clone()];
    let accounts = telegram["accounts"].as_object();
    let mut accounts: Vec<_> = accounts.into_iter().flatten().filter(|(_, account)| account.is_object()).collect();
    accounts.sort_by_key(|(name, _)| *name);
    found.extend(accounts.into_iter().take(MOST_WEBHOOKS).map(|(_, account)| webhook(account, &base)));
    // A door that leads back to itself, or to the file API.
    found.retain(|webhook| {
        webhook.path.starts_with('/') && webhook.path.len() > 1 && !own_ports.contains(&webhook.port)
    });
    found.dedup();
    found
}

fn webhook(object: &Value, otherwise: &Webhook) -> Webhook {
    let path = object["webhookPath"].as_str().map(str::to_owned);
    let port = object["webhookPort"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    Webhook { path: path.unwrap_or_else(|| otherwise.path.clone()), port: port.unwrap_or(otherwise.port) }
}

fn advice(gateway: &Value, origin: Option<&str>) -> Vec<String> {
    let mut advice = Vec::new();
    let has = |list: &Value, wanted: &[&str]| {
        list.as_array().is_some_and(|list| list.iter().filter_map(Value::as_str).any(|text| wanted.contains(&text)))
    };
    if !has(&gateway["trustedProxies"], &["127.0.0.1", "127.0.0.1/32", "127.0.0.0/8"]) {
        advice.push(
            "gateway.trustedProxies lacks \"127.0.0.1\": the gateway answers 403 proxy_attribution_required to everybody who comes through the front door"
                .to_owned(),
        );
    }
    let origins = &gateway["controlUi"]["allowedOrigins"];
    let is_open = match origin {
        Some(origin) => has(origins, &[origin, "*"]),
        None => origins.is_array(),
    };
    if !is_open {
        let origin = origin.unwrap_or("the public https origin");
        advice.push(format!(
            "gateway.controlUi.allowedOrigins lacks {origin}: the gateway closes browsers' connections with 1008 origin not allowed"
        ));
    }
    if gateway["bind"] != "loopback" {
        advice.push(
            "gateway.bind is not \"loopback\": in a container the gateway may listen on every address, beside the front door"
                .to_owned(),
        );
    }
    if !gateway["publicOrigin"].is_string() {
        advice.push("gateway.publicOrigin is not set: links that the gateway makes lead to loopback".to_owned());
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge;

    fn view(text: &str) -> View {
        View::of(&merge::value(text).unwrap(), &[], Some("https://t.example.com"), &[8080, 18790])
    }

    fn hooks(text: &str) -> Vec<(String, u16)> {
        view(text).webhooks.into_iter().map(|webhook| (webhook.path, webhook.port)).collect()
    }

    #[test]
    fn webhooks_are_where_the_configuration_says() {
        let default = vec![(TELEGRAM_PATH.to_owned(), TELEGRAM_PORT)];
        assert_eq!(hooks("{}"), default);
        assert_eq!(hooks(r#"{channels: {telegram: {enabled: true}}}"#), default);
        assert_eq!(
            hooks(
                r#"{"channels":{"telegram":{"webhookPath":"/tg","webhookPort":9000,"accounts":{"a":{"webhookPath":"/tg-a"},"b":{"webhookPort":9001}}}}}"#
            ),
            [("/tg".to_owned(), 9000), ("/tg-a".to_owned(), 9000), ("/tg".to_owned(), 9001)]
        );
    }

    #[test]
    fn the_name_of_a_user_is_taken_from_nobody_wherever_it_is_set() {
        let text =
            "\u{feff}{a: [{auth: {trustedProxy: {userHeader: ' X-A '}}}], userHeader: 'X-B', b: {userHeader: 3}}";
        assert_eq!(view(text).user_headers, BTreeSet::from(["x-a".to_owned(), "x-b".to_owned()]));
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
        assert_eq!(view(complete).user_headers, BTreeSet::from(["x-company-user".to_owned()]));
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
