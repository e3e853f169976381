//! The environment, parsed and checked as a whole.

mod checks;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use checks::seed_variables;
use winston_wire::env::Reader;

use crate::seed::Seed;
use crate::variables::VARIABLES;

/// Our own directory beneath the data directory.
pub(crate) const OURS: &str = ".winston";
/// Where the sidecar listens unless it is told otherwise.
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), winston_wire::SIDECAR_PORT);
/// The gateway's home directory beneath the data directory.
pub(crate) const HOME: &str = ".home";

/// As whom this process runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Privilege {
    /// Effective user.
    pub(crate) uid: u32,
}

/// The user that owns the tenant's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User number.
    pub(crate) uid: u32,
    /// Group number.
    pub(crate) gid: u32,
}

/// What the environment asks for.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The tenant's id.
    pub(crate) tenant: String,
    /// Absolute path of the data directory.
    pub(crate) data_dir: PathBuf,
    /// State directory, relative to the data directory.
    pub(crate) state_dir: PathBuf,
    /// Workspace, relative to the data directory.
    pub(crate) workspace_dir: PathBuf,
    /// The sidecar's executable, when it is not the one beside ours.
    pub(crate) sidecar: Option<PathBuf>,
    /// To whom the tenant's files are given; only as root.
    pub(crate) owner: Option<Owner>,
    /// Where the sidecar listens, when that is an address; what is wrong with it is the sidecar's to say.
    pub(crate) listen: Option<SocketAddr>,
    /// Where the front door listens, if there is one, likewise.
    pub(crate) front: Option<SocketAddr>,
    /// How long the sidecar may take to stop.
    pub(crate) grace: Duration,
    /// How long the sidecar may give no sign of life; zero: for ever.
    pub(crate) hang: Duration,
    /// First-boot files.
    pub(crate) seeds: Vec<Seed>,
}

impl Settings {
    /// Parses the environment, or lists every mistake with its remedy.
    pub(crate) fn parse(lookup: impl Fn(&str) -> Option<OsString>, privilege: Privilege) -> Result<Self, Vec<String>> {
        let text = |name: &str| lookup(name).and_then(|value| value.into_string().ok());
        let mut reader = Reader::new(VARIABLES, text);
        for variable in VARIABLES {
            if lookup(variable.name).is_some_and(|value| value.to_str().is_none()) {
                reader.mistake(format!(
                    "{} is not UTF-8: encode the value as UTF-8, or as base64 where it is a file",
                    variable.name
                ));
            }
        }

        checks::token(&mut reader);
        let tenant = checks::tenant(&mut reader);
        checks::control_url(&mut reader);
        let data_dir = checks::data_dir(&mut reader);
        let state_dir = checks::beneath(&mut reader, "OPENCLAW_STATE_DIR", &data_dir, ".openclaw");
        let workspace_dir = checks::beneath(&mut reader, "OPENCLAW_WORKSPACE_DIR", &data_dir, "workspace");
        if state_dir == workspace_dir {
            reader.mistake("OPENCLAW_STATE_DIR and OPENCLAW_WORKSPACE_DIR name the same directory: choose two");
        }
        let sidecar = reader.text("WINSTON_SIDECAR_BIN").map(PathBuf::from);
        let owner = checks::owner(&mut reader, privilege);
        let listen = reader.text("WINSTON_SIDECAR_LISTEN").map_or(Some(LISTEN), |text| text.parse().ok());
        let front = front(reader.text("WINSTON_FRONT_LISTEN"), reader.text("PORT"), listen);
        let grace = checks::grace(&mut reader);
        let hang = checks::hang(&mut reader);
        let seeds = checks::seeds(&mut reader, &state_dir, &workspace_dir);

        let mistakes = reader.finish();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            tenant: tenant.unwrap_or_default(),
            data_dir,
            state_dir,
            workspace_dir,
            sidecar,
            owner,
            listen,
            front,
            grace,
            hang,
            seeds,
        })
    }

    /// What the sidecar's environment gets on top of ours: everything that we resolved, so that both mean the same.
    pub(crate) fn exports(&self) -> Vec<(&'static str, OsString)> {
        let mut exports = vec![
            ("WINSTON_TENANT_ID", self.tenant.clone().into()),
            ("WINSTON_DATA_DIR", self.data_dir.clone().into()),
            ("OPENCLAW_STATE_DIR", self.data_dir.join(&self.state_dir).into()),
            ("OPENCLAW_WORKSPACE_DIR", self.data_dir.join(&self.workspace_dir).into()),
            ("WINSTON_STOP_GRACE_SECONDS", self.grace.as_secs().to_string().into()),
        ];
        if let Some(owner) = self.owner {
            exports.push(("WINSTON_GATEWAY_UID", owner.uid.to_string().into()));
            exports.push(("WINSTON_GATEWAY_GID", owner.gid.to_string().into()));
        }
        exports
    }
}

