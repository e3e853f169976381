//! What entrypoint hands on to each sidecar (`winston_wire::HandoverFds`): taken over first of all, and checked.
//!
//! Without entrypoint there is nothing, and a gateway ends with the sidecar that started it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use winston_wire::{HANDOVER_FDS, HandoverFds};

use crate::gateway::{Inherited, Pipe};
use crate::sys;

/// Everything that was handed on.
pub(crate) struct Handover {
    /// For the supervisor of the gateway.
    pub(crate) gateway: Inherited,
    /// The bound socket of the API.
    pub(crate) listener: Option<TcpListener>,
    /// Where entrypoint learns that the API is served.
    pub(crate) up: Up,
}

/// The way to tell entrypoint that the API is served.
pub(crate) struct Up(OwnedFd);

impl Handover {
    /// Takes the descriptors; the error names the variable and the remedy.
    pub(crate) fn take(fds: &HandoverFds) -> Result<Self, String> {
        let pipe = |[read, write]: [i32; 2]| {
            let read = checked(read, FileType::Fifo, Some(OFlags::RDONLY))?;
            Ok::<_, String>(Pipe::inherited(read, checked(write, FileType::Fifo, Some(OFlags::WRONLY))?))
        };
        Ok(Self {
            gateway: Inherited {
                stdout: pipe(fds.stdout)?,
                stderr: pipe(fds.stderr)?,
                reaped: checked(fds.reaped, FileType::Fifo, Some(OFlags::RDONLY))?,
                record: checked(fds.record, FileType::RegularFile, Some(OFlags::RDWR))?,
            },
            listener: fds.listen.map(|number| checked(number, FileType::Socket, None)).transpose()?.map(Into::into),
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
