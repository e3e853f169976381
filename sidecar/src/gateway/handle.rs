//! The gateway, as the rest of the sidecar sees it.
//!
//! Requests go to the owner task and are answered by it; everything else is read from what they share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use winston_wire::GatewayStatus;

use super::{
    Answer, Command, GatewayError, Level, LogCounts, LogLine, LogReader, LogsFrom, Memory, Request, Shared, Writer,
    descendants, news, suspend,
};

/// Longest wait at the end for the last lines to be written to the log files.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Longest wait for the owner task to let go of the process: it may be sweeping up.
const RELEASE: Duration = Duration::from_secs(5);

/// The gateway, as the rest of the sidecar sees it.
#[derive(Clone)]
pub(crate) struct GatewayHandle {
    pub(super) shared: Arc<Shared>,
    /// `None` when there is no gateway to run.
    pub(super) inbox: Option<mpsc::Sender<Command>>,
    pub(super) longest_stop: Duration,
}

impl GatewayHandle {
    /// The present state. What it says in words has no secrets in it.
    pub(crate) fn status(&self) -> GatewayStatus {
        self.cleaned(self.shared.status.borrow().clone())
    }

    fn cleaned(&self, mut status: GatewayStatus) -> GatewayStatus {
        status.reason = self.redact(&status.reason);
        if let Some(exit) = &mut status.last_exit {
            exit.meaning = self.redact(&exit.meaning);
            exit.evidence = exit.evidence.as_deref().map(|line| self.redact(line));
        }
        status
    }

    /// An answer as it may be shown: what the gateway said has an end and no secrets.
    fn shown(&self, answer: Answer) -> Answer {
        let excerpt = |words: String| self.shared.logs.excerpt(&words);
        answer.map(|status| self.cleaned(status)).map_err(|error| match error {
            GatewayError::NotStarted(why) => GatewayError::NotStarted(self.redact(&why)),
            GatewayError::Occupied(why) => GatewayError::Occupied(excerpt(why)),
            GatewayError::Refused(why) => GatewayError::Refused(excerpt(why)),
            error => error,
        })
    }

