-- What became of configurations, and keys of them that control owns.

-- A merge patch that holds for good beside the newest push of the same path.
ALTER TABLE desired_files
    ADD COLUMN merge boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT desired_files_pkey,
    ADD PRIMARY KEY (tenant_id, path_hash, merge);

-- How the sidecar judged a configuration. `generation` is null for what did not come from control.
CREATE TABLE config_verdicts (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    judged_at timestamptz NOT NULL,
    generation bigint,
    verdict text NOT NULL CHECK (verdict IN ('applied', 'conflict', 'invalid', 'rolled_back')),
    reason text NOT NULL,
    -- Hash, issues, lines and kept paths as the sidecar told them.
    details jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, judged_at)
);
CREATE INDEX config_verdicts_by_generation ON config_verdicts (tenant_id, generation, judged_at DESC)
    WHERE generation IS NOT NULL;
