"""The events of a record: facts, in the past tense, never changed.

Each carries only what happened; what follows from it is decided in :mod:`gateway.consent.record`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.consent.disclosure import Disclosure
from gateway.consent.order import Order
from gateway.consent.testimony import Testimony
from gateway.consent.verdict import Verdict

CallOutcome = Literal[
    "completed",  # the script ran to its end
    "postponed",  # the callee was released politely (rule R18)
    "hung_up",  # the callee hung up
    "busy",
    "no_answer",
    "rejected",
    "transferred",  # handed to a person (rule R4)
    "machine",  # an answering machine took the call
    "failed",  # the gateway or the line failed
    "lost",  # the gateway that ran the call is gone
]
Denial = Literal["refused", "unclear", "ineligible", "stop"]
SmsKind = Literal["challenge", "wrong_code", "too_many_tries", "late_reply", "stopped", "provisioned"]
Reading = Literal["code", "stop", "unreadable"]
NoticeKind = Literal["consent.refused", "consent.expired", "consent.withdrawn", "consent.frozen", "order.provisioned"]
WebhookKind = Literal["consent.confirmed"] | NoticeKind
Interruption = Literal["", "objection", "machine", "hung_up", "key", "bargein", "stopping"]


class Fact(BaseModel):
    """Base of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Fact):
    """The policy in force when the order was made, kept so that a replay never depends on today's settings.

    *disclosure_loss*: the share of a disclosure's packets, 0 to 1, that may be lost on their way to the subscriber.
    """

    call_attempts: int
    call_retry_s: float
    code_ttl_s: float
    code_tries: int
    disclosure_loss: float = 0.05


class OrderCreated(Fact):
    type: Literal["order.created"] = "order.created"
    order: Order
    order_hash: str
    call_now: bool
    limits: Limits


class CallStarted(Fact):
    type: Literal["call.started"] = "call.started"
    call_id: str
    gateway: str
    direction: Literal["inbound", "outbound"]


class AnswerJudged(Fact):
    """Who has answered an outbound call, told from voice activity and a beep alone, with the evidence. It can end a call and
    take a consent away, and never give one. All times in ms: *at_ms* from the answer, *silence_ms* before the first word.
    """

    type: Literal["answer.judged"] = "answer.judged"
    call_id: str
    verdict: Literal["human", "machine", "unsure"]
    reason: str
    at_ms: int
    silence_ms: int = 0
    greeting_ms: int = 0
    words: int = 0
    contrast_db: float = 0.0
    tone_hz: int = 0
    tone_ms: int = 0


class FarReport(Fact):
    """What *reports* receiver reports (RTCP, RFC 3550 §6.4) of the far end say of the packets of one prompt: the worst share
    lost, 0 to 1, and the worst jitter.
    """

    reports: int
    lost_fraction: float
    jitter_ms: float


class PromptPlayed(Fact):
    """Samples at 8 kHz. Whether it was heard is decided by :func:`gateway.consent.disclosure.unheard`.

    *text_sha256* is over its UTF-8, *audio_sha256* over 16-bit little-endian samples at 16 kHz. The RTP numbers are those of the
    first and the last packet, None when none was sent. *held_ms*: how long the call was on hold meanwhile. *far* is None when
    nothing was reported.
    """

    type: Literal["prompt.played"] = "prompt.played"
    call_id: str
    step: str
    disclosure: Disclosure | None
    text: str
    text_sha256: str = ""
    voice: str = ""
    audio_sha256: str
    samples_planned: int
    samples_sent: int
    ssrc: int | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    interruption: Interruption = ""
    held_ms: int = 0
    far: FarReport | None = None


class DisclosureUnheard(Fact):
    """The far end reported only afterwards that a disclosure was lost on its way."""

    type: Literal["disclosure.unheard"] = "disclosure.unheard"
    call_id: str
    disclosure: Disclosure
    reason: str
    far: FarReport | None = None


class UtteranceHeard(Fact):
    """What was heard after one question, or beside a prompt (*aside*), with all that the witnesses said of it: from the
    testimony alone the verdict can be judged again.

    All times are in the call's recording. *start_ms*/*end_ms*: the speech. *audio_start_ms*/*audio_end_ms*: what was judged,
    the caller's channel; *audio_sha256* is over its 16-bit little-endian samples.
    """

    type: Literal["utterance.heard"] = "utterance.heard"
    call_id: str
    step: str
    grants_consent: bool
    aside: bool = False
    verdict: Verdict
    reason: str
    testimony: Testimony = Testimony()
    start_ms: int = 0
    end_ms: int = 0
    audio_start_ms: int = 0
    audio_end_ms: int = 0
    audio_sha256: str = ""
    model: str = ""
    model_sha256: str = ""
    grammar_sha256: str = ""


class Capture(Fact):
    """One affirmative that a consent rests on: the question, and the utterance by the hash of its audio."""

    step: str
    purpose: str
    said: str
    audio_sha256: str


class ConsentSpoken(Fact):
    """*captures*: every affirmative that the script demanded, in order; the binding one is the last."""

    type: Literal["consent.spoken"] = "consent.spoken"
    call_id: str
    order_hash: str
    captures: tuple[Capture, ...] = ()


class ConsentDenied(Fact):
    type: Literal["consent.denied"] = "consent.denied"
    call_id: str
    denial: Denial
    step: str


class NextCall(Fact):
    """What the dialplan says about another call after this one; how many there are in all is said by the order's limits."""

    wanted: bool
    after_s: float


class CallEnded(Fact):
    """*next_call*: where the dialplan has a say in it, else the order's limits decide alone."""

    type: Literal["call.ended"] = "call.ended"
    call_id: str
    outcome: CallOutcome
    reason: str
    duration_ms: int
    next_call: NextCall | None = None