/// The address of the front door as the sidecar reads it, which also says what is wrong with it.
fn front(set: Option<String>, port: Option<String>, file_api: Option<SocketAddr>) -> Option<SocketAddr> {
    let usual = |port: u16| SocketAddr::from(([0u16; 8], port));
    let address = match set {
        Some(set) => set.parse().ok(),
        None => port.and_then(|port| port.parse().ok()).map(usual),
    };
    address.filter(|address| file_api.is_some_and(|file_api| file_api.port() != address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::path::Path;

    const ROOT: Privilege = Privilege { uid: 0 };
    const USER: Privilege = Privilege { uid: 1000 };
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn parse(pairs: &[(&str, &str)], privilege: Privilege) -> Result<Settings, Vec<String>> {
        let mut all = HashMap::from([("WINSTON_SIDECAR_TOKEN", TOKEN), ("WINSTON_TENANT_ID", "t1")]);
        all.extend(pairs.iter().copied());
        Settings::parse(|name| all.get(name).map(OsString::from), privilege)
    }

    fn mistakes(pairs: &[(&str, &str)], privilege: Privilege) -> String {
        parse(pairs, privilege).unwrap_err().join("\n")
    }

    #[test]
    fn defaults() {
        let settings = parse(&[], USER).unwrap();
        assert_eq!(settings.tenant, "t1");
        assert_eq!(settings.data_dir, Path::new("/data"));
        assert_eq!(settings.state_dir, Path::new(".openclaw"));
        assert_eq!(settings.workspace_dir, Path::new("workspace"));
        assert_eq!(settings.grace, Duration::from_secs(25));
        assert!(settings.exports().contains(&("WINSTON_STOP_GRACE_SECONDS", "25".into())), "the sidecar plans with it");
        assert_eq!(settings.owner, None);
        assert!(settings.seeds.is_empty());
    }

    #[test]
    fn the_front_door_is_where_the_sidecar_has_it() {
        let front = |pairs: &[(&str, &str)]| parse(pairs, USER).unwrap().front.map(|address| address.to_string());
        assert_eq!(front(&[]), None);
        assert_eq!(front(&[("PORT", "8080")]).as_deref(), Some("[::]:8080"));
        assert_eq!(front(&[("PORT", "18790")]), None, "the file API has it");
        assert_eq!(front(&[("PORT", "8080"), ("WINSTON_FRONT_LISTEN", "off")]), None);
        let listen = ("WINSTON_FRONT_LISTEN", "127.0.0.1:81");
        assert_eq!(front(&[("PORT", "8080"), listen]).as_deref(), Some("127.0.0.1:81"));
        assert_eq!(front(&[("PORT", "many")]), None, "the sidecar says so");
    }

    #[test]
    fn the_older_name_of_the_tenant_works() {
        let settings = parse(&[("WINSTON_TENANT_ID", ""), ("TENANT_ID", "t2")], USER).unwrap();
        assert_eq!(settings.tenant, "t2");
        assert!(mistakes(&[("TENANT_ID", "t2")], USER).contains("different tenants"));
    }

    #[test]
    fn every_mistake_is_listed() {
        let found = parse(
            &[
                ("WINSTON_SIDECAR_TOKEN", "short"),
                ("WINSTON_TENANT_ID", ""),
                ("WINSTON_DATA_DIR", "data"),
                ("OPENCLAW_STATE_DIR", "/root/.openclaw"),
                ("OPENCLAW_WORKSPACE_DIR", "/data/.winston/x"),
                ("WINSTON_CONTROL_URL", "control.example"),
                ("WINSTON_GATEWAY_UID", "node"),
                ("WINSTON_STOP_GRACE_SECONDS", "soon"),
                ("WINSTON_OPENCLAW_JSON", "# Soul"),
            ],
            ROOT,
        )
        .unwrap_err();
        assert_eq!(found.len(), 9, "{found:#?}");
        assert!(found.iter().all(|line| !line.contains('\n')));
        assert!(found.iter().all(|line| !line.contains("short\"")));
    }

    #[test]
    fn a_token_is_never_repeated() {
        let found = mistakes(&[("WINSTON_SIDECAR_TOKEN", "hunter2-test-value")], USER);
        assert!(!found.contains("hunter2"), "{found}");
        let spaced = "hunter2 hunter2 hunter2 hunter2 hunter2";
        let found = mistakes(&[("WINSTON_SIDECAR_TOKEN", spaced)], USER);
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn paths_stay_beneath_the_data_directory() {
        let data = ("WINSTON_DATA_DIR", "/srv//t1/./");
        let settings = parse(&[data, ("OPENCLAW_STATE_DIR", "/srv/t1/a/b")], USER).unwrap();
        assert_eq!(settings.data_dir, Path::new("/srv/t1"));
        assert_eq!(settings.state_dir, Path::new("a/b"));
        for wrong in ["/srv/t1", "/srv/t1/../t2", "/srv/t10/x", "a", "/srv/t1/.home"] {
            assert!(parse(&[data, ("OPENCLAW_STATE_DIR", wrong)], USER).is_err(), "{wrong}");
        }
        assert!(parse(&[data, ("OPENCLAW_STATE_DIR", "/srv/t1/workspace")], USER).is_err());
        assert!(parse(&[("WINSTON_DATA_DIR", "/")], USER).is_err());
    }

    #[test]
    fn only_root_gives_files_away() {
        let uid = ("WINSTON_GATEWAY_UID", "1000");
        let both = Some(Owner { uid: 1000, gid: 7 });
        let settings = parse(&[uid, ("WINSTON_GATEWAY_GID", "7")], ROOT).unwrap();
        assert_eq!(settings.owner, both);
        let settings = parse(&[uid], ROOT).unwrap();
        assert_eq!(settings.owner.unwrap().gid, 1000, "the group follows the user");
        assert_eq!(parse(&[uid], USER).unwrap().owner, None, "that user already");
        assert!(mistakes(&[("WINSTON_GATEWAY_UID", "1001")], USER).contains("start as root"));
        assert!(parse(&[("WINSTON_GATEWAY_UID", "0")], ROOT).is_err());
        assert!(parse(&[("WINSTON_GATEWAY_GID", "7")], ROOT).is_err());
    }

    #[test]
    fn control_urls() {
        for right in ["http://10.0.0.1:8080", "https://control.example/base"] {
            assert!(parse(&[("WINSTON_CONTROL_URL", right)], USER).is_ok(), "{right}");
        }
        for wrong in ["ftp://control", "http://", "https:///x", "http://a b", "control"] {
            assert!(parse(&[("WINSTON_CONTROL_URL", wrong)], USER).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeds_know_where_they_belong() {
        let settings = parse(
            &[
                ("OPENCLAW_WORKSPACE_DIR", "/data/desk"),
                ("WINSTON_OPENCLAW_JSON", "e30="),
                ("WINSTON_SOUL_MD", "# Soul"),
            ],
            USER,
        )
        .unwrap();
        let seed = |path: &str, text: &str| Seed { path: path.into(), text: text.into() };
        assert_eq!(settings.seeds, [seed(".openclaw/openclaw.json", "{}"), seed("desk/SOUL.md", "# Soul")]);
    }

    #[test]
    fn a_value_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt as _;
        let found = Settings::parse(|name| (name == "WINSTON_SOUL_MD").then(|| OsString::from_vec(vec![0xff])), USER)
            .unwrap_err();
        assert!(found[0].starts_with("WINSTON_SOUL_MD is not UTF-8"), "{found:?}");
    }
}
