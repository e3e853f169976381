//! The gateway outlives the sidecar: killed, replaced by another binary, and dead for a while, below the real entrypoint.
//!
//! The gateway is a stand-in (`src/bin/stand_in`); `real_gateway.rs` has the same with OpenClaw. Each test kills
//! with SIGKILL. Where something has to happen while no sidecar lives, entrypoint is held with SIGSTOP meanwhile.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use winston_tests::gateway::pid;
use winston_tests::household::{Home, Household, Orders, install, install_script};
use winston_tests::process::{Mode, Process, bin, namespaces, skip};
use winston_tests::sidecar::Setup;
use winston_tests::trial::{CONFIG, config, validations};
use winston_tests::wait::eventually;

/// Runs a test in both modes, or says why one is impossible.
fn in_both_modes(test: &str, body: impl Fn(Mode) -> Result<()>) -> Result<()> {
    body(Mode::Subreaper).context("as a subreaper")?;
    match namespaces() {
        Ok(_) => body(Mode::Pid1).context("as PID 1"),
        Err(reason) => {
            skip(test, reason);
            Ok(())
        }
    }
}

/// Started and ready, with a connection to the gateway and its id.
fn ready(household: &Household) -> Result<(Home, Orders, i32)> {
    let home = household.start()?;
    let gateway = pid(&home.ready()?)?;
    let orders = home.connect()?;
    Ok((home, orders, gateway))
}

/// Does something while no sidecar lives and none is started.
fn without_sidecar(home: &Home, work: impl FnOnce() -> Result<()>) -> Result<()> {
    home.entrypoint.signal(Signal::SIGSTOP)?;
    let sidecar = home.kill_sidecar()?;
    eventually("the sidecar is dead", || {
        let stat = std::fs::read_to_string(format!("/proc/{sidecar}/stat"))?;
        Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")).then_some(()))
    })?;
    let done = work();
    home.entrypoint.signal(Signal::SIGCONT)?;
    done?;
    home.another_sidecar(sidecar)?;
    Ok(())
}

