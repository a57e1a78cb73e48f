"""A gateway is killed at every boundary that an order takes it past, and started again: nothing is lost, nothing is done twice in effect,
and every order comes to its end (DESIGN.md §8).

Boundaries are the moments before and after each commit, and before and after each effect. What is killed, and what is real about it:
crash_driver.py. Who sees it from outside: crash_outside.py.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from crash_driver import CODE_SECRET, KEYRING, NOTARY, ORIGIN, POLICY
from crash_outside import Life, Nursery, Outside
from crash_scenarios import SCENARIOS

from gateway.consent import events as ev
from gateway.consent.record import Record, State, replay
from gateway.effects import MASKED_CODE
from gateway.engine import Engine
from gateway.ledger import merkle, note
from gateway.store.database import Database
from gateway.store.postgres import Endpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")
NURSERIES = 2
SECRET = "whsec_" + base64.b64encode(b"of the billing system's webhooks").decode()
CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")
FIRST = "confirmed"
BESIDE = (NOTARY, "no event")
"""Commits of these are as many as time allows: not every life comes past the same number."""

OFTEN = re.compile(rf"{NOTARY} \(([5-9]|\d\d+)\)$")
"""The notary makes the same two commits again and again: gateways are killed over the first two of each."""


@dataclass
class Ward:
    """Nurseries, each with a reader of its database; and all boundaries that anybody died at."""

    outside: Outside
    nurseries: list[Nursery] = field(default_factory=list)
    engines: dict[Nursery, Engine] = field(default_factory=dict)
    died_at: Counter[str] = field(default_factory=Counter)

    async def all(self, scenario: str, deaths: Iterable[tuple[str, ...]]) -> list[Life]:
        """One order for each of *deaths*, as many at a time as there are nurseries; each is looked at when it is over."""
        waiting, lives = list(deaths)[::-1], []

        async def work(nursery: Nursery) -> None:
            while waiting:
                life = await nursery.bring_up(scenario, *waiting.pop())
                lives.append(life)
                try:
                    await look_at(life, self.outside, self.engines[nursery])
                except AssertionError as error:
                    waiting.clear()
                    raise AssertionError(f"{scenario}: {error}\n{life}") from error
                self.died_at.update(life.died_at)

        done = await asyncio.gather(*map(work, self.nurseries), return_exceptions=True)  # no life is broken off
        for failed in done:
            if failed is not None:
                raise failed
        return lives


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ward(postgres: Endpoint) -> AsyncIterator[Ward]:
    made = Ward(Outside(SECRET))
    folder = Path(tempfile.mkdtemp(prefix="crash-"))  # a socket's path is short
    receivers = await made.outside.open()
    admin = await asyncpg.connect(postgres.dsn())
    names = [f"crash_{number}" for number in range(NURSERIES)]
    databases = []
    try:
        for number, name in enumerate(names):
            await admin.execute(f'CREATE DATABASE "{name}"')
            dsn = replace(postgres, database=name).dsn()
            database = await Database.open(dsn, most=2)
            databases.append(database)
            nursery = Nursery(dsn, folder, made.outside, number)
            await nursery.open()
            made.nurseries.append(nursery)
            made.engines[nursery] = Engine(
                database, policy=POLICY, secret=CODE_SECRET, keyring=KEYRING, gateway="reader", now=_never
            )
        yield made
        print(f"\nkilled {made.died_at.total()} times, at {len(made.died_at)} boundaries")  # noqa: T201 - what was done is told
    finally:
        for nursery in made.nurseries:
            await nursery.close()
        for database in databases:
            await database.close()
        await receivers.cleanup()
        for name in names:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_an_order_survives_a_death_at_every_boundary(ward: Ward, scenario: str) -> None:
    [unharmed] = await ward.all(scenario, [()])
    boundaries = unharmed.passed
    assert unharmed.scenario.end == await state(ward, unharmed)
    apart = unharmed.scenario.apart
    if apart:  # what comes before it is passed in the first scenario too, and there gateways are killed at it
        boundaries = boundaries[boundaries.index(apart) :]
    boundaries = [boundary for boundary in boundaries if not OFTEN.search(boundary)]
    lives = await ward.all(scenario, [(boundary,) for boundary in boundaries])
    spared = set(boundaries) - {boundary for life in lives for boundary in life.died_at}
    assert set() == {boundary for boundary in spared if not any(name in boundary for name in BESIDE)}
    print(f"\n{scenario}: killed at {len(boundaries) - len(spared)} boundaries of {len(unharmed.passed)}")  # noqa: T201


async def test_an_order_survives_a_death_while_it_recovers_from_one(ward: Ward) -> None:
    first = (
        "before commit of consent.spoken (1)", "after commit of recording.kept+challenge.issued+call.ended (1)",
        "before commit of sms.sent (1)", "after commit of reply.received (1)", "before commit of delivery.attempted (1)",
    )  # fmt: skip
    deaths = [(death, f"#{again}") for death in first for again in (1, 2, 3, 4, 6, 9, 13)]
    lives = await ward.all(FIRST, deaths)
    assert {2} == {len(life.died_at) for life in lives}


async def test_every_event_is_in_the_tree_once_and_every_checkpoint_holds(ward: Ward) -> None:
    """RFC 6962 §2.1: the root is computed again from the events themselves."""
    for nursery in ward.nurseries:
        rows = await nursery.owner.fetch(
            "SELECT leaf, hash FROM consent.leaves FULL JOIN consent.events USING (order_id, seq) ORDER BY leaf"
        )
        assert list(range(len(rows))) == [row["leaf"] for row in rows]
        leaves = [merkle.leaf_hash(bytes.fromhex(row["hash"])) for row in rows]
        nodes = dict(merkle.grown(0, leaves, dict[merkle.Node, bytes]().__getitem__))
        notes = await nursery.owner.fetch("SELECT size, note FROM consent.checkpoints ORDER BY size")
        assert len(rows) == notes[-1]["size"]
        for row in notes:
            signed = note.parse_checkpoint(note.verify(row["note"], note.verifier_of(KEYRING.signer, ORIGIN)))
            assert (ORIGIN, row["size"], merkle.root(row["size"], nodes.__getitem__)) == (
                signed.origin, signed.size, signed.root,
            )  # fmt: skip


async def look_at(life: Life, outside: Outside, engine: Engine) -> None:
    """Everything that must be true of an order when it is over, whenever its gateway died."""
    entries = await engine.entries(life.order_id)  # whole: the chain is verified
    events = [entry.event for entry in entries]
    record, pool = replay(entries), engine.database.pool
    order = UUID(life.order_id)

    held = Counter(event.type for event in events)
    assert of_commits(life, "after") <= held, "an event that was committed is lost"
    assert held <= of_commits(life, "before"), "an event came from nowhere"

    assert ending(life, events) == record.state
    assert record.state == await pool.fetchval("SELECT state FROM consent.orders WHERE order_id = $1", order)
    assert 1 == await pool.fetchval("SELECT count(*) FROM consent.orders WHERE number = $1", life.number)

    stuck = "SELECT kind, state, error FROM consent.jobs WHERE state <> 'done' AND kind <> 'expire_challenge'"
    assert [] == await pool.fetch(stuck)
    assert len(entries) == await pool.fetchval("SELECT count(*) FROM consent.leaves WHERE order_id = $1", order)

    await look_at_webhooks(life, outside, engine, record)
    look_at_messages(life, outside, events)
    times = Counter(event.type for event in events)
    assert times["challenge.issued"] <= 1
    assert times["reply.received"] <= len(life.scenario.replies)
    assert times["order.provisioned"] == (record.state == "provisioned")


async def look_at_webhooks(life: Life, outside: Outside, engine: Engine, record: Record) -> None:
    """One webhook of a kind, under one id however often it is posted; and none of a consent that lacks a proof."""
    posted = [post for post in outside.posted if post.body["data"]["order_id"] == life.order_id]
    ids: dict[str, set[str]] = {}
    for post in posted:
        ids.setdefault(post.body["type"], set()).add(post.webhook_id)
    confirmed = record.state == "provisioned"
    assert {1} >= {len(found) for found in ids.values()}, f"one webhook, several ids: {ids}"
    told = life.scenario.told if record.state == life.scenario.end else ("consent.refused",)
    assert set(told) == set(ids)
    assert set(told) == {post.body["type"] for post in posted if post.status == 200}
    rows = await engine.database.pool.fetch(
        "SELECT webhook_id FROM consent.provisioning_events JOIN consent.confirmations USING (order_id, order_hash)"
        " WHERE order_id = $1", UUID(life.order_id),
    )  # fmt: skip
    assert ids.get("consent.confirmed", set()) == {str(row["webhook_id"]) for row in rows}
    assert confirmed == (len(rows) == 1)
    assert not confirmed or life.replied_right


def look_at_messages(life: Life, outside: Outside, events: list[ev.Event]) -> None:
    """What the record says was sent has arrived. A message arrives twice only if a gateway died before it had written down that it was
    sent; and then it is the same to the letter, code and all.
    """
    arrived: dict[str, Counter[str]] = defaultdict(Counter)
    for sms in outside.sms[life.number]:
        arrived[sms.reference][sms.text] += 1
    assert all(len(texts) == 1 for texts in arrived.values()), f"one message, several texts: {arrived}"
    told = {event.reference: event for event in events if isinstance(event, ev.SmsSent | ev.SmsFailed)}
    assert len(told) == sum(isinstance(event, ev.SmsSent | ev.SmsFailed) for event in events), "sent twice"
    assert set(arrived) == set(told)
    for reference, event in told.items():
        [text] = arrived[reference]
        if isinstance(event, ev.SmsSent):
            assert event.text == CODE.sub(MASKED_CODE, text)
        else:  # a gateway died over the challenge, and the subscriber was quicker than the next one
            assert life.died_at
            assert "may have arrived" in event.error
    assert all(texts.total() <= 1 + len(life.died_at) for texts in arrived.values())
    assert len({found[0] for texts in arrived.values() for text in texts if (found := CODE.search(text))}) <= 1


def ending(life: Life, events: list[ev.Event]) -> State:
    """How the order has to end: as its scenario does, unless a gateway died between the consent and the keeping of its recording."""
    spoken = False
    for event in events:
        if isinstance(event, ev.ConsentSpoken):
            spoken = True
        elif isinstance(event, ev.RecordingKept):
            spoken = False
        elif isinstance(event, ev.CallEnded) and event.outcome == "lost" and spoken:
            return "failed"
    return life.scenario.end


def of_commits(life: Life, moment: str) -> Counter[str]:
    """How many events of each type the order's gateways were about to commit, or had committed."""
    found = [re.fullmatch(rf"{moment} commit of (.+) \(\d+\)", name) for name in life.passed]
    return Counter(kind for name in found if name for kind in name[1].split("+") if "." in kind)


async def state(ward: Ward, life: Life) -> str:
    for engine in ward.engines.values():
        query = "SELECT state FROM consent.orders WHERE order_id = $1"
        if found := await engine.database.pool.fetchval(query, UUID(life.order_id)):
            return str(found)
    raise AssertionError(life.order_id)


def _never() -> None:
    raise AssertionError("nothing is written here")
