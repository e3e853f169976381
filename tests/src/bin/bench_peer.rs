//! `winston-bench-peer`: what the front door is measured against. Not shipped.
//!
//! `backend` answers every request with the same 1 KiB, and every WebSocket with 101 and silence. `proxy <port>` is the least that hyper takes for a
//! reverse proxy: no limits, no checks, no headers of its own. Each prints its port and runs until it is killed.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["backend"] => backend(listener).await,
            ["proxy", port] => proxy(listener, SocketAddr::from(([127, 0, 0, 1], port.parse()?))).await,
            _ => bail!("winston-bench-peer backend | proxy <port>"),
        }
    }))
}

async fn backend(listener: TcpListener) -> Result<()> {
    let answer: &'static [u8] =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024))
            .leak()
            .as_bytes();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            // Whoever goes away has had enough.
            let _ = serve(stream, answer).await;
        });
    }
}

/// Reads whole heads and answers them; bodies are not expected.
async fn serve(mut stream: TcpStream, answer: &[u8]) -> Result<()> {
    let mut head = Vec::with_capacity(2048);
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let upgrade = b"\r\nupgrade: websocket";
        if head.windows(upgrade.len()).any(|window| window.eq_ignore_ascii_case(upgrade)) {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await?;
            stream.read_u8().await?;
            return Ok(());
        }
        stream.write_all(answer).await?;
        head.clear();
    }
}

type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

async fn proxy(listener: TcpListener, backend: SocketAddr) -> Result<()> {
    let idle = Idle::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let idle = Rc::clone(&idle);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| pass(Rc::clone(&idle), backend, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(idle: Idle, backend: SocketAddr, request: Request<Incoming>) -> Result<Response<Incoming>> {
    let waiting = idle.borrow_mut().pop();
    let mut sender = match waiting {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let stream = TcpStream::connect(backend).await.context("the backend")?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::task::spawn_local(connection);
            sender
        }
    };
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    // It waits for the end of this answer before it takes the next request.
    idle.borrow_mut().push(sender);
    Ok(response)
}
