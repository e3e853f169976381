//! The gateway's output as bytes: two pipes that outlive the gateway and, below entrypoint, the sidecar too.
//!
//! Bytes leave a pipe only after they were taken (see [`Take`]): they are first copied with tee(2), which consumes nothing,
//! then handed over, then consumed. A sidecar that is killed at any moment leaves in the pipe what it had not kept, so
//! the next one may show a line twice and never misses one. For the same reason a line without its end stays in the
//! pipe until the end comes, the line is too long, or the pipe is full.
//!
//! We keep the write ends open. So there is no end of the stream at a gateway's end: its last output is what is in the
//! pipes then, see [`Output::settle`].

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Bytes that are looked at together.
const CHUNK: usize = 16 * 1024;

/// Pause after something that the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// From here on the beginning of a line does not wait for its end: more of it would be cut off anyway.
const LONG: usize = super::logs::LONGEST_LINE;

/// Keeps the output of one stream.
pub(super) trait Take: Send + 'static {
    /// Keeps these bytes. When this returns they are in the form that is meant to survive us: they are gone from the pipe
    /// right after. They end with a newline, unless the line is long or nothing follows. Must not wait for anybody.
    fn take(&mut self, bytes: &[u8]);

    /// The gateway has ended: what was begun will not be continued.
    fn finish(&mut self);
}

/// A pipe with both ends.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// The ends of one pipe that was inherited.
    pub(crate) fn inherited(read: OwnedFd, write: OwnedFd) -> Self {
        Self { read, write }
    }

    /// A pipe that ends with this process.
    pub(crate) fn own() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }
}

/// Both streams and the tasks that read them.
pub(super) struct Output {
    write_ends: [OwnedFd; 2],
    settle: [mpsc::Sender<oneshot::Sender<()>>; 2],
}

impl Output {
    /// Starts to read; each pipe has who takes what is in it.
    pub(super) fn start(streams: [(Pipe, impl Take); 2]) -> io::Result<Self> {
        let [first, second] = streams.map(|(pipe, taker)| -> io::Result<_> {
            let write_end = pipe.write.try_clone()?;
            let (settle, asked) = mpsc::channel(1);
            tokio::spawn(Reader::new(pipe)?.run(taker, asked));
            Ok((write_end, settle))
        });
        let (first, second) = (first?, second?);
        Ok(Self { write_ends: [first.0, second.0], settle: [first.1, second.1] })
    }

    /// Standard output and standard error for a gateway.
    pub(super) fn stdio(&self) -> io::Result<[Stdio; 2]> {
        let [out, err] = &self.write_ends;
        Ok([fresh(out)?.into(), fresh(err)?.into()])
    }

    /// Waits until everything is taken that is in the pipes now. Somebody who goes on writing is left alone after `limit`.
    pub(super) async fn settle(&self, limit: Duration) {
        for settle in &self.settle {
            let (done, settled) = oneshot::channel();
            let settled = async {
                // A reader that is gone has said why.
                let _ = settle.send(done).await;
                let _ = settled.await;
            };
            if timeout(limit, settled).await.is_err() {
                tracing::warn!("something still writes to the output of the gateway that has ended");
            }
        }
    }
}

/// A pipe for what is looked at.
fn copy_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
}

/// The write end with flags of its own: a gateway that sets its output to non-blocking must not do so for the next one.
fn fresh(end: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    match rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fresh) => Ok(fresh),
        Err(_) => end.try_clone(),
    }
}

/// Reads one pipe for as long as somebody can ask.
struct Reader {
    read: AsyncFd<OwnedFd>,
    eye: Eye,
}

