"""Histories of orders that the tests begin with: the events of a call as it ought to be, and what may go wrong in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.consent import events as ev
from gateway.consent.canonical import digest
from gateway.consent.disclosure import MANDATORY, Disclosure
from gateway.consent.record import Record

if TYPE_CHECKING:
    from gateway.engine import Engine

CONSENT_AT_MS = 60_000
CALL_MS = 65_000


def started(call_id: str = "call-1", gateway: str = "g1") -> ev.CallStarted:
    return ev.CallStarted(call_id=call_id, gateway=gateway, direction="outbound")


def disclosed(term: Disclosure, call_id: str = "call-1", **changes: object) -> ev.PromptPlayed:
    """A disclosure that was heard whole, but for *changes*."""
    played = ev.PromptPlayed(
        call_id=call_id, step="terms", disclosure=term, text=f"the {term}", text_sha256=digest(f"the {term}".encode()),
        audio_sha256=digest(term.encode()), samples_planned=8000, samples_sent=8000, ssrc=7, first_sequence=1,
        last_sequence=50, first_timestamp=160, last_timestamp=8000,
    )  # fmt: skip
    return played.model_copy(update=changes)


def affirmed(call_id: str = "call-1") -> ev.UtteranceHeard:
    """The clear yes to the consent question."""
    return ev.UtteranceHeard(
        call_id=call_id, step="consent", grants_consent=True, verdict="affirm", reason="every witness agrees",
        start_ms=CONSENT_AT_MS - 1500, end_ms=CONSENT_AT_MS - 200, audio_start_ms=CONSENT_AT_MS - 2000,
        audio_end_ms=CONSENT_AT_MS,
    )  # fmt: skip


def consented(record: Record, call_id: str = "call-1") -> Iterator[ev.Event]:
    """A call on which all is told and the consent given; it still runs."""
    yield started(call_id)
    for term in MANDATORY:
        yield disclosed(term, call_id)
    yield affirmed(call_id)
    yield ev.ConsentSpoken(call_id=call_id, order_hash=record.order_hash)


def kept(call_id: str = "call-1", duration_ms: int = CALL_MS) -> ev.RecordingKept:
    return ev.RecordingKept(call_id=call_id, sha256=digest(call_id.encode()), duration_ms=duration_ms)


def ended(call_id: str = "call-1", outcome: ev.CallOutcome = "completed") -> ev.CallEnded:
    return ev.CallEnded(call_id=call_id, outcome=outcome, reason="", duration_ms=CALL_MS)


def good_call(record: Record, call_id: str = "call-1") -> Iterator[ev.Event]:
    """The same to its end: the recording is kept, and the challenge is issued."""
    yield from consented(record, call_id)
    yield kept(call_id)
    yield ended(call_id)


async def happen(engine: Engine, record: Record, events: Iterator[ev.Event]) -> Record:
    """Let *events* come to pass on *record*; what becomes of it."""
    for event in events:
        record = await engine.append(record.order.order_id, event)
    return record
