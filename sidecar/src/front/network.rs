//! Networks in CIDR notation, and the one form of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// As 128 bits; IPv4 in its mapped form, so that both kinds compare the same way.
    bits: u128,
    prefix: u32,
}

/// Some networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Networks(Vec<Network>);

impl Networks {
    /// Parses networks or single addresses separated by commas; the texts that are neither on failure.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let (mut networks, mut bad) = (Vec::new(), Vec::new());
        for part in parts {
            match part.parse() {
                Ok(network) => networks.push(network),
                Err(NotANetwork) => bad.push(part.to_owned()),
            }
        }
        if bad.is_empty() { Ok(Self(networks)) } else { Err(bad) }
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let bits = to_bits(address);
        self.0.iter().any(|network| network.has(bits))
    }
}

/// A text that names no network.
#[derive(Debug)]
pub(crate) struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(|_| NotANetwork)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let (unused, longest) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return Err(NotANetwork);
        }
        Ok(Self { bits: to_bits(address), prefix: unused + prefix })
    }
}

impl Network {
    fn has(&self, bits: u128) -> bool {
        // A shift by all bits is none in Rust.
        let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
        bits & mask == self.bits & mask
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The same address in its usual form: a dual-stack listener reports IPv4 peers in the mapped one.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What counts as one caller: an IPv4 address, or the /64 that one IPv6 subscriber has for himself.
pub(super) fn subscriber(address: IpAddr) -> IpAddr {
    match plain(address) {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Stands for a caller on this machine. The gateway takes no loopback address from a proxy, and without forwarding
/// headers it would take the request for one of the machine's own. From the block for documentation (RFC 5737), which is nobody's.
pub(super) const SOMEBODY_HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn networks_contain_what_they_should() {
        let networks = Networks::parse(" 127.0.0.0/8, ::1,100.64.0.0/10,fd12::/16, 10.1.2.3").expect("networks");
        for inside in
            ["127.0.0.1", "127.255.0.1", "::ffff:127.0.0.1", "::1", "100.64.0.1", "100.127.255.255", "fd12:1::2"]
        {
            assert!(networks.contain(address(inside)), "{inside}");
        }
        for outside in
            ["126.0.0.1", "128.0.0.1", "::2", "100.128.0.0", "100.63.255.255", "fd13::1", "10.1.2.4", "::127.0.0.1"]
        {
            assert!(!networks.contain(address(outside)), "{outside}");
        }
        assert!(Networks::parse("0.0.0.0/0").expect("all of IPv4").contain(address("8.8.8.8")));
        assert!(!Networks::parse("0.0.0.0/0").expect("all of IPv4").contain(address("2000::1")));
        assert!(Networks::parse("::/0").expect("all").contain(address("8.8.8.8")));
    }

    #[test]
    fn what_is_no_network_is_named() {
        let bad = Networks::parse("10.0.0.0/33,::/129,example,10.0.0.0/,10.0.0/8,1.2.3.4").expect_err("bad ones");
        assert_eq!(bad, ["10.0.0.0/33", "::/129", "example", "10.0.0.0/", "10.0.0/8"]);
    }

    #[test]
    fn one_subscriber_is_one_caller() {
        assert_eq!(subscriber(address("2001:db8:1:2:3::4")), subscriber(address("2001:db8:1:2::")));
        assert_ne!(subscriber(address("2001:db8:1:2::")), subscriber(address("2001:db8:1:3::")));
        assert_eq!(subscriber(address("::ffff:192.0.2.7")), address("192.0.2.7"));
    }
}