/// The gateway is stopped through its sidecar, and everything ends with code 0.
fn end(mut home: Home) -> Result<()> {
    home.entrypoint.signal(Signal::SIGTERM)?;
    let (code, _, log) = home.entrypoint.finish()?;
    ensure!(code == 0, "{code}: {log}");
    ensure!(home.was_terminated(), "the gateway was not asked to end");
    let left = home.gateways()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Every number up to `last` is in these lines, in order, whatever is between them.
fn numbered(lines: &BTreeMap<u64, String>, last: usize) -> Result<()> {
    let numbers: Vec<usize> = lines.values().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    let mut unique = numbers.clone();
    unique.dedup();
    ensure!(unique == (1..=last).collect::<Vec<_>>(), "{numbers:?}");
    Ok(())
}

#[test]
fn a_killed_sidecar_costs_nobody_anything() -> Result<()> {
    in_both_modes("a_killed_sidecar_costs_nobody_anything", |mode| {
        let (home, mut orders, gateway) = ready(&Household::new(mode)?)?;
        // By their numbers, which go on from one sidecar to the next.
        let mut lines = BTreeMap::new();
        let mut number = 0;
        let mut say = |orders: &mut Orders, count: usize| -> Result<String> {
            for _ in 0..count {
                number += 1;
                orders.give(&format!("say line {number}"))?;
            }
            Ok(format!("line {number}"))
        };
        for round in 0..5 {
            let last = say(&mut orders, 10)?;
            lines.extend(home.logged(&last)?);
            if round % 2 == 0 {
                without_sidecar(&home, || say(&mut orders, 300).map(drop))?;
            } else {
                let killed = home.kill_sidecar()?;
                say(&mut orders, 300)?;
                home.another_sidecar(killed)?;
            }
            let status = home.ready()?;
            ensure!(pid(&status)? == gateway && status["adopted"] == true, "{status}");
            ensure!(status["restarts"] == 0 && status["last_exit"].is_null(), "{status}");
            home.sidecar_said("gateway state", |line| line["from"] == "Adopted" && line["to"] == "Ready")?;
            orders.give("echo the connection is the same")?;
        }
        let last = say(&mut orders, 1)?;
        lines.extend(home.logged(&last)?);
        ensure!(home.starts()?.len() == 1, "{:?}", home.starts()?);
        numbered(&lines, number)?;
        end(home)
    })
}

#[test]
fn how_an_adopted_gateway_ended_is_known() -> Result<()> {
    in_both_modes("how_an_adopted_gateway_ended_is_known", |mode| {
        let (home, orders, first) = ready(&Household::new(mode)?)?;
        without_sidecar(&home, || Ok(()))?;
        orders.last("exit 3")?;
        let status = home
            .gateway
            .wait_for("the next gateway", |status| status["state"] == "ready" && status["restarts"] == 1)?;
        ensure!(status["last_exit"]["code"] == 3 && status["adopted"].is_null(), "{status}");
        let second = pid(&status)?;
        ensure!(second != first);

        // Ended while nobody looked.
        let orders = home.connect()?;
        without_sidecar(&home, || orders.last("exit 4"))?;
        let status = home
            .gateway
            .wait_for("the third gateway", |status| status["state"] == "ready" && status["restarts"] == 2)?;
        ensure!(status["last_exit"]["code"] == 4, "{status}");
        ensure!(home.starts()?.len() == 3, "{:?}", home.starts()?);
        end(home)
    })
}

#[test]
fn a_killed_adopted_gateway_is_started_again() -> Result<()> {
    let (home, _orders, first) = ready(&Household::new(Mode::Subreaper)?)?;
    without_sidecar(&home, || Ok(()))?;
    home.ready()?;
    kill(nix::unistd::Pid::from_raw(first), Signal::SIGKILL)?;
    let status =
        home.gateway.wait_for("the next gateway", |status| status["state"] == "ready" && status["restarts"] == 1)?;
    ensure!(status["last_exit"]["signal"] == 9 && pid(&status)? != first, "{status}");
    end(home)
}

#[test]
fn an_adopted_gateway_is_stopped_and_stays_so() -> Result<()> {
    let (home, _orders, _) = ready(&Household::new(Mode::Subreaper)?)?;
    without_sidecar(&home, || Ok(()))?;
    let status = home.gateway.order("stop")?.expect(200)?.json()?;
    ensure!(status["state"] == "stopped" && status["last_exit"]["code"] == 0, "{status}");
    ensure!(home.was_terminated() && home.gateways()?.is_empty());
    // An order outlives who took it.
    without_sidecar(&home, || Ok(()))?;
    let status = home.gateway.status()?;
    ensure!(status["state"] == "stopped" && status["last_exit"]["code"] == 0, "{status}");
    ensure!(home.starts()?.len() == 1);
    home.gateway.order("start")?.expect(200)?;
    home.ready()?;
    without_sidecar(&home, || Ok(()))?;
    home.ready()?;
    home.gateway.order("restart")?.expect(200)?;
    let status = home.ready()?;
    ensure!(status["restarts"] == 2 && status["adopted"].is_null(), "{status}");
    end(home)
}

#[test]
fn a_stop_that_was_under_way_goes_on() -> Result<()> {
    let household = Household::new(Mode::Subreaper)?;
    let (home, _orders, _) = ready(&household)?;
    std::fs::write(household.home().join("stubborn"), "")?;
    std::thread::scope(|scope| {
        // Its connection ends with the sidecar.
        let order = scope.spawn(|| home.gateway.order("stop"));
        eventually("the gateway is asked", || Ok(home.was_terminated().then_some(())))?;
        std::fs::remove_file(household.home().join("stubborn"))?;
        std::fs::remove_file(household.home().join("terminated"))?;
        without_sidecar(&home, || Ok(()))?;
        home.gateway.wait_for("stopped", |status| status["state"] == "stopped")?;
        let _ = order.join();
        ensure!(home.was_terminated(), "the second sidecar had to ask again");
        Ok(())
    })?;
    end(home)
}

/// What was asked for came true while there was no sidecar: nothing is started in between, and the end is what was asked for.
#[test]
fn a_stop_that_came_to_its_end_without_a_sidecar_is_one() -> Result<()> {
    for (order, state, starts) in [("stop", "stopped", 1), ("restart", "ready", 2)] {
        let household = Household::new(Mode::Subreaper)?;
        let (home, _orders, gateway) = ready(&household)?;
        std::fs::write(household.home().join("stubborn"), "")?;
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| home.gateway.order(order));
            eventually("the gateway is asked", || Ok(home.was_terminated().then_some(())))?;
            without_sidecar(&home, || {
                std::fs::remove_file(household.home().join("stubborn"))?;
                Ok(kill(nix::unistd::Pid::from_raw(gateway), Signal::SIGTERM)?)
            })?;
            let status = home.gateway.wait_for(state, |status| status["state"] == state)?;
            ensure!(status["last_exit"]["cause"] == "asked" && status["last_exit"]["code"] == 0, "{order}: {status}");
            ensure!(home.starts()?.len() == starts, "{order}: {:?}", home.starts()?);
            let told = home.gateway.log_text(20)?;
            ensure!(told.contains("as asked"), "{order}: {told}");
            let _ = asking.join();
            Ok(())
        })?;
        end_quietly(home)?;
    }
    Ok(())
}

