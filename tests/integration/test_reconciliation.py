"""Bills against the record: what was billed without consent, and what was consented to without a bill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from billing_bench import far_end
from engines import KEYRING, PLAN, SECRET
from histories import good_call, happen
from typer.testing import CliRunner, Result

from gateway.billing_export import Bill
from gateway.cli import app
from gateway.consent import events as ev
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.deliveries import Deliveries, keep_reference
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import Signer
from gateway.reconciliation import PIECE, WORDS, Reconciliation, reconcile
from gateway.store.database import Database
from gateway.store.jobs import Job

DAY = timedelta(days=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(database, policy=Policy(), secret=SECRET, keyring=KEYRING, gateway="g1", now=utc_now)


class Numbers:
    """A subscriber for each order."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> str:
        self.last += 1
        return f"+8210{self.last:08d}"


number = Numbers()


async def ordered(engine: Engine, tenant: str = "billing") -> Record:
    request = OrderRequest.model_validate(sample_order(number(), utc_now().date(), call="inbound"))
    return await engine.create(request, tenant, PLAN)


async def confirmed(engine: Engine, tenant: str = "billing") -> Record:
    record = await ordered(engine, tenant)
    record = await happen(engine, record, good_call(record))
    await engine.take_message("http", str(uuid4()), record.order.subscriber.number, engine.code(record))
    return await engine.record(record.order.order_id)


def billed(record: Record | None, line: int = 2, at: datetime | None = None, reference: str | None = None) -> Bill:
    return Bill(line, UUID(record.order.order_id) if record else None, reference, at)


async def against(engine: Engine, *bills: Bill, **options: Any) -> Reconciliation:
    return await reconcile(engine.database, bills, **options)


async def faults(engine: Engine, *bills: Bill, **options: Any) -> list[tuple[int, str]]:
    found = (await against(engine, *bills, **options)).billed_without_consent
    assert [fault for _, fault in [(one.line, one.fault) for one in found] if fault not in WORDS] == []
    return [(one.line, one.fault) for one in found]


class TestAgreement:
    async def test_what_was_consented_to_and_billed_is_not_named(self, engine: Engine) -> None:
        record = await confirmed(engine)
        found = await against(engine, billed(record, at=utc_now()))
        assert (1, True, (), ()) == (
            found.lines, found.agrees, found.billed_without_consent, found.consent_without_billing,
        )  # fmt: skip

    async def test_nothing_agrees_with_nothing(self, engine: Engine) -> None:
        assert (await against(engine)).agrees

    async def test_billings_own_reference_names_an_order_too(self, engine: Engine) -> None:
        record = await confirmed(engine)
        async with engine.database.transaction() as connection:
            await keep_reference(connection, record.order.order_id, "billing", "B-7", utc_now())
        assert (await against(engine, billed(None, reference="B-7"))).agrees


