"""The two proofs and what they add up to.

A provisioning effect is constructible only from a :class:`Confirmation`, and that only from a :class:`SpokenConsent`
and a :class:`CodeReply` of the same ``order_hash``, spoken first (DESIGN: the promise, kept in types).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.consent.errors import ProofMismatch


@dataclass(frozen=True, slots=True)
class SpokenConsent:
    """Proof one: the clear affirmative phrase, said on the call *call_id*, in the event *event_id*."""

    order_id: str
    order_hash: str
    call_id: str
    event_id: str
    at: datetime


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
    reply: CodeReply

    def __post_init__(self) -> None:
        if (self.spoken.order_id, self.spoken.order_hash) != (self.reply.order_id, self.reply.order_hash):
            raise ProofMismatch(f"proofs of two orders: {self.spoken.order_id} and {self.reply.order_id}")
        if self.spoken.at >= self.reply.at:
            raise ProofMismatch(f"the code reply ({self.reply.at}) does not follow the consent ({self.spoken.at})")

    @property
    def order_id(self) -> str:
        return self.spoken.order_id

    @property
    def order_hash(self) -> str:
        return self.spoken.order_hash
