"""Media of all calls on one clock: each tick drains what came in, then sends one frame per call (DESIGN §7).

Prompts are tuples of ready-made 160-octet frames, shared between calls; a call keeps only a cursor into them.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits

import structlog

from gateway.telephony.clock import MediaClock
from gateway.telephony.errors import BadMessage, TransportFailed
from gateway.telephony.g711 import SAMPLE_RATE, SILENCE
from gateway.telephony.message import HostPort
from gateway.telephony.playout import FRAME, Playout
from gateway.telephony.recorder import Recorder, Recording
from gateway.telephony.rtp import DTMF_KEYS, HEADER, TelephoneEvent, event_payload, parse_event, parse_rtp
from gateway.telephony.sdp import UNSPECIFIED, MediaTerms

log = structlog.get_logger(__name__)
Frames = Sequence[bytes]
Tap = Callable[[bytes, bytes], None]
"""Is given each 20 ms frame of the caller and of what was sent to him, G.711 octets, as they go into the recording."""

DTMF_FRAMES = 5
DTMF_GAP_FRAMES = 3
_RECEIVE_OCTETS = 2048
_PER_TICK = 16
_MOST_WAITING = 1000


@dataclass(slots=True)
class Playing:
    """A prompt on its way: *cursor* frames of *frames* are sent. *done* is set with their number when it stops."""

    frames: Frames
    done: asyncio.Future[int]
    cursor: int = 0


@dataclass(slots=True)
class Counters:
    sent: int = 0
    unsent: int = 0
    received: int = 0
    malformed: int = 0
    foreign: int = 0


class MediaStream:
    """One call's RTP: sends without pause (silence when nothing plays), plays received audio out, records both."""

    def __init__(self, sock: socket.socket, terms: MediaTerms, recorder: Recorder | None) -> None:
        self.terms = terms
        self.recorder = recorder
        self.counters = Counters()
        self.tap: Tap | None = None
        self.on_key: Callable[[str], None] | None = None
        self.on_audio: Callable[[bytes], None] | None = None
        self.on_failure: Callable[[str], None] | None = None
        self.socket = sock
        self._silence = SILENCE[terms.law] * FRAME
        self._playout = Playout(SILENCE[terms.law])
        self._playing: Playing | None = None
        self._keys: deque[tuple[str, int]] = deque()
        self._sequence, self._timestamp, self._ssrc = randbits(16), randbits(32), randbits(32)
        self._marker = True
        self._source: HostPort | None = None
        self._latched = False
        self._last_event = -1
        self.frames_in = 0

    @property
    def position_ms(self) -> int:
        """Milliseconds since the media began: the time line of the recording."""
        return self.frames_in * 20

    @property
    def behind_ms(self) -> int:
        """How much later the caller is heard here than he spoke: what waits in the play-out buffer."""
        return len(self._playout) * 1000 // SAMPLE_RATE

    def renegotiate(self, terms: MediaTerms) -> None:
        """Go on under *terms*; where they move the far end, its address is to be learnt anew."""
        if terms.remote != self.terms.remote:
            self._source, self._latched = None, False
        self.terms = terms

    def play(self, frames: Frames) -> asyncio.Future[int]:
        """Play *frames*, instead of what plays now. The future gives the number of frames sent."""
        self.stop_playing()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if frames:
            self._playing = Playing(frames, done)
        else:
            done.set_result(0)
        return done

    def stop_playing(self) -> None:
        playing, self._playing = self._playing, None
        if playing is not None and not playing.done.done():
            playing.done.set_result(playing.cursor)

    def send_keys(self, keys: str) -> None:
        """Send *keys* as RFC 4733 events, 100 ms each; they replace audio while they last. Raises ValueError for no key."""
        if self.terms.event_type is None:
            raise BadMessage("the far end takes no telephone-events")
        if not set(keys) <= set(DTMF_KEYS):
            raise ValueError(f"{keys!r} are not all DTMF keys ({DTMF_KEYS})")
        for key in keys:
            self._keys += [(key, step) for step in range(1, DTMF_FRAMES + 3)]
            self._keys += [("", 0)] * DTMF_GAP_FRAMES

    def receive(self) -> None:
        """Read what has come; at most 16 packets a tick, so that a flood costs no more than that."""
        for _ in range(_PER_TICK):
            try:
                data, source = self.socket.recvfrom(_RECEIVE_OCTETS)
            except OSError:
                return
            if not self._from_peer((source[0], source[1])):
                self.counters.foreign += 1
                continue
            try:
                packet = parse_rtp(data)
                if packet.payload_type == self.terms.payload_type:
                    self.counters.received += 1
                    self._playout.put(packet.timestamp, packet.payload)
                    if self.on_audio is not None:
                        self.on_audio(packet.payload)
                elif packet.payload_type == self.terms.event_type:
                    self._take_event(packet.timestamp, parse_event(packet.payload))
            except BadMessage:
                self.counters.malformed += 1

    def tick(self) -> None:
        """One frame each way."""
        incoming = self._playout.take()
        outgoing = self._send_key() if self._keys else self._send_audio()
        self.frames_in += 1
        if self.recorder is not None:
            self._record(self.recorder, incoming, outgoing)
        if self.tap is not None:
            self.tap(incoming, outgoing)

    def _record(self, recorder: Recorder, incoming: bytes, outgoing: bytes) -> None:
        """A call that cannot be recorded must not go on (rule R8); the other calls must."""
        try:
            recorder.write(incoming, outgoing)
        except OSError as error:
            self.recorder = None
            recorder.abandon()
            if self.on_failure is not None:
                self.on_failure(f"the recording failed: {error.strerror}")

    def _send_audio(self) -> bytes:
        """Send the next frame of what plays, else silence. A frame that did not leave was not played: it is tried again."""
        playing = self._playing if not self.terms.on_hold else None
        payload = playing.frames[playing.cursor] if playing is not None else self._silence
        sent = self._send(self.terms.payload_type, payload, self._timestamp, self._marker)
        self._marker = False
        self._timestamp = (self._timestamp + FRAME) & 0xFFFFFFFF
        if not sent:
            return self._silence
        if playing is not None:
            playing.cursor += 1
            if playing.cursor == len(playing.frames):
                self.stop_playing()
        return payload

    def _send_key(self) -> bytes:
        key, step = self._keys.popleft()
        if key and self.terms.event_type is not None:
            start = (self._timestamp - (step - 1) * FRAME) & 0xFFFFFFFF
            duration, end = min(step, DTMF_FRAMES) * FRAME, step >= DTMF_FRAMES
            self._send(self.terms.event_type, event_payload(key, end, duration), start, step == 1)
        else:
            self._send(self.terms.payload_type, self._silence, self._timestamp, False)
        self._timestamp = (self._timestamp + FRAME) & 0xFFFFFFFF
        return self._silence

    def _send(self, payload_type: int, payload: bytes, timestamp: int, marker: bool) -> bool:
        """Whether the packet left."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        second = payload_type | (0x80 if marker else 0)
        packet = HEADER.pack(0x80, second, self._sequence, timestamp, self._ssrc) + payload
        target = self._source or self.terms.remote
        if target[0] in UNSPECIFIED:
            return False
        try:
            self.socket.sendto(packet, target)
        except OSError:
            self.counters.unsent += 1
            return False
        self.counters.sent += 1
        return True

    def _from_peer(self, source: HostPort) -> bool:
        """Only the signalled address is heard; behind NAT the first other source, once, while the signalled one is silent."""
        if source == self.terms.remote:
            self._source, self._latched = None, True
            return True
        if self._latched:
            return source == self._source
        self._source, self._latched = source, True
        return True

    def _take_event(self, timestamp: int, event: TelephoneEvent) -> None:
        if event.end and timestamp != self._last_event:
            self._last_event = timestamp
            if self.on_key is not None:
                self.on_key(event.key)


class MediaEngine:
    """The ports, the sockets and the clock of all media."""

    def __init__(self, address: str, ports: range, recordings: Path) -> None:
        self._address = address
        self._recordings = recordings
        self._free = deque(range(ports.start + ports.start % 2, ports.stop, 2))
        self._streams: dict[int, MediaStream] = {}
        self._epoll = select.epoll()
        self._clock = MediaClock(self._tick)

    def __len__(self) -> int:
        return len(self._streams)

    def start(self) -> None:
        self._clock.start()

    def stop(self) -> None:
        self._clock.stop()
        self._epoll.close()

    def reserve(self) -> socket.socket:
        """A bound socket on a free even port. Raises TransportFailed when all are in use."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        for _ in range(len(self._free)):
            port = self._free.popleft()
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.bind((self._address, port))
            except OSError:
                sock.close()
                self._free.append(port)
                continue
            return sock
        raise TransportFailed("no RTP port is free: widen media.ports or lower the number of calls")

    def release(self, sock: socket.socket) -> None:
        """Give a reserved socket back."""
        port = int(sock.getsockname()[1])
        sock.close()
        self._free.append(port)

    def open(self, sock: socket.socket, terms: MediaTerms, call_id: str) -> MediaStream:
        """Start the stream of a call, with its recording. Raises OSError when the recording cannot be written.

        What came before (early media) is not heard: it would delay all that follows.
        """
        _drain(sock)
        recorder = Recorder(self._recordings, call_id, terms.law)
        stream = MediaStream(sock, terms, recorder)
        self._streams[sock.fileno()] = stream
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return stream

    async def close(self, stream: MediaStream) -> Recording | None:
        """End the stream and finish its recording."""
        stream.stop_playing()
        del self._streams[stream.socket.fileno()]
        self._epoll.unregister(stream.socket.fileno())
        self.release(stream.socket)
        recorder, stream.recorder = stream.recorder, None
        return await asyncio.to_thread(recorder.finish) if recorder is not None else None

    def _tick(self) -> None:
        for fd, _ in self._epoll.poll(0):
            self._guarded(self._streams[fd], MediaStream.receive)
        for stream in tuple(self._streams.values()):
            self._guarded(stream, MediaStream.tick)

    @staticmethod
    def _guarded(stream: MediaStream, step: Callable[[MediaStream], None]) -> None:
        """What goes wrong with one call ends that call; the tick belongs to all of them."""
        try:
            step(stream)
        except Exception as error:
            log.exception("media.call_failed")
            stream.tap = None
            if stream.on_failure is not None:
                stream.on_failure(f"its media failed: {error!r}")


def _drain(sock: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(_MOST_WAITING):
            sock.recv(_RECEIVE_OCTETS)


def frames_of(octets: bytes, silence: bytes) -> tuple[bytes, ...]:
    """*octets* of G.711 cut into 20 ms frames, the last one filled with *silence*."""
    return tuple(_cut(octets, silence))


def _cut(octets: bytes, silence: bytes) -> Iterator[bytes]:
    for start in range(0, len(octets), FRAME):
        frame = octets[start : start + FRAME]
        yield frame + silence * (FRAME - len(frame))
