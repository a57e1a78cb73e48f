"""`consent-gateway deliveries` and `secret`, as an operator runs them: processes beside the gateway, on one database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from billing_bench import FarEnd, far_end
from engines import KEYRING, NUMBER, PLAN, SECRET
from histories import good_call, happen
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli_deliveries import moment
from gateway.consent.order import OrderRequest, Policy
from gateway.deliveries import JOB, Deliveries
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import Signer, read_secret, read_signing_key
from gateway.store.database import Database
from gateway.store.errors import StoreError
from gateway.store.jobs import Job

HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def billing() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(database, policy=Policy(), secret=SECRET, keyring=KEYRING, gateway="g1", now=utc_now)


@pytest.fixture
async def sender(engine: Engine, billing: FarEnd) -> AsyncIterator[Deliveries]:
    async with Poster(Guard(["127.0.0.0/8"])) as poster:
        endpoints = {("billing", "main"): Endpoint(billing.url, Signer(read_secret(HOOK_SECRET)))}
        yield Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """The commands quieten the log of their process, which here is this one."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""\
data_dir = "{tmp_path}/data"
[database]
dsn = "{dsn}"
[ledger]
secret = "{"k" * 32}"
[sms]
code_secret = "{"s" * 32}"
[[tenants]]
id = "billing"
api_key = "{"a" * 32}"
webhook_url = "https://billing.example/hook"
webhook_secret = "{HOOK_SECRET}"
[[tenants.endpoints]]
name = "crm"
url = "https://crm.example/hook"
secret = "{HOOK_SECRET}"
events = ["consent.frozen"]
"""
    )
    return file


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str


async def run(config: Path, *arguments: str) -> Done:
    """The command in a thread of its own: it brings its own event loop."""
    command = ["deliveries", *arguments, "--config", str(config)]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    if isinstance(result.exception, StoreError):  # one line on stderr, by gateway.cli.main
        return Done(1, result.stdout, str(result.exception))
    assert isinstance(result.exception, SystemExit | None), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


async def told(config: Path, *arguments: str) -> Any:
    done = await run(config, *arguments, "--json")
    assert 0 == done.code, done.stderr
    return json.loads(done.stdout)


async def confirmed(engine: Engine) -> str:
    """The id of the webhook of a confirmed order."""
    request = OrderRequest.model_validate(sample_order(NUMBER, utc_now().date(), call="inbound"))
    record = await engine.create(request, "billing", PLAN)
    record = await happen(engine, record, good_call(record))
    await engine.take_message("http", str(uuid4()), NUMBER, engine.code(record))
    found = await engine.database.pool.fetchval(
        "SELECT webhook_id FROM consent.deliveries WHERE order_id = $1", UUID(record.order.order_id)
    )
    return str(found)


async def attempt(sender: Deliveries, webhook_id: str, schedule: int = 0) -> None:
    await sender.attempt(Job(1, JOB, {"webhook_id": webhook_id, "schedule": schedule}, 1, uuid4()))


async def test_from_a_410_to_the_delivery_after_all(
    engine: Engine, sender: Deliveries, billing: FarEnd, config: Path
) -> None:
    """What an operator does when a billing system had thrown its hook away."""
    webhook_id = await confirmed(engine)
    billing.answer(410, b"\x1b[31mwe are closed\x1b[0m", Server="billing/2")
    await attempt(sender, webhook_id)

    (dead,) = await told(config, "list", "--dead")
    assert (webhook_id, "dead", 410, "HTTP 410", "main") == (
        dead["webhook_id"], dead["state"], dead["last_status"], dead["last_error"], dead["endpoint"],
    )  # fmt: skip
    assert [] == await told(config, "list", "--kind", "consent.frozen")
    assert [] == await told(config, "list", "--dead", "--until", "1h")

    shown = await run(config, "show", webhook_id[:8])
    assert 0 == shown.code, shown.stderr
    for words in (webhook_id, "dead after 1 attempts (HTTP 410)", '"type": "consent.confirmed"', "server: billing/2",
                  "| ·[31mwe are closed·[0m"):  # fmt: skip
        assert words in shown.stdout
    assert "\x1b" not in shown.stdout

    endpoints = {one["endpoint"]: one for one in await told(config, "endpoints")}
    assert ("disabled", 1, "https://billing.example/hook", "consent.confirmed, consent.frozen") == (
        (main := endpoints["main"])["state"], main["dead"], main["url"], main["events"],
    )  # fmt: skip
    assert main["reason"].startswith("it answered 410 at ")
    assert ("enabled", "consent.frozen") == (endpoints["crm"]["state"], endpoints["crm"]["events"])

    assert "replay --dead --tenant billing --endpoint main" in (await run(config, "enable", "billing")).stdout
    again = await run(config, "enable", "billing")
    assert (1, True) == (again.code, "billing/main is not disabled" in again.stderr)
    assert "1 enqueued" in (await run(config, "replay", "--dead", "--tenant", "billing", "--endpoint", "main")).stdout
    assert "0 enqueued" in (await run(config, "replay", "--dead")).stdout
    await attempt(sender, webhook_id, schedule=1)
    assert "delivered" == (await told(config, "show", webhook_id))["state"]
    assert {webhook_id} == {one.headers["webhook-id"] for one in billing.received}


async def test_one_webhook_is_posted_again(engine: Engine, sender: Deliveries, config: Path) -> None:
    webhook_id = await confirmed(engine)
    early = await run(config, "replay", webhook_id)
    assert (1, True) == (early.code, "is under way" in early.stderr)
    await attempt(sender, webhook_id)
    assert "1 enqueued; the running gateway posts it" in (await run(config, "replay", webhook_id[:8])).stdout
    assert "pending" == (await told(config, "show", webhook_id))["state"]


async def test_an_endpoint_can_be_disabled_by_hand(engine: Engine, sender: Deliveries, config: Path) -> None:
    webhook_id = await confirmed(engine)
    assert 0 == (await run(config, "disable", "billing", "--reason", "they asked us to")).code
    await attempt(sender, webhook_id)
    shown = await told(config, "show", webhook_id)
    assert ("dead", "endpoint billing/main is disabled: they asked us to", []) == (
        shown["state"], shown["last_error"], shown["all_attempts"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        ("say which", ["replay"]),
        ("not both", ["replay", "11111111", "--dead"]),
        ("no webhook begins with 11111111", ["replay", "11111111"]),
        ("'xyz' is no webhook id", ["show", "xyz"]),
        ("'someday' is no time", ["list", "--since", "someday"]),
        ("'lost' is none of pending, delivered, dead, cancelled", ["list", "--state", "lost"]),
        ("none of consent.confirmed, consent.refused", ["list", "--kind", "consent.given"]),
    ],
)
async def test_what_cannot_be_done_is_told_with_its_mend(
    database: Database, config: Path, expected: str, arguments: list[str]
) -> None:
    done = await run(config, *arguments)
    assert done.code in (1, 2)
    assert expected in " ".join(done.stderr.replace("│", " ").split())


class TestMoments:
    NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (NOW - timedelta(seconds=90), "90s"),
            (NOW - timedelta(hours=24), "24h"),
            (NOW - timedelta(weeks=2), "2w"),
            (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22"),
            (datetime(2026, 11, 22, 9, tzinfo=UTC), "2026-11-22T09:00"),
            (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22T09:00+09:00"),
        ],
    )
    def test_ago_or_iso_8601(self, expected: datetime, text: str) -> None:
        assert expected == moment(text, self.NOW)

    @pytest.mark.parametrize("text", ["", "h", "-1h", "24x", "999999999w", "yesterday", "2026-13-01"])
    def test_all_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            moment(text, self.NOW)


def test_a_key_pair_is_made_for_v1a() -> None:
    done = CliRunner().invoke(app, ["secret", "--ed25519"])
    private, public = done.stdout.split()
    assert public.startswith("whpk_")
    assert 32 == len(read_signing_key(private).public_key().public_bytes_raw())
