//! Giving control the contents that it lacks: small ones many at a time, the others one by one.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use winston_wire::{ChangeBatch, ContentHash, FRAME_HEAD_BYTES, MAX_CONTENTS, RefusedContent};

use super::body::UploadBody;
use super::client::{ClientError, ControlClient};
use super::upload::{UploadError, blocking};
use crate::edits::Edits;
use crate::fs::TenantPath;
use crate::journal::JournalError;

/// Most bytes of a body with many contents. Control takes several times that; proxies in front of it often no more than 1 MiB.
const MANY_BYTES: usize = 1000 * 1000;

/// Contents of a batch that are in its records.
pub(super) type Inline = HashMap<ContentHash, Bytes>;

/// A content that control does not get, and why no later attempt would end differently.
pub(super) type Missed = (ContentHash, &'static str);

/// Gives control what it wants of a batch. Returns what it does not get.
pub(super) async fn give(
    edits: &Arc<Edits>,
    client: &ControlClient,
    inline: &Inline,
    batch: &ChangeBatch,
    wanted: &[ContentHash],
) -> Result<Vec<Missed>, UploadError> {
    let mut missed = Vec::new();
    let mut single: Vec<ContentHash> = wanted.iter().copied().filter(|hash| !inline.contains_key(hash)).collect();
    let small = wanted.iter().filter_map(|hash| Some((*hash, inline.get(hash)?.clone()))).collect();
    for bundle in bundles(small) {
        if !give_many(client, &bundle, &mut missed).await? {
            single.extend(bundle.into_iter().map(|(hash, _)| hash));
        }
    }
    for hash in single {
        if let Given::No(why) = give_one(edits, client, inline, batch, hash).await? {
            missed.push((hash, why));
        }
    }
    Ok(missed)
}

/// Contents as they go into bodies of their own: as many as fit, in order.
fn bundles(contents: Vec<(ContentHash, Bytes)>) -> Vec<Vec<(ContentHash, Bytes)>> {
    let mut bundles: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for (hash, content) in contents {
        let more = FRAME_HEAD_BYTES + content.len();
        match bundles.last_mut() {
            Some(last) if last.len() < MAX_CONTENTS && bytes + more <= MANY_BYTES => {
                last.push((hash, content));
                bytes += more;
            }
            _ => {
                bundles.push(vec![(hash, content)]);
                bytes = more;
            }
        }
    }
    bundles
}

/// Sends contents in one request. False when they have to go one by one.
async fn give_many(
    client: &ControlClient,
    contents: &[(ContentHash, Bytes)],
    missed: &mut Vec<Missed>,
) -> Result<bool, UploadError> {
    // Alone it needs no frame, and no list for an answer.
    if contents.len() < 2 {
        return Ok(false);
    }
    match client.put_contents(UploadBody::of_frames(contents)).await {
        Ok(answer) => {
            // Only what was sent: an answer may be another one's.
            let sent: HashSet<_> = contents.iter().map(|(hash, _)| *hash).collect();
            for RefusedContent { hash, code } in answer.refused {
                if let Some(why) = verdict(&code).filter(|_| sent.contains(&hash)) {
                    missed.push((hash, why));
                }
            }
            Ok(true)
        }
        // A control from before there was this request, or a proxy that takes less than it.
        Err(ClientError::Refused { status, .. }) if takes_single(status) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn takes_single(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::PAYLOAD_TOO_LARGE)
}

/// What came of a content that control asked for.
enum Given {
    Yes,
    /// No later attempt would end differently.
    No(&'static str),
}

/// Gives control a content: from the record, from `.winston/objects/`, or from the file itself if it still is that version.
async fn give_one(
    edits: &Arc<Edits>,
    client: &ControlClient,
    inline: &Inline,
    batch: &ChangeBatch,
    hash: ContentHash,
) -> Result<Given, UploadError> {
    if let Some(content) = inline.get(&hash) {
        return refused(client.put_content(hash, content.clone().into()).await);
    }
    let object = {
        let edits = Arc::clone(edits);
        blocking(move || edits.journal().object(hash)).await??
    };
    if let Some(file) = object
        && let Some(given) = give_file(client, file, hash).await?
    {
        return Ok(given);
    }
    let paths: Vec<_> = batch.changes.iter().filter(|change| change.hash == Some(hash)).collect();
    for change in paths {
        let Ok(path) = TenantPath::parse(&change.path) else { continue };
        let (edits, size) = (Arc::clone(edits), change.size);
        let found =
            blocking(move || edits.root().open_file(&path).ok().filter(|it| Some(it.stat.size) == size)).await?;
        if let Some(opened) = found
            && let Some(given) = give_file(client, opened.file, hash).await?
        {
            return Ok(given);
        }
    }
    Ok(Given::No("it is lost"))
}

/// Sends a file; `None` when it is not the content that it should be.
async fn give_file(client: &ControlClient, file: File, hash: ContentHash) -> Result<Option<Given>, UploadError> {
    let (file, size) =
        blocking(move || file.metadata().map(|metadata| (file, metadata.len()))).await?.map_err(JournalError::from)?;
    let (body, verdict) = UploadBody::of_file(file, size, hash);
    let sent = client.put_content(hash, body).await;
    if verdict.is_damaged() {
        return Ok(None);
    }
    refused(sent).map(Some)
}

/// Refused by control itself; a proxy's limit is for an operator to raise.
fn refused(sent: Result<(), ClientError>) -> Result<Given, UploadError> {
    match sent {
        Ok(()) => Ok(Given::Yes),
        Err(ClientError::Refused { status, code, message }) => match verdict(&code) {
            Some(why) => Ok(Given::No(why)),
            None => Err(ClientError::Refused { status, code, message }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Too large for control, or not what it says: no later attempt would be answered differently.
fn verdict(code: &str) -> Option<&'static str> {
    match code {
        "too_large" => Some("it is too large for control"),
        "hash_mismatch" => Some("it is damaged"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_bounded_in_count_and_bytes_and_nothing_is_left_out() {
        let contents = |count: u32, bytes: usize| -> Vec<_> {
            let content = Bytes::from(vec![7; bytes]);
            (0..count).map(|number| (crate::edits::hash_of(&number.to_be_bytes()), content.clone())).collect()
        };
        for (count, bytes) in [(0, 1), (1, 1), (MAX_CONTENTS as u32 * 2 + 1, 0), (60, 64 * 1024), (3, 2 * MANY_BYTES)] {
            let all = contents(count, bytes);
            let bundles = bundles(all.clone());
            assert_eq!(bundles.concat(), all);
            for bundle in &bundles {
                let sum: usize = bundle.iter().map(|(_, content)| FRAME_HEAD_BYTES + content.len()).sum();
                assert!(bundle.len() <= MAX_CONTENTS && (sum <= MANY_BYTES || bundle.len() == 1), "{count} × {bytes}");
            }
            // None of them could have taken the first one of the next.
            for pair in bundles.windows(2) {
                let sum = (pair[0].len() + 1) * (FRAME_HEAD_BYTES + bytes);
                assert!(pair[0].len() == MAX_CONTENTS || sum > MANY_BYTES);
            }
        }
    }
}
