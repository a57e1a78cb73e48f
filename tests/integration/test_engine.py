"""The engine on a real database: the whole path, and everything that must not happen on it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from engines import (
    NUMBER,
    OTHER,
    Clock,
    calling,
    challenged,
    confirmed,
    count,
    engine_on,
    jobs,
    ordered,
    sms,
    spoken,
    types,
    wrong,
)
from histories import affirmed, consented, disclosed, ended, happen, kept, started

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.errors import OrderRefused
from gateway.engine import Engine, Inbound
from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import Keyring
from gateway.store.errors import UnknownOrder


class TestTheWholePath:
    async def test_an_order_becomes_a_delivery(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine, call="now")
        order_id = record.order.order_id
        clock.forward(minutes=2)
        record = await happen(engine, record, consented(record))
        assert ("spoken", None) == (record.state, record.challenge)
        record = await engine.append(order_id, kept())
        assert "challenged" == record.state
        await engine.append(order_id, ended())
        clock.forward(minutes=5)
        assert Inbound("taken", order_id, "confirmed") == await engine.take_message(
            "http", "m-1", NUMBER, engine.code(record)
        )
        assert [
            "order.created", "call.started", *["prompt.played"] * len(MANDATORY), "utterance.heard", "consent.spoken",
            "recording.kept", "challenge.issued", "call.ended", "reply.received",
        ] == await types(engine, record)  # fmt: skip
        kinds = [kind for kind, _ in await jobs(engine)]
        assert ["render_prompts", "place_call", "send_sms", "expire_challenge", "deliver_webhook"] == kinds

    async def test_the_confirmation_joins_the_consent_its_recording_and_the_reply(self, engine: Engine) -> None:
        record = await confirmed(engine)
        told = {entry.event.type: entry for entry in await engine.entries(record.order.order_id)}
        rows = await engine.database.pool.fetchrow(
            """SELECT s.event_id AS spoken, s.affirmation_id AS affirmed, r.event_id AS replied, c.recording_id AS kept, c.order_hash
            FROM consent.confirmations AS c
            JOIN consent.spoken_consents AS s USING (order_id) JOIN consent.code_replies AS r USING (order_id)"""
        )
        assert [
            record.order_hash, *(told[kind].event_id for kind in
            ("consent.spoken", "utterance.heard", "recording.kept", "reply.received")),
        ] == [str(rows[name]) for name in ("order_hash", "spoken", "affirmed", "kept", "replied")]  # fmt: skip

    async def test_the_code_is_nowhere_in_the_database(self, engine: Engine, owner: asyncpg.Connection) -> None:
        record = await challenged(engine)
        tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'consent'")
        for table in tables:
            dump = await owner.fetch(f"SELECT t::text AS row FROM consent.{table['tablename']} AS t")
            assert not any(engine.code(record) in row["row"] for row in dump)

    async def test_every_new_order_has_another_code(self, engine: Engine) -> None:
        first = await challenged(engine)
        await engine.append(first.order.order_id, ev.OrderWithdrawn(source="api", reason="again"))
        assert engine.code(first) != engine.code(await challenged(engine))

    async def test_without_a_challenge_there_is_no_code(self, engine: Engine) -> None:
        assert "" == engine.code(await ordered(engine))

    async def test_the_state_can_be_searched(self, engine: Engine) -> None:
        await confirmed(engine)
        assert "confirmed" == await engine.database.pool.fetchval("SELECT state FROM consent.orders")


class TestTheConsent:
    """It rests on nothing but the record's own events."""

    async def test_without_the_recording_nobody_is_asked_by_sms(self, engine: Engine) -> None:
        record = await spoken(engine)
        assert ("spoken", "", []) == (record.state, engine.code(record), await sms(engine))
        assert 1 == await count(engine, "spoken_consents")

    @pytest.mark.parametrize("missing", MANDATORY)
    async def test_where_one_disclosure_was_not_heard_there_is_none(self, engine: Engine, missing: str) -> None:
        record = await ordered(engine)
        events = (
            event
            for event in consented(record)
            if not (isinstance(event, ev.PromptPlayed) and event.disclosure == missing)
        )
        record = await happen(engine, record, events)
        await engine.append(record.order.order_id, kept())
        assert ("calling", 0) == (record.state, await count(engine, "spoken_consents"))
        assert "challenge.issued" not in await types(engine, record)

    async def test_a_recording_that_fails_after_the_consent_voids_it(self, engine: Engine) -> None:
        record = await spoken(engine)
        failed = ev.RecordingFailed(call_id="call-1", reason="the disk is full")
        after = await engine.append(record.order.order_id, failed)
        assert ("failed", "the call could not be recorded: the disk is full") == (after.state, after.reason)
        assert ["recording.failed"] == [
            row["type"] for row in await engine.database.pool.fetch("SELECT type FROM consent.refusals")
        ]
        after = await engine.append(record.order.order_id, kept())
        assert ("failed", []) == (after.state, await sms(engine))

    async def test_a_recording_that_failed_on_an_earlier_call_bars_no_later_consent(self, engine: Engine) -> None:
        record = await ordered(engine, call="now")
        order_id = record.order.order_id
        await engine.append(order_id, started("call-0"))
        await engine.append(order_id, ev.RecordingFailed(call_id="call-0", reason="the disk was full"))
        await engine.append(order_id, ended("call-0", "failed"))
        record = await happen(engine, record, consented(record))
        record = await engine.append(order_id, kept())
        assert "confirmed" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state


