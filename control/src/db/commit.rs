//! Commits batches of changes: contents' references, versions, changes, current files and totals in one transaction.
//! Every statement takes whole columns as arrays, so neither the number of statements nor of parameters depends on the
//! number of changes.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;
use winston_wire::{Action, Change, ChangeBatch, ChangeBatchAnswer, ContentHash, Source};

use super::pool::{all, run, signed};
use super::sessions::{self, Standing};
use super::{Db, DbError, batch, contents, current};

/// Commits what can be committed of a checked batch.
/// Nothing when the session that sent it is superseded.
pub(crate) async fn commit(
    db: &Db,
    tenant: Uuid,
    session: Uuid,
    incoming: &ChangeBatch,
) -> Result<Option<ChangeBatchAnswer>, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    // Held until the end: a session that takes over meanwhile waits, and then sees what was committed.
    if sessions::hold(&tx, tenant, session).await? == Standing::Superseded {
        return Ok(None);
    }
    // The row lock makes two copies of one batch follow each other; the second finds the first one's work.
    let journal = current::lock(&tx, tenant, incoming.epoch).await?;
    let needed: Vec<_> = incoming.changes.iter().filter_map(batch::needs).collect();
    let stored = contents::stored(&tx, tenant, &needed).await?;
    let plan = batch::plan(incoming, journal.acked, &stored.keys().copied().collect());
    let answer = |plan: batch::Plan<'_>| ChangeBatchAnswer { acked_seq: plan.acked, contents_wanted: plan.wanted };
    // A batch that only finds out what is wanted need not wait for the disk.
    if plan.commit.is_empty() && plan.lost.is_empty() {
        return Ok(Some(answer(plan)));
    }
    let mut totals = match journal.totals {
        Some(totals) => totals,
        None => current::count(&tx, tenant, incoming.epoch).await?,
    };
    if !plan.commit.is_empty() {
        let versions = link_versions(&tx, tenant, incoming.epoch, &plan.commit, &stored).await?;
        insert_changes(&tx, tenant, incoming.epoch, &plan.commit, &versions).await?;
        current::follow(&tx, tenant, incoming.epoch, &plan.commit, &versions, kept_time, &mut totals).await?;
    }
    let lost: Vec<i64> = plan.lost.iter().copied().map(signed).collect();
    run(
        &tx,
        "UPDATE journals SET acked_seq = $3, head_seq = greatest(head_seq, $3),
             lost_seqs = lost_seqs || $4, last_seen_at = now(), files = $5, digest = $6
         WHERE tenant_id = $1 AND epoch = $2",
        &[
            &tenant,
            &incoming.epoch,
            &signed(plan.acked),
            &lost,
            &signed(totals.files),
            &totals.digest.to_bytes().as_slice(),
        ],
    )
    .await?;
    tx.commit().await?;
    Ok(Some(answer(plan)))
}

/// Versions that control made when it accepted a push: the push's arrival on disk is not another one.
async fn pushed_versions(
    tx: &Transaction<'_>,
    tenant: Uuid,
    changes: impl Iterator<Item = (&Change, ContentHash)>,
) -> Result<HashMap<i64, i64>, DbError> {
    let pushed: Vec<_> = changes
        .filter(|(change, _)| change.source == Source::System && change.action != Action::Rename)
        .filter_map(|(change, hash)| Some((change, hash, change.generation?)))
        .collect();
    if pushed.is_empty() {
        return Ok(HashMap::new());
    }
    let seqs: Vec<i64> = pushed.iter().map(|(change, ..)| signed(change.seq)).collect();
    let keys: Vec<_> = pushed.iter().map(|(change, ..)| current::path_key(&change.path)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 32]>::as_slice).collect();
    let hashes: Vec<&[u8]> = pushed.iter().map(|(_, hash, _)| hash.as_bytes().as_slice()).collect();
    let generations: Vec<i64> = pushed.iter().map(|(.., generation)| signed(*generation)).collect();
    let rows = all(
        tx,
        "SELECT n.seq, s.id
         FROM unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::bytea[]) AS n (seq, path_hash, generation, hash)
         CROSS JOIN LATERAL (
             SELECT min(id) AS id FROM file_snapshots
             WHERE tenant_id = $1 AND path_hash = n.path_hash
               AND generation = n.generation AND hash = n.hash AND source = 'system'
         ) s
         WHERE s.id IS NOT NULL",
        &[&tenant, &seqs, &keys, &generations, &hashes],
    )
    .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// When a change was recorded, as precisely as the database keeps it. Cut off here, because the driver would round,
/// and a sidecar that compares has to know which.
fn kept_time(change: &Change) -> Timestamp {
    Timestamp::from_microsecond(change.timestamp.as_microsecond()).unwrap_or(change.timestamp)
}

