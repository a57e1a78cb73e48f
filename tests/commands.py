"""`consent-gateway` as an operator runs it: in a thread of this process, which is quick, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from typer.testing import CliRunner

from gateway.cli import app
from gateway.ledger.errors import LedgerError
from gateway.store.errors import StoreError

Done = tuple[int, str, str]
"""Exit code, stdout, stderr."""

BOUND_S = 120


@contextmanager
def logs_as_they_were() -> Iterator[None]:
    """The commands quieten the log of their process, which here is this one."""
    before = structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**before)


async def command(config: Path, *arguments: str, answer: str = "") -> Done:
    """In a thread: the command brings its own event loop. *answer* is what is typed into it."""
    with logs_as_they_were():
        result = await asyncio.to_thread(
            CliRunner().invoke, app, [*arguments, "--config", str(config)], input=answer
        )  # fmt: skip
    if isinstance(result.exception, StoreError | LedgerError):  # one line on stderr, by gateway.cli.main
        return 1, result.stdout, f"{result.stderr}✗ {result.exception}\n"
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.stdout, result.stderr


async def process(config: Path, *arguments: str) -> Done:
    """As a process of its own."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", *arguments, "--config", str(config), env={**os.environ, "COLUMNS": "80"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        out, err = await started.communicate()
    assert started.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return started.returncode, out.decode(), err.decode()
