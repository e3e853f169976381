//! Processes that outlive whoever started them: orphans, leftovers, an entrypoint or a sidecar that is gone or hangs.

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use winston_tests::process::{Entrypoint, Mode, Process, children};
use winston_tests::wait::eventually;

use crate::{FOREVER, in_both_modes};

#[test]
fn two_thousand_orphans_leave_no_zombie() -> Result<()> {
    // Zombies are counted by state and parent until there is none, for as many looks as a fast machine does in
    // seconds. The count of orphans is bounded by WINSTON_TEST_ORPHANS.
    let orphans = std::env::var("WINSTON_TEST_ORPHANS").unwrap_or_else(|_| "2000".to_owned());
    let script = format!(
        r#"i=0
while [ $i -lt {orphans} ]; do ( : & ); i=$((i + 1)); done
zombies() {{ cat /proc/[0-9]*/stat 2>&- | awk -v p=$PPID '$3 == "Z" && $4 == p' | wc -l; }}
look=0
while [ "$(zombies)" -ne 0 ] && [ $look -lt 500 ]; do look=$((look + 1)); done
echo "made $i, zombies $(zombies)""#
    );
    in_both_modes("two_thousand_orphans_leave_no_zombie", |mode| {
        let entrypoint = Entrypoint::new(mode, &script)?.start()?;
        entrypoint.expect(&format!("made {orphans}, zombies 0"))
    })
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    // Three leftovers in sessions of their own: one that ends when asked, one that does not listen, one with a child.
    // All hold the output, so its end proves that they are gone.
    let script = r#"setsid sh -c 'trap "echo bye; exit" TERM; echo up; sleep 1000 >&- & while :; do wait; done' &
setsid sh -c 'trap "" TERM; echo up; while :; do sleep 1000; done' &
setsid sh -c 'sh -c "echo up; sleep 1000" & wait' &
read go < "$WINSTON_DATA_DIR/go"
exit 5"#;
    in_both_modes("nothing_is_left_behind", |mode| {
        let plan = Entrypoint::new(mode, script)?;
        std::fs::create_dir(plan.data())?;
        let go = plan.data().join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU)?;
        let mut entrypoint = plan.start()?;
        for _ in 0..3 {
            entrypoint.expect("up")?;
        }
        std::fs::write(&go, "\n")?;
        let (code, lines, _) = entrypoint.finish()?;
        assert_eq!(code, 5);
        assert_eq!(lines, ["bye"], "asked before it was killed");
        Ok(())
    })
}

#[test]
fn a_killed_entrypoint_stops_its_sidecar() -> Result<()> {
    let script = format!("echo $$\ntrap 'echo got TERM; exit' TERM\n{FOREVER}");
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, &script)?.start()?;
    let sidecar = Pid::from_raw(entrypoint.line()?.parse()?);
    entrypoint.expect("ready")?;
    let sleepers = winston_tests::process::children(sidecar)?;
    entrypoint.signal(Signal::SIGKILL)?;
    entrypoint.expect("got TERM")?;
    for sleeper in sleepers {
        let _ = kill(sleeper, Signal::SIGKILL); // nobody is left to do it
    }
    assert_eq!(entrypoint.wait()?, 137);
    Ok(())
}

/// Nobody has the gateway between two sidecars. A parent-death signal cannot be the answer: it outlives its parent on purpose.
#[test]
fn an_entrypoint_that_is_killed_between_two_sidecars_leaves_no_gateway() -> Result<()> {
    // The first starts a gateway in a session of its own and dies, served; those after it cannot be started at all.
    let script = r#"up=${WINSTON_HANDOVER_FDS#*,up=}; export up=${up%%,*}
setsid sh -c 'trap "echo bye; exit" TERM; echo gateway; sleep 1000 >&- 2>&- & while :; do wait; done' &
bash -c 'echo >&$up'
read go < "$WINSTON_DATA_DIR/go"
chmod -x "$0"
kill -KILL $$"#;
    let plan = Entrypoint::new(Mode::Subreaper, script)?;
    std::fs::create_dir(plan.data())?;
    let go = plan.data().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU)?;
    let mut entrypoint = plan.start()?;
    entrypoint.expect("gateway")?;
    std::fs::write(&go, "\n")?;
    entrypoint.expect_log("cannot be started")?;
    entrypoint.signal(Signal::SIGKILL)?;
    entrypoint.expect("bye")?;
    assert_eq!(entrypoint.wait()?, 137);
    Ok(())
}

/// A sidecar that answers three questions and then no more. The one after it is silent from the start, as one is that does not know them.
const FALLS_SILENT: &str = r#"exec bash -c '
trap "exit 0" TERM
number() { local rest=${WINSTON_HANDOVER_FDS#*,$1=}; echo "${rest%%,*}"; }
up=$(number up) ask=$(number ask)
echo >&$up
if [ ! -e "$WINSTON_DATA_DIR/second" ]; then
    touch "$WINSTON_DATA_DIR/second"
    for _ in 1 2 3; do
        until question=$(head -c 1 <&$ask 2>/dev/null) && [ -n "$question" ]; do sleep 0.01; done
        printf %s "$question" >&$ask
        echo answered
    done
    echo silent
else
    echo second
fi
sleep 1000 >&- 2>&- &
while :; do wait; done
'"#;

#[test]
fn a_sidecar_that_hangs_is_replaced() -> Result<()> {
    in_both_modes("a_sidecar_that_hangs_is_replaced", |mode| {
        let mut entrypoint = Entrypoint::new(mode, FALLS_SILENT)?.env("WINSTON_HANG_SECONDS", "1").start()?;
        for line in ["answered", "answered", "answered", "silent", "second"] {
            entrypoint.expect(line)?;
        }
        entrypoint.expect_log("no sign of life")?;
        entrypoint.signal(Signal::SIGTERM)?;
        assert_eq!(entrypoint.wait()?, 0);
        Ok(())
    })
}

/// What looks like a hang from outside and is none.
#[test]
fn a_sidecar_that_was_stopped_is_not_killed() -> Result<()> {
    let mut entrypoint = Entrypoint::new(Mode::Subreaper, FALLS_SILENT)?.env("WINSTON_HANG_SECONDS", "1").start()?;
    entrypoint.expect("answered")?;
    let mut all = children(entrypoint.entrypoint()?)?.into_iter();
    let sidecar = all.find(|pid| Process::of(pid.as_raw()).command.contains("FDS")).context("no sidecar")?;
    kill(sidecar, Signal::SIGSTOP)?;
    // The entrypoint goes on looking: three times as often as would make a hang.
    let wakings = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", entrypoint.entrypoint()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Ok(line.context("no count")?.trim().parse()?)
    };
    let before = wakings()?;
    eventually("a hundred looks", || Ok((wakings()? > before + 100).then_some(())))?;
    kill(sidecar, Signal::SIGCONT)?;
    entrypoint.expect("answered")?;
    assert!(!entrypoint.stderr().contains("no sign of life"), "{}", entrypoint.stderr());
    entrypoint.signal(Signal::SIGTERM)?;
    entrypoint.wait()?;
    Ok(())
}
