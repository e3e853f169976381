//! What outlives each sidecar, because PID 1 holds it: the pipes of the gateway's output, the record about the gateway, and
//! the listening sockets of the API and of the front door.
//!
//! Both ends of the output pipes stay open here, so a gateway without a sidecar finds neither a reader that went away
//! (it would exit) nor an end of the stream. What is written meanwhile waits in the pipe for the next sidecar; only when the pipe
//! is about to be full, and there is no sidecar, the oldest of it gives way (`relief`). See `winston_wire::HandoverFds` for who gets what.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::io::ioctl_fionread;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use winston_wire::{HandoverFds, Reaped};

/// Output of a gateway that can wait for the next sidecar: the most that an ordinary user may ask for.
const OUTPUT_BYTES: usize = 1 << 20;

/// Longest rest of a line that is read away behind what has to go.
const LONGEST_REST: usize = 64 * 1024;

/// Connections that can wait for the next sidecar.
const BACKLOG: i32 = 1024;

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new(flags: PipeFlags) -> rustix::io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | flags)?;
        Ok(Self { read, write })
    }

    /// As large as we may; a machine with a lower limit keeps its default of 64 KiB.
    fn large() -> rustix::io::Result<Self> {
        let pipe = Self::new(PipeFlags::empty())?;
        let _ = fcntl_setpipe_size(&pipe.write, OUTPUT_BYTES);
        Ok(pipe)
    }

    /// Reads the oldest half away when little or no room is left, and the rest of the line that is cut by that: the sidecar could not see what is
    /// secret in half a line. How many bytes. Only while nobody else reads.
    fn relieve(&self) -> rustix::io::Result<usize> {
        let there = usize::try_from(ioctl_fionread(&self.read)?).unwrap_or(usize::MAX);
        let room = fcntl_getpipe_size(&self.write)?;
        // Short writes can fill its pages when it has far fewer bytes.
        let full = poll(&mut [PollFd::new(&self.write, PollFlags::OUT)], Some(&Timespec::default()))? == 0;
        if there == 0 || (there <= room / 4 * 3 && !full) {
            return Ok(0);
        }
        // As the sidecars have it. What is there now is read without waiting anyway.
        fcntl_setfl(&self.read, fcntl_getfl(&self.read)? | OFlags::NONBLOCK)?;
        let mut bytes = [0; 16 * 1024];
        let (mut lost, mut last) = (0, b'\n');
        while lost < there.div_ceil(2) {
            let most = (there.div_ceil(2) - lost).min(bytes.len());
            let Ok(read @ 1..) = rustix::io::read(&self.read, &mut bytes[..most]) else { return Ok(lost) };
            (lost, last) = (lost + read, bytes[read - 1]);
        }
        let end = lost + LONGEST_REST;
        while last != b'\n' && lost < end {
            let Ok(1..) = rustix::io::read(&self.read, &mut bytes[..1]) else { break };
            (lost, last) = (lost + 1, bytes[0]);
        }
        Ok(lost)
    }

    fn numbers(&self) -> [RawFd; 2] {
        [self.read.as_raw_fd(), self.write.as_raw_fd()]
    }
}

/// Everything that is handed on.
pub(crate) struct Handover {
    stdout: Pipe,
    stderr: Pipe,
    reaped: Pipe,
    record: OwnedFd,
    up: Pipe,
    listener: Option<TcpListener>,
    front: Option<TcpListener>,
    /// Our end, and the sidecar's.
    ask: [UnixStream; 2],
}

impl Handover {
    /// Opens it all; once, before the first sidecar.
    pub(crate) fn open(listen: Option<SocketAddr>, front: Option<SocketAddr>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok(Self {
            stdout: Pipe::large()?,
            stderr: Pipe::large()?,
            reaped: Pipe::new(PipeFlags::NONBLOCK)?,
            record: memfd_create("winston-gateway", MemfdFlags::CLOEXEC)?,
            up: Pipe::new(PipeFlags::NONBLOCK)?,
            // The sidecar tries for itself then, and says what is wrong in its own words.
            listener: listen.and_then(|address| bind(address).ok()),
            front: front.and_then(|address| bind(address).ok()),
            ask: [ours, theirs],
        })
    }

    /// The descriptors for the child.
    pub(crate) fn inherit(&self) -> Vec<RawFd> {
        let fds = self.fds();
        let single = [fds.reaped, fds.record, fds.up];
        let all = [&fds.stdout[..], &fds.stderr, &single].concat().into_iter();
        all.chain(fds.listen).chain(fds.front).chain(fds.ask).collect()
    }

    /// Their numbers.
    pub(crate) fn fds(&self) -> HandoverFds {
        HandoverFds {
            stdout: self.stdout.numbers(),
            stderr: self.stderr.numbers(),
            reaped: self.reaped.read.as_raw_fd(),
            record: self.record.as_raw_fd(),
            up: self.up.write.as_raw_fd(),
            listen: self.listener.as_ref().map(|listener| listener.as_raw_fd()),
            front: self.front.as_ref().map(|listener| listener.as_raw_fd()),
            ask: Some(self.ask[1].as_raw_fd()),
        }
    }

