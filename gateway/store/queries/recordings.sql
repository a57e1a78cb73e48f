-- name: orders_with_recordings
SELECT order_id FROM consent.events WHERE type IN ('recording.kept', 'recording.failed')
GROUP BY order_id ORDER BY max(at) DESC LIMIT $1;

-- name: orders_with_old_recordings
SELECT DISTINCT recorded.order_id FROM consent.events AS recorded
WHERE recorded.type IN ('recording.kept', 'recording.failed')
  AND recorded.order_id > $1
  AND EXISTS (SELECT FROM consent.record_keys WHERE record_keys.order_id = recorded.order_id)
  AND recorded.at < CASE
      WHEN EXISTS (SELECT FROM consent.confirmations WHERE confirmations.order_id = recorded.order_id) THEN $2::timestamptz
      ELSE greatest($3::timestamptz, $4::timestamptz)
  END
  AND (
      SELECT count(*) FILTER (WHERE type <> 'recording.deleted') > count(*) FILTER (WHERE type = 'recording.deleted')
      FROM consent.events
      WHERE order_id = recorded.order_id AND type IN ('recording.kept', 'recording.failed', 'recording.deleted')
  )
ORDER BY recorded.order_id LIMIT $5;
