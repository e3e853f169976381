//! From the model names that people select to OpenClaw's `provider/model`.
//!
//! OpenClaw has the providers `anthropic`, `openai`, `google` and `openrouter` built in. Its `moonshot` is a plugin that is
//! fetched when the gateway starts, and the gateway is not ready before it is there; Kimi models therefore get a provider
//! of our own that needs nothing but the configuration.

use serde_json::{Value, json};

/// Used when nothing sensible was selected.
const DEFAULT: &str = "anthropic/claude-sonnet-4-6";

/// Variable with the key for Kimi models. Not `MOONSHOT_API_KEY`: that name makes the gateway fetch its plugin.
pub(crate) const KIMI_KEY_VARIABLE: &str = "MOONSHOT_PLATFORM_API_KEY";
/// Our provider for Kimi models.
const KIMI_PROVIDER: &str = "moonshot-api";

/// Which provider has models with this prefix.
const PREFIXES: &[(&str, &str)] =
    &[("kimi-", KIMI_PROVIDER), ("claude-", "anthropic"), ("gpt-", "openai"), ("gemini-", "google")];

/// Whether a text can be a model name. It goes into a file in which `${NAME}` is replaced, so it may not hold one.
pub(crate) fn is_model_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:/@+".contains(&byte))
}

/// `provider/model` for a selected name. A name with a slash is taken as it is.
pub(crate) fn provider_model(selected: &str) -> String {
    if !is_model_name(selected) {
        return DEFAULT.to_owned();
    }
    if selected.contains('/') {
        return selected.to_owned();
    }
    PREFIXES
        .iter()
        .find(|(prefix, _)| selected.starts_with(prefix))
        .map_or_else(|| DEFAULT.to_owned(), |(_, provider)| format!("{provider}/{selected}"))
}

/// The `models` section that a `provider/model` needs, if it needs one.
pub(crate) fn models_section(model: &str) -> Option<Value> {
    let id = model.strip_prefix(KIMI_PROVIDER)?.strip_prefix('/')?;
    Some(json!({
        "mode": "merge",
        "providers": {
            KIMI_PROVIDER: {
                "baseUrl": "https://api.moonshot.ai/v1",
                // Without it some calls go out in another provider's format.
                "api": "openai-completions",
                "apiKey": format!("${{{KIMI_KEY_VARIABLE}}}"),
                "models": [{
                    "id": id,
                    "name": id,
                    "reasoning": true,
                    "input": ["text", "image"],
                    "contextWindow": 262_000,
                    "maxTokens": 8192,
                }],
            },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_families_get_their_provider() {
        for (selected, expected) in [
            ("kimi-k2.5", "moonshot-api/kimi-k2.5"),
            ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
            ("claude-opus-4-6", "anthropic/claude-opus-4-6"),
            ("openrouter/meta/llama-4:free", "openrouter/meta/llama-4:free"),
            ("", DEFAULT),
            ("something", DEFAULT),
            ("a/${ANTHROPIC_API_KEY}", DEFAULT),
        ] {
            assert_eq!(provider_model(selected), expected, "{selected}");
        }
    }
}
