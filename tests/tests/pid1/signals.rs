//! Signals and exit codes.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use winston_tests::process::Entrypoint;

use crate::{FOREVER, in_both_modes};

#[test]
fn the_exit_code_is_the_sidecars() -> Result<()> {
    in_both_modes("the_exit_code_is_the_sidecars", |mode| {
        for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)] {
            let (code, ..) = Entrypoint::new(mode, script)?.start()?.finish()?;
            assert_eq!(code, expected, "{script}");
        }
        Ok(())
    })
}

#[test]
fn a_real_time_signal_ends_it_too() -> Result<()> {
    in_both_modes("a_real_time_signal_ends_it_too", |mode| {
        let (code, ..) = Entrypoint::new(mode, "kill -40 $$")?.start()?.finish()?;
        assert_eq!(code, 168);
        Ok(())
    })
}

#[test]
fn signals_are_forwarded() -> Result<()> {
    in_both_modes("signals_are_forwarded", |mode| {
        let script =
            format!("for s in HUP INT; do trap \"echo got $s\" $s; done\ntrap 'echo got TERM; exit 3' TERM\n{FOREVER}");
        for signal in ["HUP", "INT"] {
            let mut entrypoint = Entrypoint::new(mode, &script)?.start()?;
            entrypoint.expect("ready")?;
            entrypoint.signal(format!("SIG{signal}").parse()?)?;
            entrypoint.expect(&format!("got {signal}"))?;
            if signal != "INT" {
                entrypoint.signal(Signal::SIGTERM)?;
                entrypoint.expect("got TERM")?;
                assert_eq!(entrypoint.finish()?.0, 3);
            }
        }
        Ok(())
    })
}

/// `nohup`, and a shell that starts something in the background, leave signals ignored. A program inherits that, and a shell
/// cannot even set a trap for a signal that was ignored at its start.
#[test]
fn signals_that_were_ignored_arrive_too() -> Result<()> {
    in_both_modes("signals_that_were_ignored_arrive_too", |mode| {
        let script =
            format!("for s in HUP INT; do trap \"echo got $s\" $s; done\ntrap 'echo got TERM; exit 3' TERM\n{FOREVER}");
        for signal in ["HUP", "INT"] {
            let mut entrypoint = Entrypoint::new(mode, &script)?.ignoring("HUP INT QUIT").start()?;
            entrypoint.expect("ready")?;
            entrypoint.signal(format!("SIG{signal}").parse()?)?;
            entrypoint.expect(&format!("got {signal}"))?;
            entrypoint.signal(Signal::SIGTERM)?;
            if signal != "INT" {
                entrypoint.expect("got TERM")?;
                assert_eq!(entrypoint.finish()?.0, 3);
            }
        }
        Ok(())
    })
}

/// A debugger in the gateway, or the end of a sidecar that does not know the signal, and of every connection with it.
#[test]
fn signals_that_would_do_harm_are_refused() -> Result<()> {
    in_both_modes("signals_that_would_do_harm_are_refused", |mode| {
        let script = format!("trap 'echo got HUP' HUP\ntrap 'exit 0' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.start()?;
        entrypoint.expect("ready")?;
        for signal in ["SIGUSR1", "SIGUSR2", "SIGQUIT"] {
            entrypoint.signal(signal.parse()?)?;
            entrypoint.expect_log(&format!("{signal} is not passed on"))?;
        }
        entrypoint.signal(Signal::SIGHUP)?;
        entrypoint.expect("got HUP")?;
        entrypoint.signal(Signal::SIGTERM)?;
        assert_eq!(entrypoint.finish()?.0, 0);
        Ok(())
    })
}

#[test]
fn the_second_term_hurries() -> Result<()> {
    in_both_modes("the_second_term_hurries", |mode| {
        let script = format!("trap 'echo got TERM' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.env("WINSTON_STOP_GRACE_SECONDS", "600").start()?;
        entrypoint.expect("ready")?;
        entrypoint.signal(Signal::SIGTERM)?;
        entrypoint.expect("got TERM")?;
        entrypoint.signal(Signal::SIGTERM)?;
        assert_eq!(entrypoint.finish()?.0, 137);
        Ok(())
    })
}

#[test]
fn grace_has_an_end() -> Result<()> {
    in_both_modes("grace_has_an_end", |mode| {
        let script = format!("trap 'echo got TERM' TERM\n{FOREVER}");
        let mut entrypoint = Entrypoint::new(mode, &script)?.env("WINSTON_STOP_GRACE_SECONDS", "1").start()?;
        entrypoint.expect("ready")?;
        let asked = Instant::now();
        entrypoint.signal(Signal::SIGTERM)?;
        entrypoint.expect("got TERM")?;
        assert_eq!(entrypoint.finish()?.0, 137);
        assert!(asked.elapsed() >= Duration::from_secs(1));
        Ok(())
    })
}
