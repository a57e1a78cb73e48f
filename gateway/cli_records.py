"""``consent-gateway record``: look at the records of orders, end one by hand, forget a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.cli_common import FAULT, AsJson, Config, fail, out, print_rows, settings_of, with_engine
from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.engine import Engine
from gateway.retention import Archive, OnHold, Recorded
from gateway.store import ledger
from gateway.timeline import timeline

app = typer.Typer(no_args_is_help=True, help="Records of orders: look at them, end one by hand, forget a person.")
OrderArgument = Annotated[str, typer.Argument(help="order id, or its beginning")]
Reason = Annotated[str, typer.Option("--reason", help="why; kept in the record")]


@app.command("show")
def show(
    order: Annotated[str, typer.Argument(help="order id, or its beginning")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print the timeline of an order: every event, what was heard, and the verdicts."""

    async def run(engine: Engine) -> list[Any]:
        async with engine.database.pool.acquire() as connection:
            order_id = await ledger.resolve_order(connection, order)
        return await engine.entries(order_id)

    entries = with_engine(config, run)
    if as_json:
        out.print_json(data=[entry.model_dump(mode="json") for entry in entries])
        return
    table = Table(title=f"order {entries[0].order_id}", title_justify="left", box=None, pad_edge=False)
    for heading in ("time (UTC)", "event", "what", "state"):
        table.add_column(heading, overflow="fold")
    for moment in timeline(entries):
        table.add_row(moment.at, moment.what, moment.details, moment.state, style="bold" if moment.state else None)
    out.print(table, markup=False)
    kept = [entry for entry in entries if entry.event.type == "recording.kept"]
    if kept:
        out.print(
            f"recording: consent-gateway recording export {kept[0].order_id[:8]} -o call.wav --by NAME --purpose TEXT",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@app.command("list")
def list_orders(
    state: Annotated[str | None, typer.Option(help="only orders in this state")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the newest orders and where they stand."""

    async def run(engine: Engine) -> list[dict[str, Any]]:
        async with engine.database.pool.acquire() as connection:
            return await ledger.list_orders(connection, state=state)

    rows = with_engine(config, run)
    print_rows(rows, ("order_id", "tenant", "number", "state", "updated_at"), as_json)


@app.command("withdraw")
def withdraw(order: OrderArgument, reason: Reason, config: Config = None) -> None:
    """End an order that is not confirmed yet: nobody is called or asked any more, and billing is told where it wants to be."""
    _end(order, ev.OrderWithdrawn(source="cli", reason=_said(reason)), "withdrawn", config)


@app.command("freeze")
def freeze(order: OrderArgument, reason: Reason, config: Config = None) -> None:
    """Stop an order for good, confirmed or not, because it is in doubt (rule R8): billing is told not to bill, or to stop."""
    _end(order, ev.OrderFrozen(source="cli", reason=_said(reason)), "frozen", config)


@app.command("erase")
def erase(
    order: Annotated[str, typer.Argument(help="order id, or its beginning")],
    by: Annotated[str, typer.Option("--by", help="who decided it")],
    reason: Annotated[str, typer.Option("--reason", help="why")],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Forget the person of an order for good: its key is destroyed. The chain and the tree stay whole; nobody can read it.

    Refused under a legal hold, while the order is open, and while a call or a webhook of it is under way.
    """
    if not by.strip() or not reason.strip():
        fail("--by and --reason: who decided it, and why, must be said")
    settings = settings_of(config)

    async def find(engine: Engine) -> str:
        async with engine.database.pool.acquire() as connection:
            order_id = await ledger.resolve_order(connection, order)
        await engine.check_erasable(order_id)
        return order_id

    async def forget(engine: Engine) -> list[Recorded]:
        archive = Archive(engine, settings, lambda: datetime.now(UTC))
        recordings = [one for one in await archive.of_order(order_id) if not one.deleted]
        elsewhere = [one for one in recordings if one.gateway != settings.gateway and not one.path.exists()]
        await engine.check_erasable(order_id)
        await archive.delete_order(order_id, reason.strip())
        await engine.erase(order_id, by=by.strip(), reason=reason.strip())
        await archive.sweep()
        return elsewhere

    order_id = with_engine(config, find)
    if not yes and not typer.confirm(f"Erase order {order_id}? Nothing brings it back."):
        raise typer.Exit(FAULT)
    try:
        elsewhere = with_engine(config, forget)
    except OnHold as error:
        fail(str(error))
    except OSError as error:
        fail(
            f"{error.filename or 'recording'}: {error.strerror or error}; nothing is erased but what was deleted before"
        )
    out.print(f"order {order_id} is erased", highlight=False)
    for one in elsewhere:
        out.print(
            f"call {one.call_id}: its files lie with gateway {one.gateway}, unreadable, and go with its next daily purge",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _end(order: str, event: ev.Event, state: str, config: Config) -> None:
    async def run(engine: Engine) -> tuple[str, Record]:
        async with engine.database.pool.acquire() as connection:
            order_id = await ledger.resolve_order(connection, order)
        return order_id, await engine.append(order_id, event)

    order_id, record = with_engine(config, run)
    if record.state != state:
        fail(f"order {order_id} is {record.state}, and stays so")
    out.print(f"order {order_id} is {state}", highlight=False)


def _said(reason: str) -> str:
    if not reason.strip():
        fail("--reason: why must be said")
    return reason.strip()[:200]
