//! The variables that the entrypoint reads: the source of `--help`, `--variables` and the documentation.

use winston_wire::env::Variable;

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Every variable, in the order of the documentation.
pub(crate) const VARIABLES: &[Variable] = &[
    variable(
        "WINSTON_SIDECAR_TOKEN",
        "required",
        "Bearer token of the sidecar's API, at least 32 characters. Handed on in the environment only.",
    ),
    variable("WINSTON_TENANT_ID", "required", "Id of the tenant, as control knows it."),
    variable("TENANT_ID", "", "Older name of `WINSTON_TENANT_ID`."),
    variable("WINSTON_DATA_DIR", "/data", "Root of everything the tenant keeps; the mount path of its volume."),
    variable(
        "OPENCLAW_STATE_DIR",
        "$WINSTON_DATA_DIR/.openclaw",
        "OpenClaw's state directory, beneath the data directory.",
    ),
    variable(
        "OPENCLAW_WORKSPACE_DIR",
        "$WINSTON_DATA_DIR/workspace",
        "The agent's workspace, beneath the data directory.",
    ),
    variable(
        "WINSTON_CONTROL_URL",
        "",
        "`http://` or `https://` address of control; without it the tenant runs alone.",
    ),
    variable(
        "WINSTON_SIDECAR_BIN",
        "winston-sidecar",
        "The sidecar's executable; the default is the one beside `winston-entrypoint`.",
    ),
    variable(
        "WINSTON_SIDECAR_LISTEN",
        "[::]:18790",
        "Address and port of the file API; bound here, so that callers wait while a sidecar is replaced.",
    ),
    variable(
        "WINSTON_GATEWAY_UID",
        "",
        "As root: number of the ordinary user that runs the gateway and owns the tenant's files.",
    ),
    variable("WINSTON_GATEWAY_GID", "$WINSTON_GATEWAY_UID", "As root: number of that user's group."),
    variable(
        "WINSTON_STOP_GRACE_SECONDS",
        "25",
        "How long sidecar and gateway may take to stop before they are killed, 0 to 3600.",
    ),
    variable(
        "WINSTON_FRONT_LISTEN",
        "[::]:$PORT",
        "Address and port of the front door, or `off`; bound here too, so that the port is never free for others.",
    ),
    variable("PORT", "", "Public port of the container, as the platform sets it; see `WINSTON_FRONT_LISTEN`."),
    variable(
        "WINSTON_HANG_SECONDS",
        "300",
        "How long the sidecar may give no sign of life, although it could run, before it is killed and started again; the gateway goes on. `0`: for ever. At most 86400.",
    ),
    variable(
        "WINSTON_OPENCLAW_JSON",
        "",
        "First-boot `openclaw.json`, base64 or plain text; used only where no such file exists yet.",
    ),
    variable("WINSTON_SOUL_MD", "", "First-boot `SOUL.md` of the workspace, likewise."),
    variable("WINSTON_AGENTS_MD", "", "First-boot `AGENTS.md` of the workspace, likewise."),
    variable("WINSTON_USER_MD", "", "First-boot `USER.md` of the workspace, likewise."),
    variable("WINSTON_IDENTITY_MD", "", "First-boot `IDENTITY.md` of the workspace, likewise."),
];
