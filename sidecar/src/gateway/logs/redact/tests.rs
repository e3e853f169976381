//! Every value in here is made up and says so: `EXAMPLE`, `FAKE`, runs of one letter.

use proptest::prelude::*;

use super::*;

const FAKE40: &str = "FAKE0FAKE1FAKE2FAKE3FAKE4FAKE5FAKE6FAKE7";

fn redact(text: &str) -> String {
    Redactor::new([]).text(text)
}

/// `{}` stands for the secret.
fn is_redacted(shape: &str, secret: &str) {
    let text = shape.replace("{}", secret);
    let once = redact(&text);
    assert_eq!(once, shape.replace("{}", MARK), "{text}");
    assert_eq!(redact(&once), once, "again");
}

#[test]
fn tokens_are_known_by_their_form() {
    let long = FAKE40.repeat(2);
    let tokens = [
        format!("123456789:{}", &FAKE40[..35]),
        format!("sk-{FAKE40}"),
        format!("sk-ant-api03-{FAKE40}-{FAKE40}"),
        format!("sk-proj-{FAKE40}_{FAKE40}"),
        format!("AIza{}", &FAKE40[..35]),
        format!("ghp_{FAKE40}"),
        format!("gho_{FAKE40}"),
        format!("github_pat_{FAKE40}_{FAKE40}"),
        format!("glpat-{}", &FAKE40[..20]),
        "xoxb-0000000000-FAKEFAKEFAKE".to_owned(),
        "xoxp-0000000000-FAKEFAKEFAKE".to_owned(),
        "xapp-1-A0FAKE-0000000000".to_owned(),
        "AKIA0EXAMPLE0EXAMPLE".to_owned(),
        "ASIA0EXAMPLE0EXAMPLE".to_owned(),
        format!("eyJ{FAKE40}.{FAKE40}.{FAKE40}"),
        format!("M{}.FAKE00.{FAKE40}", &FAKE40[..25]),
        format!("gsk_{FAKE40}"),
        format!("hf_{}", &FAKE40[..34]),
        format!("wk_{}", "0123456789abcdef".repeat(4)),
        format!("sk-or-v1-{long}"),
    ];
    for token in &tokens {
        for shape in
            ["{}", "a {}.", "({})", "\"{}\",", "x={}", "key\\n{}\\n", "%3D{}%20x", "\\u003d{}\\u0026", "ä{}ö", "{}\n{}"]
        {
            is_redacted(shape, token);
        }
    }
    is_redacted("https://api.telegram.org/bot{}/getMe", &tokens[0]);
    is_redacted("https://api.telegram.org/bot{}/getMe", &tokens[0].replace(':', "%3A"));
}

