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
CREATE INDEX orders_on_call ON consent.orders (gateway) WHERE gateway IS NOT NULL;
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

-- Every function here names where it looks things up: else a role could put types of its own in their way, in pg_temp.

-- The columns are what the envelope says, the envelope says no more than that and is spelt as RFC 8785 has it, and it follows from the
-- one before it.
CREATE FUNCTION consent.check_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said   jsonb := NEW.envelope::jsonb;
    before record;
BEGIN
    IF (said->>'order_id', (said->>'seq')::int, said->>'event_id', (said->>'at')::timestamptz, said->>'type')
        IS DISTINCT FROM (NEW.order_id::text, NEW.seq, NEW.event_id::text, NEW.at, NEW.type) THEN
        RAISE EXCEPTION 'event %/% is not what its envelope says', NEW.order_id, NEW.seq USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.envelope IS DISTINCT FROM format(
        '{"at":%s,"event_id":%s,"order_id":%s,"payload":%s,"previous":%s,"seq":%s,"type":%s}',
        said->'at', said->'event_id', said->'order_id', said->'payload', said->'previous', NEW.seq, said->'type'
    ) OR said->>'payload' !~ '^[A-Za-z0-9+/]+={0,2}$'
        OR said->>'at' !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$' THEN
        RAISE EXCEPTION 'event %/% has no canonical envelope', NEW.order_id, NEW.seq USING ERRCODE = 'check_violation';
    END IF;
    SELECT hash, at INTO before FROM consent.events WHERE order_id = NEW.order_id AND seq = NEW.seq - 1;
    IF (NEW.seq > 1) <> FOUND OR (NEW.seq > 1) = (NEW.type = 'order.created')
        OR said->>'previous' IS DISTINCT FROM coalesce(before.hash, '') OR NEW.at <= before.at THEN
        RAISE EXCEPTION 'event %/% does not follow its predecessor', NEW.order_id, NEW.seq USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO consent.pending_leaves (order_id, seq, hash) VALUES (NEW.order_id, NEW.seq, NEW.hash);
    RETURN NULL;
END $$;

-- Events that are not in the tree yet. One trigger puts every new event here, another takes away what has become a leaf; nobody else can.
CREATE TABLE consent.pending_leaves (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id uuid NOT NULL,
    seq      integer NOT NULL,
    hash     text NOT NULL,
    UNIQUE (order_id, seq)
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
-- Leaves follow each other without a gap, and an event that is a leaf is pending no longer. These two checks look up row by row, whatever
-- the planner thinks of it: their cost must not grow with the ledger.
CREATE FUNCTION consent.check_leaves() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added WHERE leaf > 0 AND NOT EXISTS (SELECT FROM consent.leaves WHERE leaves.leaf = added.leaf - 1)
    ) THEN
        RAISE EXCEPTION 'leaves follow each other without a gap' USING ERRCODE = 'check_violation';
    END IF;
    DELETE FROM consent.pending_leaves USING added
    WHERE (pending_leaves.order_id, pending_leaves.seq) = (added.order_id, added.seq);
    RETURN NULL;
END $$;
CREATE TRIGGER in_a_row AFTER INSERT ON consent.leaves REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION consent.check_leaves();

-- A node is the hash of its event, or of the two below it.
CREATE FUNCTION consent.check_nodes() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added
        LEFT JOIN consent.leaves ON added.level = 0 AND leaves.leaf = added.place
        LEFT JOIN consent.events ON (events.order_id, events.seq) = (leaves.order_id, leaves.seq)
        LEFT JOIN consent.nodes AS l ON (l.level, l.place) = (added.level - 1, 2 * added.place)
        LEFT JOIN consent.nodes AS r ON (r.level, r.place) = (added.level - 1, 2 * added.place + 1)
        WHERE added.hash IS DISTINCT FROM CASE added.level
            WHEN 0 THEN sha256('\x00'::bytea || decode(events.hash, 'hex'))
            ELSE sha256('\x01'::bytea || l.hash || r.hash)
        END
    ) THEN
        RAISE EXCEPTION 'a node is the hash of what is below it' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER of_the_tree AFTER INSERT ON consent.nodes REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION consent.check_nodes();

