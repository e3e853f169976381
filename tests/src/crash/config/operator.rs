//! Pushes of several files in one generation, as provisioning makes them; the API has only pushes of one file.

use anyhow::{Context as _, Result};
use tokio_postgres::NoTls;

use crate::control::Control;
use crate::tenant::block_on;

/// Control's database.
#[derive(Debug, Clone)]
pub(super) struct Database(String);

impl Database {
    pub(super) fn of(control: &Control) -> Self {
        Self(format!("host={} user=winston dbname=postgres", control.socket_dir().display()))
    }

    /// Pushes these files over whatever is there, and wakes the tenant; the generation.
    pub(super) fn push(&self, tenant: &str, actor: &str, files: &[(&str, &str)]) -> Result<u64> {
        let generation = block_on(async {
            let (mut client, connection) = tokio_postgres::connect(&self.0, NoTls).await?;
            tokio::spawn(connection);
            let tx = client.transaction().await?;
            let row = tx
                .query_one(
                    "UPDATE tenants SET generation = generation + 1 WHERE id = $1::text::uuid RETURNING generation",
                    &[&tenant],
                )
                .await?;
            let generation: i64 = row.get(0);
            for (path, content) in files {
                tx.execute(
                    "INSERT INTO file_contents (tenant_id, hash, size, content)
                     VALUES ($1::text::uuid, sha256($2), length($2), $2) ON CONFLICT (tenant_id, hash) DO NOTHING",
                    &[&tenant, &content.as_bytes()],
                )
                .await?;
                tx.execute(
                    "INSERT INTO file_snapshots (tenant_id, file_path, hash, size, source, actor, generation, modified_at)
                     VALUES ($1::text::uuid, $2, sha256($3), length($3), 'system', $4, $5, now())",
                    &[&tenant, path, &content.as_bytes(), &actor, &generation],
                )
                .await?;
                tx.execute(
                    "INSERT INTO desired_files (tenant_id, file_path, generation, hash, base, actor, merge)
                     VALUES ($1::text::uuid, $2, $3, sha256($4), 'any', $5, false)
                     ON CONFLICT (tenant_id, path_hash, merge) DO UPDATE SET generation = EXCLUDED.generation,
                         hash = EXCLUDED.hash, base = EXCLUDED.base, actor = EXCLUDED.actor, pushed_at = now()",
                    &[&tenant, path, &generation, &content.as_bytes(), &actor],
                )
                .await?;
            }
            tx.execute("SELECT pg_notify('winston_desired', $1)", &[&tenant]).await?;
            tx.commit().await?;
            Ok::<_, tokio_postgres::Error>(generation)
        })??;
        u64::try_from(generation).context("generation")
    }
}
