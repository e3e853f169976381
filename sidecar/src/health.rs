//! `--health`: the image's health check, without a second program in the image.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use winston_wire::SIDECAR_PORT;

const TIME: Duration = Duration::from_secs(3);

/// Asks `GET /health` on this machine; 0 when it answers 200.
pub(crate) fn check() -> ExitCode {
    match ask() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("winston-sidecar: not healthy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask() -> std::io::Result<()> {
    let listen = std::env::var("WINSTON_SIDECAR_LISTEN").ok().and_then(|text| text.parse().ok());
    let mut address = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, SIDECAR_PORT)));
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let mut stream = TcpStream::connect_timeout(&address, TIME)?;
    stream.set_read_timeout(Some(TIME))?;
    stream.set_write_timeout(Some(TIME))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    if answer == *b"HTTP/1.1 200" { Ok(()) } else { Err(std::io::Error::other("unexpected answer")) }
}
