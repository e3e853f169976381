//! The connection pool, and what a database error means to a caller.

use std::time::Duration;

use deadpool_postgres::{
    GenericClient, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls, Row};

/// Connections of one control. A private cluster allows 50.
const CONNECTIONS: usize = 16;
/// Longest wait for a free or a new connection.
const WAIT: Duration = Duration::from_secs(5);

/// What went wrong in the database, as far as a caller can act on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// It does not answer now; later it may.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A unique constraint refused the row.
    #[error("the database already has such a row ({constraint})")]
    Duplicate {
        /// Name of the constraint.
        constraint: String,
    },
    /// A foreign key refused the row: what it refers to is gone.
    #[error("the database lacks the row that was referred to ({constraint})")]
    Missing {
        /// Name of the constraint.
        constraint: String,
    },
    /// Anything else; a mistake of ours.
    #[error("a database statement failed")]
    Query(#[source] tokio_postgres::Error),
    /// A stored value is not what the schema promises.
    #[error("the database holds a bad value: {0}")]
    Value(String),
}

impl From<tokio_postgres::Error> for DbError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Without a message from the server it is the connection or the conversion of a value.
            let io = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<std::io::Error>() || source.is::<tokio::time::error::Elapsed>());
            return if io || error.is_closed() { Self::Unavailable(error.into()) } else { Self::Query(error) };
        };
        let constraint = || db.constraint().unwrap_or("unnamed").to_owned();
        match db.code() {
            code if *code == SqlState::UNIQUE_VIOLATION => Self::Duplicate { constraint: constraint() },
            code if *code == SqlState::FOREIGN_KEY_VIOLATION => Self::Missing { constraint: constraint() },
            // Connection exceptions, too many connections, and every kind of "the server stops or starts".
            code if ["08", "53", "57"]
                .iter()
                .any(|class| code.code().starts_with(class))
                // A deadlock or a lost race: the same call may succeed later.
                || *code == SqlState::T_R_DEADLOCK_DETECTED
                || *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::LOCK_NOT_AVAILABLE =>
            {
                Self::Unavailable(error.into())
            }
            _ => Self::Query(error),
        }
    }
}

impl From<PoolError> for DbError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => match Self::from(error) {
                // Whatever stops us from connecting, a statement of ours did not fail.
                Self::Query(error) => Self::Unavailable(error.into()),
                other => other,
            },
            other => Self::Unavailable(other.into()),
        }
    }
}

/// The database of this control.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pool: Pool,
    config: Config,
}

impl Db {
    /// A pool; connects when first used.
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        let manager =
            Manager::from_config(bounded(&config), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(WAIT), create: Some(WAIT), recycle: Some(WAIT) })
            .build()?;
        Ok(Self { pool, config })
    }

    /// How to reach the database outside of the pool.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A connection.
    pub(crate) async fn client(&self) -> Result<Object, DbError> {
        Ok(self.pool.get().await?)
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), DbError> {
        one(&self.client().await?, "SELECT 1", &[]).await.map(drop)
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

/// The configuration of pooled connections. A request that is dropped half-way does not cancel its statement; this
/// bounds what it leaves behind. The operator's own options come last, so they win.
fn bounded(config: &Config) -> Config {
    let own = config.get_options().unwrap_or_default();
    let options = format!("-c statement_timeout=20000 -c lock_timeout=10000 {own}");
    let mut bounded = config.clone();
    bounded.options(options.trim_end());
    bounded
}

/// Parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// All rows, through the connection's statement cache.
pub(crate) async fn all(client: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<Vec<Row>, DbError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, params).await?)
}

/// The row, if there is one.
pub(crate) async fn opt(client: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<Option<Row>, DbError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_opt(&statement, params).await?)
}

/// The row that is always there.
pub(crate) async fn one(client: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<Row, DbError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_one(&statement, params).await?)
}

/// Number of rows changed.
pub(crate) async fn run(client: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<u64, DbError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.execute(&statement, params).await?)
}

/// Reads a hash column.
pub(crate) fn hash(bytes: Option<Vec<u8>>) -> Result<Option<winston_wire::ContentHash>, DbError> {
    bytes
        .map(|bytes| {
            <[u8; 32]>::try_from(bytes)
                .map(winston_wire::ContentHash::from_bytes)
                .map_err(|bytes| DbError::Value(format!("a hash of {} bytes", bytes.len())))
        })
        .transpose()
}

/// A counter as PostgreSQL keeps it. Values beyond `i64` are refused before they get here.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A counter as it was stored; never negative.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_options_are_kept() {
        let limits = "-c statement_timeout=20000 -c lock_timeout=10000";
        assert_eq!(bounded(&Config::new()).get_options(), Some(limits));
        let own: Config = "host=/run options='-c search_path=winston'".parse().unwrap();
        assert_eq!(bounded(&own).get_options(), Some(format!("{limits} -c search_path=winston").as_str()));
    }
}
