//! `current_files` and the totals in `journals`: what a journal's changes amount to. Everything here runs in the
//! transaction that commits the changes, under the lock of the journal's row.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use winston_wire::{Change, ContentHash, ManifestDigest, ManifestFile, ManifestRange};

use super::effect::{PathState, Totals, fold};
use super::pool::{all, hash, one, opt, run, signed, unsigned};
use super::{Db, DbError};

/// The journal that counts: that of the sidecar that is served, as its check-in said; before there was one, the newest.
/// The newest alone would be wrong once an older volume comes back. `$1` is the tenant.
macro_rules! served_journal {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM journals WHERE tenant_id = $1
              ORDER BY (epoch = (SELECT epoch FROM tenant_instances WHERE tenant_id = $1)) DESC NULLS LAST,
                       first_seen_at DESC, epoch DESC LIMIT 1"
        )
    };
}
pub(super) use served_journal;

/// Rows that are read at once where all of a journal's files are.
const PAGE: i64 = 5000;

/// What a batch needs to know of its journal.
pub(super) struct Journal {
    /// Last committed number.
    pub(super) acked: u64,
    /// See [`count`] for a journal that has none yet.
    pub(super) totals: Option<Totals>,
}

/// Takes the lock of the journal's row; the row is made when it is not there.
pub(super) async fn lock(tx: &Transaction<'_>, tenant: Uuid, epoch: Uuid) -> Result<Journal, DbError> {
    let look = async || {
        opt(
            tx,
            "SELECT acked_seq, files, digest FROM journals WHERE tenant_id = $1 AND epoch = $2 FOR UPDATE",
            &[&tenant, &epoch],
        )
        .await
    };
    let row = match look().await? {
        Some(row) => row,
        None => {
            // Perhaps by somebody else meanwhile: then this waits for him, and the next look sees what he did.
            run(
                tx,
                "INSERT INTO journals (tenant_id, epoch) VALUES ($1, $2) ON CONFLICT (tenant_id, epoch) DO NOTHING",
                &[&tenant, &epoch],
            )
            .await?;
            look().await?.ok_or_else(|| DbError::Value("a journal that is not there after it was made".to_owned()))?
        }
    };
    Ok(Journal { acked: unsigned(row.get(0)), totals: known_totals(row.get(1), row.get(2))? })
}

fn known_totals(files: Option<i64>, digest: Option<Vec<u8>>) -> Result<Option<Totals>, DbError> {
    let digest = hash(digest)?.map(|digest| ManifestDigest::from_bytes(*digest.as_bytes()));
    Ok(files.zip(digest).map(|(files, digest)| Totals { files: unsigned(files), digest }))
}

/// Follows committed changes; `totals` too. `versions` has the version of each, by sequence number. `at` is the time of a
/// change as the database keeps it.
pub(super) async fn follow(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    changes: &[&Change],
    versions: &HashMap<i64, i64>,
    at: fn(&Change) -> Timestamp,
    totals: &mut Totals,
) -> Result<(), DbError> {
    let states = fold(changes);
    totals.follow(&states, &before(tx, tenant, epoch, &states).await?);
    store(tx, tenant, epoch, &states, versions, at).await
}

/// What `path_key` in the database gives for a path, without asking it.
pub(super) fn path_key(path: &str) -> [u8; 32] {
    Sha256::digest(path).into()
}

/// The files that are present at these paths.
async fn before(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    states: &[PathState<'_>],
) -> Result<HashMap<String, Option<ContentHash>>, DbError> {
    let keys: Vec<_> = states.iter().map(|state| path_key(state.path)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 32]>::as_slice).collect();
    // Each path is looked up by itself. As an ordinary join it may become a look at every file of the journal: without
    // statistics the planner takes a journal for a single row.
    let rows = all(
        tx,
        "SELECT c.file_path, c.hash
         FROM unnest($3::bytea[]) AS n (path_hash) CROSS JOIN LATERAL (
             SELECT file_path, hash FROM current_files
             WHERE tenant_id = $1 AND epoch = $2 AND path_hash = n.path_hash AND present OFFSET 0
         ) c",
        &[&tenant, &epoch, &keys],
    )
    .await?;
    rows.iter().map(|row| Ok((row.get(0), hash(row.get(1))?))).collect()
}

