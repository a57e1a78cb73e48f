"""One call's media: sends without pause, plays received audio out, records both, and reports on both (RFC 3550)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from secrets import randbits
from socket import MSG_TRUNC

from gateway.audio.codec import CLOCK_RATE, FRAME, silence
from gateway.telephony.crypto import Crypto, Protection
from gateway.telephony.errors import BadMessage
from gateway.telephony.keys import KeysIn, KeysOut
from gateway.telephony.message import HostPort
from gateway.telephony.passage import At, Passage, Passages
from gateway.telephony.playing import Frames, Playing
from gateway.telephony.playout import Playout
from gateway.telephony.ports import PortPair
from gateway.telephony.reception import Reception
from gateway.telephony.recorder import Recorder
from gateway.telephony.report import MediaReport
from gateway.telephony.reporting import Reporting
from gateway.telephony.rtcp import is_rtcp
from gateway.telephony.rtp import HEADER, parse_event, parse_rtp
from gateway.telephony.sdp import UNSPECIFIED, MediaTerms

Tap = Callable[[bytes, bytes], None]
"""Is given each 20 ms frame of the caller and of what was sent to him, octets of the codec, as they go into the recording."""

CHECK_FRAMES = 50
_MOST_OCTETS = 2048
_USUAL_OCTETS = 476
"""Room for a packet of up to 40 ms in Python's own small-object memory, which is cheaper than the system's."""

_ANCILLARY_OCTETS = 64
_SPREAD = Random()  # noqa: S311 - spreads the reports of all calls, guards nothing
_MARKER = 0x80
_SILENCE_DB = 127
_timespec = struct.Struct("@qq").unpack
_pack, _unpack_from = HEADER.pack, HEADER.unpack_from
_TICKS_MS = 20


@dataclass(slots=True)
class Counters:
    """*foreign*: from an address that is not the far end's. *keys*: DTMF keys heard."""

    sent: int = 0
    unsent: int = 0
    malformed: int = 0
    foreign: int = 0
    keys: int = 0


