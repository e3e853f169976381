//! Of two sidecar processes with one tenant's token the one that appeared last is served.

use hyper::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use winston_tests::control::{Answer, Client, Control, until};
use winston_wire::{ContentHash, SESSION_HEADER, SUPERSEDED};

const EPOCH: &str = "0190a000-0000-7000-8000-000000000001";

fn session(number: u64) -> String {
    format!("0190b3a0-0000-7000-8000-{number:012}")
}

fn check_in(session: &str) -> Value {
    json!({
        "protocol": winston_wire::PROTOCOL_VERSION,
        "version": "0.1.0",
        "epoch": EPOCH,
        "session": session,
        "started_at": "2026-01-02T03:04:05Z",
        "head_seq": 0,
        "applied_generation": 0,
        "gateway": {"state": "ready", "since": "2026-01-02T03:04:05Z", "reason": "", "port": 18789, "restarts": 0},
    })
}

async fn appear(sidecar: &Client, session: &str) -> Answer {
    sidecar.post("/api/sidecar/check-in", &check_in(session)).await
}

fn batch(seq: u64) -> String {
    let change = json!({
        "seq": seq, "timestamp": "2026-01-02T03:04:05Z", "path": "a", "source": "agent", "action": "delete",
    });
    json!({"epoch": EPOCH, "changes": [change]}).to_string()
}

/// Every call but the check-in.
async fn calls(sidecar: &Client, session: &str) -> Vec<Answer> {
    let header = [(SESSION_HEADER, session)];
    let content = "/api/sidecar/contents/2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let range = json!({"epoch": EPOCH, "seq": 0, "files": []}).to_string();
    let hash = ContentHash::from_bytes(Sha256::digest("x").into());
    let frame = [&winston_wire::frame_head(&hash, 1)[..], b"x"].concat();
    vec![
        sidecar.call(Method::POST, "/api/sidecar/changes", &header, batch(1)).await,
        sidecar.call(Method::PUT, content, &header, "x").await,
        sidecar.call(Method::POST, "/api/sidecar/contents", &header, frame).await,
        sidecar.call(Method::GET, content, &header, "").await,
        sidecar.call(Method::GET, "/api/sidecar/desired", &header, "").await,
        sidecar.call(Method::POST, "/api/sidecar/manifest", &header, range).await,
    ]
}

#[tokio::test]
async fn the_newest_process_is_served_and_the_older_one_is_told_so_everywhere() {
    let control = Control::start(&[]).await;
    let admin = control.admin();
    let (id, sidecar) = control.tenant("two@test.example").await;
    let (first, second) = (session(1), session(2));
    let _ = appear(&sidecar, &first).await.expect(200);
    for answer in calls(&sidecar, &first).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let instance = format!("/api/tenants/{id}/instance");
    let shown = admin.get(&instance).await.expect(200).json();
    assert_eq!((&shown["sidecar_session"], &shown["superseded_sessions"]), (&json!(first), &json!(0)));

    // The first one waits for pushes; the second one's appearance ends that, and not after the 55 s.
    let poll = sidecar.clone();
    let header = first.clone();
    let waiting = tokio::spawn(async move {
        poll.call(Method::GET, "/api/sidecar/desired?wait=55", &[(SESSION_HEADER, &header)], "").await
    });
    let _ = appear(&sidecar, &second).await.expect(200);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!(ended.expect(409).code(), SUPERSEDED);

    // A restart looks like this, and is nothing to worry about. A process that insists is.
    for answer in calls(&sidecar, &first).await {
        assert_eq!(answer.expect(409).code(), SUPERSEDED);
    }
    assert_eq!(appear(&sidecar, &first).await.expect(409).code(), SUPERSEDED);
    let _ = appear(&sidecar, &second).await.expect(200);
    let shown = admin.get(&instance).await.expect(200).json();
    assert_eq!((&shown["sidecar_session"], &shown["superseded_sessions"]), (&json!(second), &json!(1)));
    for answer in calls(&sidecar, &second).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }
    // Two values or no UUID are a mistake, and never "no session".
    let both = [(SESSION_HEADER, first.as_str()), (SESSION_HEADER, second.as_str())];
    for header in [&both[..], &[(SESSION_HEADER, "first")]] {
        let refused = sidecar.call(Method::GET, "/api/sidecar/desired", header, "").await;
        assert_eq!(refused.expect(400).code(), "bad_session");
    }
    // Another tenant's sessions are another matter, be their numbers the same.
    let (_, other) = control.tenant("other@test.example").await;
    let _ = appear(&other, &first).await.expect(200);
    let _ = appear(&sidecar, &second).await.expect(200);
}

