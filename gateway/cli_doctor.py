"""``consent-gateway doctor``: what was wrong with a call, from the trace that the gateway kept of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from gateway.consent.events import CallStarted
from gateway.doctor.diagnosis import Diagnosis, diagnose
from gateway.doctor.finding import Severity
from gateway.doctor.ladder import mermaid, text_ladder
from gateway.doctor.pcap import write_pcap
from gateway.doctor.reading import printable
from gateway.ledger.sealing import events_key
from gateway.secret_files import keyring
from gateway.settings import Settings, find_file, load_settings
from gateway.store import ledger
from gateway.store.database import Database
from gateway.store.errors import ErasedRecord, UnknownOrder
from gateway.store.postgres import default_directory
from gateway.telephony.trace import SUFFIX, Trace, read_trace

out, err = Console(), Console(stderr=True)
FAULTS, NO_SUCH_CALL = 1, 2
TRACES = "traces"
LISTED = 20
_MARKS: dict[Severity, str] = {"fault": "[red]✗[/]", "warning": "[yellow]![/]", "fact": "·"}
_HEX = frozenset("0123456789abcdef-")


def doctor(
    call: Annotated[str, typer.Argument(help="call id or its beginning; or the order's, for its newest call")] = "",
    as_list: Annotated[bool, typer.Option("--list", help=f"the newest {LISTED} calls that can be asked about")] = False,
    as_mermaid: Annotated[bool, typer.Option("--mermaid", help="print the SIP ladder as a mermaid diagram")] = False,
    pcap: Annotated[Path | None, typer.Option("--pcap", help="write the SIP messages to this file")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Say what was wrong with a call: which side was silent and why, codec, loss, jitter, and the SIP ladder.

    Exit code 0: nothing was wrong; 1: faults were found; 2: there is no such call.
    """
    settings = load_settings(find_file(config))
    folder = settings.data_dir / TRACES
    if as_list:
        _list(folder, as_json=as_json)
        return
    if not call:
        _no_such_call(f"which call? The newest {LISTED}: consent-gateway doctor --list")
    trace = _read(_find(settings, folder, call))
    try:
        diagnosis = diagnose(trace)
    except ValueError as error:
        _no_such_call(f"call {trace.call_id}: {error}")
    if pcap is not None:
        _write(pcap, trace)
    if as_json:
        sys.stdout.write(json.dumps(_told(diagnosis), ensure_ascii=False) + "\n")
    elif as_mermaid:
        sys.stdout.write(mermaid(diagnosis.said))
    else:
        _print(diagnosis)
    raise typer.Exit(FAULTS if diagnosis.faults else 0)


def _print(diagnosis: Diagnosis) -> None:
    faults = len(diagnosis.faults)
    verdict = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "nothing wrong"
    if diagnosis.silent:
        verdict += f"; silent: {' and '.join(diagnosis.silent)}"
    out.print(f"call {diagnosis.call_id}: {verdict}", highlight=False, style="bold", soft_wrap=True)
    for finding in diagnosis.findings:
        out.print(f"{_MARKS[finding.severity]} {escape(finding.text)}", highlight=False, soft_wrap=True)
    if diagnosis.said:
        out.print()
        out.print(text_ladder(diagnosis.said), highlight=False, markup=False, soft_wrap=True)


def _told(diagnosis: Diagnosis) -> dict[str, Any]:
    messages = [
        {
            "at": datetime.fromtimestamp(one.message.at, UTC).isoformat(timespec="milliseconds"),
            "sent": one.sent, "remote": list(one.remote), "transport": one.message.transport, "method": one.method,
            "status": one.status or None, "again": one.again,
        }
        for one in diagnosis.said
    ]  # fmt: skip
    return {**diagnosis.as_dict(), "messages": messages}


def _write(path: Path, trace: Trace) -> None:
    """Numbers stand in it, as in the trace: nobody else may read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            count = write_pcap(file, trace.messages)
    except OSError as error:
        _fail(f"--pcap {path}: {error.strerror}", FAULTS)
    err.print(f"{count} messages written to {path}", highlight=False, markup=False, soft_wrap=True)


def _find(settings: Settings, folder: Path, call: str) -> Path:
    """The trace of the call, or the newest of the order, that *call* begins the id of."""
    text = call.strip().lower()
    found = [path for path in _traces(folder) if path.name.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        _no_such_call(f"{len(found)} calls begin with {text}: {', '.join(_id(path) for path in found[:5])} …")
    calls = _calls_of_order(settings, text) if set(text) <= _HEX else []
    traced = [path for path in (folder / f"{call_id}{SUFFIX}" for call_id in calls) if path.exists()]
    if traced:
        return traced[-1]
    if calls:
        _no_such_call(f"order {text} had {len(calls)} calls, and none of them has a trace in {folder}")
    return _no_such_call(f"no call {printable(call)!r} in {folder}; the newest: consent-gateway doctor --list")


def _calls_of_order(settings: Settings, prefix: str) -> list[str]:
    """The calls about the one order whose id begins with *prefix*, oldest first. A database is never made for this."""
    directory = settings.database.directory or default_directory()
    if not settings.database.dsn.get_secret_value() and not directory.exists():
        return []

    from gateway import runtime  # noqa: PLC0415 - the whole gateway comes with it

    async def run(dsn: str) -> list[str]:
        database = await Database.open(dsn, most=2)
        try:
            async with database.pool.acquire() as connection:
                order_id = await ledger.resolve_order(connection, prefix)
                key = await ledger.record_key(connection, keyring(settings), order_id)
                entries = await ledger.load_entries(connection, order_id, events_key(key))
        except (UnknownOrder, ErasedRecord):
            return []
        finally:
            await database.close()
        return [entry.event.call_id for entry in entries if isinstance(entry.event, CallStarted)]

    with runtime.database(settings, share=True) as dsn:
        return asyncio.run(run(dsn))


def _list(folder: Path, *, as_json: bool) -> None:
    rows = [_summary(path) for path in _traces(folder)[:LISTED]]
    if as_json:
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    if not rows:
        out.print(f"no call has been traced in {folder} yet", highlight=False, soft_wrap=True)
        return
    for row in rows:
        mark = _MARKS["fault" if row["faults"] else "fact"]
        line = f"{row['at']}  {row['call_id']}  {mark} {escape(row['what'])}"
        out.print(line, highlight=False, soft_wrap=True)


def _summary(path: Path) -> dict[str, Any]:
    """A line of the list: *at* is when the call ended (UTC), *what* the gravest that was found."""
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
    try:
        diagnosis = diagnose(read_trace(path))
    except (OSError, ValueError) as error:
        return {"at": at, "call_id": _id(path), "faults": 1, "what": f"cannot be read: {error}"}
    what = diagnosis.findings[0].text if diagnosis.findings else ""
    return {"at": at, "call_id": _id(path), "faults": len(diagnosis.faults), "what": what}


def _traces(folder: Path) -> list[Path]:
    """The newest first."""
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]
        return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        _no_such_call(f"{error}: run this as the user that runs the gateway")


def _read(path: Path) -> Trace:
    try:
        return read_trace(path)
    except PermissionError as error:
        _no_such_call(f"{error}: run this as the user that runs the gateway")
    except (OSError, ValueError) as error:
        _no_such_call(str(error))


def _id(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def _no_such_call(message: str) -> NoReturn:
    _fail(message, NO_SUCH_CALL)


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"[red]✗[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
