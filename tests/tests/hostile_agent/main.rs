//! An agent that turns against its host.
//!
//! A real entrypoint as PID 1 starts a real sidecar, and that starts, in place of OpenClaw, a copy of this program as the gateway's user
//! (`attempts`, one line each with what has to come of it). It tries what a shell of the agent could, and writes down what
//! came of it. Afterwards the test looks from outside at what the agent may have changed.
//!
//! The same attempts run twice more. As root's own gateway, where nothing protects, they must get through: an attempt that fails
//! there proves nothing here. And as a gateway of an ordinary user who also runs the sidecar, as in development: memory and token are out of
//! reach there too.

mod attempts;
mod files;
mod memory;
mod power;
mod secrets;
mod stage;

use anyhow::{Context as _, Result, ensure};
use winston_tests::process::{is_root, namespaces, skip};

use attempts::{Class, Note};
use stage::{Container, Place, Stage};

/// User of the agent; nobody else's on any machine.
const AGENT: u32 = 64_001;

fn possible(test: &str) -> bool {
    let reason = if is_root() { namespaces().err() } else { Some("only root can start a gateway as another user") };
    reason.inspect(|reason| skip(test, reason)).is_none()
}

/// Not a test of its own: what runs in the gateway's place.
#[test]
#[ignore = "the other tests start it as the gateway"]
fn the_agent() -> Result<()> {
    attempts::run()
}

#[test]
fn the_agent_of_a_container_gets_nowhere() -> Result<()> {
    if !possible("the_agent_of_a_container_gets_nowhere") {
        return Ok(());
    }
    gets_nowhere("in a container", Container::Usual)
}

#[test]
fn the_agent_of_a_privileged_container_gets_nowhere() -> Result<()> {
    if !possible("the_agent_of_a_privileged_container_gets_nowhere") {
        return Ok(());
    }
    gets_nowhere("in a privileged container", Container::Privileged)
}

fn gets_nowhere(where_: &str, container: Container) -> Result<()> {
    let stage = Stage::set(Place::In(container), Some(AGENT))?;
    let before = stage.protected()?;
    let notes = stage.play(Class::ALL, false)?;
    tell(where_, &notes);
    let through: Vec<_> = notes.iter().filter(|note| note.got_through).collect();
    ensure!(through.is_empty(), "got through: {through:#?}");
    ensure!(notes.len() >= 20, "{} attempts", notes.len());
    stage.unharmed(&before)
}

#[test]
fn the_attempts_get_through_where_nothing_protects() -> Result<()> {
    if !possible("the_attempts_get_through_where_nothing_protects") {
        return Ok(());
    }
    let notes = Stage::set(Place::In(Container::Privileged), None)?.play(Class::ALL, true)?;
    tell("as root without WINSTON_GATEWAY_UID", &notes);
    let refused: Vec<_> = notes.iter().filter(|note| !note.got_through && note.root_can).collect();
    ensure!(refused.is_empty(), "these attempts prove nothing: {refused:#?}");
    Ok(())
}

#[test]
fn an_agent_of_the_same_user_reads_no_memory_and_no_token() -> Result<()> {
    if !possible("an_agent_of_the_same_user_reads_no_memory_and_no_token") {
        return Ok(());
    }
    let stage = Stage::set(Place::AsUser(AGENT), None)?;
    let notes = stage.play(&[Class::Memory, Class::Token], false)?;
    tell("as the same user", &notes);
    let through: Vec<_> = notes.iter().filter(|note| note.got_through).collect();
    ensure!(through.is_empty(), "got through: {through:#?}");
    stage.said("the gateway runs as the same user as this process")
}

fn tell(where_: &str, notes: &[Note]) {
    let through = notes.iter().filter(|note| note.got_through).count();
    println!("{where_}: {} attempts, {through} got through", notes.len());
    for Note { attempt, outcome, got_through, .. } in notes {
        println!("  {} {attempt}: {outcome}", if *got_through { "through" } else { "refused" });
    }
}

/// Reads a file of ours that must be there.
fn read_json(path: &std::path::Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}
