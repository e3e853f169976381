//! What operations on an instance are asked for and answer with.

use uuid::Uuid;
use winston_wire::env::Secret;

use crate::configgen::Channels;
use crate::db::DbError;
use crate::db::instances::Instance;
use crate::provision::ProviderError;
use crate::token::RandomError;

/// Why an operation did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The provider.
    #[error("the provider failed for tenant {tenant}")]
    Provider {
        /// Whose instance.
        tenant: Uuid,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// There is no such tenant.
    #[error("there is no such tenant")]
    NoTenant,
    /// The tenant has no instance.
    #[error("the tenant has no instance")]
    NoInstance,
    /// Nobody here runs such instances.
    #[error("provider {0:?} is not known")]
    UnknownProvider(String),
    /// The tenant runs somewhere that control does not know.
    #[error("the tenant was enrolled by hand")]
    EnrolledByHand,
    /// Too many operations at once.
    #[error("too many operations wait")]
    Busy,
    /// No randomness for tokens.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// A request to provision.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// Which provider.
    pub(crate) provider: String,
    /// Changes to the tenant's settings.
    pub(crate) settings: SettingsPatch,
    /// Token of a Telegram bot.
    pub(crate) telegram_bot_token: Option<Secret>,
    /// Give a running tenant new secrets.
    pub(crate) rotate_secrets: bool,
    /// Also when the tenant was enrolled by hand; its sidecar loses its tokens.
    pub(crate) take_over: bool,
    /// Who asks.
    pub(crate) actor: String,
}

/// Settings that a request names; the others stay.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingsPatch {
    /// See [`crate::configgen::Settings`].
    pub(crate) agent_name: Option<String>,
    /// See [`crate::configgen::Settings`].
    pub(crate) personality: Option<String>,
    /// See [`crate::configgen::Settings`].
    pub(crate) tone: Option<String>,
    /// See [`crate::configgen::Settings`].
    pub(crate) capabilities: Option<Vec<String>>,
    /// See [`crate::configgen::Settings`].
    pub(crate) channels: Option<Channels>,
}

/// New secrets of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// See [`crate::provision::Secrets`].
    pub(crate) sidecar_token: Secret,
    /// See [`crate::provision::Secrets`].
    pub(crate) gateway_token: Secret,
}

/// A provisioned tenant.
#[derive(Debug)]
pub(crate) struct Provisioned {
    /// The instance as it is now.
    pub(crate) instance: Instance,
    /// Status of the tenant as it is now.
    pub(crate) status: String,
    /// New secrets; absent when the tenant had been provisioned before.
    pub(crate) secrets: Option<Issued>,
}

/// What can be done to an instance that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Make it run.
    Start,
    /// Make it stop.
    Stop,
    /// Both, in the other order.
    Restart,
}

impl Change {
    /// Word for the audit log.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Start => "instance.start",
            Self::Stop => "instance.stop",
            Self::Restart => "instance.restart",
        }
    }
}