/// Everything ends with code 0, whether there is a gateway or not.
fn end_quietly(mut home: Home) -> Result<()> {
    home.entrypoint.signal(Signal::SIGTERM)?;
    let (code, _, log) = home.entrypoint.finish()?;
    ensure!(code == 0 && home.gateways()?.is_empty(), "{code}: {log}");
    Ok(())
}

/// The end of a gateway is told only after a while when entrypoint is held up. A configuration that came meanwhile was never read by it.
#[test]
fn an_end_that_is_told_late_is_not_the_candidates() -> Result<()> {
    let household = with_token(Household::new(Mode::Subreaper)?)?;
    let (home, _orders, gateway) = ready(&household)?;
    without_sidecar(&home, || Ok(()))?;
    home.ready()?;
    eventually("the configuration is good", || Ok((home.client.get("/config")?["standing"] == "good").then_some(())))?;
    let new = config("new", &json!({}));
    home.entrypoint.signal(Signal::SIGSTOP)?;
    let submitted = (|| {
        kill(nix::unistd::Pid::from_raw(gateway), Signal::SIGKILL)?;
        let octets = [("Content-Type", "application/octet-stream")];
        home.client.call("PUT", "/config?wait=false", &octets, new.as_bytes())?.expect(202)?;
        eventually("it is swapped in", || {
            Ok((std::fs::read_to_string(household.data().join(CONFIG))? == new).then_some(()))
        })
    })();
    home.entrypoint.signal(Signal::SIGCONT)?;
    submitted?;
    let report = eventually("the verdict", || {
        let report = home.client.get("/config")?;
        let last = report["last"]["verdict"].is_string() && report["activity"] == "idle";
        Ok(last.then_some(report))
    })?;
    ensure!(report["last"]["verdict"] == "applied", "{report}");
    ensure!(std::fs::read_to_string(household.data().join(CONFIG))? == new);
    ensure!(home.starts()?.len() == 2, "{:?}", home.starts()?);
    end(home)
}