class TestTheDoor:
    async def test_a_refused_order_leaves_nothing(self, engine: Engine, clock: Clock) -> None:
        clock.forward(days=30)
        with pytest.raises(OrderRefused, match=r"offer\.starts_on: 2026-03-11 is past"):
            await ordered(engine)
        assert [0, 0, 0] == [await count(engine, table) for table in ("orders", "events", "jobs")]

    async def test_the_start_is_judged_by_the_date_at_the_subscriber(self, engine: Engine, clock: Clock) -> None:
        """16:00 UTC on the 11th is the 12th in Seoul."""
        clock.time = datetime(2026, 3, 11, 14, 59, tzinfo=UTC)
        await ordered(engine)
        clock.time = datetime(2026, 3, 11, 15, 0, tzinfo=UTC)
        with pytest.raises(OrderRefused):
            await ordered(engine)

    async def test_a_number_that_asked_not_to_be_called_is_refused(self, engine: Engine) -> None:
        record = await calling(engine)
        await engine.append(record.order.order_id, ev.ConsentDenied(call_id="call-1", denial="stop", step="consent"))
        with pytest.raises(OrderRefused, match=r"subscriber\.number: is on the do-not-call list") as refused:
            await ordered(engine)
        assert ["subscriber.number"] == [fault.path for fault in refused.value.faults]

    async def test_another_number_is_still_taken(self, engine: Engine) -> None:
        record = await calling(engine)
        await engine.append(record.order.order_id, ev.ConsentDenied(call_id="call-1", denial="stop", step="consent"))
        assert "ordered" == (await ordered(engine, OTHER)).state

    @pytest.mark.parametrize("order_id", [str(UUID(int=7)), "no-uuid", ""])
    async def test_an_unknown_order_is_named(self, engine: Engine, order_id: str) -> None:
        for attempt in (engine.record(order_id), engine.entries(order_id), engine.append(order_id, started())):
            with pytest.raises(UnknownOrder, match="no order"):
                await attempt

    async def test_a_call_finds_the_newest_open_order(self, engine: Engine, clock: Clock) -> None:
        await ordered(engine)
        clock.forward(seconds=1)
        newest = await ordered(engine)
        clock.forward(seconds=1)
        await calling(engine)
        await ordered(engine, OTHER)
        found = await engine.open_order_of(NUMBER)
        assert found is not None
        assert newest.order.order_id == found.order.order_id

    async def test_a_number_without_an_order_finds_none(self, engine: Engine) -> None:
        await ordered(engine, OTHER)
        assert None is await engine.open_order_of(NUMBER)


