# The image of one tenant: entrypoint (PID 1), sidecar, Node and the unmodified OpenClaw gateway.
# It also carries winston-control, which runs from the same image with `--entrypoint winston-control`.
#
# The bases are pinned by tag. To pin the bytes too, append the digest that `docker buildx imagetools inspect <tag>`
# prints: `FROM rust:1.95.0-slim-bookworm@sha256:...`. Versions agree with rust-toolchain.toml and versions.env.

ARG NODE_VERSION=24.21.0

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
# Without rust-toolchain.toml: the base is that toolchain, and the file would only fetch formatter and linter.
COPY Cargo.toml Cargo.lock ./
COPY wire wire
COPY entrypoint entrypoint
COPY sidecar sidecar
COPY control control
COPY tests tests
COPY tools/build-programs tools/
RUN tools/build-programs /out

FROM node:${NODE_VERSION}-bookworm-slim
ARG OPENCLAW_VERSION=2026.9.6
# git: OpenClaw keeps the agent's workspace in a repository of its own when it finds one.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/*
# The first run completes the installation and needs the package's directory writable, which at run time it is not.
RUN npm install --global --no-audit --no-fund "openclaw@${OPENCLAW_VERSION}" \
    && openclaw --version \
    && rm -rf /root/.npm /tmp/*
# The base has a user `node` with these numbers. It becomes the user of the gateway, and so of the agent's shell.
RUN groupmod --new-name openclaw --gid 1000 node \
    && usermod --login openclaw --uid 1000 --gid 1000 --home /data/.home --shell /bin/bash node \
    && rm -rf /home/node \
    && mkdir --mode=0755 /data
COPY --from=build /out/winston-entrypoint /usr/local/bin/winston-entrypoint
COPY --from=build /out/winston-sidecar /usr/local/bin/winston-sidecar
COPY --from=build /out/winston-control /usr/local/bin/winston-control

ENV WINSTON_DATA_DIR=/data \
    WINSTON_GATEWAY_UID=1000 \
    WINSTON_GATEWAY_GID=1000
EXPOSE 18790
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/winston-sidecar", "--health"]
# There is no USER line: volumes are mounted root-owned, so PID 1 must start as root to give the tenant's directories
# to uid 1000. The gateway then runs as that user. There is no line that declares /data a volume either: Railway
# refuses to build such an image, and elsewhere it would hide a forgotten mount behind an anonymous one.
ENTRYPOINT ["/usr/local/bin/winston-entrypoint"]
