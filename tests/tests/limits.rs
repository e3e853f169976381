//! What a careless or hostile client can hold on to: not the others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use winston_tests::http::send_raw;
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::{Setup, Sidecar};

fn open(sidecar: &Sidecar, request: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(sidecar.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

#[test]
fn bodies_of_unknown_length_do_not_stop_the_others() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let head = format!("Host: x\r\nAuthorization: Bearer {TEST_TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let whole =
        format!("PUT /files/a.md HTTP/1.1\r\nConnection: close\r\n{head}f\r\n{{\"content\":\"a\"}}\r\n0\r\n\r\n");
    send_raw(sidecar.address(), whole.as_bytes())?.expect(200)?;
    // Never finished: its share of the memory is held until its time is up, and there is enough for others.
    let _held = open(&sidecar, &format!("PUT /files/b.md HTTP/1.1\r\n{head}5\r\n{{\"con"))?;
    sidecar.put("c.md", "c")?.expect(200)?;
    Ok(())
}

#[test]
fn the_same_large_content_from_many_writers() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let content = "x".repeat(300_000);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..24)
            .map(|writer| {
                let (sidecar, content) = (&sidecar, &content);
                scope.spawn(move || sidecar.put(&format!("w{writer}.md"), content))
            })
            .collect();
        writers.into_iter().filter_map(|writer| writer.join().ok()?.ok()).map(|answer| answer.status).collect()
    });
    assert_eq!(statuses, [200; 24]);
    let objects: Vec<_> = std::fs::read_dir(sidecar.data().join(".winston/objects"))?.collect::<Result<_, _>>()?;
    assert_eq!(objects.len(), 1, "{objects:?}");
    Ok(())
}

#[test]
fn downloads_that_nobody_reads_do_not_stop_the_others() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    sidecar.agent_writes("large.bin", vec![b'x'; 40 << 20])?;
    let request = format!(
        "GET /files/large.bin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TEST_TOKEN}\r\nAccept: application/octet-stream\r\n\r\n"
    );
    let held: Vec<_> = (0..40).map(|_| open(&sidecar, &request)).collect::<Result<_>>()?;
    sidecar.put("a.md", "a")?.expect(200)?;
    sidecar.get("/files?path=")?.expect(200)?;
    // One of them reads after all and gets everything.
    let mut patient = &held[0];
    let mut head = [0; 4096];
    let mut read = patient.read(&mut head)?;
    while read < 40 << 20 {
        read += patient.read(&mut [0; 65536])?;
    }
    drop(held);
    let (status, _) = sidecar.stop()?;
    assert!(status.success());
    Ok(())
}

#[test]
fn an_answer_that_nobody_reads_ends_its_connection() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let mut stream = TcpStream::connect(sidecar.address())?;
    stream.set_write_timeout(Some(Duration::from_secs(120)))?;
    // Requests without end, answers unread: in time the connection is reset.
    let requests = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let ended = loop {
        if let Err(error) = stream.write_all(requests.as_bytes()) {
            break error;
        }
    };
    assert_ne!(ended.kind(), std::io::ErrorKind::WouldBlock, "the connection was still open");
    sidecar.get("/health")?.expect(200)?;
    Ok(())
}
