"""The promise over random long histories: duplicated, reordered, late, of two calls, with false hashes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args
from uuid import UUID

from histories import affirmed, disclosed, kept, started
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from promise import Account

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.effects import Effect, Notify, Provision, SendSms
from gateway.consent.order import DialplanRef, Order, OrderRequest
from gateway.consent.record import CONFIRMED, ENDS, Record, begin, reduce, replay
from gateway.consent.verdict import Verdict
from gateway.demo.orders import sample_order

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
EXPIRES = START + timedelta(hours=1)
REQUEST = OrderRequest.model_validate(sample_order("+821012345678", START.date()))
ORDER = Order(
    order_id=str(UUID(int=1)), tenant="billing", subscriber=REQUEST.subscriber, offer=REQUEST.offer, fit=REQUEST.fit,
    dialplan=DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64),
)  # fmt: skip
HASH = ORDER.order_hash
LIMITS = ev.Limits(call_attempts=3, call_retry_s=1800, code_ttl_s=3600, code_tries=3)
CREATED = ev.OrderCreated(order=ORDER, order_hash=HASH, call_now=True, limits=LIMITS)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def entry(event: ev.Event, seq: int, at: datetime) -> ev.Entry:
    return ev.Entry(order_id=ORDER.order_id, seq=seq, event_id=str(UUID(int=seq)), at=at, event=event)


def heard(verdict: Verdict, *, aside: bool, grants_consent: bool, call_id: str) -> ev.UtteranceHeard:
    return ev.UtteranceHeard(
        call_id=call_id, step="terms", grants_consent=grants_consent, aside=aside, verdict=verdict, reason="said so"
    )


def spoken(call_id: str = "call-1", order_hash: str = HASH) -> ev.ConsentSpoken:
    return ev.ConsentSpoken(call_id=call_id, order_hash=order_hash)


def ended(outcome: ev.CallOutcome, call_id: str = "call-1") -> ev.CallEnded:
    return ev.CallEnded(call_id=call_id, outcome=outcome, reason="", duration_ms=60_000)


def issued(expires_at: datetime = EXPIRES) -> ev.ChallengeIssued:
    return ev.ChallengeIssued(challenge_id="challenge-1", nonce="n", expires_at=expires_at)


def reply(reading: ev.Reading = "code", *, matches: bool = True) -> ev.ReplyReceived:
    return ev.ReplyReceived(message_id="m", channel="http", reading=reading, matches=matches)


WRONG, STOP = reply(matches=False), reply("stop", matches=False)
TOLD = tuple(disclosed(term) for term in MANDATORY)
TO_CALLING = (started(),)
TO_SPOKEN = (*TO_CALLING, *TOLD, affirmed(), spoken())
TO_CHALLENGED = (*TO_SPOKEN, kept(), issued(), ended("completed"))
TO_CONFIRMED = (*TO_CHALLENGED, reply())
ATTEMPTED = ev.DeliveryAttempted(webhook_id="w", attempt=1, status=500)
PROVISIONED = ev.OrderProvisioned(webhook_id="w")
EXPIRED = ev.ChallengeExpired(challenge_id="challenge-1")
GOOD = (*TO_CONFIRMED, ATTEMPTED, PROVISIONED)
WAYS = (
    GOOD,
    TO_CHALLENGED,
    (*TO_CHALLENGED, STOP),
    (*TO_CHALLENGED, WRONG, reply()),
    (*TO_CHALLENGED, EXPIRED),
    TO_CONFIRMED * 2,
)
LOSSY = ev.FarReport(reports=1, lost_fraction=0.4, jitter_ms=9)

calls = st.sampled_from(["call-1", "call-1", "call-2"])
hashes = st.sampled_from([HASH, HASH, HASH, "f" * 64])
terms = st.sampled_from(MANDATORY)
anything: st.SearchStrategy[ev.Event] = st.one_of(
    st.builds(started, calls),
    st.builds(disclosed, terms, calls),
    st.builds(disclosed, terms, calls, samples_sent=st.integers(0, 8000), held_ms=st.sampled_from([0, 20]), far=st.sampled_from([None, LOSSY])),
    st.builds(ev.DisclosureUnheard, call_id=calls, disclosure=terms, reason=st.just("lost")),
    st.builds(affirmed, calls),
    st.builds(spoken, calls, hashes),
    st.builds(kept, calls, st.sampled_from([59_999, 60_000])),
    st.builds(ev.RecordingFailed, call_id=calls, reason=st.just("disk full")),
    st.builds(ev.ConsentDenied, denial=st.sampled_from(get_args(ev.Denial)), call_id=calls, step=st.just("s")),
    st.builds(heard, st.sampled_from(VERDICTS), aside=st.booleans(), grants_consent=st.booleans(), call_id=calls),
    st.builds(ended, st.sampled_from(["completed", "busy", "transferred", "lost", "machine"]), calls),
    st.builds(ev.AnswerJudged, verdict=st.sampled_from(["human", "machine", "unsure"]), call_id=calls, reason=st.just(""), at_ms=st.just(1)),
    st.builds(issued, st.integers(0, 120).map(lambda minutes: START + timedelta(minutes=minutes))),
    st.builds(reply, st.sampled_from(["code", "code", "code", "unreadable", "stop"]), matches=st.booleans()),
    st.sampled_from([
        EXPIRED, ATTEMPTED, PROVISIONED, CREATED, ev.OrderWithdrawn(source="api", reason="r"), ev.OrderFrozen(source="cli", reason="r"),
        ev.DeliveryDead(webhook_id="w", attempts=10), ev.ReplyRepeated(message_id="m"), ev.ChallengeExpired(challenge_id="other"),
        ev.HoldPlaced(by="b", reason="r"), ev.RecordErased(by="b", reason="r"), ev.BillingAcknowledged(reference="B", source="api"),
    ]),
)  # fmt: skip
# Good histories with things put in, left out, doubled and turned round: pure chance hardly ever gets past the challenge.
disturbed = st.builds(
    lambda good, extra, order: [
        event for _, event in sorted(zip(order, [*good, *extra], strict=False), key=lambda p: p[0])
    ],
    st.sampled_from(WAYS),
    st.lists(anything, max_size=8),
    st.lists(st.floats(0, 1), min_size=45, max_size=45),
)
swapped = st.builds(
    lambda good, places: [good[max(0, min(len(good) - 1, at + places.get(at, 0)))] for at in range(len(good))],
    st.sampled_from(WAYS),
    st.dictionaries(st.integers(0, 20), st.integers(-2, 2), max_size=3),
)
inserted = st.builds(
    lambda good, at, extra: [*good[:at], *extra, *good[at:]],
    st.sampled_from(WAYS),
    st.integers(0, 20),
    st.lists(anything, max_size=4),
)
histories = st.one_of(st.lists(anything, max_size=60), disturbed, swapped, inserted)
waits = st.lists(st.one_of(st.integers(1, 1_000_000), st.integers(1, 3_000_000_000)), min_size=80, max_size=80)
Lived = list[tuple[ev.Entry, Account, Record, tuple[Effect, ...]]]


def live(events: list[ev.Event], waits_us: list[int]) -> Lived:
    """The whole history, as the engine would write it: each entry with the bystander's account before it, the record after it
    and its effects.
    """
    at, account = START, Account(HASH)
    record, effects = begin(entry(CREATED, 1, at))
    lived = [(entry(CREATED, 1, at), account, record, effects)]
    for seq, event in enumerate(events, 2):
        at += timedelta(microseconds=waits_us[seq])
        now = entry(event, seq, at)
        record, effects = reduce(record, now)
        lived.append((now, account, record, effects))
        account = account.see(now, record, fired=sum(isinstance(effect, Provision) for effect in effects))
    return lived


SEEK = settings(phases=[Phase.generate], max_examples=5000)


@settings(max_examples=1000)
@given(histories, waits)
def test_the_webhook_fires_only_with_both_proofs_and_once(events: list[ev.Event], waits_us: list[int]) -> None:
    lived = live(events, waits_us)
    for now, account, _, effects in lived:
        for effect in effects:
            if isinstance(effect, Provision):
                assert account.permits(now)
                proof = effect.confirmation
                events_by_id = {earlier.event_id: earlier for earlier, *_ in lived}
                said, yes, sound, code = (
                    events_by_id[name]
                    for name in (
                        proof.spoken.event_id, proof.spoken.affirmation.event_id, proof.recording.event_id,
                        proof.reply.event_id,
                    )
                )  # fmt: skip
                assert isinstance(said.event, ev.ConsentSpoken)
                assert HASH == said.event.order_hash == proof.order_hash
                assert yes.at < said.at < sound.at < code.at == now.at < proof.reply.expires_at


@settings(max_examples=250)
@given(histories, waits)
def test_ends_are_final(events: list[ev.Event], waits_us: list[int]) -> None:
    """What may still change: the call ends; a late reply is told so, and that once; holds, erasure, billing's reference; and what was
    billed can be frozen.
    """
    lived = live(events, waits_us)
    for (_, _, before, _), (now, _, record, effects) in pairwise(lived):
        if before.state not in ENDS:
            continue
        if before.state == "provisioned" and isinstance(now.event, ev.OrderFrozen):
            assert ("frozen", (Notify("consent.frozen"),)) == (record.state, effects)
            continue
        told = effects == (SendSms("late_reply"),)
        assert told or effects == ()
        assert not (told and before.told_late)
        same = replace(
            record,
            told_late=before.told_late,
            held=before.held,
            erased=before.erased,
            on_call=before.on_call,
            reference=before.reference,
        )
        assert before == same


@settings(max_examples=250)
@given(histories, waits)
def test_a_confirmed_record_never_loses_its_confirmation(events: list[ev.Event], waits_us: list[int]) -> None:
    lived = live(events, waits_us)
    for (_, _, before, _), (_, _, record, _) in pairwise(lived):
        assert before.confirmation in (None, record.confirmation)
        assert record.state not in CONFIRMED or record.confirmation is not None


@given(histories, waits)
def test_a_replay_finds_the_same_record(events: list[ev.Event], waits_us: list[int]) -> None:
    lived = live(events, waits_us)
    stored = [ev.Entry.model_validate_json(now.model_dump_json()) for now, *_ in lived]
    assert lived[-1][2] == replay(stored)


def test_the_random_histories_do_reach_the_webhook_and_the_ends() -> None:
    """Properties over histories that never get so far would prove nothing."""
    for state in ("confirmed", "withdrawn", "expired", "frozen"):
        find(st.tuples(histories, waits), lambda drawn, state=state: state == live(*drawn)[-1][2].state, settings=SEEK)
