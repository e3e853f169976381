//! The environment variables of the sidecar: one table, from which its help text and `docs/CONFIGURATION.md` are made.

use winston_wire::HANDOVER_FDS;
use winston_wire::env::Variable;

/// Every variable that the sidecar reads for itself. What the gateway may inherit is listed in [`crate::gateway::inherited_environment`].
pub(crate) const VARIABLES: &[Variable] = &[
    Variable {
        name: "WINSTON_SIDECAR_TOKEN",
        default: "required",
        meaning: "Bearer token of this tenant, for the file API and towards control. At least 32 characters.",
    },
    Variable {
        name: "WINSTON_TENANT_ID",
        default: "",
        meaning: "Tenant id, reported by `/health` to callers with the token.",
    },
    Variable { name: "TENANT_ID", default: "", meaning: "Older name of `WINSTON_TENANT_ID`." },
    Variable { name: "WINSTON_DATA_DIR", default: "/data", meaning: "The tenant's root. Absolute." },
    Variable {
        name: "OPENCLAW_STATE_DIR",
        default: "$WINSTON_DATA_DIR/.openclaw",
        meaning: "State directory of the gateway, below the data directory.",
    },
    Variable {
        name: "OPENCLAW_WORKSPACE_DIR",
        default: "$WINSTON_DATA_DIR/workspace",
        meaning: "Workspace of the agent, below the data directory.",
    },
    Variable { name: "WINSTON_SIDECAR_LISTEN", default: "[::]:18790", meaning: "Address and port of the file API." },
    Variable {
        name: "WINSTON_CONTROL_URL",
        default: "",
        meaning: "Base URL of control. Unset: no sync; every change stays in the local journal.",
    },
    Variable {
        name: "WINSTON_CONTROL_CA_FILE",
        default: "",
        meaning: "PEM file with further certificate authorities for `WINSTON_CONTROL_URL`.",
    },
    Variable { name: "WINSTON_GATEWAY", default: "on", meaning: "`off`: do not run a gateway." },
    Variable {
        name: "WINSTON_OPENCLAW_BIN",
        default: "openclaw",
        meaning: "The `openclaw` program; searched in `PATH` unless it has a slash.",
    },
    Variable { name: "OPENCLAW_GATEWAY_PORT", default: "18789", meaning: "Port of the gateway on loopback." },
    Variable {
        name: "OPENCLAW_GATEWAY_TOKEN",
        default: "",
        meaning: "Token of the gateway; passed on to it, and used to ask it for a bounded drain.",
    },
    Variable {
        name: "WINSTON_GATEWAY_UID",
        default: "",
        meaning: "User id of the gateway and of the files that are created. Only as root.",
    },
    Variable {
        name: "WINSTON_PROBATION_SECONDS",
        default: "10",
        meaning: "How long the gateway must go well with a new configuration before it counts.",
    },
    Variable {
        name: "WINSTON_PROBATION_START_SECONDS",
        default: "120",
        meaning: "Longest time, in seconds, until the gateway is ready with a new configuration.",
    },
    Variable {
        name: "WINSTON_VALIDATION_SECONDS",
        default: "30",
        meaning: "Longest time of one run of the gateway's own validation. After two without an answer the sidecar's checks decide.",
    },
    Variable { name: "WINSTON_GATEWAY_GID", default: "$WINSTON_GATEWAY_UID", meaning: "Group id of the same." },
    Variable {
        name: "WINSTON_GATEWAY_HOME",
        default: "$WINSTON_DATA_DIR/.home",
        meaning: "`HOME` of the gateway. Absolute.",
    },
    Variable {
        name: "WINSTON_GATEWAY_TMPDIR",
        default: "",
        meaning: "`TMPDIR` of the gateway. Absolute. Unset: that of the sidecar. `winston-entrypoint` sets it to a directory of the tenant's own.",
    },
    Variable {
        name: "WINSTON_GATEWAY_ENV",
        default: "",
        meaning: "Names of further variables that the gateway inherits, separated by commas.",
    },
    Variable {
        name: "WINSTON_GATEWAY_MEMORY_LIMIT_MB",
        default: "",
        meaning: "Resident size of the gateway, in MiB, above which it is asked to start anew once it is idle, at most once an hour. At rest it takes some 800. 256 to 1000000.",
    },
    Variable {
        name: "WINSTON_GATEWAY_LOG_RING_BYTES",
        default: "262144",
        meaning: "Size, in bytes, of the gateway's newest lines in memory. 65536 to 67108864.",
    },
    Variable {
        name: "WINSTON_GATEWAY_LOG_FILE_BYTES",
        default: "8388608",
        meaning: "Largest size, in bytes, of one file of the gateway's log in `.winston/logs`. 262144 to 1073741824.",
    },
    Variable {
        name: "WINSTON_GATEWAY_LOG_FILES",
        default: "5",
        meaning: "Most files of the gateway's log; the oldest is removed. `0`: its log is kept in memory only. At most 100.",
    },
    Variable {
        name: "PORT",
        default: "",
        meaning: "Public port of the container, as the platform sets it; see `WINSTON_FRONT_LISTEN`.",
    },
    Variable {
        name: "WINSTON_FRONT_LISTEN",
        default: "[::]:$PORT",
        meaning: "Address and port of the front door, or `off`. Off too without `PORT`, and when `PORT` is that of the file API.",
    },
    Variable {
        name: "WINSTON_TRUSTED_PROXIES",
        default: "",
        meaning: "Networks (CIDR, separated by commas) of the proxies whose forwarding headers are believed. Unset: loopback unless `WINSTON_GATEWAY_UID` is set, and on Railway 100.64.0.0/10, where its edge comes from.",
    },
    Variable {
        name: "WINSTON_PUBLIC_ORIGIN",
        default: "https://$RAILWAY_PUBLIC_DOMAIN",
        meaning: "Scheme, host and port under which people reach the front door.",
    },
    Variable { name: "RAILWAY_PUBLIC_DOMAIN", default: "", meaning: "Set by Railway; see `WINSTON_PUBLIC_ORIGIN`." },
    Variable { name: "RAILWAY_ENVIRONMENT_ID", default: "", meaning: "Set by Railway; says that this is Railway." },
    Variable {
        name: "SETUP_PASSWORD",
        default: "",
        meaning: "Password of `/setup` at the front door. Unset: there is no `/setup`.",
    },
    Variable {
        name: "WINSTON_FRONT_MAX_CONNECTIONS",
        default: "4096",
        meaning: "Most open connections at the front door, WebSockets included.",
    },
    Variable {
        name: "WINSTON_FRONT_MAX_PER_ADDRESS",
        default: "256",
        meaning: "Most connections, and most requests and WebSockets at once, of one IPv4 address or IPv6 /64.",
    },
    Variable {
        name: "WINSTON_MAX_FILE_BYTES",
        default: "10485760",
        meaning: "Largest file, in bytes, that the API writes and that history keeps with its content.",
    },
    Variable {
        name: "WINSTON_MAX_ARCHIVE_BYTES",
        default: "268435456",
        meaning: "Most bytes of one uploaded archive, and of the files in it.",
    },
    Variable {
        name: "WINSTON_JOURNAL_SEGMENT_BYTES",
        default: "8388608",
        meaning: "Size, in bytes, after which the journal starts a new segment. Large contents, which are files of their own, count.",
    },
    Variable {
        name: "WINSTON_JOURNAL_MAX_BYTES",
        default: "1073741824",
        meaning: "Size, in bytes, of the whole journal after which the oldest contents that control lacks are dropped; their records stay. At least four segments and two files of the largest size.",
    },
    Variable {
        name: "WINSTON_RESCAN_SECONDS",
        default: "300",
        meaning: "Seconds between full comparisons of disk and index.",
    },
    Variable {
        name: "WINSTON_WATCH_EXCLUDE",
        default: "",
        meaning: "Patterns of what has no history, besides the defaults: gitignore syntax, separated by commas or newlines.",
    },
    Variable {
        name: "WINSTON_WATCH_INCLUDE",
        default: "",
        meaning: "Patterns of what has a history in spite of the defaults and of `WINSTON_WATCH_EXCLUDE`. Never credentials or databases of the gateway.",
    },
    Variable {
        name: "WINSTON_WATCH_MODE",
        default: "auto",
        meaning: "`polling`: list the tree instead of using inotify. `auto`: only on file systems where inotify does not see everything.",
    },
    Variable {
        name: "WINSTON_POLL_SECONDS",
        default: "5",
        meaning: "Seconds between listings of what inotify does not cover.",
    },
    Variable {
        name: "WINSTON_STOP_GRACE_SECONDS",
        default: "25",
        meaning: "Seconds from SIGTERM until `winston-entrypoint`, which sets it, kills the sidecar. The gateway's last stop is planned within it.",
    },
    Variable {
        name: HANDOVER_FDS,
        default: "",
        meaning: "Descriptors that `winston-entrypoint` hands on, by which a gateway outlives the sidecar. Not for anybody else to set.",
    },
    Variable {
        name: "WINSTON_LOG",
        default: "info",
        meaning: "What is logged: a level, or `target=level` pairs separated by commas.",
    },
];
