//! Two connections that carry each other's bytes: a WebSocket after its handshake.
//!
//! A tunnel that carries nothing holds nothing: bytes go through one buffer that all tunnels of the thread share, and only what a slow reader
//! does not take at once is kept for it.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::consume_budget;
use tokio::time::timeout;

/// Most bytes that one turn takes over.
const PIECE: usize = 64 * 1024;

/// How long one direction goes on after the other has ended.
const AFTER_END: Duration = Duration::from_secs(30);

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// Carries bytes both ways until both ends have said all, or one is gone. An end of one direction is passed on.
pub(super) async fn carry(client: &TcpStream, gateway: &TcpStream) -> io::Result<()> {
    let mut there = std::pin::pin!(one_way(client, gateway));
    let mut back = std::pin::pin!(one_way(gateway, client));
    tokio::select! {
        ended = &mut there => {
            ended?;
            timeout(AFTER_END, back).await.unwrap_or(Ok(()))
        }
        ended = &mut back => {
            ended?;
            timeout(AFTER_END, there).await.unwrap_or(Ok(()))
        }
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        // Two ends that never make it wait must not have the whole event loop.
        consume_budget().await;
        from.readable().await?;
        match turn(from, to) {
            Ok(Turn::End) => {
                // Gone already, perhaps: then there is nobody to tell.
                let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
                return Ok(());
            }
            Ok(Turn::Whole) => {}
            Ok(Turn::Left(left)) => write_all(to, &left).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

enum Turn {
    Whole,
    /// What the reader did not take.
    Left(Vec<u8>),
    End,
}

fn turn(from: &TcpStream, to: &TcpStream) -> io::Result<Turn> {
    SHARED.with_borrow_mut(|piece| {
        let read = from.try_read(piece)?;
        if read == 0 {
            return Ok(Turn::End);
        }
        let bytes = piece.get(..read).unwrap_or_default();
        let written = match to.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        let left = bytes.get(written..).unwrap_or_default();
        Ok(if left.is_empty() { Turn::Whole } else { Turn::Left(left.to_vec()) })
    })
}

/// Writes everything, at the reader's pace.
pub(super) async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        consume_budget().await;
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
