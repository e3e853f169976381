//! What happens to a tenant's instance: provision, start, stop, restart, removal, and the look at what is there.
//!
//! Every operation holds the tenant's lock in the database for its whole time, so a double click becomes a queue.
//! The order within provisioning makes a crash at any point harmless: the files and the instance row are stored in
//! one transaction before anything starts, the token before the provider gets it, and every step looks first.

mod queue;
mod types;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::configgen::{Facts, GeneratedFile, Settings, generate};
use crate::db::desired::{Expect, Outcome, Push};
use crate::db::files::known;
use crate::db::instances::{self, Instance};
use crate::db::tenants::{self, Tenant};
use crate::db::{Db, DbError, desired, tokens};
use crate::provision::{Held, Observed, Place, Provider, ProviderError, Secrets, Stopped};
use crate::token::{TokenHash, new_token};

use self::queue::Queue;
pub(crate) use self::types::{Change, Issued, LifecycleError, Order, Provisioned, SettingsPatch};

/// How often every instance is looked at, for those whose end nobody reports.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// An instance of which nobody has notes and that was not heard of for so long is gone.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How often provisioning looks for the first check-in.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Label of the token that provisioning issues.
const TOKEN_LABEL: &str = "provision";

/// Runs operations.
#[derive(Clone)]
pub(crate) struct Lifecycle {
    db: Db,
    providers: Arc<HashMap<&'static str, Box<dyn Provider>>>,
    queue: Queue,
    provision_wait: Duration,
}

impl Lifecycle {
    /// With these providers.
    pub(crate) fn new(db: Db, providers: Vec<Box<dyn Provider>>, provision_wait: Duration) -> Self {
        let providers = providers.into_iter().map(|provider| (provider.name(), provider)).collect();
        Self { db, providers: Arc::new(providers), queue: Queue::default(), provision_wait }
    }

    fn provider(&self, name: &str) -> Result<&dyn Provider, LifecycleError> {
        self.providers.get(name).map(Box::as_ref).ok_or_else(|| LifecycleError::UnknownProvider(name.to_owned()))
    }

    /// Provisions a tenant, or finds that it is provisioned.
    pub(crate) async fn provision(&self, tenant: Uuid, order: Order) -> Result<Provisioned, LifecycleError> {
        let provider = self.provider(&order.provider)?;
        let secrets = self
            .locked(tenant, async {
                let result = self.provision_locked(tenant, provider, &order).await;
                if let Err(error @ LifecycleError::Provider { .. }) = &result {
                    tracing::warn!(tenant.id = %tenant, %error, "provisioning failed");
                    let client = self.db.client().await?;
                    tenants::set_status(&client, tenant, "error").await?;
                    instances::set_status(&client, tenant, "error").await?;
                }
                result
            })
            .await?;
        if secrets.is_some() {
            self.wait_for_check_in(tenant).await?;
        }
        let client = self.db.client().await?;
        let row = tenants::get(&client, tenant).await?;
        Ok(Provisioned {
            status: row.ok_or(LifecycleError::NoTenant)?.status,
            instance: instances::get(&client, tenant).await?.ok_or(LifecycleError::NoInstance)?,
            secrets,
        })
    }

    async fn provision_locked(
        &self,
        tenant: Uuid,
        provider: &dyn Provider,
        order: &Order,
    ) -> Result<Option<Issued>, LifecycleError> {
        let failed = |source| LifecycleError::Provider { tenant, source };
        let client = self.db.client().await?;
        if tenants::get(&client, tenant).await?.is_none() {
            return Err(LifecycleError::NoTenant);
        }
        let instance = instances::get(&client, tenant).await?;
        if !order.take_over && instance.is_some_and(|instance| instance.provider == instances::BY_HAND) {
            return Err(LifecycleError::EnrolledByHand);
        }
        drop(client);
        let held = provider.held(tenant).await.map_err(failed)?;
        let place = provider.place(tenant).await.map_err(failed)?;
        let running = provider.observe(tenant).await.map_err(failed)? == Observed::Running;
        let answered = self.store_files(tenant, provider, order, held, &place).await?;
        // Until a sidecar with the secrets has checked in nobody can have used them, so a repeat after a failure
        // makes new ones and answers with them. A tenant without any cannot start otherwise.
        let fresh = order.rotate_secrets || !held.tokens || !answered && !running;
        let issued = if fresh { Some(self.new_secrets(tenant, order).await?) } else { None };
        let secrets = Secrets {
            sidecar_token: issued.as_ref().map(|issued| issued.sidecar_token.clone()),
            gateway_token: issued.as_ref().map(|issued| issued.gateway_token.clone()),
            telegram_bot_token: order.telegram_bot_token.clone(),
        };
        // A process sees new secrets only at its start.
        let restart = running && (fresh || order.telegram_bot_token.is_some());
        if restart {
            provider.stop(tenant).await.map_err(failed)?;
        }
        if restart || !running {
            instances::set_status(&self.db.client().await?, tenant, "starting").await?;
        }
        provider.ensure(tenant, secrets).await.map_err(failed)?;
        Ok(issued)
    }