/// Finds or makes the version of every change that has content; by sequence number.
async fn link_versions(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    changes: &[&Change],
    stored: &HashMap<ContentHash, i64>,
) -> Result<HashMap<i64, i64>, DbError> {
    let with_content = || changes.iter().filter_map(|change| Some((*change, batch::needs(change)?)));
    let mut versions = pushed_versions(tx, tenant, with_content()).await?;
    let new: Vec<_> = with_content().filter(|(change, _)| !versions.contains_key(&signed(change.seq))).collect();
    if new.is_empty() {
        return Ok(versions);
    }
    let column = |of: fn(&Change) -> i64| new.iter().map(|(change, _)| of(change)).collect();
    let seqs: Vec<i64> = column(|change| signed(change.seq));
    let paths: Vec<&str> = new.iter().map(|(change, _)| change.path.as_str()).collect();
    let hashes: Vec<&[u8]> = new.iter().map(|(_, hash)| hash.as_bytes().as_slice()).collect();
    let sources: Vec<&str> = new.iter().map(|(change, _)| change.source.as_str()).collect();
    let actors: Vec<Option<&str>> = new.iter().map(|(change, _)| change.actor.as_deref()).collect();
    let generations: Vec<Option<i64>> = new.iter().map(|(change, _)| change.generation.map(signed)).collect();
    let times: Vec<Timestamp> = new.iter().map(|(change, _)| kept_time(change)).collect();
    let previous: Vec<Option<&str>> = new.iter().map(|(change, _)| change.previous_path.as_deref()).collect();
    // The size is that of the stored content: what a sidecar says is not needed here. Without one the row would be refused.
    let sizes: Vec<i64> = new.iter().map(|(_, hash)| stored.get(hash).copied().unwrap_or(0)).collect();
    let rows = all(
        tx,
        "INSERT INTO file_snapshots
             (tenant_id, epoch, seq, file_path, hash, size, source, actor, generation, modified_at,
              previous_path)
         SELECT $1, $2, n.* FROM unnest($3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::text[], $8::text[],
              $9::bigint[], $10::timestamptz[], $11::text[]) AS n
         ON CONFLICT (tenant_id, epoch, seq) DO NOTHING
         RETURNING seq, id",
        &[&tenant, &epoch, &seqs, &paths, &hashes, &sizes, &sources, &actors, &generations, &times, &previous],
    )
    .await?;
    versions.extend(rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1))));
    Ok(versions)
}

async fn insert_changes(
    tx: &Transaction<'_>,
    tenant: Uuid,
    epoch: Uuid,
    changes: &[&Change],
    versions: &HashMap<i64, i64>,
) -> Result<(), DbError> {
    let seqs: Vec<i64> = changes.iter().map(|change| signed(change.seq)).collect();
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    let actions: Vec<&str> = changes.iter().map(|change| change.action.as_str()).collect();
    let sources: Vec<&str> = changes.iter().map(|change| change.source.as_str()).collect();
    let actors: Vec<Option<&str>> = changes.iter().map(|change| change.actor.as_deref()).collect();
    let times: Vec<Timestamp> = changes.iter().map(|change| kept_time(change)).collect();
    let from: Vec<Option<&str>> = changes.iter().map(|change| change.previous_path.as_deref()).collect();
    let hashes: Vec<Option<&[u8]>> =
        changes.iter().map(|change| change.hash.as_ref().map(|hash| hash.as_bytes().as_slice())).collect();
    let previous: Vec<Option<&[u8]>> = changes
        .iter()
        .map(|change| {
            let hash = change.previous_hash.as_ref()?;
            Some(hash.as_bytes().as_slice())
        })
        .collect();
    let sizes: Vec<Option<i64>> = changes.iter().map(|change| change.size.map(signed)).collect();
    let generations: Vec<Option<i64>> = changes.iter().map(|change| change.generation.map(signed)).collect();
    let omitted: Vec<bool> = changes.iter().map(|change| change.content_omitted).collect();
    let snapshots: Vec<Option<i64>> = seqs.iter().map(|seq| versions.get(seq).copied()).collect();
    run(
        tx,
        "INSERT INTO file_changes
             (tenant_id, epoch, seq, file_path, change_type, source, changed_by, changed_at, hash,
              previous_hash, size, generation, content_omitted, snapshot_id,
              previous_path)
         SELECT $1, $2, n.* FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
              $8::timestamptz[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[], $13::bool[], $14::bigint[],
              $15::text[]) AS n
         ON CONFLICT (tenant_id, epoch, seq) DO NOTHING",
        &[
            &tenant,
            &epoch,
            &seqs,
            &paths,
            &actions,
            &sources,
            &actors,
            &times,
            &hashes,
            &previous,
            &sizes,
            &generations,
            &omitted,
            &snapshots,
            &from,
        ],
    )
    .await
    .map(drop)
}
