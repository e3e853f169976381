//! Whole requests that try to be understood as another one.

use anyhow::{Context as _, Result};
use winston_tests::process::TEST_TOKEN;
use winston_tests::sidecar::Setup;
use winston_tests::wire::Wire;

/// Request line, further headers, status. `T` in a header stands for the token.
const REQUESTS: &[(&str, &str, u16)] = &[
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T", 200),
    // The target in its other forms.
    ("GET http://x/files/file.md HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET http://x:1/files/../../canary HTTP/1.1", "Authorization: Bearer T", 403),
    ("GET http://x HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET ftp://x/files/file.md HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET files/file.md HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET ../files/file.md HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET * HTTP/1.1", "Authorization: Bearer T", 404),
    ("OPTIONS * HTTP/1.1", "Authorization: Bearer T", 404),
    ("CONNECT x:80 HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET  /files/file.md HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /files/file.md  HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET\t/files/file.md HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /files/file.md", "Authorization: Bearer T", 400),
    ("G@T /files/file.md HTTP/1.1", "Authorization: Bearer T", 400),
    ("get /files/file.md HTTP/1.1", "Authorization: Bearer T", 405),
    // Routes are compared as they are written.
    ("GET //files/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /./files/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /x/../files/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /FILES/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /%66iles/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /files%2ffile.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /files;x/file.md HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /filesx HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /health/../files/file.md HTTP/1.1", "", 401),
    ("GET /health%2f..%2ffiles/file.md HTTP/1.1", "", 401),
    ("GET /health/ HTTP/1.1", "", 401),
    ("GET /health HTTP/1.1", "", 200),
    ("GET /health?x=/files/file.md HTTP/1.1", "", 200),
    // A query says nothing about which file is meant.
    ("GET /files/file.md?path=../canary HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files/file.md?/../../canary/secret.md HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files/file.md?%00 HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files/file.md#/../../canary HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files?path=dir&path=../canary HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /files?path=dir&p%61th=.. HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /files?path=../canary HTTP/1.1", "Authorization: Bearer T", 403),
    ("GET /files?path=%2e%2e%2fcanary HTTP/1.1", "Authorization: Bearer T", 403),
    ("GET /files?path=%252e%252e HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /files?path=dir%00 HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /files?path=.winston HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /files?path=.openclaw/credentials HTTP/1.1", "Authorization: Bearer T", 403),
    ("GET /files?path[]=.. HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files?&&&=&path=dir& HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files?PATH=../canary HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /files?path=a?path=../canary HTTP/1.1", "Authorization: Bearer T", 404),
    ("GET /changes?limit=1&limit=2 HTTP/1.1", "Authorization: Bearer T", 400),
    ("GET /changes?limit=-1 HTTP/1.1", "Authorization: Bearer T", 200),
    ("GET /changes?limit=99999999999999999999999 HTTP/1.1", "Authorization: Bearer T", 200),
    // Headers that other servers obey.
    ("GET /health HTTP/1.1", "X-Original-URL: /files/file.md", 200),
    ("GET /nothing HTTP/1.1", "Authorization: Bearer T\r\nX-Rewrite-URL: /files/file.md", 404),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T\r\nX-HTTP-Method-Override: DELETE", 200),
    (
        "GET /files/file.md HTTP/1.1",
        "Authorization: Bearer T\r\nX-Forwarded-Host: x\r\nX-Forwarded-For: 127.0.0.1",
        200,
    ),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T\r\nHost: another", 200),
    // The token: once, whole, and nowhere else.
    ("GET /files/file.md HTTP/1.1", "", 401),
    ("GET /files/file.md?token=T HTTP/1.1", "", 401),
    ("GET /files/file.md?access_token=T HTTP/1.1", "", 401),
    ("GET http://a:T@x/files/file.md HTTP/1.1", "", 401),
    ("GET /files/file.md HTTP/1.1", "Cookie: token=T", 401),
    ("GET /files/file.md HTTP/1.1", "Proxy-Authorization: Bearer T", 401),
    ("GET /files/file.md HTTP/1.1", "X-Authorization: Bearer T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Basic T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer  T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T,Bearer T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T\r\nAuthorization: Bearer T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer x\r\nAuthorization: Bearer T", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization:", 401),
    ("GET /files/file.md HTTP/1.1", "Authorization : Bearer T", 400),
    ("GET /files/file.md HTTP/1.1", " Authorization: Bearer T", 400),
    ("GET /files/file.md HTTP/1.1", "X: y\r\n Authorization: Bearer T", 400),
    ("GET /files/file.md HTTP/1.1", "Authorization: Bearer T\0", 400),
];

#[test]
fn a_request_is_understood_as_what_it_says() -> Result<()> {
    let setup = Setup::new()?;
    std::fs::create_dir(setup.data().join("dir"))?;
    std::fs::write(setup.data().join("file.md"), "inside")?;
    std::fs::create_dir(setup.outside().join("canary"))?;
    std::fs::write(setup.outside().join("canary/secret.md"), "outside")?;
    let sidecar = setup.start()?;
    let mut wrong = Vec::new();
    for (line, headers, status) in REQUESTS {
        let with_token = |text: &str| {
            let text =
                text.replace("Bearer T", &format!("Bearer {TEST_TOKEN}")).replace("=T", &format!("={TEST_TOKEN}"));
            text.replace(": T", &format!(": {TEST_TOKEN}")).replace(":T@", &format!(":{TEST_TOKEN}@"))
        };
        let headers = if headers.is_empty() { String::new() } else { format!("{}\r\n", with_token(headers)) };
        let request = format!("{}\r\nHost: x\r\n{headers}\r\n", with_token(line));
        let mut wire = Wire::open(sidecar.address())?;
        wire.send(request.as_bytes())?;
        let answer = wire.answer(false).and_then(|answer| answer.context("closed without an answer"));
        match answer {
            Ok(answer) if answer.status == *status && !answer.text().contains("outside") => {}
            Ok(answer) => wrong.push(format!("{line:?} {headers:?}: wanted {status}, got {}", answer.status)),
            Err(error) => wrong.push(format!("{line:?} {headers:?}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), REQUESTS.len(), wrong.join("\n"));
    assert_eq!(std::fs::read_to_string(setup.data().join("file.md"))?, "inside");
    Ok(())
}
