"""The promise over every history there is: all reachable states of the reducer, walked to the end.

Events are taken from an abstract alphabet: two calls, of the ten disclosures one by itself and nine together, a right hash and a
false one, a code in time and an hour too late. The walk goes on until no new state turns up, so it holds for histories of any
length, every pair and every triple of events among them. In each state the reducer stands beside the account of a bystander
(``promise.py``); states that differ only in names and times are one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args
from uuid import UUID

import pytest
from histories import affirmed, disclosed, kept
from promise import Account

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.effects import Effect, IssueChallenge, Provision, SendSms
from gateway.consent.order import DialplanRef, Order, OrderRequest
from gateway.consent.record import CONFIRMED, ENDS, Record, State, begin, reduce
from gateway.demo.orders import sample_order

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
REQUEST = OrderRequest.model_validate(sample_order("+821012345678", START.date()))
ORDER = Order(
    order_id=str(UUID(int=1)), tenant="billing", subscriber=REQUEST.subscriber, offer=REQUEST.offer, fit=REQUEST.fit,
    dialplan=DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64),
)  # fmt: skip
LIMITS = ev.Limits(call_attempts=2, call_retry_s=1800, code_ttl_s=3600, code_tries=2)
CREATED = ev.OrderCreated(order=ORDER, order_hash=ORDER.order_hash, call_now=True, limits=LIMITS)
CALLS = ("a", "b")
LOSSY = ev.FarReport(reports=1, lost_fraction=0.4, jitter_ms=9)
NO_ENDS = ENDS - {"provisioned"}
PLACE = ev.Entry(order_id=ORDER.order_id, seq=2, event_id="e", at=START, event=CREATED)
HOUR = "an hour passes"
Action = tuple[ev.Event, ...] | str


def alphabet() -> dict[str, Action]:
    """Every action by name; one is a few events where the order among them says nothing new."""
    actions: dict[str, Action] = {HOUR: HOUR}
    for call in CALLS:
        utterance = ev.UtteranceHeard(call_id=call, step="consent", grants_consent=True, verdict="unclear", reason="")
        said: dict[str, ev.Event] = {
            "started": ev.CallStarted(call_id=call, gateway="g1", direction="outbound"),
            "price": disclosed("price", call),
            "price cut": disclosed("price", call, samples_sent=7999),
            "price lost": disclosed("price", call, far=LOSSY),
            "price unheard": ev.DisclosureUnheard(call_id=call, disclosure="price", reason="lost", far=LOSSY),
            "yes": affirmed(call),
            "well": utterance,
            "no": utterance.model_copy(update={"verdict": "deny"}),
            "yes beside": affirmed(call).model_copy(update={"aside": True}),
            "no beside": utterance.model_copy(update={"verdict": "deny", "aside": True, "grants_consent": False}),
            "yes to something": affirmed(call).model_copy(update={"grants_consent": False}),
            "stop": utterance.model_copy(update={"verdict": "stop"}),
            "spoken": ev.ConsentSpoken(call_id=call, order_hash=ORDER.order_hash),
            "spoken of other terms": ev.ConsentSpoken(call_id=call, order_hash="f" * 64),
            "human": ev.AnswerJudged(call_id=call, verdict="human", reason="", at_ms=1),
            "machine": ev.AnswerJudged(call_id=call, verdict="machine", reason="", at_ms=1),
            "kept": kept(call),
            "kept too short": kept(call, 59_999),
            "not kept": ev.RecordingFailed(call_id=call, reason="disk full"),
            **{f"denied {denial}": ev.ConsentDenied(call_id=call, denial=denial, step="s") for denial in get_args(ev.Denial)},
            **{
                f"ended {outcome}": ev.CallEnded(call_id=call, outcome=outcome, reason="", duration_ms=1)
                for outcome in ("completed", "busy", "machine", "transferred", "lost")
            },
        }  # fmt: skip
        actions |= {f"{call}: {name}": (event,) for name, event in said.items()}
        actions[f"{call}: all but price"] = tuple(disclosed(term, call) for term in MANDATORY if term != "price")
    reply = ev.ReplyReceived(message_id="m", channel="http", reading="code", matches=True)
    alone: dict[str, ev.Event] = {
        "challenge": ev.ChallengeIssued(challenge_id="c", nonce="n", expires_at=START),
        "code": reply,
        "wrong code": reply.model_copy(update={"matches": False}),
        "stop by SMS": reply.model_copy(update={"reading": "stop", "matches": False}),
        "unreadable": reply.model_copy(update={"reading": "unreadable"}),
        "repeated": ev.ReplyRepeated(message_id="m"),
        "expired": ev.ChallengeExpired(challenge_id="c"),
        "another expired": ev.ChallengeExpired(challenge_id="d"),
        "withdrawn": ev.OrderWithdrawn(source="api", reason="r"),
        "frozen": ev.OrderFrozen(source="quality", reason="r"),
        "attempted": ev.DeliveryAttempted(webhook_id="w", attempt=1, status=500),
        "notice attempted": ev.DeliveryAttempted(webhook_id="v", attempt=1, status=200, kind="consent.frozen"),
        "dead": ev.DeliveryDead(webhook_id="w", attempts=10),
        "provisioned": ev.OrderProvisioned(webhook_id="w"),
        "acknowledged": ev.BillingAcknowledged(reference="B-1", source="api"),
        "held": ev.HoldPlaced(by="b", reason="r"),
        "released": ev.HoldReleased(by="b", reason="r"),
        "erased": ev.RecordErased(by="b", reason="r"),
        "sent": ev.SmsSent(kind="challenge", channel="http", message_id="m", text="t"),
        "created again": CREATED,
    }
    return actions | {name: (event,) for name, event in alone.items()}


ALPHABET = alphabet()


@dataclass(frozen=True)
class Point:
    """Where a history has come to. *at*: the time of its last event."""

    record: Record
    account: Account
    at: datetime

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """All that can make a difference to the promise later: not who was erased nor billing's reference, nor which of two
        calls is called a; and nothing that the bystander saw counts once he has seen a no, or the webhook.
        """
        record, account, running = self.record, self.account, self.record.call_id
        late = record.challenge is not None and self.at >= record.challenge.expires_at
        settled = account.refused or account.fired
        seen = (
            ()
            if settled
            else (replace(account.call, call_id=""), account.call.call_id == running, account.challenged != "")
        )
        return (
            record.state, record.calls, running is None, record.disclosed, record.affirmed is None,
            record.spoken and record.spoken.call_id == running, record.recording and record.recording.call_id == running,
            record.challenge and record.challenge.tries_left, late, record.confirmation is None, record.told_late,
            record.by_machine, record.held, account.refused, account.fired, seen,
        )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One event on the way: what it met, what it made, and what it caused."""

    before: Point
    entry: ev.Entry
    after: Point
    effects: tuple[Effect, ...]


