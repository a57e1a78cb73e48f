"""Which packets a prompt went out in, and what is reported of them: against what its far end has really received."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from media_bench import EVENTS, Line

from gateway.telephony import stream as stream_module
from gateway.telephony.crypto import Protection, new_crypto
from gateway.telephony.passage import FarEnd, Passage
from gateway.telephony.rtcp import Report, ReportBlock, make_report
from gateway.telephony.rtp import RtpPacket

PROMPT = b"\x2a" * 160
OTHER = b"\x2b" * 160


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def wrapping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A stream whose sequence numbers and timestamps are about to wrap around."""
    monkeypatch.setattr(stream_module, "randbits", lambda bits: 2**bits - 4 if bits == 16 else 2**32 - 640)
    made = Line()
    yield made
    made.close()


def prompt_packets(packets: list[RtpPacket], payload: bytes = PROMPT) -> list[RtpPacket]:
    return [packet for packet in packets if packet.payload == payload]


def on_the_wire(passage: Passage) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sequence number and timestamp of its first and of its last packet."""
    assert passage.first is not None
    assert passage.last is not None
    return (passage.first[0] & 0xFFFF, passage.first[1]), (passage.last[0] & 0xFFFF, passage.last[1])


def ends(packets: list[RtpPacket]) -> tuple[tuple[int, int], tuple[int, int]]:
    first, last = packets[0], packets[-1]
    return (first.sequence, first.timestamp), (last.sequence, last.timestamp)


def heard(line: Line, highest: int, *, lost: int = 0, fraction: int = 0, ssrc: int | None = None) -> bytes:
    """A report of the far end, of our stream unless *ssrc* is another's."""
    ours = line.stream._ssrc if ssrc is None else ssrc
    return make_report(Report(7, (ReportBlock(ours, fraction, lost, highest & 0xFFFF, 0, 0, 0),)), "far")


class TestNumbers:
    async def test_they_are_those_of_the_packets_that_arrived(self, line: Line) -> None:
        line.tick(3)
        done = line.stream.play((PROMPT,) * 7)
        line.tick(20)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (7, 7) == (len(packets), passage.sent)
        assert ends(packets) == on_the_wire(passage)
        assert {passage.ssrc} == {packet.ssrc for packet in packets}

    async def test_one_frame_is_its_own_first_and_last(self, line: Line) -> None:
        done = line.stream.play((PROMPT,))
        line.tick(2)
        passage = await done
        assert passage.first == passage.last
        assert ends(prompt_packets(line.far.heard())) == on_the_wire(passage)

    async def test_of_two_in_a_row_each_has_its_own(self, line: Line) -> None:
        first = line.stream.play((PROMPT,) * 3)
        line.tick(3)
        second = line.stream.play((OTHER,) * 3)
        line.tick(3)
        packets = line.far.heard()
        assert ends(prompt_packets(packets)) == on_the_wire(await first)
        assert ends(prompt_packets(packets, OTHER)) == on_the_wire(await second)

    async def test_they_wrap_around_in_the_middle(self, wrapping: Line) -> None:
        done = wrapping.stream.play((PROMPT,) * 8)
        wrapping.tick(8)
        passage, packets = await done, prompt_packets(wrapping.far.heard())
        assert (0xFFFD, 4) == (packets[0].sequence, packets[-1].sequence)
        assert packets[0].timestamp > packets[-1].timestamp
        assert ends(packets) == on_the_wire(passage)

    async def test_one_that_is_cut_ends_with_the_last_that_left(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 50)
        line.tick(9)
        line.stream.stop_playing()
        line.tick(9)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (9, False) == (passage.sent, passage.whole)
        assert ends(packets) == on_the_wire(passage)

    async def test_one_that_is_cut_by_what_is_heard_in_a_tick_too(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 50)
        line.tick(5)
        line.stream.tap = lambda *_: line.stream.stop_playing()
        line.tick(3)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (6, 6) == (passage.sent, len(packets))
        assert ends(packets) == on_the_wire(passage)

    async def test_one_that_another_replaces_too(self, line: Line) -> None:
        first = line.stream.play((PROMPT,) * 50)
        line.tick(4)
        line.stream.play((OTHER,) * 2)
        line.tick(4)
        assert ends(prompt_packets(line.far.heard())) == on_the_wire(await first)

    async def test_one_of_which_nothing_left_has_none(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 5)
        line.stream.stop_playing()
        passage = await done
        assert (0, 5, None, None) == (passage.sent, passage.planned, passage.first, passage.last)