    /// Notes the end of a process that we reaped. Never waits: after thousands of orphans with nobody to read, the latest ends
    /// are lost and the sidecar says that it does not know them.
    pub(crate) fn note(&self, reaped: Reaped) {
        let _ = rustix::io::write(&self.reaped.write, &reaped.to_bytes());
    }

    /// Makes room in the pipes of the gateway's output; how many bytes were lost. Only while there is no sidecar.
    pub(crate) fn relieve(&self) -> u64 {
        [&self.stdout, &self.stderr].into_iter().map(|pipe| pipe.relieve().unwrap_or(0) as u64).sum()
    }

    /// Whether a sidecar has served its API since the last question.
    pub(crate) fn came_up(&self) -> bool {
        let mut bytes = [0; 64];
        let mut came_up = false;
        while let Ok(1..) = rustix::io::read(&self.up.read, &mut bytes) {
            came_up = true;
        }
        came_up
    }

    /// Asks the sidecar for a sign of life.
    pub(crate) fn ask(&self) {
        // Where there is no room, questions lie there already.
        let _ = rustix::io::write(&self.ask[0], b"?");
    }

    /// Whether it has given one since the last look.
    pub(crate) fn answered(&self) -> bool {
        let mut bytes = [0; 64];
        let mut answered = false;
        while let Ok(1..) = rustix::io::read(&self.ask[0], &mut bytes) {
            answered = true;
        }
        answered
    }

    /// Refuses connections from now on: no sidecar will answer them.
    pub(crate) fn stop_listening(&mut self) {
        self.listener = None;
        self.front = None;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    // The sidecar's event loop wants it so; nobody here accepts.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_ends_do_not_block() {
        let handover = Handover::open(None, None).unwrap();
        for pid in 1..=10_000 {
            handover.note(Reaped { pid, status: 0 });
        }
        let mut bytes = [0; Reaped::BYTES];
        assert_eq!(rustix::io::read(&handover.reaped.read, &mut bytes), Ok(Reaped::BYTES));
        assert_eq!(Reaped::from_bytes(bytes).pid, 1, "the oldest are kept");
    }

    #[test]
    fn output_that_nobody_reads_gives_way_by_lines() {
        let handover = Handover::open(None, None).unwrap();
        let (pipe, there) = (&handover.stdout, |pipe: &Pipe| ioctl_fionread(&pipe.read).unwrap());
        let room = fcntl_getpipe_size(&pipe.write).unwrap() as u64;
        let flags = fcntl_getfl(&pipe.write).unwrap();
        fcntl_setfl(&pipe.write, flags | OFlags::NONBLOCK).unwrap();
        // Of these, each takes a page.
        for line in [vec![b'x'; 999], vec![b'y'; 2200]] {
            let line = [line, vec![b'\n']].concat();
            while there(pipe) < room / 2 && rustix::io::write(&pipe.write, &line).is_ok() {}
            assert_eq!(handover.relieve(), 0, "there is room");
            while rustix::io::write(&pipe.write, &line) == Ok(line.len()) {}
            let before = there(pipe);
            let lost = handover.relieve();
            assert!(lost >= before / 2 && lost < before / 2 + 2 * 2200, "{lost} of {before}");
            assert_eq!(there(pipe), before - lost);
            let mut all = vec![0; 1 << 20];
            let read = rustix::io::read(&pipe.read, &mut all).unwrap();
            assert!(all[..read].starts_with(&line), "it begins with a line");
        }
        assert_eq!(handover.relieve(), 0);
    }

    #[test]
    fn a_line_without_an_end_gives_way_too() {
        let handover = Handover::open(None, None).unwrap();
        let pipe = &handover.stderr;
        fcntl_setfl(&pipe.write, fcntl_getfl(&pipe.write).unwrap() | OFlags::NONBLOCK).unwrap();
        while let Ok(1..) = rustix::io::write(&pipe.write, &[b'x'; 4096]) {}
        let before = ioctl_fionread(&pipe.read).unwrap();
        assert_eq!(handover.relieve(), before / 2 + (LONGEST_REST as u64).min(before / 2));
    }

    #[test]
    fn being_up_is_told_once() {
        let handover = Handover::open(None, None).unwrap();
        assert!(!handover.came_up());
        rustix::io::write(&handover.up.write, b"\n").unwrap();
        assert!(handover.came_up());
        assert!(!handover.came_up());
    }

    #[test]
    fn a_sign_of_life_is_seen_once() {
        let handover = Handover::open(None, None).unwrap();
        handover.ask();
        assert!(!handover.answered());
        let mut byte = [0];
        assert_eq!(rustix::io::read(&handover.ask[1], &mut byte), Ok(1));
        rustix::io::write(&handover.ask[1], &byte).unwrap();
        assert!(handover.answered() && !handover.answered());
    }

    #[test]
    fn an_address_that_is_taken_is_left_to_the_sidecar() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let handover = Handover::open(Some(taken.local_addr().unwrap()), Some("127.0.0.1:0".parse().unwrap())).unwrap();
        assert_eq!(handover.fds().listen, None);
        assert_eq!(handover.inherit().len(), 9);
    }
}
