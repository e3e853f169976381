//! The gateway's directory for temporary files, one for each tenant, and the cache of compiled code that it keeps there.
//!
//! Node looks for compiled code in `$TMPDIR/node-compile-cache`, and OpenClaw starts seconds faster with it. The directory for temporary
//! files goes with the container, so that name is a link to the volume: `.home/.cache/node-compile-cache`, which has no history and is not
//! watched. The variable `NODE_COMPILE_CACHE` would do the same and put another process between the sidecar and its gateway.
//!
//! Everything here is the agent's own. So it is reached through handles that follow no link, and what cannot be had is
//! done without: the gateway then starts as it would by hand.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid, fchown};
use rustix::io::{Errno, Result};

use crate::dir::Dir;
use crate::log;
use crate::settings::{HOME, Owner, Settings};

/// Where Node looks, in the directory for temporary files.
const LINK: &str = "node-compile-cache";
/// Where it finds it, beneath the gateway's home.
const CACHE: &str = ".cache/node-compile-cache";
/// OpenClaw's part of the cache: `openclaw/<version>/<installation>/<node>/<module>`.
const OPENCLAW: &str = "openclaw";
/// Modules that a cache may have. OpenClaw has some six thousand.
const MOST_MODULES: usize = 50_000;
/// Names of one directory that are looked at.
const MOST: usize = 200_000;

/// Makes both ready; the path of the first. `alone`: nobody else uses the volume, so what an earlier start left can go.
pub(crate) fn prepare(settings: &Settings, alone: bool) -> Option<PathBuf> {
    let base = std::env::temp_dir();
    let path = base.join(name(&settings.data_dir, settings.owner));
    let made = directory(&base, &path, settings.owner);
    let dir = made.inspect_err(|error| complain(&path, *error)).ok()?;
    if alone {
        for name in dir.names(MOST).iter().filter(|name| *name != LINK) {
            let _ = dir.remove_all(name);
        }
    }
    let target = settings.data_dir.join(HOME).join(CACHE);
    match cache(settings).and_then(|cache| dir.link(OsStr::new(LINK), &target).map(|()| cache)) {
        Ok(cache) if alone => prune(&cache),
        Ok(_) => {}
        Err(error) => complain(&target, error),
    }
    Some(path)
}

/// Removes the directory; after an orderly end there is nobody to use it.
pub(crate) fn remove(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    if let Ok(parent) = Dir::open(parent) {
        let _ = parent.remove_all(name);
    }
}

fn complain(path: &Path, error: Errno) {
    let fields =
        [("path", path.display().to_string().into()), ("error", std::io::Error::from(error).to_string().into())];
    log::warn("the gateway does without a directory of its own for temporary files or compiled code", &fields);
}

/// Short, because names of sockets in it must be; the same at each start; another one for each volume.
fn name(data_dir: &Path, owner: Option<Owner>) -> OsString {
    let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    // FNV-1a: it only has to differ.
    let hash = data_dir
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("winston-{}-{hash:016x}", uid(owner)).into()
}

fn uid(owner: Option<Owner>) -> u32 {
    owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid)
}

/// The directory for temporary files. One that somebody else has put there is not used.
fn directory(base: &Path, path: &Path, owner: Option<Owner>) -> Result<Dir> {
    let base = Dir::open(base)?;
    let dir = base.child_or_new(path.file_name().unwrap_or_default(), 0o700)?;
    own(&dir, owner)?;
    if dir.stat()?.st_uid != uid(owner) {
        return Err(Errno::PERM);
    }
    dir.set_mode(0o700)?;
    Ok(dir)
}

/// The cache on the volume.
fn cache(settings: &Settings) -> Result<Dir> {
    let mut here = Dir::open(&settings.data_dir)?.child(OsStr::new(HOME))?;
    for part in Path::new(CACHE) {
        here = here.child_or_new(part, 0o700)?;
        own(&here, settings.owner)?;
    }
    Ok(here)
}

