//! Reading a tar, plain or compressed, entry by entry. One file at a time is in memory.

use std::io::{self, BufRead, BufReader, Read};

use tar::EntryType;

use super::super::pack::{NOTES, NOTES_OWNER};
use super::vet::{Kind, MAX_ENTRIES, Refused, Taken, Vetting};

/// Largest window of a zstd frame, as a power of two: 8 MiB, what every decoder has to support.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Longest extended header (a long name, PAX records).
const EXTENDED_BYTES: u64 = 64 * 1024;

/// One entry that is taken.
pub(in super::super) enum Entry {
    File { path: String, mode: u32, bytes: Vec<u8> },
    Directory { path: String },
}

/// Stops at a number of bytes, whatever a decoder makes of its input.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// Calls `take` for every entry of the archive, in order. At most `total` bytes of files, each at most `file_limit`. The archive is
/// read to its end, so a damaged or cut one is refused even when its entries were readable. Blocking.
pub(in super::super) fn each_entry<E: From<Refused>>(
    body: impl Read,
    total: u64,
    file_limit: u64,
    mut take: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let unreadable = |error: io::Error| E::from(refused(&error, total));
    // Headers and padding come on top of the files.
    let overhead = MAX_ENTRIES as u64 * 2048 + (1 << 20);
    let decoded = decode(body).map_err(unreadable)?;
    let mut archive = tar::Archive::new(Bounded { inner: decoded, left: total.saturating_add(overhead) });
    let mut vetting = Vetting::default();
    let mut long_name: Option<Vec<u8>> = None;
    let mut left = total;
    let mut some = false;
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        some = true;
        let (kind, size) = (entry.header().entry_type(), entry.header().entry_size().map_err(unreadable)?);
        let kind = match kind {
            EntryType::GNULongName | EntryType::XHeader => {
                let text = extended(&mut entry, size).map_err(unreadable)?;
                let name = if kind == EntryType::XHeader { pax_path(&text)? } else { Some(trim(text)) };
                long_name = name.or(long_name);
                continue;
            }
            // Comments for everything; nothing in it is ours to use.
            EntryType::XGlobalHeader => {
                pax_path(&extended(&mut entry, size).map_err(unreadable)?)?;
                continue;
            }
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Other("a symbolic link"),
            EntryType::Link => Kind::Other("a hard link"),
            EntryType::Char | EntryType::Block => Kind::Other("a device"),
            EntryType::Fifo => Kind::Other("a FIFO"),
            _ => Kind::Other("an entry of an unknown kind"),
        };
        let name = long_name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        // What a download noted about itself is no file of the tree.
        if name == NOTES.as_bytes() && entry.header().username_bytes() == Some(NOTES_OWNER.as_bytes()) {
            continue;
        }
        // What tar was before there was a kind for directories.
        let kind = if kind == Kind::File && name.ends_with(b"/") { Kind::Directory } else { kind };
        match vetting.entry(&name, kind)? {
            Taken::Nothing => {}
            Taken::Directory(path) => take(Entry::Directory { path })?,
            Taken::File(path) => {
                if size > file_limit {
                    return Err(Refused::FileTooLarge { name: path, limit: file_limit }.into());
                }
                left = left.checked_sub(size).ok_or(Refused::TooMuch { what: "bytes", limit: total })?;
                let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                entry.read_to_end(&mut bytes).map_err(unreadable)?;
                if bytes.len() as u64 != size {
                    return Err(Refused::Cut.into());
                }
                let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
                take(Entry::File { path, mode, bytes })?;
            }
        }
    }
    if !some {
        return Err(Refused::Unreadable("it has no entries".to_owned()).into());
    }
    // What follows the end mark says nothing, but a checksum of the compression may be in it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    Ok(())
}

fn refused(error: &io::Error, limit: u64) -> Refused {
    // Decoders and tar wrap what the stream below them said.
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::FileTooLarge) => return Refused::TooMuch { what: "bytes", limit },
            Some(io::ErrorKind::ConnectionAborted) => return Refused::Cut,
            _ => source = error.source(),
        }
    }
    match error.kind() {
        io::ErrorKind::FileTooLarge => Refused::TooMuch { what: "bytes", limit },
        io::ErrorKind::ConnectionAborted => Refused::Cut,
        _ => Refused::Unreadable(error.to_string()),
    }
}

/// Undoes the compression that the first bytes tell of.
fn decode<'a>(body: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut body = BufReader::with_capacity(64 * 1024, body);
    let start = body.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(body)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(body))
}

fn extended(entry: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > EXTENDED_BYTES {
        return Err(io::Error::other("an extended header is too long"));
    }
    let mut text = Vec::new();
    entry.take(EXTENDED_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn trim(mut name: Vec<u8>) -> Vec<u8> {
    while name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// The `path` of PAX records: `<length> <key>=<value>\n` each. A `size` or a sparse map would change how the data is to be read: refused.
fn pax_path(mut text: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
    let bad = || Refused::Unreadable("a PAX header is damaged".to_owned());
    let mut path = None;
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&text[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        if length > text.len() || length < space + 3 {
            return Err(bad());
        }
        let record = text[space + 1..length].strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        match &record[..equals] {
            b"path" => path = Some(record[equals + 1..].to_vec()),
            key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                return Err(Refused::Unreadable("sparse files and PAX sizes are not taken".to_owned()));
            }
            _ => {}
        }
        text = &text[length..];
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(archive: &[u8]) -> Result<Vec<String>, Refused> {
        let mut names = Vec::new();
        each_entry(archive, 1 << 20, 1 << 20, |entry| {
            names.push(match entry {
                Entry::File { path, .. } | Entry::Directory { path } => path,
            });
            Ok::<_, Refused>(())
        })?;
        Ok(names)
    }

    fn tar_of(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            builder.append_data(&mut header, name, &b"hi"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn pax_records_are_read_by_their_length() {
        assert_eq!(pax_path(b"12 path=a=b\n").unwrap(), Some(b"a=b".to_vec()));
        assert_eq!(pax_path(b"9 mtime=\n11 path=xy\n").ok(), Some(Some(b"xy".to_vec())));
        for text in [&b"99 path=x\n"[..], b"x path=x\n", b"3 a\n", b"10 path=xyz", b"10 size=99\n"] {
            assert!(pax_path(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn long_names_and_both_compressions_are_read() {
        let long = format!("{}/x", "d".repeat(150));
        let plain = tar_of(&["a", &long]);
        assert_eq!(names(&plain).unwrap(), ["a", &long]);
        assert_eq!(names(&zstd::encode_all(&plain[..], 3).unwrap()).unwrap(), ["a", &long]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        assert_eq!(names(&gzip.finish().unwrap()).unwrap(), ["a", &long]);
    }

    proptest! {
        /// Whatever comes in: an answer, and never a name that leaves.
        #[test]
        fn any_damage_is_survived(at in 0usize..2048, byte: u8) {
            let mut archive = tar_of(&["a", "b/c"]);
            archive[at] = byte;
            if let Ok(names) = names(&archive) {
                prop_assert!(names.iter().all(|name| !name.starts_with('/') && !name.split('/').any(|part| part == "..")));
            }
        }
    }
}
