"""Billing systems for the tests of webhooks: one that answers as told, and ones that behave badly on raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Habit = Callable[[Reader, Writer], Awaitable[None]]


class Names(AbstractResolver):
    """A name server that knows *known*, and counts what it was asked."""

    def __init__(self, **known: str) -> None:
        self.known = {name.replace("_", "."): address for name, address in known.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError(f"no such name: {host}")
        return [ResolveResult(hostname=host, host=self.known[host], port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FarEnd:
    """An HTTP server that answers as told, 200 and nothing when it was told nothing more."""

    url: str = ""
    answers: deque[tuple[int, bytes | list[bytes], dict[str, str]]] = field(default_factory=deque)
    received: list[Received] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, await request.read()))
        self.connections.add(request.transport and request.transport.get_extra_info("peername"))
        status, body, more = self.answers.popleft() if self.answers else (200, b"", {})
        location = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        response = web.StreamResponse(status=status, headers=location | more)
        await response.prepare(request)
        for piece in [body] if isinstance(body, bytes) else body:
            await response.write(piece)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    def answer(self, status: int, body: bytes | list[bytes] = b"", **headers: str) -> None:
        """What is answered next; ``retry_after="5"`` is the header Retry-After."""
        self.answers.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))


@asynccontextmanager
async def far_end() -> AsyncIterator[FarEnd]:
    made = FarEnd()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@dataclass
class Raw:
    """A TCP server: *url*, the requests it read whole, how many connections it took and octets it gave."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    given: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def request(self, reader: Reader) -> bytes:
        """One request, read to its end. Raises IncompleteReadError when there is none."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        return self.requests[-1]

    async def give(self, writer: Writer, octets: bytes) -> None:
        """Raises ConnectionError when nobody takes them."""
        writer.write(octets)
        await writer.drain()
        self.given += len(octets)


@asynccontextmanager
async def raw(habit: Callable[[Raw, Reader, Writer], Awaitable[None]], **options: Any) -> AsyncIterator[Raw]:
    """A server of which each connection runs *habit* until it ends, or the far end hangs up, or the test is over."""
    made = Raw()

    async def serve(reader: Reader, writer: Writer) -> None:
        made.connections += 1
        task = asyncio.current_task()
        assert task is not None
        made.tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await habit(made, reader, writer)
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()
        made.tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    port = server.sockets[0].getsockname()[1]
    made.url = f"http://127.0.0.1:{port}/hook"
    yield made
    server.close()
    for task in list(made.tasks):
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await server.wait_closed()
