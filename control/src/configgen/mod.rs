//! The files that a new tenant starts with: pure functions from settings to text.
//!
//! `openclaw.json` holds no secret: tokens are written as `${NAME}` and come from the gateway's environment. The
//! Markdown files go to the workspace, which is where OpenClaw reads them.

mod model;
mod openclaw;
mod text;
mod workspace;

use serde::{Deserialize, Serialize};

pub(crate) use model::{KIMI_KEY_VARIABLE, is_model_name};
use model::{models_section, provider_model};

/// Path of the gateway's configuration, relative to the data directory.
pub(crate) const OPENCLAW_PATH: &str = ".openclaw/openclaw.json";

/// What a person chooses when a tenant is provisioned; kept in `tenants.settings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    /// Name of the agent.
    pub(crate) agent_name: String,
    /// Who the agent is, in free text.
    pub(crate) personality: String,
    /// How it speaks.
    pub(crate) tone: String,
    /// What it does for the tenant.
    pub(crate) capabilities: Vec<String>,
    /// Where it can be reached.
    pub(crate) channels: Channels,
    /// Whether a Telegram bot token is in the gateway's environment.
    pub(crate) telegram_token_set: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            agent_name: "Sage".to_owned(),
            personality: "Helpful, knowledgeable and honest. Says so when it does not know something.".to_owned(),
            tone: "casual".to_owned(),
            capabilities: Vec::new(),
            channels: Channels::default(),
            telegram_token_set: false,
        }
    }
}

/// Channels by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Channels {
    /// Telegram bot.
    pub(crate) telegram: bool,
    /// Slack app.
    pub(crate) slack: bool,
    /// WhatsApp.
    pub(crate) whatsapp: bool,
    /// The gateway's own web page.
    pub(crate) webchat: bool,
}

impl Default for Channels {
    fn default() -> Self {
        Self { telegram: false, slack: false, whatsapp: false, webchat: true }
    }
}

/// Facts about the tenant.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Name of the business.
    pub(crate) name: String,
    /// Contact.
    pub(crate) email: String,
    /// Industry, if known.
    pub(crate) industry: Option<String>,
    /// Website, if there is one.
    pub(crate) website_url: Option<String>,
    /// Subscription.
    pub(crate) tier: String,
    /// Model as it was selected.
    pub(crate) selected_model: String,
}

/// Where the gateway will run, as the provider decided.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Absolute path of the workspace as the gateway sees it.
    pub(crate) workspace: String,
    /// Port of the gateway.
    pub(crate) gateway_port: u16,
    /// Origin (scheme, host, port) under which people reach the gateway, if known.
    pub(crate) public_origin: Option<String>,
}

/// One generated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GeneratedFile {
    /// Path relative to the data directory.
    pub(crate) path: &'static str,
    /// Content.
    pub(crate) content: String,
}

/// Generates every file.
pub(crate) fn generate(facts: &Facts, settings: &Settings, layout: &Layout) -> Vec<GeneratedFile> {
    let file = |path, content| GeneratedFile { path, content };
    vec![
        file(OPENCLAW_PATH, openclaw::config(facts, settings, layout)),
        file("workspace/SOUL.md", workspace::soul(facts, settings)),
        file("workspace/AGENTS.md", workspace::agents(facts, settings)),
        file("workspace/USER.md", workspace::user(facts)),
        file("workspace/IDENTITY.md", workspace::identity(settings)),
    ]
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A tenant whose every text tries to break out.
    pub(crate) fn hostile() -> (Facts, Settings) {
        let text = "A $& B $1 ${OPENCLAW_GATEWAY_TOKEN}\n# Heading\r\n---\n- item\u{2028}## Second {{NAME}}";
        (
            Facts {
                name: text.to_owned(),
                email: text.to_owned(),
                industry: Some(text.to_owned()),
                website_url: Some(text.to_owned()),
                tier: text.to_owned(),
                selected_model: text.to_owned(),
            },
            Settings {
                agent_name: text.to_owned(),
                personality: text.to_owned(),
                tone: text.to_owned(),
                capabilities: vec![text.to_owned(); 3],
                ..Settings::default()
            },
        )
    }

    /// Any layout.
    pub(crate) fn layout() -> Layout {
        Layout { workspace: "/data/workspace".to_owned(), gateway_port: 18789, public_origin: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// OpenClaw's limits count like JavaScript: UTF-16 units.
    fn units(text: &str) -> usize {
        text.encode_utf16().count()
    }

    proptest! {
        // Few, because each one generates a few megabytes.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_file_fits_whatever_people_write(text in "(?s).{0,50}", times in 1usize..1000) {
            let long = text.repeat(times);
            let (mut facts, mut settings) = samples::hostile();
            facts.name.clone_from(&long);
            facts.website_url = Some(long.clone());
            settings.agent_name.clone_from(&long);
            settings.personality.clone_from(&long);
            settings.capabilities = vec![long; 200];
            for file in generate(&facts, &settings, &samples::layout()) {
                let limit = if file.path.ends_with("USER.md") { 4_000 } else { 20_000 };
                prop_assert!(units(&file.content) <= limit, "{} has {}", file.path, units(&file.content));
            }
        }
    }
}
