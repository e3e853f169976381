//! Handlers, one file per group of routes. They hold no SQL.

pub(super) mod config;
pub(super) mod conflicts;
pub(super) mod contents;
pub(super) mod files;
pub(super) mod health;
pub(super) mod history;
pub(super) mod instances;
pub(super) mod sidecar;
pub(super) mod tenants;
pub(super) mod tokens;