def act(point: Point, action: Action) -> tuple[Point, list[Step]]:
    if isinstance(action, str):
        return replace(point, at=point.at + timedelta(hours=1)), []
    steps = []
    for event in action:
        at = point.at + timedelta(microseconds=1)
        dated = isinstance(event, ev.ChallengeIssued)
        now = event.model_copy(update={"expires_at": at + timedelta(hours=1)}) if dated else event
        entry = PLACE.model_copy(update={"at": at, "event": now})
        record, effects = reduce(point.record, entry)
        fired = sum(isinstance(effect, Provision) for effect in effects)
        after = Point(record, point.account.see(entry, record, fired=fired), at)
        steps.append(Step(point, entry, after, effects))
        point = after
    return point, steps


@dataclass(frozen=True)
class Walk:
    """*points* by fingerprint, the *edges* between them by action, and every *step* that was taken."""

    points: dict[tuple[Any, ...], Point]
    edges: dict[tuple[Any, ...], dict[str, tuple[Any, ...]]]
    steps: list[Step]


@cache
def walk() -> Walk:
    """To the end: every action in every state."""
    record, _ = begin(ev.Entry(order_id=ORDER.order_id, seq=1, event_id="e", at=START, event=CREATED))
    first = Point(record, Account(ORDER.order_hash), START)
    points, edges, steps = {first.fingerprint: first}, {}, []
    waiting = deque([first])
    while waiting:
        point = waiting.popleft()
        leads = edges.setdefault(point.fingerprint, {})
        for name, action in ALPHABET.items():
            after, taken = act(point, action)
            found = leads[name] = after.fingerprint
            if found != point.fingerprint or any(step.effects for step in taken):
                steps += taken
            if found not in points:
                points[found] = after
                waiting.append(after)
    return Walk(points, edges, steps)


