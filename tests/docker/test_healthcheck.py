"""The image's health check against real HTTP answers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

SCRIPT = Path(__file__).parents[2] / "docker/gateway/healthcheck.py"
Start = Callable[[int, str], Awaitable[int]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Serve GET /healthz with a status and a text on loopback; the port."""
    runners = []

    async def serve(status: int, text: str) -> int:
        async def healthz(_request: web.Request) -> web.Response:
            return web.Response(status=status, text=text)

        app = web.Application()
        app.add_routes([web.get("/healthz", healthz)])
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    yield serve
    for runner in runners:
        await runner.cleanup()


async def _check(folder: Path, toml: str | None, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "gateway.toml"
    if toml is not None:
        file.write_text(toml)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CONSENT_GATEWAY")}
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-IS", SCRIPT], capture_output=True, text=True, timeout=60, check=False,
        env=clean | {"CONSENT_GATEWAY_CONFIG": str(file)} | environment,
    )  # fmt: skip


async def test_a_gateway_that_answers_is_healthy(start: Start, tmp_path: Path) -> None:
    port = await start(200, '{"status": "ok"}')
    done = await _check(tmp_path, f'[api]\nbind = "0.0.0.0:{port}"\n')
    assert (0, '{"status": "ok"}\n') == (done.returncode, done.stdout)


async def test_the_environment_beats_the_file_as_it_does_for_the_gateway(start: Start, tmp_path: Path) -> None:
    port = await start(200, "ok")
    done = await _check(tmp_path, '[api]\nbind = "127.0.0.1:1"\n', CONSENT_GATEWAY__API__BIND=f"127.0.0.1:{port}")
    assert 0 == done.returncode


async def test_an_error_is_told_with_its_status(start: Start, tmp_path: Path) -> None:
    port = await start(500, "no database")
    done = await _check(tmp_path, f'[api]\nbind = "127.0.0.1:{port}"\n')
    assert (1, "GET /healthz: 500 no database\n") == (done.returncode, done.stderr)


async def test_a_gateway_that_is_not_there_is_unhealthy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = await _check(tmp_path, f'[api]\nbind = "127.0.0.1:{taken.getsockname()[1]}"\n')
    assert 1 == done.returncode
    assert "refused" in done.stderr


async def test_settings_that_cannot_be_read_are_unhealthy(tmp_path: Path) -> None:
    done = await _check(tmp_path, "[api\n")
    assert 1 == done.returncode
    assert done.stderr.startswith("GET /healthz: ")
