"""The listening socket of the API: so many connections and no more, and none that takes for ever to say what it wants.

aiohttp bounds the size of a request's head, not the time that it may take (a slow loris holds a connection for nothing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

HEAD_S = 20.0
MOST_CONNECTIONS = 1000
_HEAD_ENDS = b"\r\n\r\n"


async def open_door(
    server: web.Server, host: str, port: int, *, head_s: float = HEAD_S, most: int = MOST_CONNECTIONS
) -> asyncio.Server:  # fmt: skip
    """Serve on *host*:*port*. A first request whose head is not there within *head_s* seconds is hung up on, and so is who comes
    when there are *most* connections. Raises OSError.
    """
    visitors: set[_Visitor] = set()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Visitor(server(), visitors, head_s, most), host, port)


class _Visitor(asyncio.Protocol):
    """One connection; all that it says goes to *handler*."""

    def __init__(self, handler: asyncio.Protocol, visitors: set[_Visitor], head_s: float, most: int) -> None:
        self._handler, self._visitors, self._head_s, self._most = handler, visitors, head_s, most
        self._tail = b""
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort"), "it is a stream's"
        abort: Callable[[], None] = transport.abort
        self._handler.connection_made(transport)
        if len(self._visitors) >= self._most:
            abort()
            return
        self._visitors.add(self)
        self._patience = asyncio.get_running_loop().call_later(self._head_s, abort)

    def data_received(self, data: bytes) -> None:
        if self._patience is not None:
            seen = self._tail + data
            if _HEAD_ENDS in seen:
                self._patience.cancel()
                self._patience = None
            self._tail = seen[-len(_HEAD_ENDS) + 1 :]
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._visitors.discard(self)
        if self._patience is not None:
            self._patience.cancel()
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()
