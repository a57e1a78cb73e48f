"""The demo's world: free ports, a settings file, the gateway and the softphones as processes of their own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway.demo import VOICES
from gateway.demo.parties import Billing, Handset, start_parties
from gateway.provisioning.signature import PREFIX

START_S = 90.0
STOP_S = 20.0


class DemoFailed(Exception):
    """The demo could not be set up; the message says what failed."""


@dataclass
class World:
    """Where everything is. *folder* holds settings, database, recordings and logs, and is left for inspection."""

    folder: Path
    host: str
    sip_port: int
    api_port: int
    parties_port: int
    api_key: str
    phone_password: str
    billing: Billing
    handset: Handset
    session: aiohttp.ClientSession
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The gateway's API with the demo tenant's key. Raises DemoFailed for an error."""
        key = {"Authorization": f"Bearer {self.api_key}"}
        async with self.session.request(method, self.api + path, json=body, headers=key) as answer:
            data = await answer.json(content_type=None)
            if answer.status >= 400:
                raise DemoFailed(f"{method} {path}: {answer.status} {data}")
            return data


@asynccontextmanager
async def open_world(
    on_sms: Callable[[str, str], None], *, host: str, code_ttl_s: float, line_port: int, most_calls: int = 20
) -> AsyncIterator[World]:
    """Start billing, handset and gateway; stop them all at the end."""
    folder = Path(tempfile.mkdtemp(prefix="consent-demo-"))
    folder.chmod(0o755)  # the embedded database may run as another user (root never runs PostgreSQL)
    webhook_secret, sms_secret = (PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    sip_port, api_port, parties_port = (
        free_port(socket.SOCK_DGRAM, 5060),
        free_port(socket.SOCK_STREAM, 8080),
        free_port(),
    )
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        billing = Billing(webhook_secret)
        handset = Handset(f"http://127.0.0.1:{api_port}/v1/sms/inbound", sms_secret, on_sms)
        world = World(
            folder, host, sip_port, api_port, parties_port, secrets.token_urlsafe(24), secrets.token_urlsafe(9),
            billing, handset, session, stack,
        )  # fmt: skip
        world.config.write_text(_settings(world, code_ttl_s, line_port, most_calls), encoding="utf-8")
        world.config.chmod(0o600)
        runner = await start_parties(billing, handset, parties_port)
        stack.push_async_callback(runner.cleanup)
        await start_gateway(world)
        yield world


async def start_gateway(world: World) -> asyncio.subprocess.Process:
    """`consent-gateway serve`, ready. Raises DemoFailed with the end of its log."""
    log = world.folder / "gateway.log"
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", "--config", str(world.config), stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
    world.stack.push_async_callback(stop_process, process)
    for _ in range(int(START_S / 0.1)):
        if process.returncode is not None:
            break
        if "\nready: " in "\n" + log.read_text(errors="replace"):
            return process
        await asyncio.sleep(0.1)
    raise DemoFailed(f"the gateway did not start; {log} ends with:\n{log.read_text(errors='replace')[-2000:]}")


async def stop_process(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, time to end, then SIGKILL; only ever a process of our own."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def start_phone(world: World | None, *arguments: str) -> asyncio.subprocess.Process:
    """The test softphone, a process of its own, telling its events as JSON lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.softphone", *arguments, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=None if world is None else asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if world is not None:
        world.stack.push_async_callback(stop_process, process)
    return process


async def phone_events(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    async for line in process.stdout:
        event = json.loads(line)
        assert isinstance(event, dict)
        yield event


def clip(voice: str, name: str) -> str:
    """The script item that says a clip of ``voices/``."""
    return f"say:{VOICES / voice / name}.wav"


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, wanted: int = 0) -> int:
    """*wanted* if it is free, else any free port on loopback."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("0.0.0.0" if port else "127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise DemoFailed("no free port on loopback")


def _settings(world: World, code_ttl_s: float, line_port: int, most_calls: int) -> str:
    return f"""\
# Made by `consent-gateway demo`.
operator = "한빛통신"
gateway = "demo"
data_dir = {json.dumps(str(world.folder / "data"))}
drain_s = 5

[sip]
bind = "{world.host}:{world.sip_port}"
most_calls = {most_calls}

[media]
address = "{world.host}"

[[softphones]]
number = "+821000000000"
password = "{world.phone_password}"

[[lines]]
name = "demo"
host = "127.0.0.1"
port = {line_port}
from_user = "15880000"
ring_s = 20

[sms]
channel = "http"
inbound_secret = "{world.handset.secret}"

[sms.http]
url = "http://127.0.0.1:{world.parties_port}/sms"
body = {{ to = "{{number}}", text = "{{text}}", reference = "{{reference}}" }}
message_id = "id"

[[tenants]]
id = "demo-billing"
api_key = "{world.api_key}"
webhook_url = "http://127.0.0.1:{world.parties_port}/billing"
webhook_secret = "{world.billing.secret}"

[provisioning]
allowed_networks = ["127.0.0.0/8"]

[api]
bind = "127.0.0.1:{world.api_port}"
rate = 1000
burst = 1000

[database]
directory = {json.dumps(str(world.folder / "postgres" / "server"))}

[policy]
call_attempts = 1
code_ttl_s = {code_ttl_s}
"""
