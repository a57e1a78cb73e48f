"""What the commands share: where the settings are, how to get at the ledger, how rows and faults are shown."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway import runtime
from gateway.consent.order import mask
from gateway.engine import Engine
from gateway.secret_files import code_secret, keyring
from gateway.settings import Settings, find_file, load_settings
from gateway.store.database import Database
from gateway.webhooks import subscriptions_of

out, err = Console(), Console(stderr=True)
Config = Annotated[Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")]
AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
FAULT = 1
Result = TypeVar("Result")


def settings_of(file: Path | None) -> Settings:
    return load_settings(find_file(file))


def with_engine(config: Path | None, work: Callable[[Engine], Awaitable[Result]]) -> Result:
    """Run *work* against the ledger, beside a running gateway or alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    settings = settings_of(config)

    async def run(dsn: str) -> Result:
        database = await Database.open(dsn, most=2)
        try:
            engine = Engine(
                database, policy=settings.policy.policy(), secret=code_secret(settings), keyring=keyring(settings),
                gateway="cli", now=lambda: datetime.now(UTC), subscriptions=subscriptions_of(settings),
            )  # fmt: skip
            await engine.check_keyring()
            return await work(engine)
        finally:
            await database.close()

    with runtime.database(settings, share=True) as dsn:
        return asyncio.run(run(dsn))


def print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(rows, default=str, ensure_ascii=False) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(column, row[column]) for column in columns))
    out.print(table, markup=False)


def cell(column: str, value: Any) -> str:
    return "" if value is None else mask(str(value)) if column == "number" else str(value)


def complain(fault: str) -> None:
    """One fault in one line; what stands in brackets in it, such as [[tenants]], is no markup."""
    err.print(f"[red]✗[/] {escape(fault)}", highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    complain(message)
    raise typer.Exit(FAULT)