/// A change that the gateway takes over while it runs costs no restart either when its sidecar dies meanwhile: what the gateway said about it is
/// found.
#[test]
fn a_trial_goes_on_with_the_same_gateway() -> Result<()> {
    const TEST: &str = "a_trial_goes_on_with_the_same_gateway";
    let Ok(failing) = bin("winston-sidecar-failpoints") else {
        skip(TEST, "winston-sidecar-failpoints is missing; ./check test builds it");
        return Ok(());
    };
    for (reload, verdict, marker) in [("", "applied", "new"), ("refuse", "rolled_back", "old")] {
        let household = with_token(Household::new(Mode::Subreaper)?)?;
        // The first sidecar dies as soon as the change is in place.
        let script = format!(
            "#!/bin/sh\nif mkdir \"$WINSTON_DATA_DIR/../once\" 2>&-; then export WINSTON_FAILPOINTS=config-on-trial=kill; fi\nexec {} # winston-sidecar\n",
            failing.display()
        );
        install_script(&script, household.sidecar())?;
        let (home, _orders, gateway) = ready(&household)?;
        let good = || Ok((home.client.get("/config")?["standing"] == "good").then_some(()));
        eventually("the configuration is good", good)?;
        let before = home.sidecar()?;
        let new = config("new", &json!({"reload": reload}));
        let octets = ("Content-Type", "application/octet-stream");
        home.client.call("PUT", "/config?wait=false", &[octets], new.as_bytes())?.expect(202)?;
        home.another_sidecar(before)?;
        let report = eventually("the verdict", || {
            let report = home.client.get("/config")?;
            let last = report["last"]["verdict"].is_string() && report["activity"] == "idle";
            Ok(last.then_some(report))
        })?;
        ensure!(report["last"]["verdict"] == verdict, "{report}");
        ensure!(std::fs::read_to_string(household.data().join(CONFIG))?.contains(marker));
        let status = home.ready()?;
        ensure!(pid(&status)? == gateway && home.starts()?.len() == 1, "{status}");
        end(home)?;
    }
    Ok(())
}

/// With what trials of configurations need.
fn with_token(household: Household) -> Result<Household> {
    let household = household
        .env("OPENCLAW_GATEWAY_TOKEN", "test-gateway-token-0123456789abcdef")
        .env("WINSTON_PROBATION_SECONDS", "1");
    std::fs::write(household.data().join(CONFIG), config("old", &json!({})))?;
    Ok(household)
}

/// A validation that its sidecar left is gone with it, and what that had started goes with the gateway at the latest.
#[test]
fn a_validation_does_not_outlive_its_sidecar() -> Result<()> {
    let household = with_token(Household::new(Mode::Subreaper)?)?;
    let (home, _orders, _) = ready(&household)?;
    let octets = [("Content-Type", "application/octet-stream")];
    let new = config("new", &json!({"validate": "wait"}));
    home.client.call("PUT", "/config?wait=false", &octets, new.as_bytes())?.expect(202)?;
    eventually("the validation and its child", || Ok((validations(&household.data())?.len() == 2).then_some(())))?;
    without_sidecar(&home, || {
        eventually("the validation is gone", || Ok((validations(&household.data())?.len() <= 1).then_some(())))
    })?;
    home.ready()?;
    home.gateway.order("restart")?.expect(200)?;
    let left = validations(&household.data())?;
    ensure!(left.is_empty(), "{left:?}");
    end(home)
}

#[test]
fn the_adopted_state_is_seen() -> Result<()> {
    let household = Household::new(Mode::Subreaper)?;
    let (home, _orders, gateway) = ready(&household)?;
    std::fs::write(household.home().join("answer"), "hang")?;
    without_sidecar(&home, || Ok(()))?;
    let status = home.gateway.wait_for("adopted", |status| status["state"] == "adopted")?;
    ensure!(pid(&status)? == gateway, "{status}");
    // It was ready before; that it does not answer now is no reason to call it starting.
    std::fs::write(household.home().join("answer"), "503")?;
    home.gateway.wait_for("unresponsive", |status| status["state"] == "unresponsive")?;
    std::fs::write(household.home().join("answer"), "200")?;
    home.ready()?;
    end(home)
}

