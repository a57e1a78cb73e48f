"""The timeline of a record as people read it: each event in a line, and the state where it changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.consent import events as ev
from gateway.consent.order import mask
from gateway.consent.record import Record, begin, reduce


@dataclass(frozen=True, slots=True)
class Moment:
    """One event: its time of day, what happened, the details, and the state it led to (empty when unchanged)."""

    seq: int
    at: str
    what: str
    details: str
    state: str


def timeline(entries: Sequence[ev.Entry]) -> Iterator[Moment]:
    record: Record | None = None
    for entry in entries:
        before = record.state if record else ""
        record, _ = begin(entry) if record is None else reduce(record, entry)
        state = record.state if record.state != before else ""
        at = entry.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        yield Moment(entry.seq, at, entry.event.type, describe(entry.event), state)


def describe(event: ev.Event) -> str:
    """What *event* says, in a line; numbers masked."""
    match event:
        case ev.OrderCreated():
            order = event.order
            return f"{order.offer.name} for {mask(order.subscriber.number)}, hash {event.order_hash[:12]}"
        case ev.CallStarted():
            return f"{event.direction} at {event.gateway}"
        case ev.AnswerJudged():
            return f"{event.verdict}: {event.reason}, {event.at_ms / 1000:.1f} s after the answer"
        case ev.PromptPlayed():
            cut = "" if event.samples_sent == event.samples_planned else f" (cut at {event.samples_sent / 8000:.1f} s)"
            return f"[{event.step}]{' disclosure' if event.disclosure else ''} {event.text}{cut}{_line(event)}"
        case ev.DisclosureUnheard():
            return f"{event.disclosure}: {event.reason}"
        case ev.UtteranceHeard():
            testimony = event.testimony
            heard = testimony.dtmf or testimony.heard or "nothing"
            again = f", second pass {testimony.heard_open!r}" if testimony.heard_open else ""
            beside = "beside the prompt " if event.aside else ""
            return f"[{event.step}] {beside}heard {heard!r}{again} → {event.verdict}: {event.reason}"
        case ev.ConsentSpoken():
            twice = "given twice, " if len(event.captures) > 1 else ""
            return f"a clear yes, {twice}bound to the order's hash"
        case ev.ConsentDenied():
            return f"[{event.step}] {event.denial}"
        case ev.CallEnded():
            return f"{event.outcome.replace('_', ' ')} after {event.duration_ms / 1000:.1f} s {event.reason}".rstrip()
        case ev.RecordingKept():
            salvaged = ", what a crash left" if event.salvaged else ""
            return f"{event.duration_ms / 1000:.1f} s, sha256 {event.sha256[:16]}{salvaged}"
        case ev.RecordingFailed():
            return event.reason
        case ev.RecordingListened() | ev.EvidenceExported():
            return f"by {event.by}: {event.purpose}"
        case ev.RecordingDeleted():
            return f"{event.retention}: {event.reason}"
        case ev.HoldPlaced() | ev.HoldReleased() | ev.RecordErased():
            return f"by {event.by}: {event.reason}"
        case ev.ChallengeIssued():
            return f"code by SMS, good until {event.expires_at:%Y-%m-%d %H:%M:%S}"
        case ev.SmsSent():
            return f"{event.kind} over {event.channel}: {event.text}"
        case ev.SmsFailed():
            return f"{event.kind} over {event.channel}: {event.error}"
        case ev.ReplyReceived():
            reading = event.reading
            return f"{reading}{'' if reading != 'code' else ', right' if event.matches else ', wrong'} over {event.channel}"
        case ev.ReplyRepeated():
            return "the same message again, without effect"
        case ev.ChallengeExpired():
            return "no right code came in time"
        case ev.OrderWithdrawn() | ev.OrderFrozen():
            return f"by {event.source}: {event.reason}"
        case ev.DeliveryAttempted():
            return f"{event.kind} to {event.endpoint}, attempt {event.attempt}: {event.error or event.status}"
        case ev.DeliveryDead():
            return f"{event.kind} to {event.endpoint} given up after {event.attempts} attempts"
        case ev.OrderProvisioned():
            return f"accepted by billing{', reference ' + event.reference if event.reference else ''}"
        case ev.BillingAcknowledged():
            return f"billing's reference {event.reference}"


def _line(event: ev.PromptPlayed) -> str:
    """What went wrong on the line while it played."""
    held = f" (on hold for {event.held_ms / 1000:.1f} s of it)" if event.held_ms else ""
    lost = f" ({100 * event.far.lost_fraction:.0f} % lost)" if event.far is not None and event.far.lost_fraction else ""
    return held + lost
