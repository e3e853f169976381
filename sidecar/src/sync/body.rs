//! Bodies of requests to control: bytes that are in memory, as one piece or as a row of frames, or a file that is read piece by piece
//! while it is sent.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use winston_wire::{ContentHash, FRAME_HEAD_BYTES};

/// Bytes that are read from a file at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces that may wait to be sent.
const PIECES: usize = 2;

/// Body of a request. Its length is known.
#[derive(Debug)]
pub(super) struct UploadBody {
    left: u64,
    pieces: Pieces,
}

#[derive(Debug)]
enum Pieces {
    Whole(Option<Bytes>),
    Row(std::vec::IntoIter<Bytes>),
    File(Receiver<io::Result<Bytes>>),
}

impl From<Bytes> for UploadBody {
    fn from(bytes: Bytes) -> Self {
        Self { left: bytes.len() as u64, pieces: Pieces::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())) }
    }
}

/// Whether a file that is being sent turned out not to be what it should be.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<AtomicBool>);

impl Verdict {
    /// The file is shorter than it was, cannot be read, or has another hash. Nobody got all of it.
    pub(super) fn is_damaged(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl UploadBody {
    /// Many contents in frames (see [`winston_wire::frames`]). They are not copied.
    pub(super) fn of_frames(contents: &[(ContentHash, Bytes)]) -> Self {
        let mut heads = BytesMut::with_capacity(contents.len() * FRAME_HEAD_BYTES);
        let mut pieces = Vec::with_capacity(contents.len() * 2);
        for (hash, content) in contents {
            // Contents are bounded by what a record may carry.
            let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
            heads.extend_from_slice(&winston_wire::frame_head(hash, length));
            pieces.push(heads.split().freeze());
            // A piece without bytes would end the body.
            pieces.extend(Some(content.clone()).filter(|content| !content.is_empty()));
        }
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { left, pieces: Pieces::Row(pieces.into_iter()) }
    }

    /// Sends `size` bytes of a file. They are hashed on the way, and the last piece goes out only when the hash is right: the receiver
    /// never has the whole of something else. Must be called on a runtime.
    pub(super) fn of_file(file: File, size: u64, hash: ContentHash) -> (Self, Verdict) {
        let verdict = Verdict::default();
        let (pieces, receiver) = channel(PIECES);
        let reading = verdict.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(file, size, hash, &pieces) {
                reading.0.store(true, Ordering::Release);
                // The request may be over already.
                let _ = pieces.blocking_send(Err(error));
            }
        });
        (Self { left: size, pieces: Pieces::File(receiver) }, verdict)
    }

    /// Bytes that are still to be sent.
    pub(super) fn len(&self) -> u64 {
        self.left
    }
}

/// Reads the file into the channel. An error means that the file is not what it should be.
fn read(mut file: File, size: u64, hash: ContentHash, pieces: &Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut left = size;
    let mut digest = Sha256::new();
    loop {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        file.read_exact(&mut piece)?;
        digest.update(&piece);
        left -= piece.len() as u64;
        if left == 0 && digest.clone().finalize().as_slice() != hash.as_bytes().as_slice() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the content is not what its hash says"));
        }
        // A closed channel: the request has ended, for reasons that are not the file's.
        if piece.is_empty() || pieces.blocking_send(Ok(piece.into())).is_err() || left == 0 {
            return Ok(());
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match &mut this.pieces {
            Pieces::Whole(bytes) => bytes.take().map(Ok),
            Pieces::Row(pieces) => pieces.next().map(Ok),
            Pieces::File(receiver) => ready!(receiver.poll_recv(context)),
        };
        if let Some(Ok(bytes)) = &piece {
            this.left = this.left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file.reopen().unwrap()
    }

    fn send(content: &[u8], size: u64, hash: ContentHash) -> (Result<usize, usize>, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut body, verdict) = UploadBody::of_file(file(content), size, hash);
            let mut got = 0;
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => got += frame.into_data().unwrap().len(),
                    Err(_) => return (Err(got), verdict.is_damaged()),
                }
            }
            (Ok(got), verdict.is_damaged())
        })
    }

    #[test]
    fn a_row_of_frames_is_what_it_was_made_of() {
        let contents: Vec<_> = [b"one".as_slice(), b"", &[7; 300]]
            .map(|content| (crate::edits::hash_of(content), Bytes::copy_from_slice(content)))
            .to_vec();
        let body = UploadBody::of_frames(&contents);
        let length = body.len();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sent = runtime.block_on(body.collect()).unwrap().to_bytes();
        assert_eq!(sent.len() as u64, length);
        let found: Vec<_> = winston_wire::frames(&sent).unwrap();
        assert!(found.into_iter().eq(contents.iter().map(|(hash, content)| (*hash, content.as_ref()))));
    }

    #[test]
    fn a_whole_file_goes_out_and_another_one_never_completely() {
        for size in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES + 7] {
            let content = vec![7u8; size];
            let hash = crate::edits::hash_of(&content);
            assert_eq!(send(&content, size as u64, hash), (Ok(size), false), "{size}");
            let mut flipped = content.clone();
            flipped[size - 1] ^= 1;
            for (damaged, why) in [(&flipped[..], "flipped"), (&content[..size - 1], "cut")] {
                let (got, is_damaged) = send(damaged, size as u64, hash);
                assert!(is_damaged && got.is_err_and(|got| got < size), "{why} {size}");
            }
        }
    }
}