    /// Stores settings, instance row and generated files in one transaction. Says whether a sidecar of this tenant
    /// has ever checked in.
    async fn store_files(
        &self,
        tenant: Uuid,
        provider: &dyn Provider,
        order: &Order,
        held: Held,
        place: &Place,
    ) -> Result<bool, LifecycleError> {
        let mut client = self.db.client().await?;
        let tx = client.transaction().await.map_err(DbError::from)?;
        let row = tenants::get(&tx, tenant).await?.ok_or(LifecycleError::NoTenant)?;
        let instance = instances::get(&tx, tenant).await?;
        let name = format!("{} Gateway", row.name);
        instances::upsert(&tx, tenant, &name, provider.name(), place.url.as_deref(), place.sidecar_url.as_deref())
            .await?;
        let before: Settings = serde_json::from_value(row.settings.clone()).unwrap_or_default();
        let after = patched(&before, order, held);
        let new = generate(&facts(&row), &after, &place.layout);
        let first = row.settings.as_object().is_none_or(serde_json::Map::is_empty);
        let files = if first {
            new
        } else {
            // Only what the changed settings change: the rest may have been edited, and is the tenant's.
            let old = generate(&facts(&row), &before, &place.layout);
            new.into_iter().filter(|file| !old.contains(file)).collect()
        };
        push_generated(&tx, tenant, &order.actor, &files, first).await?;
        let value =
            serde_json::to_value(&after).map_err(|error| DbError::Value(format!("settings of {tenant}: {error}")))?;
        tenants::set_settings(&tx, tenant, &value).await?;
        tenants::record(
            &tx,
            &order.actor,
            "tenant.provision",
            tenant,
            json!({"provider": provider.name(), "files": files.len(), "rotate_secrets": order.rotate_secrets}),
        )
        .await?;
        tx.commit().await.map_err(DbError::from)?;
        Ok(instance.is_some_and(|instance| instance.last_health_check.is_some()))
    }

    async fn new_secrets(&self, tenant: Uuid, order: &Order) -> Result<Issued, LifecycleError> {
        let secrets = Issued { sidecar_token: new_token()?, gateway_token: new_token()? };
        // The tenant restarts with the new token, so older ones need no overlap.
        tokens::issue(
            &self.db,
            &order.actor,
            tenant,
            Some(TOKEN_LABEL),
            TokenHash::of(secrets.sidecar_token.expose()),
            Some(0),
        )
        .await?;
        Ok(secrets)
    }

