//! How processes ended that entrypoint has reaped: the exit status of an adopted gateway is known to nobody else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use winston_wire::Reaped;

use super::exit::Exit;

/// The reading end, and the one process whose end matters.
pub(super) struct ReapedEnds {
    pipe: AsyncFd<OwnedFd>,
    watched: i32,
    /// Its end, if it was among what was read.
    exit: Option<Exit>,
}

impl ReapedEnds {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe: crate::sys::readable(pipe)?, watched: 0, exit: None })
    }

    /// Remembers the end of this process, when it is told, and of no other.
    pub(super) fn watch(&mut self, pid: i32) {
        (self.watched, self.exit) = (pid, None);
    }

    /// How the watched process ended. Entrypoint tells it with the very wait that reaps it, so it is there at once or, after
    /// thousands of other ends that nobody read, lost.
    pub(super) async fn exit(&mut self, limit: Duration) -> Exit {
        let told = async {
            loop {
                if let Some(exit) = self.exit.take() {
                    return exit;
                }
                self.read().await;
            }
        };
        timeout(limit, told).await.unwrap_or(Exit::Unknown)
    }

    /// Waits until there is something, and reads it: so there is room for the ends to come. May be dropped and called again.
    pub(super) async fn read(&mut self) {
        match self.pipe.readable().await {
            // Before reading to the end: what comes later says so again.
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is going down.
            Err(_) => std::future::pending().await,
        }
        let mut bytes = [0; 64 * Reaped::BYTES];
        // Records are written whole, so whole ones are read.
        while let Ok(read @ 1..) = rustix::io::read(self.pipe.get_ref(), &mut bytes) {
            for record in bytes[..read].chunks_exact(Reaped::BYTES) {
                let Ok(record) = record.try_into() else { continue };
                let Reaped { pid, status } = Reaped::from_bytes(record);
                if pid == self.watched {
                    self.exit = Some(Exit::of(ExitStatus::from_raw(status)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    const SOON: Duration = Duration::from_millis(20);

    fn rig() -> (ReapedEnds, OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        (ReapedEnds::new(read).expect("an end"), write)
    }

    fn tell(pipe: &OwnedFd, pid: i32, status: i32) -> bool {
        rustix::io::write(pipe, &Reaped { pid, status }.to_bytes()).is_ok()
    }

    #[tokio::test]
    async fn the_end_of_the_watched_process_is_found_among_others() {
        let (mut ends, pipe) = rig();
        ends.watch(7);
        for (pid, status) in [(6, 0), (7, 3 << 8), (8, 9)] {
            assert!(tell(&pipe, pid, status));
        }
        assert_eq!(ends.exit(Duration::from_secs(30)).await, Exit::Code(3));
        assert!(tell(&pipe, 7, 9));
        assert_eq!(ends.exit(Duration::from_secs(30)).await, Exit::Signal(9), "one more with its id");
    }

    #[tokio::test]
    async fn an_end_that_was_lost_is_unknown() {
        let (mut ends, pipe) = rig();
        while tell(&pipe, 1, 0) {}
        assert!(!tell(&pipe, 7, 0), "no room");
        ends.watch(7);
        assert_eq!(ends.exit(SOON).await, Exit::Unknown);
        assert!(tell(&pipe, 7, 0), "room again");
        assert_eq!(ends.exit(Duration::from_secs(30)).await, Exit::Code(0));
    }
}
