//! What holds for every history, whoever wrote it: its records are a chain of whole contents, and its end is what is on disk and in control's list.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Finding, Kind, Record, Seen};
use crate::tenant::hash;

/// Every record is there with its content, and follows the one before it.
pub(crate) fn chain(history: &[Record]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut find = |kind, what| found.push(Finding { kind, what });
    let mut newest: HashMap<&str, Option<&str>> = HashMap::new();
    for (index, record) in history.iter().enumerate() {
        let Record { seq, path, .. } = record;
        if *seq != index as u64 + 1 {
            find(Kind::Lost, format!("record {} of the history has number {seq}", index + 1));
        }
        match (&record.hash, &record.content) {
            (Some(_), None) => find(Kind::Lost, format!("{path}: control has no content of record {seq}")),
            (Some(wanted), Some(bytes)) if hash(bytes) != *wanted => {
                find(Kind::Torn, format!("{path}: the content of record {seq} has another hash"));
            }
            _ => {}
        }
        let before = newest.get(path.as_str()).copied().flatten();
        if before != record.previous_hash.as_deref() {
            let said = &record.previous_hash;
            find(Kind::Differs, format!("{path}: record {seq} follows {said:?}, the one before it is {before:?}"));
        }
        if let Some(from) = record.previous_path.as_deref() {
            let moved = newest.insert(from, None).flatten();
            if moved != record.hash.as_deref() {
                let said = &record.hash;
                find(Kind::Differs, format!("{path}: record {seq} moves {said:?}, at {from} was {moved:?}"));
            }
        }
        newest.insert(path, record.hash.as_deref());
    }
    found
}

/// Disk, last record and control's list are the same, and nothing is left over.
pub(crate) fn agree(seen: &Seen) -> Vec<Finding> {
    let mut found: Vec<_> = seen.left.iter().map(|name| Finding { kind: Kind::Leftover, what: name.clone() }).collect();
    let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
    for record in &seen.history {
        if let Some(from) = &record.previous_path {
            newest.remove(from.as_str());
        }
        match &record.hash {
            Some(hash) => newest.insert(&record.path, hash),
            None => newest.remove(record.path.as_str()),
        };
    }
    let disk: BTreeMap<&str, String> = seen.disk.iter().map(|(path, bytes)| (path.as_str(), hash(bytes))).collect();
    let listed = seen.listed.keys().map(String::as_str);
    let paths: HashSet<&str> = newest.keys().chain(disk.keys()).copied().chain(listed).collect();
    for path in paths {
        let (disk, newest, listed) =
            (disk.get(path).map(String::as_str), newest.get(path).copied(), seen.listed.get(path));
        if disk != newest || disk != listed.map(String::as_str) {
            let what = format!("{path}: {disk:?} on disk, {newest:?} in the history, {listed:?} in control's list");
            found.push(Finding { kind: Kind::Differs, what });
        }
    }
    found
}
