//! Everything that is SQL. One file per table group; callers see Rust values and [`DbError`].

pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod batch;
pub(crate) mod commit;
pub(crate) mod conflicts;
pub(crate) mod contents;
pub(crate) mod current;
pub(crate) mod desired;
mod effect;
pub(crate) mod files;
pub(crate) mod history;
pub(crate) mod instances;
pub(crate) mod migrate;
pub(crate) mod pool;
pub(crate) mod sessions;
pub(crate) mod sidecar_sync;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod verdicts;

pub(crate) use pool::{Db, DbError};
