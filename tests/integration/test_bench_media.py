"""``bench media`` and ``bench setup`` as a user runs them, and the load generator against peers whose faults are known.

No time is judged; what is counted is.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.measure import rivals
from gateway.measure.bench_media import GOALS as MEDIA_GOALS
from gateway.measure.bench_setup import GOALS as SETUP_GOALS
from gateway.measure.load import Plan

DONE_S = 240.0
RTP = struct.Struct("!BBHII")


async def run(*arguments: str) -> str:
    """The stdout of ``python -m`` *arguments*, whose stdin stays open; exit code 0 is wanted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DONE_S):
            said, complaints = await asyncio.gather(process.stdout.read(), process.stderr.read())
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert 0 == code, complaints.decode()
    return said.decode()


async def bench(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(await run("gateway.cli", "bench", *arguments, "--json"))
    return told


async def load(plan: Plan) -> dict[str, Any]:
    """The figures of a plan."""
    figures: dict[str, Any] = json.loads((await run("gateway.measure.load", plan.argument())).splitlines()[-1])
    assert "figures" == figures["at"]
    return figures


@dataclass
class Phone(asyncio.DatagramProtocol):
    """A far end that answers each INVITE with *status*, sends packets of the *numbers* given, and takes its BYE."""

    status: int
    numbers: list[int]
    media: asyncio.DatagramTransport
    requests: list[str] = field(default_factory=list)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        method = data[: data.index(b" ")].decode()
        self.requests.append(method)
        if method == "ACK":
            return
        kept = re.findall(rb"^(?:Via|From|To|Call-ID|CSeq):[^\r]*\r\n", data, re.MULTILINE)
        head = b"".join(kept).replace(b"bench@127.0.0.1>\r\n", b"bench@127.0.0.1>;tag=phone\r\n")
        status = 200 if method == "BYE" else self.status
        port = self.media.get_extra_info("sockname")[1]
        sdp = (
            f"v=0\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n".encode()
            if method == "INVITE"
            else b""
        )
        contact = f"Contact: <sip:phone@127.0.0.1:{self.port}>\r\n".encode()
        length = b"Content-Length: %d\r\n\r\n" % len(sdp)
        self.transport.sendto(b"SIP/2.0 %d Whatever\r\n" % status + head + contact + length + sdp, addr)
        host, heard = re.search(rb"c=IN IP4 ([\d.]+)", data), re.search(rb"m=audio (\d+)", data)
        if method == "INVITE" and status == 200 and host and heard:
            asyncio.get_running_loop().call_later(0.5, self._talk, (host[1].decode(), int(heard[1])))

    def _talk(self, to: tuple[str, int]) -> None:
        for number in self.numbers:
            self.media.sendto(RTP.pack(0x80, 8, number, 160 * number, 7) + bytes(160), to)


@pytest.fixture
async def media() -> AsyncIterator[asyncio.DatagramTransport]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    yield transport
    transport.close()


async def one_call(media: asyncio.DatagramTransport, status: int, numbers: list[int]) -> tuple[dict[str, Any], Phone]:
    """What the generator makes of one call to such a phone."""
    transport, phone = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Phone(status, numbers, media), local_addr=("127.0.0.1", 0)
    )
    try:
        return await load(Plan("setup", 0.5, cps=2, hold_s=1.5, port=phone.port)), phone
    finally:
        transport.close()


class TestTheGenerator:
    async def test_a_call_is_acknowledged_and_ended(self, media: asyncio.DatagramTransport) -> None:
        figures, phone = await one_call(media, 200, [1])
        assert ["INVITE", "ACK", "BYE"] == phone.requests
        assert (1, 1, 1, {}) == (figures["placed"], figures["answered"], figures["ended"], figures["failures"])

    async def test_what_is_missing_is_lost(self, media: asyncio.DatagramTransport) -> None:
        figures, _ = await one_call(media, 200, [65533, 65534, 1, 2, 5])
        assert (5, 4) == (figures["rtp_received"], figures["rtp_lost"])

    async def test_what_comes_twice_or_late_is_not(self, media: asyncio.DatagramTransport) -> None:
        figures, _ = await one_call(media, 200, [10, 12, 11, 11, 13])
        assert (5, 0, 1) == (figures["rtp_received"], figures["rtp_lost"], figures["rtp_duplicates"])

    async def test_a_refusal_is_acknowledged_and_counted_by_its_status(self, media: asyncio.DatagramTransport) -> None:
        figures, phone = await one_call(media, 486, [])
        assert ["INVITE", "ACK"] == phone.requests
        assert (0, 0, {"486": 1}) == (figures["answered"], figures["ended"], figures["failures"])

    async def test_alone_with_itself_it_loses_nothing(self) -> None:
        figures = await load(Plan("mirror", 2, calls=20))
        assert (
            0
            == figures["rtp_lost"]
            == figures["generator"]["dropped"]
            == figures["rtp_stray"]
            == figures["rtp_malformed"]
        )
        assert 0 < figures["gaps"] <= figures["rtp_received"] <= figures["rtp_sent"]


def check_gaps(gaps: dict[str, float]) -> None:
    assert 0 < gaps["p50"] <= gaps["p99"] <= gaps["p999"] <= gaps["max"] + 0.01


class TestMedia:
    async def test_calls_are_carried_weighed_and_held_against_the_goals(self) -> None:
        told = await bench("media", "--calls", "5", "--seconds", "8", "--no-rivals", "--codec", "G722")
        assert {"cpu", "cores", "kernel", "python", "gateway", "database", "listening"} <= told["conditions"].keys()
        [one] = told["runs"]
        assert (5, 0, {}) == (one["up"], one["failed"], one["failures"])
        assert (5, 5, "G722") == (one["counters"]["calls"], one["counters"]["recordings"], one["codec"])
        assert one["keys"]["pressed"] == one["keys"]["heard"] > 0
        assert one["rtcp"]["sent"] > 0
        assert one["counters"]["sent"] >= one["rtp"]["received"] >= one["packets"] > 0
        assert one["rtp"]["sent"] >= one["counters"]["received"] > 0
        assert one["cpu_ms_per_call_s"] > 0
        assert 0 == one["generator"]["full"]
        check_gaps(one["gap_ms"])
        check_gaps(one["setup_ms"])
        assert [goal.text for goal in MEDIA_GOALS] == [goal["goal"] for goal in told["goals"]]
        assert not told["goals"][0]["met"]
        assert 995 == told["goals"][0]["over"]

    async def test_rivals_are_measured_in_the_same_run(self) -> None:
        names = [rival.name for rival in rivals.installed()]
        if not names:
            pytest.skip("neither pyVoIP nor baresip-python is installed")
        told = await bench("media", "--calls", "2", "--seconds", "1", "--rival-calls", "2")
        ours, *theirs = told["runs"]
        assert names == [one["engine"] for one in theirs]
        for one in theirs:
            assert ours.keys() == one.keys()
            assert (2, 0) == (one["up"], one["failed"])
            check_gaps(one["gap_ms"])


class TestSetup:
    async def test_calls_come_and_go_at_their_rate(self) -> None:
        told = await bench("setup", "--cps", "5", "--seconds", "3", "--hold", "0.5", "--poisson", "--no-rivals")
        [one] = told["runs"]
        assert one["placed"] == one["answered"] == one["ended"] == one["counters"]["calls"] > 0
        assert (0, {}) == (one["failed"], one["failures"])
        assert one["cpu_ms_per_call"] > 0
        check_gaps(one["setup_ms"])
        assert [goal.text for goal in SETUP_GOALS] == [goal["goal"] for goal in told["goals"]]
