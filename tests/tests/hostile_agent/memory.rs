//! Sidecar and entrypoint as processes: what is in them, and what can be done to them.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{Pid, getpgid};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, pidfd_send_signal, prlimit};

use crate::attempts::{Attempt, Class, Outcome, Plan, any, outcome};

const M: Class = Class::Memory;
const S: Class = Class::Signals;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(M, "read the environment", |plan| proc_file(plan, "environ")),
    Attempt::new(M, "read the map of the memory", |plan| proc_file(plan, "maps")),
    Attempt::new(M, "read the memory through /proc", memory),
    Attempt::new(M, "write the memory through /proc", |plan| opened(plan, "mem")),
    Attempt::new(M, "read where the random bytes of the stack protector are", |plan| proc_file(plan, "auxv")),
    Attempt::new(M, "read which physical pages the memory has", |plan| proc_file(plan, "pagemap")),
    Attempt::new(M, "read the sizes of the memory's parts", |plan| proc_file(plan, "smaps")),
    Attempt::new(M, "read how much they have read and written", |plan| proc_file(plan, "io")),
    Attempt::new(M, "list the descriptors", |plan| listed(plan, "fd")),
    Attempt::new(M, "open a descriptor again through /proc", descriptors_opened),
    Attempt::new(M, "follow the links to root, directory and program", links),
    Attempt::new(M, "enter the namespaces", namespaces),
    Attempt::new(M, "attach as a debugger", debugger),
    Attempt::new(M, "read the memory with process_vm_readv", vm_read),
    Attempt::new(M, "write the memory with process_vm_writev", vm_write),
    Attempt::new(M, "take a descriptor with pidfd_getfd", descriptor_taken),
];

pub(crate) const SIGNALS: &[Attempt] = &[
    Attempt::new(S, "ask whether a signal may be sent", |plan| signalled(plan, &[None])),
    Attempt::new(S, "send SIGUSR1, SIGSTOP, SIGTERM, SIGABRT, SIGKILL", |plan| {
        let all = [Signal::SIGUSR1, Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGABRT, Signal::SIGKILL].map(Some);
        signalled(plan, if plan.gentle { &[None] } else { &all })
    }),
    Attempt::new(S, "signal the process groups", |plan| {
        let signal = (!plan.gentle).then_some(Signal::SIGTERM);
        // Group 0 is one outside of the namespace; as an argument it would be our own.
        let groups = pids(plan).filter_map(|pid| getpgid(Some(pid)).ok()).filter(|group| group.as_raw() > 1);
        any(groups.map(|group| outcome(killpg(group, signal))))
    }),
    Attempt::new(S, "send a signal through a pidfd", |plan| {
        any(rustix_pids(plan).map(|pid| {
            let fd = pidfd_open(pid, PidfdFlags::empty());
            let signal = if plan.gentle { rustix::process::Signal::CONT } else { rustix::process::Signal::HUP };
            outcome(fd.and_then(|fd| pidfd_send_signal(&fd, signal)))
        }))
    }),
    Attempt::new(S, "take their files away by a limit", |plan| {
        let limit = rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) };
        any(rustix_pids(plan).map(|pid| outcome(prlimit(Some(pid), rustix::process::Resource::Nofile, limit))))
    }),
    Attempt::new(S, "move them to one processor", |plan| {
        any(pids(plan).map(|pid| {
            let mut set = CpuSet::new();
            outcome(set.set(0).and_then(|()| sched_setaffinity(pid, &set)))
        }))
    }),
    Attempt::new(S, "make the kernel prefer them when memory is short", |plan| opened(plan, "oom_score_adj")),
    Attempt::new(S, "have more of them written into core dumps", |plan| opened(plan, "coredump_filter")),
];

fn pids(plan: &Plan) -> impl Iterator<Item = Pid> {
    plan.victims.iter().copied().map(Pid::from_raw)
}

fn rustix_pids(plan: &Plan) -> impl Iterator<Item = rustix::process::Pid> {
    plan.victims.iter().copied().filter_map(rustix::process::Pid::from_raw)
}

fn proc_paths(plan: &Plan, name: &str) -> Vec<PathBuf> {
    plan.victims.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/{name}"))).collect()
}

