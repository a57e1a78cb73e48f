"""A town to test the gateway in: `consent-gateway serve` as a process, phones as processes, a billing system.

Most prompts are recorded tones of less than half a second, so that a call takes seconds and what was heard can be told by
its pitch; the consent question is spoken by the voice, in haste. Nothing here merely pauses: every wait polls for what must come, with a bound far above what it takes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from gateway.demo.orders import sample_order
from gateway.demo.parties import Billing, Handset, start_parties
from gateway.demo.world import World, free_port, start_gateway, start_phone
from gateway.language.pack import load_pack
from gateway.provisioning.signature import PREFIX
from gateway.resources import data_folder
from gateway.speech.prompts import read_wav

HOST = "127.0.0.1"
SUBSCRIBER = "+821090000001"
PASSWORD = "of the softphone"
PITCH = {"no_order": 2300.0, "goodbye_trouble": 2500.0}
OTHER_PITCH = 2100.0
"""Above the voice: a vowel with a harmonic on the very pitch of a tone would be like its echo."""
PROMPT_S = 0.34
LENGTH_S = {"thanks": 8.0}
"""Long enough to be spoken into."""
SPOKEN = ("consent", "consent_again")
"""By the voice, so that an echo of them says what they say."""
HASTE = ("words_per_minute: 210", "words_per_minute: 320")
TURN_MS = "500"
WAIT_S = 40.0
POLL_S = 0.05
CALL_S = 90.0
"""The longest call: then a phone hangs up by itself."""
DRAIN_S = 5
RING_S = 2


@dataclass
class Phone:
    """A softphone that runs; its events are gathered as they come."""

    process: asyncio.subprocess.Process
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.events.append(json.loads(line))

    def first(self, kind: str) -> dict[str, Any] | None:
        return next((event for event in self.events if event["event"] == kind), None)

    async def told(self, kind: str) -> dict[str, Any]:
        """The first event of *kind*; fails when the phone ends without one."""
        await until(lambda: self.first(kind) is not None or self._reading.done(), f"{kind}: {self.events}")
        event = self.first(kind)
        assert event is not None, f"no {kind} among {self.events}"
        return event

    async def done(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(CALL_S + WAIT_S):
            await self._reading
            return await self.process.wait()


@dataclass
class Town:
    """Gateway, billing system and the order book of this module."""

    world: World
    line_port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def sip(self) -> str:
        return f"sip:gateway@{HOST}:{self.world.sip_port}"

    async def run(self) -> asyncio.subprocess.Process:
        """The gateway, started when it does not run."""
        if self.process is None or self.process.returncode is not None:
            log = self.world.folder / "gateway.log"
            if log.exists():
                log.rename(log.with_suffix(f".{len(list(log.parent.glob('gateway.*')))}"))
            self.process = await start_gateway(self.world)
        return self.process

    async def order(self, number: str, *, call: str = "inbound", dialplan: str = "plan-upgrade") -> str:
        order = sample_order(number, datetime.now(UTC).date(), call=call) | {"dialplan": dialplan}
        return str((await self.world.ask("POST", "/v1/orders", order))["order_id"])

    async def state(self, order_id: str) -> str:
        return str((await self.world.ask("GET", f"/v1/orders/{order_id}"))["state"])

    async def reaches(self, order_id: str, *states: str) -> dict[str, Any]:
        """The order's summary, as soon as it is in one of *states*."""

        async def there() -> bool:
            return await self.state(order_id) in states

        await until(there, f"{order_id} in {states}")
        return dict(await self.world.ask("GET", f"/v1/orders/{order_id}"))

    async def events(self, order_id: str, kind: str = "") -> list[dict[str, Any]]:
        entries = (await self.world.ask("GET", f"/v1/orders/{order_id}/events"))["events"]
        return [entry["event"] for entry in entries if kind in ("", entry["event"]["type"])]

    async def comes(self, order_id: str, kind: str) -> dict[str, Any]:
        """The first event of *kind* in the record, as soon as it is there."""

        async def there() -> bool:
            return bool(await self.events(order_id, kind))

        await until(there, f"{kind} of {order_id}")
        return (await self.events(order_id, kind))[0]

    async def phone(self, *arguments: str) -> Phone:
        phone = Phone(await start_phone(self.world, *arguments, "--max-seconds", str(CALL_S)))
        await phone.told("listening")
        return phone

    async def call_in(self, number: str, *arguments: str) -> Phone:
        return await self.phone("call", self.sip, "--user", number, "--turn-silence", TURN_MS, *arguments)

    @property
    def log(self) -> str:
        return (self.world.folder / "gateway.log").read_text(errors="replace")

    async def listen(self, order_id: str) -> Path:
        """The recording of the order's last call, exported as WAV beside the running gateway."""
        wav = Path(tempfile.mkdtemp(dir=self.world.folder)) / "call.wav"
        who = ("--by", "a test", "--purpose", "to hear what was recorded")
        code, _, err = await cli(
            "recording", "export", order_id, "-o", str(wav), *who, "--config", str(self.world.config)
        )
        assert (0, "") == (code, err)
        return wav

    def recordings(self) -> set[Path]:
        return set((self.world.folder / "data/recordings").glob("*"))

    def processes(self) -> list[str]:
        """The command lines of all processes that work in this town."""
        lines = [command(int(path.name)) for path in Path("/proc").glob("[1-9]*")]
        return [line for line in lines if str(self.world.folder) in line]


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for *condition*, at most 40 s."""
    for _ in range(int(WAIT_S / POLL_S)):
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"not within {WAIT_S:.0f} s: {what}")


async def cli(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `consent-gateway` with *arguments*."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", *arguments, env={**os.environ, "COLUMNS": "240"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def tone(path: Path, hertz: float, seconds: float) -> None:
    samples = np.rint(5000 * np.sin(2 * np.pi * hertz * np.arange(int(8000 * seconds)) / 8000))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())


def heard_s(path: Path, hertz: float) -> float:
    """How many seconds of *path* are a tone of *hertz*."""
    samples = read_wav(path)
    frames = samples[: samples.size // 400 * 400].reshape(-1, 400).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(400), axis=1))
    loud = np.sqrt(np.mean(frames**2, axis=1)) > 500
    return float(np.sum(loud & (np.abs(spectrum.argmax(axis=1) * 20 - hertz) <= 20))) * 0.05


def own_prompts(folder: Path) -> Path:
    """The packs that ship, the Korean prompts recorded as tones, all but those that are spoken."""
    shutil.copytree(data_folder("prompts"), folder)
    (folder / "ko/audio").mkdir()
    for name in load_pack(folder, "ko").prompts:
        if name not in SPOKEN:
            tone(folder / f"ko/audio/{name}.wav", PITCH.get(name, OTHER_PITCH), LENGTH_S.get(name, PROMPT_S))
    worded = folder / "ko/prompts.yaml"
    worded.write_text(worded.read_text(encoding="utf-8").replace(*HASTE), encoding="utf-8")
    return folder


def secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def settings(world: World, line_port: int, prompts: Path) -> str:
    return f"""\
