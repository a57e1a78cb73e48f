"""The two proofs and what they add up to.

A provisioning effect is constructible only from a :class:`Confirmation`, and that only from a :class:`SpokenConsent`, the
:class:`KeptRecording` of its call and a :class:`CodeReply` of the same ``order_hash``, in this order of time (DESIGN: the promise,
kept in types).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.consent.errors import ProofMismatch


@dataclass(frozen=True, slots=True)
class Affirmation:
    """The clear affirmative phrase that answered the consent question, every disclosure heard before it: an event of the call.

    *audio_end_ms*: where it ends in the recording.
    """

    event_id: str
    at: datetime
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class SpokenConsent:
    """Proof one: the affirmation, said on the call *call_id* and bound to the order in the event *event_id*."""

    order_id: str
    order_hash: str
    call_id: str
    event_id: str
    at: datetime
    affirmation: Affirmation

    def __post_init__(self) -> None:
        if self.affirmation.at >= self.at:
            raise ProofMismatch(f"the consent ({self.at}) does not follow the affirmation ({self.affirmation.at})")


@dataclass(frozen=True, slots=True)
class KeptRecording:
    """The recording of the call *call_id*, which holds the affirmation (rule R8)."""

    order_id: str
    call_id: str
    event_id: str
    at: datetime
    sha256: str


@dataclass(frozen=True, slots=True)
class CodeReply:
    """Proof two: the code of the challenge *challenge_id*, replied by the subscriber's own number."""

    order_id: str
    order_hash: str
    challenge_id: str
    event_id: str
    at: datetime
    expires_at: datetime

    def __post_init__(self) -> None:
        if self.at >= self.expires_at:
            raise ProofMismatch(f"the code was replied at {self.at}, it expired at {self.expires_at}")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Both proofs of one order. Raises ProofMismatch when they are not of one order or not in this order of time."""

    spoken: SpokenConsent
    recording: KeptRecording
    reply: CodeReply

    def __post_init__(self) -> None:
        spoken, recording, reply = self.spoken, self.recording, self.reply
        if (spoken.order_id, spoken.order_hash) != (reply.order_id, reply.order_hash):
            raise ProofMismatch(f"proofs of two orders: {spoken.order_id} and {reply.order_id}")
        if (spoken.order_id, spoken.call_id) != (recording.order_id, recording.call_id):
            raise ProofMismatch(
                f"the consent was given on call {spoken.call_id}, the recording is of {recording.call_id}"
            )
        if not spoken.at < recording.at < reply.at:
            raise ProofMismatch(
                f"consent ({spoken.at}), recording ({recording.at}) and code reply ({reply.at}) do not follow each other"
            )

    @property
    def order_id(self) -> str:
        return self.spoken.order_id

    @property
    def order_hash(self) -> str:
        return self.spoken.order_hash
