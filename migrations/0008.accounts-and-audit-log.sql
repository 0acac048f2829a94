-- People who use the portal. A password is stored as its argon2id hash.
CREATE TABLE account (
    id text PRIMARY KEY,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    is_admin boolean NOT NULL,
    created_at timestamptz NOT NULL,
    password_changed_at timestamptz NOT NULL,
    disabled_at timestamptz
);
CREATE UNIQUE INDEX account_email ON account (lower(email));

-- Signed-in browsers. The cookie holds an id, the table its SHA-256: a copy of the table signs nobody in.
CREATE TABLE portal_session (
    digest bytea PRIMARY KEY,
    account_id text NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    address text NOT NULL,
    user_agent text NOT NULL
);
CREATE INDEX portal_session_of_account ON portal_session (account_id, seen_at);
CREATE INDEX portal_session_expiry ON portal_session (expires_at);

CREATE TABLE membership (
    project_id text NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    account_id text NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'viewer')),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, account_id)
);
CREATE INDEX membership_of_account ON membership (account_id);

-- Links that work once: to sign up, to join a project, to set a new password. The link holds a secret, the table its SHA-256.
CREATE TABLE invitation (
    id text PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    purpose text NOT NULL CHECK (purpose IN ('sign_up', 'project', 'password')),
    project_id text REFERENCES project (id) ON DELETE CASCADE,
    role text CHECK (role IN ('owner', 'admin', 'viewer')),
    account_id text REFERENCES account (id) ON DELETE CASCADE,
    note text NOT NULL,
    created_by text REFERENCES account (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    used_by text REFERENCES account (id) ON DELETE SET NULL,
    revoked_at timestamptz,
    CHECK ((purpose = 'project') = (project_id IS NOT NULL)),
    CHECK ((purpose = 'project') = (role IS NOT NULL)),
    CHECK ((purpose = 'password') = (account_id IS NOT NULL))
);
CREATE INDEX invitation_of_project ON invitation (project_id, created_at);

-- Audited acts. Names are copied: a row outlives the account and the key it names.
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    account_id text,
    actor text NOT NULL,
    project_id text,
    action text NOT NULL,
    target text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX audit_log_of_project ON audit_log (project_id, id);

-- Failed attempts to sign in, by account and by address, in the current window of each.
CREATE TABLE sign_in_attempt (
    subject bytea PRIMARY KEY,
    attempts integer NOT NULL,
    window_ends timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX sign_in_attempt_window ON sign_in_attempt (window_ends);
