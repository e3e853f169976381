//! The command line, the environment, and what the sidecar gets of it.

use std::process::Command;

use anyhow::{Context as _, Result};
use winston_tests::process::{Entrypoint, Mode, bin};

use crate::{in_both_modes, message, mode_of};

#[test]
fn every_mistake_is_listed_at_once() -> Result<()> {
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, "echo started")?
        .env("WINSTON_SIDECAR_TOKEN", "short-secret")
        .env("WINSTON_TENANT_ID", "")
        .env("WINSTON_CONTROL_URL", "control")
        .env("OPENCLAW_STATE_DIR", "/elsewhere")
        .start()?;
    let (code, lines, log) = entrypoint.finish()?;
    assert_eq!(code, 64);
    assert_eq!(lines, [""; 0]);
    let names: Vec<_> = log.lines().map(message).collect::<Result<_>>()?;
    for (line, name) in
        names.iter().zip(["WINSTON_SIDECAR_TOKEN", "WINSTON_TENANT_ID", "WINSTON_CONTROL_URL", "OPENCLAW_STATE_DIR"])
    {
        assert!(line.starts_with(name), "{line}");
    }
    assert_eq!(names.len(), 4);
    assert!(!log.contains("short-secret"));
    Ok(())
}

#[test]
fn the_command_line() -> Result<()> {
    let run = |arguments: &[&str]| -> Result<(i32, String)> {
        let output = Command::new(bin("winston-entrypoint")?).args(arguments).output()?;
        let code = output.status.code().context("a signal")?;
        Ok((code, String::from_utf8(output.stdout)?))
    };
    let (code, help) = run(&["--help"])?;
    assert_eq!(code, 0);
    assert!(help.contains("Examples:") && help.contains("WINSTON_SIDECAR_TOKEN"));
    assert!(run(&["--version"])?.1.starts_with("winston-entrypoint "));
    assert!(run(&["--variables"])?.1.starts_with("| `WINSTON_"));
    for wrong in [&["--nonsense"][..], &["extra"], &["--help", "extra"]] {
        assert_eq!(run(wrong)?.0, 64, "{wrong:?}");
    }
    Ok(())
}

#[test]
fn seeds_are_laid_out_for_the_sidecar() -> Result<()> {
    in_both_modes("seeds_are_laid_out_for_the_sidecar", |mode| {
        let plan =
            Entrypoint::new(mode, "exit 0")?.env("WINSTON_OPENCLAW_JSON", "e30=").env("WINSTON_SOUL_MD", "# Soul");
        let seeds = plan.data().join(".winston/seed");
        plan.start()?.finish()?;
        let config = seeds.join(".openclaw/openclaw.json");
        assert_eq!(std::fs::read_to_string(&config)?, "{}");
        assert_eq!(mode_of(&config)?, 0o600);
        let soul = std::fs::read_to_string(seeds.join("workspace/SOUL.md"))?;
        assert_eq!(soul, "# Soul");
        assert!(!plan.data().join("workspace/SOUL.md").exists(), "the sidecar has the only write path");

        let plan = plan.env("WINSTON_SOUL_MD", "");
        plan.start()?.finish()?;
        assert!(config.exists());
        assert!(!seeds.join("workspace/SOUL.md").exists(), "taken away");
        Ok(())
    })
}

#[test]
fn the_sidecar_gets_no_seeds_and_what_was_resolved() -> Result<()> {
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, "echo \"$#\"; env")?
        .env("WINSTON_TENANT_ID", "")
        .env("TENANT_ID", "older-name")
        .env("WINSTON_SOUL_MD", "# Soul")
        .env("WINSTON_OPENCLAW_JSON", "{}")
        .env("SOMETHING_ELSE", "kept")
        .start()?;
    let (_, lines, _) = entrypoint.finish()?;
    assert_eq!(lines[0], "0", "nothing in argv");
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(!has("WINSTON_SOUL_MD") && !has("WINSTON_OPENCLAW_JSON"));
    assert!(has("WINSTON_SIDECAR_TOKEN=test-token-"));
    assert!(has("WINSTON_TENANT_ID=older-name"));
    assert!(has("OPENCLAW_STATE_DIR=/") && has("OPENCLAW_WORKSPACE_DIR=/"));
    assert!(has("SOMETHING_ELSE=kept"));
    Ok(())
}

#[test]
fn a_missing_sidecar_is_said() -> Result<()> {
    let plan = Entrypoint::new(Mode::Subreaper, "exit 0")?;
    let plan = plan.env("WINSTON_SIDECAR_BIN", "/missing/sidecar");
    let (code, _, log) = plan.start()?.finish()?;
    assert_eq!(code, 127);
    assert!(log.contains("/missing/sidecar") && log.contains("WINSTON_SIDECAR_BIN"));
    let plan = plan.env("WINSTON_SIDECAR_BIN", "/etc/passwd");
    assert_eq!(plan.start()?.finish()?.0, 126);
    Ok(())
}
