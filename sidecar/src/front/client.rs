//! Who a request comes from and how it got here.
//!
//! What a request says about that itself is believed only when the connection comes from a trusted proxy
//! (`WINSTON_TRUSTED_PROXIES`), and of a list only the part that such proxies have written.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use super::network::{self, Networks};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const REAL_IP: &str = "x-real-ip";

/// Entries of a list of addresses that are looked at.
const MOST_HOPS: usize = 32;

/// Where forwarding headers are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// Proxies in front of us.
    pub(crate) proxies: Networks,
    /// Their `X-Real-IP` counts before their `X-Forwarded-For`: Railway's edge sets it itself, and lists its own hops in the other.
    pub(crate) real_ip: bool,
}

/// What is known about the other end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The address that made the request, as far as it is known.
    pub(super) address: IpAddr,
    /// `https` when TLS ended at a proxy that we trust.
    pub(super) secure: bool,
    /// Host and port under which the caller reached us.
    pub(super) host: HeaderValue,
}

/// Why a request has no usable host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadHost;

impl Caller {
    /// `peer` is the other end of the connection.
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, trust: &Trust) -> Result<Self, BadHost> {
        let peer = network::plain(peer);
        let host = only(headers, HOST.as_str()).filter(|host| is_host(host)).ok_or(BadHost)?;
        if !trust.proxies.contain(peer) {
            return Ok(Self { address: peer, secure: false, host: host.clone() });
        }
        let real_ip = || only(headers, REAL_IP).and_then(|value| parse_address(value.to_str().ok()?));
        let address =
            if trust.real_ip { real_ip() } else { None }.or_else(|| listed(headers, &trust.proxies)).unwrap_or(peer);
        let secure = last(headers, FORWARDED_PROTO).is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        let forwarded = only(headers, FORWARDED_HOST).filter(|host| is_host(host));
        Ok(Self { address, secure, host: forwarded.unwrap_or(host).clone() })
    }

    /// The address as it is told to the gateway: never a loopback one.
    pub(super) fn told(&self) -> IpAddr {
        if self.address.is_loopback() || self.address.is_unspecified() { network::SOMEBODY_HERE } else { self.address }
    }

    pub(super) const fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// The last address in the list that no trusted proxy has: whoever wrote it down is one of them.
fn listed(headers: &HeaderMap, proxies: &Networks) -> Option<IpAddr> {
    let mut first_hop = None;
    let lines: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::to_str).collect::<Result<_, _>>().ok()?;
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MOST_HOPS) {
        // What is left of an entry that is no address was written by nobody knows whom.
        let Some(address) = parse_address(entry) else { break };
        first_hop = Some(address);
        if !proxies.contain(address) {
            break;
        }
    }
    first_hop
}

/// An address, with a port or in brackets if need be.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.strip_prefix('[')?.split_once(']').map(|(inside, _)| inside);
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse().ok().or_else(with_port).or_else(|| bare()?.parse().ok())?;
    Some(network::plain(address))
}

/// The value of a header that must appear at most once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').next().map(str::trim)
}

fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    // An authority may name a user; a host never does.
    !bytes.is_empty() && !bytes.contains(&b'@') && Authority::try_from(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn caller(peer: &str, rows: &[(&'static str, &str)], real_ip: bool) -> Caller {
        let trust = Trust { proxies: Networks::parse("127.0.0.0/8,100.64.0.0/10").expect("networks"), real_ip };
        let mut rows = rows.to_vec();
        rows.insert(0, ("host", "inner:8080"));
        Caller::of(peer.parse().expect("a peer"), &headers(&rows), &trust).expect("a host")
    }

    #[test]
    fn addresses_are_believed_from_trusted_proxies_only() {
        // Peer, X-Forwarded-For, X-Real-IP, whether that counts first, and whom it comes from.
        for (peer, listed, real, first, wanted) in [
            ("203.0.113.9", &["198.51.100.1"][..], Some("198.51.100.2"), true, "203.0.113.9"),
            ("::ffff:203.0.113.9", &[], None, false, "203.0.113.9"),
            ("100.64.0.3", &["198.51.100.1"], None, false, "198.51.100.1"),
            ("100.64.0.3", &["198.51.100.1"], Some("198.51.100.2"), true, "198.51.100.2"),
            ("100.64.0.3", &["198.51.100.1"], Some("198.51.100.2"), false, "198.51.100.1"),
            // What the client wrote itself stands left of what the proxies have added.
            ("100.64.0.3", &["6.6.6.6, 198.51.100.1, 100.64.0.9"], None, false, "198.51.100.1"),
            ("100.64.0.3", &["6.6.6.6", "198.51.100.1"], None, false, "198.51.100.1"),
            ("100.64.0.3", &["127.0.0.1, 198.51.100.1"], None, false, "198.51.100.1"),
            ("100.64.0.3", &["nonsense, 100.64.0.9"], None, false, "100.64.0.9"),
            ("100.64.0.3", &["nonsense"], None, false, "100.64.0.3"),
            ("100.64.0.3", &["198.51.100.1:4711"], None, false, "198.51.100.1"),
            ("100.64.0.3", &["[2001:db8::1]:4711"], None, false, "2001:db8::1"),
            ("100.64.0.3", &["\"[2001:db8::1]\""], None, false, "100.64.0.3"),
            ("127.0.0.1", &[], Some("not an address"), true, "127.0.0.1"),
        ] {
            let mut rows: Vec<_> = listed.iter().map(|line| ("x-forwarded-for", *line)).collect();
            rows.extend(real.map(|real| ("x-real-ip", real)));
            assert_eq!(caller(peer, &rows, first).address, wanted.parse::<IpAddr>().expect(wanted), "{peer} {rows:?}");
        }
    }

    #[test]
    fn two_real_addresses_are_none() {
        let rows = [("x-real-ip", "198.51.100.2"), ("x-real-ip", "198.51.100.3"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(caller("100.64.0.3", &rows, true).address.to_string(), "198.51.100.1");
    }

    #[test]
    fn scheme_and_host_come_from_trusted_proxies_only() {
        let rows = [("x-forwarded-proto", "https"), ("x-forwarded-host", "tenant.example.com")];
        let trusted = caller("100.64.0.3", &rows, false);
        assert_eq!((trusted.scheme(), trusted.host.to_str().expect("text")), ("https", "tenant.example.com"));
        let untrusted = caller("203.0.113.9", &rows, false);
        assert_eq!((untrusted.scheme(), untrusted.host.to_str().expect("text")), ("http", "inner:8080"));
        let appended = caller("100.64.0.3", &[("x-forwarded-proto", "https, http")], false);
        assert_eq!(appended.scheme(), "http", "the last proxy saw no TLS");
        for odd in ["a b", "user@host", "a/b", ""] {
            assert_eq!(caller("100.64.0.3", &[("x-forwarded-host", odd)], false).host, "inner:8080", "{odd}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let of = |rows: &[(&'static str, &str)]| Caller::of(network::SOMEBODY_HERE, &headers(rows), &Trust::default());
        assert!(of(&[("host", "[::1]:80")]).is_ok());
        for rows in [&[][..], &[("host", "")], &[("host", "a b")], &[("host", "a"), ("host", "a")], &[("host", "u@a")]]
        {
            assert_eq!(of(rows), Err(BadHost), "{rows:?}");
        }
    }

    #[test]
    fn the_gateway_is_never_told_of_loopback() {
        assert_eq!(caller("127.0.0.1", &[], false).told(), network::SOMEBODY_HERE);
        assert_eq!(caller("::1", &[("x-forwarded-for", "127.0.0.9")], false).told(), network::SOMEBODY_HERE);
        assert_eq!(caller("203.0.113.9", &[], false).told().to_string(), "203.0.113.9");
    }
}
