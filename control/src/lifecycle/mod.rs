//! What happens to a tenant's instance: provision, start, stop, restart, removal, and the look at what is there.
//!
//! Every operation holds the tenant's lock in the database for its whole time, so a double click becomes a queue.
//! The order within provisioning makes a crash at any point harmless: the files and the instance row are stored in
//! one transaction before anything starts, the token before the provider gets it, and every step looks first.

mod types;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::configgen::{Facts, GeneratedFile, Settings, generate};
use crate::db::desired::{Expect, Outcome, Push};
use crate::db::files::known;
use crate::db::instances::{self, Instance};
use crate::db::tenants::{self, Tenant};
use crate::db::{Db, DbError, desired, tokens};
use crate::provision::{Observed, Place, Provider, Secrets, Stopped};
use crate::token::{TokenHash, new_token};

pub(crate) use types::{Change, LifecycleError, Order, Provisioned, SettingsPatch};

/// Operations at the same time. Each holds a database connection while it works with others.
const AT_ONCE: usize = 4;
/// How often provisioning looks for the first check-in.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Label of the token that provisioning issues.
const TOKEN_LABEL: &str = "provision";

/// Runs operations.
#[derive(Clone)]
pub(crate) struct Lifecycle {
    db: Db,
    providers: Arc<HashMap<&'static str, Box<dyn Provider>>>,
    permits: Arc<Semaphore>,
    provision_wait: Duration,
}

impl Lifecycle {
    /// With these providers.
    pub(crate) fn new(db: Db, providers: Vec<Box<dyn Provider>>, provision_wait: Duration) -> Self {
        let providers = providers.into_iter().map(|provider| (provider.name(), provider)).collect();
        Self { db, providers: Arc::new(providers), permits: Arc::new(Semaphore::new(AT_ONCE)), provision_wait }
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
    ) -> Result<Option<Secrets>, LifecycleError> {
        let failed = |source| LifecycleError::Provider { tenant, source };
        let place = provider.place(tenant).await.map_err(failed)?;
        let running = provider.observe(tenant).await.map_err(failed)? == Observed::Running;
        let answered = self.store_files(tenant, provider, order, &place).await?;
        // Until a sidecar with the secrets has checked in nobody can have used them, so a repeat after a failure
        // makes new ones and answers with them.
        let fresh = order.rotate_secrets || !answered && !running;
        let secrets = if fresh { Some(self.new_secrets(tenant, order).await?) } else { None };
        if running && (fresh || order.telegram_bot_token.is_some()) {
            provider.stop(tenant).await.map_err(failed)?;
        }
        if !running || fresh {
            instances::set_status(&self.db.client().await?, tenant, "starting").await?;
        }
        provider.ensure(tenant, secrets.clone()).await.map_err(failed)?;
        Ok(secrets)
    }

    /// Stores settings, instance row and generated files in one transaction. Says whether a sidecar of this tenant
    /// has ever checked in.
    async fn store_files(
        &self,
        tenant: Uuid,
        provider: &dyn Provider,
        order: &Order,
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
        let after = patched(&before, order);
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

    async fn new_secrets(&self, tenant: Uuid, order: &Order) -> Result<Secrets, LifecycleError> {
        let secrets = Secrets {
            sidecar_token: new_token()?,
            gateway_token: new_token()?,
            telegram_bot_token: order.telegram_bot_token.clone(),
        };
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
        let started = provider.ensure(tenant, None).await;
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
                self.stop_locked(tenant, provider.as_ref()).await?;
                provider.destroy(tenant, purge).await.map_err(|source| LifecycleError::Provider { tenant, source })?;
            }
            Ok(tenants::delete(&self.db, actor, tenant, purge).await?)
        })
        .await
    }

    /// Marks every instance by what really runs. Nothing is started or stopped.
    pub(crate) async fn reconcile(&self) -> Result<(), LifecycleError> {
        for (name, provider) in self.providers.iter() {
            for instance in instances::of_provider(&self.db, name).await? {
                let tenant = instance.tenant_id;
                let observed =
                    provider.observe(tenant).await.map_err(|source| LifecycleError::Provider { tenant, source })?;
                let status = match (observed, instance.status.as_str()) {
                    (Observed::Running, "stopped" | "exited" | "error") => "starting",
                    (Observed::Stopped | Observed::Absent, "running" | "starting") => "exited",
                    _ => continue,
                };
                tracing::info!(tenant.id = %tenant, instance.status = status, "instance found");
                instances::set_status(&self.db.client().await?, tenant, status).await?;
            }
        }
        Ok(())
    }

    /// Runs `work` under the tenant's lock.
    async fn locked<T>(
        &self,
        tenant: Uuid,
        work: impl Future<Output = Result<T, LifecycleError>>,
    ) -> Result<T, LifecycleError> {
        // The semaphore is never closed; without a permit there would only be less order.
        let _permit = self.permits.acquire().await.ok();
        let mut client = self.db.client().await?;
        let tx = client.transaction().await.map_err(DbError::from)?;
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

fn patched(before: &Settings, order: &Order) -> Settings {
    let mut after = before.clone();
    let patch = order.settings.clone();
    after.agent_name = patch.agent_name.unwrap_or(after.agent_name);
    after.personality = patch.personality.unwrap_or(after.personality);
    after.tone = patch.tone.unwrap_or(after.tone);
    after.capabilities = patch.capabilities.unwrap_or(after.capabilities);
    after.channels = patch.channels.unwrap_or(after.channels);
    if order.telegram_bot_token.is_some() {
        after.telegram_token_set = true;
        after.channels.telegram = true;
    }
    after
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
        if first && known(tx, tenant, file.path).await?.latest.is_some() {
            continue;
        }
        pushes.push(Push { path: file.path, content: Some(file.content.as_bytes()), expect: Expect::Latest });
    }
    if pushes.is_empty() {
        return Ok(());
    }
    match desired::push_in(tx, tenant, actor, &pushes).await? {
        Outcome::Pushed(_) => Ok(()),
        Outcome::NoTenant | Outcome::Mismatch { .. } => Err(LifecycleError::NoTenant),
    }
}