class TestBilledWithoutConsent:
    async def test_an_order_that_there_is_not(self, engine: Engine) -> None:
        assert [(2, "unknown_order")] == await faults(engine, Bill(2, uuid4(), None, None))

    async def test_a_reference_that_nobody_gave(self, engine: Engine) -> None:
        assert [(2, "unknown_reference")] == await faults(engine, billed(None, reference="B-8"))

    async def test_a_reference_of_several_orders(self, engine: Engine) -> None:
        for tenant in ("billing", "another"):
            record = await confirmed(engine, tenant)
            async with engine.database.transaction() as connection:
                await keep_reference(connection, record.order.order_id, tenant, "B-7", utc_now())
        assert [(2, "ambiguous_reference")] == await faults(engine, billed(None, reference="B-7"))
        assert [] == await faults(engine, billed(None, reference="B-7"), tenant="another")

    async def test_another_tenants_order(self, engine: Engine) -> None:
        record = await confirmed(engine)
        assert [(2, "another_tenant")] == await faults(engine, billed(record), tenant="another")
        assert [] == await faults(engine, billed(record), tenant="billing")

    async def test_an_order_that_was_never_confirmed(self, engine: Engine) -> None:
        record = await happen(engine, await ordered(engine), iter([]))
        challenged = await happen(engine, other := await ordered(engine), good_call(other))
        found = await against(engine, billed(record, 2), billed(challenged, 3))
        assert [
            (2, "not_confirmed", "the order was never confirmed: it is ordered"),
            (3, "not_confirmed", "the order was never confirmed: it is challenged"),
        ] == [(one.line, one.fault, one.reason) for one in found.billed_without_consent]

    async def test_an_order_that_was_withdrawn(self, engine: Engine) -> None:
        record = await ordered(engine)
        await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))
        assert [(2, "withdrawn")] == await faults(engine, billed(record))

    async def test_an_order_that_was_frozen_after_it_was_confirmed(self, engine: Engine) -> None:
        record = await confirmed(engine)
        await engine.append(record.order.order_id, ev.OrderFrozen(source="quality", reason="not her voice"))
        found = await against(engine, billed(record))
        assert ["frozen"] == [one.fault for one in found.billed_without_consent]
        assert () == found.consent_without_billing

    async def test_the_same_order_twice(self, engine: Engine) -> None:
        record, other = await confirmed(engine), await confirmed(engine)
        async with engine.database.transaction() as connection:
            await keep_reference(connection, record.order.order_id, "billing", "B-7", utc_now())
        found = await against(
            engine, billed(record, 2), billed(other, 3), billed(record, 4), billed(None, 5, reference="B-7")
        )
        assert [(4, "billed twice, first on line 2"), (5, "billed twice, first on line 2")] == [
            (one.line, one.reason) for one in found.billed_without_consent
        ]

    async def test_the_same_order_twice_however_far_apart(self, engine: Engine) -> None:
        record = await confirmed(engine)
        strangers = [Bill(line, uuid4(), None, None) for line in range(3, PIECE + 10)]
        found = await faults(engine, billed(record, 2), *strangers, billed(record, PIECE + 10))
        assert [(PIECE + 10, "billed_twice")] == [one for one in found if one[1] != "unknown_order"]
        assert len(strangers) + 1 == len(found)

    async def test_before_it_was_confirmed(self, engine: Engine) -> None:
        record = await confirmed(engine)
        assert record.confirmation is not None
        at = record.confirmation.reply.at
        assert [] == await faults(engine, billed(record, at=at))
        found = await against(engine, billed(record, at=at - timedelta(microseconds=1)))
        assert ["billed_early"] == [one.fault for one in found.billed_without_consent]
        assert f"{at:%Y-%m-%d %H:%M:%S} UTC" in found.billed_without_consent[0].reason


