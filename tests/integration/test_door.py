"""The API's socket against who holds it for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvloop
from aiohttp import web

from gateway.web.door import open_door

PATIENCE_S = 20.0
"""How long a test waits for what must come."""


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {len(await request.read())}")


@asynccontextmanager
async def door(**limits: float) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes([web.route("*", "/", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    server = await open_door(runner.server, "127.0.0.1", 0, **limits)  # type: ignore[arg-type]
    yield server.sockets[0].getsockname()[1]
    server.close()
    await runner.cleanup()


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Whether the far end closes without an answer."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return b"" == await reader.read()
        except ConnectionResetError:
            return True


async def half_a_head_is_hung_up_on() -> None:
    async with door(head_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        assert await hung_up(reader)
        writer.close()


async def silence_is_hung_up_on() -> None:
    async with door(head_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await hung_up(reader)
        writer.close()


async def a_whole_head_is_waited_for_no_longer() -> None:
    """Cut where the end of the head is recognised; then the body may take its time."""
    async with door(head_s=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n", b"\r", b"\n", b"a"):
            writer.write(piece)
            await writer.drain()
        await asyncio.sleep(0.6)  # longer than a head may take: nothing happens, which is what is tested
        writer.write(b"b")
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def many_requests_go_over_one_connection() -> None:
    async with door(head_s=0.5) as port, aiohttp.ClientSession() as session:
        for size in range(20):
            async with session.post(f"http://127.0.0.1:{port}/", data=b"x" * size * 1000) as answer:
                assert f"hello {size * 1000}" == await answer.text()


async def one_connection_too_many_is_hung_up_on_and_the_others_work() -> None:
    async with door(most=2) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await hung_up(reader)
        writer.close()
        held[0][1].write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200")
        for _, other in held:
            other.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "scene",
    [
        half_a_head_is_hung_up_on, silence_is_hung_up_on, a_whole_head_is_waited_for_no_longer,
        many_requests_go_over_one_connection, one_connection_too_many_is_hung_up_on_and_the_others_work,
    ],
    ids=lambda scene: scene.__name__,
)  # fmt: skip
def test(scene: Callable[[], Awaitable[None]], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())  # type: ignore[arg-type]
