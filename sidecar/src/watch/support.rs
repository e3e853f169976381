//! Whether inotify sees everything on a file system.

use rustix::fs::StatFs;

/// File systems on which others change files without this kernel's doing, or that do not tell it. `f_type` as in `statfs(2)` and `linux/magic.h`.
const WITHOUT_EVENTS: &[(u32, &str)] = &[
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0000_564c, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x4750_4653, "GPFS"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0xbacb_acbc, "VMware shared folders"),
    (0x0bee_f000, "Orange file system"),
];

/// Name of a file system on which inotify does not see every change; `None` where it does.
pub(super) fn without_events(stat: &StatFs) -> Option<&'static str> {
    // The type is signed or unsigned, 32 or 64 bits wide, by architecture; the numbers have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let kind = stat.f_type as u32;
    by_type(kind)
}

fn by_type(kind: u32) -> Option<&'static str> {
    WITHOUT_EVENTS.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_polled_and_local_ones_watched() {
        assert_eq!(by_type(0x6969), Some("NFS"));
        assert_eq!(by_type(0x6573_5546), Some("FUSE"));
        // ext4, xfs, btrfs, tmpfs, overlay, zfs, f2fs
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010] {
            assert_eq!(by_type(local), None, "{local:x}");
        }
    }
}
