"""The record of one order: what is known, and what follows from an event. The only place where the promise is decided.

Pure: ``reduce(record, entry) -> (record, effects)``. Time is the entry's own. Ends are final: a refusal, a withdrawal or a
stop word is never undone by anything that comes later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY, Disclosure, unheard
from gateway.consent.effects import (
    BlockNumber,
    Effect,
    ExpireChallenge,
    IssueChallenge,
    Notify,
    PlaceCall,
    Provision,
    RenderPrompts,
    SendSms,
)
from gateway.consent.errors import ConsentError
from gateway.consent.order import Order
from gateway.consent.proofs import Affirmation, CodeReply, Confirmation, KeptRecording, SpokenConsent

State = Literal[
    "ordered",
    "calling",
    "spoken",
    "challenged",
    "confirmed",
    "provisioning",
    "provisioned",
    "refused",
    "unclear",
    "unreachable",
    "ineligible",
    "expired",
    "withdrawn",
    "frozen",
    "failed",
]
ENDS: frozenset[State] = frozenset(
    {"provisioned", "refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "frozen", "failed"}
)
CONFIRMED: frozenset[State] = frozenset({"confirmed", "provisioning", "provisioned"})
NOTICES: dict[State, ev.NoticeKind] = {
    "refused": "consent.refused",
    "unclear": "consent.refused",
    "ineligible": "consent.refused",
    "failed": "consent.refused",
    "expired": "consent.expired",
    "unreachable": "consent.expired",
    "withdrawn": "consent.withdrawn",
    "frozen": "consent.frozen",
    "provisioned": "order.provisioned",
}
"""What the billing system is told when an order comes to its end."""


Step = tuple["Record", tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Challenge:
    challenge_id: str
    nonce: str
    expires_at: datetime
    tries_left: int


@dataclass(frozen=True, slots=True)
class Record:
    """Everything about one order. *reason* says in words why it stands as it does.

    Of the call that runs (*on_call*), or ran last: *by_machine*: a machine has taken it; *disclosed*: what was heard whole; *affirmed*: the yes
    that a consent may rest on. *held*: a legal hold is on it. *reference*: the billing system's own name for it.
    """

    order: Order
    order_hash: str
    limits: ev.Limits
    call_now: bool
    state: State = "ordered"
    reason: str = ""
    calls: int = 0
    call_id: str | None = None
    gateway: str | None = None
    on_call: bool = False
    disclosed: frozenset[Disclosure] = frozenset()
    affirmed: Affirmation | None = None
    spoken: SpokenConsent | None = None
    recording: KeptRecording | None = None
    challenge: Challenge | None = None
    confirmation: Confirmation | None = None
    told_late: bool = False
    by_machine: bool = False
    held: bool = False
    erased: bool = False
    reference: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def is_open(self) -> bool:
        """Whether a refusal, a withdrawal or a stop word still ends this order."""
        return not self.ended and self.state not in CONFIRMED

    @property
    def may_be_called(self) -> bool:
        """Whether a call about this order may begin now."""
        return self.state == "ordered"


def begin(entry: ev.Entry) -> Step:
    """The record that ``order.created`` opens. Raises ConsentError for any other event or a false hash."""
    event = entry.event
    if not isinstance(event, ev.OrderCreated):
        raise ConsentError(f"a record begins with order.created, not {event.type}")
    if event.order_hash != event.order.order_hash:
        raise ConsentError(f"order {entry.order_id}: its hash {event.order_hash} is not that of its terms")
    record = Record(event.order, event.order_hash, event.limits, event.call_now)
    effects: tuple[Effect, ...] = (RenderPrompts(),)
    return record, (*effects, PlaceCall(0.0)) if event.call_now else effects


def reduce(record: Record, entry: ev.Entry) -> Step:
    """What *entry* makes of *record*. Events that have nothing to say to its state leave it as it is."""
    after, effects = _reduce(record, entry)
    if after.state != record.state and after.state in NOTICES:
        effects = (*effects, Notify(NOTICES[after.state]))
    return after, effects


def _reduce(record: Record, entry: ev.Entry) -> Step:
    event = entry.event
    match event:
        case ev.CallStarted() if record.may_be_called:
            return replace(
                record, state="calling", calls=record.calls + 1, call_id=event.call_id, gateway=event.gateway,
                on_call=True, by_machine=False, disclosed=frozenset(), affirmed=None,
            ), ()  # fmt: skip
        case ev.AnswerJudged(verdict="machine") if record.is_open and event.call_id == record.call_id:
            return _machine(record), ()
        case ev.PromptPlayed() if record.state == "calling" and event.call_id == record.call_id:
            return _played(record, event), ()
        case ev.DisclosureUnheard() if event.call_id == record.call_id:
            return _lost(record, event), ()
        case ev.UtteranceHeard() if record.is_open and event.call_id == record.call_id:
            return _heard(record, entry, event)
        case ev.ConsentSpoken():
            return _spoken(record, entry, event), ()
        case ev.ConsentDenied() if record.is_open:
            return _denied(record, event)
        case ev.RecordingKept() if record.state == "spoken" and event.call_id == record.call_id:
            return _recorded(record, entry, event)
        case ev.RecordingFailed() if record.state in ("spoken", "challenged") and event.call_id == record.call_id:
            return replace(record, state="failed", reason=f"the call could not be recorded: {event.reason}"), ()
        case ev.CallEnded() if event.call_id == record.call_id:
            return _call_ended(record, event)
        case ev.ChallengeIssued() if record.state == "spoken" and record.recording is not None:
            challenge = Challenge(event.challenge_id, event.nonce, event.expires_at, record.limits.code_tries)
            effects = SendSms("challenge"), ExpireChallenge(event.challenge_id, event.expires_at)
            return replace(record, state="challenged", challenge=challenge), effects
        case ev.ReplyReceived():
            return _reply(record, entry, event)
        case ev.ChallengeExpired() if record.challenge and event.challenge_id == record.challenge.challenge_id:
            return _expire(record) if record.state == "challenged" else record, ()
        case ev.OrderWithdrawn() if record.is_open:
            return replace(record, state="withdrawn", reason=event.reason), ()
        case ev.OrderFrozen() if record.is_open or record.state in CONFIRMED:
            return replace(record, state="frozen", reason=event.reason), ()
        case ev.HoldPlaced() | ev.HoldReleased():
            return replace(record, held=isinstance(event, ev.HoldPlaced)), ()
        case ev.RecordErased() if not record.held:
            return _erased(record, event), ()
        case _:
            return _billing(record, event)


def _billing(record: Record, event: ev.Event) -> Step:
    """What the billing system makes of a confirmed order."""
    match event:
        case ev.DeliveryAttempted(kind="consent.confirmed") if record.state == "confirmed":
            return replace(record, state="provisioning"), ()
        case ev.DeliveryDead(kind="consent.confirmed") if record.state in ("confirmed", "provisioning"):
            return replace(record, reason=f"webhook undelivered after {event.attempts} attempts"), ()
        case ev.OrderProvisioned() if record.state in ("confirmed", "provisioning"):
            reference = event.reference or record.reference
            return replace(record, state="provisioned", reason="", reference=reference), (SendSms("provisioned"),)
        case ev.BillingAcknowledged() if record.state in CONFIRMED and not record.reference:
            return replace(record, reference=event.reference), ()
    return record, ()


def replay(entries: Iterable[ev.Entry]) -> Record:
    """The record that *entries* add up to, their effects dropped. Raises ConsentError for an empty history."""
    record: Record | None = None
    for entry in entries:
        record, _ = begin(entry) if record is None else reduce(record, entry)
    if record is None:
        raise ConsentError("a record without events")
    return record


def _erased(record: Record, event: ev.RecordErased) -> Record:
    """Who is forgotten is asked nothing more."""
    record = replace(record, erased=True)
    return replace(record, state="withdrawn", reason=event.reason) if record.is_open else record


def _machine(record: Record) -> Record:
    """A machine has taken the call: it cannot consent, and what it was taken to have said is void."""
    record = replace(record, by_machine=True)
    if record.state in ("spoken", "challenged"):
        return replace(record, state="failed", reason="a machine had answered, and no machine can consent")
    return record


def _played(record: Record, event: ev.PromptPlayed) -> Record:
    if event.disclosure is None or unheard(event, record.limits.disclosure_loss):
        return record
    return replace(record, disclosed=record.disclosed | {event.disclosure})


def _lost(record: Record, event: ev.DisclosureUnheard) -> Record:
    """A disclosure turns out to have been lost on the line: what was said after it is no consent."""
    if record.state == "calling":
        return replace(record, disclosed=record.disclosed - {event.disclosure}, affirmed=None)
    if record.state in ("spoken", "challenged"):
        return replace(
            record, state="failed", reason=f"the disclosure {event.disclosure!r} was not heard: {event.reason}"
        )
    return record


def _heard(record: Record, entry: ev.Entry, event: ev.UtteranceHeard) -> Step:
    """A stop word, a no to the consent question, and a no beside a prompt count from the moment they are heard, whatever the
    call does next. A yes to the consent question can be relied on only if everything had been heard before it.
    """
    if event.verdict == "stop":
        return _denied(record, ev.ConsentDenied(call_id=event.call_id, denial="stop", step=event.step))
    if event.verdict == "deny" and (event.grants_consent or event.aside):
        return _denied(record, ev.ConsentDenied(call_id=event.call_id, denial="refused", step=event.step))
    if record.state != "calling" or not event.grants_consent or event.aside:
        return record, ()
    relied_on = event.verdict == "affirm" and record.disclosed.issuperset(MANDATORY)
    affirmed = Affirmation(entry.event_id, entry.at, event.audio_end_ms) if relied_on else None
    return replace(record, affirmed=affirmed), ()


def _spoken(record: Record, entry: ev.Entry, event: ev.ConsentSpoken) -> Record:
    """The record takes nobody's word for it: the yes, and every disclosure before it, are among its own events."""
    ours = event.call_id == record.call_id and event.order_hash == record.order_hash
    if record.state != "calling" or record.by_machine or record.affirmed is None or not ours:
        return record
    order_id = record.order.order_id
    spoken = SpokenConsent(order_id, event.order_hash, event.call_id, entry.event_id, entry.at, record.affirmed)
    return replace(record, state="spoken", spoken=spoken)


