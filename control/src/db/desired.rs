//! `desired_files`: what control wants on a tenant's disk, and how a push gets there.

use deadpool_postgres::{GenericClient, Transaction};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use winston_wire::{Base, ContentHash, Desired, DesiredFile};

use super::files::{Known, known};
use super::pool::{all, hash, one, opt, run, signed, unsigned};
use super::{Db, DbError, audit, contents};

/// Channel on which a push wakes the long polls of its tenant (payload: the tenant's id).
pub(crate) const CHANNEL: &str = "winston_desired";

/// What a pusher knows about the version that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Nothing: whatever is newest at control is taken as seen.
    Latest,
    /// The newest version has this hash (`If-Match`).
    Hash(ContentHash),
    /// There is some version (`If-Match: *`).
    Present,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// Replace whatever is on disk, even what control has not seen yet (`force`).
    Force,
}

/// One file of a push; `content` is absent for a delete.
pub(crate) struct Push<'a> {
    /// Checked path.
    pub(crate) path: &'a str,
    /// Wanted bytes.
    pub(crate) content: Option<&'a [u8]>,
    /// Precondition.
    pub(crate) expect: Expect,
    /// The content is a merge patch: keys that control owns from then on; without a content none.
    pub(crate) merge: bool,
}

/// An accepted push.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    /// Its generation.
    pub(crate) generation: u64,
    /// Hash of the content; none for a delete.
    pub(crate) hash: Option<ContentHash>,
    /// Id of the new version; none for a delete.
    pub(crate) version: Option<i64>,
}

/// How a push ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every file is accepted.
    Pushed(Vec<Pushed>),
    /// A precondition does not hold; nothing was changed.
    Mismatch {
        /// What control knows instead.
        current: Option<ContentHash>,
    },
    /// There is no such tenant.
    NoTenant,
}

