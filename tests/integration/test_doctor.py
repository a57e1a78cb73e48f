"""The doctor is asked about an order: its calls are in the ledger, their traces in files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
import typer
from engines import SECRET, START, ordered
from typer.testing import CliRunner, Result

from gateway import cli_doctor
from gateway.consent import events as ev
from gateway.consent.order import Policy
from gateway.engine import Engine
from gateway.secret_files import keyring
from gateway.settings import load_settings
from gateway.store.database import Database
from gateway.telephony.report import AttemptReport
from gateway.telephony.trace import Trace, Tracer


class Order:
    """An order that was called about twice; the second call is the newest."""

    def __init__(self, order_id: str, folder: Path, config: Path, calls: list[str]) -> None:
        self.order_id, self.calls = order_id, calls
        self._tracer = Tracer(folder / "traces", lambda: 0.0)
        self._config = str(config)
        self._app = typer.Typer()
        self._app.command()(cli_doctor.doctor)

    def keep(self, call_id: str) -> None:
        self._tracer.write(Trace(call_id, (), AttemptReport(status=486, reason="Busy Here").as_dict()))

    async def examined(self, call: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, self._app, [call, "--config", self._config])


@pytest.fixture
async def order(database: Database, dsn: str, tmp_path: Path) -> Order:
    config = tmp_path / "gateway.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n[database]\ndsn = "{dsn}"\n')
    engine = Engine(
        database,
        policy=Policy(),
        secret=SECRET,
        keyring=keyring(load_settings(config)),
        gateway="g1",
        now=lambda: START,
    )
    order_id = (await ordered(engine)).order.order_id
    calls = [str(uuid4()), str(uuid4())]
    for call_id in calls:
        await engine.append(order_id, ev.CallStarted(call_id=call_id, gateway="g1", direction="inbound"))
        await engine.append(order_id, ev.CallEnded(call_id=call_id, outcome="busy", reason="busy", duration_ms=0))
    return Order(order_id, tmp_path, config, calls)


async def test_of_an_order_the_newest_call_with_a_trace_is_told(order: Order) -> None:
    order.keep(order.calls[0])
    assert order.calls[0] in (await order.examined(order.order_id)).stdout
    order.keep(order.calls[1])
    result = await order.examined(order.order_id[:13])
    assert (0, True) == (result.exit_code, f"call {order.calls[1]}: nothing wrong" in result.stdout)


async def test_an_order_whose_calls_have_no_trace_says_so(order: Order) -> None:
    result = await order.examined(order.order_id)
    assert 2 == result.exit_code
    assert f"order {order.order_id} had 2 calls, and none of them has a trace" in result.stderr


async def test_what_is_neither_call_nor_order_is_not_there(order: Order) -> None:
    result = await order.examined(str(uuid4()))
    assert 2 == result.exit_code
    assert "consent-gateway doctor --list" in result.stderr
