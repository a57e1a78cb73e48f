"""Around the gateway: logs, signals, and the embedded database with the process that owns it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import structlog
import uvloop

from gateway.app import Gateway
from gateway.consent.order import mask
from gateway.house import House
from gateway.settings import Settings
from gateway.store.postgres import EmbeddedPostgres, default_directory, running_endpoint

_NUMBER = re.compile(r"\+\d{7,15}\b")


def configure_logs(*, as_json: bool, level: str) -> None:
    """Lines on stderr: readable for people, JSON for machines; numbers masked whatever a message holds (rule R14)."""
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_numbers,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masking(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextlib.contextmanager
def database(settings: Settings, *, share: bool = False) -> Iterator[str]:
    """The DSN to use: the configured one, or the embedded server's, which runs as long as the context.

    With *share*, an embedded server that another process runs is used instead. Raises PostgresError.
    """
    dsn = settings.database.dsn.get_secret_value()
    if dsn:
        yield dsn
        return
    directory: Path = (settings.database.directory or default_directory()).absolute()
    running = running_endpoint(directory) if share else None
    if running is not None:
        yield running.dsn()
        return
    server = EmbeddedPostgres(directory)
    endpoint = server.start()
    try:
        yield endpoint.dsn()
    finally:
        server.stop()


def serve(settings: Settings, house: House, on_ready: Callable[[Gateway], None]) -> None:
    """Run the gateway until SIGTERM or SIGINT; a second signal hangs up at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # a call holds two sockets: the usual 1,024 end at 480
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))

    async def run(dsn: str) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with Gateway(settings, house, dsn) as gateway:
            task = asyncio.current_task()
            assert task is not None

            def on_signal() -> None:
                if stop.is_set():
                    task.cancel()
                stop.set()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, on_signal)
            on_ready(gateway)
            await gateway.serve(stop)

    with database(settings) as dsn, contextlib.suppress(asyncio.CancelledError):
        uvloop.run(run(dsn))


def _mask_numbers(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = _NUMBER.sub(lambda found: mask(found.group()), value)
    return entry


class _Masking(logging.Formatter):
    """What libraries log, and the database's own words in a traceback, may hold numbers, too."""

    def format(self, record: logging.LogRecord) -> str:
        return _NUMBER.sub(lambda found: mask(found.group()), super().format(record))
