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
from gateway.consent.errors import ConsentError
from gateway.consent.order import Order
from gateway.consent.proofs import CodeReply, Confirmation, SpokenConsent

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
    "failed",
]
ENDS: frozenset[State] = frozenset(
    {"provisioned", "refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "failed"}
)
CONFIRMED: frozenset[State] = frozenset({"confirmed", "provisioning", "provisioned"})


@dataclass(frozen=True, slots=True)
class RenderPrompts:
    """Speak every prompt of the order into the cache, before anybody waits for it."""


@dataclass(frozen=True, slots=True)
class PlaceCall:
    after_s: float


@dataclass(frozen=True, slots=True)
class IssueChallenge:
    """Make a challenge for this order: the engine draws the nonce and appends ``challenge.issued``."""


@dataclass(frozen=True, slots=True)
class ExpireChallenge:
    challenge_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SendSms:
    kind: ev.SmsKind
    tries_left: int = 0


@dataclass(frozen=True, slots=True)
class Provision:
    """Fire the webhook. Constructible only with both proofs in hand."""

    confirmation: Confirmation


@dataclass(frozen=True, slots=True)
class BlockNumber:
    """Put the subscriber on the do-not-call list (rule R11)."""


Effect = RenderPrompts | PlaceCall | IssueChallenge | ExpireChallenge | SendSms | Provision | BlockNumber
Step = tuple["Record", tuple[Effect, ...]]


@dataclass(frozen=True, slots=True)
class Challenge:
    challenge_id: str
    nonce: str
    expires_at: datetime
    tries_left: int


@dataclass(frozen=True, slots=True)
class Record:
    """Everything about one order. *reason* says in words why it stands as it does; *by_machine*: a machine has taken the
    call that runs, or ran last.
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
    spoken: SpokenConsent | None = None
    challenge: Challenge | None = None
    confirmation: Confirmation | None = None
    told_late: bool = False
    by_machine: bool = False

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
    event = entry.event
    match event:
        case ev.CallStarted() if record.may_be_called:
            return replace(
                record, state="calling", calls=record.calls + 1, call_id=event.call_id, gateway=event.gateway,
                by_machine=False,
            ), ()  # fmt: skip
        case ev.AnswerJudged(verdict="machine") if record.is_open and event.call_id == record.call_id:
            return _machine(record), ()
        case ev.UtteranceHeard() if record.is_open and event.call_id == record.call_id:
            return _heard(record, event)
        case ev.ConsentSpoken():
            return _spoken(record, entry, event)
        case ev.ConsentDenied() if record.is_open:
            return _denied(record, event)
        case ev.CallEnded() if event.call_id == record.call_id:
            return _call_ended(record, event)
        case ev.ChallengeIssued() if record.state == "spoken":
            challenge = Challenge(event.challenge_id, event.nonce, event.expires_at, record.limits.code_tries)
            effects = SendSms("challenge"), ExpireChallenge(event.challenge_id, event.expires_at)
            return replace(record, state="challenged", challenge=challenge), effects
        case ev.ReplyReceived():
            return _reply(record, entry, event)
        case ev.ChallengeExpired() if record.challenge and event.challenge_id == record.challenge.challenge_id:
            return _expire(record) if record.state == "challenged" else (record, ())
        case ev.OrderWithdrawn() if record.is_open:
            return replace(record, state="withdrawn", reason=event.reason), ()
        case ev.DeliveryAttempted() if record.state == "confirmed":
            return replace(record, state="provisioning"), ()
        case ev.DeliveryDead() if record.state == "provisioning":
            return replace(record, reason=f"webhook undelivered after {event.attempts} attempts"), ()
        case ev.OrderProvisioned() if record.state in ("confirmed", "provisioning"):
            return replace(record, state="provisioned", reason=""), (SendSms("provisioned"),)
    return record, ()


def replay(entries: Iterable[ev.Entry]) -> Record:
    """The record that *entries* add up to, their effects dropped. Raises ConsentError for an empty history."""
    record: Record | None = None
    for entry in entries:
        record, _ = begin(entry) if record is None else reduce(record, entry)
    if record is None:
        raise ConsentError("a record without events")
    return record


def _machine(record: Record) -> Record:
    """A machine has taken the call: it cannot consent, and what it was taken to have said is void."""
    record = replace(record, by_machine=True)
    if record.state in ("spoken", "challenged"):
        return replace(record, state="failed", reason="a machine had answered, and no machine can consent")
    return record


def _spoken(record: Record, entry: ev.Entry, event: ev.ConsentSpoken) -> Step:
    ours = event.call_id == record.call_id and event.order_hash == record.order_hash
    if record.state != "calling" or record.by_machine or not ours:
        return record, ()
    spoken = SpokenConsent(record.order.order_id, event.order_hash, event.call_id, entry.event_id, entry.at)
    return replace(record, state="spoken", spoken=spoken), (IssueChallenge(),)


def _heard(record: Record, event: ev.UtteranceHeard) -> Step:
    """A stop word, a no to the consent question, and a no beside a prompt count from the moment they are heard, whatever the
    call does next.
    """
    if event.verdict == "stop":
        return _denied(record, ev.ConsentDenied(call_id=event.call_id, denial="stop", step=event.step))
    if event.verdict == "deny" and (event.grants_consent or event.aside):
        return _denied(record, ev.ConsentDenied(call_id=event.call_id, denial="refused", step=event.step))
    return record, ()


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
    if event.outcome == "machine" and record.is_open:
        record = _machine(record)
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
        if not record.is_open:
            return record, ()
        return replace(record, state="withdrawn", reason="stop word by SMS"), (SendSms("stopped"),)
    challenge, spoken = record.challenge, record.spoken
    if challenge is None or spoken is None or record.state in CONFIRMED:
        return record, ()
    if record.state == "expired":
        return _late(record)
    if record.state != "challenged":
        return record, ()
    if entry.at >= challenge.expires_at:
        return _late(_expire(record)[0])
    if event.reading != "code" or not event.matches:
        left = challenge.tries_left - 1
        record = replace(record, challenge=replace(challenge, tries_left=left))
        if left > 0:
            return record, (SendSms("wrong_code", left),)
        return replace(record, state="failed", reason="too many wrong codes"), (SendSms("too_many_tries"),)
    reply = CodeReply(
        record.order.order_id, record.order_hash, challenge.challenge_id, entry.event_id, entry.at, challenge.expires_at
    )
    confirmation = Confirmation(spoken, reply)
    return replace(record, state="confirmed", confirmation=confirmation), (Provision(confirmation),)


def _late(record: Record) -> Step:
    """Too late is told once: an answering machine must not be answered for ever."""
    if record.told_late:
        return record, ()
    return replace(record, told_late=True), (SendSms("late_reply"),)


def _expire(record: Record) -> Step:
    return replace(record, state="expired", reason="no code was replied in time"), ()


def challenge_expiry(record: Record, now: datetime) -> datetime:
    """When a challenge issued *now* ends."""
    return now + timedelta(seconds=record.limits.code_ttl_s)
