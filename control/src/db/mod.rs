//! Everything that is SQL. One file per table group; callers see Rust values and [`DbError`].

pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod batch;
pub(crate) mod contents;
pub(crate) mod desired;
pub(crate) mod files;
pub(crate) mod instances;
pub(crate) mod migrate;
pub(crate) mod pool;
pub(crate) mod sidecar_sync;
pub(crate) mod tenants;
pub(crate) mod tokens;

pub(crate) use pool::{Db, DbError};