def _recorded(record: Record, entry: ev.Entry, event: ev.RecordingKept) -> Step:
    """The sound of the consent is safe: now the subscriber is asked by SMS."""
    assert record.spoken is not None, "the state says so"
    if event.duration_ms < record.spoken.affirmation.audio_end_ms:
        reason = f"the recording ends after {event.duration_ms} ms, before the consent does"
        return replace(record, state="failed", reason=reason), ()
    recording = KeptRecording(record.order.order_id, event.call_id, entry.event_id, entry.at, event.sha256)
    return replace(record, recording=recording), (IssueChallenge(),)


def _denied(record: Record, event: ev.ConsentDenied) -> Step:
    match event.denial:
        case "unclear":
            return replace(record, state="unclear", reason=f"no clear answer at {event.step}"), ()
        case "ineligible":
            return replace(record, state="ineligible", reason=f"not the owner or not adult, at {event.step}"), ()
        case "stop":
            return replace(record, state="refused", reason="asked not to be called again"), (BlockNumber(),)
        case "refused":
            return replace(record, state="refused", reason=f"said no at {event.step}"), ()


def _call_ended(record: Record, event: ev.CallEnded) -> Step:
    record = replace(record, on_call=False)
    if event.outcome == "machine" and record.is_open:
        record = _machine(record)
    if record.state == "spoken" and record.recording is None:
        return replace(record, state="failed", reason="the call ended, and its recording was not kept"), ()
    if record.state != "calling":
        return record, ()
    why = f"{event.outcome.replace('_', ' ')}: {event.reason}" if event.reason else event.outcome.replace("_", " ")
    if event.outcome == "transferred":
        return replace(record, state="failed", reason="handed to a person, who takes the order elsewhere"), ()
    if not record.call_now:
        return replace(record, state="ordered", reason=why), ()
    wish = event.next_call or ev.NextCall(wanted=True, after_s=record.limits.call_retry_s)
    if wish.wanted and record.calls < record.limits.call_attempts:
        return replace(record, state="ordered", reason=why), (PlaceCall(wish.after_s),)
    return replace(record, state="unreachable", reason=why), ()