#[test]
fn five_kills_in_a_row() -> Result<()> {
    let (home, mut orders, gateway) = ready(&Household::new(Mode::Subreaper)?)?;
    for _ in 0..5 {
        let killed = home.kill_sidecar()?;
        home.another_sidecar(killed)?;
        orders.give("echo still there")?;
    }
    let status = home.ready()?;
    ensure!(pid(&status)? == gateway && home.starts()?.len() == 1, "{status}");
    end(home)
}

#[test]
fn a_start_that_nobody_noted_is_no_second_gateway() -> Result<()> {
    const TEST: &str = "a_start_that_nobody_noted_is_no_second_gateway";
    let Ok(failing) = bin("winston-sidecar-failpoints") else {
        skip(TEST, "winston-sidecar-failpoints is missing; ./check test builds it");
        return Ok(());
    };
    let household = Household::new(Mode::Subreaper)?;
    // The first sidecar dies after its start of the gateway and before its note; the others do not.
    let script = format!(
        "#!/bin/sh\nif mkdir \"$WINSTON_DATA_DIR/../once\" 2>&-; then export WINSTON_FAILPOINTS=gateway-spawned=kill; fi\nexec {} # winston-sidecar\n",
        failing.display()
    );
    install_script(&script, household.sidecar())?;
    let home = household.start()?;
    let gateway = pid(&home.ready()?)?;
    // A second one beside the first would have found the port taken, and ended, and been started again.
    let status = home.gateway.status()?;
    ensure!(status["last_exit"].is_null() && status["restarts"] == 0, "{status}");
    let starts = home.starts()?;
    ensure!(starts.last() == Some(&gateway.to_string()), "{starts:?} and {gateway}");
    ensure!(home.gateways()?.len() == 1, "{:?}", home.gateways()?);
    home.entrypoint.expect_log("started again")?;
    end(home)
}

#[test]
fn orphans_of_an_adopted_gateway_leave_no_zombie_and_hide_no_end() -> Result<()> {
    let orphans = std::env::var("WINSTON_TEST_ORPHANS").unwrap_or_else(|_| "2000".to_owned());
    let (home, mut orders, _) = ready(&Household::new(Mode::Subreaper)?)?;
    without_sidecar(&home, || Ok(()))?;
    orders.give(&format!("orphans {orphans}"))?;
    let entrypoint = home.entrypoint.entrypoint()?;
    eventually("no zombie is left", || {
        // Zombies have no command line; the entrypoint's own child has the entrypoint's.
        let children = winston_tests::process::children(entrypoint)?.into_iter();
        let left = children.filter(|pid| !Process::of(pid.as_raw()).command.contains("winston-entrypoint")).count();
        if left == 2 { Ok(Some(())) } else { bail!("{left} children") }
    })?;
    orders.last("exit 3")?;
    let status = home.gateway.wait_for("the next gateway", |status| status["restarts"] == 1)?;
    ensure!(status["last_exit"]["code"] == 3, "{status}");
    // Before it is ready, SIGTERM ends it without a word.
    home.ready()?;
    end(home)
}

#[test]
fn a_sidecar_that_does_not_run_is_said_and_the_gateway_goes_on() -> Result<()> {
    in_both_modes("a_sidecar_that_does_not_run_is_said_and_the_gateway_goes_on", |mode| {
        let household = Household::new(mode)?;
        let (home, mut orders, gateway) = ready(&household)?;
        // Not a program; gone; one that refuses its settings.
        std::fs::write(household.sidecar().with_extension("not"), "no program")?;
        std::fs::rename(household.sidecar().with_extension("not"), household.sidecar())?;
        let killed = home.kill_sidecar()?;
        home.entrypoint.expect_log("cannot be started")?;
        std::fs::remove_file(household.sidecar())?;
        home.entrypoint.expect_log("not found")?;
        std::fs::write(household.sidecar().with_extension("not"), "#!/bin/sh\nexit 64\n")?;
        std::fs::set_permissions(household.sidecar().with_extension("not"), PermissionsExt::from_mode(0o755))?;
        std::fs::rename(household.sidecar().with_extension("not"), household.sidecar())?;
        home.entrypoint.expect_log("\"code\":64")?;
        orders.give("echo it goes on")?;
        install(&bin("winston-sidecar")?, household.sidecar())?;
        home.another_sidecar(killed)?;
        ensure!(pid(&home.ready()?)? == gateway);
        end(home)
    })
}

