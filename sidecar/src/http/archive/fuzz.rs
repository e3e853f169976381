//! Fuzz target of uploaded archives (see [`crate::fuzz`]).

use std::collections::BTreeSet;

use super::vet::MAX_ENTRIES;
use super::{Entry, Refused, each_entry};
use crate::fs::TenantPath;
use crate::fuzz::fuzz;

const TOTAL: u64 = 64 * 1024;
const LARGEST: u64 = 8 * 1024;

/// Sizes, and where they are in a tar.
const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: std::ops::Range<usize> = 257..262;

/// A path, and mode and content of a file; `None` for a directory.
type Taken = (String, Option<(u32, Vec<u8>)>);

/// What an archive was taken for; `None` when it was refused.
fn taken(archive: &[u8]) -> Option<Vec<Taken>> {
    let mut taken = Vec::new();
    let read = each_entry(archive, TOTAL, LARGEST, |entry| {
        taken.push(match entry {
            Entry::File { path, mode, bytes } => (path, Some((mode, bytes))),
            Entry::Directory { path } => (path, None),
        });
        Ok::<_, Refused>(())
    });
    read.is_ok().then_some(taken)
}

/// Makes the checksums right of everything that looks like a header, so that damage gets further than to them.
fn repaired(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(BLOCK).filter(|block| block[MAGIC] == *b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

fn check(archive: &[u8]) {
    let Some(taken) = taken(archive) else { return };
    assert!(taken.len() <= MAX_ENTRIES);
    let mut total = 0;
    let files: BTreeSet<_> = taken.iter().filter(|(_, file)| file.is_some()).map(|(path, _)| path.as_str()).collect();
    assert_eq!(files.len(), taken.iter().filter(|(_, file)| file.is_some()).count(), "a file twice");
    for (path, file) in &taken {
        // Every name is below the directory, and no file is in the way of another name.
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0'), "{path:?}");
        assert!(TenantPath::parse(path).is_err() || TenantPath::parse(path).unwrap().as_str() == path, "{path:?}");
        let mut ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
        assert!(!ancestors.any(|ancestor| files.contains(ancestor)), "{path:?} is below a file");
        if let Some((mode, bytes)) = file {
            assert!(*mode <= 0o777 && bytes.len() as u64 <= LARGEST, "{path:?}");
            total += bytes.len() as u64;
        } else {
            assert!(!files.contains(path.as_str()), "{path:?} is both");
        }
    }
    assert!(total <= TOTAL);
    // Packed and read again, it says the same.
    let mut builder = tar::Builder::new(Vec::new());
    for (path, file) in &taken {
        let mut header = tar::Header::new_gnu();
        let (kind, mode, bytes) = match file {
            Some((mode, bytes)) => (tar::EntryType::Regular, *mode, bytes.as_slice()),
            None => (tar::EntryType::Directory, 0o755, &[][..]),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    }
    if !taken.is_empty() {
        assert_eq!(self::taken(&builder.into_inner().unwrap()), Some(taken));
    }
}

#[test]
fn archives() {
    let words = [
        "../",
        "/",
        "./",
        "\0",
        "ustar",
        "path=",
        "12 path=a=b\n",
        "GNU.sparse.major",
        "\u{1f}\u{8b}",
        "0000777",
        "1",
        "2",
        "5",
    ];
    fuzz("archive", &words, |input| {
        check(input);
        check(&repaired(input));
    });
}
