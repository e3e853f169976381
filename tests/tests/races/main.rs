//! Names that change between two of the sidecar's system calls.
//!
//! Threads exchange directories and files of the data directory with symbolic links to a tree outside of it (`RENAME_EXCHANGE`, in a tight
//! loop) while every operation of the API runs on exactly these names and the watcher looks at all of them. Whatever the answers are, the
//! tree outside is never served, never read, never changed, and the journal knows nothing of it.
//!
//! A round is one operation. 5,000 rounds, and 120,000 with `WINSTON_LONG=1`; `WINSTON_RACE_ROUNDS` is another number, `WINSTON_SEED`
//! another order. Operations that this sidecar does not have are named and left out.

mod operations;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use winston_tests::canary::Canary;
use winston_tests::process::is_root;
use winston_tests::sidecar::{Setup, Sidecar};
use winston_tests::wire::Wire;

use operations::{Operation, available};

/// Threads that send requests.
const CALLERS: u64 = 6;

/// A number for each call, from a seed: the same seed asks the same questions.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a swapper does over and over.
enum Swap {
    /// Two names of the data directory exchange what they mean.
    Exchange(PathBuf, PathBuf),
    /// A directory leaves the data directory and comes back.
    Leave(PathBuf, PathBuf),
    /// A file outside gets a second name inside and loses it: whoever opened that name holds a file with one name again.
    Relink(PathBuf, PathBuf),
}

impl Swap {
    /// Once there, or for [`Swap::Leave`] there and back. A caller may have removed a name in between: then there is nothing to swap.
    fn turn(&self) -> bool {
        let rename = |from: &Path, to: &Path, flags| renameat2(AT_FDCWD, from, AT_FDCWD, to, flags).is_ok();
        match self {
            Self::Exchange(one, other) => rename(one, other, RenameFlags::RENAME_EXCHANGE),
            Self::Relink(outside, inside) => {
                let linked = std::fs::hard_link(outside, inside).is_ok();
                let _ = std::fs::remove_file(inside);
                linked
            }
            Self::Leave(inside, outside) => {
                let left = rename(inside, outside, RenameFlags::RENAME_NOREPLACE);
                // A caller made something at the name meanwhile: that goes instead.
                if left && !rename(outside, inside, RenameFlags::RENAME_NOREPLACE) {
                    rename(outside, inside, RenameFlags::RENAME_EXCHANGE);
                    let _ = std::fs::remove_dir_all(outside);
                }
                left
            }
        }
    }
}

/// Puts the links and directories in place that a caller may have removed. Of the directories above them none is ever a link, and below the
/// others only what is outside too is made: the test itself changes nothing there.
fn lay_out(data: &Path, canary: &Path) -> Result<()> {
    for (name, target) in [
        ("w/dir.alt", canary.to_owned()),
        ("w/file.alt", canary.join("secret.md")),
        ("w/large.alt", canary.join("large.bin")),
        ("p.alt", canary.to_owned()),
        ("relative.alt", Path::new("../canary").to_owned()),
        ("magic.alt", Path::new("/proc/self/root").join(canary.strip_prefix("/")?)),
        ("chain.alt", Path::new("w/dir.alt").to_owned()),
        (".openclaw/dir.alt", canary.to_owned()),
        ("workspace.alt", canary.to_owned()),
    ] {
        let path = data.join(name);
        if std::fs::symlink_metadata(&path).is_err() {
            // Another thread may have been as quick.
            let _ = symlink(target, path);
        }
    }
    for name in ["w/dir", "p", "relative", "magic", "chain", "m/leaves", ".openclaw/dir", "workspace"] {
        let dir = data.join(name).join("sub");
        // Not while the name is a link: this would be made outside.
        if std::fs::symlink_metadata(data.join(name)).is_err() {
            let _ = std::fs::create_dir_all(dir);
        }
    }
    if is_root() {
        // As an agent can make one where the kernel does not protect hard links: another name for a file of somebody else's.
        let _ = std::fs::hard_link(canary.join("owned.md"), data.join("w/hard.alt"));
    }
    Ok(())
}

