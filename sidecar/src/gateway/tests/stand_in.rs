//! What answers on the gateway's port in place of the gateway: probes with one status, and the drain RPC.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// The token that it accepts.
pub(super) const SECRET: &str = "stand-in-secret";

pub(super) struct StandIn {
    pub(super) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    status: AtomicU16,
    /// Where the script waits.
    ctl: PathBuf,
    drained: Mutex<Option<Value>>,
}

impl StandIn {
    /// Answers 503 until told otherwise.
    pub(super) async fn bind(ctl: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { status: AtomicU16::new(503), ctl, drained: Mutex::new(None) });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { port, shared }
    }

    /// What to answer to probes from now on.
    pub(super) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// Lets a script go on that waits, or is about to.
    pub(super) async fn release(&self) {
        release(&self.shared.ctl).await;
    }

    /// The parameters of the last drain request.
    pub(super) fn drained(&self) -> Option<Value> {
        self.shared.drained.lock().expect("no panic").clone()
    }
}

async fn release(ctl: &Path) {
    let mut written = false;
    super::rig::eventually("the script waits", || {
        // Without a reader, opening a FIFO like this fails.
        let ctl = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(ctl);
        written = written || ctl.and_then(|mut ctl| ctl.write_all(b"go\n")).is_ok();
        written
    })
    .await;
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut head = [0; 1024];
    let length = stream.peek(&mut head).await.ok()?;
    let head_text = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    assert!(!head_text.contains("\norigin:") && !head_text.contains("forwarded"));
    if head_text.contains("upgrade: websocket") {
        return rpc(stream, &shared).await;
    }
    stream.read_exact(&mut head[..length]).await.ok()?;
    let known = head_text.starts_with("get /startupz ") || head_text.starts_with("get /healthz ");
    let status = if known { shared.status.load(Ordering::Relaxed) } else { 404 };
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
    stream.write_all(answer.as_bytes()).await.ok()
}

async fn rpc(stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut socket = tokio_tungstenite::accept_async(stream).await.ok()?;
    let challenge = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}});
    let tick = json!({"type": "event", "event": "tick"});
    socket.send(Message::text(challenge.to_string())).await.ok()?;
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let request: Value = serde_json::from_str(&text).ok()?;
        let params = &request["params"];
        let ok = match request["method"].as_str()? {
            "connect" => params["auth"]["token"] == SECRET && params["maxProtocol"] == 4,
            "gateway.restart.request" => {
                *shared.drained.lock().ok()? = Some(params.clone());
                release(&shared.ctl).await;
                true
            }
            _ => false,
        };
        let answer = json!({
            "type": "res", "id": request["id"], "ok": ok, "payload": {},
            "error": {"code": "UNAUTHORIZED", "message": "stand-in"},
        });
        for frame in [&tick, &answer] {
            socket.send(Message::text(frame.to_string())).await.ok()?;
        }
    }
    Some(())
}
