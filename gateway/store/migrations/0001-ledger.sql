-- The ledger and its tree, the two proofs, and jobs
-- depends:

-- migrate: apply

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'consent_app') THEN
        CREATE ROLE consent_app NOLOGIN;
    END IF;
END $$;

GRANT consent_app TO CURRENT_USER;

CREATE SCHEMA consent;

-- One row an order. The state is a projection of its events, kept for searching; the number goes when the person is erased.
CREATE TABLE consent.orders (
    order_id    uuid PRIMARY KEY,
    order_hash  text NOT NULL CHECK (order_hash ~ '^[0-9a-f]{64}$'),
    tenant      text NOT NULL,
    number      text CHECK (number ~ '^\+[0-9]{5,15}$'),
    state       text NOT NULL,
    gateway     text,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    UNIQUE (order_id, order_hash)
);
CREATE INDEX orders_by_number ON consent.orders (number, created_at DESC);
CREATE INDEX orders_by_tenant ON consent.orders (tenant, created_at DESC);

-- What the events and recordings of one order are sealed with, itself wrapped by the ledger's secret.
CREATE TABLE consent.record_keys (
    order_id uuid PRIMARY KEY REFERENCES consent.orders,
    wrapped  bytea NOT NULL
);

-- The ledger: INSERT only, each record a hash chain. The envelope is canonical JSON (RFC 8785), its payload sealed.
CREATE TABLE consent.events (
    order_id   uuid NOT NULL REFERENCES consent.orders,
    seq        integer NOT NULL CHECK (seq > 0),
    event_id   uuid NOT NULL UNIQUE,
    at         timestamptz NOT NULL,
    type       text NOT NULL,
    envelope   text NOT NULL CHECK (octet_length(envelope) < 1048576),
    hash       text NOT NULL,
    PRIMARY KEY (order_id, seq),
    UNIQUE (order_id, event_id, type, at),
    CHECK (hash = encode(sha256(convert_to(envelope, 'UTF8')), 'hex'))
);

-- The columns are what the envelope says, and the envelope follows from the one before it.
CREATE FUNCTION consent.check_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said   jsonb := NEW.envelope::jsonb;
    before record;
BEGIN
    IF (said->>'order_id', (said->>'seq')::int, said->>'event_id', (said->>'at')::timestamptz, said->>'type')
        IS DISTINCT FROM (NEW.order_id::text, NEW.seq, NEW.event_id::text, NEW.at, NEW.type) THEN
        RAISE EXCEPTION 'event %/% is not what its envelope says', NEW.order_id, NEW.seq USING ERRCODE = 'check_violation';
    END IF;
    SELECT hash, at INTO before FROM consent.events WHERE order_id = NEW.order_id AND seq = NEW.seq - 1;
    IF (NEW.seq > 1) <> FOUND OR said->>'previous' IS DISTINCT FROM coalesce(before.hash, '') OR NEW.at <= before.at THEN
        RAISE EXCEPTION 'event %/% does not follow its predecessor', NEW.order_id, NEW.seq USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO consent.pending_leaves (order_id, seq, hash) VALUES (NEW.order_id, NEW.seq, NEW.hash);
    RETURN NEW;
END $$;

-- Events that are not in the tree yet: filled by the trigger, emptied by whoever makes leaves of them.
CREATE TABLE consent.pending_leaves (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id uuid NOT NULL,
    seq      integer NOT NULL,
    hash     text NOT NULL
);
CREATE TRIGGER chained AFTER INSERT ON consent.events FOR EACH ROW EXECUTE FUNCTION consent.check_event();

-- The Merkle tree over all events (RFC 6962): leaves in their order, and every whole subtree above them.
CREATE TABLE consent.leaves (
    leaf     bigint PRIMARY KEY CHECK (leaf >= 0),
    order_id uuid NOT NULL,
    seq      integer NOT NULL,
    UNIQUE (order_id, seq),
    FOREIGN KEY (order_id, seq) REFERENCES consent.events (order_id, seq)
);
CREATE TABLE consent.nodes (
    level smallint NOT NULL CHECK (level >= 0),
    place bigint NOT NULL CHECK (place >= 0),
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, place)
);
CREATE TABLE consent.checkpoints (
    size bigint PRIMARY KEY CHECK (size > 0),
    note text NOT NULL,
    at   timestamptz NOT NULL
);
-- What a time-stamping authority says of a checkpoint (RFC 3161).
CREATE TABLE consent.timestamps (
    size  bigint PRIMARY KEY REFERENCES consent.checkpoints,
    token bytea NOT NULL,
    at    timestamptz NOT NULL
);

