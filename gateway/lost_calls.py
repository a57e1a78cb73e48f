"""What a crash left: calls that this gateway was running when it died are over, and their records are told so."""

from __future__ import annotations

import structlog

from gateway.consent import events as ev
from gateway.engine import Engine

log = structlog.get_logger(__name__)


async def close_lost_calls(engine: Engine) -> int:
    """End every call that nobody runs any more. How many there were."""
    lost = await engine.lost_calls()
    for record in lost:
        if record.call_id is not None:
            reason = "the gateway restarted"
            ended = ev.CallEnded(call_id=record.call_id, outcome="lost", reason=reason, duration_ms=0)
            await engine.append(record.order.order_id, ended)
    if lost:
        log.warning("gateway.lost_calls", calls=len(lost))
    return len(lost)