/// Names on which operations are tried: below each name that is swapped, things that are inside only, outside only, and in both.
fn targets(dice: &mut Dice) -> (String, String) {
    const DIRECTORIES: &[&str] = &["w/dir", "w/dir.alt", "p", "p.alt", "relative", "magic", "chain", "m/leaves"];
    const BELOW: &[&str] = &["secret.md", "sub/deep.md", "large.bin", "new.md", "new/dir/new.md", "sub"];
    const FILES: &[&str] =
        &["w/file.md", "w/file.alt", "w/large.md", "w/large.alt", "w/hard.md", "w/hard.alt", "w/again.md"];
    let directory = DIRECTORIES[dice.roll(DIRECTORIES.len())].to_owned();
    let file = match dice.roll(3) {
        0 => FILES[dice.roll(FILES.len())].to_owned(),
        _ => format!("{directory}/{}", BELOW[dice.roll(BELOW.len())]),
    };
    (directory, file)
}

/// What was answered, by operation and status; 0 is an answer that was cut short.
type Counts = BTreeMap<(&'static str, u16), u64>;

/// Sends requests until there were enough rounds; each answer is looked through.
fn call(
    sidecar: &Sidecar,
    canary: &Canary,
    operations: &[&'static Operation],
    mut dice: Dice,
    rounds: &dyn Fn() -> bool,
) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut wire = Wire::open(sidecar.address())?;
    while rounds() {
        let operation = operations[dice.roll(operations.len())];
        let (directory, file) = targets(&mut dice);
        let bytes = (operation.request)(&directory, &file, dice.roll(9)).bytes();
        wire.send(&bytes)?;
        let answer = wire.answer(bytes.starts_with(b"HEAD "));
        let body = answer.as_ref().ok().and_then(|answer| Some(answer.as_ref()?.body.as_slice())).unwrap_or_default();
        if canary.leaks(wire.seen()) || canary.leaks(body) {
            let seen = String::from_utf8_lossy(wire.seen());
            bail!("{} of {directory} and {file} tells what is outside: {seen}", operation.name);
        }
        // What shrinks or goes away while it is sent ends its connection: nothing else can be said by then.
        let Ok(Some(answer)) = answer else {
            wire = Wire::open(sidecar.address())?;
            *counts.entry((operation.name, 0)).or_default() += 1;
            continue;
        };
        if answer.header("connection") == Some("close") {
            wire = Wire::open(sidecar.address())?;
        }
        *counts.entry((operation.name, answer.status)).or_default() += 1;
    }
    Ok(counts)
}

fn table(counts: &Counts) -> String {
    let mut text = String::new();
    let mut last = "";
    for ((operation, status), count) in counts {
        if *operation != last {
            let _ = write!(text, "\n  {operation:<24}");
            last = operation;
        }
        let _ = write!(text, " {status}: {count}");
    }
    text
}

#[test]
fn nothing_outside_is_reached_however_names_change() -> Result<()> {
    let long = std::env::var_os("WINSTON_LONG").is_some_and(|value| value == "1");
    let rounds = number("WINSTON_RACE_ROUNDS", if long { 120_000 } else { 5_000 });
    let seed = number("WINSTON_SEED", 0x5eed).max(1);
    let setup = Setup::new()?;
    let (data, outside) = (setup.data().to_owned(), setup.outside().to_owned());
    let files = [
        ("secret.md", String::new()),
        ("sub/deep.md", "deep".to_owned()),
        ("large.bin", "l".repeat(200_000)),
        ("owned.md", "of somebody else".to_owned()),
    ];
    let mut canary = Canary::plant(&outside.join("canary"), &files)?;
    for dir in ["w/dir/sub", "p/sub", "m/leaves/sub", "quiet", ".openclaw/dir/sub", "workspace/memory"] {
        std::fs::create_dir_all(data.join(dir))?;
    }
    for file in [
        "w/file.md",
        "w/large.md",
        "w/hard.md",
        "quiet/file.md",
        "w/dir/secret.md",
        "p/sub/deep.md",
        ".openclaw/dir/sub/deep.md",
    ] {
        std::fs::write(data.join(file), "inside")?;
    }
    if is_root() {
        canary.linked("owned.md");
        std::os::unix::fs::chown(canary.root().join("owned.md"), Some(65534), Some(65534))?;
    } else {
        eprintln!("not here: hard links to files of somebody else (not root)");
    }
    lay_out(&data, canary.root())?;
    let reads_show = canary.arm()?;
    let sidecar = setup.start()?;
    let operations = available(&sidecar)?;

    let exchange = |one: &str, other: &str| Swap::Exchange(data.join(one), data.join(other));
    let mut swaps = vec![
        vec![
            exchange("w/dir", "w/dir.alt"),
            exchange("w/file.md", "w/file.alt"),
            exchange("w/hard.md", "w/hard.alt"),
            Swap::Leave(data.join("m/leaves"), outside.join("left")),
        ],
        vec![
            exchange("p", "p.alt"),
            exchange("w/large.md", "w/large.alt"),
            exchange("relative", "relative.alt"),
            exchange("magic", "magic.alt"),
        ],
        vec![
            exchange("chain", "chain.alt"),
            exchange(".openclaw/dir", ".openclaw/dir.alt"),
            exchange("workspace", "workspace.alt"),
            exchange("w/dir", "p.alt"),
            exchange("w/file.md", "w/large.alt"),
            exchange("chain", "p"),
        ],
    ];
    if is_root() {
        swaps.push(vec![Swap::Relink(canary.root().join("owned.md"), data.join("w/again.md"))]);
    }
    let (stop, done, swapped) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Mutex::new(Counts::new());
    std::thread::scope(|scope| -> Result<()> {
        for group in &swaps {
            let (stop, swapped) = (&stop, &swapped);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for swap in group {
                        for _ in 0..8 {
                            swapped.fetch_add(u64::from(swap.turn()), Ordering::Relaxed);
                        }
                    }
                    // A breath for the others: the sidecar has to get between two swaps.
                    std::thread::park_timeout(std::time::Duration::from_micros(20));
                }
            });
        }
        // The agent: makes again what was removed, and writes, so that the watcher has something to look at.
        let (data, root) = (&data, canary.root());
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = lay_out(data, root);
                for file in ["w/file.md", "w/large.md", "w/hard.md"] {
                    // Only a name that is free: writing to one that exists could go through a link.
                    if std::fs::OpenOptions::new().write(true).create_new(true).open(data.join(file)).is_ok() {
                        swapped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (sidecar, canary, operations, counts, done, stop) =
                    (&sidecar, &canary, &operations, &counts, &done, &stop);
                scope.spawn(move || {
                    let more = || !stop.load(Ordering::Relaxed) && done.fetch_add(1, Ordering::Relaxed) < rounds;
                    let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(caller as u32) | 1);
                    let called = call(sidecar, canary, operations, dice, &more);
                    if called.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut all = counts.lock().ok().context("counts")?;
                    for (key, count) in called? {
                        *all.entry(key).or_default() += count;
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        let outcomes: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        stop.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            outcome.ok().context("a caller panicked")??;
        }
        Ok(())
    })?;
    let counts = counts.into_inner().unwrap_or_default();
    let total: u64 = counts.values().sum();
    println!("{total} operations, {} swaps, seed {seed:#x}{}", swapped.load(Ordering::Relaxed), table(&counts));
    println!("reading outside would {}have been noticed", if reads_show { "" } else { "not " });
    assert!(total >= rounds && swapped.load(Ordering::Relaxed) >= rounds, "{total} rounds");
    canary.check()?;
    // Every answer was meant: none says that the sidecar was at a loss.
    let failed: Counts =
        counts.iter().filter(|((_, status), _)| *status >= 500).map(|(key, count)| (*key, *count)).collect();
    assert!(failed.is_empty(), "{}\n{}", table(&failed), sidecar.log_text());
    // Whatever is still unrecorded is recorded now; then nothing of ours knows the tree.
    sidecar.get("/health")?.expect(200)?;
    let (status, setup) = sidecar.stop()?;
    assert!(status.success());
    canary.check_unknown_to(&setup.data().join(".winston"))?;
    canary.check()?;
    // What could not be taken back, because its directory had left or become a link, is settled by the next start, which does not find its
    // way out either.
    let (status, setup) = setup.start()?.stop()?;
    assert!(status.success());
    canary.check_unknown_to(&setup.data().join(".winston"))?;
    let staged: Vec<_> =
        std::fs::read_dir(setup.data().join(".winston/staging"))?.flatten().map(|entry| entry.file_name()).collect();
    assert!(staged.is_empty(), "staged after another start: {staged:?}");
    canary.check()
}
