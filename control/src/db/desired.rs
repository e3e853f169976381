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
    let bumped = opt(
        tx,
        "UPDATE tenants SET generation = generation + 1, updated_at = now() WHERE id = $1 RETURNING generation",
        &[&tenant],
    )
    .await?;
    let Some(row) = bumped else {
        return Ok(Outcome::NoTenant);
    };
    let generation: i64 = row.get(0);
    let mut pushed = Vec::with_capacity(files.len());
    for file in files {
        let current = known(tx, tenant, file.path).await?;
        let Some(base) = base(file.expect, &current) else {
            return Ok(Outcome::Mismatch { current: current.latest });
        };
        pushed.push(store(tx, tenant, actor, generation, file, base).await?);
    }
    run(tx, "SELECT pg_notify($1, $2)", &[&CHANNEL, &tenant.to_string()]).await?;
    Ok(Outcome::Pushed(pushed))
}

/// The base to push with, or nothing when the precondition does not hold.
fn base(expect: Expect, current: &Known) -> Option<Base> {
    let holds = match expect {
        Expect::Force => return Some(Base::Any),
        Expect::Latest => true,
        Expect::Hash(hash) => current.latest == Some(hash),
        Expect::Present => current.latest.is_some(),
        Expect::Absent => current.latest.is_none(),
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
    let content_hash = file.content.map(|content| ContentHash::from_bytes(Sha256::digest(content).into()));
    let mut version = None;
    if let (Some(content), Some(content_hash)) = (file.content, content_hash) {
        contents::put(tx, tenant, &content_hash, content).await?;
        let row = one(
            tx,
            "INSERT INTO file_snapshots (tenant_id, file_path, hash, size, source, actor, generation, modified_at)
             VALUES ($1, $2, $3, $4, 'system', $5, $6, now()) RETURNING id",
            &[
                &tenant,
                &file.path,
                &content_hash.as_bytes().as_slice(),
                &signed(content.len() as u64),
                &actor,
                &generation,
            ],
        )
        .await?;
        version = Some(row.get(0));
    }
    run(
        tx,
        "INSERT INTO desired_files (tenant_id, file_path, generation, hash, base, actor)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant_id, path_hash) DO UPDATE SET
             generation = EXCLUDED.generation, hash = EXCLUDED.hash, base = EXCLUDED.base,
             actor = EXCLUDED.actor, pushed_at = now()",
        &[
            &tenant,
            &file.path,
            &generation,
            &content_hash.as_ref().map(|hash| hash.as_bytes().as_slice()),
            &base.to_string(),
            &actor,
        ],
    )
    .await?;
    audit::record(
        tx,
        audit::Entry {
            tenant: Some(tenant),
            actor,
            action: if content_hash.is_some() { "file.push" } else { "file.push_delete" },
            resource: "file",
            id: file.path.to_owned(),
            details: json!({"generation": generation, "hash": content_hash, "base": base}),
        },
    )
    .await?;
    Ok(Pushed { generation: unsigned(generation), hash: content_hash, version })
}

/// Desired files newer than `generation`.
pub(crate) async fn since(client: &impl GenericClient, tenant: Uuid, generation: u64) -> Result<Desired, DbError> {
    // One statement, so that the generation and the files are of the same moment.
    let rows = all(
        client,
        "SELECT t.generation, d.file_path, d.generation, d.hash, d.base, d.actor
         FROM tenants t
         LEFT JOIN desired_files d ON d.tenant_id = t.id AND d.generation > $2
         WHERE t.id = $1 ORDER BY d.generation, d.file_path",
        &[&tenant, &signed(generation)],
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
        });
    }
    Ok(desired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precondition_is_about_the_newest_version_and_the_base_about_the_disk() {
        let (disk, pushed) = (ContentHash::from_bytes([1; 32]), ContentHash::from_bytes([2; 32]));
        let current = Known { latest: Some(pushed), base: Base::Hash(disk) };
        assert_eq!(base(Expect::Latest, &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Hash(pushed), &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Hash(disk), &current), None);
        assert_eq!(base(Expect::Absent, &current), None);
        assert_eq!(base(Expect::Present, &current), Some(Base::Hash(disk)));
        assert_eq!(base(Expect::Force, &current), Some(Base::Any));
    }
}
