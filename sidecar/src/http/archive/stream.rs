//! A request body as a blocking reader.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::{Receiver, Sender};

/// Longest pause of a client, and longest time of a whole upload.
const IDLE: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(600);

/// Pieces that wait for the reader.
const WAITING: usize = 4;

enum Piece {
    Data(Bytes),
    /// The body is complete. Without this the end of the channel is a connection that broke.
    End,
}

/// The sending side: moves a body into the channel.
pub(in super::super) struct Feed(Sender<Piece>);

/// The reading side. Blocking.
pub(in super::super) struct Received {
    pieces: Receiver<Piece>,
    current: Bytes,
    ended: bool,
    /// Bytes that may still come.
    left: u64,
}

/// Both sides; at most `limit` bytes go through.
pub(in super::super) fn channel(limit: u64) -> (Feed, Received) {
    let (sender, pieces) = tokio::sync::mpsc::channel(WAITING);
    (Feed(sender), Received { pieces, current: Bytes::new(), ended: false, left: limit })
}

impl Feed {
    /// Ends when the body, the reader or the patience does.
    pub(in super::super) async fn run(self, mut body: Incoming) {
        let all = async {
            loop {
                match tokio::time::timeout(IDLE, body.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data()
                            && self.0.send(Piece::Data(data)).await.is_err()
                        {
                            return;
                        }
                    }
                    Ok(None) => {
                        let _ = self.0.send(Piece::End).await;
                        return;
                    }
                    Ok(Some(Err(_))) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(WHOLE, all).await;
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => {
                    self.left = self.left.checked_sub(data.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
                    self.current = data;
                }
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