#[test]
fn secrets_are_known_by_their_name() {
    for (shape, secret) in [
        ("Authorization: Bearer {}", "FAKE"),
        ("-H 'authorization: Basic {}' x", "RkFLRTpGQUtF"),
        ("Authorization: {}", "FAKE0FAKE"),
        (r#"{"Authorization":"Bearer {}","a":1}"#, "FAKE FAKE"),
        (r#"{"message":"{\"authorization\":\"Bearer {}\"}"}"#, "FAKE"),
        ("Proxy-Authorization: Digest {}", r"username=FAKE, response=FAKE"),
        ("Cookie: {}", "session=FAKE; other=FAKE"),
        ("bearer {} x", "FAKE0FAKE"),
        ("Bearer {}", "FAKEFAKEFAKEFAKEFAKEFAKE"),
        ("GET /chat?token={}&x=1", "FAKE"),
        ("wss://h/?x=1&access_token={}#f", "FAKE"),
        ("https://h/v1?key={}", "FAKE"),
        ("https://u:{}@h:80/", "FAKE"),
        ("postgres://u:{}@h/d", "FA@KE"),
        (r#"{"token":"{}"}"#, "FAKEFAKE"),
        (r#"{"botToken": "{}"}"#, "FAKEFAKE"),
        (r#"{"message":"{\"apiKey\":\"{}\"}"}"#, "FAKEFAKE"),
        (r#"{"key":"{}"}"#, FAKE40),
        ("{ client_secret: '{}' }", "FAKEFAKE"),
        ("OPENAI_API_KEY={}", "FAKE0FAKE"),
        ("aws_secret_access_key = {}", FAKE40),
        ("password={}", "FAKE"),
        ("password: {}", "fake7"),
        (r#"{"password":"{}"}"#, r#"FA\"KE FAKE"#),
        (r#""password":"{}"#, "FAKE without an end"),
        ("db_password='{}', x", "FAKE"),
        ("X-Api-Key: {}", "FAKE0FAKE"),
    ] {
        is_redacted(shape, secret);
    }
}

#[test]
fn what_only_looks_alike_stays() {
    let sha256 = "0123456789abcdef".repeat(4);
    for text in [
        "sk-learn-is-a-rather-long-name-without-digits",
        "disk-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f is full",
        "task-list and risk-assessment-of-all-the-things",
        "AKIA is a prefix, AKIA0EXAMPLE0EXAMPLE0EXAMPLE is too long",
        "12:34:56 [gateway] 2026-01-02T03:04:05.006Z",
        "1234567:short 99999999999999999999:FAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKE",
        "session agent:main:main, sessionKey=agent:main:telegram:123456789",
        r#"{"key":"agent:main:telegram:direct:123456789"}"#,
        r#"{"tokens":123456789,"totalTokens":"12345678901234","maxToken":8}"#,
        "unauthorized: gateway token mismatch (provide gateway auth token)",
        "token=missing token=*** token: required, token=${OPENCLAW_GATEWAY_TOKEN} token=$TOKEN token=<token>",
        r#"{"token":null,"secret":true,"password":""} password: must be at least twelve characters"#,
        "Authorization: missing; Bearer authentication required, bearer of news",
        "http://127.0.0.1:18789/#a:b@c https://h/a:b@c mailto:a@b",
        "ghp_short AIzaShort xoxb- eyJhbGciOi.x.y wk_0123 M.N.O",
        "-----BEGIN PRIVATE KEY----- is how one begins, -----END PRIVATE KEY----- how it ends",
        "-----BEGIN CERTIFICATE-----",
        "key = value, monkey=banana12345678901234567890",
        "",
        "[redacted] [redacted][redacted]",
        &sha256,
    ] {
        assert_eq!(redact(text), text);
    }
}

fn pem(label: &str, lines: usize) -> (String, Vec<String>) {
    let mut body: Vec<String> = (0..lines).map(|_| FAKE40.repeat(2)[..64].to_owned()).collect();
    body.push("FAKE==".to_owned());
    (format!("-----BEGIN {label}PRIVATE KEY-----\n{}\n-----END {label}PRIVATE KEY-----", body.join("\n")), body)
}

#[test]
fn private_keys_go_over_lines() {
    for label in ["", "RSA ", "OPENSSH ", "ENCRYPTED "] {
        let (key, _) = pem(label, 20);
        let clean = format!("-----BEGIN {label}PRIVATE KEY-----\n{MARK}\n-----END {label}PRIVATE KEY-----");
        assert_eq!(redact(&format!("before\n{key}\nafter")), format!("before\n{clean}\nafter"));
        let indented = |text: &str| text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
        assert_eq!(redact(&indented(&key)), indented(&clean));
        // Within a JSON string.
        let json = |text: &str| format!(r#"{{"private_key":"{}\n","x":1}}"#, text.replace('\n', "\\n"));
        assert_eq!(redact(&json(&key)), json(&clean));
        for text in [redact(&key), redact(&json(&key))] {
            assert_eq!(redact(&text), text);
        }
    }
    let (key, body) = pem("RSA ", 3);
    let encrypted = key.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1);
    assert!(!body.iter().any(|line| redact(&encrypted).contains(line.as_str())));
    // Its end is lost: what follows is not taken for a part of it.
    let cut = key.lines().take(3).collect::<Vec<_>>().join("\n");
    assert!(redact(&format!("{cut}\n[gateway] next\nword")).ends_with("[redacted]\n[gateway] next\nword"));
    // Only a sentence about it.
    let text = "expected -----BEGIN PRIVATE KEY-----\nword\nnext";
    assert_eq!(redact(text), text);
}

#[test]
fn a_key_whose_beginning_was_missed_is_taken_for_one() {
    let redactor = Redactor::new([]);
    let (key, _) = pem("", 5);
    for missed in 1..5 {
        let mut stream = Pem::default();
        stream.suspect();
        let rest = key.lines().skip(missed).filter_map(|line| redactor.line(line, line.len(), &mut stream));
        assert_eq!(rest.collect::<Vec<_>>(), [MARK, "-----END PRIVATE KEY-----"]);
    }
}

#[test]
fn known_values_are_found_in_every_form() {
    let secret = "f\"a/k\\e value ü";
    let redactor = Redactor::new([secret.to_owned(), "line one\nline two of FAKE\n".to_owned(), "abc".to_owned()]);
    for (text, expected) in [
        (format!("a {secret} b"), "a [redacted] b"),
        (serde_json::to_string(secret).unwrap(), "\"[redacted]\""),
        ("x=f%22a%2Fk%5Ce%20value%20%C3%BC&".to_owned(), "x=[redacted]&"),
        ("1 line one 2\nline two of FAKE".to_owned(), "1 [redacted] 2\n[redacted]"),
        ("abcabc".to_owned(), "abcabc"),
    ] {
        assert_eq!(redactor.text(&text), expected);
    }
    let nested = Redactor::new(["a-long-secret".to_owned(), "a-long".to_owned()]);
    assert_eq!(nested.text("a-long-secret a-long"), "[redacted] [redacted]");
}

/// Text without secrets, from pieces that come near to one.
fn harmless() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("sk-"),
        Just("ghp_"),
        Just("AIza"),
        Just("xoxb-"),
        Just("AKIA"),
        Just("wk_"),
        Just("eyJ"),
        Just("M"),
        Just("Bearer "),
        Just("token "),
        Just("key: "),
        Just("password "),
        Just("-----BEGIN "),
        Just("-----"),
        Just("PRIVATE KEY"),
        Just("-----END "),
        Just("://"),
        Just("12:34"),
        Just("\n"),
        Just(" "),
        Just("\""),
        Just("{"),
        Just("}"),
        Just("a word"),
        Just("ü"),
        Just("\\n"),
        Just("[gateway] "),
        Just("name=ada"),
        Just(","),
    ];
    // A space after each keeps pieces from growing into something longer.
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.join(" "))
}

fn anything() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        harmless(),
        "[a-zA-Z0-9:=\"'\\\\ _./@%-]{0,60}",
        Just(format!("sk-{FAKE40}")),
        Just(format!("123456789:{}", &FAKE40[..35])),
        Just("token=".to_owned()),
        Just("\"password\":\"".to_owned()),
        Just("Authorization: ".to_owned()),
        Just("Cookie: ".to_owned()),
        Just("https://u:".to_owned()),
        Just("-----BEGIN PRIVATE KEY-----".to_owned()),
        Just("-----END PRIVATE KEY-----".to_owned()),
        Just(FAKE40.repeat(2)),
        Just("\n".to_owned()),
        Just("known-secret-FAKE".to_owned()),
        Just(MARK.to_owned()),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// A mark is longer than what it stands for here, and must not make a key of the whole.
#[test]
fn what_was_no_key_becomes_none() {
    let text = r#"-----BEGIN PRIVATE KEY-----"password":"a"'Aa\A _0\=a_a%"-_-----END PRIVATE KEY-----"#;
    let once = redact(text);
    assert!(once.contains("\"password\":\"[redacted]\"'Aa"), "{once}");
    assert_eq!(redact(&once), once);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn text_without_secrets_is_never_touched(text in harmless()) {
        prop_assert_eq!(redact(&text), text);
    }

    /// Of text in which no key begins: a password may be what looks like the end of one, and hides it until it is replaced.
    #[test]
    fn once_is_enough(text in anything()) {
        let text = text.replace("-----BEGIN ", "");
        let redactor = Redactor::new(["known-secret-FAKE".to_owned()]);
        let once = redactor.text(&text);
        prop_assert_eq!(&redactor.text(&once), &once);
    }

    #[test]
    fn no_known_secret_and_no_token_comes_through_wherever_a_line_is_cut(
        before in anything(), after in anything(), stop in 0usize..2000,
    ) {
        let redactor = Redactor::new(["known-secret-FAKE".to_owned()]);
        let token = "LONE0LONE1LONE2LONE3LONE4";
        let text = format!("{before} sk-{token} known-secret-FAKE {after}").replace('\n', " ");
        let stop = text.floor_char_boundary(stop.min(text.len()));
        let line = redactor.line(&text, stop, &mut Pem::default()).unwrap_or_default();
        prop_assert!(!line.contains("known-secret-FAKE") && !line.contains(token), "{line}");
        let whole = redactor.text(&text);
        prop_assert!(whole.starts_with(&line), "{line}\n{whole}");
    }
}

#[test]
fn an_excerpt_has_an_end_and_no_half_of_a_secret() {
    let redactor = Redactor::new(["EXAMPLE-SECRET-VALUE".to_owned()]);
    let long = format!("{} EXAMPLE-SECRET-VALUE {}", "a".repeat(390), "b".repeat(1 << 20));
    assert_eq!(redactor.excerpt(&long, 400), format!("{} [redacted]…", "a".repeat(390)));
    assert_eq!(redactor.excerpt("one\nEXAMPLE-SECRET-VALUE\nthree", 400), "one\n[redacted]\nthree");
    assert_eq!(redactor.excerpt("one\ntwo\nthree", 7), "one\ntwo…");
    assert_eq!(redactor.excerpt("ééé", 3), "é…");
    assert_eq!(redactor.excerpt("", 400), "");
    // Each occurrence is shorter than before, and still there are no more than so many bytes of the original.
    assert_eq!(redactor.excerpt(&"EXAMPLE-SECRET-VALUE".repeat(1000), 40), "[redacted][redacted]…");
}
