//! The demo: control, one tenant and the real gateway on this machine, and a story that checks itself while it is told.

mod control;
mod stage;
mod story;
mod tell;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use lexopt::Arg::Long;
use tokio::signal::unix::{SignalKind, signal};

use stage::Stage;
use tell::Teller;

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    /// Tell the story, stop everything, and end.
    pub once: bool,
    /// Forget what earlier runs left.
    pub reset: bool,
    /// Where everything is kept.
    pub dir: PathBuf,
}

impl Options {
    /// Reads the command line and `WINSTON_DEMO_DIR`.
    pub fn parse() -> Result<Self> {
        let mut parser = lexopt::Parser::from_env();
        let dir = std::env::var_os("WINSTON_DEMO_DIR").map_or_else(|| PathBuf::from(".winston-demo"), PathBuf::from);
        let mut options = Self { once: false, reset: false, dir: std::path::absolute(dir)? };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("once") => options.once = true,
                Long("reset") => options.reset = true,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

/// Runs the demo. Whatever happens, nothing that it started is left running.
pub fn run(options: &Options) -> Result<()> {
    let teller = Teller::new();
    let interrupted = Arc::new(AtomicBool::new(false));
    let (asked, stopped) = std::sync::mpsc::channel();
    let flag = Arc::clone(&interrupted);
    // Before anything is started: an interrupt that nobody handles would leave it running.
    on_signals(move || {
        flag.store(true, Ordering::Release);
        let _ = asked.send(());
    })?;
    let stage = match Stage::set(options, &teller, Arc::clone(&interrupted)) {
        // What was started is stopped again by now.
        Err(_) if interrupted.load(Ordering::Acquire) && !options.once => return Ok(()),
        stage => stage?,
    };

    let told = story::tell(&stage, &teller);
    let interrupted = stage.is_interrupted();
    if told.is_ok() && !options.once && !interrupted {
        stage.farewell(&teller);
        let _ = stopped.recv();
    }
    if interrupted || !options.once {
        teller.heading("Stopping");
    }
    let struck = stage.strike(&teller);
    match told {
        Err(_) if interrupted => {}
        told => told?,
    }
    struck?;
    if interrupted && options.once {
        bail!("interrupted");
    }
    Ok(())
}

/// Calls `act` for each SIGINT, SIGTERM and SIGHUP. Handlers and not a blocked mask, which the processes that we start would inherit.
fn on_signals(act: impl Fn() + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                act();
            }
        });
    });
    Ok(())
}
