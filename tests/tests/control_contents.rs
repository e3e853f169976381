//! Many contents in one request: each is stored if its hash is right, for the tenant of the token, and whatever goes wrong on the way stores
//! nothing else.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Answer, Client, Control};
use winston_tests::tenant::hash;
use winston_wire::{CONTENTS_TYPE, ContentHash, MAX_CONTENTS, MAX_CONTENTS_BYTES, SESSION_HEADER, frame_head};

const PATH: &str = "/api/sidecar/contents";

/// A frame that says that the content has this hash.
fn frame_as(claimed: &[u8], content: &[u8]) -> Vec<u8> {
    let hash = ContentHash::from_bytes(Sha256::digest(claimed).into());
    [&frame_head(&hash, content.len() as u32), content].concat()
}

fn frames(contents: &[&str]) -> Vec<u8> {
    contents.iter().flat_map(|content| frame_as(content.as_bytes(), content.as_bytes())).collect()
}

async fn post(sidecar: &Client, body: Vec<u8>) -> Answer {
    sidecar.call(Method::POST, PATH, &[("content-type", CONTENTS_TYPE)], body).await
}

async fn has(sidecar: &Client, content: &str) -> bool {
    let answer = sidecar.get(&format!("{PATH}/{}", hash(content))).await;
    assert!(answer.status == 404 || answer.body == content.as_bytes(), "another content under the hash of {content:?}");
    answer.status == 200
}

fn stored(answer: &Answer) -> Vec<String> {
    let told = answer.json();
    let hashes = told["stored"].as_array().into_iter().flatten();
    let mut stored: Vec<String> = hashes.filter_map(|hash| hash.as_str().map(str::to_owned)).collect();
    stored.sort();
    stored
}

fn sorted(contents: &[&str]) -> Vec<String> {
    let mut hashes: Vec<_> = contents.iter().map(hash).collect();
    hashes.sort();
    hashes
}

#[tokio::test]
async fn each_content_is_stored_if_its_hash_is_right() {
    let control = Control::start(&[("WINSTON_MAX_FILE_BYTES", "1000")]).await;
    let (_, sidecar) = control.tenant("right@test.example").await;
    let large = "x".repeat(1001);
    let wrong = hash("what it claims to be");
    // One comes twice, one is empty, one is there already by the other way.
    let alone = format!("{PATH}/{}", hash("alone"));
    let _ = sidecar.call(Method::PUT, &alone, &[], "alone").await.expect(204);
    let body = [
        frames(&["one", "", "alone"]),
        frame_as(b"what it claims to be", b"what it is"),
        frames(&["one", &large, "two"]),
    ]
    .concat();
    for _ in 0..2 {
        // The same request again: the same answer.
        let answer = post(&sidecar, body.clone()).await.expect(200);
        assert_eq!(stored(&answer), sorted(&["one", "", "alone", "two"]));
        let refused = json!([{"hash": wrong, "code": "hash_mismatch"}, {"hash": hash(&large), "code": "too_large"}]);
        assert_eq!(answer.json()["refused"], refused);
    }
    for content in ["one", "", "alone", "two"] {
        assert!(has(&sidecar, content).await, "{content:?}");
    }
    for content in ["what it is", "what it claims to be", &large] {
        assert!(!has(&sidecar, content).await, "{content:?}");
    }
    // A batch is committed with them as with contents that came one by one.
    let changes: Vec<Value> = ["one", "two", ""]
        .iter()
        .zip(1..)
        .map(|(content, seq)| {
            json!({
                "seq": seq, "timestamp": "2026-01-02T03:04:05Z", "path": format!("workspace/{seq}"), "source": "agent",
                "action": "create", "hash": hash(content), "size": content.len(),
            })
        })
        .collect();
    let batch = json!({"epoch": "0190a000-0000-7000-8000-000000000001", "changes": changes});
    let answer = sidecar.post("/api/sidecar/changes", &batch).await.expect(200).json();
    assert_eq!(answer, json!({"acked_seq": 3, "contents_wanted": []}));
}

#[tokio::test]
async fn a_body_that_is_no_row_of_frames_stores_nothing() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("bad@test.example").await;
    let whole = frames(&["first", "second"]);
    let second = frames(&["first"]).len();
    // Within the length, the hash, the content, and with something behind it.
    for end in [second + 1, second + 4, second + 20, second + 36, whole.len() - 1] {
        let answer = post(&sidecar, whole[..end].to_vec()).await.expect(400);
        assert_eq!(answer.code(), "bad_frames", "cut at {end}");
    }
    let more = [&whole[..], b"\n"].concat();
    assert_eq!(post(&sidecar, more).await.expect(400).code(), "bad_frames");
    assert_eq!(post(&sidecar, Vec::new()).await.expect(400).code(), "bad_frames");
    let many: Vec<_> = (0..=MAX_CONTENTS).map(|number| format!("content {number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(post(&sidecar, frames(&many)).await.expect(400).code(), "bad_frames");
    let large = "x".repeat(MAX_CONTENTS_BYTES);
    assert_eq!(post(&sidecar, frames(&["first", &large])).await.expect(413).code(), "too_large");
    for content in ["first", "second", many[0], many[MAX_CONTENTS]] {
        assert!(!has(&sidecar, content).await, "{content:?}");
    }
    // As many as are allowed, and cut between two frames: that is fewer contents.
    let most = frames(&many[..MAX_CONTENTS]);
    assert_eq!(stored(&post(&sidecar, most).await.expect(200)).len(), MAX_CONTENTS);
    assert_eq!(stored(&post(&sidecar, whole[..second].to_vec()).await.expect(200)), sorted(&["first"]));
    assert!(!has(&sidecar, "second").await);
}

/// A connection that ends in the middle of the body: nobody is there to be answered.
#[tokio::test]
async fn a_request_that_breaks_off_stores_nothing_and_comes_again_whole() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("broken@test.example").await;
    let body = frames(&["kept for later", "and this one"]);
    // Chunks do not say how long the body will be.
    let chunk = [format!("{:x}\r\n", body.len() - 5).as_bytes(), &body[..body.len() - 5], b"\r\n"].concat();
    for (length, part) in [
        (format!("Content-Length: {}", body.len()), body[..body.len() - 5].to_vec()),
        ("Transfer-Encoding: chunked".to_owned(), chunk),
    ] {
        let mut stream = TcpStream::connect(sidecar.authority()).unwrap();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: control\r\nAuthorization: Bearer {}\r\n{SESSION_HEADER}: \
             0190b3a0-0000-7000-8000-000000000001\r\n{length}\r\n\r\n",
            sidecar.token().unwrap()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&part).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Until control has done with it, with an answer or without.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert!(!has(&sidecar, "kept for later").await);
    }
    let answer = post(&sidecar, body).await.expect(200);
    assert_eq!(stored(&answer), sorted(&["kept for later", "and this one"]));
}

