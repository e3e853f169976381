//! What answers on the gateway's port in place of the gateway: probes with one status, `/readyz` with any body, and the RPC that we use.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
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
    /// Body of `/readyz`, and how often it was asked for.
    condition: Mutex<Value>,
    looks: AtomicUsize,
    /// The answer to whoever wants to suspend it.
    suspension: Mutex<Value>,
    /// What calls are refused or get no answer, and the calls that were made.
    refused: Mutex<Vec<&'static str>>,
    ignored: Mutex<Vec<&'static str>>,
    /// What it says to a refused call, and of a channel that does not start; empty: channels start.
    words: Mutex<String>,
    calls: Mutex<Vec<(String, Value)>>,
    /// Where the script waits.
    ctl: PathBuf,
    drained: Mutex<Option<Value>>,
}

impl StandIn {
    /// Answers 503 until told otherwise.
    pub(super) async fn bind(ctl: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            status: AtomicU16::new(503),
            condition: Mutex::new(json!({"ready": true, "failing": []})),
            looks: AtomicUsize::new(0),
            suspension: Mutex::default(),
            refused: Mutex::default(),
            ignored: Mutex::default(),
            words: Mutex::default(),
            calls: Mutex::default(),
            ctl,
            drained: Mutex::new(None),
        });
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

    /// What to say of itself from now on.
    pub(super) fn say(&self, condition: Value) {
        *self.shared.condition.lock().expect("no panic") = condition;
    }

    /// What to answer from now on to whoever wants to suspend it.
    pub(super) fn suspend(&self, answer: Value) {
        *self.shared.suspension.lock().expect("no panic") = answer;
    }

    /// How often it was asked how it is.
    pub(super) fn looks(&self) -> usize {
        self.shared.looks.load(Ordering::Relaxed)
    }

    /// Refuses these methods from now on.
    pub(super) fn refuse(&self, methods: &[&'static str]) {
        *self.shared.refused.lock().expect("no panic") = methods.to_vec();
    }

    /// Does not answer to these methods from now on.
    pub(super) fn ignore(&self, methods: &[&'static str]) {
        *self.shared.ignored.lock().expect("no panic") = methods.to_vec();
    }

    /// What to say from now on where something is refused; channels do not start then.
    pub(super) fn complain(&self, words: &str) {
        words.clone_into(&mut self.shared.words.lock().expect("no panic"));
    }

    /// The parameters of every call of a method so far.
    pub(super) fn calls(&self, method: &str) -> Vec<Value> {
        let calls = self.shared.calls.lock().expect("no panic");
        calls.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
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
    if head_text.starts_with("get /readyz ") {
        shared.looks.fetch_add(1, Ordering::Relaxed);
        let body = shared.condition.lock().ok()?.clone();
        let status = if body["ready"] == true { 200 } else { 503 };
        let body = body.to_string();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        return stream.write_all(answer.as_bytes()).await.ok();
    }
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
        let method = request["method"].as_str()?;
        shared.calls.lock().ok()?.push((method.to_owned(), params.clone()));
        if shared.ignored.lock().ok()?.contains(&method) {
            continue;
        }
        let mut payload = json!({});
        let words = shared.words.lock().ok()?.clone();
        let ok = match method {
            refused if shared.refused.lock().ok()?.contains(&refused) => false,
            "channels.status" => {
                let account =
                    |id: &str| json!({"accountId": id, "enabled": true, "configured": true, "running": false});
                payload = json!({"channelAccounts": {"telegram": [account("default"), account("second")]}});
                true
            }
            "channels.start" => {
                let status = if words.is_empty() { "handed-off" } else { &words };
                payload = json!({"started": words.is_empty(), "outcome": {"status": status}});
                true
            }
            "gateway.suspend.prepare" | "gateway.suspend.status" => {
                payload = shared.suspension.lock().ok()?.clone();
                true
            }
            "gateway.suspend.resume" => true,
            "connect" => params["auth"]["token"] == SECRET && params["maxProtocol"] == 4,
            "gateway.restart.request" => {
                *shared.drained.lock().ok()? = Some(params.clone());
                release(&shared.ctl).await;
                true
            }
            _ => false,
        };
        let answer = json!({
            "type": "res", "id": request["id"], "ok": ok, "payload": payload,
            "error": {"code": "UNAUTHORIZED", "message": words},
        });
        for frame in [&tick, &answer] {
            socket.send(Message::text(frame.to_string())).await.ok()?;
        }
    }
    Some(())
}
