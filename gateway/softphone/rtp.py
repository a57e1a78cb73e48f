"""The audio of a call: pyVoIP's ``RTPClient`` with 16-bit audio and a true clock."""

from __future__ import annotations

import secrets
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from pyVoIP import RTP

from gateway.softphone.echo import Echo
from gateway.softphone.g711 import DECODERS, ENCODERS, FRAME_SAMPLES, SAMPLE_RATE, Samples
from gateway.softphone.script import DTMF_DIGITS
from gateway.softphone.sdp import Media
from gateway.softphone.stream import ReceiveStream

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE
DTMF_FRAMES = 8
"""A digit lasts 160 ms."""
DTMF_PAUSE_FRAMES = 5
"""Silence after a digit, 100 ms."""
HOLD_ADDRESS = "0.0.0.0"
IDLE_SECONDS = 0.2
"""Without packets for this long, the far end suppresses silence."""
_SILENCE: Samples = np.zeros(FRAME_SAMPLES, dtype=np.int16)


class RtpError(RuntimeError):
    """The audio of a call cannot be set up or used."""


@dataclass
class Playback:
    """Something being sent; ``done`` is set when its last packet has gone."""

    frames: deque[Samples] = field(default_factory=deque)
    digit: int | None = None
    sent: int = 0
    start: int = 0
    done: threading.Event = field(default_factory=threading.Event)


