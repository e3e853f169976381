//! Everything that is known about a configuration without starting the gateway with it.

use serde_json::Value;
use winston_wire::ConfigIssue;

use super::cli::{self, Answer as Said, Question};
use super::effect::{self, Effect};
use super::owner::Owner;
use super::store::FileSet;
use super::{SubmitError, checks, swap};
use crate::fs::TenantPath;
use crate::merge::{self, MAX_MERGE_BYTES};

/// What the checks found.
pub(super) struct Checked {
    pub(super) errors: Vec<ConfigIssue>,
    pub(super) warnings: Vec<ConfigIssue>,
    pub(super) effect: Effect,
    /// What is to be said about the checks themselves.
    pub(super) remark: String,
}

impl Owner {
    /// Everything that is known about a configuration without starting the gateway with it. `set` has what comes along with it.
    pub(super) async fn check(
        &self,
        text: Vec<u8>,
        old: Option<Vec<u8>>,
        set: FileSet,
    ) -> Result<Checked, SubmitError> {
        let (cli, state) = (std::sync::Arc::clone(&self.cli), self.edits.layout().state.clone());
        let own = self.blocking(move |edits, _| {
            let value = parsed(&text);
            let effect = match (&value, old.as_deref().map(parsed)) {
                (Ok(new), Some(Ok(old))) if !effect::reload_is_off(&old) => effect::effect(&effect::changed(&old, new)),
                _ => Effect::Restart,
            };
            let read = |path: &TenantPath| match set.file(path) {
                Some(file) => file.content.clone(),
                None => swap::read(edits, path).ok().flatten(),
            };
            let beside = value.as_ref().map(|value| merge::included(&state, value, read)).unwrap_or_default();
            let env_file = state.child(".env").and_then(|path| swap::read(edits, &path).ok().flatten());
            let env_file = String::from_utf8(env_file.unwrap_or_default()).unwrap_or_default();
            let has_variable = |name: &str| {
                cli.environment.iter().any(|(known, value)| known == name && !value.is_empty())
                    || checks::names_in_env_file(&env_file).any(|known| known == name)
            };
            let surroundings = checks::Surroundings { port: cli.port, has_variable: &has_variable };
            let findings = value.map(|value| checks::check(&value, &surroundings));
            (findings, effect, Question { config: text, beside })
        });
        let (findings, effect, question) = own.await?;
        let said = cli::validate(&self.cli, question, self.times.validation).await;
        let mut checked = Checked { errors: Vec::new(), warnings: Vec::new(), effect, remark: String::new() };
        let unreadable = match findings {
            Ok(findings) => {
                (checked.errors, checked.warnings) = (findings.errors, findings.warnings);
                None
            }
            Err(error) => Some(ConfigIssue { path: String::new(), message: error }),
        };
        match said {
            Said::Invalid(issues) => checked.errors.extend(issues),
            Said::Valid(warnings) => {
                let known: Vec<_> = checked.errors.iter().map(|issue| issue.path.clone()).collect();
                checked.warnings.extend(warnings.into_iter().filter(|issue| !known.contains(&issue.path)));
                if unreadable.is_some() {
                    checked.remark = "only the gateway's own validation could read it".into();
                }
            }
            Said::None(why) => {
                tracing::warn!(why, "a configuration was checked without the gateway's own validation");
                checked.remark = format!("checked without the gateway's own validation: {why}");
                checked.errors.extend(unreadable);
            }
        }
        Ok(checked)
    }
}

pub(super) fn parsed(text: &[u8]) -> Result<Value, String> {
    if text.len() > MAX_MERGE_BYTES {
        return Err(format!("it is larger than {MAX_MERGE_BYTES} bytes"));
    }
    merge::value(std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?)
}
