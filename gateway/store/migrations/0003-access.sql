-- Keys of billing systems, what was done with them, their offers, and the numbers that nobody may call
-- depends: 0001-ledger

-- migrate: apply

-- A key is kept only as the argon2id hash of its text. rate and burst override those of the settings.
CREATE TABLE consent.api_keys (
    key_id       text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{12}$'),
    tenant       text NOT NULL,
    name         text NOT NULL,
    secret_hash  text NOT NULL CHECK (secret_hash LIKE '$argon2id$%'),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0),
    rate         double precision CHECK (rate > 0),
    burst        integer CHECK (burst > 0),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz CHECK (expires_at > created_at),
    last_used_at timestamptz
);

-- A revoked key stays revoked: nothing takes the row away again.
CREATE TABLE consent.api_key_revocations (
    key_id text PRIMARY KEY REFERENCES consent.api_keys,
    reason text NOT NULL,
    at     timestamptz NOT NULL
);

-- Which order a request with an Idempotency-Key made. Neither the key nor the request can be read from it: key_hash is over the key, and
-- fingerprint over the request together with the key.
CREATE TABLE consent.idempotency_keys (
    tenant      text NOT NULL,
    key_hash    bytea NOT NULL CHECK (length(key_hash) = 32),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    order_id    uuid NOT NULL REFERENCES consent.orders,
    at          timestamptz NOT NULL,
    PRIMARY KEY (tenant, key_hash)
);
CREATE INDEX idempotency_keys_by_age ON consent.idempotency_keys (at);

-- Who asked for what. route is the template of the path, so that no number is in it; key_id is 'settings' for the key of the settings, and
-- tenant is unknown where no key was recognised.
CREATE TABLE consent.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    tenant   text,
    key_id   text,
    method   text NOT NULL,
    route    text NOT NULL,
    order_id uuid,
    status   integer NOT NULL,
    remote   text NOT NULL
);
CREATE INDEX audit_by_tenant ON consent.audit (tenant, audit_id DESC);

-- Every version of every offer, as canonical JSON under its SHA-256.
CREATE TABLE consent.offers (
    tenant   text NOT NULL,
    offer_id text NOT NULL,
    version  integer NOT NULL CHECK (version > 0),
    sha256   text NOT NULL CHECK (sha256 = encode(sha256(convert_to(terms, 'UTF8')), 'hex')),
    terms    text NOT NULL,
    key_id   text NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (tenant, offer_id, version)
);

CREATE TABLE consent.offer_withdrawals (
    tenant   text NOT NULL,
    offer_id text NOT NULL,
    version  integer NOT NULL,
    reason   text NOT NULL,
    key_id   text NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (tenant, offer_id, version),
    FOREIGN KEY (tenant, offer_id, version) REFERENCES consent.offers
);

-- Whom nobody may call (rule R11), as a journal: a number is blocked by a tenant's 'block' that no later 'lift' of the same tenant follows.
-- So one tenant's lift undoes no other's block, and neither is ever lost. source says whose wish it was.
CREATE TABLE consent.do_not_call (
    entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number   text NOT NULL CHECK (number ~ '^\+[0-9]{5,15}$'),
    tenant   text NOT NULL,
    action   text NOT NULL CHECK (action IN ('block', 'lift')),
    source   text NOT NULL CHECK (source IN ('subscriber', 'api')),
    reason   text NOT NULL,
    order_id uuid REFERENCES consent.orders,
    key_id   text,
    at       timestamptz NOT NULL,
    CHECK (action = 'block' OR source = 'api')
);
CREATE INDEX do_not_call_by_number ON consent.do_not_call (number, tenant, entry_id DESC);
CREATE INDEX do_not_call_by_tenant ON consent.do_not_call (tenant, entry_id DESC);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.api_key_revocations
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.audit
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.offers
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.offer_withdrawals
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.do_not_call
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();

CREATE INDEX orders_page ON consent.orders (tenant, created_at DESC, order_id DESC);

GRANT SELECT, INSERT ON consent.api_keys, consent.api_key_revocations, consent.audit, consent.offers, consent.offer_withdrawals,
    consent.do_not_call TO consent_app;
GRANT UPDATE (last_used_at) ON consent.api_keys TO consent_app;
-- Outdated ones are locked before they are deleted, so that two who clean up never wait for each other; a lock needs UPDATE of some column.
GRANT SELECT, INSERT, DELETE, UPDATE (at) ON consent.idempotency_keys TO consent_app;

-- migrate: rollback

DROP TABLE consent.api_key_revocations, consent.api_keys, consent.idempotency_keys, consent.audit, consent.offer_withdrawals,
    consent.offers, consent.do_not_call;
DROP INDEX consent.orders_page;