/// While no sidecar can be started nobody reads what the gateway writes: the oldest of it gives way, and the gateway goes on.
#[test]
fn a_gateway_without_a_sidecar_does_not_wait_for_a_reader() -> Result<()> {
    in_both_modes("a_gateway_without_a_sidecar_does_not_wait_for_a_reader", |mode| {
        let household = Household::new(mode)?;
        let (home, mut orders, gateway) = ready(&household)?;
        std::fs::remove_file(household.sidecar())?;
        let killed = home.kill_sidecar()?;
        home.entrypoint.expect_log("not found")?;
        // Far more than the pipe holds.
        orders.ask("flood 4000000 200")?;
        home.entrypoint.expect_log("the oldest of it is thrown away")?;
        orders.give("say the end of it")?;
        install(&bin("winston-sidecar")?, household.sidecar())?;
        home.another_sidecar(killed)?;
        ensure!(pid(&home.ready()?)? == gateway);
        let lines = home.logged("the end of it")?;
        // By whole lines, and the newest are there.
        let flood: Vec<_> = lines.iter().filter(|(_, line)| line != "the end of it").collect();
        ensure!(flood.len() > 900 && flood.iter().all(|(_, line)| line.len() == 199), "{flood:?}");
        end(home)
    })
}

#[test]
fn a_stop_without_a_sidecar_stops_the_gateway_in_order() -> Result<()> {
    in_both_modes("a_stop_without_a_sidecar_stops_the_gateway_in_order", |mode| {
        for (stubborn, grace, expected) in [(false, "600", 0), (true, "1", 137)] {
            let household = Household::new(mode)?.env("WINSTON_STOP_GRACE_SECONDS", grace);
            let (mut home, _orders, _) = ready(&household)?;
            if stubborn {
                std::fs::write(household.home().join("stubborn"), "")?;
            }
            std::fs::remove_file(household.sidecar())?;
            home.kill_sidecar()?;
            home.entrypoint.expect_log("not found")?;
            home.entrypoint.signal(Signal::SIGTERM)?;
            let code = home.entrypoint.wait()?;
            ensure!(code == expected, "{code}: {}", home.entrypoint.stderr());
            ensure!(home.was_terminated(), "it was not asked first");
            ensure!(home.gateways()?.is_empty());
        }
        Ok(())
    })
}

/// The sidecar ends the gateway itself within a short grace, and is not killed in the middle of that.
#[test]
fn a_stop_fits_into_a_short_grace() -> Result<()> {
    let household = Household::new(Mode::Subreaper)?.env("WINSTON_STOP_GRACE_SECONDS", "6");
    let (mut home, _orders, _) = ready(&household)?;
    std::fs::write(household.home().join("stubborn"), "")?;
    home.entrypoint.signal(Signal::SIGTERM)?;
    let code = home.entrypoint.wait()?;
    ensure!(code == 0 && home.was_terminated(), "{code}: {}", home.entrypoint.stderr());
    ensure!(home.gateways()?.is_empty());
    Ok(())
}

#[test]
fn a_sidecar_that_dies_during_a_stop_leaves_it_to_entrypoint() -> Result<()> {
    let household = Household::new(Mode::Subreaper)?;
    let (mut home, _orders, _) = ready(&household)?;
    std::fs::write(household.home().join("stubborn"), "")?;
    home.entrypoint.signal(Signal::SIGTERM)?;
    eventually("the sidecar asks", || Ok(home.was_terminated().then_some(())))?;
    std::fs::remove_file(household.home().join("stubborn"))?;
    std::fs::remove_file(household.home().join("terminated"))?;
    home.kill_sidecar()?;
    ensure!(home.entrypoint.wait()? == 137, "{}", home.entrypoint.stderr());
    ensure!(home.was_terminated(), "entrypoint asks again");
    ensure!(home.gateways()?.is_empty());
    Ok(())
}

