//! Where tenants run. One trait; an implementation per kind of place.

pub(crate) mod local;
mod process;

use futures_util::future::BoxFuture;
use uuid::Uuid;
use winston_wire::env::Secret;

use crate::configgen::Layout;

/// What a tenant's processes get and nobody else may know. What is absent stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    /// The sidecar's token for control (and control's people's token for the sidecar).
    pub(crate) sidecar_token: Option<Secret>,
    /// Token of the gateway.
    pub(crate) gateway_token: Option<Secret>,
    /// Token of the Telegram bot.
    pub(crate) telegram_bot_token: Option<Secret>,
}

/// Which secrets of a tenant a provider has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Those without which the tenant cannot run.
    pub(crate) tokens: bool,
    /// Token of the Telegram bot.
    pub(crate) telegram_bot_token: bool,
}

/// What a provider decided about a tenant before anything runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// For the configuration generator.
    pub(crate) layout: Layout,
    /// URL of the gateway, if people can reach it.
    pub(crate) url: Option<String>,
    /// URL of the sidecar, if it can be reached.
    pub(crate) sidecar_url: Option<String>,
}

/// What a provider sees of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// Nothing was made for this tenant.
    Absent,
    /// Made, not running.
    Stopped,
    /// Running.
    Running,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Nothing ran.
    WasNotRunning,
    /// It ended by itself after it was asked.
    Gracefully,
    /// It did not end in time and was killed.
    Killed,
}

/// Why a provider could not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// A file or directory of the tenant.
    #[error("{action} {path}")]
    Io {
        /// For example "cannot write".
        action: &'static str,
        /// What.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the provider does not hold what it should.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A process that even SIGKILL does not end.
    #[error("process {0} does not end after SIGKILL")]
    Unstoppable(i32),
    /// The tenant's secrets are not there, so it can not be started.
    #[error("tenant {0} has no secrets yet; provision it")]
    NotProvisioned(Uuid),
    /// The process ended right after its start.
    #[error("the tenant's process ended at once ({status}); its log ends with: {tail}")]
    EndedAtOnce {
        /// How it ended.
        status: String,
        /// Last lines of its log.
        tail: String,
    },
}

/// A kind of place. Every operation looks first at what is there and may be repeated after a crash at any point;
/// callers hold the tenant's lock (`db::instances::lock`), so operations on one tenant do not overlap.
pub(crate) trait Provider: Send + Sync {
    /// Word for the API and the database.
    fn name(&self) -> &'static str;

    /// Decides ports and paths, once; later calls give the same answer.
    fn place(&self, tenant: Uuid) -> BoxFuture<'_, Result<Place, ProviderError>>;

    /// Says which secrets an earlier call was given.
    fn held(&self, tenant: Uuid) -> BoxFuture<'_, Result<Held, ProviderError>>;

    /// Makes sure that the tenant runs. `secrets` replace what earlier calls were given, each by itself; a running
    /// tenant gets new ones only after a stop.
    fn ensure(&self, tenant: Uuid, secrets: Secrets) -> BoxFuture<'_, Result<(), ProviderError>>;

    /// Stops the tenant, within a bounded time.
    fn stop(&self, tenant: Uuid) -> BoxFuture<'_, Result<Stopped, ProviderError>>;

    /// Looks at the tenant.
    fn observe(&self, tenant: Uuid) -> BoxFuture<'_, Result<Observed, ProviderError>>;

    /// Removes what a stopped tenant leaves behind; its files only with `purge`.
    fn destroy(&self, tenant: Uuid, purge: bool) -> BoxFuture<'_, Result<(), ProviderError>>;
}
