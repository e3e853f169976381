-- Who refers to a content is asked for every content that is deleted, so for all of a tenant's at once when it is deleted.
-- By the tenant alone, each of those questions would walk everything that the tenant has.
CREATE INDEX file_snapshots_by_content ON file_snapshots (tenant_id, hash);
CREATE INDEX desired_files_by_content ON desired_files (tenant_id, hash);
