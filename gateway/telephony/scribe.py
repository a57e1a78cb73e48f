"""The recording process: writes every call of a gateway as WAV, so that no disk and no codec ever holds up the media clock.

``python -m gateway.telephony.scribe`` on a stream socket as stdin. Caller left, gateway right, 16 bit, at the codec's own rate;
the header is kept true as the file grows, so that a crash leaves a playable part.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.audio.codec import CLOCK_RATE, SAMPLE_RATE, Codec, Decoder, decoder
from gateway.audio.g711 import Samples
from gateway.telephony.recording_wire import Kind, Message, Reader, pack, unpack_audio

CHANNELS, WIDTH = 2, 2
SPEECH_LSB = 500
"""A block of 20 ms whose loudest sample is above this counts as sound."""

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_RECEIVE_OCTETS = 1 << 18


@dataclass(slots=True)
class Wav:
    """A recording that grows, in a part file."""

    part: Path
    codec: Codec
    frames: int = 0
    """Samples of each side so far."""
    sound_ms: list[int] = field(default_factory=lambda: [0, 0])
    _decoders: tuple[Decoder, Decoder] = field(init=False)
    _fd: int = field(init=False)

    def __post_init__(self) -> None:
        self._decoders = decoder(self.codec), decoder(self.codec)
        self._fd = os.open(
            self.part, os.O_RDWR | os.O_CLOEXEC
        )  # the gateway made it: a finished one is not begun again
        size = os.fstat(self._fd).st_size
        if size > _HEADER.size:  # a recording process before us wrote this much
            self.frames = (size - _HEADER.size) // (CHANNELS * WIDTH)
            written = np.fromfile(self.part, "<i2", self.frames * CHANNELS, offset=_HEADER.size).reshape(-1, CHANNELS)
            self._listen(written[:, 0], written[:, 1])
        self._write_header()

    def put(self, offset: int, left: bytes, right: bytes) -> None:
        """One stretch of both sides, equally long, *offset* octets of the codec after the beginning; it may have been put
        before. Raises OSError.
        """
        heard, sent = self._decoders[0].decode(left), self._decoders[1].decode(right)
        pair = np.empty((heard.size, CHANNELS), "<i2")
        pair[:, 0], pair[:, 1] = heard, sent
        octets = pair.tobytes()
        start = offset * (SAMPLE_RATE[self.codec] // CLOCK_RATE)
        at = _HEADER.size + start * CHANNELS * WIDTH
        while octets:
            written = os.pwrite(self._fd, octets, at)
            octets, at = octets[written:], at + written
        if start >= self.frames:
            self._listen(heard, sent)
        self.frames = max(self.frames, start + heard.size)
        self._write_header()

    def finish(self) -> str:
        """Close the file; returns its hash, by which the gateway names it. Raises OSError."""
        try:
            with os.fdopen(os.dup(self._fd), "rb") as file:
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            os.close(self._fd)
        return sha256

    def abandon(self) -> None:
        """Close what could not be written on; the part file stays for whoever wants to see how far it came."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _listen(self, heard: Samples, sent: Samples) -> None:
        """Count the sound in a stretch of both sides."""
        block = SAMPLE_RATE[self.codec] // 50
        for side, samples in enumerate((heard, sent)):
            blocks = np.abs(samples[: samples.size // block * block].astype(np.int32)).reshape(-1, block).max(axis=1)
            self.sound_ms[side] += 20 * int((blocks > SPEECH_LSB).sum())

    def _write_header(self) -> None:
        os.pwrite(self._fd, header(self.frames, SAMPLE_RATE[self.codec]), 0)


def header(frames: int, rate: int) -> bytes:
    """The 44 octets before *frames* samples of each side at *rate*."""
    size = frames * CHANNELS * WIDTH
    return _HEADER.pack(
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, CHANNELS, rate, rate * CHANNELS * WIDTH,
        CHANNELS * WIDTH, 8 * WIDTH, b"data", size,
    )  # fmt: skip


class Scribe:
    """Takes the messages of one gateway and answers each."""

    def __init__(self) -> None:
        self._open: dict[int, Wav] = {}

    def take(self, message: Message) -> bytes:
        """The answer to *message*: DONE, WRITTEN so far, or FAILED in words."""
        number = message.number
        try:
            match message.kind:
                case Kind.OPEN:
                    codec, _, path = message.body.decode().partition(" ")
                    self._open[number] = Wav(Path(path), codec)  # type: ignore[arg-type]
                case Kind.AUDIO if number in self._open:
                    self._open[number].put(*unpack_audio(message.body))
                case Kind.FINISH if number in self._open:
                    wav = self._open.pop(number)
                    sha256 = wav.finish()
                    heard, sent = wav.sound_ms
                    return pack(Kind.DONE, number, f"{sha256} {wav.frames} {heard} {sent}".encode())
                case Kind.DISCARD if number in self._open:
                    wav = self._open.pop(number)
                    wav.abandon()
                    wav.part.unlink()
        except Exception as error:  # noqa: BLE001 - what is wrong with one recording is none of the others' business
            broken = self._open.pop(number, None)
            if broken is not None:
                broken.abandon()
            return pack(Kind.FAILED, number, ((isinstance(error, OSError) and error.strerror) or repr(error)).encode())
        return pack(Kind.WRITTEN, number, b"")


def main() -> None:
    """Serve until the gateway closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle: it finishes its recordings first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    scribe, reader = Scribe(), Reader()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as peer:
        while data := peer.recv(_RECEIVE_OCTETS):
            answers = b"".join(scribe.take(message) for message in reader.feed(data))
            if answers:
                with contextlib.suppress(
                    BrokenPipeError, ConnectionResetError
                ):  # the gateway is gone: what it sent is written
                    peer.sendall(answers)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
