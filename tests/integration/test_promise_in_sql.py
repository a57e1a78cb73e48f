"""The promise, kept by PostgreSQL alone: raw SQL as the application and as the owner of the schema, and each attempt refused.

Of every attempt all is right but what its name says: it is refused for that, and the guard that refuses it is named.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import pytest
from raw_sql import Standing, confirm, event, insert, known, provision, put, refuse, reply, spoken

CHECKED, RESTRICTED = asyncpg.CheckViolationError, asyncpg.RestrictViolationError
FOREIGN, UNIQUE = asyncpg.ForeignKeyViolationError, asyncpg.UniqueViolationError
Attempt = tuple[type[asyncpg.PostgresError], str, Callable[[Standing], str]]
STATES_THAT_ARE_A_NO = (
    "refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "frozen", "failed",
)  # fmt: skip
EVENTS_THAT_ARE_A_NO = (
    "consent.denied", "order.withdrawn", "order.frozen", "challenge.expired", "record.erased", "recording.failed",
)  # fmt: skip
A_NO = "has ended with a no"
NOBODY = "00000000-0000-4000-8000-000000000000"

WEBHOOKS: dict[str, Attempt] = {
    "for an order that nobody consented to": (FOREIGN, "provisioning_events", lambda s: provision(s.placed)),
    "with one proof of two": (FOREIGN, "provisioning_events", lambda s: provision(s.waiting)),
    "with both proofs that no confirmation joins": (
        FOREIGN, "provisioning_events", lambda s: reply(s.waiting) + provision(s.waiting),
    ),
    "after a stop word": (CHECKED, A_NO, lambda s: provision(s.stopped)),
    "a second time": (UNIQUE, "order_id_key", lambda s: provision(s.confirmed)),
    "under the confirmation of another order": (
        FOREIGN, "provisioning_events", lambda s: provision(s.waiting, order_hash=s.confirmed.order_hash),
    ),
    "for other terms than were confirmed": (
        FOREIGN, "provisioning_events",
        lambda s: reply(s.waiting) + confirm(s.waiting) + provision(s.waiting, order_hash=s.placed.order_hash),
    ),
    "for an order that was frozen meanwhile": (
        CHECKED, A_NO,
        lambda s: reply(s.waiting) + confirm(s.waiting) + event(s.waiting, "order.frozen") + provision(s.waiting),
    ),
    "for an order whose state is frozen": (
        CHECKED, A_NO, lambda s: reply(s.waiting) + confirm(s.waiting) + put(s.waiting, "frozen") + provision(s.waiting),
    ),
    "for an order that was withdrawn meanwhile": (
        CHECKED, A_NO,
        lambda s: reply(s.waiting) + confirm(s.waiting) + refuse(s.waiting, "reply.received", "withdrawn")
        + provision(s.waiting),
    ),
    "under the number of an old one": (
        UNIQUE, "provisioning_events_pkey",
        lambda s: reply(s.waiting) + confirm(s.waiting)
        + "INSERT INTO consent.provisioning_events SELECT webhook_id, " + f"'{s.waiting.order_id}', "
        f"'{s.waiting.order_hash}', at FROM consent.provisioning_events",
    ),
}  # fmt: skip

CONFIRMATIONS: dict[str, Attempt] = {
    "without a code reply": (FOREIGN, "replied_at", lambda s: confirm(s.waiting)),
    "without a spoken consent": (FOREIGN, "spoken_at", lambda s: reply(s.placed) + confirm(s.placed)),
    "without a recording": (FOREIGN, "recording_id", lambda s: reply(s.waiting) + confirm(s.waiting, recording_id=NOBODY)),
    "with another event for the recording": (
        FOREIGN, "recording_id",
        lambda s: reply(s.waiting)
        + confirm(s.waiting, recording_id=s.waiting.event("call.ended"), recorded_at=s.waiting.time("call.ended")),
    ),
    "with the recording of another order": (
        FOREIGN, "recording_id",
        lambda s: reply(s.waiting) + confirm(
            s.waiting, recording_id=s.confirmed.event("recording.kept"), spoken_at=s.waiting.time("consent.spoken"),
        ),
    ),
    "with the recording at another time": (
        FOREIGN, "recording_id",
        lambda s: reply(s.waiting) + confirm(s.waiting, recorded_at=s.waiting.time("challenge.issued")),
    ),
    "with the consent to another order": (
        FOREIGN, "spoken_at",
        lambda s: reply(s.waiting) + confirm(s.waiting, spoken_at=s.confirmed.time("consent.spoken")),
    ),
    "with the reply to another order": (
        FOREIGN, "replied_at",
        lambda s: confirm(s.waiting, replied_at="2027-01-01+00"),
    ),
    "of other terms than were consented to": (
        FOREIGN, "order_hash", lambda s: reply(s.waiting) + confirm(s.waiting, order_hash=s.confirmed.order_hash),
    ),
    "with the recording before the consent": (
        CHECKED, "confirmations_check",
        lambda s: reply(s.waiting) + confirm(s.waiting, recorded_at=s.waiting.time("consent.spoken")),
    ),
    "with the reply before the recording": (
        CHECKED, "confirmations_check",
        lambda s: reply(s.waiting) + confirm(s.waiting, replied_at=s.waiting.time("recording.kept")),
    ),
    "that names another kind of recording": (
        asyncpg.GeneratedAlwaysError, "recorded_type",
        lambda s: reply(s.waiting) + confirm(s.waiting, recorded_type="call.ended"),
    ),
    "a second time": (UNIQUE, "confirmations_pkey", lambda s: confirm(s.confirmed)),
    "after a stop word by SMS": (CHECKED, A_NO, lambda s: reply(s.stopped) + confirm(s.stopped)),
    "after a refusal, whatever its event": (
        CHECKED, A_NO,
        lambda s: refuse(s.waiting, "reply.received", "withdrawn") + reply(s.waiting) + confirm(s.waiting),
    ),
    **{
        f"after {kind}": (
            CHECKED, A_NO, lambda s, kind=kind: event(s.waiting, kind) + reply(s.waiting) + confirm(s.waiting),
        ) for kind in EVENTS_THAT_ARE_A_NO
    },
    **{
        f"of an order that is {state}": (
            CHECKED, A_NO, lambda s, state=state: put(s.waiting, state) + reply(s.waiting) + confirm(s.waiting),
        ) for state in STATES_THAT_ARE_A_NO
    },
}  # fmt: skip

PROOFS: dict[str, Attempt] = {
    "a consent that no event is": (FOREIGN, "spoken_consents", lambda s: spoken(s.placed, event_id=NOBODY)),
    "a consent given in another order": (
        FOREIGN, "spoken_consents",
        lambda s: spoken(s.placed, event_id=s.confirmed.event("consent.spoken")),
    ),
    "a consent that is an event of another kind": (
        FOREIGN, "spoken_consents",
        lambda s: spoken(s.placed, event_id=s.placed.event("recording.kept"), at=s.placed.time("recording.kept")),
    ),
    "a consent at another time than its event": (FOREIGN, "spoken_consents", lambda s: spoken(s.placed, at="2027-01-01+00")),
    "a consent to other terms": (
        FOREIGN, "spoken_consents", lambda s: spoken(s.placed, order_hash=s.confirmed.order_hash),
    ),
    "a consent to no order": (FOREIGN, "spoken_consents", lambda s: spoken(s.placed, order_id=NOBODY)),
    "a second consent": (UNIQUE, "spoken_consents_pkey", lambda s: spoken(s.waiting)),
    "a consent that says itself what kind of event it is": (
        asyncpg.GeneratedAlwaysError, "type",
        lambda s: spoken(s.placed, event_id=s.placed.event("call.started"), type="call.started"),
    ),
    "a consent that nobody said yes to": (FOREIGN, "affirm", lambda s: spoken(s.placed, affirmation_id=NOBODY)),
    "a consent with a yes of another kind": (
        FOREIGN, "affirm",
        lambda s: spoken(
            s.placed, affirmation_id=s.placed.event("prompt.played"), affirmed_at=s.placed.time("prompt.played"),
        ),
    ),
    "a consent with the yes of another order": (
        FOREIGN, "affirm",
        lambda s: spoken(
            s.placed, affirmation_id=s.confirmed.event("utterance.heard"), affirmed_at=s.confirmed.time("utterance.heard"),
        ),
    ),
    "a consent before the yes": (
        CHECKED, "spoken_consents_check", lambda s: spoken(s.placed, affirmed_at=s.placed.time("consent.spoken")),
    ),
    "a reply that no event is": (FOREIGN, "code_replies", lambda s: reply(s.waiting, event_id=NOBODY)),
    "a reply to another order": (
        FOREIGN, "code_replies", lambda s: reply(s.waiting, event_id=s.confirmed.event("reply.received")),
    ),
    "a reply that is an event of another kind": (
        FOREIGN, "code_replies",
        lambda s: reply(s.waiting, event_id=s.waiting.event("challenge.issued"), at=s.waiting.time("challenge.issued")),
    ),
    "a reply at another time than its event": (
        FOREIGN, "code_replies", lambda s: reply(s.waiting, at=s.waiting.time("call.ended")),
    ),
    "a reply to other terms": (FOREIGN, "code_replies", lambda s: reply(s.waiting, order_hash=s.confirmed.order_hash)),
    "a reply when the code expires": (
        CHECKED, "code_replies_check", lambda s: reply(s.waiting, expires_at=s.waiting.time("reply.received")),
    ),
    "a second reply": (UNIQUE, "code_replies_pkey", lambda s: reply(s.confirmed)),
    "a reply that says itself what kind of event it is": (
        asyncpg.GeneratedAlwaysError, "type", lambda s: reply(s.waiting, type="call.ended"),
    ),
    "a refusal that no event is": (
        FOREIGN, "refusals",
        lambda s: insert("refusals", {
            "order_id": s.waiting.order_id, "event_id": NOBODY, "type": "x", "at": "now", "state": "refused",
        }),
    ),
}  # fmt: skip

ORDERS: dict[str, Attempt] = {
    **{
        f"the {column} of an order": (
            RESTRICTED, "terms", lambda s, change=f"{column} = {value}": (
                f"UPDATE consent.orders SET {change} WHERE order_id = '{s.confirmed.order_id}'"
            ),
        ) for column, value in {
            "order_hash": "repeat('0', 64)", "number": "'+821099999999'", "tenant": "'mine'", "created_at": "now()",
        }.items()
    },
    "an order into another": (
        RESTRICTED, "terms",
        lambda s: f"UPDATE consent.orders SET order_id = '{NOBODY}' WHERE order_id = '{s.confirmed.order_id}'",
    ),
    "a number that was forgotten into a new one": (
        RESTRICTED, "terms",
        lambda s: f"UPDATE consent.orders SET number = NULL WHERE order_id = '{s.placed.order_id}';"
        f"UPDATE consent.orders SET number = '+821099999999' WHERE order_id = '{s.placed.order_id}'",
    ),
    **{
        f"{state} back into challenged": (
            RESTRICTED, "stays so", lambda s, state=state: put(s.waiting, state) + put(s.waiting, "challenged"),
        ) for state in STATES_THAT_ARE_A_NO
    },
}  # fmt: skip


@pytest.mark.parametrize("what", WEBHOOKS)
async def test_no_webhook(what: str, writer: asyncpg.Connection, standing: Standing) -> None:
    await refused(writer, standing, WEBHOOKS[what])


@pytest.mark.parametrize("what", CONFIRMATIONS)
async def test_no_confirmation(what: str, writer: asyncpg.Connection, standing: Standing) -> None:
    await refused(writer, standing, CONFIRMATIONS[what])


@pytest.mark.parametrize("what", PROOFS)
async def test_no_proof_is(what: str, writer: asyncpg.Connection, standing: Standing) -> None:
    await refused(writer, standing, PROOFS[what])


@pytest.mark.parametrize("what", ORDERS)
async def test_not_even_the_owner_turns(what: str, master: asyncpg.Connection, standing: Standing) -> None:
    await refused(master, standing, ORDERS[what])


async def refused(connection: asyncpg.Connection, standing: Standing, attempt: Attempt) -> None:
    error, guard, statements = attempt
    with pytest.raises(error, match=guard):
        await connection.execute(statements(standing))


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_nobody_confirms_in_a_transaction_that_looks_at_the_past(isolation: str, standing: Standing) -> None:
    """It would not see a no that was written since it began."""
    connection = await asyncpg.connect(standing.stranger)
    try:
        with pytest.raises(CHECKED, match="is confirmed in READ COMMITTED"):
            await connection.execute(
                f"BEGIN ISOLATION LEVEL {isolation};" + reply(standing.waiting) + confirm(standing.waiting)
            )
    finally:
        await connection.close()


async def test_constraints_cannot_be_put_off(writer: asyncpg.Connection, standing: Standing) -> None:
    with pytest.raises(FOREIGN):
        await writer.execute("SET CONSTRAINTS ALL DEFERRED;" + confirm(standing.waiting))


async def test_the_number_may_be_forgotten(master: asyncpg.Connection) -> None:
    await master.execute("UPDATE consent.orders SET number = NULL")
    assert 4 == await master.fetchval("SELECT count(*) FROM consent.orders WHERE number IS NULL")


async def test_a_true_confirmation_is_taken(writer: asyncpg.Connection, standing: Standing) -> None:
    """Else everything above would prove only that nothing can be written."""
    await writer.execute(reply(standing.waiting) + confirm(standing.waiting) + provision(standing.waiting))
    assert 2 == await writer.fetchval("SELECT count(*) FROM consent.provisioning_events")


async def test_a_true_proof_and_a_true_event_are_taken(writer: asyncpg.Connection, standing: Standing) -> None:
    await writer.execute(spoken(standing.placed) + event(standing.placed))
    after = await known(writer, standing.placed.order_id)
    assert ("hold.placed", standing.placed.seq + 1) == (list(after.events)[-1], after.seq)


async def test_a_recording_that_failed_before_the_consent_bars_nothing(
    writer: asyncpg.Connection, standing: Standing
) -> None:
    """The consent, its recording and its reply come after it, as of a second call."""
    order = standing.placed
    for kind in ("recording.failed", "utterance.heard", "consent.spoken", "recording.kept", "reply.received"):
        await writer.execute(event(order, kind))
        order = await known(writer, order.order_id)
    await writer.execute(spoken(order) + reply(order) + confirm(order))
    assert 2 == await writer.fetchval("SELECT count(*) FROM consent.confirmations")