class TestKeysInBetween:
    """Keys are sent instead of the prompt, which goes on behind them: nothing of it is missing (RFC 4733)."""

    async def test_in_the_middle_of_it(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.stream.send_keys("1")
        line.tick(30)
        passage, packets = await done, line.far.heard()
        keys = [packet.sequence for packet in packets if packet.payload_type == EVENTS]
        (first, _), (last, _) = on_the_wire(passage)
        assert (10, 10) == (passage.sent, len(prompt_packets(packets)))
        assert ends(prompt_packets(packets)) == on_the_wire(passage)
        assert all((number - first) & 0xFFFF < (last - first) & 0xFFFF for number in keys)

    async def test_one_that_is_cut_behind_them_ends_where_it_was_cut(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.stream.send_keys("1")
        line.tick(13)
        line.stream.stop_playing()
        passage, packets = await done, prompt_packets(line.far.heard())
        assert 4 < passage.sent < 10
        assert ends(packets) == on_the_wire(passage)

    async def test_before_it(self, line: Line) -> None:
        line.stream.send_keys("1")
        done = line.stream.play((PROMPT,) * 3)
        line.tick(30)
        assert ends(prompt_packets(line.far.heard())) == on_the_wire(await done)

    @pytest.mark.parametrize("ticks", [0, 1, 5, 9])
    async def test_one_that_is_cut_while_they_are_sent_ends_before_them(self, line: Line, ticks: int) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.stream.send_keys("1")
        line.tick(ticks)
        line.stream.stop_playing()
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (4, 4) == (passage.sent, len(packets))
        assert ends(packets) == on_the_wire(passage)


class TestHeld:
    """Either side holds the other while a prompt plays (RFC 3264 §8.4)."""

    @pytest.mark.parametrize("direction", ["sendonly", "inactive"])
    async def test_theirs_is_counted_and_the_prompt_goes_on_behind_it(self, line: Line, direction: str) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.change(direction=direction)
        line.tick(30)
        line.change(direction="sendrecv")
        line.tick(10)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (10, 600) == (passage.sent, passage.held_ms)
        assert ends(packets) == on_the_wire(passage)

    async def test_so_is_the_old_way(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.change(remote=("0.0.0.0", line.far.address[1]))
        line.tick(5)
        line.change(remote=line.far.address)
        line.tick(10)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (10, 100) == (passage.sent, passage.held_ms)
        assert ends(packets) == on_the_wire(passage)

    async def test_ours_is_counted_though_the_prompt_is_sent(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.stream.hold(holding=True)
        line.tick(3)
        line.stream.hold(holding=False)
        line.tick(3)
        passage = await done
        assert (10, 60) == (passage.sent, passage.held_ms)

    async def test_one_that_both_make_ends_with_the_later(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.stream.hold(holding=True)
        line.change(direction="sendonly")
        line.tick(5)
        line.stream.hold(holding=False)
        line.tick(5)
        line.change(direction="sendrecv")
        line.tick(10)
        assert 200 == (await done).held_ms

    async def test_one_that_began_before_the_prompt_is_of_it(self, line: Line) -> None:
        line.change(direction="sendonly")
        line.tick(7)
        done = line.stream.play((PROMPT,) * 3)
        line.tick(5)
        line.change(direction="sendrecv")
        line.tick(5)
        assert 100 == (await done).held_ms

    async def test_one_before_or_behind_it_is_not(self, line: Line) -> None:
        line.change(direction="sendonly")
        line.tick(5)
        line.change(direction="sendrecv")
        done = line.stream.play((PROMPT,) * 3)
        line.tick(3)
        line.change(direction="sendonly")
        line.tick(5)
        assert 0 == (await done).held_ms

    async def test_one_that_is_over_within_a_tick_is_one(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 3)
        line.tick()
        line.change(direction="inactive")
        line.change(direction="sendrecv")
        line.tick(5)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (3, 20) == (passage.sent, passage.held_ms)
        assert ends(packets) == on_the_wire(passage)

    async def test_one_that_the_prompt_is_cut_in_counts_until_then(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 10)
        line.tick(4)
        line.change(direction="sendonly")
        line.tick(5)
        line.stream.stop_playing()
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (4, 100) == (passage.sent, passage.held_ms)
        assert ends(packets) == on_the_wire(passage)


class TestUnsent:
    async def test_the_frame_that_did_not_leave_is_none_of_its_packets(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 6)
        line.tick(3)
        line.change(remote=("255.255.255.255", 4000))
        line.tick(4)
        line.stream.stop_playing()
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (3, 3) == (passage.sent, len(packets))
        assert ends(packets) == on_the_wire(passage)

    async def test_nor_when_it_goes_on_afterwards(self, line: Line) -> None:
        done = line.stream.play((PROMPT,) * 6)
        line.change(remote=("255.255.255.255", 4000))
        line.tick(2)
        line.change(remote=line.far.address)
        line.tick(3)
        line.change(remote=("255.255.255.255", 4000))
        line.tick(2)
        line.change(remote=line.far.address)
        line.tick(3)
        passage, packets = await done, prompt_packets(line.far.heard())
        assert (6, 6) == (passage.sent, len(packets))
        assert ends(packets) == on_the_wire(passage)


class TestReported:
    """RFC 3550 §6.4.1: of the packets of this prompt."""

    async def played(self, line: Line, before: int = 60, frames: int = 100) -> tuple[Passage, list[RtpPacket]]:
        line.tick(before)
        done = line.stream.play((PROMPT,) * frames)
        line.tick(frames)
        return await done, prompt_packets(line.far.heard())

    async def test_what_comes_while_it_plays_is_of_it(self, line: Line) -> None:
        line.tick(60)
        before = line.far.heard()[-1].sequence
        line.stream.play((PROMPT,) * 200)
        line.tick(100)
        middle = line.far.heard()[-1].sequence
        line.report(heard(line, before))
        line.report(heard(line, middle, lost=25, fraction=64))
        passage = line.stream._playing
        assert passage is not None
        assert FarEnd(1, 0.25, 0.0) == passage.passage.far

    async def test_what_comes_behind_it_too(self, line: Line) -> None:
        passage, packets = await self.played(line)
        assert passage.far is None
        line.report(heard(line, packets[-1].sequence, lost=80))
        assert FarEnd(1, 0.5, 0.0) == passage.far

    async def test_what_they_say_of_other_streams_is_not(self, line: Line) -> None:
        passage, packets = await self.played(line)
        line.report(heard(line, packets[-1].sequence, lost=80, ssrc=99))
        assert passage.far is None

    async def test_across_the_wrap_around(self, wrapping: Line) -> None:
        passage, packets = await self.played(wrapping)
        wrapping.report(heard(wrapping, packets[-1].sequence, lost=40))
        assert FarEnd(1, 0.25, 0.0) == passage.far

    async def test_on_a_shared_port(self, line: Line) -> None:
        """RFC 5761."""
        line.change(mux=True)
        passage, packets = await self.played(line)
        line.put(heard(line, packets[-1].sequence, lost=80))
        assert FarEnd(1, 0.5, 0.0) == passage.far

    async def test_by_a_stranger_it_is_not_heard(self, line: Line) -> None:
        line.change(remote=("192.0.2.77", 4000), rtcp=("192.0.2.77", 4001))
        done = line.stream.play((PROMPT,) * 100)
        line.tick(100)
        line.report(heard(line, line.stream._sequence, lost=80), by=line.stranger)
        assert 1 == line.stream.counters.foreign
        line.stream.stop_playing()
        assert (await done).far is None

    async def test_over_srtcp_only_what_is_proven(self) -> None:
        ours, theirs = new_crypto(), new_crypto()
        line, keys = Line(protection=Protection(ours, theirs)), Protection(theirs, ours)
        done = line.stream.play((PROMPT,) * 100)
        line.tick(100)
        passage, report = await done, heard(line, line.stream._sequence, lost=50)
        line.report(report)
        assert passage.far is None
        line.report(keys.protect_rtcp(report))
        line.close()
        assert FarEnd(1, 0.5, 0.0) == passage.far

    async def test_what_was_lost_on_hold_is_none_of_what_is_played_behind_it(self, line: Line) -> None:
        line.tick(60)
        line.change(direction="sendonly")
        line.tick(100)
        line.change(direction="sendrecv")
        line.far.heard()
        passage, packets = await self.played(line, before=0)
        line.report(heard(line, packets[-1].sequence, lost=100, fraction=98))
        assert FarEnd(1, 0.0, 0.0) == passage.far

    async def test_a_far_end_that_moved_counts_for_itself(self, line: Line) -> None:
        line.tick(60)
        line.report(heard(line, line.far.heard()[-1].sequence, lost=30))
        moved = replace(line.stream.terms, remote=line.stranger.address, rtcp=line.stranger.rtcp.getsockname())
        line.stream.renegotiate(moved)
        done = line.stream.play((PROMPT,) * 100)
        line.tick(100)
        line.report(heard(line, line.stranger.heard()[-1].sequence, lost=80, fraction=26), by=line.stranger)
        assert FarEnd(1, 26 / 256, 0.0) == (await done).far
