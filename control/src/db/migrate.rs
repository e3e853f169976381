//! Brings the schema up to date at start.

use tokio_postgres::{Config, NoTls};

use super::DbError;

/// Any number; the same in every control that shares a database.
const LOCK: i64 = 0x77_69_6e_73_74_6f_6e;

#[allow(unreachable_pub, missing_docs, clippy::all)]
mod embedded {
    refinery::embed_migrations!("src/db/migrations");
}

/// Why the schema is not up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    /// The database did not answer.
    #[error("cannot reach the database")]
    Database(#[from] DbError),
    /// A migration failed, or an applied one is not the one that this program carries.
    #[error("cannot migrate the database")]
    Migration(#[from] refinery::Error),
}

/// Applies what is missing, on a connection of its own.
///
/// refinery takes no lock, so of two controls that start at once one would fail; the advisory lock makes it wait.
/// It belongs to the session and goes with it.
pub(crate) async fn run(config: &Config) -> Result<(), MigrateError> {
    let (mut client, connection) = config.connect(NoTls).await.map_err(DbError::from)?;
    let connection = tokio::spawn(connection);
    let result = async {
        // A large table takes as long as it takes, and whoever waits for it too, whatever the role's own limit is.
        client.execute("SET statement_timeout = 0", &[]).await.map_err(DbError::from)?;
        client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(DbError::from)?;
        let report = embedded::migrations::runner().run_async(&mut client).await?;
        for migration in report.applied_migrations() {
            tracing::info!(migration = %migration, "migration applied");
        }
        Ok(())
    }
    .await;
    drop(client);
    connection.abort();
    result
}
