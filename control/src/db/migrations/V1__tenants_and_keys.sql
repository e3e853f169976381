-- People's side: tenants, their one instance each, who may call, and what was done.

CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL CONSTRAINT tenants_email_key UNIQUE,
    industry text,
    sub_industry text,
    website_url text,
    brand_colors jsonb,
    tier text NOT NULL DEFAULT 'free',
    status text NOT NULL DEFAULT 'provisioning'
        CHECK (status IN ('provisioning', 'active', 'error', 'suspended', 'past_due', 'stopped')),
    selected_model text NOT NULL,
    stripe_customer_id text,
    stripe_subscription_id text,
    credits_remaining numeric(12, 2) NOT NULL,
    credits_monthly_allotment numeric(12, 2) NOT NULL,
    credits_refresh_date timestamptz NOT NULL DEFAULT now() + interval '30 days',
    settings jsonb NOT NULL DEFAULT '{}',
    -- Newest generation of desired files. Bumping it takes the row lock that puts the pushes of a tenant in order.
    generation bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenants_newest ON tenants (created_at DESC, id DESC);

CREATE TABLE tenant_instances (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id uuid NOT NULL,
    provider text NOT NULL,
    instance_name text NOT NULL,
    railway_service_id text,
    railway_domain text,
    status text NOT NULL DEFAULT 'provisioning'
        CHECK (status IN ('provisioning', 'starting', 'running', 'stopped', 'exited', 'error')),
    config_version text NOT NULL DEFAULT '1.0',
    url text,
    sidecar_url text,
    sidecar_version text,
    sidecar_started_at timestamptz,
    health_status text,
    last_health_check timestamptz,
    gateway jsonb,
    epoch uuid,
    applied_generation bigint NOT NULL DEFAULT 0,
    conflicts jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    -- One instance per tenant: readers must never have to choose.
    CONSTRAINT tenant_instances_one_per_tenant UNIQUE (tenant_id)
);

CREATE TABLE sidecar_tokens (
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id uuid NOT NULL,
    token_hash bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    label text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    key_hash bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);

-- No foreign key: what was done to a tenant outlives the tenant.
CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    tenant_id uuid,
    actor text NOT NULL,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text,
    details jsonb NOT NULL DEFAULT '{}',
    "timestamp" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, "timestamp" DESC);
