//! What the index knows about one file.

use winston_wire::{ContentHash, Source, Timestamp};

use crate::fs::Stat;

/// Last recorded version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Content; `None` when the file is over the size limit, which is then known by its tuple alone.
    pub(crate) hash: Option<ContentHash>,
    /// Who made it.
    pub(crate) source: Source,
}

/// A version and the stat tuple `(dev, ino, size, mtime, ctime)` under which it was seen. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) version: Version,
    /// As a number of [`super::table::Table::devices`].
    pub(super) dev: u8,
    /// 0, which no file has, when the version was never seen under a tuple.
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    /// The tuple identifies the version: it was old enough when it was read.
    pub(super) settled: bool,
    /// Only the journal tells of this file over the size limit: `size` is its size then, `mtime_ns` when it was recorded.
    pub(super) told: bool,
}

impl Record {
    /// When the file was last changed, as the kernel says, if it was ever seen.
    pub(crate) fn changed_at(&self) -> Option<Timestamp> {
        Some(self.ctime_ns).filter(|_| self.ino != 0).and_then(|at| Timestamp::from_nanosecond(at.into()).ok())
    }

    /// Whether the file is certainly still the one that was seen.
    pub(super) fn matches(&self, dev: Option<u8>, stat: &Stat) -> bool {
        self.settled
            && Some(self.dev) == dev
            && (self.ino, self.size, self.mtime_ns, self.ctime_ns)
                == (stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns)
            && self.ino != 0
    }

    /// Whether a file over the size limit still is the recorded one. A volume may come back under another device number.
    pub(super) fn same_large(&self, stat: &Stat) -> bool {
        if self.version.hash.is_some() {
            return false;
        }
        if self.told {
            return self.size == stat.size && stat.mtime_ns <= self.mtime_ns;
        }
        (self.ino, self.size, self.mtime_ns, self.ctime_ns) == (stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns)
    }
}

/// What has become of a path.
#[derive(Debug)]
pub(crate) enum Update {
    /// A version is on disk under this stat, as read at `at_ns`.
    Seen { path: crate::fs::TenantPath, version: Version, stat: Stat, at_ns: i64 },
    /// The path is gone.
    Gone { path: crate::fs::TenantPath },
}

impl Update {
    /// Of what.
    pub(crate) fn path(&self) -> &crate::fs::TenantPath {
        match self {
            Self::Seen { path, .. } | Self::Gone { path } => path,
        }
    }
}

/// Bits of an entry's flags, in memory and on disk.
pub(super) mod flag {
    pub(in crate::index) const SOURCE: u8 = 0b0000_0011;
    pub(in crate::index) const HASHED: u8 = 0b0000_0100;
    pub(in crate::index) const SETTLED: u8 = 0b0000_1000;
    pub(in crate::index) const TOLD: u8 = 0b0001_0000;
    /// A listing that is under way has shown the path. Not on disk.
    pub(in crate::index) const PRESENT: u8 = 0b0010_0000;
    /// Everything that a file may hold.
    pub(in crate::index) const KNOWN: u8 = SOURCE | HASHED | SETTLED | TOLD;
}

impl Record {
    /// Bytes of [`Record::encode`].
    pub(super) const BYTES: usize = 32 + 4 * 8 + 2;

    pub(super) fn flags(&self) -> u8 {
        let source = match self.version.source {
            Source::Admin => 0,
            Source::Agent => 1,
            Source::System => 2,
        };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        source
            | bit(self.version.hash.is_some(), flag::HASHED)
            | bit(self.settled, flag::SETTLED)
            | bit(self.told, flag::TOLD)
    }

    /// Takes a record apart again; `None` for flags that none has.
    pub(super) fn from_parts(hash: [u8; 32], numbers: [u64; 4], dev: u8, flags: u8) -> Option<Self> {
        let source = match flags & flag::SOURCE {
            0 => Source::Admin,
            1 => Source::Agent,
            2 => Source::System,
            _ => return None,
        };
        let [ino, size, mtime, ctime] = numbers;
        Some(Self {
            version: Version { hash: (flags & flag::HASHED != 0).then_some(ContentHash::from_bytes(hash)), source },
            dev,
            ino,
            size,
            mtime_ns: mtime.cast_signed(),
            ctime_ns: ctime.cast_signed(),
            settled: flags & flag::SETTLED != 0,
            told: flags & flag::TOLD != 0,
        })
    }

    /// The record as it is on disk.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.version.hash.as_ref().map_or(&[0; 32], |hash| hash.as_bytes()));
        for number in [self.ino, self.size, self.mtime_ns.cast_unsigned(), self.ctime_ns.cast_unsigned()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[self.dev, self.flags()]);
    }

    /// Reads [`Record::encode`] back.
    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk::<32>()?;
        let mut numbers = [0; 4];
        for (number, bytes) in numbers.iter_mut().zip(rest.chunks_exact(8)) {
            *number = u64::from_le_bytes(*bytes.first_chunk()?);
        }
        let [dev, flags] = *rest.last_chunk()?;
        if flags & !flag::KNOWN != 0 {
            return None;
        }
        Self::from_parts(*hash, numbers, dev, flags)
    }
}
