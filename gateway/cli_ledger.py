"""``consent-gateway ledger``: its key, its newest checkpoint, and whether all of it still holds."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from rich.progress import Progress

from gateway.cli_common import FAULT, AsJson, Config, complain, err, fail, out, settings_of, with_engine
from gateway.engine import Engine
from gateway.ledger.note import Verifier, parse_verifier, verifier_of
from gateway.ledger.timestamping import read_roots
from gateway.ledger_audit import MOST_FAULTS, Audit, audit
from gateway.notary import Notary
from gateway.secret_files import LEDGER_SECRET_FILE, keyring
from gateway.settings import Settings
from gateway.store.tree import Signed

SHOWN_EVERY = 500
app = typer.Typer(no_args_is_help=True, help="The tree of all events: its key, its checkpoints, and whether it holds.")


@app.command("key")
def key(config: Config = None) -> None:
    """Print the public key that checkpoints and evidence are verified by. Give it to whoever may doubt you, before they do."""
    typer.echo(str(_verifier(config)))


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
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="a checkpoint that was published: the ledger must still be what it was of"),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Read the whole ledger and make every hash, chain, node and checkpoint anew. Exit code 1 when one does not hold."""
    settings = settings_of(config)
    verifier = parse_verifier(key) if key else _verifier(config)
    roots, published = _roots(settings), [_read(file) for file in checkpoint or ()]
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def show(done: int, total: int) -> None:
            if done % SHOWN_EVERY == 0 or done == total:
                progress.update(task, completed=done, total=total)

        async def run(engine: Engine) -> Audit:
            return await audit(engine.database, engine.keyring, verifier, show, roots=roots, published=published)

        found = with_engine(config, run)
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
    else:
        for fault in found.faults:
            complain(fault)
        if len(found.faults) == MOST_FAULTS:
            complain("and perhaps more: no more are named")
        counted = ", ".join(
            f"{getattr(found, name)} {name}"
            for name in ("events", "leaves", "checkpoints", "timestamps", "pending", "erased")
        )
        out.print(f"[{'red]✗' if found.faults else 'green]✓'}[/] {counted}", highlight=False, soft_wrap=True)
    raise typer.Exit(FAULT if found.faults else 0)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {error}")


def _roots(settings: Settings) -> list[x509.Certificate]:
    """Who vouches for the time-stamping authority; nobody, where time stamps are not configured or cannot be read."""
    if settings.ledger.timestamp_ca is None or importlib.util.find_spec("rfc3161_client") is None:
        return []
    try:
        return read_roots(settings.ledger.timestamp_ca)
    except OSError as error:
        fail(f"ledger.timestamp_ca: {error}")


def _verifier(config: Config) -> Verifier:
    settings = settings_of(config)
    file = settings.data_dir / LEDGER_SECRET_FILE
    if not settings.ledger.secret.get_secret_value() and not file.exists():
        fail(
            f"{file}: there is none, and ledger.secret is empty; name the gateway's settings with --config, or start it once"
        )
    return verifier_of(keyring(settings).signer, settings.ledger.origin)