#[tokio::test]
async fn of_many_that_appear_at_once_exactly_one_is_served() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("race@test.example").await;
    for round in 0..5u64 {
        let sessions: Vec<String> = (1..=8).map(|number| session(round * 100 + number)).collect();
        let answers: Vec<_> = sessions
            .iter()
            .map(|session| {
                let (sidecar, session) = (sidecar.clone(), session.clone());
                tokio::spawn(async move { appear(&sidecar, &session).await.status.as_u16() })
            })
            .collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap(), 200, "each was the last one when it appeared");
        }
        let mut served = 0;
        for session in &sessions {
            served += usize::from(appear(&sidecar, session).await.status == 200);
        }
        assert_eq!(served, 1);
    }
}

#[tokio::test]
async fn what_a_process_commits_while_another_takes_over_is_known_to_the_other() {
    let control = Control::start(&[]).await;
    let (_, sidecar) = control.tenant("handover@test.example").await;
    let _ = appear(&sidecar, &session(0)).await.expect(200);
    let mut acked = 0;
    for round in 1..=10 {
        let old = session(round - 1);
        let late = sidecar.clone();
        let next = acked + 1;
        let sent = tokio::spawn(async move {
            late.call(Method::POST, "/api/sidecar/changes", &[(SESSION_HEADER, &old)], batch(next)).await
        });
        let told = appear(&sidecar, &session(round)).await.expect(200).json()["acked_seq"].as_u64().unwrap();
        let sent = sent.await.unwrap();
        // Either it was committed before the other one was told, or not at all.
        acked = if sent.status == 200 { next } else { acked };
        assert_eq!(told, acked, "round {round}: {sent:?}");
    }
    until("the last word", async || (appear(&sidecar, &session(10)).await.status == 200).then_some(())).await;
}

/// A statement on the control's own database; the number that it gives, or 0.
async fn sql(control: &Control, statement: &str) -> Result<i64, tokio_postgres::Error> {
    let url = format!("host={} user=winston dbname=postgres", control.socket_dir().display());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client.query_opt(statement, &[]).await?.map_or(0, |row| row.get(0)))
}

/// Sessions that fulfil a condition.
async fn count(control: &Control, condition: &str) -> Result<i64, tokio_postgres::Error> {
    sql(control, &format!("SELECT count(*) FROM sidecar_sessions WHERE {condition}")).await
}

/// Superseded sessions are forgotten when they have been silent for a month, and the oldest when there are more than a thousand; never
/// the one that is served, nor another tenant's.
#[tokio::test]
async fn old_sessions_are_forgotten() {
    let control = Control::start(&[]).await;
    let (id, sidecar) = control.tenant("many@test.example").await;
    let (other_id, other) = control.tenant("else@test.example").await;
    for number in 1..=3 {
        let _ = appear(&sidecar, &session(number)).await.expect(200);
        let _ = appear(&other, &session(number)).await.expect(200);
    }
    // All of them silent for 31 days, but the second of the one tenant, which called yesterday.
    let aged = "UPDATE sidecar_sessions SET last_seen_at = now() - interval '31 days',
                superseded_at = CASE WHEN superseded_at IS NULL THEN NULL ELSE now() - interval '32 days' END";
    sql(&control, aged).await.unwrap();
    let yesterday = format!(
        "UPDATE sidecar_sessions SET last_seen_at = now() - interval '1 day' WHERE tenant_id = '{id}' AND session = '{}'",
        session(2)
    );
    sql(&control, &yesterday).await.unwrap();
    let _ = appear(&sidecar, &session(4)).await.expect(200);
    let known = |number| format!("tenant_id = '{id}' AND session = '{}'", session(number));
    let mut left = Vec::new();
    for number in 1..=4 {
        left.push(count(&control, &known(number)).await.unwrap());
    }
    assert_eq!(left, [0, 1, 0, 1], "the third was served until now, and silent for a month all the same");
    assert_eq!(count(&control, &format!("tenant_id = '{other_id}'")).await.unwrap(), 3);
    // A known one stays superseded. One that was forgotten is as good as new.
    assert_eq!(appear(&sidecar, &session(2)).await.expect(409).code(), SUPERSEDED);
    let _ = appear(&sidecar, &session(1)).await.expect(200);

    let many = format!(
        "INSERT INTO sidecar_sessions (tenant_id, session, started_at, last_seen_at, superseded_at)
         SELECT '{id}', ('0190b3a0-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, now(), now() - n * interval '1 minute', now()
         FROM generate_series(1, 1100) n"
    );
    sql(&control, &many).await.unwrap();
    let _ = appear(&sidecar, &session(5)).await.expect(200);
    assert_eq!(count(&control, &format!("tenant_id = '{id}' AND superseded_at IS NOT NULL")).await.unwrap(), 1000);
    let oldest = format!(
        "tenant_id = '{id}' AND session::text LIKE '%-9000-%' AND last_seen_at < now() - interval '1000 minutes'"
    );
    assert_eq!(count(&control, &oldest).await.unwrap(), 0);
    assert_eq!(count(&control, &known(5)).await.unwrap(), 1);
    assert_eq!(count(&control, &format!("tenant_id = '{other_id}'")).await.unwrap(), 3);
}
