//! The front door's part of the settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;
use winston_wire::GATEWAY_PORT;
use winston_wire::env::{Reader, Secret};

use super::client::Trust;
use super::network::Networks;
use crate::settings::GatewaySettings;

/// Whose forwarding headers are believed when nothing is set: those of this machine, and of where Railway's edge comes from.
const LOOPBACK: &str = "127.0.0.0/8,::1";
const RAILWAY: &str = "100.64.0.0/10";

/// The front door's part of the settings.
pub(crate) struct FrontSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) trust: Trust,
    pub(crate) password: Option<Secret>,
    /// Scheme, host and port under which people reach us, if it is known.
    pub(crate) origin: Option<String>,
    pub(crate) max_connections: usize,
    pub(crate) max_per_address: usize,
    pub(crate) gateway_port: u16,
    pub(crate) gateway_token: Option<Secret>,
    /// Port of the file API.
    pub(crate) sidecar_port: u16,
    /// The `openclaw` program and where it is looked up.
    pub(crate) program: PathBuf,
    pub(crate) path: String,
}

impl FrontSettings {
    /// Reads them; `None` without a front door. `file_api` is where the file API listens.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        file_api: SocketAddr,
        gateway: Option<&GatewaySettings>,
    ) -> Option<Self> {
        let port: Option<u16> = reader.parsed("PORT", "a port number");
        let set = reader.text("WINSTON_FRONT_LISTEN");
        let listen: Option<SocketAddr> = match set.as_deref() {
            Some("off") => None,
            Some(_) => reader.parsed("WINSTON_FRONT_LISTEN", "`off`, or an address and a port, for example [::]:8080"),
            // A container whose file API is the public port has no front door.
            None => port.filter(|port| *port != file_api.port()).map(|port| SocketAddr::from(([0u16; 8], port))),
        };
        if listen.is_some_and(|listen| listen.port() != 0 && listen.port() == file_api.port()) {
            reader.mistake("WINSTON_FRONT_LISTEN must have another port than WINSTON_SIDECAR_LISTEN");
        }
        let on_railway = reader.text("RAILWAY_ENVIRONMENT_ID").is_some();
        let proxies = reader.text("WINSTON_TRUSTED_PROXIES");
        // An agent that is another user than we is kept out of much, and loopback is its too: no proxy's word comes from there.
        let shared = reader.text("WINSTON_GATEWAY_UID").is_none();
        let usual = [Some(LOOPBACK).filter(|_| shared), Some(RAILWAY).filter(|_| on_railway)];
        let usual = usual.into_iter().flatten().collect::<Vec<_>>().join(",");
        let proxies = Networks::parse(proxies.as_deref().unwrap_or(&usual)).unwrap_or_else(|bad| {
            bad.iter().for_each(|bad| reader.mistake(format!("WINSTON_TRUSTED_PROXIES: `{bad}` is not a network")));
            Networks::default()
        });
        let origin = reader
            .text("WINSTON_PUBLIC_ORIGIN")
            .or_else(|| reader.text("RAILWAY_PUBLIC_DOMAIN").map(|domain| format!("https://{domain}")));
        let is_origin = |origin: &String| {
            origin.parse::<Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some()
                    && !origin.ends_with('/')
                    && uri.path() == "/"
            })
        };
        if !origin.as_ref().is_none_or(is_origin) {
            reader.mistake(
            "WINSTON_PUBLIC_ORIGIN must be an http or https URL without a path, for example https://tenant.example.com",
        );
        }
        let mut count = |name, default: usize| {
            let count = reader.parsed(name, "a number").unwrap_or(default);
            if count == 0 {
                reader.mistake(format!("{name} must be at least 1"));
            }
            count
        };
        let max_connections = count("WINSTON_FRONT_MAX_CONNECTIONS", 4096);
        let max_per_address = count("WINSTON_FRONT_MAX_PER_ADDRESS", 256);
        let password = reader.text("SETUP_PASSWORD").map(Secret::new);
        // A mistake in these has been noted with the gateway's settings.
        let gateway_port = reader.text("OPENCLAW_GATEWAY_PORT").and_then(|port| port.trim().parse().ok());
        let gateway_token = reader.text("OPENCLAW_GATEWAY_TOKEN").map(Secret::new);
        let path = gateway.and_then(|gateway| gateway.environment.iter().find(|(name, _)| name == "PATH"));
        Some(Self {
            listen: listen?,
            trust: Trust { proxies, real_ip: on_railway },
            password,
            origin,
            max_connections,
            max_per_address,
            gateway_port: gateway_port.unwrap_or(GATEWAY_PORT),
            gateway_token,
            sidecar_port: file_api.port(),
            program: gateway.map(|gateway| gateway.program.clone()).unwrap_or_default(),
            path: path.map(|(_, path)| path.clone()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::VARIABLES;

    fn front(pairs: &[(&str, &str)]) -> Option<FrontSettings> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut reader = Reader::new(VARIABLES, lookup);
        let settings = FrontSettings::read(&mut reader, SocketAddr::from(([0u16; 8], 18790)), None);
        let mistakes = reader.finish();
        assert!(mistakes.is_empty(), "{mistakes:?}");
        settings
    }

    #[test]
    fn the_front_door_is_at_the_public_port() {
        assert!(front(&[]).is_none());
        assert!(front(&[("PORT", "8080"), ("WINSTON_FRONT_LISTEN", "off")]).is_none());
        assert!(front(&[("PORT", "18790")]).is_none(), "the file API is the public port");
        let on =
            front(&[("PORT", "8080"), ("RAILWAY_PUBLIC_DOMAIN", "t.example.com"), ("RAILWAY_ENVIRONMENT_ID", "e")]);
        let on = on.unwrap_or_else(|| panic!("no front door"));
        assert_eq!(on.listen.to_string(), "[::]:8080");
        assert_eq!(on.origin.as_deref(), Some("https://t.example.com"));
        assert!(on.trust.real_ip && on.trust.proxies.contain([100, 64, 0, 2].into()));
        let on = front(&[("WINSTON_FRONT_LISTEN", "127.0.0.1:0")]).unwrap_or_else(|| panic!("no front door"));
        assert!(!on.trust.real_ip && !on.trust.proxies.contain([100, 64, 0, 2].into()));
    }

    #[test]
    fn loopback_is_no_proxy_where_the_agent_is_another_user() {
        let believed = |more: &[(&str, &str)]| {
            let on = front(&[&[("PORT", "8080")], more].concat()).unwrap_or_else(|| panic!("no front door"));
            [[127, 0, 0, 1], [100, 64, 0, 2]].map(|address| on.trust.proxies.contain(address.into()))
        };
        let (uid, railway) = (("WINSTON_GATEWAY_UID", "1000"), ("RAILWAY_ENVIRONMENT_ID", "e"));
        assert_eq!(believed(&[]), [true, false]);
        assert_eq!(believed(&[railway]), [true, true]);
        assert_eq!(believed(&[uid]), [false, false]);
        assert_eq!(believed(&[uid, railway]), [false, true]);
        assert_eq!(believed(&[uid, ("WINSTON_TRUSTED_PROXIES", "127.0.0.1")]), [true, false], "somebody says so");
    }
}