operator = "한빛통신"
data_dir = "{world.folder}/data"
prompts = "{prompts}"
drain_s = {DRAIN_S}

[sip]
bind = "{HOST}:{world.sip_port}"

[media]
address = "{HOST}"

[[softphones]]
number = "{SUBSCRIBER}"
password = "{PASSWORD}"

[[lines]]
name = "trunk"
host = "{HOST}"
port = {line_port}
ring_s = {RING_S}

[sms]
channel = "sip"

[[tenants]]
id = "billing"
api_key = "{world.api_key}"
webhook_url = "http://{HOST}:{world.parties_port}/billing"
webhook_secret = "{world.billing.secret}"

[provisioning]
allowed_networks = ["127.0.0.0/8"]

[api]
bind = "{HOST}:{world.api_port}"
rate = 1000
burst = 1000

[database]
directory = "{world.folder}/postgres/server"

[policy]
call_attempts = 1
"""


def open_folder() -> Path:
    """A new folder that another user may enter: root never runs PostgreSQL itself."""
    folder = Path(tempfile.mkdtemp(prefix="consent-acceptance-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    folder = open_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        ports = free_port(socket.SOCK_DGRAM), free_port(), free_port()
        billing = Billing(secret())
        handset = Handset("", "", lambda *_: None)
        world = World(folder, HOST, *ports, secrets.token_urlsafe(24), PASSWORD, billing, handset, session, stack)
        line_port = free_port(socket.SOCK_DGRAM)
        world.config.write_text(settings(world, line_port, own_prompts(folder / "prompts")), encoding="utf-8")
        runner = await start_parties(billing, handset, world.parties_port)
        stack.push_async_callback(runner.cleanup)
        made = Town(world, line_port)
        await made.run()
        yield made


@contextmanager
def changed(town: Town, *changes: tuple[str, str]) -> Iterator[Path]:
    """A settings file beside the good one, with its ports free and *changes* made: (what stands there, what instead)."""
    text = town.world.config.read_text(encoding="utf-8")
    for port in (town.world.sip_port, town.world.api_port):
        text = text.replace(f'bind = "{HOST}:{port}"', f'bind = "{HOST}:0"')
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)


def descendants(process: asyncio.subprocess.Process) -> list[int]:
    """Every process below *process*."""
    found, work = [], [process.pid]
    while work:
        for task in Path(f"/proc/{work.pop()}/task").glob("*/children"):
            pids = [int(pid) for pid in task.read_text().split()]
            found += pids
            work += pids
    return found


def command(pid: int) -> str:
    """The command line of a process that lives; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
