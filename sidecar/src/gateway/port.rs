//! Whose listener answers on the gateway's port.
//!
//! A 200 from the port says nothing about our process when another one holds the port: the gateway would be called
//! ready, and end seconds later because it could not listen.

use std::fs;

/// Whether a process that is none of `ours` listens on the port. `false` if that cannot be told.
pub(super) fn held_by_another(port: u16, ours: &[i32]) -> bool {
    let listeners = all_listeners(port);
    let sockets: Vec<u64> = ours.iter().flat_map(|&pid| sockets(pid)).collect();
    // A process without a single socket is one that we may not look into.
    !listeners.is_empty() && !sockets.is_empty() && listeners.iter().all(|inode| !sockets.contains(inode))
}

/// Whether anybody listens on the port.
pub(super) fn is_taken(port: u16) -> bool {
    !all_listeners(port).is_empty()
}

fn all_listeners(port: u16) -> Vec<u64> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listeners(&table, port))
        .collect()
}

/// The inodes of the sockets that listen on a port, from a table as in proc_net_tcp(5).
fn listeners(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
        fields.get(9)?.parse().ok().filter(|_| listens)
    };
    table.lines().filter_map(inode).collect()
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: i32) -> Vec<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?;
            target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
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
        assert_eq!(listeners(table, 18_789), [1111]);
        assert_eq!(listeners(table, 22), [3333]);
        assert_eq!(listeners("", 22), [0u64; 0]);
    }

    #[test]
    fn our_own_listener_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let own = std::process::id().cast_signed();
        assert!(!sockets(own).is_empty());
        assert!(!held_by_another(port, &[own]));
        // Nobody to look into: it cannot be told.
        assert!(!held_by_another(port, &[]));
        assert!(is_taken(port));
        drop(listener);
        assert!(!held_by_another(port, &[own]) && !is_taken(port));
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
        let seen = (held_by_another(port, &[own]), held_by_another(port, &[own, theirs]));
        stranger.kill().expect("killed");
        stranger.wait().expect("reaped");
        assert_eq!(seen, (true, false));
    }
}
