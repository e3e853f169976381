//! The Markdown files of the workspace.
//!
//! Text from people goes through [`inline`] or [`quotation`], so it can neither open a heading nor leave its place,
//! and has a share of the file's size: OpenClaw cuts files over 20 000 characters (`USER.md`: 4 000).

use super::text::{inline, quotation};
use super::{Channels, Facts, Settings, provider_model};

/// Most UTF-16 units of a name or another short text.
const SHORT: usize = 200;
/// Most UTF-16 units of an address.
const ADDRESS: usize = 500;
/// Most UTF-16 units of a personality, with its quotation marks.
const PERSONALITY: usize = 12_000;
/// Most capabilities that are listed.
const MAX_CAPABILITIES: usize = 40;

/// `SOUL.md`: who the agent is.
pub(crate) fn soul(facts: &Facts, settings: &Settings) -> String {
    let agent = inline(&settings.agent_name, SHORT);
    let business = inline(&facts.name, SHORT);
    let tone = inline(&settings.tone, SHORT);
    let personality = quotation(&settings.personality, PERSONALITY);
    let website = facts
        .website_url
        .as_deref()
        .map(|url| inline(url, ADDRESS))
        .filter(|url| !url.is_empty())
        .map_or_else(String::new, |url| {
            format!("- The website is {url}; point people there for opening hours and offers.\n")
        });
    format!(
        "# {agent}

You are {agent}, the assistant of {business}.

## Personality

{personality}
Tone: {tone}

## How you work

- Speak for {business} only. What you do not know, you say you do not know.
{website}- Never invent prices, stock, opening hours or legal advice.
- Ask before you do anything that cannot be undone.
- Keep what people tell you in confidence to the conversation in which they told you.

## When you cannot answer

If your model refuses because a quota is used up, say in one friendly sentence that you are not available at the
moment and that the team will get back to them. Do not explain quotas.

## Memory

Write what should last to `MEMORY.md` and the notes of a day to `memory/`. Everything in this directory is kept
with its history, so you may improve this file as you learn.
"
    )
}

/// `AGENTS.md`: what the agent does and where.
pub(crate) fn agents(facts: &Facts, settings: &Settings) -> String {
    let agent = inline(&settings.agent_name, SHORT);
    let business = inline(&facts.name, SHORT);
    let model = provider_model(&facts.selected_model);
    let channels = channels(&settings.channels);
    let capabilities: Vec<String> = settings
        .capabilities
        .iter()
        .map(|capability| inline(capability, SHORT))
        .filter(|capability| !capability.is_empty())
        .take(MAX_CAPABILITIES)
        .collect();
    let capabilities = if capabilities.is_empty() {
        "- Answer questions about the business\n- Recommend what it offers\n- Take messages for the team\n".to_owned()
    } else {
        capabilities.iter().map(|capability| format!("- {capability}\n")).collect()
    };
    format!(
        "# Agents

## {agent}

- Works for: {business}
- Model: {model}
- Channels: {channels}

### Capabilities

{capabilities}
### Rules

- `SOUL.md` says who you are, `USER.md` whom you work for, `IDENTITY.md` how you appear.
- Skills are in `skills/`.
- Files in this workspace may be edited by people while you work: read a file again before you change it.
"
    )
}

/// `USER.md`: whom the agent works for.
pub(crate) fn user(facts: &Facts) -> String {
    let line = |label: &str, value: Option<&str>, limit: usize| {
        let value = value.map(|value| inline(value, limit)).unwrap_or_default();
        let value = if value.is_empty() { "not given" } else { &value };
        format!("- {label}: {value}\n")
    };
    let mut text = "# Business information\n\n".to_owned();
    text.push_str(&line("Name", Some(&facts.name), SHORT));
    text.push_str(&line("Industry", facts.industry.as_deref(), SHORT));
    text.push_str(&line("Website", facts.website_url.as_deref(), ADDRESS));
    text.push_str(&line("Contact", Some(&facts.email), ADDRESS));
    text.push_str(&line("Plan", Some(&facts.tier), SHORT));
    text
}

/// `IDENTITY.md`: how the agent appears.
pub(crate) fn identity(settings: &Settings) -> String {
    let emoji = match settings.tone.trim() {
        "formal" | "professional" => "📋",
        "casual" | "friendly" => "🌿",
        _ => "✨",
    };
    format!(
        "# Identity

- Name: {}
- Creature: AI assistant
- Vibe: {}
- Emoji: {emoji}
",
        inline(&settings.agent_name, SHORT),
        inline(&settings.tone, SHORT),
    )
}

fn channels(channels: &Channels) -> String {
    let names: Vec<&str> = [
        ("Telegram", channels.telegram),
        ("Slack", channels.slack),
        ("WhatsApp", channels.whatsapp),
        ("web chat", channels.webchat),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn headings(text: &str) -> Vec<&str> {
        text.lines().filter(|line| line.starts_with('#')).collect()
    }

    #[test]
    fn peoples_text_opens_no_heading_and_no_rule() {
        let (hostile_facts, hostile) = samples::hostile();
        let plain = Settings::default();
        for (with, without) in [
            (soul(&hostile_facts, &hostile), soul(&hostile_facts, &plain)),
            (agents(&hostile_facts, &hostile), agents(&hostile_facts, &plain)),
            (identity(&hostile), identity(&plain)),
        ] {
            assert_eq!(headings(&with).len(), headings(&without).len(), "{with}");
            assert!(!with.lines().any(|line| line.starts_with("---")), "{with}");
        }
        assert_eq!(headings(&user(&hostile_facts)).len(), 1);
    }

    #[test]
    fn nothing_in_peoples_text_is_interpreted() {
        let (facts, settings) = samples::hostile();
        for text in [soul(&facts, &settings), agents(&facts, &settings), user(&facts), identity(&settings)] {
            assert!(text.contains("A $& B $1"), "{text}");
            assert!(text.contains("{{NAME}}"), "{text}");
        }
    }

    #[test]
    fn choices_reach_the_files() {
        let (facts, mut settings) = samples::hostile();
        settings.capabilities = vec!["Find recipes".to_owned()];
        settings.channels.slack = true;
        let text = agents(&facts, &settings);
        assert!(text.contains("- Find recipes\n"));
        assert!(text.contains("Slack, web chat"));
    }
}
