-- Webhooks: what is posted to whom, what came of it, and how billing names an order
-- depends: 0001-ledger

-- migrate: apply

ALTER TABLE consent.orders ADD UNIQUE (order_id, tenant);
ALTER TABLE consent.provisioning_events ADD UNIQUE (webhook_id, order_id);

-- One row for each event and endpoint that hears of it. Only consent.confirmed lets anybody bill: such a row is that of a provisioning
-- event, of which there is one an order, and so both proofs stand behind it. The body is sealed with the key of the order's events.
-- schedule counts the replays: each begins the whole schedule anew.
CREATE TABLE consent.deliveries (
    webhook_id      uuid PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN (
        'consent.confirmed', 'consent.refused', 'consent.expired', 'consent.withdrawn', 'consent.frozen', 'order.provisioned'
    )),
    tenant          text NOT NULL,
    endpoint        text NOT NULL,
    order_id        uuid NOT NULL,
    event_id        uuid NOT NULL REFERENCES consent.events (event_id),
    provisioning_id uuid UNIQUE CHECK (provisioning_id = webhook_id),
    body            bytea NOT NULL,
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead', 'cancelled')),
    schedule        integer NOT NULL DEFAULT 0,
    attempts        integer NOT NULL DEFAULT 0,
    last_status     integer,
    last_error      text NOT NULL DEFAULT '',
    next_at         timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    delivered_at    timestamptz,
    CHECK ((kind = 'consent.confirmed') = (provisioning_id IS NOT NULL)),
    CHECK (state <> 'delivered' OR delivered_at IS NOT NULL),
    FOREIGN KEY (order_id, tenant) REFERENCES consent.orders (order_id, tenant),
    FOREIGN KEY (provisioning_id, order_id) REFERENCES consent.provisioning_events (webhook_id, order_id),
    UNIQUE (event_id, kind, endpoint)
);
CREATE INDEX deliveries_dead ON consent.deliveries (created_at) WHERE state = 'dead';
CREATE INDEX deliveries_pending ON consent.deliveries (tenant, endpoint) WHERE state = 'pending';
CREATE INDEX deliveries_by_order ON consent.deliveries (order_id);
CREATE INDEX deliveries_by_tenant ON consent.deliveries (tenant, created_at DESC, webhook_id DESC);
CREATE INDEX deliveries_by_time ON consent.deliveries (created_at DESC, webhook_id DESC);

-- Every POST and what was answered; the answer (a few headers, the beginning of the body) is sealed as the body is.
CREATE TABLE consent.delivery_attempts (
    webhook_id  uuid NOT NULL REFERENCES consent.deliveries,
    attempt     integer NOT NULL CHECK (attempt > 0),
    at          timestamptz NOT NULL,
    gateway     text NOT NULL,
    status      integer,
    error       text NOT NULL,
    duration_ms integer NOT NULL,
    answer      bytea NOT NULL,
    PRIMARY KEY (webhook_id, attempt)
);

-- Endpoints that want no webhooks any more (410), and those that were enabled again. The newest row of an endpoint counts.
CREATE TABLE consent.endpoint_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant    text NOT NULL,
    endpoint  text NOT NULL,
    disabled  boolean NOT NULL,
    reason    text NOT NULL,
    at        timestamptz NOT NULL
);
CREATE INDEX endpoint_changes_newest ON consent.endpoint_changes (tenant, endpoint, change_id DESC);

-- How the billing system names an order: from its answer to the webhook, or by its own word.
CREATE TABLE consent.billing_references (
    order_id  uuid NOT NULL,
    tenant    text NOT NULL,
    reference text NOT NULL CHECK (reference <> '' AND length(reference) <= 200),
    at        timestamptz NOT NULL,
    PRIMARY KEY (order_id, reference),
    FOREIGN KEY (order_id, tenant) REFERENCES consent.orders (order_id, tenant)
);
CREATE INDEX billing_references_by_name ON consent.billing_references (reference, tenant);

DO $$ DECLARE evidence text; BEGIN
    FOREACH evidence IN ARRAY ARRAY['delivery_attempts', 'endpoint_changes', 'billing_references'] LOOP
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON consent.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change()', evidence
        );
    END LOOP;
END $$;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON consent.deliveries
    FOR EACH STATEMENT EXECUTE FUNCTION consent.refuse_change();

-- What is posted, and to whom, never changes; only where it stands does.
CREATE FUNCTION consent.refuse_other_delivery() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.webhook_id, NEW.kind, NEW.tenant, NEW.endpoint, NEW.order_id, NEW.event_id, NEW.provisioning_id, NEW.body, NEW.created_at)
        IS DISTINCT FROM
        (OLD.webhook_id, OLD.kind, OLD.tenant, OLD.endpoint, OLD.order_id, OLD.event_id, OLD.provisioning_id, OLD.body, OLD.created_at)
        OR NEW.attempts < OLD.attempts OR NEW.schedule < OLD.schedule
        OR (OLD.delivered_at IS NOT NULL AND NEW.delivered_at IS DISTINCT FROM OLD.delivered_at) THEN
        RAISE EXCEPTION 'webhook % is fixed, only its state changes', OLD.webhook_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER content_is_fixed BEFORE UPDATE ON consent.deliveries
    FOR EACH ROW EXECUTE FUNCTION consent.refuse_other_delivery();

REVOKE EXECUTE ON FUNCTION consent.refuse_other_delivery FROM PUBLIC;
GRANT SELECT, INSERT ON consent.deliveries, consent.delivery_attempts, consent.endpoint_changes, consent.billing_references
    TO consent_app;
GRANT UPDATE (state, schedule, attempts, last_status, last_error, next_at, updated_at, delivered_at) ON consent.deliveries
    TO consent_app;

-- migrate: rollback

DROP TABLE consent.billing_references, consent.endpoint_changes, consent.delivery_attempts, consent.deliveries;
DROP FUNCTION consent.refuse_other_delivery();