class RtpSession(RTP.RTPClient):
    """One RTP stream each way, a frame of 20 ms in every packet.

    What of pyVoIP 1.6.8's ``RTPClient`` is replaced, and why:

    - ``trans`` (RTP.py:387): slept 20 ms *after* the work, so it drifted; lost a
      packet at each sequence wrap; could not send events. Here every packet has
      its moment on one absolute monotonic schedule.
    - ``encode_packet``/``parse_pcmu``/``parse_pcma`` (RTP.py:461-492): 8-bit audio,
      and mu-law bytes under the A-law number.
    - ``recv``/``parse_packet``: polled, ignored the extension and padding bits.
    - ``start``: bound the port only after the offer had named it.
    - ``parse_telephone_event``: only saw an event whose marker packet came.

    Args:
        address: the local IPv4 address.
        on_audio: gets received samples in order, and the monotonic time.
        on_idle: gets the seconds of silence while no packet comes, and the time.
        on_digit: gets a received digit and its duration in seconds.

    """

    def __init__(
        self,
        address: str,
        on_audio: Callable[[Samples, float], None],
        on_idle: Callable[[float, float], None],
        on_digit: Callable[[str, float], None],
    ) -> None:
        assoc = {8: RTP.PayloadType.PCMA, 0: RTP.PayloadType.PCMU, 101: RTP.PayloadType.EVENT}
        super().__init__(assoc, address, 0, "", 0, RTP.TransmitType.SENDRECV)
        self.NSD = False
        self.outSequence = secrets.randbelow(1 << 16)
        self.outTimestamp = secrets.randbelow(1 << 32)
        self.outSSRC = secrets.randbelow(1 << 32)
        self._on_audio, self._on_idle, self._on_digit = on_audio, on_idle, on_digit
        self._echo: Echo | None = None
        self._media: Media | None = None
        self._queue: deque[Playback] = deque()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stream = ReceiveStream()
        self._last_event: int | None = None
        self.packets_sent = 0
        self.bad_packets = 0

    def bind(self) -> int:
        """Take a random free even port (RFC 3550 section 11) and return it.

        Raises:
            RtpError: no port could be had.

        """
        held: list[socket.socket] = []
        try:
            for _ in range(64):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind((self.inIP, 0))
                port: int = sock.getsockname()[1]
                if port % 2 == 0:
                    sock.setblocking(False)
                    self.sin = self.sout = sock
                    self.inPort = port
                    return port
                # Held until an even one is found, or the system may offer it again.
                held.append(sock)
        except OSError as error:
            raise RtpError(f"no RTP port on {self.inIP}: {error}") from error
        finally:
            for sock in held:
                sock.close()
        raise RtpError(f"no even RTP port on {self.inIP}")

    def configure(self, media: Media) -> None:
        """Send to and encode as the descriptions agreed; may change during a call."""
        self._media = media
        self.outIP, self.outPort = media.address, media.port
        assoc = {media.payload: RTP.PayloadType[media.codec]}
        if media.event_payload is not None:
            assoc[media.event_payload] = RTP.PayloadType.EVENT
        self.assoc = assoc
        self.preference = assoc[media.payload]

    def start(self) -> None:
        """Start the two threads; ``bind`` and ``configure`` come first."""
        if self._media is None or not self.inPort:
            raise RtpError("start before bind and configure")
        self.NSD = True
        for target, name in ((self.recv, "RTP receiver"), (self.trans, "RTP sender")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End both threads and close the socket; deliver what still waited."""
        was_running, self.NSD = self.NSD, False
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self.inPort:
            self.sin.close()
        if was_running:
            self._on_audio(self._stream.flush(), time.monotonic())
            self._release_all()

    def _release_all(self) -> None:
        with self._lock:
            waiting, self._queue = list(self._queue), deque()
        for playback in waiting:
            playback.done.set()

    def play(self, samples: Samples) -> Playback:
        """Queue samples behind what is already playing; the last frame is padded."""
        padded = np.concatenate([samples, np.zeros(-len(samples) % FRAME_SAMPLES, dtype=np.int16)])
        return self._enqueue(Playback(deque(padded.reshape(-1, FRAME_SAMPLES))))

    def send_digit(self, digit: str) -> Playback:
        """Queue one RFC 4733 event.

        Raises:
            RtpError: the far end did not agree to telephone-event.

        """
        if self._media is None or self._media.event_payload is None:
            raise RtpError("the far end did not negotiate telephone-event")
        return self._enqueue(Playback(digit=DTMF_DIGITS.index(digit)))

    def _enqueue(self, playback: Playback) -> Playback:
        with self._lock:
            self._queue.append(playback)
        return playback

    def echo(self, delay: float) -> None:
        """From here on, send back what is heard *delay* seconds later, under all that is said."""
        self._echo = Echo(delay)

    def write(self, data: bytes) -> None:
        """Play, the way pyVoIP names it; here 16-bit native samples, not 8-bit."""
        self.play(np.frombuffer(data, dtype=np.int16))

    def read(self, length: int = 160, blocking: bool = True) -> bytes:
        """Not offered: received audio goes to ``on_audio``."""
        raise NotImplementedError("received audio goes to on_audio")

    def trans(self) -> None:
        """Send a packet every 20 ms of one absolute schedule until ``stop``."""
        start, tick = time.monotonic(), 0
        while self.NSD:
            delay = start + tick * FRAME_SECONDS - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            self._send_tick(tick)
            tick += 1

    def _send_tick(self, tick: int) -> None:
        media = self._media
        if media is None:
            raise RtpError("not configured")
        # The timestamp follows the clock, whatever the packet holds, so audio
        # after an event goes on where it would have been (RFC 4733 section 2.1).
        now = (self.outTimestamp + tick * FRAME_SAMPLES) & 0xFFFFFFFF
        with self._lock:
            current = self._queue[0] if self._queue else None
        marker, stamp, number = tick == 0, now, media.payload
        if current is not None and current.digit is not None and current.sent < DTMF_FRAMES + 2:
            marker = current.sent == 0
            if marker:
                current.start = now
            stamp, number = current.start, media.event_payload or 0
            duration = min(current.sent + 1, DTMF_FRAMES) * FRAME_SAMPLES
            end = 0x80 if current.sent >= DTMF_FRAMES - 1 else 0
            payload = struct.pack("!BBH", current.digit, end | 10, duration)
        elif current is not None and current.frames:
            payload = self._encoded(current.frames.popleft())
        else:
            payload = self._encoded(_SILENCE)
        if media.direction in ("sendrecv", "recvonly") and media.address != HOLD_ADDRESS:
            # Otherwise the far end has put us on hold (RFC 3264 section 8.4).
            self._send_packet(marker, number, stamp, payload)
        if current is not None:
            current.sent += 1
            still = current.sent < DTMF_FRAMES + 2 + DTMF_PAUSE_FRAMES
            if not (still if current.digit is not None else current.frames):
                with self._lock:
                    if self._queue and self._queue[0] is current:
                        self._queue.popleft()
                current.done.set()

    def _send_packet(self, marker: bool, number: int, stamp: int, payload: bytes) -> None:
        head = struct.pack("!BBHII", 0x80, marker << 7 | number, self.outSequence, stamp, self.outSSRC)
        self.outSequence = (self.outSequence + 1) & 0xFFFF
        try:
            self.sout.sendto(head + payload, (self.outIP, self.outPort))
        except OSError:
            # The far end's port may already be shut while its BYE is under way.
            self.bad_packets += 1
        else:
            self.packets_sent += 1

    def _encoded(self, frame: Samples) -> bytes:
        return self.encode_packet((frame if self._echo is None else self._echo.mixed(frame)).tobytes())

    def encode_packet(self, payload: bytes) -> bytes:
        """16-bit native samples as the negotiated G.711."""
        return ENCODERS[self.preference.name](np.frombuffer(payload, dtype=np.int16))

    def recv(self) -> None:
        """Receive until ``stop``; silence suppression is reported as idle time."""
        heard = reported = time.monotonic()
        while self.NSD:
            ready, _, _ = select.select([self.sin], [], [], 0.05)
            now = time.monotonic()
            if not ready:
                if now - heard >= IDLE_SECONDS:
                    self._on_idle(now - reported, now)
                    reported = now
                continue
            try:
                self.parse_packet(self.sin.recv(8192))
            except (RTP.RTPParseError, OSError):
                # Foreign datagrams and ICMP errors; the number is in the statistics.
                self.bad_packets += 1
            heard = reported = now

    def parse_packet(self, packet: bytes) -> None:
        """Take one packet (RFC 3550 section 5.1).

        Raises:
            RTPParseError: not RTP version 2, or truncated.

        """
        if len(packet) < 12 or packet[0] >> 6 != 2:
            raise RTP.RTPParseError("not RTP version 2")
        first, second, sequence, timestamp, source = struct.unpack("!BBHII", packet[:12])
        start, end = 12 + 4 * (first & 0xF), len(packet)
        if first & 0x10:
            if end < start + 4:
                raise RTP.RTPParseError("truncated header extension")
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
        if first & 0x20:
            end -= packet[-1]
        if start > end:
            raise RTP.RTPParseError("truncated packet")
        kind = self.assoc.get(second & 0x7F)
        payload, audio = packet[start:end], None
        if kind is RTP.PayloadType.EVENT:
            self._event(timestamp, payload)
        elif kind is not None:
            audio = DECODERS[kind.name](payload)
        samples = self._stream.push(source, sequence, timestamp, audio)
        if len(samples):
            if self._echo is not None:
                self._echo.put(samples)
            self._on_audio(samples, time.monotonic())

    def _event(self, timestamp: int, payload: bytes) -> None:
        """Report an event once, at the first of its end packets that comes."""
        if len(payload) < 4:
            raise RTP.RTPParseError("truncated telephone-event")
        event, flags, duration = struct.unpack("!BBH", payload[:4])
        if flags & 0x80 and timestamp != self._last_event:
            self._last_event = timestamp
            if event < len(DTMF_DIGITS):
                self._on_digit(DTMF_DIGITS[event], duration / SAMPLE_RATE)

    def statistics(self) -> dict[str, int]:
        """Packet counts for the last event of the call."""
        counts = self._stream.counts
        return {
            "sent": self.packets_sent,
            "received": counts.received,
            "lost": counts.lost,
            "late": counts.late,
            "restarts": counts.restarts,
            "bad": self.bad_packets,
        }
