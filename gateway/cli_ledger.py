"""``consent-gateway ledger``: its key, its newest checkpoint, and whether all of it still holds."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.progress import Progress

from gateway.cli_common import FAULT, AsJson, Config, complain, err, fail, out, settings_of, with_engine
from gateway.engine import Engine
from gateway.ledger.note import Verifier, parse_verifier, verifier_of
from gateway.ledger_audit import Audit, audit
from gateway.notary import Notary
from gateway.secret_files import keyring
from gateway.store import ledger
from gateway.store.tree import Signed

app = typer.Typer(no_args_is_help=True, help="The tree of all events: its key, its checkpoints, and whether it holds.")


@app.command("key")
def key(config: Config = None) -> None:
    """Print the public key that checkpoints and evidence are verified by. Give it to whoever may doubt you, before they do."""
    out.print(_verifier(config), highlight=False, soft_wrap=True)


@app.command("checkpoint")
def checkpoint(config: Config = None) -> None:
    """Sign the tree as it stands, and print the checkpoint: publish it, and nothing before it can be changed unseen."""
    settings = settings_of(config)

    async def run(engine: Engine) -> Signed | None:
        notary = Notary(engine.database, engine.keyring, settings.ledger, lambda: datetime.now(UTC))
        return await notary.bring_up_to_date()

    signed = with_engine(config, run)
    if signed is None:
        fail("the ledger is empty: no order was ever made")
    typer.echo(signed.note, nl=False)


@app.command("verify")
def verify(
    key: Annotated[str, typer.Option("--key", help="verify by this key, as printed earlier [default: our own]")] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Read the whole ledger and make every hash, chain and checkpoint anew. Exit code 1 when one does not hold."""
    verifier = parse_verifier(key) if key else _verifier(config)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        async def run(engine: Engine) -> Audit:
            return await audit(
                engine.database, verifier, lambda done, total: progress.update(task, completed=done, total=total)
            )

        found = with_engine(config, run)
    if as_json:
        out.print_json(data=asdict(found))
    else:
        for fault in found.faults:
            complain(fault)
        sizes = (
            f"{found.events} events, {found.leaves} leaves, {found.checkpoints} checkpoints, {found.pending} pending"
        )
        out.print(f"[{'red]✗' if found.faults else 'green]✓'}[/] {sizes}", highlight=False)
    raise typer.Exit(FAULT if found.faults else 0)


def erase(
    order: Annotated[str, typer.Argument(help="order id, or its beginning")],
    by: Annotated[str, typer.Option("--by", help="who decided it")],
    reason: Annotated[str, typer.Option("--reason", help="why; stays in the ledger unreadable, too")],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Forget the person of an order for good: its key is destroyed. The chain and the tree stay whole; nobody can read it."""

    async def find(engine: Engine) -> str:
        async with engine.database.pool.acquire() as connection:
            return await ledger.resolve_order(connection, order)

    order_id = with_engine(config, find)
    if not yes and not typer.confirm(f"Erase order {order_id}? Nothing brings it back."):
        raise typer.Exit(FAULT)
    with_engine(config, lambda engine: engine.erase(order_id, by=by, reason=reason))
    out.print(f"order {order_id} is erased", highlight=False)


def _verifier(config: Config) -> Verifier:
    settings = settings_of(config)
    return verifier_of(keyring(settings).signer, settings.ledger.origin)