    /// What it takes of the machine's memory, at most a second ago. May read `/proc`, which takes some milliseconds; `None` without a
    /// gateway to run.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.inbox.as_ref()?;
        let pid = self.shared.status.borrow().pid;
        Some(self.shared.memory.get(pid, || descendants::tree(self.shared.realm)))
    }

    /// The present state and every later one; fast changes may be skipped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<GatewayStatus> {
        self.shared.status.subscribe()
    }

    /// Starts it unless it runs; a crash loop is forgiven. Answers when the process exists, not when it is ready.
    pub(crate) async fn start(&self) -> Answer {
        self.ask(Request::Start).await
    }

    /// Stops it and keeps it stopped. Answers when the process and everything that it started are gone.
    pub(crate) async fn stop(&self) -> Answer {
        self.ask(Request::Stop).await
    }

    /// Stops it if it runs, then starts it. Answers when the new process exists.
    pub(crate) async fn restart(&self) -> Answer {
        self.ask(Request::Restart).await
    }

    /// Has it finish what it does, for at most `wait`, and take nothing new until it is resumed; for half an hour at most. Goes on when the
    /// future is dropped. `on_trial`: whether a configuration is being tried out; from when it is asked on [`GatewayHandle::is_fenced`] holds.
    pub(crate) async fn suspend(&self, wait: Duration, on_trial: impl Fn() -> bool + Send + 'static) -> Answer {
        let suspending = tokio::spawn(suspend::suspend(Arc::clone(&self.shared), wait, on_trial));
        self.shown(suspending.await.unwrap_or(Err(GatewayError::ShuttingDown)))
    }

    /// Whether it takes no work, or is about to: nothing can be tried out with it then.
    pub(crate) fn is_fenced(&self) -> bool {
        self.shared.is_fenced()
    }

    /// Ends that.
    pub(crate) async fn resume(&self) -> Answer {
        let resuming = tokio::spawn(suspend::resume(Arc::clone(&self.shared)));
        self.shown(resuming.await.unwrap_or(Err(GatewayError::ShuttingDown)))
    }

    /// Says that `openclaw.json` appeared or changed, and not by the gateway's own hand. Ends the wait for it and the wait of a backoff or crash
    /// loop; a running gateway notices by itself. To be called too often does no harm.
    pub(crate) fn config_ready(&self) {
        self.shared.config_ready.notify_one();
    }

    /// The same of a version that somebody wrote, where that is news (see `news`).
    pub(crate) fn config_changed(&self, writer: Writer) {
        if news::is_news(&self.shared.status.borrow(), writer) {
            self.config_ready();
        }
    }

    /// The last `limit` lines of the gateway's output that are in memory, oldest first. Never blocks.
    pub(crate) fn logs(&self, limit: usize) -> Vec<LogLine> {
        self.shared.logs.tail(limit)
    }

    /// The last `limit` lines of at least a level, oldest first, from the log files too. Blocks on the disk.
    pub(crate) fn last_logs(&self, limit: usize, least: Level) -> Vec<LogLine> {
        self.shared.logs.last(limit, least)
    }

    /// The same from memory; an error with what there is where the log files may have more.
    pub(crate) fn last_logs_in_memory(&self, limit: usize, least: Level) -> Result<Vec<LogLine>, Vec<LogLine>> {
        self.shared.logs.last_in_memory(limit, least)
    }

    /// Reads the gateway's output from a place on.
    pub(crate) fn read_logs(&self, from: LogsFrom, least: Level) -> LogReader {
        self.shared.logs.reader(from, least)
    }

    /// Number of the newest line.
    pub(crate) fn logs_head(&self) -> u64 {
        self.shared.logs.head()
    }

    /// What was kept and what was not.
    pub(crate) fn logs_counts(&self) -> LogCounts {
        self.shared.logs.counts()
    }

    /// Something that OpenClaw wrote, without secrets: for whoever shows it elsewhere than in the log.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.shared.logs.redact(text)
    }

    /// Stops the gateway for good and ends the owner task. Returns within the limits of a stop, come what may.
    pub(crate) async fn shutdown(&self) {
        let ended = tokio::time::timeout(
            // The limits of each step are the owner's; this one only guards against the owner.
            self.longest_stop + Duration::from_secs(5),
            self.ask(Request::Shutdown),
        );
        match ended.await {
            Ok(Ok(_) | Err(GatewayError::Disabled | GatewayError::ShuttingDown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "gateway not shut down"),
            Err(_) => tracing::warn!("gateway not shut down in time"),
        }
        self.drain_logs().await;
    }

    /// Without it the last lines may be missing in the files, and the next sidecar gives their numbers out again.
    async fn drain_logs(&self) {
        let logs = self.shared.logs.clone();
        let _ = tokio::task::spawn_blocking(move || logs.drain(LAST_LINES)).await;
    }

    /// Leaves the gateway running for the next sidecar and ends the owner task. Only below entrypoint: alone it would be
    /// nobody's.
    pub(crate) async fn release(&self) {
        let released = async {
            let answer = self.ask(Request::Release).await;
            // Its end is the end of those who read the output, too: what is in the pipes then is the next sidecar's.
            if let (Ok(_), Some(inbox)) = (&answer, &self.inbox) {
                inbox.closed().await;
            }
            answer
        };
        match tokio::time::timeout(RELEASE, released).await {
            Ok(Ok(_) | Err(GatewayError::Disabled | GatewayError::ShuttingDown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "gateway not released"),
            // What was noted last has to do.
            Err(_) => tracing::warn!("gateway not released in time"),
        }
        self.drain_logs().await;
    }

    async fn ask(&self, request: Request) -> Answer {
        let inbox = self.inbox.as_ref().ok_or(GatewayError::Disabled)?;
        let (answer, answered) = oneshot::channel();
        inbox.send(Command { request, answer }).await.map_err(|_| GatewayError::ShuttingDown)?;
        self.shown(answered.await.unwrap_or(Err(GatewayError::ShuttingDown)))
    }
}
