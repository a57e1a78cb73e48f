"""``consent-gateway record withdraw|freeze``: an order is ended by hand, beside a running gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import command
from engines import challenged, confirmed

from gateway.consent import events as ev
from gateway.engine import Engine


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    """Of the gateway whose engine the tests have."""
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'data_dir = "{tmp_path}/data"\n[database]\ndsn = "{dsn}"\n[ledger]\nsecret = "{"k" * 32}"\n[sms]\ncode_secret = "{"s" * 32}"\n'
    )
    return file


async def test_an_open_order_is_withdrawn(engine: Engine, config: Path) -> None:
    order_id = (await challenged(engine)).order.order_id
    code, out, _ = await command(config, "record", "withdraw", order_id[:8], "--reason", "complaint 7")
    assert (0, f"order {order_id} is withdrawn\n") == (code, out)
    last = (await engine.entries(order_id))[-1].event
    assert ev.OrderWithdrawn(source="cli", reason="complaint 7") == last


async def test_a_confirmed_one_is_not_and_can_be_frozen(engine: Engine, config: Path) -> None:
    order_id = (await confirmed(engine)).order.order_id
    code, _, err = await command(config, "record", "withdraw", order_id, "--reason", "complaint 7")
    assert (1, f"✗ order {order_id} is confirmed, and stays so\n") == (code, err)
    code, out, _ = await command(config, "record", "freeze", order_id, "--reason", "another voice")
    assert (0, f"order {order_id} is frozen\n") == (code, out)
    assert "frozen" == (await engine.record(order_id)).state


async def test_nothing_is_ended_without_a_reason(engine: Engine, config: Path) -> None:
    order_id = (await challenged(engine)).order.order_id
    code, _, err = await command(config, "record", "freeze", order_id, "--reason", "  ")
    assert (1, "✗ --reason: why must be said\n") == (code, err)
    assert "challenged" == (await engine.record(order_id)).state