impl Reader {
    fn new(pipe: Pipe) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe.read)?;
        rustix::fs::fcntl_setfl(&pipe.read, flags | OFlags::NONBLOCK)?;
        let copy = copy_pipe()?;
        let eye = Eye { write: pipe.write, copy: Some(copy), buffer: vec![0; CHUNK].into_boxed_slice() };
        Ok(Self { read: crate::sys::readable(pipe.read)?, eye })
    }

    /// Reads until nobody can ask any more.
    async fn run(mut self, mut taker: impl Take, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                settle = asked.recv() => {
                    let Some(done) = settle else { return };
                    self.settle(&mut taker).await;
                    // Gone already: it had waited long enough.
                    let _ = done.send(());
                }
                looked = self.next(&mut taker) => match looked {
                    Ok(()) => failing = false,
                    Err(error) => {
                        if !failing {
                            tracing::error!(%error, "gateway output cannot be read; it is tried again");
                        }
                        failing = true;
                        sleep(RETRY).await;
                    }
                },
            }
        }
    }

    /// Waits for bytes and looks at them once. May be dropped while it waits.
    async fn next(&mut self, taker: &mut impl Take) -> io::Result<()> {
        let mut ready = self.read.readable().await?;
        match self.eye.look(ready.get_inner(), taker, false) {
            Ok(Look::Took) => {}
            Ok(Look::Waits) | Err(Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
        // A flood is not the only thing there is to do, and whoever follows the log is to see this before it has left the ring.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Takes what is there, to the last byte.
    async fn settle(&mut self, taker: &mut impl Take) {
        while let Ok(Look::Took) = self.eye.look(self.read.get_ref(), taker, true) {
            tokio::task::yield_now().await;
        }
        taker.finish();
    }
}

/// What a look at a pipe led to.
enum Look {
    /// Something was taken.
    Took,
    /// There is the beginning of a line, which may wait.
    Waits,
}

/// Looks at what is in a pipe, without waiting.
struct Eye {
    write: OwnedFd,
    /// Where tee(2) copies to; empty between two looks. `None` where there is no tee(2): bytes are consumed first then.
    copy: Option<(OwnedFd, OwnedFd)>,
    buffer: Box<[u8]>,
}

impl Eye {
    /// Hands over what may be and consumes it; `all`: also the beginning of a line.
    fn look(&mut self, pipe: &OwnedFd, taker: &mut impl Take, all: bool) -> Result<Look, Errno> {
        let Some((from, into)) = &self.copy else {
            return self.look_without_copy(pipe, taker);
        };
        let copied = match retry(|| tee(pipe, into, CHUNK, SpliceFlags::NONBLOCK)) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                tracing::warn!("there is no tee(2) here: log lines can get lost when the sidecar is killed");
                self.copy = None;
                return self.look_without_copy(pipe, taker);
            }
            copied => copied?,
        };
        if copied == 0 {
            return Err(Errno::AGAIN);
        }
        // One read gives one packet, where a writer has asked for packets (`O_DIRECT`).
        let mut seen = 0;
        while seen < copied {
            match retry(|| rustix::io::read(from, &mut self.buffer[seen..copied])) {
                Ok(read) if read > 0 => seen += read,
                // What is left in it, or is missing, would be taken for what comes next.
                _ => {
                    self.copy = copy_pipe().ok();
                    return self.look_without_copy(pipe, taker);
                }
            }
        }
        let newline = self.buffer[..seen].iter().rposition(|&byte| byte == b'\n');
        let ready = match newline {
            Some(at) if !all => at + 1,
            None if !all && !self.must_go(pipe, seen) => return Ok(Look::Waits),
            _ => seen,
        };
        taker.take(&self.buffer[..ready]);
        self.consume(pipe, ready)?;
        Ok(Look::Took)
    }

    /// Takes bytes out of the pipe that we have seen already: nobody else reads it, so they are the same ones.
    fn consume(&mut self, pipe: &OwnedFd, mut left: usize) -> Result<(), Errno> {
        while left > 0 {
            match retry(|| rustix::io::read(pipe, &mut self.buffer[..left]))? {
                0 => break,
                read => left -= read,
            }
        }
        Ok(())
    }

    fn look_without_copy(&mut self, pipe: &OwnedFd, taker: &mut impl Take) -> Result<Look, Errno> {
        let read = retry(|| rustix::io::read(pipe, &mut self.buffer[..]))?;
        taker.take(&self.buffer[..read]);
        Ok(Look::Took)
    }

    /// Whether a beginning of a line cannot wait: it is long, there is more behind it than a copy can hold, or the writer waits
    /// for room.
    fn must_go(&self, pipe: &OwnedFd, seen: usize) -> bool {
        let more = rustix::io::ioctl_fionread(pipe).is_ok_and(|there| there > seen as u64);
        seen >= LONG || more || is_full(&self.write)
    }
}

