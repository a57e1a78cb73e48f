-- The right to be forgotten: the one way in which the application destroys anything
-- depends: 0002-deliveries 0003-access

-- migrate: apply

-- Calls of erased records whose files a gateway has to delete yet: their recordings are unreadable, their traces are not.
CREATE TABLE consent.erased_calls (
    call_id text NOT NULL,
    gateway text NOT NULL,
    at      timestamptz NOT NULL,
    PRIMARY KEY (gateway, call_id)
);
GRANT SELECT, INSERT, DELETE ON consent.erased_calls TO consent_app;

-- Destroys the key of a record, so that nobody can read its events, its recordings or its webhooks any more, and takes away what stands
-- in the clear beside it: the number, also where it came in and belonged to no order, and what jobs of the order had to say. The record
-- itself says first that it happens; a legal hold forbids it, and so does whatever is not over yet.
CREATE FUNCTION consent.erase_record(erased uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'order % is erased in READ COMMITTED, where a legal hold is seen', erased USING ERRCODE = 'check_violation';
    END IF;
    SELECT number, state INTO known FROM consent.orders WHERE order_id = erased FOR UPDATE;
    IF (SELECT type FROM consent.events WHERE order_id = erased ORDER BY seq DESC LIMIT 1) IS DISTINCT FROM 'record.erased' THEN
        RAISE EXCEPTION 'the record of order % does not say that it is erased', erased USING ERRCODE = 'check_violation';
    END IF;
    IF 'hold.placed' = (
        SELECT type FROM consent.events WHERE order_id = erased AND type IN ('hold.placed', 'hold.released')
        ORDER BY seq DESC LIMIT 1
    ) THEN
        RAISE EXCEPTION 'order % is under a legal hold', erased USING ERRCODE = 'check_violation';
    END IF;
    IF NOT (consent.is_no(known.state) OR known.state = 'provisioned') THEN
        RAISE EXCEPTION 'order % is %, and has not ended', erased, known.state USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM consent.deliveries WHERE order_id = erased AND state = 'pending') THEN
        RAISE EXCEPTION 'order % has a webhook under way', erased USING ERRCODE = 'check_violation';
    END IF;
    DELETE FROM consent.record_keys WHERE order_id = erased;
    UPDATE consent.orders SET number = NULL WHERE order_id = erased;
    UPDATE consent.inbound_messages SET number = NULL
    WHERE order_id = erased OR (order_id IS NULL AND inbound_messages.number = known.number);
    UPDATE consent.jobs SET state = 'done', error = '', token = NULL, finished_at = coalesce(finished_at, now())
    WHERE payload->>'order_id' = erased::text
        OR payload->>'webhook_id' IN (SELECT webhook_id::text FROM consent.deliveries WHERE order_id = erased);
END $$;
REVOKE EXECUTE ON FUNCTION consent.erase_record FROM PUBLIC;
GRANT EXECUTE ON FUNCTION consent.erase_record TO consent_app;

-- migrate: rollback

DROP FUNCTION consent.erase_record;
DROP TABLE consent.erased_calls;