#[test]
fn an_upgrade_replaces_the_sidecar_and_nothing_else() -> Result<()> {
    in_both_modes("an_upgrade_replaces_the_sidecar_and_nothing_else", |mode| {
        let household = Household::new(mode)?;
        let (home, mut orders, gateway) = ready(&household)?;
        let refused = Arc::new(AtomicBool::new(false));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Callers may have to wait, but somebody always listens.
            let calling = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if std::net::TcpStream::connect(home.client.address()).is_err() {
                        refused.store(true, Ordering::Relaxed);
                    }
                }
            });
            let upgraded = upgrades(&household, &home, &mut orders, gateway);
            over.store(true, Ordering::Relaxed);
            let _ = calling.join();
            upgraded
        })?;
        ensure!(!refused.load(Ordering::Relaxed), "a connection was refused");
        end(home)
    })
}

fn upgrades(household: &Household, home: &Home, orders: &mut Orders, gateway: i32) -> Result<()> {
    for by in ["POST", "SIGHUP", "POST"] {
        let before = home.sidecar()?;
        install(&bin("winston-sidecar")?, household.sidecar())?;
        orders.give(&format!("say before {by}"))?;
        if by == "POST" {
            let answer = home.client.call("POST", "/upgrade", &[], b"")?.expect(202)?.json()?;
            ensure!(answer["from"] == answer["to"] && answer["to"].is_string(), "{answer}");
        } else {
            home.entrypoint.signal(Signal::SIGHUP)?;
        }
        home.entrypoint.expect_log("makes room")?;
        home.another_sidecar(before)?;
        let status = home.ready()?;
        ensure!(pid(&status)? == gateway && status["adopted"] == true && status["restarts"] == 0, "{status}");
        orders.give("echo the connection is the same")?;
    }
    // What does not run is not let in, and who may not ask is not asked.
    let before = home.sidecar()?;
    for wrong in ["#!/bin/sh\nexit 0\n", "no program"] {
        std::fs::write(household.sidecar().with_extension("not"), wrong)?;
        std::fs::set_permissions(household.sidecar().with_extension("not"), PermissionsExt::from_mode(0o755))?;
        std::fs::rename(household.sidecar().with_extension("not"), household.sidecar())?;
        let answer = home.client.call("POST", "/upgrade", &[], b"")?.expect(409)?.json()?;
        ensure!(answer["code"] == "unfit_program", "{answer}");
    }
    home.entrypoint.signal(Signal::SIGHUP)?;
    home.sidecar_said("no upgrade", |_| true)?;
    ensure!(home.sidecar()? == before);
    install(&bin("winston-sidecar")?, household.sidecar())?;
    winston_tests::http::request(home.client.address(), "POST", "/upgrade", &[], b"")?.expect(401)?;
    home.client.call("GET", "/upgrade", &[], b"")?.expect(405)?;
    ensure!(home.sidecar()? == before);
    Ok(())
}

