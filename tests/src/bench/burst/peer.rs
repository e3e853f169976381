//! Plain SQL with prepared statements: the rows and contents of changes, a transaction per batch, a statement per table.

use anyhow::Result;
use jiff::Timestamp;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;
use winston_wire::MAX_BATCH_CHANGES;

/// Bytes of contents after which a batch has no further row; a sidecar's batches are as large.
const BATCH_BYTES: usize = 640 << 10;

/// Rows of one transaction, column by column.
#[derive(Default)]
pub(super) struct Batch {
    seqs: Vec<i64>,
    paths: Vec<String>,
    actions: Vec<String>,
    sources: Vec<String>,
    times: Vec<Timestamp>,
    hashes: Vec<Vec<u8>>,
    previous: Vec<Option<Vec<u8>>>,
    sizes: Vec<i64>,
    contents: Vec<Vec<u8>>,
}

impl Batch {
    /// Path and hash of every change.
    pub(super) fn versions(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.paths.iter().map(String::as_str).zip(self.hashes.iter().map(Vec::as_slice))
    }

    fn is_full(&self) -> bool {
        self.seqs.len() >= MAX_BATCH_CHANGES || self.contents.iter().map(Vec::len).sum::<usize>() >= BATCH_BYTES
    }
}

/// A tenant that has its rows from plain SQL.
pub(super) struct Peer {
    tenant: Uuid,
    epoch: Uuid,
    read: Statement,
    contents: Statement,
    snapshots: Statement,
    changes: Statement,
    current: Statement,
    journal: Statement,
}

impl Peer {
    /// Gives the tenant a journal, and prepares the statements.
    pub(super) async fn prepare(database: &Client, tenant: &str) -> Result<Self> {
        let (tenant, epoch): (Uuid, _) = (tenant.parse()?, Uuid::now_v7());
        database.execute("INSERT INTO journals (tenant_id, epoch) VALUES ($1, $2)", &[&tenant, &epoch]).await?;
        Ok(Self {
            tenant,
            epoch,
            read: database
                .prepare(
                    "SELECT c.seq, c.file_path, c.change_type, c.source, c.changed_at, c.hash, c.previous_hash, f.content
                     FROM file_changes c JOIN file_contents f ON f.tenant_id = c.tenant_id AND f.hash = c.hash
                     WHERE c.tenant_id = $1 AND c.seq > $2 ORDER BY c.seq",
                )
                .await?,
            contents: database
                .prepare(
                    "INSERT INTO file_contents (tenant_id, hash, size, content)
                     SELECT $1, n.hash, length(n.content), n.content
                     FROM unnest($2::bytea[], $3::bytea[]) AS n (hash, content)",
                )
                .await?,
            snapshots: database
                .prepare(
                    "INSERT INTO file_snapshots (tenant_id, epoch, seq, file_path, hash, size, source, modified_at)
                     SELECT $1, $2, n.* FROM unnest($3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::text[],
                                                    $8::timestamptz[]) AS n
                     RETURNING id",
                )
                .await?,
            changes: database
                .prepare(
                    "INSERT INTO file_changes (tenant_id, epoch, seq, file_path, change_type, source, changed_at, hash,
                                               previous_hash, size, snapshot_id)
                     SELECT $1, $2, n.* FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                                                    $8::bytea[], $9::bytea[], $10::bigint[], $11::bigint[]) AS n",
                )
                .await?,
            current: database
                .prepare(
                    "INSERT INTO current_files (tenant_id, epoch, file_path, present, hash, size, content_omitted, seq,
                                                source, modified_at, snapshot_id)
                     SELECT $1, $2, n.path, true, n.hash, n.size, false, n.seq, n.source, n.at, n.snapshot
                     FROM unnest($3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::text[], $8::timestamptz[],
                                 $9::bigint[]) AS n (path, hash, size, seq, source, at, snapshot)
                     ON CONFLICT (tenant_id, epoch, path_hash) DO UPDATE SET
                         hash = EXCLUDED.hash, size = EXCLUDED.size, seq = EXCLUDED.seq, source = EXCLUDED.source,
                         modified_at = EXCLUDED.modified_at, snapshot_id = EXCLUDED.snapshot_id",
                )
                .await?,
            journal: database
                .prepare("UPDATE journals SET acked_seq = $3, head_seq = $3 WHERE tenant_id = $1 AND epoch = $2")
                .await?,
        })
    }

    /// What control has of a tenant behind a sequence number, in batches.
    pub(super) async fn read(&self, database: &Client, tenant: &str, after: i64) -> Result<Vec<Batch>> {
        let tenant: Uuid = tenant.parse()?;
        let mut batches = vec![Batch::default()];
        for row in database.query(&self.read, &[&tenant, &after]).await? {
            if batches.last().is_none_or(Batch::is_full) {
                batches.push(Batch::default());
            }
            let Some(batch) = batches.last_mut() else { continue };
            batch.seqs.push(row.get(0));
            batch.paths.push(row.get(1));
            batch.actions.push(row.get(2));
            batch.sources.push(row.get(3));
            batch.times.push(row.get(4));
            batch.hashes.push(row.get(5));
            batch.previous.push(row.get(6));
            batch.contents.push(row.get(7));
            batch.sizes.push(batch.contents.last().map_or(0, Vec::len) as i64);
        }
        Ok(batches)
    }

    /// Writes a batch and waits for the disk.
    pub(super) async fn write(&self, database: &mut Client, batch: &Batch) -> Result<()> {
        let Batch { seqs, paths, actions, sources, times, hashes, previous, sizes, contents } = batch;
        let (tenant, epoch) = (&self.tenant, &self.epoch);
        let tx = database.transaction().await?;
        tx.execute(&self.contents, &[tenant, hashes, contents]).await?;
        let rows = tx.query(&self.snapshots, &[tenant, epoch, seqs, paths, hashes, sizes, sources, times]).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let columns: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[tenant, epoch, seqs, paths, actions, sources, times, hashes, previous, sizes, &ids];
        tx.execute(&self.changes, columns).await?;
        tx.execute(&self.current, &[tenant, epoch, paths, hashes, sizes, seqs, sources, times, &ids]).await?;
        tx.execute(&self.journal, &[tenant, epoch, &seqs.last()]).await?;
        Ok(tx.commit().await?)
    }
}
