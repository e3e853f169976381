//! Whose listener answers on the gateway's port.
//!
//! A 200 from the port says nothing about our process when another one holds the port: the gateway would be called
//! ready, and end seconds later because it could not listen.

use std::{fs, io};

use rustix::io::Errno;

/// Whether a process that is none of `ours` listens on the port. `false` if that cannot be told.
///
/// Whose descriptors a process of another user has, only `CAP_SYS_PTRACE` may know, which containers do not have. Then it counts whose the
/// listener is: `user` is the one that `ours` run as, where that is another one than we.
pub(super) fn held_by_another(port: u16, ours: &[i32], user: Option<u32>) -> bool {
    let listeners = all_listeners(port);
    let mut closed = false;
    for &pid in ours {
        match sockets(pid) {
            Ok(sockets) if listeners.iter().any(|listener| sockets.contains(&listener.inode)) => return false,
            Ok(_) => {}
            Err(_) => closed = true,
        }
    }
    let of_user = || user.is_some_and(|user| listeners.iter().any(|listener| listener.uid == user));
    if closed {
        user.is_some() && !listeners.is_empty() && !of_user()
    } else {
        !ours.is_empty() && !listeners.is_empty()
    }
}

/// Whether anybody listens on the port.
pub(super) fn is_taken(port: u16) -> bool {
    !all_listeners(port).is_empty()
}

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    inode: u64,
    /// Who opened it.
    uid: u32,
}

fn all_listeners(port: u16) -> Vec<Listener> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listeners(&table, port))
        .collect()
}

/// The sockets that listen on a port, from a table as in proc_net_tcp(5).
fn listeners(table: &str, port: u16) -> Vec<Listener> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
        let (uid, inode) = (fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?);
        listens.then_some(Listener { inode, uid })
    };
    table.lines().filter_map(listener).collect()
}

/// The inodes of the sockets that a process has open; none of one that is gone. An error when we may not look.
fn sockets(pid: i32) -> io::Result<Vec<u64>> {
    let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        descriptors => descriptors?,
    };
    let mut sockets = Vec::new();
    for descriptor in descriptors {
        let target = match descriptor.and_then(|descriptor| fs::read_link(descriptor.path())) {
            Err(error) if is_gone(&error) => continue,
            target => target?,
        };
        let inode: Option<u64> =
            target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        sockets.extend(inode);
    }
    Ok(sockets)
}

/// A descriptor that was closed, or a process that has ended, meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    #[test]
    fn only_listeners_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4965 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1111 1 0 100 0 0 10 0
   1: 0100007F:4965 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2222 1 0 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3333 1 0 100 0 0 10 0
   3: torn";
        let table = table.replace(" 0        0 3333", " 1000     0 3333");
        assert_eq!(listeners(&table, 18_789), [Listener { inode: 1111, uid: 0 }]);
        assert_eq!(listeners(&table, 22), [Listener { inode: 3333, uid: 1000 }]);
        assert_eq!(listeners("", 22), []);
    }

    #[test]
    fn our_own_listener_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let own = std::process::id().cast_signed();
        assert!(!sockets(own).expect("our own").is_empty());
        assert!(!held_by_another(port, &[own], None));
        // Nobody to look into: it cannot be told.
        assert!(!held_by_another(port, &[], None));
        assert!(is_taken(port));
        drop(listener);
        assert!(!held_by_another(port, &[own], None) && !is_taken(port));
    }

    #[test]
    fn the_listener_of_a_stranger_is_not_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let _other = TcpListener::bind("127.0.0.1:0").expect("a socket that is ours");
        let mut stranger = Command::new("sleep")
            .arg("1000")
            .stdin(OwnedFd::from(listener))
            .spawn()
            .expect("a stranger that holds the listener");
        let own = std::process::id().cast_signed();
        let theirs = stranger.id().cast_signed();
        let seen = (held_by_another(port, &[own], None), held_by_another(port, &[own, theirs], None));
        stranger.kill().expect("killed");
        stranger.wait().expect("reaped");
        assert_eq!(seen, (true, false));
    }
}