class MediaStream:
    """One call's RTP. *timeout_s* without a packet ends the call, when the far end is meant to send; 0 never does."""

    __slots__ = (
        "_checked", "_heard", "_held", "_holding", "_keys_in", "_keys_out", "_latched", "_others", "_passages", "_payload_type",
        "_playing", "_playout", "_protection", "_receive", "_received_before", "_room", "_second", "_send_to", "_sequence",
        "_silence", "_source", "_ssrc", "_timeout_frames", "_timestamp", "_wall", "counters", "first_packet_frame", "frames_in",
        "last_packet_frame", "on_failure", "on_key", "on_unrecorded", "ports", "reception", "recorder", "reporting", "tap", "terms",
    )  # fmt: skip

    def __init__(
        self,
        ports: PortPair,
        terms: MediaTerms,
        recorder: Recorder | None,
        *,
        wall: Callable[[], float],
        protection: Protection | None = None,
        timeout_s: float = 0.0,
    ) -> None:
        self.terms = terms
        self._held, self._payload_type = terms.on_hold, terms.payload_type
        self._receive, self._send_to, self._room = ports.rtp.recvmsg, ports.rtp.sendto, _USUAL_OCTETS
        self.recorder = recorder
        self.ports = ports
        self.counters = Counters()
        self.tap: Tap | None = None
        self.on_key: Callable[[str], None] | None = None
        self.on_failure: Callable[[str], None] | None = None
        self.on_unrecorded: Callable[[str], None] | None = None
        """Is told why the call is not recorded any more, instead of *on_failure*: it ends the call, after a word of goodbye."""
        self.reception: Reception | None = None
        self.reporting = Reporting(wall(), _SPREAD)
        self._wall = wall
        self._protection = protection
        self._silence = silence(terms.codec)
        self._playout = Playout(terms.codec)
        self._playing: Playing | None = None
        self._keys_out, self._keys_in = KeysOut(), KeysIn()
        self._sequence, self._timestamp, self._ssrc = randbits(16), randbits(32), randbits(32)
        """The sequence number of the last packet, extended: its lower 16 bits are sent."""
        self._passages = Passages(self._sequence)
        self._holding = False
        self._source: HostPort | None = None
        self._latched = False
        self._second = terms.payload_type | _MARKER
        """The second octet of the next packet: the first of all is marked (RFC 3551 §4.1)."""
        self._timeout_frames = int(timeout_s * 1000 / _TICKS_MS)
        self._checked = 0
        self._received_before = self._others = self._heard = 0
        """Packets of earlier sources; keys and comfort noise; all packets at the last check."""
        self.frames_in = 0
        self.first_packet_frame: int | None = None
        self.last_packet_frame = 0

    @property
    def received(self) -> int:
        """Packets of audio that came and were of this call."""
        return self._received_before + (self.reception.received if self.reception is not None else 0)

    @property
    def position_ms(self) -> int:
        """Milliseconds since the media began: the time line of the recording."""
        return self.frames_in * _TICKS_MS

    @property
    def behind_ms(self) -> int:
        """How much later the caller is heard here than he spoke: what waits in the play-out buffer."""
        return len(self._playout) * 1000 // CLOCK_RATE

    @property
    def own_crypto(self) -> Crypto | None:
        """The key that protects what we send."""
        return self._protection.ours if self._protection is not None else None

    def renegotiate(self, terms: MediaTerms) -> None:
        """Go on under *terms*; where they move the far end, its address is to be learnt anew."""
        if terms.remote != self.terms.remote:
            self._source, self._latched = None, False
            self._passages.counts_anew(self._sequence)
        if self._protection is not None and terms.crypto is not None and terms.crypto != self._protection.theirs:
            self._protection.rekey(terms.crypto)
        if self.terms.silent or self.terms.on_hold:
            self.last_packet_frame = self.frames_in
        self.reporting.hears_again()
        self.terms = terms
        self._held, self._payload_type = terms.on_hold, terms.payload_type
        self._note_hold()

    def hold(self, *, holding: bool) -> None:
        """We hold the far end, or do not any more. It is still sent what plays, which counts as played on hold."""
        self._holding = holding
        self._note_hold()

    def play(self, frames: Frames) -> asyncio.Future[Passage]:
        """Play *frames*, instead of what plays now. The future gives what was sent of them, when that has stopped."""
        self.stop_playing()
        done: asyncio.Future[Passage] = asyncio.get_running_loop().create_future()
        passage = self._passages.begin(self._ssrc, len(frames))
        if frames:
            self._playing = Playing(frames, passage, done)
            self._note_hold()
        else:
            done.set_result(passage)
        return done

    def stop_playing(self) -> None:
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.stop(self.frames_in, self._last)

    def send_keys(self, keys: str) -> None:
        """Send *keys* as RFC 4733 events, 100 ms each; they replace audio while they last. Raises ValueError for no key."""
        if self.terms.event_type is None:
            raise BadMessage("the far end takes no telephone-events")
        self._keys_out.add(keys)
        if self._playing is not None:
            self._playing.pause(self._last)

    def take_key(self, key: str) -> None:
        """The far end pressed *key*, whichever way it says so."""
        self.counters.keys += 1
        if self.on_key is not None:
            self.on_key(key)

    def receive(self) -> None:
        """Read one packet: the engine asks again while there are more, a bounded number of times a tick."""
        try:
            data, ancillary, flags, source = self._receive(self._room, _ANCILLARY_OCTETS)
        except OSError:
            return
        if source != self._source and not self._may_speak(source[:2]):
            self.counters.foreign += 1
            return
        if flags & MSG_TRUNC:  # longer packets than we asked for: there is room for the next one
            self._room = _MOST_OCTETS
            self.counters.malformed += 1
            return
        arrived = _timespec(ancillary[0][2]) if ancillary else None
        try:
            if self._protection is not None and not is_rtcp(data):
                data = self._protection.unprotect(data)
            first, second, sequence, timestamp, ssrc = _unpack_from(data)
            reception = self.reception
            if (  # nearly all are like this
                first == 0x80
                and second & 0x7F == self._payload_type
                and reception is not None
                and ssrc == reception.ssrc
            ):
                seconds, nanoseconds = arrived or divmod(int(self._wall() * 1e9), 1_000_000_000)
                reception.take(sequence, timestamp, seconds * 1_000_000_000 + nanoseconds)
                self._playout.put(timestamp, data[12:])
                if source != self._source:
                    self._latch(source[:2])
            elif self.terms.mux and is_rtcp(data):
                self._take_report(data)
            else:
                seconds, nanoseconds = arrived or divmod(int(self._wall() * 1e9), 1_000_000_000)
                if self._take_other(data, seconds * 1_000_000_000 + nanoseconds) and source != self._source:
                    self._latch(source[:2])
        except (BadMessage, struct.error):
            self.counters.malformed += 1

    def receive_report(self) -> None:
        """Read one packet of RTCP."""
        try:
            data, source = self.ports.rtcp.recvfrom(_MOST_OCTETS)
        except OSError:
            return
        known = self._source or self.terms.remote
        if source[0] not in (known[0], (self.terms.rtcp or known)[0]):
            self.counters.foreign += 1
            return
        try:
            self._take_report(data)
        except BadMessage:
            self.reporting.malformed += 1

    def tick(self) -> None:
        """One frame each way."""
        incoming = self._playout.take()
        outgoing = self._send_key() if self._keys_out else self._send_audio()
        self.frames_in += 1
        if self.recorder is not None:
            self.recorder.write(incoming, outgoing)
        if self.tap is not None:
            self.tap(incoming, outgoing)
        if self.frames_in >= self._checked:
            self._checked = self.frames_in + CHECK_FRAMES
            self._check()

    def save(self) -> None:
        """Hand what has been recorded so far to the recording process: it writes that even when the gateway dies now."""
        if self.recorder is not None:
            self.recorder.flush()

    def recording_failed(self, reason: str) -> None:
        """A call that cannot be recorded must not go on (rule R8); the other calls must."""
        self.recorder = None
        (self.on_unrecorded or self._fail)(reason)

    def leave(self) -> None:
        """Say goodbye to the far end's RTCP (RFC 3550 §6.6)."""
        self._send_report(self.reporting.goodbye_packet(self._ssrc))

    def report(self, local: HostPort) -> MediaReport:
        """What is known of this media so far; we are at *local*."""
        terms, counters, reception, far = self.terms, self.counters, self.reception, self.reporting.far
        rtt = self.reporting.rtt_s
        return MediaReport(
            codec=terms.codec, direction=terms.direction, srtp=self._protection is not None,
            local=local, remote=terms.remote,
            latched=self._source if self._source is not None and self._source != terms.remote else None,
            sent_packets=counters.sent, sent_octets=counters.sent * FRAME, unsent_packets=counters.unsent,
            received_packets=self.received, received_octets=self.received * FRAME,
            lost=max(0, reception.lost) if reception else 0,
            lost_fraction=max(0, reception.lost) / max(1, reception.expected) if reception else 0.0,
            late=self._playout.late, duplicates=reception.duplicates if reception else 0,
            reordered=reception.reordered if reception else 0, malformed=counters.malformed, foreign=counters.foreign,
            concealed_ms=self._playout.concealed_octets * 1000 // CLOCK_RATE,
            jitter_ms=reception.jitter_ms if reception else 0.0,
            jitter_max_ms=reception.most_jitter_ms if reception else 0.0,
            rtt_ms=rtt * 1000 if rtt is not None else None, far_reports=self.reporting.reports,
            far_lost_fraction=far.fraction / 256 if far else None, far_lost=far.lost if far else None,
            far_jitter_ms=far.jitter * 1000 / CLOCK_RATE if far else None, keys=counters.keys,
            first_packet_ms=None if self.first_packet_frame is None else self.first_packet_frame * _TICKS_MS,
            last_packet_ms=self.last_packet_frame * _TICKS_MS if reception else None,
            longest_gap_ms=int(reception.longest_gap_ms) if reception else 0, duration_ms=self.position_ms,
        )  # fmt: skip

    def _take_audio(self, sequence: int, timestamp: int, ssrc: int, payload: bytes, arrived_ns: int) -> None:
        reception = self.reception
        if reception is None or reception.ssrc != ssrc:
            self._received_before += reception.received if reception is not None else 0
            reception = self.reception = Reception(ssrc, sequence)
            if self.first_packet_frame is None:
                self.first_packet_frame = self.frames_in
        reception.take(sequence, timestamp, arrived_ns)
        self._playout.put(timestamp, payload)

    def _take_other(self, data: bytes, arrived_ns: int) -> bool:
        """What is not the plain audio packet: the first one, extensions, padding, keys, comfort noise. Whether it is of this
        call at all. Raises BadMessage.
        """
        packet = parse_rtp(data)
        kind, terms = packet.payload_type, self.terms
        if kind == terms.payload_type:
            self._take_audio(packet.sequence, packet.timestamp, packet.ssrc, packet.payload, arrived_ns)
            return True
        if kind not in (terms.event_type, terms.comfort_type):
            return False
        self._others += 1
        if self.reception is not None and self.reception.ssrc == packet.ssrc:
            self.reception.take(packet.sequence, None, arrived_ns)
        if kind == terms.event_type:  # its timestamp stands still: no measure of jitter; and no audio comes meanwhile
            self._playout.comfort(_SILENCE_DB)
            for key in self._keys_in.take(packet.timestamp, parse_event(packet.payload), self.frames_in):
                self.take_key(key)
        elif packet.payload:
            self._playout.comfort(packet.payload[0] & 0x7F)
        return True

    def _take_report(self, data: bytes) -> None:
        if self._protection is not None:
            data = self._protection.unprotect_rtcp(data)
        self.reporting.take(data, self._wall(), self._ssrc, lambda block: self._passages.take(block, self._sequence))

    def _check(self) -> None:
        """Once a second: reports, and whether both sides still hear each other."""
        now, terms = self._wall(), self.terms
        heard = self.received + self._others
        if self._playout.comforted:  # silent on purpose: its reports are the sign of life
            heard += self.reporting.packets
        if heard != self._heard:
            self._heard, self.last_packet_frame = heard, self.frames_in
        for key in self._keys_in.overdue(self.frames_in):
            self.take_key(key)
        if self.reporting.due(now):
            counters = self.counters
            self._send_report(
                self.reporting.make(
                    now, self._ssrc, self._timestamp, counters.sent, counters.sent * FRAME, self.reception
                )
            )
        if terms.on_hold or terms.silent or not self._timeout_frames:
            self.last_packet_frame = max(self.last_packet_frame, self.frames_in - self._timeout_frames // 2)
            self.reporting.hears_again()
        elif self.frames_in - self.last_packet_frame > self._timeout_frames:
            never = "no audio ever came" if self.first_packet_frame is None else "no more audio came"
            self._fail(f"{never} from the far end for {self._timeout_frames * _TICKS_MS // 1000} s")
        elif self.reporting.deaf(now):
            self._fail("the far end reports that it hears nothing of us")

    def _fail(self, reason: str) -> None:
        self._timeout_frames = 0
        if self.on_failure is not None:
            self.on_failure(reason)

    def _send_report(self, packet: bytes) -> None:
        address = self._source or self.terms.remote
        if address[0] in UNSPECIFIED:
            return
        if self._protection is not None:
            packet = self._protection.protect_rtcp(packet)
        try:
            if self.terms.mux:
                self.ports.rtp.sendto(packet, address)
            else:
                self.ports.rtcp.sendto(packet, self.terms.rtcp or (address[0], address[1] + 1))
        except OSError:
            self.counters.unsent += 1

    def _send_audio(self) -> bytes:
        """Send the next frame of what plays, else silence. A frame that did not leave was not played: it is tried again."""
        playing, timestamp, second = self._playing, self._timestamp, self._second
        self._timestamp = (timestamp + FRAME) & 0xFFFFFFFF
        self._second = self._payload_type
        if playing is None or self._held:
            self._send(second, self._silence, timestamp)
            return self._silence
        cursor = playing.cursor
        payload = playing.frames[cursor]
        if not self._send(second, payload, timestamp):
            playing.pause((self._sequence - 1, (timestamp - FRAME) & 0xFFFFFFFF))
            return self._silence
        cursor += 1
        playing.cursor = cursor
        if cursor == playing.mark and playing.noted((self._sequence, timestamp)):
            self.stop_playing()
        return payload

    def _send_key(self) -> bytes:
        packet, timestamp = self._keys_out.next(self._timestamp), self._timestamp
        self._timestamp = (timestamp + FRAME) & 0xFFFFFFFF
        if packet is not None and self.terms.event_type is not None:
            payload, start, marked = packet
            self._send(self.terms.event_type | (_MARKER if marked else 0), payload, start)
        else:
            self._send(self._payload_type, self._silence, timestamp)
        return self._silence

    def _send(self, second: int, payload: bytes, timestamp: int) -> bool:
        """Whether the packet left; *second* is its second octet, payload type and marker."""
        sequence = self._sequence = self._sequence + 1
        packet = _pack(0x80, second, sequence & 0xFFFF, timestamp, self._ssrc) + payload
        target = self._source
        if target is None:
            target = self.terms.remote
            if target[0] in UNSPECIFIED:
                return False
        if self._protection is not None:
            packet = self._protection.protect(packet)
        try:
            self._send_to(packet, target)
        except OSError:
            self.counters.unsent += 1
            return False
        self.counters.sent += 1
        return True

    @property
    def _last(self) -> At:
        """Our last packet."""
        return self._sequence, (self._timestamp - FRAME) & 0xFFFFFFFF

    def _note_hold(self) -> None:
        self._passages.hold(self._sequence, held=self._held)
        if self._playing is not None:
            self._playing.hold(self.frames_in, self._last, held=self._held or self._holding, silent=self._held)

    def _may_speak(self, source: HostPort) -> bool:
        """Only the signalled address is heard; behind NAT the first other source, once, while the signalled one is silent."""
        return source in (self._source, self.terms.remote) or not self._latched

    def _latch(self, source: HostPort) -> None:
        """A good packet of this call came from *source*: that is where the far end is (never for what only might be one)."""
        self._source, self._latched = source, True
