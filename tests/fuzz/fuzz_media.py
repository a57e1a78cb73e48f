"""Coverage-guided fuzzing of what comes with the media: RTP, RTCP, telephone events, SDP, streams of SIP, the play-out buffer.

The first octet of an input chooses the reader. A finding is anything raised but BadMessage and NoCommonCodec, an answer that
holds lines of the offer's own making, and a buffer that grows beyond its bound. Run by ``run.sh``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from random import Random

import atheris

with atheris.instrument_imports(include=["gateway.telephony", "aiosipua"]):
    from gateway.telephony.crypto import read_crypto
    from gateway.telephony.errors import BadMessage, NoCommonCodec
    from gateway.telephony.framing import Framer
    from gateway.telephony.message import MAXIMUM_OCTETS
    from gateway.telephony.playout import FARTHEST, Playout
    from gateway.telephony.reception import Reception
    from gateway.telephony.reporting import Reporting
    from gateway.telephony.rtcp import parse_rtcp
    from gateway.telephony.rtp import DTMF_KEYS, parse_event, parse_rtp
    from gateway.telephony.sdp import make_answer, read_description

OURS = ("192.0.2.1", 4000)
LARGEST_PACKET = 2048


def rtp(data: bytes) -> None:
    packet = parse_rtp(data)
    assert packet.payload in data
    assert len(packet.payload) <= len(data) - 12


def rtcp(data: bytes) -> None:
    assert len(list(parse_rtcp(data))) <= len(data) // 4


def event(data: bytes) -> None:
    assert parse_event(data).key in DTMF_KEYS


def sdp(data: bytes) -> None:
    for secure in (None, True, False):
        with suppress(BadMessage, NoCommonCodec):
            terms = read_description(data, secure=secure)
            answer = make_answer(OURS, 1, terms, crypto=terms.crypto).split(b"\r\n")
            assert len(terms.lines) == sum(line.startswith(b"m=") for line in answer)
            assert all(line[1:2] == b"=" for line in answer if line)
            assert 0 < terms.remote[1] < 65536
            assert terms.rtcp is None or 0 < terms.rtcp[1] < 65536
    read_crypto(data.decode("utf-8", "replace").splitlines())


def stream(data: bytes) -> None:
    """SIP over TCP, in pieces whose size the second octet tells."""
    framer, step = Framer(), 1 + (data[0] if data else 0)
    for at in range(1, len(data), step):
        for message in framer.feed(data[at : at + step]):
            assert len(message) <= MAXIMUM_OCTETS
        assert framer.waiting <= MAXIMUM_OCTETS + step


def playout(data: bytes) -> None:
    """Packets of eight octets of description each: sequence, timestamp, size, and how many frames are played after it."""
    buffer, reception = Playout("PCMA"), Reception(7, 1)
    for at in range(0, len(data) - 7, 8):
        sequence, timestamp = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 6], "big")
        reception.take(sequence, timestamp, at * 1_000_000)
        if data[at + 7] & 0x80:
            buffer.comfort(data[at + 6] & 0x7F)
        else:
            buffer.put(timestamp, bytes(data[at + 6] * 8))
        for _ in range(data[at + 7] & 3):
            assert len(buffer.take()) == 160
        assert len(buffer) <= FARTHEST + LARGEST_PACKET, f"{len(buffer)} octets wait to be played out"
    reception.block(0, 0)


def reports(data: bytes) -> None:
    reporting = Reporting(0.0, Random(1))
    reception = Reception(7, 1)
    for number, piece in enumerate(data.split(b"--")):
        with suppress(BadMessage):
            reporting.take(piece, float(number), 0x01010101)
        reporting.make(float(number), 0x01010101, 0, 0, 0, reception)
        assert reporting.rtt_s is None or reporting.rtt_s >= 0


READERS: tuple[Callable[[bytes], None], ...] = (rtp, rtcp, event, sdp, stream, playout, reports)


def one_input(data: bytes) -> None:
    if data:
        with suppress(BadMessage, NoCommonCodec):
            READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
