//! `.winston/index`: the index on disk.
//!
//! ```text
//! header   magic (16 bytes), epoch (16), journal position that it contains (8)
//! entry    bytes that its path shares with the one before (2), length of the rest (2), the rest, [`Record::encode`]
//! end      0xffff, 0xffff, number of entries (8), number of devices (1), devices (8 each), CRC-32 of everything before (4)
//! ```
//!
//! Numbers are little-endian. The file is written and read as a stream; a damaged, foreign or missing one counts as empty, because all of it can
//! be found out again by reading the tenant's files.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use super::entry::Record;
use super::table::Table;

pub(super) const NAME: &str = "index";

/// The last two digits are the format's version.
const MAGIC: &[u8; 16] = b"winston index 02";

/// Where an entry would have its lengths.
const END: [u8; 4] = [0xff; 4];

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the index is damaged: {what}"))
}

/// Encodes the parts of the file, in order.
pub(super) struct Encoder {
    crc: crc32fast::Hasher,
    path: String,
    entries: u64,
    buffer: Vec<u8>,
}

impl Encoder {
    /// Starts with the header. `seq` is the journal position that the entries contain, at least.
    pub(super) fn new(epoch: Uuid, seq: u64) -> Self {
        let mut buffer = Vec::with_capacity(64 * 1024);
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(epoch.as_bytes());
        buffer.extend_from_slice(&seq.to_le_bytes());
        Self { crc: crc32fast::Hasher::new(), path: String::new(), entries: 0, buffer }
    }

    /// Adds an entry; they come in the order of their paths.
    pub(super) fn entry(&mut self, path: &str, record: &Record) {
        let mut shared = self.path.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        while !path.is_char_boundary(shared) {
            shared -= 1;
        }
        let rest = &path[shared..];
        for length in [shared, rest.len()] {
            // Paths have at most a few KiB.
            self.buffer.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        }
        self.buffer.extend_from_slice(rest.as_bytes());
        record.encode(&mut self.buffer);
        self.path.truncate(shared);
        self.path.push_str(rest);
        self.entries += 1;
    }

    /// The path that came last.
    pub(super) fn last(&self) -> Option<&str> {
        (self.entries > 0).then_some(&self.path)
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what waits.
    pub(super) fn write(&mut self, file: &mut File) -> io::Result<()> {
        self.crc.update(&self.buffer);
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end.
    pub(super) fn finish(mut self, devices: &[u64], file: &mut File) -> io::Result<()> {
        self.buffer.extend_from_slice(&END);
        self.buffer.extend_from_slice(&self.entries.to_le_bytes());
        self.buffer.push(u8::try_from(devices.len()).map_err(|_| damaged("devices"))?);
        for device in devices {
            self.buffer.extend_from_slice(&device.to_le_bytes());
        }
        self.write(file)?;
        file.write_all(&self.crc.finalize().to_le_bytes())
    }
}

/// Reads and sums up.
struct Reader<R> {
    inner: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Reader<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.crc.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// Reads the index of this journal: the entries and the journal position that they contain. `None` when there is none.
pub(super) fn read(dir: &OwnedFd, epoch: Uuid) -> io::Result<Option<(Table, u64)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(dir, NAME, flags, Mode::empty()) {
        Ok(fd) => decode(BufReader::with_capacity(64 * 1024, File::from(fd)), epoch),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn decode(inner: impl Read, epoch: Uuid) -> io::Result<Option<(Table, u64)>> {
    let mut reader = Reader { inner, crc: crc32fast::Hasher::new() };
    if reader.array()? != *MAGIC || reader.array()? != *epoch.as_bytes() {
        // Of another version, or of another journal.
        return Ok(None);
    }
    let seq = u64::from_le_bytes(reader.array()?);
    let mut table = Table::default();
    let mut path = String::new();
    let mut rest = Vec::new();
    let mut devices_used = 0;
    loop {
        let lengths: [u8; 4] = reader.array()?;
        if lengths == END {
            break;
        }
        let [a, b, c, d] = lengths;
        let (shared, length) = (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
        if !path.is_char_boundary(shared) {
            return Err(damaged("a path"));
        }
        rest.resize(length + Record::BYTES, 0);
        reader.fill(&mut rest)?;
        let (text, record) = rest.split_at(length);
        path.truncate(shared);
        path.push_str(std::str::from_utf8(text).map_err(|_| damaged("a path"))?);
        let record = record.first_chunk().and_then(Record::decode).ok_or_else(|| damaged("an entry"))?;
        devices_used = devices_used.max(if record.ino == 0 { 0 } else { usize::from(record.dev) + 1 });
        let is_path = crate::fs::TenantPath::parse(&path).is_ok_and(|parsed| parsed.as_str() == path);
        if !is_path || path.is_empty() || !table.push(&path, &record) {
            return Err(damaged("the order of paths"));
        }
    }
    let entries = u64::from_le_bytes(reader.array()?);
    let [devices] = reader.array()?;
    let devices: Vec<u64> = (0..devices).map(|_| reader.array().map(u64::from_le_bytes)).collect::<io::Result<_>>()?;
    let crc = std::mem::take(&mut reader.crc).finalize();
    if reader.array()? != crc.to_le_bytes() || reader.inner.read(&mut [0])? != 0 {
        return Err(damaged("its checksum"));
    }
    if entries != table.len() as u64 || devices_used > devices.len() {
        return Err(damaged("its end"));
    }
    table.set_devices(devices);
    Ok(Some((table, seq)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use winston_wire::{ContentHash, Source};

    use super::*;
    use crate::index::Version;

    fn written(paths: &[&str], epoch: Uuid) -> Vec<u8> {
        let mut encoder = Encoder::new(epoch, 7);
        for (number, path) in paths.iter().enumerate() {
            let hash = Some(ContentHash::from_bytes([number as u8; 32]));
            let version = Version { hash, source: Source::System };
            let (ino, size) = (number as u64 + 1, 3);
            let record = Record { version, dev: 0, ino, size, mtime_ns: -5, ctime_ns: 9, settled: true, told: false };
            encoder.entry(path, &record);
        }
        let mut file = tempfile::tempfile().unwrap();
        encoder.finish(&[2049], &mut file).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    const PATHS: &[&str] = &[".openclaw/openclaw.json", "workspace/MEMORY.md", "workspace/é/a", "workspace/ê/a"];

    #[test]
    fn what_was_written_is_read() {
        let epoch = Uuid::from_u128(1);
        let (table, seq) = decode(Cursor::new(written(PATHS, epoch)), epoch).unwrap().unwrap();
        assert_eq!((table.len(), seq, table.devices()), (PATHS.len(), 7, &[2049][..]));
        let record = table.get("workspace/ê/a").unwrap();
        assert_eq!((record.ino, record.size, record.mtime_ns, record.settled), (4, 3, -5, true));
        assert_eq!(record.version.source, Source::System);
        assert!(decode(Cursor::new(written(PATHS, epoch)), Uuid::from_u128(2)).unwrap().is_none());
    }

    /// Whatever byte is wrong or missing, nothing of the file is believed.
    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let epoch = Uuid::from_u128(1);
        let good = written(PATHS, epoch);
        let loads = |bytes: &[u8]| matches!(decode(Cursor::new(bytes), epoch), Ok(Some(_)));
        assert!(loads(&good));
        for length in 0..good.len() {
            assert!(!loads(&good[..length]), "cut at {length}");
        }
        for at in 0..good.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= mask;
                assert!(!loads(&bad), "byte {at}");
            }
        }
        assert!(!loads(&[good.as_slice(), b"x"].concat()));
    }
}
