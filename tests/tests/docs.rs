//! The documentation of the variables is what the binaries print.

use anyhow::{Context as _, Result, bail};
use std::process::Command;
use winston_tests::process::{bin, repository};

/// The rows of the table below `## <name>`, without its two header lines.
fn documented(name: &str) -> Result<Vec<String>> {
    let page = std::fs::read_to_string(repository().join("docs/CONFIGURATION.md"))?;
    let mut lines = page.lines().skip_while(|line| *line != format!("## {name}"));
    if lines.next().is_none() {
        bail!("docs/CONFIGURATION.md has no section `## {name}`");
    }
    let rows = lines.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with('|')).skip(2);
    Ok(rows.map(str::to_owned).collect())
}

fn agree(name: &str) -> Result<()> {
    let output = Command::new(bin(name)?).arg("--variables").output()?;
    assert!(output.status.success(), "{name} --variables: {}", output.status);
    let printed = String::from_utf8(output.stdout).context("UTF-8")?;
    let printed: Vec<_> = printed.lines().collect();
    assert!(!printed.is_empty(), "{name} prints no variables");
    assert_eq!(documented(name)?, printed, "copy the output of `{name} --variables` into docs/CONFIGURATION.md");
    Ok(())
}

#[test]
fn the_variables_of_the_entrypoint() -> Result<()> {
    agree("winston-entrypoint")
}

#[test]
fn the_variables_of_the_sidecar() -> Result<()> {
    agree("winston-sidecar")
}

#[test]
fn the_variables_of_control() -> Result<()> {
    agree("winston-control")
}