async fn store(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    states: &[PathState<'_>],
    versions: &HashMap<i64, i64>,
    at: fn(&Change) -> Timestamp,
) -> Result<(), DbError> {
    let paths: Vec<&str> = states.iter().map(|state| state.path).collect();
    let present: Vec<bool> = states.iter().map(|state| state.present).collect();
    let kept = |state: &PathState<'_>| if state.present { state.change.hash } else { None };
    let hashes: Vec<Option<ContentHash>> = states.iter().map(kept).collect();
    let hashes: Vec<Option<&[u8]>> =
        hashes.iter().map(|hash| hash.as_ref().map(|hash| hash.as_bytes().as_slice())).collect();
    let sizes: Vec<Option<i64>> =
        states.iter().map(|state| state.change.size.filter(|_| state.present).map(signed)).collect();
    let omitted: Vec<bool> = states.iter().map(|state| state.present && state.change.content_omitted).collect();
    let seqs: Vec<i64> = states.iter().map(|state| signed(state.change.seq)).collect();
    let sources: Vec<&str> = states.iter().map(|state| state.change.source.as_str()).collect();
    let actors: Vec<Option<&str>> = states.iter().map(|state| state.change.actor.as_deref()).collect();
    let times: Vec<Timestamp> = states.iter().map(|state| at(state.change)).collect();
    let snapshots: Vec<Option<i64>> =
        states.iter().map(|state| versions.get(&signed(state.change.seq)).copied().filter(|_| state.present)).collect();
    let generations: Vec<Option<i64>> = states.iter().map(|state| state.generation.map(signed)).collect();
    run(
        tx,
        "INSERT INTO current_files AS c
             (tenant_id, epoch, file_path, present, hash, size, content_omitted, seq, source, actor, modified_at,
              snapshot_id, generation)
         SELECT $1, $2, n.* FROM unnest($3::text[], $4::bool[], $5::bytea[], $6::bigint[], $7::bool[], $8::bigint[],
              $9::text[], $10::text[], $11::timestamptz[], $12::bigint[], $13::bigint[]) AS n
         ON CONFLICT (tenant_id, epoch, path_hash) DO UPDATE SET
             present = EXCLUDED.present, hash = EXCLUDED.hash, size = EXCLUDED.size,
             content_omitted = EXCLUDED.content_omitted, seq = EXCLUDED.seq, source = EXCLUDED.source,
             actor = EXCLUDED.actor, modified_at = EXCLUDED.modified_at, snapshot_id = EXCLUDED.snapshot_id,
             generation = greatest(c.generation, EXCLUDED.generation)",
        &[
            &tenant,
            &epoch,
            &paths,
            &present,
            &hashes,
            &sizes,
            &omitted,
            &seqs,
            &sources,
            &actors,
            &times,
            &snapshots,
            &generations,
        ],
    )
    .await
    .map(drop)
}

/// Number and digest of a journal's files. The caller holds the lock of the journal's row.
pub(super) async fn totals(tx: &Transaction<'_>, tenant: Uuid, epoch: Uuid) -> Result<Totals, DbError> {
    let row =
        one(tx, "SELECT files, digest FROM journals WHERE tenant_id = $1 AND epoch = $2", &[&tenant, &epoch]).await?;
    if let Some(totals) = known_totals(row.get(0), row.get(1))? {
        return Ok(totals);
    }
    let totals = count(tx, tenant, epoch).await?;
    set_totals(tx, tenant, epoch, totals).await?;
    Ok(totals)
}

/// The same, counted: for a journal from before there were totals, or a new one.
pub(super) async fn count(tx: &Transaction<'_>, tenant: Uuid, epoch: Uuid) -> Result<Totals, DbError> {
    let mut totals = Totals::default();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = all(
            tx,
            "SELECT path_hash, file_path, hash FROM current_files
             WHERE tenant_id = $1 AND epoch = $2 AND path_hash > $3 AND present ORDER BY path_hash LIMIT $4",
            &[&tenant, &epoch, &after, &PAGE],
        )
        .await?;
        for row in &rows {
            totals.add(row.get(1), hash(row.get(2))?.as_ref());
        }
        match rows.last() {
            Some(last) if rows.len() as i64 == PAGE => after = last.get(0),
            _ => break,
        }
    }
    Ok(totals)
}

async fn set_totals(tx: &Transaction<'_>, tenant: Uuid, epoch: Uuid, totals: Totals) -> Result<(), DbError> {
    run(
        tx,
        "UPDATE journals SET files = $3, digest = $4 WHERE tenant_id = $1 AND epoch = $2",
        &[&tenant, &epoch, &signed(totals.files), &totals.digest.to_bytes().as_slice()],
    )
    .await
    .map(drop)
}

/// Files that control has in a range, in the order of their paths; `None` when it has committed something else than
/// the range is about. `whole` says whether that is all of them; otherwise it is the first ones.
pub(crate) struct Ours {
    /// The files.
    pub(crate) files: Vec<ManifestFile>,
    /// Whether there are no more.
    pub(crate) whole: bool,
}

/// Reads at most `most` files of a range.
pub(crate) async fn range(db: &Db, tenant: Uuid, range: &ManifestRange, most: i64) -> Result<Option<Ours>, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    // The lock keeps a batch from being committed between the two statements.
    let acked = opt(
        &tx,
        "SELECT acked_seq FROM journals WHERE tenant_id = $1 AND epoch = $2 FOR SHARE",
        &[&tenant, &range.epoch],
    )
    .await?;
    if acked.is_none_or(|row| unsigned(row.get(0)) != range.seq) {
        return Ok(None);
    }
    let rows = in_range(&tx, tenant, range, most + 1).await?;
    let whole = rows.len() as i64 <= most;
    let mut files = rows
        .iter()
        .map(|row| Ok(ManifestFile { path: row.get(0), hash: hash(row.get(1))? }))
        .collect::<Result<Vec<_>, DbError>>()?;
    files.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    tx.commit().await?;
    Ok(Some(Ours { files, whole }))
}

async fn in_range(
    client: &impl GenericClient,
    tenant: Uuid,
    range: &ManifestRange,
    limit: i64,
) -> Result<Vec<tokio_postgres::Row>, DbError> {
    // No path is empty, so behind the empty one is everything.
    let after = range.after.as_deref().unwrap_or_default();
    match range.through.as_deref() {
        Some(through) => {
            all(
                client,
                "SELECT file_path, hash FROM current_files
                 WHERE tenant_id = $1 AND epoch = $2 AND present AND file_path > $3 AND file_path <= $4
                   AND left(file_path, 512) >= left($3, 512) AND left(file_path, 512) <= left($4, 512)
                 ORDER BY left(file_path, 512), file_path LIMIT $5",
                &[&tenant, &range.epoch, &after, &through, &limit],
            )
            .await
        }
        None => {
            all(
                client,
                "SELECT file_path, hash FROM current_files
                 WHERE tenant_id = $1 AND epoch = $2 AND present AND file_path > $3
                   AND left(file_path, 512) >= left($3, 512)
                 ORDER BY left(file_path, 512), file_path LIMIT $4",
                &[&tenant, &range.epoch, &after, &limit],
            )
            .await
        }
    }
}
