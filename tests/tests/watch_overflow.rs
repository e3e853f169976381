//! More events than the kernel keeps. Apart from the other tests, because the limit is lowered for the whole machine for a moment.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use winston_tests::process::skip;
use winston_tests::sidecar::{Setup, journal_lines};
use winston_tests::wait::eventually;

/// A kernel setting, put back when the guard goes.
struct Kernel(PathBuf, String);

impl Kernel {
    fn set(path: &str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path)?;
        fs::write(path, value)?;
        Ok(Self(path.into(), before))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, &self.1);
    }
}

#[test]
fn an_overflowing_queue_is_made_up_for_by_a_listing() -> Result<()> {
    // The limit counts for the instance that is opened while it holds.
    let guard = match Kernel::set("/proc/sys/fs/inotify/max_queued_events", "16") {
        Ok(guard) => guard,
        Err(error) => {
            skip("an_overflowing_queue_is_made_up_for_by_a_listing", &error.to_string());
            return Ok(());
        }
    };
    // The slow full comparison is out of the way.
    let setup = Setup::new()?.env("WINSTON_RESCAN_SECONDS", "3600");
    fs::create_dir_all(setup.data().join("workspace"))?;
    let sidecar = setup.start()?;
    drop(guard);
    sidecar.pause()?;
    for file in 0..500 {
        sidecar.agent_writes(&format!("workspace/{file}.md"), format!("{file}"))?;
    }
    sidecar.resume()?;
    let watch = eventually("all are recorded", || {
        let watch = sidecar.status()?["watch"].take();
        if watch["files"] == 500 { Ok(Some(watch)) } else { bail!("is {watch}") }
    })?;
    assert!(watch["rescans"].as_u64() >= Some(2), "{watch}");
    let lines = journal_lines(sidecar.data())?;
    assert_eq!((lines.len(), lines.iter().filter(|line| line.contains("\"action\":\"create\"")).count()), (500, 500));
    Ok(())
}
