//! From the model names that people select to OpenClaw's `provider/model`.

/// Used when nothing sensible was selected.
const DEFAULT: &str = "anthropic/claude-sonnet-4-6";

/// Which provider has models with this prefix.
const PREFIXES: &[(&str, &str)] =
    &[("kimi-", "moonshot"), ("claude-", "anthropic"), ("gpt-", "openai"), ("gemini-", "google")];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_families_get_their_provider() {
        for (selected, expected) in [
            ("kimi-k2.5", "moonshot/kimi-k2.5"),
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