fn proc_file(plan: &Plan, name: &str) -> Outcome {
    any(proc_paths(plan, name).into_iter().map(|path| {
        let mut some = [0; 64];
        let read = File::open(path).and_then(|mut file| file.read(&mut some));
        outcome(read).and_then(|count| if count == "0" { Err("empty".to_owned()) } else { Ok(count) })
    }))
}

fn opened(plan: &Plan, name: &str) -> Outcome {
    any(proc_paths(plan, name).into_iter().map(|path| outcome(OpenOptions::new().write(true).open(path))))
}

fn listed(plan: &Plan, name: &str) -> Outcome {
    any(proc_paths(plan, name).into_iter().map(|path| outcome(std::fs::read_dir(path).map(Iterator::count))))
}

fn memory(plan: &Plan) -> Outcome {
    any(plan.victims.iter().map(|pid| {
        let read = || {
            let mut file = File::open(format!("/proc/{pid}/mem"))?;
            let mut some = [0; 16];
            file.seek(SeekFrom::Start(mapped(*pid)?))?;
            file.read_exact(&mut some)?;
            Ok::<_, std::io::Error>(some)
        };
        outcome(read())
    }))
}

/// An address in the memory of a process; ours where theirs is not told, which the system calls cannot know.
fn mapped(pid: i32) -> std::io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    let maps = maps.or_else(|_| std::fs::read_to_string("/proc/self/maps"))?;
    let start = maps.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
    start.ok_or_else(|| std::io::Error::other("no map"))
}

fn descriptors_opened(plan: &Plan) -> Outcome {
    let numbered = plan.victims.iter().flat_map(|pid| (0..32).map(move |fd| format!("/proc/{pid}/fd/{fd}")));
    any(numbered.map(|path| outcome(std::fs::read_link(path))))
}

fn links(plan: &Plan) -> Outcome {
    any(["root", "cwd", "exe"]
        .into_iter()
        .flat_map(|name| proc_paths(plan, name))
        .map(|path| outcome(std::fs::read_link(path))))
}

fn namespaces(plan: &Plan) -> Outcome {
    any(["ns/mnt", "ns/pid", "ns/net"]
        .into_iter()
        .flat_map(|name| proc_paths(plan, name))
        .map(|path| outcome(File::open(path))))
}

/// By a thread that ends at once, which lets go again.
fn debugger(plan: &Plan) -> Outcome {
    any(pids(plan).map(|pid| {
        let thread = std::thread::spawn(move || ptrace::seize(pid, ptrace::Options::empty()));
        outcome(thread.join().unwrap_or(Err(nix::errno::Errno::EIO)))
    }))
}

fn vm_read(plan: &Plan) -> Outcome {
    any(pids(plan).map(|pid| {
        let mut some = [0; 16];
        let remote = [RemoteIoVec { base: base(pid), len: some.len() }];
        outcome(process_vm_readv(pid, &mut [IoSliceMut::new(&mut some)], &remote))
    }))
}

/// Nothing is written: permission is asked before the address is looked at.
fn vm_write(plan: &Plan) -> Outcome {
    any(pids(plan).map(|pid| {
        let remote = [RemoteIoVec { base: 8, len: 1 }];
        match process_vm_writev(pid, &[IoSlice::new(b"x")], &remote) {
            Ok(count) => Ok(count.to_string()),
            Err(nix::errno::Errno::EFAULT) => Ok("only the address was wrong".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }))
}

fn base(pid: Pid) -> usize {
    mapped(pid.as_raw()).ok().and_then(|address| usize::try_from(address).ok()).unwrap_or(8)
}

fn descriptor_taken(plan: &Plan) -> Outcome {
    any(rustix_pids(plan).flat_map(|pid| {
        (0..32).map(move |number| {
            let fd = pidfd_open(pid, PidfdFlags::empty());
            outcome(fd.and_then(|fd| pidfd_getfd(&fd, number, PidfdGetfdFlags::empty())))
        })
    }))
}

fn signalled(plan: &Plan, signals: &[Option<Signal>]) -> Outcome {
    any(signals.iter().flat_map(|signal| pids(plan).map(|pid| outcome(kill(pid, *signal)))))
}
