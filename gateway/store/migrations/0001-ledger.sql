-- The ledger, the two proofs, deliveries and jobs
-- depends:

-- migrate: apply

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'consent_app') THEN
        CREATE ROLE consent_app NOLOGIN;
    END IF;
END $$;

GRANT consent_app TO CURRENT_USER;

CREATE SCHEMA consent;

-- One row an order. The state is a projection of its events, kept for searching.
CREATE TABLE consent.orders (
    order_id    uuid PRIMARY KEY,
    order_hash  text NOT NULL CHECK (order_hash ~ '^[0-9a-f]{64}$'),
    tenant      text NOT NULL,
    number      text NOT NULL CHECK (number ~ '^\+[0-9]{5,15}$'),
    state       text NOT NULL,
    gateway     text,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    UNIQUE (order_id, order_hash)
);
CREATE INDEX orders_by_number ON consent.orders (number, created_at DESC);
CREATE INDEX orders_by_tenant ON consent.orders (tenant, created_at DESC);

-- The ledger: INSERT only, each record a hash chain.
CREATE TABLE consent.events (
    order_id   uuid NOT NULL REFERENCES consent.orders,
    seq        integer NOT NULL CHECK (seq > 0),
    event_id   uuid NOT NULL UNIQUE,
    at         timestamptz NOT NULL,
    type       text NOT NULL,
    body       text NOT NULL,
    hash       text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    PRIMARY KEY (order_id, seq),
    UNIQUE (order_id, event_id, type, at)
);

-- The promise, kept a second time: no provisioning without both proofs of the same order, spoken first, in time. Each proof is
-- an event of its own type and time in this order's record.
CREATE TABLE consent.spoken_consents (
    order_id   uuid PRIMARY KEY,
    order_hash text NOT NULL,
    event_id   uuid NOT NULL,
    type       text NOT NULL GENERATED ALWAYS AS ('consent.spoken') STORED,
    at         timestamptz NOT NULL,
    FOREIGN KEY (order_id, order_hash) REFERENCES consent.orders (order_id, order_hash),
    FOREIGN KEY (order_id, event_id, type, at) REFERENCES consent.events (order_id, event_id, type, at),
    UNIQUE (order_id, order_hash, at)
);

CREATE TABLE consent.code_replies (
    order_id   uuid PRIMARY KEY,
    order_hash text NOT NULL,
    event_id   uuid NOT NULL,
    type       text NOT NULL GENERATED ALWAYS AS ('reply.received') STORED,
    at         timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CHECK (at < expires_at),
    FOREIGN KEY (order_id, order_hash) REFERENCES consent.orders (order_id, order_hash),
    FOREIGN KEY (order_id, event_id, type, at) REFERENCES consent.events (order_id, event_id, type, at),
    UNIQUE (order_id, order_hash, at)
);

CREATE TABLE consent.confirmations (
    order_id   uuid PRIMARY KEY,
    order_hash text NOT NULL,
    spoken_at  timestamptz NOT NULL,
    replied_at timestamptz NOT NULL,
    CHECK (spoken_at < replied_at),
    FOREIGN KEY (order_id, order_hash, spoken_at) REFERENCES consent.spoken_consents (order_id, order_hash, at),
    FOREIGN KEY (order_id, order_hash, replied_at) REFERENCES consent.code_replies (order_id, order_hash, at),
    UNIQUE (order_id, order_hash)
);

CREATE TABLE consent.provisioning_events (
    webhook_id uuid PRIMARY KEY,
    order_id   uuid NOT NULL UNIQUE,
    order_hash text NOT NULL,
    at         timestamptz NOT NULL,
    FOREIGN KEY (order_id, order_hash) REFERENCES consent.confirmations (order_id, order_hash)
);

-- Where a provisioning event stands with the billing system.
CREATE TABLE consent.deliveries (
    webhook_id  uuid PRIMARY KEY REFERENCES consent.provisioning_events,
    tenant      text NOT NULL,
    order_id    uuid NOT NULL REFERENCES consent.orders,
    body        text NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts    integer NOT NULL DEFAULT 0,
    last_status integer,
    last_error  text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
CREATE INDEX deliveries_dead ON consent.deliveries (created_at) WHERE state = 'dead';

-- Every message that ever came in, also from numbers that nobody asked.
CREATE TABLE consent.inbound_messages (
    channel     text NOT NULL,
    message_id  text NOT NULL,
    number      text NOT NULL,
    order_id    uuid REFERENCES consent.orders,
    result      text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (channel, message_id)
);

CREATE TABLE consent.do_not_call (
    number   text PRIMARY KEY,
    reason   text NOT NULL,
    order_id uuid REFERENCES consent.orders,
    at       timestamptz NOT NULL
);

-- Effects that wait to be run. run_at is also the lease: a claim moves it forward, so a crash makes the job due again.
CREATE TABLE consent.jobs (
    job_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    key         text NOT NULL UNIQUE,
    payload     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'done', 'held')),
    run_at      timestamptz NOT NULL DEFAULT now(),
    attempts    integer NOT NULL DEFAULT 0,
    token       uuid,
    error       text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX jobs_due ON consent.jobs (kind, run_at) WHERE state = 'ready';
CREATE INDEX jobs_held ON consent.jobs (created_at) WHERE state = 'held';

CREATE FUNCTION consent.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % only takes new rows', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.events
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.spoken_consents
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.code_replies
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.confirmations
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.provisioning_events
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();

-- An order that was refused, withdrawn or has otherwise ended can never be confirmed.
CREATE FUNCTION consent.refuse_confirmation_of_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM consent.orders
        WHERE order_id = NEW.order_id
          AND state IN ('refused', 'unclear', 'unreachable', 'ineligible', 'expired', 'withdrawn', 'failed')
    ) OR EXISTS (
        SELECT FROM consent.events
        WHERE order_id = NEW.order_id
          AND (
              type IN ('consent.denied', 'order.withdrawn', 'challenge.expired')
              OR (type = 'reply.received' AND body LIKE '%"reading":"stop"%')
          )
    ) THEN
        RAISE EXCEPTION 'order % has ended, it cannot be confirmed', NEW.order_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER not_after_the_end BEFORE INSERT ON consent.confirmations
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_confirmation_of_ended();

-- Terms never change once ordered.
CREATE FUNCTION consent.refuse_new_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.order_id, NEW.order_hash, NEW.tenant, NEW.number, NEW.created_at)
        IS DISTINCT FROM (OLD.order_id, OLD.order_hash, OLD.tenant, OLD.number, OLD.created_at) THEN
        RAISE EXCEPTION 'the terms of order % are fixed', OLD.order_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER terms_are_fixed BEFORE UPDATE ON consent.orders
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_new_terms();

GRANT USAGE ON SCHEMA consent TO consent_app;
GRANT SELECT, INSERT ON consent.events, consent.spoken_consents, consent.code_replies, consent.confirmations,
    consent.provisioning_events, consent.inbound_messages, consent.do_not_call TO consent_app;
GRANT SELECT, INSERT, UPDATE ON consent.orders, consent.jobs TO consent_app;
GRANT SELECT, INSERT, UPDATE (state, attempts, last_status, last_error, updated_at) ON consent.deliveries TO consent_app;

-- migrate: rollback

DROP SCHEMA consent CASCADE;
