//! Accepted sockets: their options, and how one is turned away.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stats::Trouble;

/// Longest time, in milliseconds, without the client taking any of its answer.
const STALLED_MS: u32 = 30_000;

/// When a silent connection is asked whether it is still there, how often, and how many times in vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Options of an accepted connection. Failing to set one is no reason not to serve.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    // A client that does not read its answer is dropped by the kernel (tcp(7): also when the window is closed).
    sockopt::set_tcp_user_timeout(stream, STALLED_MS)?;
    // A WebSocket may be silent for days; a peer that is gone without a word must not hold it that long.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Says that there is no room, and reads on a little: a connection that is closed with unread bytes loses the answer too.
pub(super) async fn turn_away(mut stream: TcpStream, trouble: Trouble) -> io::Result<()> {
    let status = if trouble == Trouble::Full { "503 Service Unavailable" } else { "429 Too Many Requests" };
    let body = format!("{{\"error\":\"too many connections\",\"code\":\"{}\"}}", trouble.as_str());
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
