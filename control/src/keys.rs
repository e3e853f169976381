//! `winston-control key …`: API keys, while the server runs or, with `DATABASE_URL`, while it does not.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use uuid::Uuid;

use crate::cluster;
use crate::config::Config;
use crate::db::{Db, api_keys};
use crate::token::{TokenHash, new_api_key};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Who did it, in the audit log.
const ACTOR: &str = "command line";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Make a key with this name.
    Add(String),
    /// Show every key, never its text.
    List,
    /// End the key with this id.
    Revoke(Uuid),
}

/// There is no valid key with this id.
#[derive(Debug, thiserror::Error)]
#[error("there is no valid key {0}; `winston-control key list` shows them")]
pub(crate) struct NoSuchKey(Uuid);

/// Does it; gives what to print to standard output.
pub(crate) async fn run(config: &Config, command: Command) -> anyhow::Result<String> {
    let mut connection = match &config.database_url {
        Some(url) => url.0.clone(),
        None => cluster::running(&config.data_dir)?.with_context(|| {
            format!(
                "no private database runs below {}; start winston-control, or set WINSTON_CONTROL_DATA_DIR or DATABASE_URL",
                config.data_dir.display()
            )
        })?,
    };
    connection.connect_timeout(CONNECT_TIMEOUT).application_name("winston-control key");
    let db = Db::new(connection)?;
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    match command {
        Command::Add(name) => {
            let key = new_api_key()?;
            let id = api_keys::add(&tx, &name, TokenHash::of(key.expose())).await?;
            api_keys::record(&tx, ACTOR, "key.add", id, json!({"name": name})).await?;
            tx.commit().await?;
            eprintln!("Key {id}; it is not shown again.");
            Ok(format!("{}\n", key.expose()))
        }
        Command::List => {
            let mut text = "id\tname\tcreated\tlast used\trevoked\n".to_owned();
            for key in api_keys::list(&tx).await? {
                let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
                // A name is what somebody once typed; it must not end the line.
                let name = key.name.replace(char::is_control, " ");
                let (created, used, revoked) = (key.created_at, time(key.last_used_at), time(key.revoked_at));
                text.push_str(&format!("{}\t{name}\t{created}\t{used}\t{revoked}\n", key.id));
            }
            Ok(text)
        }
        Command::Revoke(id) => {
            if !api_keys::revoke(&tx, id).await? {
                return Err(NoSuchKey(id).into());
            }
            api_keys::record(&tx, ACTOR, "key.revoke", id, json!({})).await?;
            tx.commit().await?;
            Ok(format!("Key {id} is revoked.\n"))
        }
    }
}
