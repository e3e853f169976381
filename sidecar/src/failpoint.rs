//! Places at which the tests can make this process die or a system call fail.
//!
//! Only in builds with the feature `failpoints`, which nothing that is shipped has; elsewhere every call here is empty. The environment
//! variable `WINSTON_FAILPOINTS` says what happens where: entries `<name>=<what>[@<n>[x<count>]]`, separated by commas, with `<what>` one of `kill`
//! (SIGKILL to this process), `eio`, `enospc` or `erofs` (the call fails so) or `slow` (it takes 300 ms), from the `n`th time on that the place
//! is reached (`kill`: at it; 1 when left out), `count` times (for ever when left out).

/// A place that a kill may hit.
#[inline]
pub(crate) fn here(name: &'static str) {
    #[cfg(feature = "failpoints")]
    enabled::here(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// A place where a system call may be made to fail.
#[inline]
pub(crate) fn fails(name: &'static str) -> std::io::Result<()> {
    #[cfg(feature = "failpoints")]
    return enabled::fails(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    const SLOW: std::time::Duration = std::time::Duration::from_millis(300);

    enum What {
        Kill,
        Error(Errno),
        Slow,
    }

    struct Point {
        name: String,
        what: What,
        at: u64,
        /// The last time that it fails.
        until: u64,
        reached: AtomicU64,
    }

    static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
        let text = std::env::var("WINSTON_FAILPOINTS").unwrap_or_default();
        text.split(',').filter(|entry| !entry.is_empty()).filter_map(parse).collect()
    });

    fn parse(entry: &str) -> Option<Point> {
        let (name, rest) = entry.split_once('=')?;
        let (what, at) = rest.split_once('@').unwrap_or((rest, "1"));
        let what = match what {
            "kill" => What::Kill,
            "slow" => What::Slow,
            "eio" => What::Error(Errno::IO),
            "enospc" => What::Error(Errno::NOSPC),
            "erofs" => What::Error(Errno::ROFS),
            _ => return None,
        };
        let (at, count) = at.split_once('x').unwrap_or((at, ""));
        let at: u64 = at.parse().ok()?;
        let until = if count.is_empty() { u64::MAX } else { at + count.parse::<u64>().ok()?.checked_sub(1)? };
        Some(Point { name: name.to_owned(), what, at, until, reached: AtomicU64::new(0) })
    }

    pub(super) fn here(name: &str) {
        for point in POINTS.iter().filter(|point| point.name == name && matches!(point.what, What::Kill)) {
            if point.reached.fetch_add(1, Ordering::Relaxed) + 1 == point.at {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    }

    pub(super) fn fails(name: &str) -> io::Result<()> {
        here(name);
        for point in POINTS.iter().filter(|point| point.name == name) {
            if matches!(point.what, What::Kill)
                || !(point.at..=point.until).contains(&(point.reached.fetch_add(1, Ordering::Relaxed) + 1))
            {
                continue;
            }
            match point.what {
                What::Error(errno) => return Err(errno.into()),
                What::Slow => std::thread::sleep(SLOW),
                What::Kill => {}
            }
        }
        Ok(())
    }
}
