//! `.winston/index`: the index on disk.
//!
//! ```text
//! header   magic (16 bytes), epoch (16), journal position that it contains (8)
//! entry    bytes that its path shares with the one before (2), length of the rest (2), the rest, [`Record::encode`]
//! end      0xffff, 0xffff, number of entries (8), their manifest digest (32), number of devices (1), devices (8 each), CRC-32 of everything before (4)
//! ```
//!
//! Numbers are little-endian. The file is written and read as a stream; a damaged, foreign or missing one counts as empty, because all of it can
//! be found out again by reading the tenant's files.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;
use winston_wire::ManifestDigest;

use super::entry::Record;
use super::table::Table;
use crate::fs::TenantPath;

pub(super) const NAME: &str = "index";

/// The last two digits are the format's version.
const MAGIC: &[u8; 16] = b"winston index 03";

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;

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
    digest: ManifestDigest,
    buffer: Vec<u8>,
}

impl Encoder {
    /// Starts with the header. `seq` is the journal position that the entries contain, at least.
    pub(super) fn new(epoch: Uuid, seq: u64) -> Self {
        let mut buffer = Vec::with_capacity(64 * 1024);
        buffer.extend_from_slice(MAGIC);
        buffer.extend_from_slice(epoch.as_bytes());
        buffer.extend_from_slice(&seq.to_le_bytes());
        let (crc, path, digest) = (crc32fast::Hasher::new(), String::new(), ManifestDigest::default());
        Self { crc, path, entries: 0, digest, buffer }
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
        self.digest.add(super::member(path, record.version.hash));
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
        self.buffer.extend_from_slice(&self.digest.to_bytes());
        self.buffer.push(u8::try_from(devices.len()).map_err(|_| damaged("devices"))?);
        for device in devices {
            self.buffer.extend_from_slice(&device.to_le_bytes());
        }
        self.write(file)?;
        file.write_all(&self.crc.finalize().to_le_bytes())
    }
}

/// Reads and sums up. The sum is taken over what was handed out, many small pieces at once.
struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// What is in the buffer and was not handed out yet.
    start: usize,
    end: usize,
    /// What was handed out before and is in the sum.
    summed: usize,
    crc: crc32fast::Hasher,
}

impl<R: Read> Reader<R> {
    fn new(inner: R) -> Self {
        let crc = crc32fast::Hasher::new();
        Self { inner, buffer: vec![0; READ_BYTES], start: 0, end: 0, summed: 0, crc }
    }

    fn sum(&mut self) {
        self.crc.update(&self.buffer[self.summed..self.start]);
        self.summed = self.start;
    }

    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.end - self.start < count {
            self.fill(count)?;
        }
        let taken = self.start..self.start + count;
        self.start = taken.end;
        Ok(&self.buffer[taken])
    }

    fn fill(&mut self, count: usize) -> io::Result<()> {
        self.sum();
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end, self.summed) = (0, self.end - self.start, 0);
        if self.buffer.len() < count {
            self.buffer.resize(count, 0);
        }
        while self.end < count {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.first_chunk().copied().ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Whether the sum of everything comes next, and then nothing.
    fn ends_well(&mut self) -> io::Result<bool> {
        self.sum();
        let crc = std::mem::take(&mut self.crc).finalize();
        Ok(self.array()? == crc.to_le_bytes() && self.start == self.end && self.inner.read(&mut [0])? == 0)
    }
}

/// An index that was read.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) table: Table,
    /// Of the entries.
    pub(super) digest: ManifestDigest,
    /// The journal position that the entries contain.
    pub(super) seq: u64,
}

/// Reads the index of this journal. `None` when there is none.
pub(super) fn read(dir: &OwnedFd, epoch: Uuid) -> io::Result<Option<Loaded>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(dir, NAME, flags, Mode::empty()) {
        Ok(fd) => decode(File::from(fd), epoch),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn decode(inner: impl Read, epoch: Uuid) -> io::Result<Option<Loaded>> {
    let mut reader = Reader::new(inner);
    if reader.array()? != *MAGIC || reader.array()? != *epoch.as_bytes() {
        // Of another version, or of another journal.
        return Ok(None);
    }
    let seq = u64::from_le_bytes(reader.array()?);
    let mut table = Table::default();
    let mut path = String::new();
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
        let (text, record) = reader.take(length + Record::BYTES)?.split_at(length);
        path.truncate(shared);
        path.push_str(std::str::from_utf8(text).map_err(|_| damaged("a path"))?);
        let record = record.first_chunk().and_then(Record::decode).ok_or_else(|| damaged("an entry"))?;
        devices_used = devices_used.max(if record.ino == 0 { 0 } else { usize::from(record.dev) + 1 });
        if path.is_empty() || !TenantPath::is_path(&path) || !table.push(&path, &record) {
            return Err(damaged("the order of paths"));
        }
    }
    let entries = u64::from_le_bytes(reader.array()?);
    let digest = ManifestDigest::from_bytes(reader.array()?);
    let [devices] = reader.array()?;
    let devices: Vec<u64> = (0..devices).map(|_| reader.array().map(u64::from_le_bytes)).collect::<io::Result<_>>()?;
    if !reader.ends_well()? {
        return Err(damaged("its checksum"));
    }
    if entries != table.len() as u64 || devices_used > devices.len() {
        return Err(damaged("its end"));
    }
    table.pushed();
    table.set_devices(devices);
    Ok(Some(Loaded { table, digest, seq }))
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
        let Loaded { table, digest, seq } = decode(Cursor::new(written(PATHS, epoch)), epoch).unwrap().unwrap();
        assert_eq!((table.len(), seq, table.devices()), (PATHS.len(), 7, &[2049][..]));
        let record = table.get("workspace/ê/a").unwrap();
        assert_eq!((record.ino, record.size, record.mtime_ns, record.settled), (4, 3, -5, true));
        assert_eq!(record.version.source, Source::System);
        let mut expected = ManifestDigest::default();
        for path in PATHS {
            expected.add(crate::index::member(path, table.get(path).unwrap().version.hash));
        }
        assert_eq!(digest, expected);
        assert!(decode(Cursor::new(written(PATHS, epoch)), Uuid::from_u128(2)).unwrap().is_none());
    }

    /// However the bytes come, and however long a path is.
    #[test]
    fn the_pieces_in_which_it_is_read_do_not_matter() {
        struct Bytewise<R>(R);
        impl<R: Read> Read for Bytewise<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(&mut buffer[..1])
            }
        }
        let epoch = Uuid::from_u128(1);
        let long: Vec<_> = (100..400).map(|number| format!("{}{number}", "directory/".repeat(300))).collect();
        let paths: Vec<_> = long.iter().map(String::as_str).collect();
        let bytes = written(&paths, epoch);
        for loaded in [decode(Cursor::new(&bytes), epoch), decode(Bytewise(Cursor::new(&bytes)), epoch)] {
            assert_eq!(loaded.unwrap().unwrap().table.len(), paths.len());
        }
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
