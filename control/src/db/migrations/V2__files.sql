-- Sidecars' side: every version of every file, the journal as it arrived, and what control wants on disk.
-- Paths use the C collation, so that their order is the order of their bytes on every server.

-- A path may have 3072 bytes, an index entry at most about 2700. So keys and indexes hold the path's hash. The function
-- exists because `convert_to` is only STABLE; for a fixed target encoding its result depends on nothing but the text.
CREATE FUNCTION path_key(path text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT pg_catalog.sha256(pg_catalog.convert_to(path, 'UTF8')) $$;

CREATE TABLE file_contents (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    size bigint NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, hash),
    CHECK (size = length(content))
);

-- One row per version that has content. A push is a version from the moment it is accepted; epoch and seq are
-- set on versions that a journal brought.
CREATE TABLE file_snapshots (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id bigint GENERATED ALWAYS AS IDENTITY,
    file_path text COLLATE "C" NOT NULL,
    path_hash bytea NOT NULL GENERATED ALWAYS AS (path_key(file_path)) STORED,
    hash bytea NOT NULL,
    size bigint NOT NULL,
    source text NOT NULL CHECK (source IN ('agent', 'admin', 'system')),
    actor text,
    generation bigint,
    epoch uuid,
    seq bigint,
    modified_at timestamptz NOT NULL,
    captured_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, hash) REFERENCES file_contents (tenant_id, hash),
    UNIQUE (tenant_id, epoch, seq)
);
CREATE INDEX file_snapshots_by_path ON file_snapshots (tenant_id, path_hash, id DESC);

CREATE TABLE journals (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    epoch uuid NOT NULL,
    acked_seq bigint NOT NULL DEFAULT 0,
    -- Last sequence number that the sidecar said it has. Behind it there may be changes still to come.
    head_seq bigint NOT NULL DEFAULT 0,
    lost_seqs bigint[] NOT NULL DEFAULT '{}',
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, epoch)
);

CREATE TABLE file_changes (
    tenant_id uuid NOT NULL,
    epoch uuid NOT NULL,
    seq bigint NOT NULL,
    file_path text COLLATE "C" NOT NULL,
    path_hash bytea NOT NULL GENERATED ALWAYS AS (path_key(file_path)) STORED,
    change_type text NOT NULL CHECK (change_type IN ('create', 'update', 'delete')),
    source text NOT NULL CHECK (source IN ('agent', 'admin', 'system')),
    changed_by text,
    changed_at timestamptz NOT NULL,
    hash bytea,
    previous_hash bytea,
    size bigint,
    generation bigint,
    content_omitted boolean NOT NULL DEFAULT false,
    snapshot_id bigint,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, epoch, seq),
    FOREIGN KEY (tenant_id, epoch) REFERENCES journals ON DELETE CASCADE
);
CREATE INDEX file_changes_by_path ON file_changes (tenant_id, epoch, path_hash, seq DESC);

-- The newest push of each path.
CREATE TABLE desired_files (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    file_path text COLLATE "C" NOT NULL,
    path_hash bytea NOT NULL GENERATED ALWAYS AS (path_key(file_path)) STORED,
    generation bigint NOT NULL,
    hash bytea,
    base text NOT NULL,
    actor text,
    pushed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, path_hash),
    FOREIGN KEY (tenant_id, hash) REFERENCES file_contents (tenant_id, hash)
);
CREATE INDEX desired_files_by_generation ON desired_files (tenant_id, generation);