-- The promise, kept a second time: no provisioning without both proofs of the same order, spoken first, recorded, in time. Each
-- proof is an event of its own type and time in this order's record.
CREATE TABLE consent.spoken_consents (
    order_id       uuid PRIMARY KEY,
    order_hash     text NOT NULL,
    event_id       uuid NOT NULL,
    type           text NOT NULL GENERATED ALWAYS AS ('consent.spoken') STORED,
    at             timestamptz NOT NULL,
    affirmation_id uuid NOT NULL,
    affirmed_type  text NOT NULL GENERATED ALWAYS AS ('utterance.heard') STORED,
    affirmed_at    timestamptz NOT NULL,
    CHECK (affirmed_at < at),
    FOREIGN KEY (order_id, order_hash) REFERENCES consent.orders (order_id, order_hash),
    FOREIGN KEY (order_id, event_id, type, at) REFERENCES consent.events (order_id, event_id, type, at),
    FOREIGN KEY (order_id, affirmation_id, affirmed_type, affirmed_at)
        REFERENCES consent.events (order_id, event_id, type, at),
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
    order_id      uuid PRIMARY KEY,
    order_hash    text NOT NULL,
    spoken_at     timestamptz NOT NULL,
    recording_id  uuid NOT NULL,
    recorded_type text NOT NULL GENERATED ALWAYS AS ('recording.kept') STORED,
    recorded_at   timestamptz NOT NULL,
    replied_at    timestamptz NOT NULL,
    CHECK (spoken_at < recorded_at),
    CHECK (recorded_at < replied_at),
    FOREIGN KEY (order_id, order_hash, spoken_at) REFERENCES consent.spoken_consents (order_id, order_hash, at),
    FOREIGN KEY (order_id, recording_id, recorded_type, recorded_at)
        REFERENCES consent.events (order_id, event_id, type, at),
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

-- Every no: a denial, a stop word, a withdrawal, a void consent. Written with the event that it is.
CREATE TABLE consent.refusals (
    order_id uuid NOT NULL,
    event_id uuid NOT NULL,
    type     text NOT NULL,
    at       timestamptz NOT NULL,
    state    text NOT NULL,
    PRIMARY KEY (order_id, event_id),
    FOREIGN KEY (order_id, event_id, type, at) REFERENCES consent.events (order_id, event_id, type, at)
);

-- Every message that ever came in, also from numbers that nobody asked.
CREATE TABLE consent.inbound_messages (
    channel     text NOT NULL,
    message_id  text NOT NULL,
    number      text,
    order_id    uuid REFERENCES consent.orders,
    result      text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (channel, message_id)
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

DO $$ DECLARE evidence text; BEGIN
    FOREACH evidence IN ARRAY ARRAY[
        'events', 'leaves', 'nodes', 'checkpoints', 'timestamps', 'spoken_consents', 'code_replies', 'confirmations',
        'provisioning_events', 'refusals'
    ] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change()', evidence
        );
    END LOOP;
END $$;

-- Who said no can never be confirmed, and who was frozen never provisioned. The order is locked first: a no that is being written
-- at this moment is waited for.
CREATE FUNCTION consent.refuse_after_a_no() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_is text;
BEGIN
    SELECT state INTO now_is FROM consent.orders WHERE order_id = NEW.order_id FOR UPDATE;
    IF now_is IN ('refused', 'unclear', 'unreachable', 'ineligible', 'expired', 'withdrawn', 'frozen', 'failed')
        OR EXISTS (SELECT FROM consent.refusals WHERE order_id = NEW.order_id)
        OR EXISTS (
            SELECT FROM consent.events WHERE order_id = NEW.order_id AND type IN (
                'consent.denied', 'order.withdrawn', 'order.frozen', 'challenge.expired', 'recording.failed', 'record.erased'
            )
        )
    THEN
        RAISE EXCEPTION 'order % has ended with a no, it cannot be confirmed', NEW.order_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER not_after_a_no BEFORE INSERT ON consent.confirmations
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_after_a_no();
CREATE TRIGGER not_after_a_no BEFORE INSERT ON consent.provisioning_events
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_after_a_no();

-- Terms never change once ordered. The number may be forgotten, not changed.
CREATE FUNCTION consent.refuse_new_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.order_id, NEW.order_hash, NEW.tenant, NEW.created_at)
        IS DISTINCT FROM (OLD.order_id, OLD.order_hash, OLD.tenant, OLD.created_at)
        OR (NEW.number IS DISTINCT FROM OLD.number AND NEW.number IS NOT NULL) THEN
        RAISE EXCEPTION 'the terms of order % are fixed', OLD.order_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER terms_are_fixed BEFORE UPDATE ON consent.orders
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_new_terms();

GRANT USAGE ON SCHEMA consent TO consent_app;
GRANT SELECT, INSERT ON consent.events, consent.record_keys, consent.leaves, consent.nodes, consent.checkpoints,
    consent.timestamps, consent.spoken_consents, consent.code_replies, consent.confirmations, consent.provisioning_events,
    consent.refusals, consent.inbound_messages TO consent_app;
GRANT SELECT, INSERT, DELETE ON consent.pending_leaves TO consent_app;
GRANT SELECT, INSERT ON consent.orders TO consent_app;
GRANT UPDATE (state, gateway, updated_at) ON consent.orders TO consent_app;
GRANT SELECT, INSERT, UPDATE ON consent.jobs TO consent_app;

-- migrate: rollback

DROP SCHEMA consent CASCADE;