/// What a sidecar has taken out of the pipes is in the log files before the next one reads them, also when the disk is slow.
#[test]
fn an_upgrade_loses_no_line_on_a_slow_disk() -> Result<()> {
    const TEST: &str = "an_upgrade_loses_no_line_on_a_slow_disk";
    let Ok(failing) = bin("winston-sidecar-failpoints") else {
        skip(TEST, "winston-sidecar-failpoints is missing; ./check test builds it");
        return Ok(());
    };
    let household = Household::new(Mode::Subreaper)?.env("WINSTON_FAILPOINTS", "gateway-log.write=slow");
    install(&failing, household.sidecar())?;
    let (home, mut orders, _) = ready(&household)?;
    let (before, over) = (home.sidecar()?, AtomicBool::new(false));
    let last = std::thread::scope(|scope| -> Result<usize> {
        let saying = scope.spawn(|| -> Result<usize> {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) && number < 800 {
                number += 1;
                orders.give(&format!("say line {number}"))?;
                std::thread::sleep(std::time::Duration::from_millis(4));
            }
            Ok(number)
        });
        let upgraded = (|| {
            home.client.call("POST", "/upgrade", &[], b"")?.expect(202)?;
            home.another_sidecar(before)
        })();
        over.store(true, Ordering::Relaxed);
        upgraded?;
        saying.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    numbered(&home.logged(&format!("line {last}"))?.into_iter().collect(), last)?;
    end(home)
}

#[test]
fn alone_there_is_nobody_to_take_over() -> Result<()> {
    let sidecar = Setup::new()?.start()?;
    let answer = sidecar.call("POST", "/upgrade", &[], b"")?.expect(409)?.json()?;
    ensure!(answer["code"] == "no_entrypoint", "{answer}");
    // The end of its terminal is the end of it.
    let mut sidecar = sidecar;
    kill(nix::unistd::Pid::from_raw(i32::try_from(sidecar.pid())?), Signal::SIGHUP)?;
    let status = eventually("it ends", || sidecar.ended())?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

#[test]
fn descriptors_that_are_not_entrypoints_are_refused() -> Result<()> {
    for wrong in ["3", "stdout=3,stdout_write=4,stderr=5,stderr_write=6,reaped=7,record=8,up=9"] {
        let output = Setup::new()?.env("WINSTON_HANDOVER_FDS", wrong).command()?.output()?;
        ensure!(output.status.code() == Some(64), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("WINSTON_HANDOVER_FDS") && said.contains("unset it"), "{said}");
    }
    Ok(())
}

/// Whoever took the public port while there is no sidecar would get the operators' passwords, and the next sidecar would not start.
#[test]
fn the_public_port_is_never_free() -> Result<()> {
    let front = winston_tests::http::free_address()?;
    let household = Household::new(Mode::Subreaper)?.env("WINSTON_FRONT_LISTEN", &front.to_string());
    let (home, _orders, _) = ready(&household)?;
    without_sidecar(&home, || {
        let bound = std::net::TcpListener::bind(front);
        ensure!(bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse));
        Ok(())
    })?;
    winston_tests::http::request(front, "GET", "/healthz", &[], b"")?.expect(200)?;
    end(home)
}

/// The gateway, and with it the agent, gets its two streams and nothing else of what is handed on.
#[test]
fn the_gateway_inherits_nothing_of_the_handover() -> Result<()> {
    let (home, _orders, gateway) = ready(&Household::new(Mode::Subreaper)?)?;
    without_sidecar(&home, || Ok(()))?;
    let entrypoint = home.entrypoint.entrypoint()?;
    if std::fs::read_dir(format!("/proc/{entrypoint}/fd")).is_err() {
        skip("the_gateway_inherits_nothing_of_the_handover", "only root sees the entrypoint's descriptors");
        return end(home);
    }
    for descriptor in std::fs::read_dir(format!("/proc/{gateway}/fd"))? {
        let descriptor = descriptor?;
        let target = std::fs::read_link(descriptor.path())?.to_string_lossy().into_owned();
        ensure!(!target.contains("memfd"), "{target}");
        let number: i32 = descriptor.file_name().to_string_lossy().parse()?;
        let foreign = target.starts_with("pipe:") && number > 2;
        let inode = target.clone();
        let ours = || -> Result<bool> {
            let mut held = std::fs::read_dir(format!("/proc/{entrypoint}/fd"))?.flatten();
            Ok(held.any(|held| std::fs::read_link(held.path()).is_ok_and(|found| found.to_string_lossy() == inode)))
        };
        ensure!(!foreign || !ours()?, "descriptor {number} is {target}");
    }
    let environment = std::fs::read(format!("/proc/{gateway}/environ"))?;
    ensure!(!String::from_utf8_lossy(&environment).contains("WINSTON_"));
    end(home)
}
