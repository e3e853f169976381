//! A full volume.

use anyhow::{Result, bail};
use winston_tests::process::skip;
use winston_tests::sidecar::Setup;
use winston_tests::wait::eventually;

#[test]
fn a_full_volume_refuses_and_recovers() -> Result<()> {
    let setup = match Setup::new()?.volume("4m")? {
        Ok(setup) => setup,
        Err(reason) => {
            skip("a_full_volume_refuses_and_recovers", &reason);
            return Ok(());
        }
    };
    let sidecar = setup.start()?;
    let raw = ("Content-Type", "application/octet-stream");
    sidecar.put("workspace/SOUL.md", "old")?.expect(200)?;
    sidecar.put("other.md", "old")?.expect(200)?;

    let filler = vec![b'x'; 48 * 1024];
    let mut written = 0;
    let refused = loop {
        let answer = sidecar.call("PUT", &format!("/files/fill/{written}"), &[raw], &filler)?;
        if answer.status != 200 {
            break answer;
        }
        written += 1;
        if written > 200 {
            bail!("the volume does not fill up");
        }
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(refused.json()?["code"], "no_space");
    // The rest of the space, byte by byte so to speak.
    let rest = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", &format!("of={}", sidecar.volume().join("rest.tmp").display())])
        .output()?;
    assert!(!rest.status.success(), "dd should have met the end of the volume");

    for _ in 0..3 {
        let answer = sidecar.put("workspace/SOUL.md", &"new".repeat(2000))?;
        assert_eq!(answer.status, 507, "{}", answer.text());
    }
    // Reading, listing, health and history go on; the old content is whole; nothing is left lying about.
    sidecar.get("/health")?.expect(200)?;
    assert_eq!(sidecar.get("/files/workspace/SOUL.md")?.json()?["content"], "old");
    assert_eq!(sidecar.history("workspace/SOUL.md")?, ["admin create"]);
    assert_eq!(std::fs::read_dir(sidecar.volume().join(".winston/staging"))?.count(), 0);
    assert_eq!(sidecar.history("fill/0")?, ["admin create"]);
    assert_eq!(sidecar.history(&format!("fill/{written}"))?, Vec::<String>::new());

    // An edit of the agent's that cannot be recorded now is recorded once there is room.
    std::fs::write(sidecar.volume().join("other.md"), "agent")?;
    std::fs::remove_file(sidecar.volume().join("rest.tmp"))?;
    eventually("writing works again", || {
        let answer = sidecar.put("workspace/SOUL.md", "new")?;
        if answer.status == 200 { Ok(Some(())) } else { bail!("{}", answer.text()) }
    })?;
    assert_eq!(sidecar.history("workspace/SOUL.md")?, ["admin create", "admin update"]);
    sidecar.wait_for_history("other.md", &["admin create", "agent update"])?;
    Ok(())
}

#[test]
fn a_volume_that_cannot_be_written_is_named_with_the_remedy() -> Result<()> {
    let setup = Setup::new()?;
    let missing = setup.outside().join("missing");
    let output = setup.data_dir(&missing).command()?.output()?;
    assert_eq!(output.status.code(), Some(69));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("missing") && error.contains("WINSTON_DATA_DIR"), "{error}");
    Ok(())
}
