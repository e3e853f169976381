//! What the owner task waits for. Each of these may be dropped and called again, and waits for ever for what is not there.

use futures_util::future::BoxFuture;
use tokio::signal::unix;
use tokio::time::{Instant, sleep_until};

use super::exit::Exit;
use super::owner::Look;
use super::process::Process;
use super::reaped::ReapedEnds;
use super::state::Probe;

pub(super) async fn ended(process: &mut Option<Process>) -> Exit {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn answer<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

pub(super) async fn probed(probe: &mut Option<(Probe, BoxFuture<'static, Look>)>) -> (Probe, Look) {
    match probe {
        Some((kind, answer)) => (*kind, answer.await),
        None => std::future::pending().await,
    }
}

pub(super) async fn told(reaped: Option<&mut ReapedEnds>) {
    match reaped {
        Some(ends) => ends.read().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn child_ended(children: &mut Option<unix::Signal>) {
    match children {
        Some(signal) => {
            if signal.recv().await.is_none() {
                // Never on Unix; if it were, this must not become a busy loop.
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
