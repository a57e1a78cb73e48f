"""The engine of all media: ports, streams and the shared tick. No call may cost another one its tick (DESIGN §7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from media_bench import Far, packet, udp

from gateway.telephony.errors import TransportFailed
from gateway.telephony.media import MediaEngine, MediaStream
from gateway.telephony.rtcp import Goodbye, parse_rtcp
from gateway.telephony.rtp import parse_rtp
from gateway.telephony.sdp import MediaTerms

HOST = "127.0.0.1"


class House:
    """An engine ticked by hand, and the far ends of its calls."""

    def __init__(self, folder: Path) -> None:
        self.engine = MediaEngine(HOST, range(21_501, 21_510), folder)
        self.fars: list[Far] = []
        self.streams: list[MediaStream] = []

    def open(self, remote: tuple[str, int] | None = None) -> tuple[MediaStream, Far]:
        far = Far(udp(), udp())
        self.fars.append(far)
        terms = MediaTerms("PCMA", 8, 101, remote or far.address, rtcp=far.rtcp.getsockname())
        stream = self.engine.open(self.engine.reserve(HOST), terms, f"call-{len(self.streams)}")
        self.streams.append(stream)
        return stream, far

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine._tick()

    async def close(self) -> None:
        for stream in self.streams:
            await self.engine.close(stream)
        for far in self.fars:
            far.close()
        self.engine.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.close()


class TestTheTick:
    async def test_each_call_sends_a_packet(self, house: House) -> None:
        fars = [house.open()[1] for _ in range(3)]
        house.tick()
        assert [1, 1, 1] == [len(far.heard()) for far in fars]

    async def test_it_reads_all_that_came_in(self, house: House) -> None:
        stream, far = house.open()
        for number in range(10):
            far.rtp.sendto(packet(sequence=number, timestamp=160 * number), (HOST, stream.ports.number))
        house.tick()
        assert 10 == stream.received

    async def test_a_flood_costs_sixteen_packets_of_that_call_a_tick_and_the_others_nothing(self, house: House) -> None:
        (flooded, flooder), (quiet, far) = house.open(), house.open()
        for number in range(200):
            flooder.rtp.sendto(packet(sequence=number, timestamp=160 * number), (HOST, flooded.ports.number))
        far.rtp.sendto(packet(), (HOST, quiet.ports.number))
        house.tick()
        assert (16, 1) == (flooded.received, quiet.received)

    async def test_a_call_that_cannot_be_sent_to_does_not_mute_the_next(self, house: House) -> None:
        house.open(("255.255.255.255", 4000))
        _, far = house.open()
        house.tick()
        assert 8 == parse_rtp(far.rtp.recv(2048)).payload_type

    @pytest.mark.parametrize("where", ["tap", "on_key"])
    async def test_a_call_whose_listener_breaks_is_ended_and_the_next_goes_on(self, house: House, where: str) -> None:
        (broken, breaker), (_, far) = house.open(), house.open()
        told: list[str] = []
        broken.on_failure = told.append

        def fail(*_: object) -> None:
            raise RuntimeError("a defect")

        setattr(broken, where, fail)
        breaker.rtp.sendto(packet(bytes([5, 0x80, 3, 32]), kind=101), (HOST, broken.ports.number))
        house.tick(3)
        assert ["its media failed: RuntimeError('a defect')"] == told[:1]
        assert 3 == len(far.heard())

    async def test_reports_are_read_with_the_audio(self, house: House) -> None:
        stream, far = house.open()
        far.rtcp.sendto(b"\0\0\0\0", (HOST, stream.ports.number + 1))
        house.tick()
        assert 1 == stream.reporting.malformed


class TestOpeningAndClosing:
    async def test_early_media_do_not_delay_the_call(self, house: House) -> None:
        far, ports = Far(udp(), udp()), house.engine.reserve(HOST)
        house.fars.append(far)
        for number in range(50):
            far.rtp.sendto(packet(sequence=number, timestamp=160 * number), (HOST, ports.number))
        stream = house.engine.open(ports, MediaTerms("PCMA", 8, None, far.address), "call")
        house.streams.append(stream)
        heard: list[bytes] = []
        stream.tap = lambda frame, _: heard.append(frame)
        far.rtp.sendto(packet(b"a" * 160, sequence=50, timestamp=160 * 50), (HOST, ports.number))
        house.tick(5)
        assert b"a" * 160 in heard

    async def test_a_closed_call_says_goodbye_and_gives_its_ports_back(self, house: House) -> None:
        stream, far = house.open()
        house.tick(5)
        recording = await house.engine.close(stream)
        assert recording is not None
        assert (100, 4, 0) == (recording.duration_ms, len(house.engine.ports), len(house.engine))
        assert any(isinstance(report, Goodbye) for report in parse_rtcp(far.rtcp.recv(2048)))

    async def test_closing_twice_is_closing_once(self, house: House) -> None:
        stream, _ = house.open()
        assert await house.engine.close(stream) is not None
        assert await house.engine.close(stream) is None

    async def test_closing_ends_what_plays(self, house: House) -> None:
        stream, _ = house.open()
        playing = stream.play((b"a" * 160,) * 10)
        house.tick(3)
        await house.engine.close(stream)
        assert 3 == playing.result().sent

    async def test_a_closed_call_is_not_ticked_any_more(self, house: House) -> None:
        (first, far), _ = house.open(), house.open()
        await house.engine.close(first)
        house.tick(3)
        assert [] == far.heard()

    async def test_a_call_may_be_closed_by_what_it_hears(self, house: House) -> None:
        """In the midst of a tick."""
        (stream, _), (_, far) = house.open(), house.open()
        stream.tap = lambda *_: stream.stop_playing()
        house.tick(2)
        assert 2 == len(far.heard())

    async def test_when_the_recording_cannot_be_begun_there_is_no_call(self, house: House, tmp_path: Path) -> None:
        (tmp_path / "call-0.rec").touch()
        ports = house.engine.reserve(HOST)
        with pytest.raises(FileExistsError):
            house.engine.open(ports, MediaTerms("PCMA", 8, None, (HOST, 4000)), "call-0")
        house.engine.release(ports)
        assert (0, 4) == (len(house.engine), len(house.engine.ports))

    async def test_when_no_port_is_left_it_is_said(self, house: House) -> None:
        taken = [house.engine.reserve(HOST) for _ in range(4)]
        with pytest.raises(TransportFailed, match="no RTP port is free"):
            house.engine.reserve(HOST)
        for ports in taken:
            house.engine.release(ports)
        assert 4 == len(house.engine.ports)

    async def test_what_was_refused_is_counted_beyond_the_end_of_its_call(self, house: House) -> None:
        (first, far), (second, other) = house.open(), house.open()
        far.rtp.sendto(b"x", (HOST, first.ports.number))
        other.rtp.sendto(packet(), (HOST, second.ports.number))
        house.tick()
        far.rtp.sendto(packet(), (HOST, second.ports.number))
        house.tick()
        await house.engine.close(first)
        assert {"malformed": 1, "foreign": 1} == house.engine.refused
