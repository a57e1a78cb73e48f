"""``consent-gateway evidence``: bundles of all that is known of an order, and whether one is valid."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli_common import AsJson, Config, fail, out, settings_of, with_engine
from gateway.engine import Engine
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.bundle import Exported, Exporter, library_of
from gateway.evidence.errors import EvidenceError
from gateway.store import ledger

app = typer.Typer(
    no_args_is_help=True, help="Evidence bundles: everything about one order, verifiable offline by anyone."
)
USAGE = 2


@app.command("export")
def export(
    order: Annotated[str, typer.Argument(help="order id, or its beginning")],
    target: Annotated[Path, typer.Option("--output", "-o", help="the ZIP file to write")],
    by: Annotated[str, typer.Option(help="who wants it; kept in the record [default: the user's name]")] = "",
    purpose: Annotated[str, typer.Option(help="what for; kept in the record")] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write everything about one order to a ZIP: events, proofs, recording, transcript, messages, webhooks, the agreement.

    The export is itself an event of the order. The file holds personal data: nobody else can read it here.
    """
    if not target.parent.is_dir():
        fail(f"{target.parent}: there is no such folder")
    settings = settings_of(config)

    async def run(engine: Engine) -> Exported:
        async with engine.database.pool.acquire() as connection:
            order_id = await ledger.resolve_order(connection, order)
        exporter = Exporter(engine, library_of(settings), lambda: datetime.now(UTC))
        return await exporter.export(order_id, target.absolute(), by=by or _user(), purpose=purpose)

    try:
        exported = with_engine(config, run)
    except EvidenceError as error:
        fail(str(error))
    if as_json:
        told = {
            "path": str(exported.path), "order_id": exported.order_id, "octets": exported.octets, "members": exported.members,
            "missing": exported.missing, "uncovered": exported.uncovered, "key": exported.key,
        }  # fmt: skip
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
        return
    out.print(
        f"{exported.path}: order {exported.order_id}, {exported.members} members, {exported.octets / 1e6:.1f} MB, valid",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    for member, reason in exported.missing.items():
        out.print(f"not in it: {member}: {reason}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    if exported.uncovered:
        marks = ", ".join(exported.uncovered)
        out.print(
            f"the agreement shows these characters by their number, no font has them: {marks}",
            style="yellow", highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
    out.print(
        f"verify it: consent-gateway evidence verify {exported.path} --key {exported.key}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip


@app.command("verify")
def verify(
    bundle: Annotated[Path, typer.Argument(help="the ZIP file")],
    key: Annotated[str | None, typer.Option(help="the ledger's key that it must be signed by: name+id+base64")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a bundle is valid and what it proves, or name the first thing in it that is not. Needs no settings.

    The same as ``python verify_evidence.py``, the file that is in every bundle. Exit code 0: valid, 1: not, 2: not used rightly.
    """
    arguments = [str(bundle), *(("--key", key) if key is not None else ()), *(("--json",) if as_json else ())]
    try:
        code = evidence.main(arguments)
    except SystemExit as ended:  # how argparse says that it was not used rightly
        code = ended.code if isinstance(ended.code, int) else USAGE
    if code:
        raise typer.Exit(code)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return "unknown"
