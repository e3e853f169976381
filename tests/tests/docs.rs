//! The documentation: its tables of variables are what the binaries print, and its links lead somewhere.

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

/// The name that a heading of Markdown has in a link, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The lines of a page that are not code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        !fence && !is_code
    })
}

fn anchors(page: &str) -> Vec<String> {
    let headings = prose(page).filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    headings.map(anchor).collect()
}

/// The targets of the links in a page.
fn links(page: &str) -> Vec<String> {
    let text: Vec<_> = prose(page).collect();
    let text = text.join("\n");
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() -> Result<()> {
    let mut pages = vec![repository().join("README.md")];
    for directory in ["docs", "docs/adr"] {
        for entry in std::fs::read_dir(repository().join(directory))? {
            pages.push(entry?.path());
        }
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let (mut checked, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = std::fs::read_to_string(page)?;
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            let leads = match std::fs::read_to_string(&target) {
                Ok(text) => heading.is_empty() || anchors(&text).iter().any(|known| known == heading),
                Err(_) => heading.is_empty() && target.is_dir(),
            };
            checked += 1;
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 100, "{checked} links");
    Ok(())
}
