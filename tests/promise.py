"""The promise as a bystander keeps count of it: an account of its own, by which every webhook is judged.

It knows the events and nothing of the reducer. Whatever it has not seen happen in the right order cannot have been a consent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.record import Record


@dataclass(frozen=True)
class CallSeen:
    """How far a call has come. *asked*: the yes was said after everything had been told; *agreed*: it was bound to the order;
    *kept*: its sound is safe; *void*: a machine took it, or its sound was lost; *over*: nothing
    more can be said on it.
    """

    call_id: str = ""
    told: frozenset[str] = frozenset()
    asked: bool = False
    agreed: bool = False
    kept: bool = False
    void: bool = False
    over: bool = False

    @property
    def ready(self) -> bool:
        return self.agreed and self.kept and not self.void


@dataclass(frozen=True)
class Account:
    """*call* is the one that the record says is its own, the *claims*-th; what is said of others has no part in a consent. *challenged*: on the
    ground of this call. *refused*: somebody said no before both proofs were there. *fired*: webhooks so far.
    """

    order_hash: str
    call: CallSeen = CallSeen()
    claims: int = 0
    challenged: str = ""
    challenge_id: str = ""
    expires_at: datetime | None = None
    refused: bool = False
    fired: int = 0

    def permits(self, entry: ev.Entry) -> bool:
        """Whether *entry* may fire the webhook."""
        event, call = entry.event, self.call
        right = isinstance(event, ev.ReplyReceived) and event.reading == "code" and event.matches
        in_time = self.expires_at is not None and entry.at < self.expires_at
        whole = call.call_id == self.challenged and call.ready
        return right and in_time and whole and not self.refused and not self.fired

    def see(self, entry: ev.Entry, record: Record, *, fired: int) -> Account:
        """The account after *entry*, which fired so many webhooks; of the *record* after it, only which call is its own."""
        event, running = entry.event, record.call_id
        ours = running is not None and getattr(event, "call_id", "") == running
        account = replace(self, fired=self.fired + fired, refused=self.refused or self._is_no(event, ours=ours))
        if running is not None and record.calls > self.claims:
            return replace(account, call=CallSeen(running), claims=record.calls)
        if isinstance(event, ev.ChallengeIssued) and not self.challenged and self.call.ready:
            return replace(
                account, challenged=running or "", challenge_id=event.challenge_id, expires_at=event.expires_at
            )
        if isinstance(event, ev.ChallengeExpired) and self.challenge_id == event.challenge_id:
            return replace(account, refused=True)
        return replace(account, call=_on_call(self.call, event, self.order_hash)) if ours else account

    @staticmethod
    def _is_no(event: ev.Event, *, ours: bool) -> bool:
        match event:
            case ev.ConsentDenied() | ev.OrderWithdrawn() | ev.OrderFrozen() | ev.ReplyReceived(reading="stop"):
                return True
            case ev.UtteranceHeard(verdict="stop"):
                return ours
            case ev.UtteranceHeard(verdict="deny"):
                return ours and (event.aside or event.grants_consent)
        return False


def _on_call(call: CallSeen, event: ev.Event, order_hash: str) -> CallSeen:
    if isinstance(event, ev.AnswerJudged) and event.verdict == "machine":
        return replace(call, void=True)  # may be told later
    if call.over:
        return call
    match event:
        case ev.PromptPlayed(disclosure=term) if term is not None:
            whole = 0 < event.samples_planned == event.samples_sent and not event.held_ms
            heard = whole and (event.far is None or event.far.lost_fraction <= 0.05)
            return replace(call, told=call.told | {term}) if heard else call
        case ev.DisclosureUnheard():
            return replace(call, told=call.told - {event.disclosure}, asked=False, agreed=False)
        case ev.UtteranceHeard(grants_consent=True, aside=False):
            return replace(call, asked=event.verdict == "affirm" and call.told.issuperset(MANDATORY))
        case ev.ConsentSpoken():
            return replace(call, agreed=call.agreed or (call.asked and event.order_hash == order_hash))
        case ev.RecordingKept():
            return replace(call, kept=call.kept or (call.agreed and event.duration_ms >= 60_000))
        case ev.CallEnded():
            return replace(call, void=call.void or event.outcome == "machine", over=True)
        case ev.RecordingFailed():
            return replace(call, void=call.void or call.agreed)
    return call
