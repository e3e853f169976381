//! A control that says what a test tells it to. For what a real one does not do on demand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method and path, without the query.
    pub call: String,
    /// Value of the session header.
    pub session: Option<String>,
    /// Body, when it is JSON.
    pub body: Value,
}

/// Status and body of an answer.
pub type Reply = (u16, Value);

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// The server. Its thread ends with the process.
pub struct ScriptedControl {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<Script>>,
}

impl ScriptedControl {
    /// Listens on loopback and answers every request as `script` says.
    pub fn start(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let (noted, answers) = (Arc::clone(&seen), Arc::clone(&script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answers) = (Arc::clone(&noted), Arc::clone(&answers));
                std::thread::spawn(move || serve(&stream, &noted, &answers));
            }
        });
        Ok(Self { address, seen, script })
    }

    /// Its address, for `WINSTON_CONTROL_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests of a kind there were.
    #[must_use]
    pub fn count(&self, call: &str) -> usize {
        self.seen().iter().filter(|seen| seen.call == call).count()
    }

    /// Says something else from now on.
    pub fn change(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }
}

/// The answer to a check-in of a tenant that has nothing new.
#[must_use]
pub fn check_in_answer(acked_seq: u64) -> Value {
    json!({
        "tenant_id": "00000000-0000-0000-0000-000000000001", "acked_seq": acked_seq, "desired_generation": 0,
        "heartbeat_seconds": 1,
    })
}

/// What a control without pushes and with room for every change says; `None` for a call of another kind.
#[must_use]
pub fn ordinary(seen: &Seen) -> Option<Reply> {
    match seen.call.as_str() {
        "POST /api/sidecar/changes" => {
            let last = seen.body["changes"].as_array().and_then(|changes| changes.last());
            let acked = last.map_or(json!(0), |change| change["seq"].clone());
            Some((200, json!({ "acked_seq": acked, "contents_wanted": [] })))
        }
        "GET /api/sidecar/desired" => Some((200, json!({ "generation": 0, "files": [] }))),
        _ => None,
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Seen>>, script: &Mutex<Script>) {
    let mut reader = BufReader::new(stream);
    loop {
        let Some(request) = read(&mut reader) else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let (status, body) = (script.lock().unwrap_or_else(PoisonError::into_inner))(&request);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut writer = stream;
        if writer.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut session) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "x-winston-session" => session = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = target.split('?').next().unwrap_or_default();
    Some(Seen { call: format!("{method} {path}"), session, body: serde_json::from_slice(&body).unwrap_or_default() })
}