fn is_full(end: &OwnedFd) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(end.as_fd(), PollFlags::OUT)];
    retry(|| poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))) == Ok(0)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Remembers what it got; dies (panics) before a piece that contains `deadly` is kept.
    #[derive(Clone, Default)]
    struct Kept {
        pieces: Arc<Mutex<Vec<String>>>,
        deadly: Option<&'static str>,
    }

    impl Take for Kept {
        fn take(&mut self, bytes: &[u8]) {
            let piece = String::from_utf8_lossy(bytes).into_owned();
            if self.deadly.is_some_and(|deadly| piece.contains(deadly)) {
                std::panic::panic_any("killed");
            }
            self.pieces.lock().expect("no panic").push(piece);
        }

        fn finish(&mut self) {
            self.take(b"END");
        }
    }

    impl Kept {
        fn text(&self) -> String {
            self.pieces.lock().expect("no panic").concat()
        }

        async fn until(&self, wanted: impl Fn(&str) -> bool) {
            let waiting = async {
                while !wanted(&self.text()) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("has {:?}", self.text()));
        }
    }

    struct Rig {
        pipe: Pipe,
        writer: std::fs::File,
    }

    impl Rig {
        fn new() -> Self {
            let pipe = Pipe::own().expect("a pipe");
            let writer = pipe.write.try_clone().expect("a descriptor").into();
            Self { pipe, writer }
        }

        /// A reader on the same pipe, as each sidecar has one.
        fn read(&self, kept: &Kept) -> Output {
            let again = |end: &OwnedFd| end.try_clone().expect("a descriptor");
            let pipe = Pipe { read: again(&self.pipe.read), write: again(&self.pipe.write) };
            let other = Pipe::own().expect("a pipe");
            Output::start([(pipe, kept.clone()), (other, Kept::default())]).expect("readers")
        }

        fn left(&self) -> u64 {
            rustix::io::ioctl_fionread(&self.pipe.read).expect("a length")
        }
    }

    #[tokio::test]
    async fn lines_are_taken_whole_and_then_consumed() {
        let (mut rig, kept) = (Rig::new(), Kept::default());
        let output = rig.read(&kept);
        rig.writer.write_all(b"one\ntwo\nthr").expect("written");
        kept.until(|text| text == "one\ntwo\n").await;
        assert_eq!(rig.left(), 3, "the beginning of a line stays where a kill cannot reach it");
        rig.writer.write_all(b"ee\n").expect("written");
        kept.until(|text| text == "one\ntwo\nthree\n").await;
        rig.writer.write_all(b"last").expect("written");
        output.settle(Duration::from_secs(30)).await;
        assert_eq!(kept.text(), "one\ntwo\nthree\nlastEND");
        assert_eq!(rig.left(), 0);
    }

    #[tokio::test]
    async fn what_was_not_kept_when_a_reader_died_is_there_for_the_next() {
        let mut rig = Rig::new();
        let dying = Kept { deadly: Some("line 50\n"), ..Kept::default() };
        let output = rig.read(&dying);
        for line in 0..100 {
            writeln!(rig.writer, "line {line}").expect("written");
            tokio::task::yield_now().await;
        }
        // The panic ends the task; a kill would end the process at the same place.
        output.settle(Duration::from_secs(30)).await;
        drop(output);
        let next = Kept::default();
        let output = rig.read(&next);
        output.settle(Duration::from_secs(30)).await;
        let seen = dying.text() + &next.text();
        let expected: String = (0..100).map(|line| format!("line {line}\n")).collect();
        assert_eq!(seen, expected + "END");
    }

    #[tokio::test]
    async fn no_line_is_so_long_that_its_writer_waits_for_ever() {
        for piece in [1usize, 4096, 300_000] {
            let (rig, kept) = (Rig::new(), Kept::default());
            let _output = rig.read(&kept);
            let mut writer = rig.writer.try_clone().expect("a descriptor");
            // A pipe of one page, as whoever has its write end can make it.
            rustix::pipe::fcntl_setpipe_size(&rig.pipe.write, 4096).expect("smaller");
            let writing = tokio::task::spawn_blocking(move || {
                for _ in 0..(600_000usize / piece).min(40_000) {
                    writer.write_all(&vec![b'x'; piece]).expect("written");
                }
            });
            timeout(Duration::from_secs(60), writing).await.expect("in time").expect("no panic");
        }
    }

    #[tokio::test]
    async fn packets_are_lines_like_any_other() {
        let (rig, kept) = (Rig::new(), Kept::default());
        let mut packets = std::fs::File::from(fresh(&rig.pipe.write).expect("a descriptor"));
        let flags = rustix::fs::fcntl_getfl(&packets).expect("flags");
        rustix::fs::fcntl_setfl(&packets, flags | OFlags::DIRECT).expect("set");
        let output = rig.read(&kept);
        let mut expected = String::new();
        for burst in 0..15 {
            for line in 0..burst {
                let line = format!("{burst} {}\n", "x".repeat(line));
                packets.write_all(line.as_bytes()).expect("written");
                expected += &line;
            }
            kept.until(|text| text.len() >= expected.len()).await;
            assert_eq!(kept.text(), expected);
        }
        assert_eq!(rig.left(), 0);
        output.settle(Duration::from_secs(30)).await;
        assert_eq!(kept.text(), expected + "END");
    }

    #[tokio::test]
    async fn a_copy_that_is_not_what_it_should_be_is_replaced() {
        let (mut rig, kept) = (Rig::new(), Kept::default());
        let again = |end: &OwnedFd| end.try_clone().expect("a descriptor");
        let reader =
            Reader::new(Pipe { read: again(&rig.pipe.read), write: again(&rig.pipe.write) }).expect("a reader");
        let (mut eye, mut taker) = (reader.eye, kept.clone());
        let (_from, into) = eye.copy.take().expect("a copy");
        // Nothing can be read from it.
        eye.copy = Some((again(&rig.pipe.write), into));
        rig.writer.write_all(b"one\n").expect("written");
        assert!(eye.look(&rig.pipe.read, &mut taker, false).is_ok());
        rig.writer.write_all(b"two\nth").expect("written");
        assert!(eye.look(&rig.pipe.read, &mut taker, false).is_ok());
        assert_eq!((kept.text().as_str(), rig.left()), ("one\ntwo\n", 2));
    }

    #[tokio::test]
    async fn each_gateway_has_flags_of_its_own() {
        let rig = Rig::new();
        let first = fresh(&rig.pipe.write).expect("a descriptor");
        rustix::fs::fcntl_setfl(&first, OFlags::NONBLOCK).expect("set");
        let second = fresh(&rig.pipe.write).expect("a descriptor");
        assert!(!rustix::fs::fcntl_getfl(&second).expect("flags").contains(OFlags::NONBLOCK));
    }
}
