-- Renames, the current files of every journal with their digest, and sidecar processes.

ALTER TABLE file_changes
    DROP CONSTRAINT file_changes_change_type_check,
    ADD COLUMN previous_path text COLLATE "C",
    ADD COLUMN previous_path_hash bytea GENERATED ALWAYS AS (path_key(previous_path)) STORED,
    ADD CONSTRAINT file_changes_change_type_check CHECK (change_type IN ('create', 'update', 'delete', 'rename')),
    ADD CONSTRAINT file_changes_previous_path_check CHECK ((change_type = 'rename') = (previous_path IS NOT NULL));
CREATE INDEX file_changes_by_previous_path ON file_changes (tenant_id, epoch, previous_path_hash, seq DESC)
    WHERE previous_path IS NOT NULL;

-- Where the file of this version was before, on a version that a rename brought.
ALTER TABLE file_snapshots ADD COLUMN previous_path text COLLATE "C";
CREATE INDEX file_snapshots_by_rename ON file_snapshots (tenant_id, path_hash, id DESC) WHERE previous_path IS NOT NULL;

-- What a journal's changes amount to: one row per path that it ever had. `present` is false for a path that was
-- deleted or renamed away; that differs from a path that the journal never spoke of.
CREATE TABLE current_files (
    tenant_id uuid NOT NULL,
    epoch uuid NOT NULL,
    path_hash bytea NOT NULL GENERATED ALWAYS AS (path_key(file_path)) STORED,
    file_path text COLLATE "C" NOT NULL,
    present boolean NOT NULL,
    hash bytea CHECK (length(hash) = 32),
    size bigint,
    content_omitted boolean NOT NULL,
    -- The newest change of the path, and who made it when.
    seq bigint NOT NULL,
    source text NOT NULL CHECK (source IN ('agent', 'admin', 'system')),
    actor text,
    modified_at timestamptz NOT NULL,
    snapshot_id bigint,
    -- Newest push that the journal says has arrived at the path.
    generation bigint,
    PRIMARY KEY (tenant_id, epoch, path_hash),
    FOREIGN KEY (tenant_id, epoch) REFERENCES journals ON DELETE CASCADE,
    CHECK (present OR hash IS NULL)
);
-- In the order of the paths, as far as an index entry has room: 512 characters are at most 2048 bytes.
CREATE INDEX current_files_by_path ON current_files (tenant_id, epoch, (left(file_path, 512)));

INSERT INTO current_files
    (tenant_id, epoch, file_path, present, hash, size, content_omitted, seq, source, actor, modified_at,
     snapshot_id, generation)
SELECT DISTINCT ON (tenant_id, epoch, path_hash)
    tenant_id, epoch, file_path, change_type <> 'delete',
    CASE WHEN change_type <> 'delete' THEN hash END, CASE WHEN change_type <> 'delete' THEN size END,
    change_type <> 'delete' AND content_omitted, seq, source, changed_by, changed_at,
    CASE WHEN change_type <> 'delete' THEN snapshot_id END,
    max(generation) FILTER (WHERE source = 'system') OVER (PARTITION BY tenant_id, epoch, path_hash)
FROM file_changes
ORDER BY tenant_id, epoch, path_hash, seq DESC;

-- The check of the backfill: every path once, each with its newest change.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM (
            SELECT tenant_id, epoch, path_hash, max(seq) AS seq FROM file_changes GROUP BY tenant_id, epoch, path_hash
        ) newest
        FULL JOIN current_files c USING (tenant_id, epoch, path_hash)
        WHERE c.seq IS DISTINCT FROM newest.seq
    ) THEN
        RAISE EXCEPTION 'current_files does not agree with file_changes';
    END IF;
END
$$;

-- Digest (see winston_wire::ManifestDigest) and number of the files that are present. NULL: not computed yet; the
-- next batch or check-in does that.
ALTER TABLE journals
    ADD COLUMN digest bytea CHECK (length(digest) = 32),
    ADD COLUMN files bigint,
    ADD CONSTRAINT journals_digest_and_files CHECK ((digest IS NULL) = (files IS NULL));

-- What the sidecar said last about its own files.
ALTER TABLE tenant_instances ADD COLUMN manifest jsonb;

-- Sidecar processes. The one that appeared last is served.
CREATE TABLE sidecar_sessions (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    session uuid NOT NULL,
    started_at timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    superseded_at timestamptz,
    PRIMARY KEY (tenant_id, session)
);
CREATE UNIQUE INDEX sidecar_sessions_served ON sidecar_sessions (tenant_id) WHERE superseded_at IS NULL;