#[tokio::test]
async fn contents_belong_to_the_tenant_of_the_token() {
    let control = Control::start(&[]).await;
    let (_, first) = control.tenant("first@test.example").await;
    let (_, second) = control.tenant("second@test.example").await;
    let body = frames(&["one's own", "one's other"]);
    for nobody in [control.client(None), control.client(Some("0123456789abcdef0123456789abcdef")), control.admin()] {
        assert_eq!(post(&nobody, body.clone()).await.expect(401).code(), "unauthorized");
    }
    assert!(!has(&first, "one's own").await);
    let _ = post(&second, body.clone()).await.expect(200);
    assert!(has(&second, "one's own").await && !has(&first, "one's own").await);
    // What a tenant has is no reason not to want it from another one.
    let change = json!({
        "seq": 1, "timestamp": "2026-01-02T03:04:05Z", "path": "a", "source": "agent", "action": "create",
        "hash": hash("one's own"), "size": 9,
    });
    let batch = json!({"epoch": "0190a000-0000-7000-8000-000000000001", "changes": [change]});
    let answer = first.post("/api/sidecar/changes", &batch).await.expect(200).json();
    assert_eq!(answer, json!({"acked_seq": 0, "contents_wanted": [hash("one's own")]}));
}

/// Two copies of a request, and another one with the same contents in another order, all at once.
#[tokio::test]
async fn copies_at_the_same_time_do_not_hinder_each_other() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("copies@test.example").await;
    for round in 0..10 {
        let contents: Vec<_> = (0..MAX_CONTENTS).map(|number| format!("{round} {number}")).collect();
        let mut contents: Vec<_> = contents.iter().map(String::as_str).collect();
        let there = frames(&contents);
        contents.reverse();
        let (one, two, three) = tokio::join!(
            post(&sidecar, there.clone()),
            post(&sidecar, there.clone()),
            post(&sidecar, frames(&contents))
        );
        for answer in [one, two, three] {
            assert_eq!(stored(&answer.expect(200)), sorted(&contents));
        }
    }
}

/// The head of a call whose body never comes. Control says 100 when it is about to read the body.
fn announce(sidecar: &Client, call: &str, length: usize) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(sidecar.authority())?;
    stream.set_read_timeout(Some(Duration::from_secs(50)))?;
    let head = format!(
        "{call} HTTP/1.1\r\nHost: control\r\nAuthorization: Bearer {}\r\n{SESSION_HEADER}: \
         0190b3a0-0000-7000-8000-000000000001\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
        sidecar.token().unwrap_or_default()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

/// The status of what is answered first.
fn status(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(String::from_utf8_lossy(&head[9..]).into_owned())
}

/// Of the memory for bodies one tenant gets a part, whatever it calls; what it does not get, the others have.
#[tokio::test]
async fn slow_bodies_of_one_tenant_leave_room_for_the_others() {
    const MIB: usize = 1 << 20;
    let control = Control::start(&[]).await;
    let content = format!("PUT {PATH}/{}", hash("late"));
    let mut waiting = Vec::new();
    for (number, (call, length, at_once)) in [
        (content.as_str(), 10 * MIB, 2),
        ("POST /api/sidecar/changes", 16 * MIB, 1),
        ("POST /api/sidecar/manifest", 16 * MIB, 1),
        ("POST /api/sidecar/check-in", 4 * MIB, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, sidecar) = control.tenant(&format!("slow{number}@test.example")).await;
        let mut streams: Vec<_> = (0..at_once).map(|_| announce(&sidecar, call, length).unwrap()).collect();
        for stream in &mut streams {
            assert_eq!(status(stream).unwrap(), "100", "{call}");
        }
        streams.push(announce(&sidecar, call, length).unwrap());
        let (_, other) = control.tenant(&format!("other{number}@test.example")).await;
        let _ = post(&other, frames(&["in time"])).await.expect(200);
        // The heartbeat has a part of its own.
        if number == 0 {
            assert_eq!(sidecar.post("/api/sidecar/check-in", &json!({})).await.expect(400).code(), "protocol_mismatch");
        }
        waiting.push((call, streams));
    }
    // The last one of each waited in vain.
    for (call, mut streams) in waiting {
        assert_eq!(status(streams.last_mut().unwrap()).unwrap(), "503", "{call}");
    }
}
