-- The right to be forgotten: the one way in which the application destroys anything
-- depends: 0002-deliveries 0003-access

-- migrate: apply

-- Destroys the key of a record, so that nobody can read its events, its recordings or its webhooks any more, and the number beside it. The
-- record itself says first that it happens; a legal hold forbids it.
CREATE FUNCTION consent.erase_record(erased uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'order % is erased in READ COMMITTED, where a legal hold is seen', erased USING ERRCODE = 'check_violation';
    END IF;
    PERFORM FROM consent.orders WHERE order_id = erased FOR UPDATE;
    IF NOT EXISTS (SELECT FROM consent.events WHERE order_id = erased AND type = 'record.erased') THEN
        RAISE EXCEPTION 'the record of order % does not say that it is erased', erased USING ERRCODE = 'check_violation';
    END IF;
    IF 'hold.placed' = (
        SELECT type FROM consent.events WHERE order_id = erased AND type IN ('hold.placed', 'hold.released')
        ORDER BY seq DESC LIMIT 1
    ) THEN
        RAISE EXCEPTION 'order % is under a legal hold', erased USING ERRCODE = 'check_violation';
    END IF;
    DELETE FROM consent.record_keys WHERE order_id = erased;
    UPDATE consent.orders SET number = NULL WHERE order_id = erased;
    UPDATE consent.inbound_messages SET number = NULL WHERE order_id = erased;
END $$;
REVOKE EXECUTE ON FUNCTION consent.erase_record FROM PUBLIC;
GRANT EXECUTE ON FUNCTION consent.erase_record TO consent_app;

-- migrate: rollback

DROP FUNCTION consent.erase_record;