def _reply(record: Record, entry: ev.Entry, event: ev.ReplyReceived) -> Step:
    if event.reading == "stop":
        if record.state in ("confirmed", "provisioning"):
            reason = "stop word by SMS before billing had taken the order"
            return replace(record, state="frozen", reason=reason), (SendSms("stopped"),)
        if not record.is_open:
            return record, ()
        return replace(record, state="withdrawn", reason="stop word by SMS"), (SendSms("stopped"),)
    challenge, spoken, recording = record.challenge, record.spoken, record.recording
    if challenge is None or spoken is None or recording is None or record.state in CONFIRMED:
        return record, ()
    if record.state == "expired":
        return _late(record)
    if record.state != "challenged":
        return record, ()
    if entry.at >= challenge.expires_at:
        return _late(_expire(record))
    if event.reading != "code" or not event.matches:
        left = challenge.tries_left - 1
        record = replace(record, challenge=replace(challenge, tries_left=left))
        if left > 0:
            return record, (SendSms("wrong_code", left),)
        return replace(record, state="failed", reason="too many wrong codes"), (SendSms("too_many_tries"),)
    reply = CodeReply(
        record.order.order_id, record.order_hash, challenge.challenge_id, entry.event_id, entry.at, challenge.expires_at
    )
    confirmation = Confirmation(spoken, recording, reply)
    return replace(record, state="confirmed", confirmation=confirmation), (Provision(confirmation),)


def _late(record: Record) -> Step:
    """Too late is told once: an answering machine must not be answered for ever."""
    if record.told_late:
        return record, ()
    return replace(record, told_late=True), (SendSms("late_reply"),)


def _expire(record: Record) -> Record:
    return replace(record, state="expired", reason="no code was replied in time")


def challenge_expiry(record: Record, now: datetime) -> datetime:
    """When a challenge issued *now* ends."""
    return now + timedelta(seconds=record.limits.code_ttl_s)
