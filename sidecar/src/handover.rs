//! What entrypoint hands on to each sidecar (`winston_wire::HandoverFds`): taken over first of all, and checked.
//!
//! Without entrypoint there is nothing, and a gateway ends with the sidecar that started it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use winston_wire::{HANDOVER_FDS, HandoverFds};

use crate::gateway::{Inherited, Pipe};
use crate::sys;

/// Everything that was handed on.
pub(crate) struct Handover {
    /// For the supervisor of the gateway.
    pub(crate) gateway: Inherited,
    /// The bound socket of the API.
    pub(crate) listener: Option<TcpListener>,
    /// The bound socket of the front door.
    pub(crate) front: Option<TcpListener>,
    /// Where entrypoint asks for a sign of life.
    pub(crate) questions: Option<Questions>,
    /// Where entrypoint learns that the API is served.
    pub(crate) up: Up,
}

/// The way to tell entrypoint that the API is served.
pub(crate) struct Up(OwnedFd);

/// Questions of entrypoint's.
pub(crate) struct Questions(OwnedFd);

impl Handover {
    /// Takes the descriptors; the error names the variable and the remedy.
    pub(crate) fn take(fds: &HandoverFds) -> Result<Self, String> {
        let pipe = |[read, write]: [i32; 2]| {
            let read = checked(read, FileType::Fifo, Some(OFlags::RDONLY))?;
            Ok::<_, String>(Pipe::inherited(read, checked(write, FileType::Fifo, Some(OFlags::WRONLY))?))
        };
        let socket = |number: Option<i32>| number.map(|number| checked(number, FileType::Socket, None)).transpose();
        Ok(Self {
            gateway: Inherited {
                stdout: pipe(fds.stdout)?,
                stderr: pipe(fds.stderr)?,
                reaped: checked(fds.reaped, FileType::Fifo, Some(OFlags::RDONLY))?,
                record: checked(fds.record, FileType::RegularFile, Some(OFlags::RDWR))?,
            },
            listener: socket(fds.listen)?.map(Into::into),
            front: socket(fds.front)?.map(Into::into),
            questions: socket(fds.ask)?.map(Questions),
            up: Up(checked(fds.up, FileType::Fifo, Some(OFlags::WRONLY))?),
        })
    }
}

impl Up {
    /// Tells it. From now on a sidecar that ends is started again, whatever its exit code.
    pub(crate) fn tell(&self) {
        if let Err(error) = rustix::io::write(&self.0, b"\n") {
            tracing::warn!(%error, "entrypoint not told that the API is served");
        }
    }
}

impl Questions {
    /// Answers each with itself. It is the event loop that does so: where it stands still there is no answer, and entrypoint ends us after a while.
    pub(crate) async fn answer(self) {
        let Ok(socket) = sys::readable(self.0) else { return };
        let mut bytes = [0; 64];
        while let Ok(mut ready) = socket.readable().await {
            match rustix::io::read(&socket, &mut bytes) {
                Ok(0) => return,
                Ok(read) => {
                    let _ = rustix::io::write(&socket, &bytes[..read]);
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn checked(number: i32, kind: FileType, access: Option<OFlags>) -> Result<OwnedFd, String> {
    let refused = |what: &str| {
        format!("{HANDOVER_FDS} names descriptor {number}, which {what}: it is for winston-entrypoint to set; unset it")
    };
    let fd = sys::inherited(number).map_err(|_| refused("is not open"))?;
    let found = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let flags = rustix::fs::fcntl_getfl(&fd);
    let fits =
        found == Ok(kind) && access.is_none_or(|access| flags.is_ok_and(|flags| flags & OFlags::RWMODE == access));
    if fits { Ok(fd) } else { Err(refused("is something else")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn each_question_is_answered_until_nobody_asks() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let answering = tokio::spawn(Questions(theirs.into()).answer());
        let mut ours = tokio::net::UnixStream::from_std(ours).unwrap();
        for question in [&b"?"[..], b"??"] {
            ours.write_all(question).await.unwrap();
            let mut answer = vec![0; question.len()];
            ours.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, question);
        }
        drop(ours);
        answering.await.unwrap();
    }
}
