"""One call's media: what it sends, what it hears and from whom (RFC 3550, RFC 3551, RFC 4733)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from media_bench import COMFORT, EVENTS, Line, packet, udp

from gateway.audio.concealment import comfort
from gateway.telephony.errors import BadMessage
from gateway.telephony.rtp import event_payload, parse_event

AUDIO = 8
SILENCE = b"\xd5" * 160


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


class TestSending:
    """RFC 3550 §5.1, RFC 3551 §4.1."""

    def test_a_packet_leaves_each_tick_though_nothing_plays(self, line: Line) -> None:
        line.tick(3)
        assert [SILENCE] * 3 == [p.payload for p in line.far.heard()]

    def test_sequence_and_timestamp_run_on_and_only_the_first_is_marked(self, line: Line) -> None:
        line.stream._sequence, line.stream._timestamp = 0xFFFE, 0xFFFFFFFF - 159
        line.tick(3)
        packets = line.far.heard()
        assert [0xFFFF, 0, 1] == [p.sequence for p in packets]
        assert [0xFFFFFF60, 0, 160] == [p.timestamp for p in packets]
        assert [True, False, False] == [p.marker for p in packets]
        assert 1 == len({p.ssrc for p in packets})

    async def test_a_prompt_is_sent_frame_by_frame_and_counted(self, line: Line) -> None:
        done = line.stream.play((b"a" * 160, b"b" * 160))
        line.tick(3)
        assert [b"a", b"b", b"\xd5"] == [p.payload[:1] for p in line.far.heard()]
        assert 2 == (await done).sent

    async def test_a_new_prompt_replaces_the_running_one(self, line: Line) -> None:
        first = line.stream.play((b"a" * 160,) * 10)
        line.tick(2)
        second = line.stream.play((b"b" * 160,))
        line.tick(1)
        assert (2, 1) == ((await first).sent, (await second).sent)

    async def test_an_empty_prompt_is_over_at_once(self, line: Line) -> None:
        assert 0 == (await asyncio.wait_for(line.stream.play(()), 1)).sent

    @pytest.mark.parametrize("direction", ["sendonly", "inactive"])
    async def test_a_held_call_hears_silence_and_its_prompt_waits(self, line: Line, direction: str) -> None:
        done = line.stream.play((b"a" * 160,))
        line.change(direction=direction)
        line.tick(2)
        assert [b"\xd5", b"\xd5"] == [p.payload[:1] for p in line.far.heard()]
        line.change(direction="sendrecv")
        line.tick()
        assert [b"a"] == [p.payload[:1] for p in line.far.heard()]
        assert 1 == (await done).sent

    def test_nothing_is_sent_to_the_unspecified_address(self, line: Line) -> None:
        """The old way to hold (RFC 3264 §8.4)."""
        line.change(remote=("0.0.0.0", line.far.address[1]))
        line.tick()
        assert (0, []) == (line.stream.counters.sent, line.far.heard())

    @pytest.mark.parametrize("remote", [("255.255.255.255", 4000), ("2001:db8::1", 4000)])
    def test_a_far_end_that_cannot_be_sent_to_is_counted(self, line: Line, remote: tuple[str, int]) -> None:
        line.change(remote=remote)
        line.tick(2)
        assert (0, 2) == (line.stream.counters.sent, line.stream.counters.unsent)

    async def test_a_frame_that_did_not_leave_was_not_played(self, line: Line) -> None:
        done = line.stream.play((b"a" * 160,))
        line.change(remote=("255.255.255.255", 4000))
        line.tick()
        assert not done.done()
        line.change(remote=line.far.address)
        line.tick()
        assert 1 == (await done).sent


class TestSendingKeys:
    """RFC 4733 §2.5.1."""

    def test_one_key_is_one_event_of_100_ms_whose_end_is_sent_three_times(self, line: Line) -> None:
        line.stream.send_keys("7")
        line.tick(7)
        packets = line.far.heard()
        events = [parse_event(p.payload) for p in packets]
        assert [160, 320, 480, 640, 800, 800, 800] == [e.duration for e in events]
        assert [False] * 4 + [True] * 3 == [e.end for e in events]
        assert [True] + [False] * 6 == [p.marker for p in packets]
        assert 1 == len({p.timestamp for p in packets})
        assert {EVENTS} == {p.payload_type for p in packets}

    def test_its_sequence_numbers_go_on_with_the_audio(self, line: Line) -> None:
        line.tick()
        line.stream.send_keys("7")
        line.tick(12)
        numbers = [p.sequence for p in line.far.heard()]
        assert [(numbers[0] + n) & 0xFFFF for n in range(13)] == numbers

    def test_two_keys_are_two_events_with_a_pause_between(self, line: Line) -> None:
        line.stream.send_keys("55")
        line.tick(20)
        packets = line.far.heard()
        assert 2 == len({p.timestamp for p in packets if p.payload_type == EVENTS})
        assert [AUDIO] * 3 == [p.payload_type for p in packets[7:10]]

    def test_audio_goes_on_at_the_time_that_passed(self, line: Line) -> None:
        line.tick()
        line.stream.send_keys("1")
        line.tick(11)
        audio = [p for p in line.far.heard() if p.payload_type == AUDIO]
        assert 11 * 160 == (audio[-1].timestamp - audio[0].timestamp) % 2**32

    def test_what_is_no_key_is_refused_when_asked_not_on_the_clock(self, line: Line) -> None:
        with pytest.raises(ValueError, match="'1x' are not all DTMF keys"):
            line.stream.send_keys("1x")
        line.tick(20)
        assert {AUDIO} == {p.payload_type for p in line.far.heard()}

    def test_a_far_end_without_events_is_told_of(self, line: Line) -> None:
        line.change(event_type=None)
        with pytest.raises(BadMessage, match="the far end takes no telephone-events"):
            line.stream.send_keys("1")


class TestHearingKeys:
    """RFC 4733 §2.5.2: a key counts once, whatever is lost of it."""

    def press(self, line: Line, key: str, timestamp: int, *ends: bool, sequence: int = 7) -> None:
        for end in ends:
            line.put(
                packet(event_payload(key, end=end, duration=800), kind=EVENTS, timestamp=timestamp, sequence=sequence)
            )
            line.tick()

    def test_it_is_told_once_though_its_end_comes_three_times(self, line: Line) -> None:
        self.press(line, "5", 160, False, True, True, True)
        assert (["5"], 1) == (line.keys, line.stream.counters.keys)

    def test_the_same_key_again_is_another_event(self, line: Line) -> None:
        for timestamp in (160, 1760):
            self.press(line, "5", timestamp, False, True)
        assert ["5", "5"] == line.keys

    def test_one_whose_ends_were_all_lost_counts_when_the_next_begins(self, line: Line) -> None:
        self.press(line, "1", 160, False, False)
        self.press(line, "2", 1760, False, True)
        assert ["1", "2"] == line.keys

    def test_or_a_second_later(self, line: Line) -> None:
        self.press(line, "9", 160, False, False)
        assert [] == line.keys
        line.tick(110)
        assert ["9"] == line.keys

    def test_an_end_that_comes_after_that_is_not_another(self, line: Line) -> None:
        self.press(line, "9", 160, False)
        line.tick(110)
        self.press(line, "9", 160, True)
        assert ["9"] == line.keys

    def test_a_packet_of_the_key_before_that_comes_late_is_not_another(self, line: Line) -> None:
        self.press(line, "1", 160, False, True)
        self.press(line, "2", 1760, False)
        self.press(line, "1", 160, True)
        self.press(line, "2", 1760, True)
        assert ["1", "2"] == line.keys

    def test_what_is_no_key_is_malformed(self, line: Line) -> None:
        line.put(packet(bytes([99, 0x80, 0, 0]), kind=EVENTS))
        assert ([], 1) == (line.keys, line.stream.counters.malformed)

    def test_where_no_events_were_agreed_none_are_heard(self, line: Line) -> None:
        line.change(event_type=None)
        self.press(line, "5", 160, False, True)
        assert [] == line.keys


class TestHearing:
    def test_audio_of_the_far_end_is_heard(self, line: Line) -> None:
        line.put(packet(b"a" * 160))
        line.tick(4)
        assert b"a" * 160 == line.heard[-1]

    def test_padding_and_extensions_are_taken_off(self, line: Line) -> None:
        line.put(packet(b"\xbe\xde\x00\x01abcd" + b"a" * 160 + b"\0\0\0\x04", first=0xB0))
        line.tick(4)
        assert b"a" * 160 == line.heard[-1]

    @pytest.mark.parametrize("data", [b"", b"x", packet(first=0), packet(b"", first=0x8F), packet(b"abc", first=0x90)])
    def test_what_is_malformed_is_counted_and_not_heard(self, line: Line, data: bytes) -> None:
        line.put(data)
        assert (1, 0) == (line.stream.counters.malformed, line.stream.received)

    def test_a_payload_type_that_was_not_agreed_is_not_heard(self, line: Line) -> None:
        line.put(packet(b"a" * 160, kind=0))
        line.tick(4)
        assert {SILENCE} == set(line.heard)

    def test_comfort_noise_stands_for_what_the_far_end_does_not_send(self, line: Line) -> None:
        """RFC 3389."""
        line.put(packet(b"a" * 160))
        line.tick(4)
        line.put(packet(bytes([50]), kind=COMFORT, sequence=8, timestamp=160))
        line.tick(2)
        assert [comfort("PCMA", 50, n) for n in (1, 2)] == line.heard[-2:]

    def test_a_far_end_that_begins_a_new_source_is_heard_on(self, line: Line) -> None:
        line.put(packet(b"a" * 160))
        line.tick(4)
        line.put(packet(b"b" * 160, ssrc=1, sequence=40_000, timestamp=2**31))
        line.tick(5)
        assert b"b" * 160 in line.heard
        assert (2, 0) == (line.stream.received, line.stream.report(("192.0.2.1", 1)).lost)

    def test_a_packet_of_30_ms_costs_the_first_one_at_most(self, line: Line) -> None:
        """Room is made for what is longer than usual."""
        for number in range(3):
            line.put(packet(b"a" * 640, sequence=number, timestamp=640 * number))
        assert line.stream.received >= 2


class TestWhoIsHeard:
    """The latch: the signalled address, or behind NAT one other, once; never who merely throws packets (RTPbleed)."""

    def test_once_the_far_end_spoke_no_stranger_is_heard(self, line: Line) -> None:
        line.put(packet(b"a" * 160))
        line.put(packet(b"b" * 160, timestamp=160), by=line.stranger)
        line.tick(6)
        assert 1 == line.stream.counters.foreign
        assert not any(b"b" in frame for frame in line.heard)

    def test_behind_nat_the_first_source_is_heard_and_sent_to_and_no_second(self, line: Line) -> None:
        line.put(packet(b"a" * 160), by=line.stranger)
        second = udp()
        second.sendto(packet(b"b" * 160, timestamp=160), line.ports.rtp.getsockname())
        line.stream.receive()
        second.close()
        line.tick()
        assert (1, 1) == (line.stream.received, line.stream.counters.foreign)
        assert (1, 0) == (len(line.stranger.heard()), len(line.far.heard()))

    def test_a_stranger_that_was_first_loses_the_call_to_the_signalled_far_end(self, line: Line) -> None:
        line.put(packet(b"b" * 160), by=line.stranger)
        line.put(packet(b"a" * 160))
        line.put(packet(b"b" * 160, timestamp=160), by=line.stranger)
        line.tick()
        assert 1 == line.stream.counters.foreign
        assert (0, 1) == (len(line.stranger.heard()), len(line.far.heard()))

    @pytest.mark.parametrize(
        "data", [b"x", b"", packet(kind=0), packet(first=0), packet(bytes([99, 0, 0, 0]), kind=EVENTS)]
    )
    def test_what_is_no_packet_of_this_call_steers_nothing(self, line: Line, data: bytes) -> None:
        line.put(data, by=line.stranger)
        line.tick()
        assert (0, 1) == (len(line.stranger.heard()), len(line.far.heard()))

    def test_a_far_end_that_was_moved_by_re_invite_is_heard_and_sent_to(self, line: Line) -> None:
        line.put(packet(), by=line.stranger)
        new = udp()
        line.change(remote=new.getsockname())
        new.sendto(packet(b"a" * 160, timestamp=160), line.ports.rtp.getsockname())
        line.stream.receive()
        line.tick()
        moved = len(new.recv(2048)) > 12
        new.close()
        assert (2, 0, True) == (line.stream.received, line.stream.counters.foreign, moved)

    def test_where_the_audio_was_latched_is_reported(self, line: Line) -> None:
        line.put(packet(), by=line.stranger)
        assert line.stranger.address == line.stream.report(("192.0.2.1", 1)).latched
        line.put(packet())
        assert line.stream.report(("192.0.2.1", 1)).latched is None