class RecordingKept(Fact):
    """*sha256* is over the recording as WAV, *blocks* over each *block_ms* of its 16-bit little-endian stereo samples, so that a
    cut file proves its prefix. *salvaged*: it is what a crash left.
    """

    type: Literal["recording.kept"] = "recording.kept"
    call_id: str
    sha256: str
    duration_ms: int
    rate: int = 8000
    block_ms: int = 10_000
    blocks: tuple[str, ...] = ()
    salvaged: bool = False


class RecordingFailed(Fact):
    """The call could not be recorded to its end: no consent rests on it."""

    type: Literal["recording.failed"] = "recording.failed"
    call_id: str
    reason: str


class RecordingListened(Fact):
    """Somebody was given the sound of a call."""

    type: Literal["recording.listened"] = "recording.listened"
    call_id: str
    by: str
    purpose: str


class RecordingDeleted(Fact):
    """Its time of keeping was over (*retention*: the class), or the person was erased."""

    type: Literal["recording.deleted"] = "recording.deleted"
    call_id: str
    retention: str
    reason: str


class EvidenceExported(Fact):
    type: Literal["evidence.exported"] = "evidence.exported"
    by: str
    purpose: str


class HoldPlaced(Fact):
    """Legal hold: nothing of this record is deleted or erased until it is released."""

    type: Literal["hold.placed"] = "hold.placed"
    by: str
    reason: str


class HoldReleased(Fact):
    type: Literal["hold.released"] = "hold.released"
    by: str
    reason: str


class RecordErased(Fact):
    """The person is forgotten: the record's key is destroyed together with this event."""

    type: Literal["record.erased"] = "record.erased"
    by: str
    reason: str


class ChallengeIssued(Fact):
    """The code itself is not stored: it is derived from *nonce* and a secret (see ``gateway.consent.code``)."""

    type: Literal["challenge.issued"] = "challenge.issued"
    challenge_id: str
    nonce: str
    expires_at: datetime


class SmsSent(Fact):
    """*text* as sent, with the code masked. *reference*: the event that the message answers; each is answered once."""

    type: Literal["sms.sent"] = "sms.sent"
    kind: SmsKind
    channel: str
    message_id: str
    text: str
    reference: str = ""


class SmsFailed(Fact):
    """The message that answers the event *reference* is not sent any more."""

    type: Literal["sms.failed"] = "sms.failed"
    kind: SmsKind
    channel: str
    error: str
    reference: str = ""


class ReplyReceived(Fact):
    """A reply from the subscriber's own number. *matches*: the code was the live challenge's."""

    type: Literal["reply.received"] = "reply.received"
    message_id: str
    channel: str
    reading: Reading
    matches: bool


class ReplyRepeated(Fact):
    """The carrier delivered the same message again; it has no effect."""

    type: Literal["reply.repeated"] = "reply.repeated"
    message_id: str


class ChallengeExpired(Fact):
    type: Literal["challenge.expired"] = "challenge.expired"
    challenge_id: str


class OrderWithdrawn(Fact):
    type: Literal["order.withdrawn"] = "order.withdrawn"
    source: Literal["api", "cli", "do_not_call"]
    reason: str


class OrderFrozen(Fact):
    """A check of the call failed, or somebody doubts it: the order goes no further, and who was told to bill is told to stop
    (rule R8).
    """

    type: Literal["order.frozen"] = "order.frozen"
    source: Literal["api", "cli", "quality"]
    reason: str


class DeliveryAttempted(Fact):
    """One POST of a webhook of *kind* to the tenant's *endpoint*. *status* is the HTTP status, None when there was no answer."""

    type: Literal["delivery.attempted"] = "delivery.attempted"
    webhook_id: str
    attempt: int
    status: int | None
    error: str = ""
    kind: WebhookKind = "consent.confirmed"
    endpoint: str = "main"


class DeliveryDead(Fact):
    type: Literal["delivery.dead"] = "delivery.dead"
    webhook_id: str
    attempts: int
    kind: WebhookKind = "consent.confirmed"
    endpoint: str = "main"


class BillingAcknowledged(Fact):
    """The billing system names the order by its own *reference*."""

    type: Literal["billing.acknowledged"] = "billing.acknowledged"
    reference: str
    source: Literal["webhook", "api"]


class OrderProvisioned(Fact):
    type: Literal["order.provisioned"] = "order.provisioned"
    webhook_id: str
    reference: str = ""


Event = Annotated[
    OrderCreated
    | CallStarted
    | AnswerJudged
    | PromptPlayed
    | DisclosureUnheard
    | UtteranceHeard
    | ConsentSpoken
    | ConsentDenied
    | CallEnded
    | RecordingKept
    | RecordingFailed
    | RecordingListened
    | RecordingDeleted
    | EvidenceExported
    | HoldPlaced
    | HoldReleased
    | RecordErased
    | ChallengeIssued
    | SmsSent
    | SmsFailed
    | ReplyReceived
    | ReplyRepeated
    | ChallengeExpired
    | OrderWithdrawn
    | OrderFrozen
    | DeliveryAttempted
    | DeliveryDead
    | OrderProvisioned
    | BillingAcknowledged,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Entry(BaseModel):
    """An event in its place in the record; *hash* names it once it is in the ledger."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    seq: int
    event_id: str
    at: datetime
    event: Event
    hash: str = ""


def parse_event(data: Any) -> Event:
    """The event in *data* (parsed JSON). Raises pydantic.ValidationError."""
    return _EVENT.validate_python(data)
