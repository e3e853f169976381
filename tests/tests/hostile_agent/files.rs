//! `.winston`, what is in it, and what is around it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::attempts::{Attempt, Class, Outcome, Plan, any, outcome};

const F: Class = Class::Files;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(F, "list .winston", |plan| outcome(fs::read_dir(plan.at(".winston")).map(Iterator::count))),
    Attempt::new(F, "look at a file in .winston", |plan| {
        each(plan, |path| outcome(fs::symlink_metadata(path).map(|meta| meta.len())))
    }),
    Attempt::new(F, "read a file in .winston", |plan| each(plan, |path| outcome(File::open(path)))),
    Attempt::new(F, "write a file in .winston", |plan| {
        each(plan, |path| outcome(OpenOptions::new().write(true).open(path)))
    }),
    Attempt::new(F, "add to a file in .winston", |plan| {
        each(plan, |path| outcome(OpenOptions::new().append(true).open(path)))
    }),
    Attempt::new(F, "make a hard link to a file in .winston", |plan| {
        let to = plan.at("workspace/hard");
        each(plan, |path| outcome(fs::hard_link(path, &to)))
    }),
    Attempt::new(F, "make a file in a directory of .winston", |plan| {
        directories(plan, |path| outcome(File::create(path.join("mine"))))
    }),
    Attempt::new(F, "make a link in a directory of .winston", |plan| {
        directories(plan, |path| outcome(symlink("/etc/passwd", path.join("link"))))
    }),
    Attempt::new(F, "reach .winston through a link", |plan| {
        let link = plan.at("workspace/loot");
        let _ = symlink("../.winston", &link);
        outcome(fs::read_dir(link).map(Iterator::count))
    }),
    Attempt::new(F, "reach .winston through /proc", |plan| {
        let path = format!("/proc/self/root{}", plan.at(".winston/epoch").display());
        outcome(File::open(path))
    }),
    Attempt::new(F, "open .winston to everybody", |plan| {
        let mode = fs::Permissions::from_mode(0o700);
        outcome(fs::set_permissions(plan.at(".winston"), mode))
    }),
    Attempt::new(F, "give .winston to somebody else", |plan| outcome(chown(plan.at(".winston"), Some(0), Some(0)))),
    Attempt::new(F, "make a file in the data directory", |plan| outcome(File::create(plan.at("mine")))),
    Attempt::new(F, "open the data directory to everybody", |plan| {
        let mode = fs::metadata(&plan.data).map(|meta| meta.permissions());
        outcome(mode.and_then(|mode| fs::set_permissions(&plan.data, mode)))
    }),
    Attempt::new(F, "put a directory in the place of its workspace", |plan| exchanged(plan, "workspace")),
    Attempt::new(F, "mount over .winston", |plan| {
        let done = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(plan.at(".winston/objects")).output();
        done.map_err(|error| error.to_string()).and_then(|output| {
            if output.status.success() {
                Ok("mounted".to_owned())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        })
    }),
    // In namespaces of its own it may be root and mount what it likes. Nobody else sees it: the test compares.
    Attempt::never(F, "mount over .winston for others, as root of namespaces of its own", |plan| {
        let script = "mount -t tmpfs tmpfs \"$0\" && echo forged > \"$0/epoch\" && mkdir \"$0/changes\"";
        let done = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(plan.at(".winston"))
            .output();
        Err(done.map_or_else(|error| error.to_string(), |output| format!("{}, for itself alone", output.status)))
    }),
    Attempt::new(F, "remove a file in .winston", |plan| each(plan, |path| outcome(fs::remove_file(path)))),
    Attempt::new(F, "move .winston away", |plan| exchanged(plan, ".winston")),
    Attempt::new(F, "move a .winston of its own there", |plan| {
        let own = plan.at("workspace/own");
        let _ = fs::create_dir(&own);
        let moved = fs::rename(plan.at(".winston"), plan.at(".winston-away"))
            .and_then(|()| fs::rename(&own, plan.at(".winston")));
        let _ = fs::rename(plan.at(".winston-away"), plan.at(".winston"));
        outcome(moved)
    }),
    Attempt::new(F, "move the data directory away", |plan| {
        let away = plan.data.with_file_name("data-away");
        let moved = fs::rename(&plan.data, &away);
        let _ = fs::rename(&away, &plan.data);
        outcome(moved)
    }),
];

/// On every file of ours.
fn each(plan: &Plan, attempt: impl Fn(&Path) -> Outcome) -> Outcome {
    any(plan
        .ours
        .iter()
        .filter(|path| path.extension().is_some() || path.file_name().is_some())
        .map(|path| attempt(path)))
}

/// On every directory of ours; the order has files too, which are none.
fn directories(plan: &Plan, attempt: impl Fn(&Path) -> Outcome) -> Outcome {
    let parents = plan.ours.iter().filter_map(|path| path.parent()).map(Path::to_owned);
    any(parents.chain([plan.at(".winston")]).map(|path| attempt(&path)))
}

/// Away and back.
fn exchanged(plan: &Plan, name: &str) -> Outcome {
    let away = plan.at("away");
    let moved = fs::rename(plan.at(name), &away);
    let _ = fs::rename(&away, plan.at(name));
    outcome(moved)
}