class TestConsentWithoutBilling:
    async def test_each_is_named_with_where_its_webhook_stands(self, engine: Engine) -> None:
        waiting, taken, dead = [await confirmed(engine) for _ in range(3)]
        async with far_end() as billing, Poster(Guard(["127.0.0.0/8"])) as poster:
            endpoints = {("billing", "main"): Endpoint(billing.url, Signer(b"k" * 32))}
            sender = Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0)
            billing.answer(200, b'{"reference": "B-7"}')
            billing.answer(410)
            for record, attempt in ((taken, 1), (dead, 10)):
                webhook_id = await engine.database.pool.fetchval(
                    "SELECT webhook_id FROM consent.deliveries WHERE order_id = $1", UUID(record.order.order_id)
                )
                payload = {"webhook_id": str(webhook_id), "schedule": 0}
                await sender.attempt(Job(1, "deliver_webhook", payload, attempt, uuid4()))
        found = (await against(engine)).consent_without_billing
        assert [
            (waiting.order.order_id, "pending", ""),
            (taken.order.order_id, "delivered", "B-7"),
            (dead.order.order_id, "dead", ""),
        ] == [(one.order_id, one.webhook, one.reference) for one in found]
        assert "the webhook is dead (HTTP 410); replay it" == found[2].reason

    async def test_of_one_tenant_and_one_time_only(self, engine: Engine) -> None:
        mine, other = await confirmed(engine), await confirmed(engine, "another")
        now = utc_now()

        async def unbilled(**options: Any) -> set[str]:
            return {one.order_id for one in (await against(engine, **options)).consent_without_billing}

        assert {mine.order.order_id, other.order.order_id} == await unbilled(since=now - DAY, until=now + DAY)
        assert {mine.order.order_id} == await unbilled(tenant="billing")
        assert set() == await unbilled(until=now - DAY) | await unbilled(since=now + DAY)

    async def test_who_never_consented_need_not_be_billed(self, engine: Engine) -> None:
        await ordered(engine)
        assert (await against(engine)).agrees

    async def test_more_than_are_read_at_a_time(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.reconciliation.PIECE", 2)
        records = [await confirmed(engine) for _ in range(5)]
        found = await against(engine, *(billed(record, line) for line, record in enumerate(records[:3], 2)))
        assert [record.order.order_id for record in records[3:]] == [
            one.order_id for one in found.consent_without_billing
        ]


class TestTheCommand:
    """`consent-gateway reconcile`, against the ledger."""

    @pytest.fixture(autouse=True)
    def _logs_as_they_were(self) -> Iterator[None]:
        """The command quietens the log of its process, which here is this one."""
        before = structlog.get_config()
        yield
        structlog.configure(**before)

    @pytest.fixture
    def config(self, dsn: str, tmp_path: Path) -> Path:
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'data_dir = "{tmp_path}/data"\n[database]\ndsn = "{dsn}"\n[ledger]\nsecret = "{"k" * 32}"\n'
            f'[sms]\ncode_secret = "{"s" * 32}"\n'
        )
        return file

    async def run(self, config: Path, *arguments: str) -> Result:
        """In a thread of its own: the command brings its own event loop."""
        return await asyncio.to_thread(CliRunner().invoke, app, ["reconcile", *arguments, "--config", str(config)])

    async def test_it_names_both_and_exits_with_1(self, engine: Engine, config: Path, tmp_path: Path) -> None:
        good, forgotten, refused = await confirmed(engine), await confirmed(engine), await ordered(engine)
        export = tmp_path / "bills.csv"
        export.write_text(f"order_id,billed_at\n{good.order.order_id},\n{refused.order.order_id},\n")
        done = await self.run(config, str(export), "--json")
        found = json.loads(done.stdout)
        assert (1, "") == (done.exit_code, done.stderr)
        assert (2, False, [3], [forgotten.order.order_id]) == (
            found["lines"], found["agrees"], [one["line"] for one in found["billed_without_consent"]],
            [one["order_id"] for one in found["consent_without_billing"]],
        )  # fmt: skip
        told = await self.run(config, str(export))
        assert 1 == told.exit_code
        for words in (
            "billed without consent: 1",
            refused.order.order_id[:8],
            "consent without billing: 1",
            forgotten.order.order_id[:8],
            "2 lines were read",
        ):
            assert words in told.stdout

    async def test_agreement_is_0_and_a_bad_file_2(self, engine: Engine, config: Path, tmp_path: Path) -> None:
        record = await confirmed(engine)
        export = tmp_path / "bills.csv"
        export.write_text(f"order_id\n{record.order.order_id}\n")
        done = await self.run(config, str(export))
        assert (0, True) == (done.exit_code, "billed without consent: 0" in done.stdout), done.stderr
        export.write_text("order_id\nnonsense\n")
        bad = await self.run(config, str(export))
        assert (2, "") == (bad.exit_code, bad.stdout)
        assert "bills.csv, line 2: column order_id: 'nonsense' is no order id" in bad.stderr
        gone = await self.run(config, str(tmp_path / "none.csv"))
        assert (2, True) == (gone.exit_code, "none.csv: No such file" in gone.stderr)
