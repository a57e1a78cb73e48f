"""RTP packets (RFC 3550 §5.1), telephone events (RFC 4733 §2.3), and a stream that sends and hears them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, SOCK_NONBLOCK, socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telephony.errors import BadMessage
from gateway.telephony.media import MediaEngine, MediaStream, frames_of
from gateway.telephony.rtp import HEADER, RtpPacket, TelephoneEvent, event_payload, parse_event, parse_rtp
from gateway.telephony.sdp import MediaTerms

AUDIO, EVENTS = 8, 101


def packet(payload: bytes = b"\xd5" * 160, *, first: int = 0x80, second: int = AUDIO, timestamp: int = 0) -> bytes:
    return HEADER.pack(first, second, 7, timestamp, 0xDEADBEEF) + payload


class TestPackets:
    """RFC 3550 §5.1, §5.3.1."""

    def test_every_field_is_read(self) -> None:
        assert RtpPacket(8, 7, 160, 0xDEADBEEF, marker=True, payload=b"abc") == parse_rtp(
            packet(b"abc", second=0x88, timestamp=160)
        )

    def test_contributing_sources_are_skipped(self) -> None:
        assert b"abc" == parse_rtp(packet(bytes(8) + b"abc", first=0x82)).payload

    def test_an_extension_is_skipped(self) -> None:
        extension = struct.pack("!HH", 0xBEDE, 2) + bytes(8)
        assert b"abc" == parse_rtp(packet(extension + b"abc", first=0x90)).payload

    def test_padding_is_cut_off(self) -> None:
        assert b"abc" == parse_rtp(packet(b"abc\0\0\x03", first=0xA0)).payload

    def test_padding_may_be_all_there_is(self) -> None:
        assert b"" == parse_rtp(packet(b"\0\0\x03", first=0xA0)).payload

    @pytest.mark.parametrize("size", [0, 1, 11])
    def test_a_truncated_header(self, size: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has {size} octets, its header takes 12"):
            parse_rtp(packet()[:size])

    @pytest.mark.parametrize("version", [0, 1, 3])
    def test_another_version(self, version: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has version {version}, not 2"):
            parse_rtp(packet(first=version << 6))

    def test_truncated_contributing_sources(self) -> None:
        with pytest.raises(BadMessage, match="RTP packet has truncated CSRC"):
            parse_rtp(packet(b"abc", first=0x81))

    def test_a_truncated_extension_header(self) -> None:
        with pytest.raises(BadMessage, match="RTP packet has truncated extension header"):
            parse_rtp(packet(b"abc", first=0x90))

    def test_a_truncated_extension(self) -> None:
        with pytest.raises(BadMessage, match=r"RTP packet has truncated extension$"):
            parse_rtp(packet(struct.pack("!HH", 0, 2) + bytes(7), first=0x90))

    @pytest.mark.parametrize(("padding", "size"), [(0, 3), (4, 3), (255, 3)])
    def test_padding_that_cannot_be(self, padding: int, size: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has {padding} octets of padding in {size} of payload"):
            parse_rtp(packet(b"ab" + bytes([padding]), first=0xA0))

    def test_padding_without_payload(self) -> None:
        with pytest.raises(BadMessage, match="octets of padding in 0 of payload"):
            parse_rtp(packet(b"", first=0xA0))

    @settings(deadline=None)
    @given(st.binary(max_size=64))
    def test_random_octets_only_ever_raise_bad_message(self, data: bytes) -> None:
        with suppress(BadMessage):
            assert len(parse_rtp(data).payload) <= len(data) - HEADER.size


class TestTelephoneEvents:
    """RFC 4733 §2.3, §3.2."""

    @pytest.mark.parametrize(("code", "key"), tuple(enumerate("0123456789*#ABCD")))
    def test_each_code_is_its_key_both_ways(self, code: int, key: str) -> None:
        payload = bytes([code, 0x8A, 0x03, 0x20])
        assert TelephoneEvent(key, end=True, duration=800) == parse_event(payload)
        assert payload == event_payload(key, end=True, duration=800)

    def test_the_end_bit_is_the_highest_of_the_second_octet(self) -> None:
        assert not parse_event(bytes([5, 0x7F, 0, 160])).end
        assert not event_payload("5", end=False, duration=160)[1] & 0x80

    def test_a_truncated_event(self) -> None:
        with pytest.raises(BadMessage, match="telephone-event has 3 octets, not 4"):
            parse_event(b"\x05\x80\x03")

    def test_an_event_that_is_no_key(self) -> None:
        with pytest.raises(BadMessage, match="telephone-event 16 is no DTMF key"):
            parse_event(bytes([16, 0x80, 0, 160]))

    def test_a_long_duration_stays_at_its_greatest(self) -> None:
        assert b"\xff\xff" == event_payload("1", end=True, duration=70_000)[2:]

    def test_what_is_no_key_cannot_be_made(self) -> None:
        with pytest.raises(ValueError, match="substring not found"):
            event_payload("x", end=False, duration=160)


def udp() -> socket:
    made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK)
    made.bind(("127.0.0.1", 0))
    return made


class Pair:
    """A stream, its far end and a stranger, ticked by hand. The kernel delivers loopback datagrams before sendto returns."""

    def __init__(self) -> None:
        self.near, self.far, self.stranger = udp(), udp(), udp()
        self.stream = MediaStream(self.near, MediaTerms("PCMA", AUDIO, EVENTS, self.far.getsockname()), None)
        self.heard: list[bytes] = []
        self.keys: list[str] = []
        self.stream.tap = lambda heard, _: self.heard.append(heard)
        self.stream.on_key = self.keys.append

    def put(self, data: bytes, *, by: socket | None = None) -> None:
        (by or self.far).sendto(data, self.near.getsockname())
        self.stream.receive()

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.stream.tick()

    def sent(self, to: socket | None = None) -> list[RtpPacket]:
        packets = []
        while True:
            try:
                packets.append(parse_rtp((to or self.far).recv(2048)))
            except BlockingIOError:
                return packets


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    for each in (made.near, made.far, made.stranger):
        each.close()


class TestSending:
    """RFC 3550 §5.1, RFC 3551 §4.1."""

    def test_a_packet_leaves_each_tick_though_nothing_plays(self, pair: Pair) -> None:
        pair.tick(3)
        assert [b"\xd5" * 160] * 3 == [p.payload for p in pair.sent()]

    def test_sequence_and_timestamp_run_on_and_only_the_first_is_marked(self, pair: Pair) -> None:
        pair.stream._sequence, pair.stream._timestamp = 0xFFFE, 0xFFFFFFFF - 159
        pair.tick(3)
        packets = pair.sent()
        assert [0xFFFF, 0, 1] == [p.sequence for p in packets]
        assert [0xFFFFFF60, 0, 160] == [p.timestamp for p in packets]
        assert [True, False, False] == [p.marker for p in packets]
        assert 1 == len({p.ssrc for p in packets})

    async def test_a_prompt_is_sent_frame_by_frame_and_counted(self, pair: Pair) -> None:
        done = pair.stream.play((b"a" * 160, b"b" * 160))
        pair.tick(3)
        assert [b"a", b"b", b"\xd5"] == [p.payload[:1] for p in pair.sent()]
        assert 2 == await done

    async def test_a_new_prompt_replaces_the_running_one(self, pair: Pair) -> None:
        first = pair.stream.play((b"a" * 160,) * 10)
        pair.tick(2)
        second = pair.stream.play((b"b" * 160,))
        pair.tick(1)
        assert (2, 1) == (await first, await second)

    async def test_an_empty_prompt_is_over_at_once(self, pair: Pair) -> None:
        assert 0 == await asyncio.wait_for(pair.stream.play(()), 1)

    async def test_a_held_call_hears_silence_and_its_prompt_waits(self, pair: Pair) -> None:
        done = pair.stream.play((b"a" * 160,))
        pair.stream.renegotiate(replace(pair.stream.terms, direction="sendonly"))
        pair.tick(2)
        assert [b"\xd5", b"\xd5"] == [p.payload[:1] for p in pair.sent()]
        pair.stream.renegotiate(replace(pair.stream.terms, direction="sendrecv"))
        pair.tick()
        assert [b"a"] == [p.payload[:1] for p in pair.sent()]
        assert 1 == await done

    def test_nothing_is_sent_to_the_unspecified_address(self, pair: Pair) -> None:
        pair.stream.renegotiate(replace(pair.stream.terms, remote=("0.0.0.0", pair.far.getsockname()[1])))
        pair.tick()
        assert (0, []) == (pair.stream.counters.sent, pair.sent())

    @pytest.mark.parametrize("remote", [("255.255.255.255", 4000), ("2001:db8::1", 4000)])
    def test_a_far_end_that_cannot_be_sent_to_is_counted(self, pair: Pair, remote: tuple[str, int]) -> None:
        pair.stream.renegotiate(replace(pair.stream.terms, remote=remote))
        pair.tick(2)
        assert (0, 2) == (pair.stream.counters.sent, pair.stream.counters.unsent)

    def test_octets_are_cut_into_frames_and_the_last_is_filled(self) -> None:
        assert (b"a" * 160, b"a" * 40 + b"\xd5" * 120) == frames_of(b"a" * 200, b"\xd5")


class TestSendingKeys:
    """RFC 4733 §2.5.1."""

    def test_one_key_is_one_event_of_100_ms_whose_end_is_sent_three_times(self, pair: Pair) -> None:
        pair.stream.send_keys("7")
        pair.tick(7)
        packets = pair.sent()
        events = [parse_event(p.payload) for p in packets]
        assert [160, 320, 480, 640, 800, 800, 800] == [e.duration for e in events]
        assert [False] * 4 + [True] * 3 == [e.end for e in events]
        assert [True] + [False] * 6 == [p.marker for p in packets]
        assert 1 == len({p.timestamp for p in packets})
        assert {EVENTS} == {p.payload_type for p in packets}

    def test_two_keys_are_two_events_with_a_pause_between(self, pair: Pair) -> None:
        pair.stream.send_keys("55")
        pair.tick(20)
        packets = pair.sent()
        assert 2 == len({p.timestamp for p in packets if p.payload_type == EVENTS})
        assert [AUDIO] * 3 == [p.payload_type for p in packets[7:10]]

    def test_audio_goes_on_at_the_time_that_passed(self, pair: Pair) -> None:
        pair.tick()
        pair.stream.send_keys("1")
        pair.tick(11)
        audio = [p for p in pair.sent() if p.payload_type == AUDIO]
        assert 11 * 160 == (audio[-1].timestamp - audio[0].timestamp) % 2**32

    def test_what_is_no_key_is_refused_when_asked_not_on_the_clock(self, pair: Pair) -> None:
        with pytest.raises(ValueError, match="'1x' are not all DTMF keys"):
            pair.stream.send_keys("1x")
        pair.tick(20)
        assert {AUDIO} == {p.payload_type for p in pair.sent()}

    def test_a_far_end_without_events_is_told_of(self, pair: Pair) -> None:
        pair.stream.renegotiate(replace(pair.stream.terms, event_type=None))
        with pytest.raises(BadMessage, match="the far end takes no telephone-events"):
            pair.stream.send_keys("1")


class TestHearing:
    """RFC 4733 §2.5.2; the latch."""

    def test_audio_of_the_far_end_is_heard(self, pair: Pair) -> None:
        pair.put(packet(b"a" * 160))
        pair.tick(4)
        assert b"a" * 160 == pair.heard[-1]

    def test_a_key_is_told_once_though_its_end_comes_three_times(self, pair: Pair) -> None:
        for end in (False, True, True, True):
            pair.put(packet(event_payload("5", end=end, duration=800), second=EVENTS, timestamp=160))
        assert ["5"] == pair.keys

    def test_the_same_key_again_is_another_event(self, pair: Pair) -> None:
        for timestamp in (160, 320):
            pair.put(packet(event_payload("5", end=True, duration=160), second=EVENTS, timestamp=timestamp))
        assert ["5", "5"] == pair.keys

    @pytest.mark.parametrize(
        "data", [b"", b"x", packet(first=0), packet(b"", first=0x8F), packet(bytes([99, 0x80, 0, 0]), second=EVENTS)]
    )
    def test_what_is_malformed_is_counted_and_not_heard(self, pair: Pair, data: bytes) -> None:
        pair.put(data)
        assert (1, 0) == (pair.stream.counters.malformed, pair.stream.counters.received)

    def test_another_payload_type_is_not_heard(self, pair: Pair) -> None:
        pair.put(packet(b"a" * 160, second=13))
        pair.tick(4)
        assert {b"\xd5" * 160} == set(pair.heard)

    def test_once_the_far_end_spoke_no_stranger_is_heard(self, pair: Pair) -> None:
        pair.put(packet(b"a" * 160))
        pair.put(packet(b"b" * 160, timestamp=160), by=pair.stranger)
        pair.tick(6)
        assert 1 == pair.stream.counters.foreign
        assert not any(b"b" in frame for frame in pair.heard)

    def test_behind_nat_the_first_source_is_heard_and_sent_to_and_no_second(self, pair: Pair) -> None:
        second = udp()
        pair.put(packet(b"a" * 160), by=pair.stranger)
        pair.put(packet(b"b" * 160, timestamp=160), by=second)
        second.close()
        pair.tick()
        assert (1, 1) == (pair.stream.counters.received, pair.stream.counters.foreign)
        assert (1, 0) == (len(pair.sent(pair.stranger)), len(pair.sent()))

    def test_a_stranger_that_was_first_loses_the_call_to_the_signalled_far_end(self, pair: Pair) -> None:
        pair.put(packet(b"b" * 160), by=pair.stranger)
        pair.put(packet(b"a" * 160))
        pair.put(packet(b"b" * 160, timestamp=160), by=pair.stranger)
        pair.tick()
        assert 1 == pair.stream.counters.foreign
        assert (0, 1) == (len(pair.sent(pair.stranger)), len(pair.sent()))

    def test_a_far_end_that_was_moved_by_re_invite_is_heard_and_sent_to(self, pair: Pair) -> None:
        pair.put(packet(), by=pair.stranger)
        new = udp()
        pair.stream.renegotiate(replace(pair.stream.terms, remote=new.getsockname()))
        pair.put(packet(b"a" * 160, timestamp=160), by=new)
        pair.tick()
        moved = len(pair.sent(new))
        new.close()
        assert (2, 0, 1) == (pair.stream.counters.received, pair.stream.counters.foreign, moved)

    def test_a_flood_costs_sixteen_packets_a_tick(self, pair: Pair) -> None:
        for n in range(20):
            pair.far.sendto(packet(timestamp=160 * n), pair.near.getsockname())
        pair.stream.receive()
        assert 16 == pair.stream.counters.received


class TestEngine:
    """Ports and the shared clock: no call may cost another one its tick."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[MediaEngine]:
        made = MediaEngine("127.0.0.1", range(21001, 21006), tmp_path)
        yield made
        made._epoll.close()

    def test_ports_are_even_and_come_back_when_released(self, engine: MediaEngine) -> None:
        taken = [engine.reserve() for _ in range(2)]
        assert [21002, 21004] == sorted(s.getsockname()[1] for s in taken)
        for each in taken:
            engine.release(each)
        again = [engine.reserve() for _ in range(2)]
        assert [21002, 21004] == sorted(s.getsockname()[1] for s in again)
        for each in again:
            engine.release(each)

    async def test_a_call_that_cannot_be_sent_to_does_not_mute_the_next(self, engine: MediaEngine) -> None:
        far = udp()
        streams = [
            engine.open(engine.reserve(), MediaTerms("PCMA", AUDIO, None, remote), name)
            for name, remote in (("bad", ("255.255.255.255", 4000)), ("good", far.getsockname()))
        ]
        engine._tick()
        heard = far.recv(2048)
        far.close()
        for stream in streams:
            await engine.close(stream)
        assert AUDIO == parse_rtp(heard).payload_type

    async def test_early_media_do_not_delay_the_call(self, engine: MediaEngine) -> None:
        far, sock = udp(), engine.reserve()
        for n in range(50):
            far.sendto(packet(timestamp=160 * n), sock.getsockname())
        stream = engine.open(sock, MediaTerms("PCMA", AUDIO, None, far.getsockname()), "call")
        heard: list[bytes] = []
        stream.tap = lambda frame, _: heard.append(frame)
        far.sendto(packet(b"a" * 160, timestamp=160 * 50), sock.getsockname())
        for _ in range(5):
            engine._tick()
        far.close()
        await engine.close(stream)
        assert b"a" * 160 in heard

    async def test_a_disk_that_fails_costs_the_recording_and_not_the_clock(self, engine: MediaEngine) -> None:
        far = udp()
        stream = engine.open(engine.reserve(), MediaTerms("PCMA", AUDIO, None, far.getsockname()), "call")
        assert stream.recorder is not None
        stream.recorder._file.close()
        stream.recorder._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115, ASYNC230 - the recorder closes it
        told: list[str] = []
        stream.on_failure = told.append
        for _ in range(60):
            engine._tick()
        far.close()
        assert await engine.close(stream) is None
        assert ["the recording failed: No space left on device"] == told
        assert (60, 0) == (stream.counters.sent, len(engine))