class TestReplies:
    async def test_a_wrong_code_tells_how_many_tries_are_left(self, engine: Engine) -> None:
        record = await challenged(engine)
        states = [
            (await engine.take_message("http", str(n), NUMBER, wrong(engine.code(record)))).state for n in range(3)
        ]
        assert ["challenged", "challenged", "failed"] == states
        assert [("challenge", 0), ("wrong_code", 2), ("wrong_code", 1), ("too_many_tries", 0)] == await sms(engine)

    async def test_after_too_many_tries_the_right_code_is_worth_nothing(self, engine: Engine) -> None:
        record = await challenged(engine)
        for n in range(3):
            await engine.take_message("http", str(n), NUMBER, wrong(engine.code(record)))
        await engine.take_message("http", "right", NUMBER, engine.code(record))
        assert [0, 0] == [await count(engine, table) for table in ("confirmations", "deliveries")]

    async def test_a_right_code_after_a_wrong_one_confirms(self, engine: Engine) -> None:
        record = await challenged(engine)
        await engine.take_message("http", "1", NUMBER, wrong(engine.code(record)))
        assert "confirmed" == (await engine.take_message("http", "2", NUMBER, engine.code(record))).state

    async def test_a_late_code_is_told_so_and_provisions_nothing(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        clock.time = record.challenge.expires_at
        assert Inbound("taken", record.order.order_id, "expired") == await engine.take_message(
            "http", "1", NUMBER, engine.code(record)
        )
        assert (0, ("late_reply", 0)) == (await count(engine, "deliveries"), (await sms(engine))[-1])

    async def test_a_code_in_the_last_second_is_in_time(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        clock.time = record.challenge.expires_at - timedelta(seconds=1)
        assert "confirmed" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_a_code_after_the_timer_is_late_even_if_the_clock_went_back(
        self, engine: Engine, clock: Clock
    ) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        await engine.append(record.order.order_id, ev.ChallengeExpired(challenge_id=record.challenge.challenge_id))
        clock.forward(hours=-1)
        assert "expired" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_the_same_message_again_has_no_effect(self, engine: Engine) -> None:
        record = await challenged(engine)
        text = wrong(engine.code(record))
        await engine.take_message("http", "1", NUMBER, text)
        assert Inbound("repeated", record.order.order_id, "challenged") == await engine.take_message(
            "http", "1", NUMBER, text
        )
        assert [("challenge", 0), ("wrong_code", 2)] == await sms(engine)
        assert ["reply.received", "reply.repeated"] == (await types(engine, record))[-2:]

    async def test_the_same_number_of_a_message_on_another_channel_is_another_message(self, engine: Engine) -> None:
        record = await challenged(engine)
        for channel in ("http", "sip"):
            await engine.take_message(channel, "1", NUMBER, wrong(engine.code(record)))
        assert ("wrong_code", 1) == (await sms(engine))[-1]

    async def test_another_number_cannot_confirm(self, engine: Engine) -> None:
        record = await challenged(engine)
        assert Inbound("unknown_number") == await engine.take_message("http", "1", OTHER, engine.code(record))
        assert "challenged" == (await engine.record(record.order.order_id)).state
        assert 1 == await count(engine, "inbound_messages")

    async def test_another_number_that_repeats_itself_is_told_apart(self, engine: Engine) -> None:
        await engine.take_message("http", "1", OTHER, "hello")
        assert Inbound("repeated") == await engine.take_message("http", "1", OTHER, "hello")

    async def test_the_code_of_one_order_does_not_confirm_another(self, engine: Engine) -> None:
        first, second = await challenged(engine), await challenged(engine, OTHER)
        assert "challenged" == (await engine.take_message("http", "1", OTHER, engine.code(first))).state
        assert engine.code(first) != engine.code(second)

    async def test_with_two_challenges_a_code_confirms_the_order_whose_it_is(
        self, engine: Engine, clock: Clock
    ) -> None:
        older = await challenged(engine)
        clock.forward(minutes=1)
        newer = await challenged(engine)
        await engine.take_message("http", "m1", NUMBER, engine.code(older))
        assert "confirmed" == (await engine.record(older.order.order_id)).state
        after = await engine.record(newer.order.order_id)
        assert after.challenge is not None
        assert ("challenged", 3) == (after.state, after.challenge.tries_left)

    async def test_too_late_is_told_once(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        code = engine.code(record)
        clock.forward(days=2)
        for number in range(3):
            await engine.take_message("http", f"late-{number}", NUMBER, code)
        assert 1 == [kind for kind, _ in await sms(engine)].count("late_reply")

    async def test_a_gateway_with_another_secret_does_not_take_the_code(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        stranger = engine_on(engine.database, clock, gateway="g2", secret=b"another")
        assert "challenged" == (await stranger.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_a_gateway_with_another_ledger_secret_reads_and_writes_nothing(
        self, engine: Engine, clock: Clock
    ) -> None:
        record = await challenged(engine)
        events = await count(engine, "events")
        stranger = engine_on(engine.database, clock, gateway="g2", keyring=Keyring(b"x" * 32))
        for attempt in (
            stranger.record(record.order.order_id),
            stranger.append(record.order.order_id, ev.HoldPlaced(by="x", reason="y")),
            stranger.take_message("http", "1", NUMBER, engine.code(record)),
        ):
            with pytest.raises(Unsealable):
                await attempt
        assert [events, 0] == [await count(engine, table) for table in ("events", "inbound_messages")]

    async def test_a_code_confirms_once(self, engine: Engine) -> None:
        record = await challenged(engine)
        for n in range(3):
            await engine.take_message("http", str(n), NUMBER, engine.code(record))
        assert [1, 1, 1] == [await count(engine, t) for t in ("confirmations", "provisioning_events", "deliveries")]


class TestStopWords:
    @pytest.mark.parametrize("text", ["STOP", "취소", "我不同意"])
    async def test_a_stop_word_ends_the_order(self, engine: Engine, text: str) -> None:
        record = await challenged(engine)
        assert Inbound("taken", record.order.order_id, "withdrawn") == await engine.take_message(
            "http", "1", NUMBER, text
        )
        await engine.take_message("http", "2", NUMBER, engine.code(record))
        assert (0, ("stopped", 0)) == (await count(engine, "deliveries"), (await sms(engine))[-1])

    async def test_a_stop_word_before_or_during_the_call_counts_too(self, engine: Engine) -> None:
        await ordered(engine)
        assert "withdrawn" == (await engine.take_message("http", "1", NUMBER, "stop")).state
        record = await calling(engine)
        record = await happen(engine, record, iter([*map(disclosed, MANDATORY), affirmed()]))
        assert record.affirmed is not None
        assert "withdrawn" == (await engine.take_message("http", "2", NUMBER, "stop")).state
        after = await engine.append(
            record.order.order_id, ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        )
        assert ("withdrawn", None) == (after.state, after.spoken)

    async def test_a_stop_word_between_the_consent_and_its_recording_counts(self, engine: Engine) -> None:
        record = await spoken(engine)
        assert "withdrawn" == (await engine.take_message("http", "1", NUMBER, "stop")).state
        after = await engine.append(record.order.order_id, kept())
        assert ("withdrawn", "", [("stopped", 0)]) == (after.state, engine.code(after), await sms(engine))

    async def test_a_stop_word_ends_every_open_order_of_the_number(self, engine: Engine, clock: Clock) -> None:
        """Whoever answers the code's message with STOP must not be billed because a newer order took the word."""
        older = await challenged(engine)
        clock.forward(minutes=1)
        await ordered(engine)
        await ordered(engine, OTHER)
        await engine.take_message("http", "1", NUMBER, "stop")
        await engine.take_message("http", "2", NUMBER, engine.code(older))
        states = await engine.database.pool.fetch(
            "SELECT number, state FROM consent.orders ORDER BY created_at, number"
        )
        assert Counter({(NUMBER, "withdrawn"): 2, (OTHER, "ordered"): 1}) == Counter(map(tuple, states))

    async def test_a_stop_word_on_a_call_counts_when_it_is_heard_and_for_every_order(
        self, engine: Engine, clock: Clock
    ) -> None:
        """Whatever happens to the call afterwards: no other event follows here."""
        other = await challenged(engine)
        clock.forward(minutes=1)
        record = await calling(engine, call_id="call-2")
        said = ev.UtteranceHeard(call_id="call-2", step="owner", grants_consent=False, verdict="stop", reason="said it")
        after = await engine.append(record.order.order_id, said)
        assert ("refused", "asked not to be called again") == (after.state, after.reason)
        await engine.take_message("http", "1", NUMBER, engine.code(other))
        assert "withdrawn" == (await engine.record(other.order.order_id)).state
        with pytest.raises(OrderRefused):
            await ordered(engine)

    async def test_a_no_to_the_consent_question_counts_when_it_is_heard(self, engine: Engine) -> None:
        record = await calling(engine)
        said = ev.UtteranceHeard(
            call_id="call-1", step="consent", grants_consent=True, verdict="deny", reason="said it"
        )
        assert "refused" == (await engine.append(record.order.order_id, said)).state

    async def test_a_stop_word_before_billing_has_taken_the_order_freezes_it(self, engine: Engine) -> None:
        record = await confirmed(engine)
        assert Inbound("taken", record.order.order_id, "frozen") == await engine.take_message(
            "http", "s", NUMBER, "stop"
        )

    async def test_a_stop_word_after_that_is_only_recorded(self, engine: Engine) -> None:
        record = await confirmed(engine)
        await engine.append(record.order.order_id, ev.OrderProvisioned(webhook_id="w"))
        assert Inbound("taken", record.order.order_id, "provisioned") == await engine.take_message(
            "http", "s", NUMBER, "stop"
        )
        assert "reply.received" == (await types(engine, record))[-1]
