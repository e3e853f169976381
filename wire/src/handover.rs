//! What entrypoint hands on to each sidecar, so that a gateway can outlive the sidecar that started it.
//!
//! Entrypoint keeps every one of these descriptors open itself. The numbers travel in [`HANDOVER_FDS`] as
//! `name=number,…`; a name that the reader does not know is skipped, so that either side can be newer.

use std::fmt;
use std::str::FromStr;

/// The variable with the numbers. Set by entrypoint, for the sidecar only.
pub const HANDOVER_FDS: &str = "WINSTON_HANDOVER_FDS";

/// Exit code of a sidecar that wants to be replaced by what now lies at its path. The `sysexits.h` codes end at 78.
pub const EXIT_REPLACE: u8 = 79;

/// Numbers of the inherited descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandoverFds {
    /// Read and write end of the pipe for the gateway's standard output.
    pub stdout: [i32; 2],
    /// Read and write end of the pipe for its standard error.
    pub stderr: [i32; 2],
    /// Read end of a pipe of [`Reaped`] records.
    pub reaped: i32,
    /// A memory file with what one sidecar notes about the gateway for the next one.
    pub record: i32,
    /// Write end of a pipe that gets one byte when the sidecar serves its API.
    pub up: i32,
    /// The listening socket of the API, if entrypoint could bind it.
    pub listen: Option<i32>,
    /// The listening socket of the front door, likewise. Its port is never free, so the agent cannot take it while a sidecar is replaced.
    pub front: Option<i32>,
    /// A stream socket on which each byte is a question that the sidecar answers with the same byte.
    pub ask: Option<i32>,
}

impl fmt::Display for HandoverFds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stdout, stderr, reaped, record, up, listen, front, ask } = self;
        write!(f, "stdout={},stdout_write={},stderr={},", stdout[0], stdout[1], stderr[0])?;
        write!(f, "stderr_write={},reaped={reaped},record={record},up={up}", stderr[1])?;
        let optional = [("listen", listen), ("front", front), ("ask", ask)];
        optional
            .into_iter()
            .try_for_each(|(name, number)| number.map_or(Ok(()), |number| write!(f, ",{name}={number}")))
    }
}

impl FromStr for HandoverFds {
    type Err = ();

    /// Every number must be there, above the three standard streams, and be named once.
    fn from_str(text: &str) -> Result<Self, ()> {
        let pairs: Vec<(&str, i32)> = text
            .split(',')
            .map(|entry| {
                let (name, number) = entry.split_once('=').ok_or(())?;
                let number = number.parse().ok().filter(|number| *number > 2).ok_or(())?;
                Ok((name, number))
            })
            .collect::<Result<_, ()>>()?;
        let mut numbers: Vec<i32> = pairs.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() != pairs.len() {
            return Err(());
        }
        let find = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, number)| *number);
        let get = |wanted: &str| find(wanted).ok_or(());
        Ok(Self {
            stdout: [get("stdout")?, get("stdout_write")?],
            stderr: [get("stderr")?, get("stderr_write")?],
            reaped: get("reaped")?,
            record: get("record")?,
            up: get("up")?,
            listen: find("listen"),
            front: find("front"),
            ask: find("ask"),
        })
    }
}

/// The end of a process that entrypoint has reaped: eight bytes in the machine's order, written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Process id.
    pub pid: i32,
    /// Status as wait(2) gives it.
    pub status: i32,
}

impl Reaped {
    /// Length of a record.
    pub const BYTES: usize = 8;

    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.status.to_ne_bytes());
        bytes
    }

    /// From bytes.
    #[must_use]
    pub fn from_bytes([a, b, c, d, e, f, g, h]: [u8; Self::BYTES]) -> Self {
        Self { pid: i32::from_ne_bytes([a, b, c, d]), status: i32::from_ne_bytes([e, f, g, h]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDS: HandoverFds = HandoverFds {
        stdout: [3, 4],
        stderr: [5, 6],
        reaped: 7,
        record: 8,
        up: 9,
        listen: Some(10),
        front: Some(11),
        ask: Some(12),
    };

    #[test]
    fn numbers_come_back_as_they_were_written() {
        for fds in [FDS, HandoverFds { listen: None, ..FDS }, HandoverFds { front: None, ask: None, ..FDS }] {
            assert_eq!(fds.to_string().parse(), Ok(fds));
        }
        let newer = format!("{FDS},more=13");
        assert_eq!(newer.parse(), Ok(FDS), "a name of a newer entrypoint");
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let text = FDS.to_string();
        for (from, to) in [("up=9", "up=2"), ("up=9", "up=8"), ("up=9", "up"), ("up=9", "up=x"), ("up=9", "down=9")] {
            assert_eq!(text.replace(from, to).parse::<HandoverFds>(), Err(()), "{to}");
        }
        assert_eq!("".parse::<HandoverFds>(), Err(()));
    }

    #[test]
    fn a_record_survives_the_pipe() {
        let record = Reaped { pid: 4711, status: 3 << 8 };
        assert_eq!(Reaped::from_bytes(record.to_bytes()), record);
    }
}