    /// Bounded; a tenant that is slow is not a failure, its status says so.
    async fn wait_for_check_in(&self, tenant: Uuid) -> Result<(), LifecycleError> {
        let deadline = Instant::now() + self.provision_wait;
        while Instant::now() < deadline {
            let status = instances::get(&self.db.client().await?, tenant).await?.map(|instance| instance.status);
            if status.as_deref() != Some("starting") {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts, stops or restarts a provisioned tenant, with the files that it has.
    pub(crate) async fn change(&self, tenant: Uuid, actor: &str, change: Change) -> Result<Instance, LifecycleError> {
        self.locked(tenant, async {
            let client = self.db.client().await?;
            if tenants::get(&client, tenant).await?.is_none() {
                return Err(LifecycleError::NoTenant);
            }
            let instance = instances::get(&client, tenant).await?.ok_or(LifecycleError::NoInstance)?;
            tenants::record(&client, actor, change.word(), tenant, json!({})).await?;
            drop(client);
            let provider = self.provider(&instance.provider)?;
            if change != Change::Start {
                self.stop_locked(tenant, provider).await?;
            }
            if change != Change::Stop {
                self.start_locked(tenant, provider).await?;
            }
            instances::get(&self.db.client().await?, tenant).await?.ok_or(LifecycleError::NoInstance)
        })
        .await
    }

    async fn start_locked(&self, tenant: Uuid, provider: &dyn Provider) -> Result<(), LifecycleError> {
        let failed = |source| LifecycleError::Provider { tenant, source };
        if provider.observe(tenant).await.map_err(failed)? == Observed::Running {
            return Ok(());
        }
        let client = self.db.client().await?;
        instances::set_status(&client, tenant, "starting").await?;
        tenants::set_status(&client, tenant, "provisioning").await?;
        drop(client);
        let started = provider.ensure(tenant, Secrets::default()).await;
        if started.is_err() {
            let client = self.db.client().await?;
            instances::set_status(&client, tenant, "error").await?;
            tenants::set_status(&client, tenant, "error").await?;
        }
        started.map_err(failed)
    }

    async fn stop_locked(&self, tenant: Uuid, provider: &dyn Provider) -> Result<Stopped, LifecycleError> {
        let client = self.db.client().await?;
        // First the word, then the deed: a check-in on the way out must not say "running" again.
        instances::set_status(&client, tenant, "stopped").await?;
        tenants::set_status(&client, tenant, "stopped").await?;
        drop(client);
        provider.stop(tenant).await.map_err(|source| LifecycleError::Provider { tenant, source })
    }

    /// Stops and removes a tenant's instance, then the tenant. Says whether there was one.
    pub(crate) async fn delete(&self, tenant: Uuid, actor: &str, purge: bool) -> Result<bool, LifecycleError> {
        self.locked(tenant, async {
            let instance = instances::get(&self.db.client().await?, tenant).await?;
            if let Some(instance) = instance
                && let Some(provider) = self.providers.get(instance.provider.as_str())
            {
                match self.stop_locked(tenant, provider.as_ref()).await {
                    // What the provider noted about it is of no use any more; that must not keep it for ever.
                    Err(LifecycleError::Provider { source: error @ ProviderError::Damaged { .. }, .. }) => {
                        tracing::warn!(tenant.id = %tenant, %error, "deleted without having been stopped");
                    }
                    stopped => drop(stopped?),
                }
                provider.destroy(tenant, purge).await.map_err(|source| LifecycleError::Provider { tenant, source })?;
            }
            Ok(tenants::delete(&self.db, actor, tenant, purge).await?)
        })
        .await
    }

    /// Marks every instance by what really runs. Nothing is started or stopped, and no instance keeps the others from
    /// being looked at.
    pub(crate) async fn reconcile(&self) -> Result<(), LifecycleError> {
        for (name, provider) in self.providers.iter() {
            for instance in instances::of_provider(&self.db, name).await? {
                if self.found(provider.as_ref(), &instance).await.is_some() {
                    // Once more under the lock: somebody may be starting or stopping it at this moment.
                    self.look(instance.tenant_id).await?;
                }
            }
        }
        Ok(())
    }

    /// Reconciles for ever: at once when a provider reports the end of a tenant, and everything now and then.
    pub(crate) async fn watch(self, mut ended: UnboundedReceiver<Uuid>) {
        let mut every = tokio::time::interval(RECONCILE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // In tasks of their own, because a look waits for whoever works on the tenant.
        let mut looks = JoinSet::new();
        let mut round = None;
        loop {
            tokio::select! {
                Some(tenant) = ended.recv() => {
                    let this = self.clone();
                    looks.spawn(async move { this.look(tenant).await });
                }
                _ = every.tick(), if round.is_none() => {
                    let this = self.clone();
                    round = Some(looks.spawn(async move { this.reconcile().await }).id());
                }
                Some(seen) = looks.join_next_with_id() => {
                    let id = match &seen {
                        Ok((id, _)) => *id,
                        Err(error) => error.id(),
                    };
                    round.take_if(|round| *round == id);
                    if let Ok((_, Err(error))) = seen {
                        tracing::warn!(error = format!("{error:#}"), "cannot look at the instances");
                    }
                }
            }
        }
    }

    /// Marks one instance by what really runs.
    async fn look(&self, tenant: Uuid) -> Result<(), LifecycleError> {
        self.locked(tenant, async {
            let client = self.db.client().await?;
            if let Some(instance) = instances::get(&client, tenant).await?
                && let Some(provider) = self.providers.get(instance.provider.as_str())
                && let Some(status) = self.found(provider.as_ref(), &instance).await
            {
                tracing::info!(tenant.id = %tenant, instance.status = status, "instance found");
                instances::set_status(&client, tenant, status).await?;
            }
            Ok(())
        })
        .await
    }

    /// The status that an instance should have, if it has another.
    async fn found(&self, provider: &dyn Provider, instance: &Instance) -> Option<&'static str> {
        match (provider.observe(instance.tenant_id).await, instance.status.as_str()) {
            (Ok(Observed::Running), "stopped" | "exited" | "error") => Some("starting"),
            // One that this copy of control never started, and that was heard of not long ago, is another copy's.
            (Ok(Observed::Absent), "running" | "starting") if is_recent(instance) => None,
            (Ok(Observed::Stopped | Observed::Absent), "running" | "starting") => Some("exited"),
            (Ok(_), _) | (Err(_), "error") => None,
            (Err(error), _) => {
                tracing::error!(tenant.id = %instance.tenant_id, %error, "the instance cannot be looked at");
                Some("error")
            }
        }
    }

    /// Runs `work` under the tenant's lock.
    async fn locked<T>(
        &self,
        tenant: Uuid,
        work: impl Future<Output = Result<T, LifecycleError>>,
    ) -> Result<T, LifecycleError> {
        let _turn = self.queue.turn(tenant).await.ok_or(LifecycleError::Busy)?;
        let mut client = self.db.client().await?;
        let tx = client.transaction().await.map_err(DbError::from)?;
        // For other controls on the same database.
        instances::lock(&tx, tenant).await?;
        let result = work.await;
        // Nothing was written here: the end of the transaction only gives the lock back.
        if let Err(error) = tx.rollback().await {
            tracing::debug!(tenant.id = %tenant, %error, "the lock went with its connection");
        }
        result
    }
}

fn facts(row: &Tenant) -> Facts {
    Facts {
        name: row.name.clone(),
        email: row.email.clone(),
        industry: row.industry.clone(),
        website_url: row.website_url.clone(),
        tier: row.tier.clone(),
        selected_model: row.selected_model.clone(),
    }
}

fn patched(before: &Settings, order: &Order, held: Held) -> Settings {
    let mut after = before.clone();
    let patch = order.settings.clone();
    after.agent_name = patch.agent_name.unwrap_or(after.agent_name);
    after.personality = patch.personality.unwrap_or(after.personality);
    after.tone = patch.tone.unwrap_or(after.tone);
    after.capabilities = patch.capabilities.unwrap_or(after.capabilities);
    after.channels = patch.channels.unwrap_or(after.channels);
    after.channels.telegram |= order.telegram_bot_token.is_some();
    // A configuration that names a variable which is not there keeps the gateway from starting.
    after.telegram_token_set = order.telegram_bot_token.is_some() || held.telegram_bot_token;
    after
}

/// Whether an instance was made, or heard of, not long ago.
fn is_recent(instance: &Instance) -> bool {
    let last = instance.last_health_check.unwrap_or(instance.created_at).max(instance.created_at);
    Timestamp::now().duration_since(last).unsigned_abs() < FORGOTTEN
}

async fn push_generated(
    tx: &Transaction<'_>,
    tenant: Uuid,
    actor: &str,
    files: &[GeneratedFile],
    first: bool,
) -> Result<(), LifecycleError> {
    let mut pushes = Vec::with_capacity(files.len());
    for file in files {
        // Somebody may have pushed or written such a file before the first provisioning: theirs stays.
        if first && known(tx, tenant, file.path).await?.present {
            continue;
        }
        pushes.push(Push {
            path: file.path,
            content: Some(file.content.as_bytes()),
            expect: Expect::Latest,
            merge: false,
        });
    }
    if pushes.is_empty() {
        return Ok(());
    }
    match desired::push_in(tx, tenant, actor, &pushes).await? {
        Outcome::Pushed(_) => Ok(()),
        Outcome::NoTenant | Outcome::Mismatch { .. } => Err(LifecycleError::NoTenant),
    }
}