def firing() -> Iterator[tuple[Step, Provision]]:
    for step in walk().steps:
        for effect in step.effects:
            if isinstance(effect, Provision):
                yield step, effect


def test_every_state_is_reached() -> None:
    assert set(get_args(State)) == {point.record.state for point in walk().points.values()}


WITHOUT_CONSEQUENCE = {
    "repeated", "notice attempted", "sent", "created again", "another expired", "dead", "acknowledged",
    *(f"{call}: {what}" for call in CALLS for what in (
        "price cut", "price lost", "human", "yes beside", "yes to something", "spoken of other terms",
    )),
}  # fmt: skip
"""What must change nothing at all, and what tells billing's affairs alone."""


@pytest.mark.parametrize(
    "name", sorted(name for name in set(ALPHABET) - WITHOUT_CONSEQUENCE if not name.startswith("b: "))
)
def test_every_action_makes_a_difference_somewhere(name: str) -> None:
    """Else the walk would prove nothing about it."""
    assert any(here != there[name] for here, there in walk().edges.items())


@pytest.mark.parametrize("name", sorted(WITHOUT_CONSEQUENCE))
def test_what_is_of_no_consequence_makes_none_anywhere(name: str) -> None:
    assert all(here == there[name] for here, there in walk().edges.items())


def test_no_webhook_without_everything_that_was_promised() -> None:
    """Both proofs of this order's hash, spoken first, recorded, replied in time, and no no before."""
    found = list(firing())
    assert found
    for step, effect in found:
        assert step.before.account.permits(step.entry), step
        confirmation = effect.confirmation
        assert ORDER.order_hash == confirmation.order_hash == confirmation.reply.order_hash
        assert (
            confirmation.spoken.at < confirmation.recording.at < confirmation.reply.at < confirmation.reply.expires_at
        )
        assert step.before.account.challenged == confirmation.spoken.call_id == confirmation.recording.call_id


def test_whatever_was_promised_fires_it() -> None:
    """The account is no paper tiger: where it permits a webhook, there is one."""
    assert all(
        any(isinstance(effect, Provision) for effect in step.effects)
        for step in walk().steps
        if step.before.account.permits(step.entry) and step.before.record.state == "challenged"
    )


def test_the_webhook_fires_once_at_most() -> None:
    assert {0, 1} == {point.account.fired for point in walk().points.values()}


def test_a_no_is_never_undone() -> None:
    for step in walk().steps:
        before, after = step.before.record, step.after.record
        if before.state in NO_ENDS:
            assert before.state == after.state
            assert set(step.effects) <= {SendSms("late_reply")}


def test_after_a_no_nothing_is_confirmed() -> None:
    for point in walk().points.values():
        if point.account.refused and not point.account.fired:
            assert point.record.confirmation is None


def test_only_confirmed_orders_are_provisioned() -> None:
    for point in walk().points.values():
        confirmed = point.record.confirmation is not None
        assert confirmed is bool(point.account.fired)
        assert confirmed or point.record.state not in CONFIRMED
        assert not confirmed or point.record.state in (*CONFIRMED, "frozen")


def test_there_is_one_challenge_and_it_follows_the_recording() -> None:
    for step in walk().steps:
        if any(isinstance(effect, IssueChallenge) for effect in step.effects):
            assert isinstance(step.entry.event, ev.RecordingKept)
            assert step.before.record.challenge is None
        assert step.before.record.challenge is None or step.after.record.challenge is not None


def test_every_state_can_end() -> None:
    """And what can end needs nobody's luck: from everywhere a way leads to an end."""
    ways_back: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for here, leads in walk().edges.items():
        for there in leads.values():
            ways_back.setdefault(there, set()).add(here)
    ending = {mark for mark, point in walk().points.items() if point.record.ended}
    waiting = list(ending)
    while waiting:
        for here in ways_back.get(waiting.pop(), set()) - ending:
            ending.add(here)
            waiting.append(here)
    assert set(walk().points) == ending