-- Nothing is signed for a tree that is not there.
CREATE TABLE consent.checkpoints (
    size      bigint PRIMARY KEY CHECK (size > 0),
    last_leaf bigint NOT NULL GENERATED ALWAYS AS (size - 1) STORED REFERENCES consent.leaves (leaf),
    note      text NOT NULL CHECK (split_part(note, E'\n', 2) = size::text),
    at        timestamptz NOT NULL
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
    order_id uuid NOT NULL REFERENCES consent.orders,
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

CREATE INDEX inbound_messages_of_order ON consent.inbound_messages (order_id);
CREATE INDEX inbound_messages_by_number ON consent.inbound_messages (number);

-- Effects that wait to be run. run_at is also the lease: a claim moves it forward, so a crash makes the job due again; gateway is who
-- claimed it last, and takes its own leases over when it starts anew.
CREATE TABLE consent.jobs (
    job_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    key         text NOT NULL UNIQUE,
    payload     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'done', 'held')),
    run_at      timestamptz NOT NULL DEFAULT now(),
    attempts    integer NOT NULL DEFAULT 0,
    token       uuid,
    gateway     text,
    error       text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX jobs_due ON consent.jobs (kind, run_at) WHERE state = 'ready';
CREATE INDEX jobs_of_order ON consent.jobs ((payload->>'order_id'));
CREATE INDEX jobs_of_webhook ON consent.jobs ((payload->>'webhook_id'));
CREATE INDEX jobs_held ON consent.jobs (created_at) WHERE state = 'held';

CREATE FUNCTION consent.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
-- at this moment is waited for. A transaction that looks at the past would not see it afterwards, so it may not confirm. A recording
-- that failed counts when it is that of the consent: earlier calls may have failed.
CREATE FUNCTION consent.is_no(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN state IN ('refused', 'unclear', 'unreachable', 'ineligible', 'expired', 'withdrawn', 'frozen', 'failed');
CREATE FUNCTION consent.refuse_after_a_no() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_is text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'order % is confirmed in READ COMMITTED, not in %', NEW.order_id, current_setting('transaction_isolation')
            USING ERRCODE = 'check_violation';
    END IF;
    SELECT state INTO now_is FROM consent.orders WHERE order_id = NEW.order_id FOR UPDATE;
    IF consent.is_no(now_is)
        OR EXISTS (SELECT FROM consent.refusals WHERE order_id = NEW.order_id)
        OR EXISTS (
            SELECT FROM consent.events WHERE order_id = NEW.order_id
            AND type IN ('consent.denied', 'order.withdrawn', 'order.frozen', 'challenge.expired', 'record.erased')
        )
        OR EXISTS (
            SELECT FROM consent.events JOIN consent.spoken_consents AS spoken USING (order_id)
            WHERE order_id = NEW.order_id AND events.type = 'recording.failed' AND events.at > spoken.at
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

-- Terms never change once ordered, and a no stays one. The number may be forgotten, not changed.
CREATE FUNCTION consent.refuse_new_terms() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.order_id, NEW.order_hash, NEW.tenant, NEW.created_at)
        IS DISTINCT FROM (OLD.order_id, OLD.order_hash, OLD.tenant, OLD.created_at)
        OR (NEW.number IS DISTINCT FROM OLD.number AND NEW.number IS NOT NULL) THEN
        RAISE EXCEPTION 'the terms of order % are fixed', OLD.order_id USING ERRCODE = 'restrict_violation';
    END IF;
    IF consent.is_no(OLD.state) AND NEW.state <> OLD.state THEN
        RAISE EXCEPTION 'order % is %, and stays so', OLD.order_id, OLD.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER terms_are_fixed BEFORE UPDATE ON consent.orders
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_new_terms();

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA consent FROM PUBLIC;
GRANT USAGE ON SCHEMA consent TO consent_app;
GRANT EXECUTE ON FUNCTION consent.is_no TO consent_app;
GRANT SELECT, INSERT ON consent.events, consent.record_keys, consent.leaves, consent.nodes, consent.checkpoints,
    consent.timestamps, consent.spoken_consents, consent.code_replies, consent.confirmations, consent.provisioning_events,
    consent.refusals, consent.inbound_messages TO consent_app;
GRANT SELECT ON consent.pending_leaves TO consent_app;
GRANT SELECT, INSERT ON consent.orders TO consent_app;
GRANT UPDATE (state, gateway, updated_at) ON consent.orders TO consent_app;
GRANT SELECT, INSERT, UPDATE ON consent.jobs TO consent_app;

-- migrate: rollback

DROP SCHEMA consent CASCADE;
