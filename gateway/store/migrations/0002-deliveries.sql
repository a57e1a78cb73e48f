-- Webhooks: what is posted to whom, and where it stands
-- depends: 0001-ledger

-- migrate: apply

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

GRANT SELECT, INSERT, UPDATE (state, attempts, last_status, last_error, updated_at) ON consent.deliveries TO consent_app;

-- migrate: rollback

DROP TABLE consent.deliveries;
