"""``consent-gateway recording``: what is recorded, for how long it is kept, and the only way to listen to it."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gateway.cli_common import AsJson, Config, fail, out, print_rows, settings_of, with_engine
from gateway.engine import Engine
from gateway.retention import Archive, NotHere, OnHold, Recorded
from gateway.store import ledger
from gateway.telephony.errors import BadRecording

app = typer.Typer(
    no_args_is_help=True, help="Recordings of calls: list them, listen to one, keep them for a court, delete old ones."
)
COLUMNS = ("order_id", "call", "recorded_at", "seconds", "class", "until", "hold", "file")
Order = Annotated[str, typer.Argument(help="order id, or its beginning")]
Reason = Annotated[str, typer.Option(help="why, as it will stand in the record")]
By = Annotated[str, typer.Option(help="who does it, as it will stand in the record [default: the name of your login]")]
Result = TypeVar("Result")


@app.command("list")
def recording_list(
    order: Annotated[str, typer.Argument(help="order id, or its beginning [default: the newest]")] = "",
    most: Annotated[int, typer.Option(min=1, max=100_000, help="how many of the newest orders")] = 100,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List recordings, the newest orders first: class, until when they are kept, legal hold, and whether the file is here."""

    async def run(archive: Archive, engine: Engine) -> list[Recorded]:
        return await archive.of_order(await _resolve(engine, order)) if order else await archive.newest(most)

    print_rows([_row(one) for one in _with_archive(config, run)], COLUMNS, as_json)


@app.command("export")
def recording_export(
    order: Order,
    output: Annotated[Path, typer.Option("--output", "-o", help="WAV file to write; it must not be there yet")],
    by: Annotated[str, typer.Option(help="who will listen, as it will stand in the record")],
    purpose: Annotated[str, typer.Option(help="what for, as it will stand in the record")],
    call: Annotated[
        int | None, typer.Option(min=1, help="which recorded call [default: the last that was kept]")
    ] = None,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="of a damaged recording: as much from its beginning as its hashes prove")
    ] = False,
    config: Config = None,
) -> None:
    """Write the recording of a call as WAV, caller left, gateway right. That it was listened to is written down before."""
    if not by.strip() or not purpose.strip():
        fail("--by and --purpose: who listens, and what for, must be said")

    async def run(archive: Archive, engine: Engine) -> tuple[Recorded, int]:
        one = await archive.find(await _resolve(engine, order), call)
        return one, await archive.export(one, output, by=by.strip(), purpose=purpose.strip(), prefix=prefix)

    one, written_ms = _with_archive(config, run)
    whole = (
        "" if written_ms == one.duration_ms else f" of {one.duration_ms / 1000:.1f} s: the rest is not as it was kept"
    )
    out.print(f"{output}: {written_ms / 1000:.1f} s{whole}", highlight=False, soft_wrap=True, markup=False)


@app.command("hold")
def recording_hold(order: Order, reason: Reason, by: By = "", config: Config = None) -> None:
    """Legal hold: nothing of this order is deleted or erased, whatever the settings say, until it is released."""

    async def run(archive: Archive, engine: Engine) -> str:
        order_id = await _resolve(engine, order)
        await archive.hold(order_id, _who(by), _said(reason))
        return order_id

    out.print(f"order {_with_archive(config, run)} is on hold", highlight=False)


@app.command("release")
def recording_release(order: Order, reason: Reason, by: By = "", config: Config = None) -> None:
    """End a legal hold; what is past its time is deleted by the next purge."""

    async def run(archive: Archive, engine: Engine) -> str:
        order_id = await _resolve(engine, order)
        await archive.release(order_id, _who(by), _said(reason))
        return order_id

    out.print(f"order {_with_archive(config, run)} is on hold no longer", highlight=False)


@app.command("purge")
def recording_purge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Delete what is past its time and not on hold; the running gateway does so once a day."""
    gone = _with_archive(config, lambda archive, _: archive.due() if dry_run else archive.purge())
    print_rows([_row(one) for one in gone], COLUMNS, as_json)
    if not as_json:
        out.print(f"{len(gone)} {'would be' if dry_run else 'were'} deleted", highlight=False)


def _with_archive(config: Path | None, work: Callable[[Archive, Engine], Awaitable[Result]]) -> Result:
    settings = settings_of(config)

    async def run(engine: Engine) -> Result:
        return await work(Archive(engine, settings, lambda: datetime.now(UTC)), engine)

    try:
        return with_engine(config, run)
    except (NotHere, OnHold) as error:
        fail(str(error))
    except BadRecording as error:
        fail(f"{error}; --prefix writes what its hashes still prove")
    except FileExistsError as error:
        fail(f"{error.filename}: is there already; name another file")
    except OSError as error:
        fail(f"{error.filename or 'recording'}: {error.strerror or error}")


async def _resolve(engine: Engine, order: str) -> str:
    async with engine.database.pool.acquire() as connection:
        return await ledger.resolve_order(connection, order)


def _who(by: str) -> str:
    return by.strip() or getpass.getuser()


def _said(reason: str) -> str:
    if not reason.strip():
        fail("--reason: why must be said")
    return reason.strip()


def _row(one: Recorded) -> dict[str, Any]:
    until = "open" if one.retention == "open" else "for ever" if one.until is None else f"{one.until:%Y-%m-%d}"
    file = (
        "deleted"
        if one.deleted
        else "failed"
        if not one.sha256
        else "here"
        if one.path.exists()
        else f"at {one.gateway}"
    )
    return {
        "order_id": one.order_id, "call": one.number, "call_id": one.call_id, "recorded_at": f"{one.at:%Y-%m-%d %H:%M:%S}",
        "seconds": round(one.duration_ms / 1000, 1), "class": one.retention, "until": until,
        "hold": "held" if one.held else "", "file": file, "sha256": one.sha256,
    }  # fmt: skip
