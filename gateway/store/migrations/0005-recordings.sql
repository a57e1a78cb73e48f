-- What is asked of the ledger about recordings
-- depends: 0001-ledger

-- migrate: apply

-- The few events that tell of recordings, among all others.
CREATE INDEX events_of_recordings ON consent.events (at, order_id) WHERE type IN ('recording.kept', 'recording.failed');

-- migrate: rollback

DROP INDEX consent.events_of_recordings;
