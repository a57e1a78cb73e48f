"""What an event may cause. Each effect is written as a job in the transaction of its event, and run at least once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.consent.events import NoticeKind, SmsKind
from gateway.consent.proofs import Confirmation


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
    kind: SmsKind
    tries_left: int = 0


@dataclass(frozen=True, slots=True)
class Provision:
    """Fire the webhook. Constructible only with both proofs in hand."""

    confirmation: Confirmation


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the billing system where the order stands. A notice bills nobody."""

    kind: NoticeKind


@dataclass(frozen=True, slots=True)
class BlockNumber:
    """Put the subscriber on the do-not-call list (rule R11)."""


Effect = RenderPrompts | PlaceCall | IssueChallenge | ExpireChallenge | SendSms | Provision | Notify | BlockNumber