/// Pushes files as one generation.
pub(crate) async fn push(db: &Db, tenant: Uuid, actor: &str, files: &[Push<'_>]) -> Result<Outcome, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let outcome = push_in(&tx, tenant, actor, files).await?;
    if matches!(outcome, Outcome::Pushed(_)) {
        tx.commit().await?;
    }
    Ok(outcome)
}

/// The same within a transaction of the caller, which must not commit unless the outcome is [`Outcome::Pushed`].
pub(crate) async fn push_in(
    tx: &Transaction<'_>,
    tenant: Uuid,
    actor: &str,
    files: &[Push<'_>],
) -> Result<Outcome, DbError> {
    let Some(generation) = next_generation(tx, tenant).await? else {
        return Ok(Outcome::NoTenant);
    };
    let mut pushed = Vec::with_capacity(files.len());
    for file in files {
        if file.merge {
            // It holds for whatever the tenant makes of the file, so there is no version that it is for.
            pushed.push(store(tx, tenant, actor, generation, file, Base::Any).await?);
            continue;
        }
        let current = known(tx, tenant, file.path).await?;
        let Some(base) = base(file.expect, &current) else {
            return Ok(Outcome::Mismatch { current: current.latest });
        };
        pushed.push(store(tx, tenant, actor, generation, file, base).await?);
    }
    wake(tx, tenant).await?;
    Ok(Outcome::Pushed(pushed))
}

/// The base to push with, or nothing when the precondition does not hold.
fn base(expect: Expect, current: &Known) -> Option<Base> {
    let holds = match expect {
        Expect::Force => return Some(Base::Any),
        Expect::Latest => true,
        Expect::Hash(hash) => current.latest == Some(hash),
        Expect::Present => current.present,
        Expect::Absent => !current.present,
    };
    holds.then_some(current.base)
}

async fn store(
    tx: &Transaction<'_>,
    tenant: Uuid,
    actor: &str,
    generation: i64,
    file: &Push<'_>,
    base: Base,
) -> Result<Pushed, DbError> {
    let mut wanted = None;
    if let Some(content) = file.content {
        let content_hash = ContentHash::from_bytes(Sha256::digest(content).into());
        contents::put(tx, tenant, &content_hash, content).await?;
        wanted = Some(content_hash);
    }
    let pushed =
        set(tx, tenant, actor, generation, Want { path: file.path, hash: wanted, base, merge: file.merge }).await?;
    audit::record(
        tx,
        audit::Entry {
            tenant: Some(tenant),
            actor,
            action: match (file.merge, wanted.is_some()) {
                (true, true) => "file.own_keys",
                (true, false) => "file.disown_keys",
                (false, true) => "file.push",
                (false, false) => "file.push_delete",
            },
            resource: "file",
            id: file.path.to_owned(),
            details: json!({"generation": generation, "hash": wanted, "base": base}),
        },
    )
    .await?;
    Ok(pushed)
}

/// What a path should have.
pub(super) struct Want<'a> {
    /// The path.
    pub(super) path: &'a str,
    /// Hash of a content that is stored; none for a delete.
    pub(super) hash: Option<ContentHash>,
    /// What the disk should have before.
    pub(super) base: Base,
    /// See [`Push::merge`].
    pub(super) merge: bool,
}

/// Takes the next generation, and with it the lock that puts the pushes of a tenant in order. Nothing, when there is
/// no such tenant.
pub(super) async fn next_generation(tx: &Transaction<'_>, tenant: Uuid) -> Result<Option<i64>, DbError> {
    let row = opt(
        tx,
        "UPDATE tenants SET generation = generation + 1, updated_at = now() WHERE id = $1 RETURNING generation",
        &[&tenant],
    )
    .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Wakes the tenant's long polls once the transaction is committed.
pub(super) async fn wake(tx: &Transaction<'_>, tenant: Uuid) -> Result<(), DbError> {
    run(tx, "SELECT pg_notify($1, $2)", &[&CHANNEL, &tenant.to_string()]).await.map(drop)
}

/// Makes it the newest push of its path: a version, unless it is a delete or owned keys, and the desired file.
pub(super) async fn set(
    tx: &Transaction<'_>,
    tenant: Uuid,
    actor: &str,
    generation: i64,
    want: Want<'_>,
) -> Result<Pushed, DbError> {
    let wanted = want.hash.as_ref().map(|hash| hash.as_bytes().as_slice());
    let mut version = None;
    if wanted.is_some() && !want.merge {
        let row = one(
            tx,
            "INSERT INTO file_snapshots (tenant_id, file_path, hash, size, source, actor, generation, modified_at)
             SELECT $1, $2, hash, size, 'system', $4, $5, now() FROM file_contents WHERE tenant_id = $1 AND hash = $3
             RETURNING id",
            &[&tenant, &want.path, &wanted, &actor, &generation],
        )
        .await?;
        version = Some(row.get(0));
    }
    run(
        tx,
        "INSERT INTO desired_files (tenant_id, file_path, generation, hash, base, actor, merge)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (tenant_id, path_hash, merge) DO UPDATE SET
             generation = EXCLUDED.generation, hash = EXCLUDED.hash, base = EXCLUDED.base,
             actor = EXCLUDED.actor, pushed_at = now()",
        &[&tenant, &want.path, &generation, &wanted, &want.base.to_string(), &actor, &want.merge],
    )
    .await?;
    Ok(Pushed { generation: unsigned(generation), hash: want.hash, version })
}

/// Most files of an answer, unless one generation has more.
const PAGE_FILES: usize = 500;
/// About the most bytes of paths and actors in an answer, as JSON, unless one generation has more.
const PAGE_BYTES: usize = 4 << 20;

/// Desired files newer than `generation`, whole generations only. Where not all fit into one answer, its generation is
/// the last one that is contained, and the sidecar comes again from there.
pub(crate) async fn since(client: &impl GenericClient, tenant: Uuid, generation: u64) -> Result<Desired, DbError> {
    // One statement, so that the generation and the files are of the same moment. Files of one push are of one
    // generation, and only they; `WITH TIES` keeps those together.
    let rows = all(
        client,
        "SELECT t.generation, d.file_path, d.generation, d.hash, d.base, d.actor, d.merge
         FROM tenants t
         LEFT JOIN LATERAL (
             SELECT * FROM desired_files WHERE tenant_id = t.id AND generation > $2
             ORDER BY generation FETCH FIRST $3 ROWS WITH TIES
         ) d ON true
         WHERE t.id = $1 ORDER BY d.generation, d.file_path",
        &[&tenant, &signed(generation), &((PAGE_FILES + 1) as i64)],
    )
    .await?;
    let mut desired = Desired { generation, files: Vec::new() };
    for row in rows {
        desired.generation = unsigned(row.get(0));
        let Some(path) = row.get(1) else {
            continue;
        };
        let base: String = row.get(4);
        desired.files.push(DesiredFile {
            path,
            generation: unsigned(row.get(2)),
            hash: hash(row.get(3))?,
            base: base.parse().map_err(|_| DbError::Value(format!("base {base:?}")))?,
            actor: row.get(5),
            merge: row.get(6),
        });
    }
    Ok(page(desired, PAGE_FILES, PAGE_BYTES))
}

/// Most bytes that a text takes as JSON.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' => 2,
        // `\u0001`
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// Cuts an answer behind the last generation with which it stays within the limits; the first one stays in any case.
fn page(mut desired: Desired, most: usize, most_bytes: usize) -> Desired {
    // The rest of an entry is less than 300 bytes.
    let mut sum = 0;
    let mut end = 0;
    for group in desired.files.chunk_by(|one, next| one.generation == next.generation) {
        let cost = |file: &DesiredFile| 300 + json_bytes(&file.path) + file.actor.as_deref().map_or(0, json_bytes);
        sum += group.iter().map(cost).sum::<usize>();
        if end > 0 && (end + group.len() > most || sum > most_bytes) {
            break;
        }
        end += group.len();
    }
    if end < desired.files.len() {
        desired.files.truncate(end);
        desired.generation = desired.files.last().map_or(desired.generation, |file| file.generation);
    }
    desired
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_whole_generations_and_lose_nothing(
            groups in prop::collection::vec((1u64..4, 1usize..5), 0..12),
            most in 1usize..8,
            most_bytes in 1usize..3000,
        ) {
            let mut generation = 0;
            let mut all = Vec::new();
            for (step, files) in groups {
                generation += step;
                for number in 0..files {
                    let path = format!("f{generation}-{number}");
                    all.push(DesiredFile { path, generation, hash: None, base: Base::Any, actor: None, merge: false });
                }
            }
            let newest = generation + 2;
            let (mut seen, mut from) = (Vec::new(), 0);
            loop {
                let files = all.iter().filter(|file| file.generation > from).cloned().collect();
                let answer = page(Desired { generation: newest, files }, most, most_bytes);
                prop_assert!(answer.generation > from);
                seen.extend(answer.files);
                from = answer.generation;
                if from == newest {
                    break;
                }
                // A cut answer has all files up to its generation.
                prop_assert_eq!(seen.len(), all.iter().filter(|file| file.generation <= from).count());
            }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_precondition_is_about_the_newest_version_and_the_base_about_the_disk() {
        let (disk, pushed) = (ContentHash::from_bytes([1; 32]), ContentHash::from_bytes([2; 32]));
        let current = Known { latest: Some(pushed), present: true, base: Base::Hash(disk) };
        assert_eq!(base(Expect::Latest, &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Hash(pushed), &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Hash(disk), &current), None);
        assert_eq!(base(Expect::Absent, &current), None);
        assert_eq!(base(Expect::Present, &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Force, &current), Some(Base::Any));
        // Over the size limit: it is there, with no hash that anybody could name.
        let large = Known { latest: None, present: true, base: Base::Absent };
        assert_eq!(base(Expect::Present, &large), Some(Base::Absent));
        assert_eq!(base(Expect::Absent, &large), None);
        assert_eq!(base(Expect::Hash(pushed), &large), None);
    }
}
