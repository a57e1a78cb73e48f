"""What a crash left: calls that this gateway was running when it died are over, and their records are told so.

The recording process writes what it was sent even when its gateway is gone; what it wrote is closed, hashed and kept. A consent
that is in it to the end stands, every other is void.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.engine import Engine
from gateway.ledger.sealing import recording_key
from gateway.telephony.vault import path_of, salvage

log = structlog.get_logger(__name__)


async def close_lost_calls(engine: Engine, recordings: Path) -> int:
    """End every call that nobody runs any more; its recording lies in the folder *recordings*. How many there were."""
    lost = [record for record in await engine.lost_calls() if record.call_id is not None]
    await asyncio.gather(*(_close(engine, record, recordings) for record in lost))
    if lost:
        log.warning("gateway.lost_calls", calls=len(lost))
    return len(lost)


async def _close(engine: Engine, record: Record, recordings: Path) -> None:
    order_id, call_id = record.order.order_id, record.call_id
    assert call_id is not None, "chosen by it"
    salvaged = await _salvaged(engine, order_id, call_id, recordings)
    ended = ev.CallEnded(call_id=call_id, outcome="lost", reason="the gateway restarted", duration_ms=0)
    await engine.append(order_id, salvaged, ended)


async def _salvaged(
    engine: Engine, order_id: str, call_id: str, recordings: Path
) -> ev.RecordingKept | ev.RecordingFailed:
    key = recording_key(await engine.record_key(order_id), call_id)
    try:
        left = await asyncio.to_thread(salvage, path_of(recordings, call_id), key)
    except OSError as error:
        return ev.RecordingFailed(call_id=call_id, reason=str(error))
    if left is None:
        return ev.RecordingFailed(call_id=call_id, reason="the gateway died, and nothing was written")
    return ev.RecordingKept(
        call_id=call_id,
        sha256=left.sha256,
        duration_ms=left.duration_ms,
        rate=left.rate,
        blocks=left.blocks,
        salvaged=True,
    )
