//! Starting the channels again that a gateway keeps silent.
//!
//! After three unclean ends within five minutes the gateway starts no channel by itself: it takes one of them for the cause. It
//! answers 200 to `/readyz` and nobody is heard. That is right while it crashes, and wrong for hours after the machine ran out of
//! memory three times. So once it has been ready for a while, each silent account is started over its RPC:
//!
//! ```text
//!  channels.status {}                                      → {"channelAccounts":{"telegram":[{"accountId":"default","running":false,…}]},…}
//!  channels.start {"channel":"telegram","accountId":…}     → {"started":true,"outcome":{"status":"handed-off"}}
//! ```
//!
//! A channel that makes the gateway crash makes it crash again: tries are few, ever further apart, and counted over processes.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::rpc;
use super::{GatewayConfig, Limits, Logs};

/// Tries within [`WINDOW`].
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(60 * 60);

/// Accounts that one try starts; nobody has more, and each is a call.
const MOST_ACCOUNTS: usize = 32;

/// When channels were started. Times are durations since the caller's origin.
#[derive(Debug, Default)]
pub(super) struct Revival {
    tries: VecDeque<Duration>,
}

impl Revival {
    /// Whether silent channels of a gateway that is ready since then are to be started; if so, that counts as a try.
    pub(super) fn is_due(&mut self, limits: &Limits, ready_since: Duration, now: Duration) -> bool {
        while self.tries.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            self.tries.pop_front();
        }
        let doubled = u32::try_from(self.tries.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let pause = limits.revive_pause.saturating_mul(2u32.saturating_pow(doubled));
        let rested = self.tries.back().is_none_or(|last| now.saturating_sub(*last) >= pause);
        let settled = now.saturating_sub(ready_since) >= limits.revive_after;
        let due = settled && rested && self.tries.len() < MOST;
        if due {
            self.tries.push_back(now);
        }
        due
    }

    /// Whether there were as many tries as there may be.
    pub(super) fn is_exhausted(&self) -> bool {
        self.tries.len() >= MOST
    }
}

/// What came of a try.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Revived {
    /// Accounts that run.
    pub(super) started: Vec<String>,
    /// Those that do not, and why.
    pub(super) failed: Vec<(String, String)>,
}

impl Revived {
    fn failed(channels: &[String], why: &str) -> Self {
        Self { started: Vec::new(), failed: channels.iter().map(|name| (name.clone(), why.to_owned())).collect() }
    }
}

/// Starts every account of these channels that does not run. Takes at most one RPC limit for each. What the gateway says of it is shown to others,
/// so it goes through `logs`.
pub(super) async fn start(config: GatewayConfig, channels: Vec<String>, logs: Logs) -> Revived {
    let Some(secret) = config.rpc_secret.clone() else {
        return Revived::failed(&channels, "OPENCLAW_GATEWAY_TOKEN is not known");
    };
    let call =
        |method: &'static str, params: Value| rpc::call(config.port, &secret, method, params, config.limits.rpc_limit);
    let status = match call("channels.status", json!({})).await {
        Ok(status) => status,
        Err(error) => return Revived::failed(&channels, &logs.excerpt(&error.to_string())),
    };
    let mut revived = Revived::default();
    for (channel, account) in silent(&status, &channels) {
        let name = account.as_ref().map_or_else(|| channel.clone(), |account| format!("{channel}/{account}"));
        let name = logs.excerpt(&name);
        let params = match &account {
            Some(account) => json!({ "channel": channel, "accountId": account }),
            None => json!({ "channel": channel }),
        };
        match call("channels.start", params).await {
            Ok(answer) if answer["started"] == true => revived.started.push(name),
            Ok(answer) => {
                let outcome = logs.excerpt(&answer["outcome"].to_string());
                revived.failed.push((name, format!("it did not start: {outcome}")));
            }
            Err(error) => revived.failed.push((name, logs.excerpt(&error.to_string()))),
        }
    }
    revived
}

/// An account as `channels.status` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    account_id: String,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default = "yes")]
    configured: bool,
    #[serde(default)]
    running: bool,
}

fn yes() -> bool {
    true
}

/// The accounts of these channels that should run and do not; `None` in place of one: whichever the gateway takes.
fn silent(status: &Value, channels: &[String]) -> Vec<(String, Option<String>)> {
    let mut silent = Vec::new();
    for channel in channels {
        let accounts = status["channelAccounts"][channel.as_str()].clone();
        match serde_json::from_value::<Vec<Account>>(accounts) {
            Ok(accounts) if !accounts.is_empty() => silent.extend(
                accounts
                    .into_iter()
                    .filter(|account| account.enabled && account.configured && !account.running)
                    .map(|account| (channel.clone(), Some(account.account_id))),
            ),
            _ => silent.push((channel.clone(), None)),
        }
    }
    silent.truncate(MOST_ACCOUNTS);
    silent
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The seconds at which a try is due, asked each second, of a gateway that is ready since `ready_since`.
    fn tries(revival: &mut Revival, ready_since: u64, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let limits = Limits::default();
        seconds.filter(|now| revival.is_due(&limits, secs(ready_since), secs(*now))).collect()
    }

    #[test]
    fn a_gateway_that_has_just_come_up_is_left_alone() {
        let mut revival = Revival::default();
        let after = Limits::default().revive_after.as_secs();
        assert_eq!(tries(&mut revival, 100, 100..100 + after), [0u64; 0]);
        assert_eq!(tries(&mut revival, 100, 100 + after..101 + after), [100 + after]);
    }

    #[test]
    fn tries_are_few_and_ever_further_apart() {
        let mut revival = Revival::default();
        let made = tries(&mut revival, 0, 0..3600);
        assert_eq!(made, [30, 90, 210, 450, 930]);
        assert!(revival.is_exhausted());
        // An hour after each, there is room for one more.
        assert_eq!(tries(&mut revival, 0, 3600..3631), [3630]);
    }

    #[test]
    fn another_process_does_not_start_the_count_anew() {
        let mut revival = Revival::default();
        assert_eq!(tries(&mut revival, 0, 0..80), [30]);
        // It crashed, perhaps because of the channel, and is back.
        assert_eq!(tries(&mut revival, 80, 80..200), [110]);
        assert_eq!(tries(&mut revival, 200, 200..400), [230]);
    }

    #[test]
    fn only_accounts_that_should_run_are_started() {
        let status = json!({"channelAccounts": {
            "telegram": [
                {"accountId": "default", "enabled": true, "configured": true, "running": false},
                {"accountId": "runs", "enabled": true, "configured": true, "running": true},
                {"accountId": "off", "enabled": false, "configured": true, "running": false},
                {"accountId": "empty", "enabled": true, "configured": false, "running": false},
                {"accountId": "plain"},
            ],
            "discord": "nonsense",
            "other": [{"accountId": "default"}],
        }});
        let pair = |channel: &str, account: Option<&str>| (channel.to_owned(), account.map(str::to_owned));
        assert_eq!(
            silent(&status, &["telegram".into(), "discord".into(), "missing".into()]),
            [
                pair("telegram", Some("default")),
                pair("telegram", Some("plain")),
                pair("discord", None),
                pair("missing", None),
            ]
        );
        assert_eq!(silent(&json!(null), &vec!["x".to_owned(); 1000]).len(), MOST_ACCOUNTS);
    }
}
