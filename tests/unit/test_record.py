"""The record: what follows from an event, and the promise over every history that can be thought of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from uuid import UUID

import pytest
from histories import CONSENT_AT_MS, affirmed, disclosed, kept

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY, Disclosure
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
from gateway.consent.errors import ConsentError, ProofMismatch
from gateway.consent.order import DialplanRef, Order, OrderRequest
from gateway.consent.proofs import Affirmation, CodeReply, Confirmation, KeptRecording, SpokenConsent
from gateway.consent.record import CONFIRMED, ENDS, NOTICES, Record, begin, challenge_expiry, reduce, replay
from gateway.consent.verdict import Verdict
from gateway.demo.orders import sample_order

Who = Literal["human", "machine", "unsure"]
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
REQUEST = OrderRequest.model_validate(sample_order("+821012345678", START.date()))
LIMITS = ev.Limits(call_attempts=3, call_retry_s=1800, code_ttl_s=3600, code_tries=3)
ORDER = Order(
    order_id=str(UUID(int=1)),
    tenant="billing",
    subscriber=REQUEST.subscriber,
    offer=REQUEST.offer,
    fit=REQUEST.fit,
    dialplan=DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64),
)
HASH = ORDER.order_hash
CREATED = ev.OrderCreated(order=ORDER, order_hash=HASH, call_now=True, limits=LIMITS)
EXPIRES = START + timedelta(hours=1)


def entry(event: ev.Event, seq: int = 1, at: datetime | None = None) -> ev.Entry:
    """The event at its place, by default *seq* minutes after nine."""
    moment = at or START + timedelta(minutes=seq)
    return ev.Entry(order_id=ORDER.order_id, seq=seq, event_id=str(UUID(int=seq)), at=moment, event=event)


def started(call_id: str = "call-1") -> ev.CallStarted:
    return ev.CallStarted(call_id=call_id, gateway="g1", direction="outbound")


def spoken(call_id: str = "call-1", order_hash: str = HASH) -> ev.ConsentSpoken:
    return ev.ConsentSpoken(call_id=call_id, order_hash=order_hash)


def denied(denial: ev.Denial = "refused", call_id: str = "call-1") -> ev.ConsentDenied:
    return ev.ConsentDenied(call_id=call_id, denial=denial, step="consent")


def heard(
    verdict: Verdict, *, aside: bool = False, grants_consent: bool = False, call_id: str = "call-1"
) -> ev.UtteranceHeard:
    return ev.UtteranceHeard(
        call_id=call_id, step="terms", grants_consent=grants_consent, aside=aside, verdict=verdict, reason="said so"
    )


def ended(
    outcome: ev.CallOutcome = "completed", call_id: str = "call-1", next_call: ev.NextCall | None = None
) -> ev.CallEnded:
    return ev.CallEnded(call_id=call_id, outcome=outcome, reason="", duration_ms=60_000, next_call=next_call)


def judged(verdict: Who = "machine", call_id: str = "call-1") -> ev.AnswerJudged:
    return ev.AnswerJudged(call_id=call_id, verdict=verdict, reason="a long greeting", at_ms=4000)


def issued(expires_at: datetime = EXPIRES) -> ev.ChallengeIssued:
    return ev.ChallengeIssued(challenge_id="challenge-1", nonce="n", expires_at=expires_at)


def reply(reading: ev.Reading = "code", *, matches: bool = True) -> ev.ReplyReceived:
    return ev.ReplyReceived(message_id="m", channel="http", reading=reading, matches=matches)


WRONG = reply(matches=False)
STOP = reply("stop", matches=False)
EXPIRED = ev.ChallengeExpired(challenge_id="challenge-1")
WITHDRAWN = ev.OrderWithdrawn(source="api", reason="changed their mind")
ATTEMPTED = ev.DeliveryAttempted(webhook_id="w", attempt=1, status=500)
DEAD = ev.DeliveryDead(webhook_id="w", attempts=10)
PROVISIONED = ev.OrderProvisioned(webhook_id="w")

FROZEN = ev.OrderFrozen(source="quality", reason="the recording is of somebody else")
LOST = ev.DisclosureUnheard(call_id="call-1", disclosure="price", reason="40 % of it was lost")
FAILED = ev.RecordingFailed(call_id="call-1", reason="no space left on device")


def told(call_id: str = "call-1") -> tuple[ev.Event, ...]:
    """Every disclosure, heard whole."""
    return tuple(disclosed(term, call_id) for term in MANDATORY)


def agreed(call_id: str = "call-1") -> tuple[ev.Event, ...]:
    """From the first disclosure to the consent."""
    return (*told(call_id), affirmed(call_id), spoken(call_id))


TO_CALLING = (started(),)
TO_AFFIRMED = (*TO_CALLING, *told(), affirmed())
TO_SPOKEN = (*TO_AFFIRMED, spoken())
TO_CHALLENGED = (*TO_SPOKEN, kept(), issued(), ended())
TO_CONFIRMED = (*TO_CHALLENGED, reply())
WAYS: dict[str, tuple[ev.Event, ...]] = {
    "ordered": (),
    "calling": TO_CALLING,
    "spoken": TO_SPOKEN,
    "challenged": TO_CHALLENGED,
    "confirmed": TO_CONFIRMED,
    "provisioning": (*TO_CONFIRMED, ATTEMPTED),
    "provisioned": (*TO_CONFIRMED, ATTEMPTED, PROVISIONED),
    "refused": (*TO_CALLING, denied()),
    "unclear": (*TO_CALLING, denied("unclear")),
    "ineligible": (*TO_CALLING, denied("ineligible")),
    "unreachable": (
        started("a"),
        ended("busy", "a"),
        started("b"),
        ended("busy", "b"),
        started("c"),
        ended("busy", "c"),
    ),
    "expired": (*TO_CHALLENGED, EXPIRED),
    "withdrawn": (*TO_CHALLENGED, STOP),
    "frozen": (*TO_CHALLENGED, FROZEN),
    "failed": (*TO_CHALLENGED, WRONG, WRONG, WRONG),
}


def after(*events: ev.Event, call_now: bool = True) -> Record:
    created = CREATED.model_copy(update={"call_now": call_now})
    return replay(entry(event, seq) for seq, event in enumerate((created, *events), 1))


def step(record: Record, event: ev.Event, at: datetime | None = None) -> tuple[Record, tuple[Effect, ...]]:
    return reduce(record, entry(event, 30, at))


class TestTheBeginning:
    def test_an_order_to_be_called_now_is_rendered_and_called(self) -> None:
        assert (RenderPrompts(), PlaceCall(0.0)) == begin(entry(CREATED))[1]

    def test_an_order_that_waits_for_a_call_is_only_rendered(self) -> None:
        assert (RenderPrompts(),) == begin(entry(CREATED.model_copy(update={"call_now": False})))[1]

    def test_no_other_event_begins_a_record(self) -> None:
        with pytest.raises(ConsentError, match=r"begins with order\.created, not call\.started"):
            begin(entry(started()))

    def test_a_false_hash_is_refused(self) -> None:
        with pytest.raises(ConsentError, match="is not that of its terms"):
            begin(entry(CREATED.model_copy(update={"order_hash": "f" * 64})))

    def test_there_is_no_record_without_events(self) -> None:
        with pytest.raises(ConsentError, match="without events"):
            replay([])


@pytest.mark.parametrize(("state", "way"), WAYS.items())
def test_every_state_is_reached(state: str, way: tuple[ev.Event, ...]) -> None:
    assert state == after(*way).state


class TestCalls:
    def test_a_call_is_counted_and_claims_the_record(self) -> None:
        record, effects = step(after(), started())
        assert (1, "call-1", "g1", "calling", ()) == (
            record.calls,
            record.call_id,
            record.gateway,
            record.state,
            effects,
        )

    def test_a_second_call_at_the_same_time_does_not_claim_it(self) -> None:
        assert "call-1" == step(after(*TO_CALLING), started("call-2"))[0].call_id

    def test_an_unanswered_call_is_made_again_later(self) -> None:
        record, effects = step(after(*TO_CALLING), ended("no_answer"))
        assert ("ordered", (PlaceCall(1800),)) == (record.state, effects)

    def test_after_the_last_attempt_the_subscriber_is_unreachable(self) -> None:
        record, effects = step(after(*WAYS["unreachable"][:-1]), ended("busy", "c"))
        assert ("unreachable", (Notify("consent.expired"),)) == (record.state, effects)

    def test_an_order_for_an_inbound_call_waits_for_the_next(self) -> None:
        record, effects = step(after(*TO_CALLING, call_now=False), ended("hung_up"))
        assert ("ordered", (), True) == (record.state, effects, record.may_be_called)

    def test_the_end_of_another_call_says_nothing(self) -> None:
        record = after(*TO_CALLING)
        assert (record, ()) == step(record, ended(call_id="call-9"))

    def test_a_call_that_a_person_took_ends_the_order_here(self) -> None:
        assert "failed" == step(after(*TO_CALLING), ended("transferred"))[0].state

    def test_the_end_of_the_call_does_not_undo_the_consent(self) -> None:
        record = after(*TO_SPOKEN, kept(), issued())
        assert (replace(record, on_call=False), ()) == step(record, ended())

    @pytest.mark.parametrize("way", ["refused", "unclear", "calling", "spoken"])
    def test_a_call_runs_until_its_end_whatever_becomes_of_the_order(self, way: str) -> None:
        record = after(*WAYS[way])
        assert (True, False) == (record.on_call, step(record, ended())[0].on_call)


class TestMachines:
    """A machine that answers: an attempt like every other, whose next one the dialplan orders; and never a consent."""

    LATER = ev.NextCall(wanted=True, after_s=7200)
    NEVER = ev.NextCall(wanted=False, after_s=7200)

    def test_its_call_is_an_attempt_and_the_dialplan_says_when_the_next_is(self) -> None:
        record, effects = step(after(started(), judged()), ended("machine", next_call=self.LATER))
        assert (("ordered", 1), (PlaceCall(7200),)) == ((record.state, record.calls), effects)

    def test_where_the_dialplan_wants_no_other_the_subscriber_is_unreachable(self) -> None:
        record, effects = step(after(started(), judged()), ended("machine", next_call=self.NEVER))
        assert ("unreachable", "machine", (Notify("consent.expired"),)) == (record.state, record.reason, effects)

    def test_the_attempts_of_the_order_are_not_exceeded(self) -> None:
        busy = [event for call in "ab" for event in (started(call), ended("busy", call))]
        record, effects = step(after(*busy, started("c"), judged("machine", "c")), ended("machine", "c", self.LATER))
        assert ("unreachable", (Notify("consent.expired"),)) == (record.state, effects)

    def test_an_order_that_nobody_asked_to_call_about_is_not_called_about(self) -> None:
        record = after(started(), judged(), call_now=False)
        assert () == step(record, ended("machine", next_call=self.LATER))[1]

    def test_what_the_dialplan_does_not_say_the_limits_do(self) -> None:
        assert (PlaceCall(1800),) == step(after(started(), judged()), ended("machine"))[1]

    def test_its_consent_is_none(self) -> None:
        record, effects = step(after(started(), *told(), affirmed(), judged()), spoken())
        assert ("calling", None, ()) == (record.state, record.spoken, effects)

    @pytest.mark.parametrize("verdict", ["human", "unsure"])
    def test_who_is_no_machine_may_consent(self, verdict: Who) -> None:
        assert "spoken" == after(started(), judged(verdict), *agreed()).state

    def test_another_calls_machine_says_nothing_of_this_one(self) -> None:
        assert "spoken" == after(started(), judged("machine", "call-0"), *agreed()).state

    def test_the_next_call_begins_anew(self) -> None:
        first = started("a"), judged("machine", "a"), ended("machine", "a", self.LATER)
        assert "spoken" == after(*first, started("b"), *agreed("b")).state

    @pytest.mark.parametrize("event", [judged(), ended("machine")], ids=["when it is told", "when the call ends"])
    @pytest.mark.parametrize("state", ["spoken", "challenged"])
    def test_told_late_it_takes_the_consent_of_its_call_away(self, state: str, event: ev.Event) -> None:
        record, effects = step(after(*WAYS[state]), event)
        assert ("failed", "a machine had answered, and no machine can consent", (Notify("consent.refused"),)) == (
            record.state, record.reason, effects,
        )  # fmt: skip
        assert () == step(record, reply())[1]

    @pytest.mark.parametrize("state", [*CONFIRMED, *ENDS])
    def test_what_has_ended_or_was_confirmed_stays_as_it_is(self, state: str) -> None:
        record = after(*WAYS[state])
        for event, left in ((judged(), record), (ended("machine"), replace(record, on_call=False))):
            assert (left, ()) == step(record, event)

    @pytest.mark.parametrize("verdict", ["deny", "stop"])
    def test_a_no_that_was_heard_before_it_stands(self, verdict: Verdict) -> None:
        assert "refused" == after(started(), heard(verdict, aside=True), judged(), ended("machine")).state


class TestConsent:
    def test_it_rests_on_the_affirmation(self) -> None:
        record, effects = step(after(*TO_AFFIRMED), spoken())
        assert ("spoken", ()) == (record.state, effects)
        place = len(TO_AFFIRMED) + 1
        affirmation = Affirmation(str(UUID(int=place)), entry(affirmed(), place).at, CONSENT_AT_MS)
        at = entry(spoken(), 30).at
        assert SpokenConsent(ORDER.order_id, HASH, "call-1", str(UUID(int=30)), at, affirmation) == record.spoken

    @pytest.mark.parametrize("term", MANDATORY)
    def test_without_one_disclosure_it_is_nothing(self, term: Disclosure) -> None:
        others = [disclosed(other) for other in MANDATORY if other != term]
        assert "calling" == after(started(), *others, affirmed(), spoken()).state

    def test_a_disclosure_after_the_yes_is_too_late(self) -> None:
        assert "calling" == after(started(), *told()[1:], affirmed(), told()[0], spoken()).state

    def test_without_the_yes_it_is_nothing(self) -> None:
        assert "calling" == after(started(), *told(), spoken()).state

    def test_a_later_answer_to_the_question_counts_alone(self) -> None:
        again = heard("unclear", grants_consent=True)
        assert "calling" == after(started(), *told(), affirmed(), again, spoken()).state
        assert "spoken" == after(started(), *told(), again, affirmed(), spoken()).state

    @pytest.mark.parametrize(
        "yes",
        [heard("affirm"), heard("affirm", aside=True, grants_consent=True), affirmed("call-0")],
        ids=["another question", "beside a prompt", "another call"],
    )
    def test_no_other_yes_will_do(self, yes: ev.UtteranceHeard) -> None:
        assert "calling" == after(started(), *told(), yes, spoken()).state

    def test_what_was_told_on_an_earlier_call_counts_no_more(self) -> None:
        earlier = (started("a"), *told("a"), ended("hung_up", "a"))
        assert "calling" == after(*earlier, started("b"), affirmed("b"), spoken("b")).state

    @pytest.mark.parametrize("event", [spoken(call_id="call-9"), spoken(order_hash="f" * 64)])
    def test_of_another_call_or_other_terms_is_nothing(self, event: ev.ConsentSpoken) -> None:
        record = after(*TO_AFFIRMED)
        assert (record, ()) == step(record, event)

    @pytest.mark.parametrize("state", sorted(set(WAYS) - {"calling"}))
    def test_out_of_a_call_is_nothing(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, spoken())

    @pytest.mark.parametrize(
        ("expected", "denial"),
        [("refused", "refused"), ("unclear", "unclear"), ("ineligible", "ineligible"), ("refused", "stop")],
    )
    def test_a_denial_ends_the_order(self, expected: str, denial: ev.Denial) -> None:
        assert expected == step(after(*TO_CALLING), denied(denial))[0].state

    def test_only_stop_puts_the_number_on_the_do_not_call_list(self) -> None:
        found = {
            denial: step(after(*TO_CALLING), denied(denial))[1]
            for denial in ("refused", "unclear", "ineligible", "stop")
        }
        told_so = Notify("consent.refused")
        assert {
            "refused": (told_so,), "unclear": (told_so,), "ineligible": (told_so,), "stop": (BlockNumber(), told_so),
        } == found  # fmt: skip

    @pytest.mark.parametrize("state", ["ordered", "calling", "spoken", "challenged"])
    def test_a_denial_that_comes_late_or_from_an_earlier_call_still_counts(self, state: str) -> None:
        assert "refused" == step(after(*WAYS[state]), denied(call_id="call-0"))[0].state


ON_A_CALL = {"calling": TO_CALLING, "spoken": TO_SPOKEN, "challenged": (*TO_SPOKEN, kept(), issued())}
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class TestWhatIsHeard:
    @pytest.mark.parametrize("state", ON_A_CALL)
    def test_a_no_beside_a_prompt_ends_the_order(self, state: str) -> None:
        record, effects = step(after(*ON_A_CALL[state]), heard("deny", aside=True))
        assert ("refused", "said no at terms", (Notify("consent.refused"),)) == (record.state, record.reason, effects)

    @pytest.mark.parametrize("state", ON_A_CALL)
    def test_a_no_to_the_consent_question_ends_the_order(self, state: str) -> None:
        assert "refused" == step(after(*ON_A_CALL[state]), heard("deny", grants_consent=True))[0].state

    @pytest.mark.parametrize("aside", [True, False])
    @pytest.mark.parametrize("state", ON_A_CALL)
    def test_a_stop_word_ends_the_order_and_blocks_the_number(self, state: str, aside: bool) -> None:
        record, effects = step(after(*ON_A_CALL[state]), heard("stop", aside=aside))
        assert ("refused", (BlockNumber(), Notify("consent.refused"))) == (record.state, effects)

    @pytest.mark.parametrize("verdict", sorted(set(VERDICTS) - {"deny", "stop"}))
    @pytest.mark.parametrize("state", ON_A_CALL)
    def test_anything_else_beside_a_prompt_changes_nothing(self, state: str, verdict: Verdict) -> None:
        record = after(*ON_A_CALL[state])
        assert (record, ()) == step(record, heard(verdict, aside=True))

    def test_a_no_to_another_question_is_left_to_the_script(self) -> None:
        record = after(*TO_CALLING)
        assert (record, ()) == step(record, heard("deny"))

    @pytest.mark.parametrize("verdict", ["deny", "stop"])
    def test_what_is_heard_on_another_call_says_nothing(self, verdict: Verdict) -> None:
        record = after(*TO_CALLING)
        assert (record, ()) == step(record, heard(verdict, aside=True, call_id="call-9"))

    @pytest.mark.parametrize("state", ["spoken", "challenged"])
    def test_after_a_no_beside_a_prompt_no_code_leads_to_the_webhook(self, state: str) -> None:
        again = (kept(), issued(), ended(), reply(), *agreed(), kept(), issued(), reply())
        events = (*ON_A_CALL[state], heard("deny", aside=True), *again)
        record = after(*events)
        assert ("refused", None) == (record.state, record.confirmation)

    @pytest.mark.parametrize("verdict", ["deny", "stop"])
    @pytest.mark.parametrize("state", sorted(CONFIRMED))
    def test_after_the_confirmation_a_no_beside_a_prompt_takes_nothing_back(self, state: str, verdict: Verdict) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, heard(verdict, aside=True))


class TestCaptures:
    @pytest.mark.parametrize("purposes", [("consent",), ("interest", "consent")])
    def test_what_a_consent_rests_on_is_kept_in_the_record(self, purposes: tuple[str, ...]) -> None:
        captures = tuple(
            ev.Capture(step=purpose, purpose=purpose, said="네 동의 합니다", audio_sha256=f"{place}" * 64)
            for place, purpose in enumerate(purposes)
        )
        written = entry(spoken().model_copy(update={"captures": captures}))
        kept = ev.Entry.model_validate_json(written.model_dump_json()).event
        assert isinstance(kept, ev.ConsentSpoken)
        assert captures == kept.captures

    def test_they_decide_nothing(self) -> None:
        """What a script demands, the linter and the interpreter see to; the record counts one consent."""
        one = ev.Capture(step="consent", purpose="consent", said="네 동의 합니다", audio_sha256="0" * 64)
        bare, full = (
            step(after(*TO_AFFIRMED), spoken().model_copy(update={"captures": given})) for given in ((), (one,))
        )
        assert bare == full


class TestTheRecording:
    """Rule R8: a consent rests on the sound of it, and nobody is asked for a code before that is safe."""

    def test_the_challenge_waits_for_it(self) -> None:
        record, effects = step(after(*TO_SPOKEN), kept())
        assert ("spoken", (IssueChallenge(),)) == (record.state, effects)
        at = entry(kept(), 30).at
        assert KeptRecording(ORDER.order_id, "call-1", str(UUID(int=30)), at, kept().sha256) == record.recording

    def test_a_challenge_before_it_is_nothing(self) -> None:
        record = after(*TO_SPOKEN)
        assert (record, ()) == step(record, issued())

    @pytest.mark.parametrize(("expected", "duration_ms"), [("spoken", CONSENT_AT_MS), ("failed", CONSENT_AT_MS - 1)])
    def test_it_must_reach_to_the_end_of_the_consent(self, expected: str, duration_ms: int) -> None:
        assert expected == step(after(*TO_SPOKEN), kept(duration_ms=duration_ms))[0].state

    def test_of_another_call_it_is_none(self) -> None:
        record = after(*TO_SPOKEN)
        assert (record, ()) == step(record, kept("call-2"))

    @pytest.mark.parametrize("event", [FAILED, ended()], ids=["it failed", "the call ended without it"])
    def test_without_it_the_consent_is_void(self, event: ev.Event) -> None:
        record, effects = step(after(*TO_SPOKEN), event)
        assert ("failed", (Notify("consent.refused"),)) == (record.state, effects)

    def test_a_failure_on_a_call_without_consent_changes_nothing(self) -> None:
        record = after(*TO_CALLING)
        assert (record, ()) == step(record, FAILED)


class TestDisclosures:
    """Rule R5: told to its end, and heard."""

    LOUD = ev.FarReport(reports=1, lost_fraction=0.05, jitter_ms=3)
    LOSSY = ev.FarReport(reports=1, lost_fraction=0.051, jitter_ms=3)

    @pytest.mark.parametrize(
        "changes",
        [{"samples_sent": 7999}, {"samples_planned": 0, "samples_sent": 0}, {"held_ms": 20}, {"far": LOSSY}],
        ids=["cut", "empty", "on hold", "lost on the line"],
    )
    def test_what_was_not_heard_does_not_count(self, changes: dict[str, Any]) -> None:
        assert frozenset() == after(started(), disclosed("price", **changes)).disclosed

    @pytest.mark.parametrize("far", [None, LOUD])
    def test_what_was_heard_does(self, far: ev.FarReport | None) -> None:
        assert {"price"} == after(started(), disclosed("price", far=far)).disclosed

    def test_heard_once_is_enough(self) -> None:
        assert {"price"} == after(started(), disclosed("price"), disclosed("price", samples_sent=1)).disclosed

    def test_one_that_turns_out_to_be_lost_must_be_heard_again_before_the_yes(self) -> None:
        lost = after(*TO_AFFIRMED, LOST)
        assert (None, set(MANDATORY) - {"price"}) == (lost.affirmed, lost.disclosed)
        assert "calling" == after(*TO_AFFIRMED, LOST, disclosed("price"), spoken()).state
        assert "spoken" == after(*TO_AFFIRMED, LOST, disclosed("price"), affirmed(), spoken()).state

    @pytest.mark.parametrize("state", ["spoken", "challenged"])
    def test_told_after_the_consent_it_takes_it_back(self, state: str) -> None:
        assert "failed" == step(after(*WAYS[state]), LOST)[0].state

    @pytest.mark.parametrize("state", [*CONFIRMED, *ENDS])
    def test_told_after_the_end_it_changes_nothing(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, LOST)


class TestNotices:
    @pytest.mark.parametrize("state", sorted(ENDS))
    def test_billing_is_told_of_every_end_once(self, state: str) -> None:
        *before, last = WAYS[state]
        assert NOTICES[state] == step(after(*before), last)[1][-1].kind  # type: ignore[index, union-attr]
        assert () == step(after(*WAYS[state]), last)[1]


class TestKeeping:
    def test_a_hold_lasts_until_it_is_released(self) -> None:
        placed, released = ev.HoldPlaced(by="legal", reason="case 7"), ev.HoldReleased(by="legal", reason="closed")
        assert (True, False) == (after(placed).held, after(placed, released).held)

    @pytest.mark.parametrize("state", WAYS)
    def test_it_changes_nothing_else(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (replace(record, held=True), ()) == step(record, ev.HoldPlaced(by="legal", reason="case 7"))

    def test_who_is_erased_is_not_called_again(self) -> None:
        record = after(ev.RecordErased(by="privacy", reason="asked for it"))
        assert ("withdrawn", True, False) == (record.state, record.erased, record.may_be_called)

    def test_what_is_held_is_not_erased(self) -> None:
        held = after(ev.HoldPlaced(by="legal", reason="case 7"))
        assert (held, ()) == step(held, ev.RecordErased(by="privacy", reason="asked for it"))


class TestTheChallenge:
    def test_it_is_sent_and_given_an_end(self) -> None:
        record, effects = step(after(*TO_SPOKEN, kept()), issued())
        assert (SendSms("challenge"), ExpireChallenge("challenge-1", EXPIRES)) == effects
        assert record.challenge is not None
        assert 3 == record.challenge.tries_left

    def test_there_is_one_to_an_order(self) -> None:
        record = after(*TO_CHALLENGED)
        assert (record, ()) == step(record, ev.ChallengeIssued(challenge_id="2", nonce="x", expires_at=EXPIRES))

    def test_it_lives_as_long_as_the_order_was_promised(self) -> None:
        assert EXPIRES == challenge_expiry(after(*TO_SPOKEN, kept()), START)

    def test_the_right_code_confirms(self) -> None:
        record, effects = step(after(*TO_CHALLENGED), reply())
        assert record.confirmation is not None
        assert ("confirmed", (Provision(record.confirmation),)) == (record.state, effects)

    def test_a_wrong_code_tells_how_many_tries_are_left(self) -> None:
        record, first = step(after(*TO_CHALLENGED), WRONG)
        record, second = step(record, WRONG)
        record, third = step(record, WRONG)
        assert (SendSms("wrong_code", 2),) == first
        assert (SendSms("wrong_code", 1),) == second
        assert ((SendSms("too_many_tries"), Notify("consent.refused")), "failed") == (third, record.state)

    def test_the_right_code_after_too_many_wrong_ones_is_nothing(self) -> None:
        record = after(*WAYS["failed"])
        assert (record, ()) == step(record, reply())

    def test_an_unreadable_reply_costs_a_try(self) -> None:
        assert (SendSms("wrong_code", 2),) == step(after(*TO_CHALLENGED), reply("unreadable", matches=False))[1]

    @pytest.mark.parametrize("reading", ["unreadable", "stop"])
    def test_only_a_code_confirms_even_when_said_to_match(self, reading: ev.Reading) -> None:
        assert "confirmed" != step(after(*TO_CHALLENGED), reply(reading, matches=True))[0].state

    @pytest.mark.parametrize(
        ("expected", "late"), [("confirmed", -1), ("expired", 0), ("expired", 1)], ids=["before", "at", "after"]
    )
    def test_the_right_code_is_too_late_at_the_moment_of_expiry(self, expected: str, late: int) -> None:
        at = EXPIRES + timedelta(microseconds=late)
        assert expected == step(after(*TO_CHALLENGED), reply(), at)[0].state

    def test_a_late_reply_is_told_so(self) -> None:
        assert (SendSms("late_reply"),) == step(after(*WAYS["expired"]), reply())[1]

    def test_a_late_reply_is_told_so_once(self) -> None:
        record, _ = step(after(*WAYS["expired"]), reply())
        assert (record, ()) == step(record, reply())

    def test_no_reply_in_time_ends_the_order(self) -> None:
        record, effects = step(after(*TO_CHALLENGED), EXPIRED)
        assert ("expired", (Notify("consent.expired"),)) == (record.state, effects)

    def test_the_end_of_another_challenge_says_nothing(self) -> None:
        record = after(*TO_CHALLENGED)
        assert (record, ()) == step(record, ev.ChallengeExpired(challenge_id="other"))

    def test_a_code_before_the_challenge_is_nothing(self) -> None:
        record = after(*TO_SPOKEN)
        assert (record, ()) == step(record, reply())


class TestTheWayOut:
    @pytest.mark.parametrize("state", ["ordered", "calling", "spoken", "challenged"])
    def test_a_withdrawal_ends_an_open_order(self, state: str) -> None:
        record, effects = step(after(*WAYS[state]), WITHDRAWN)
        assert ("withdrawn", "changed their mind", (Notify("consent.withdrawn"),)) == (
            record.state, record.reason, effects,
        )  # fmt: skip

    @pytest.mark.parametrize("state", ["ordered", "calling", "spoken", "challenged"])
    def test_a_stop_word_ends_an_open_order_and_is_answered(self, state: str) -> None:
        record, effects = step(after(*WAYS[state]), STOP)
        assert ("withdrawn", (SendSms("stopped"), Notify("consent.withdrawn"))) == (record.state, effects)

    @pytest.mark.parametrize("state", ["confirmed", "provisioning"])
    def test_a_stop_word_before_billing_has_taken_the_order_freezes_it(self, state: str) -> None:
        record, effects = step(after(*WAYS[state]), STOP)
        assert ("frozen", (SendSms("stopped"), Notify("consent.frozen"))) == (record.state, effects)

    def test_what_has_been_provisioned_is_beyond_a_stop_word(self) -> None:
        record = after(*WAYS["provisioned"])
        assert (record, ()) == step(record, STOP)

    @pytest.mark.parametrize("state", ["ordered", "calling", "spoken", "challenged", *sorted(CONFIRMED)])
    def test_whatever_has_not_been_refused_can_be_frozen(self, state: str) -> None:
        record, effects = step(after(*WAYS[state]), FROZEN)
        assert ("frozen", FROZEN.reason, (Notify("consent.frozen"),)) == (record.state, record.reason, effects)

    @pytest.mark.parametrize("state", sorted(ENDS - {"provisioned"}))
    def test_a_no_is_not_turned_into_a_doubt(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, FROZEN)

    @pytest.mark.parametrize("event", [PROVISIONED, ATTEMPTED, reply(), spoken()], ids=lambda event: event.type)
    def test_what_is_frozen_stays_so(self, event: ev.Event) -> None:
        record = after(*TO_CONFIRMED, FROZEN)
        assert (record, ()) == step(record, event)

    @pytest.mark.parametrize("state", sorted(CONFIRMED))
    @pytest.mark.parametrize("event", [WITHDRAWN, denied(), EXPIRED], ids=lambda event: event.type)
    def test_after_the_confirmation_nothing_is_taken_back_here(self, state: str, event: ev.Event) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, event)


class TestDelivery:
    def test_the_first_attempt_begins_the_provisioning(self) -> None:
        assert "provisioning" == step(after(*TO_CONFIRMED), ATTEMPTED)[0].state

    def test_the_subscriber_is_told_of_success(self) -> None:
        record, effects = step(after(*WAYS["provisioning"]), PROVISIONED)
        assert ("provisioned", (SendSms("provisioned"), Notify("order.provisioned"))) == (record.state, effects)

    def test_success_is_told_once(self) -> None:
        record = after(*WAYS["provisioned"])
        assert (record, ()) == step(record, PROVISIONED)

    def test_a_dead_delivery_is_not_an_end(self) -> None:
        record, _ = step(after(*WAYS["provisioning"]), DEAD)
        assert ("provisioning", "webhook undelivered after 10 attempts") == (record.state, record.reason)
        assert ("provisioned", "") == (step(record, PROVISIONED)[0].state, step(record, PROVISIONED)[0].reason)

    def test_billings_own_reference_is_kept_and_never_exchanged(self) -> None:
        first, second = (ev.BillingAcknowledged(reference=name, source="api") for name in ("B-1", "B-2"))
        assert "B-1" == after(*TO_CONFIRMED, first, second).reference
        answered = ev.OrderProvisioned(webhook_id="w", reference="B-3")
        assert ("B-3", "B-3") == (
            after(*TO_CONFIRMED, answered).reference,
            after(*TO_CONFIRMED, answered, first).reference,
        )

    @pytest.mark.parametrize("state", sorted(set(WAYS) - CONFIRMED))
    def test_there_is_none_without_a_confirmation(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, ev.BillingAcknowledged(reference="B-1", source="api"))

    @pytest.mark.parametrize("event", [ATTEMPTED, DEAD], ids=lambda event: event.type)
    def test_what_becomes_of_a_notice_says_nothing_of_the_order(self, event: ev.Event) -> None:
        record = after(*TO_CONFIRMED)
        assert (record, ()) == step(record, event.model_copy(update={"kind": "consent.frozen"}))

    @pytest.mark.parametrize("state", sorted(set(WAYS) - {"confirmed", "provisioning"}))
    def test_nothing_is_provisioned_without_a_confirmation(self, state: str) -> None:
        record = after(*WAYS[state])
        assert (record, ()) == step(record, PROVISIONED)


MINUTE = timedelta(minutes=1)
SPOKEN = SpokenConsent(ORDER.order_id, HASH, "call-1", "e-1", START, Affirmation("e-0", START - MINUTE, CONSENT_AT_MS))
RECORDED = KeptRecording(ORDER.order_id, "call-1", "e-2", START + MINUTE, "0" * 64)
REPLIED = CodeReply(ORDER.order_id, HASH, "challenge-1", "e-3", START + 2 * MINUTE, EXPIRES)


class TestTheTypes:
    def test_both_proofs_of_one_order_make_a_confirmation(self) -> None:
        confirmation = Confirmation(SPOKEN, RECORDED, REPLIED)
        assert (ORDER.order_id, HASH) == (confirmation.order_id, confirmation.order_hash)

    @pytest.mark.parametrize("other", [{"order_hash": "f" * 64}, {"order_id": "other"}])
    def test_proofs_of_two_orders_are_refused(self, other: dict[str, Any]) -> None:
        with pytest.raises(ProofMismatch, match="proofs of two orders"):
            Confirmation(SPOKEN, RECORDED, replace(REPLIED, **other))

    @pytest.mark.parametrize("other", [{"call_id": "call-2"}, {"order_id": "other"}])
    def test_the_recording_of_another_call_is_refused(self, other: dict[str, Any]) -> None:
        with pytest.raises(ProofMismatch, match="the recording is of"):
            Confirmation(SPOKEN, replace(RECORDED, **other), REPLIED)

    @pytest.mark.parametrize("minutes", [1, 2, 3])
    def test_a_consent_that_does_not_come_first_is_refused(self, minutes: int) -> None:
        late = replace(SPOKEN, at=START + minutes * MINUTE)
        with pytest.raises(ProofMismatch, match="do not follow each other"):
            Confirmation(late, RECORDED, REPLIED)

    @pytest.mark.parametrize("minutes", [0, 1])
    def test_a_reply_that_does_not_follow_the_recording_is_refused(self, minutes: int) -> None:
        with pytest.raises(ProofMismatch, match="do not follow each other"):
            Confirmation(SPOKEN, RECORDED, replace(REPLIED, at=START + minutes * MINUTE))

    def test_a_consent_that_does_not_follow_the_yes_is_refused(self) -> None:
        with pytest.raises(ProofMismatch, match="does not follow the affirmation"):
            replace(SPOKEN, at=SPOKEN.affirmation.at)

    @pytest.mark.parametrize("seconds", [0, 1])
    def test_a_reply_at_or_after_the_expiry_is_no_proof(self, seconds: int) -> None:
        with pytest.raises(ProofMismatch, match="it expired at"):
            replace(REPLIED, at=EXPIRES + timedelta(seconds=seconds))

    def test_the_webhook_cannot_be_fired_without_a_confirmation(self) -> None:
        with pytest.raises(TypeError, match="confirmation"):
            Provision()  # type: ignore[call-arg]