/// Gives the user a directory that we have made as root; others stay whose they are.
fn own(dir: &Dir, owner: Option<Owner>) -> Result<()> {
    match owner {
        Some(owner) if dir.stat()?.st_uid == rustix::process::geteuid().as_raw() => {
            fchown(dir.fd(), Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        }
        _ => Ok(()),
    }
}

/// Leaves the newest cache of each kind: a new version of Node or OpenClaw has made one of its own at its first start, and nobody
/// asks for those before it any more. One that has grown beyond reason goes too.
fn prune(cache: &Dir) {
    keep_newest(cache, |name| name.as_bytes().starts_with(b"v"));
    let Ok(openclaw) = cache.child(OsStr::new(OPENCLAW)) else { return };
    let mut installations = Vec::new();
    for version in openclaw.names(MOST) {
        let Ok(version) = openclaw.child(&version) else { continue };
        for name in version.names(MOST) {
            let Ok(installation) = version.child(&name) else { continue };
            keep_newest(&installation, |_| true);
            let modules = installation.names(MOST).first().and_then(|node| installation.child(node).ok());
            let modules = modules.map_or(0, |node| node.names(MOST).len());
            let age = installation.stat().map_or(0, |stat| stat.st_mtime);
            installations.push((modules <= MOST_MODULES, age, version.try_clone(), name));
        }
    }
    installations.sort_by_key(|(fits, age, ..)| (*fits, *age));
    let newest = installations.pop_if(|(fits, ..)| *fits);
    let kept = newest.map(|(.., name)| name);
    for (.., version, name) in installations.into_iter().filter(|(.., name)| Some(name) != kept.as_ref()) {
        if let Ok(version) = version {
            let _ = version.remove_all(&name);
        }
    }
    for version in openclaw.names(MOST) {
        // Refused while there is something in it.
        let _ = openclaw.remove_empty(&version);
    }
}

fn keep_newest(dir: &Dir, ours: impl Fn(&OsStr) -> bool) {
    let mut all: Vec<_> = dir.names(MOST).into_iter().filter(|name| ours(name)).collect();
    all.sort_by_key(|name| dir.child(name).and_then(|dir| dir.stat()).map_or(0, |stat| stat.st_mtime));
    all.pop();
    for name in all {
        let _ = dir.remove_all(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    fn made(path: &Path, age: u64) {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("module"), "code").unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        std::fs::File::open(path).unwrap().set_modified(time).unwrap();
        std::fs::File::open(path.parent().unwrap()).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn only_the_newest_version_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        made(&at("v24-a"), 50);
        made(&at("v24-b"), 10);
        made(&at("openclaw/1.0/100-7/v24-a"), 50);
        made(&at("openclaw/1.1/100-7/v24-a"), 40);
        made(&at("openclaw/1.1/200-7/v24-a"), 30);
        made(&at("openclaw/1.1/200-7/v24-b"), 20);
        prune(&Dir::open(root.path()).unwrap());
        for gone in ["v24-a", "openclaw/1.0", "openclaw/1.1/100-7", "openclaw/1.1/200-7/v24-a"] {
            assert!(!at(gone).exists(), "{gone}");
        }
        for kept in ["v24-b/module", "openclaw/1.1/200-7/v24-b/module"] {
            assert!(at(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn links_in_the_cache_lead_nowhere() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        made(&outside.path().join("200-7/v24"), 50);
        made(&root.path().join("openclaw/1.0/100-7/v24"), 10);
        symlink(outside.path(), root.path().join("openclaw/0.9")).unwrap();
        symlink(outside.path(), root.path().join("openclaw/1.0/99-7")).unwrap();
        prune(&Dir::open(root.path()).unwrap());
        assert!(outside.path().join("200-7/v24/module").exists());
        assert!(root.path().join("openclaw/1.0/100-7/v24/module").exists());
    }
}
