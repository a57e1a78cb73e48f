"""The test softphone: codecs, streams, SIP details, and two of them calling each other."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.softphone import g711
from gateway.softphone.audio import AudioFileError, load_wav, save_wav
from gateway.softphone.cli import main
from gateway.softphone.digest import authorization
from gateway.softphone.echo import Echo
from gateway.softphone.message import Message, NameAddress, split_list
from gateway.softphone.rtp import RtpSession
from gateway.softphone.script import ScriptError, parse_script
from gateway.softphone.sdp import LocalSession, Media, SdpError, choose_media
from gateway.softphone.stream import ReceiveStream
from gateway.softphone.turns import TurnDetector
from gateway.softphone.wire import ack_text, response_bytes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 15.0
"""Seconds any single wait of these tests may take."""


def speech(seconds: float, seed: int = 0) -> g711.Samples:
    """Loud noise that is different for each seed and never repeats itself."""
    generator = np.random.default_rng(seed)
    return generator.normal(0, 4000, int(seconds * 8000)).clip(-32768, 32767).astype(np.int16)


class Phone:
    """A softphone in its own process; its events are read as they come."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "gateway.softphone", *arguments, "--json"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []

    def until(self, name: str) -> dict[str, Any]:
        """The next event of that name; fails when the process ends or stalls before."""
        assert self.process.stdout is not None
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
            assert ready, f"no {name} within {LIMIT} s, had {self.events}"
            line = self.process.stdout.readline()
            assert line, f"ended without {name}, had {self.events}"
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]

    def finish(self) -> int:
        """Read the rest; the exit code."""
        assert self.process.stdout is not None
        rest, _ = self.process.communicate(timeout=LIMIT)
        self.events += [json.loads(line) for line in rest.splitlines()]
        return self.process.returncode

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def phone() -> Iterator[Callable[..., Phone]]:
    started: list[Phone] = []

    def start(*arguments: str) -> Phone:
        started.append(Phone(*arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()


class Peer:
    """A raw UDP socket that speaks SIP by hand."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(LIMIT)
        self.port: int = self.socket.getsockname()[1]

    def receive(self, start: str) -> Message:
        """The next message whose first line begins so; retransmissions are skipped."""
        while True:
            data, source = self.socket.recvfrom(65535)
            if data.startswith(start.encode()):
                return Message(data, (source[0], source[1]))

    def send(self, text: str, to: tuple[str, int], body: str = "") -> None:
        head = text.strip().replace("\n", "\r\n")
        length = f"\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendto((head + length + body).encode(), to)

    def answer(self, request: Message, status: str, extra: str = "", body: str = "") -> None:
        """Answer with the To tag ``far``."""
        to = request.get("to")
        to += "" if "tag=" in to else ";tag=far"
        head = f"SIP/2.0 {status}\nVia: {request.get('via')}\nFrom: {request.get('from')}\n"
        head += f"To: {to}\nCall-ID: {request.call_id}\nCSeq: {request.get('cseq')}\n"
        head += f"Contact: <sip:target@127.0.0.1:{self.port};x=1>\n{extra}"
        self.send(head, request.source, body)


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer()
    yield one
    one.socket.close()


def port_of(event: dict[str, Any]) -> int:
    return int(event["sip"].rpartition(":")[2])


def sdp(port: int, formats: str, *maps: str) -> str:
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"]
    lines += [f"m=audio {port} RTP/AVP {formats}", *(f"a=rtpmap:{one}" for one in maps)]
    return "\r\n".join(lines) + "\r\n"


# G.711


def test_g711_decoding_agrees_with_the_reference_tables() -> None:
    every = bytes(range(256))
    assert g711.alaw_decode(every).tobytes() == audioop.alaw2lin(every, 2)
    assert g711.ulaw_decode(every).tobytes() == audioop.ulaw2lin(every, 2)


def test_g711_encoding() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    assert g711.alaw_encode(every) == audioop.lin2alaw(every.tobytes(), 2)
    codes = bytes(range(256))
    assert g711.alaw_encode(g711.alaw_decode(codes)) == codes
    # mu-law has two codes for zero, 0x7F and 0xFF.
    assert g711.ulaw_encode(g711.ulaw_decode(codes)) == codes.replace(b"\x7f", b"\xff")
    positive = every[every >= 0]
    assert g711.ulaw_encode(positive) == audioop.lin2ulaw(positive.tobytes(), 2)
    for encode in (g711.alaw_encode, g711.ulaw_encode):
        mirrored = np.frombuffer(encode(~positive), np.uint8) ^ 0x80
        assert (mirrored == np.frombuffer(encode(positive), np.uint8)).all()


# Files, script, turns


def test_wav_8k_is_exact_and_others_are_resampled(tmp_path: Path) -> None:
    audio = speech(0.5)
    save_wav(tmp_path / "a.wav", audio)
    assert (load_wav(tmp_path / "a.wav") == audio).all()
    import wave

    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24000)
        tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
        file.writeframes(np.repeat(tone.astype("<i2"), 2).tobytes())
    loaded = load_wav(tmp_path / "b.wav")
    expected = 8000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert len(loaded) == 8000
    assert np.abs(loaded[400:-400] - expected[400:-400]).max() < 50
    with pytest.raises(AudioFileError):
        load_wav(tmp_path / "missing.wav")


def test_script_grammar() -> None:
    items = parse_script("+dtmf:1#;wait:2.5;dtmf:a;silent;hangup:4.0;hangup")
    assert [item.kind for item in items] == ["dtmf", "wait", "dtmf", "silent", "hangup", "hangup"]
    assert [item.immediate for item in items] == [True, False, True, False, False, False]
    assert (items[1].seconds, items[2].argument, items[4].seconds) == (2.5, "A", 4.0)
    assert items[5].seconds is None
    for bad in ("say:", "dtmf:x", "wait:soon", "wait:-1", "sing", "wait:nan", "into:", "into:now", "echo", "echo:-1"):
        with pytest.raises(ScriptError):
            parse_script(bad)


def test_what_follows_into_is_said_into_the_prompt() -> None:
    items = parse_script("silent;into:0.5;dtmf:1;+echo:200")
    assert [(item.kind, item.immediate) for item in items] == [
        ("silent", False), ("into", False), ("dtmf", True), ("echo", True),
    ]  # fmt: skip
    assert (items[1].seconds, items[3].seconds) == (0.5, 0.2)


def test_an_echo_is_late_and_adds_to_what_is_said() -> None:
    echo = Echo(0.02)
    heard, said = speech(0.04), speech(0.02, 1)
    echo.put(heard)
    sent = [echo.mixed(np.zeros(160, np.int16)), echo.mixed(said), echo.mixed(said), echo.mixed(said)]
    assert (sent[0] == 0).all()
    for frame, part in ((sent[1], heard[:160]), (sent[2], heard[160:])):
        assert (frame == (said.astype(int) + part).clip(-32768, 32767)).all()
    assert (sent[3] == said).all()


def _turns(*parts: tuple[bool, float]) -> list[float]:
    """Moments (s) at which turns end, for a row of (loud, seconds)."""
    detector, found, at = TurnDetector(1.0), [], 0.0
    for loud, seconds in parts:
        for _ in range(round(seconds / 0.02)):
            frame = speech(0.02) if loud else np.full(160, 8, dtype=np.int16)
            at += 0.02
            if detector.feed(frame, at) is not None:
                found.append(round(at, 2))
    return found


def test_turns() -> None:
    assert _turns((True, 0.5), (False, 0.7), (True, 0.5), (False, 1.5)) == [2.7]
    assert _turns((True, 0.28), (False, 3.0)) == []
    assert _turns((True, 0.16), (False, 0.9), (True, 0.14), (False, 1.0)) == [2.2]
    assert _turns((True, 0.4), (False, 2.0), (True, 0.4), (False, 2.0)) == [1.4, 3.8]


def test_onset_is_the_beginning_of_speech_and_no_click() -> None:
    detector = TurnDetector(1.0)
    detector.feed(speech(0.02), 1.0)
    detector.feed(np.zeros(160, np.int16), 1.02)
    assert detector.onset is None
    for step in range(5):
        detector.feed(speech(0.02), 2.0 + step * 0.02)
    assert detector.onset == pytest.approx(2.0)


# The received stream


def _push(stream: ReceiveStream, *numbers: int, first: int = 0) -> list[int]:
    """Push packets of two samples whose value is their number; what came out."""
    out: list[int] = []
    for number in numbers:
        audio = np.full(2, number, np.int16)
        stamp = (first + 2 * number) & 0xFFFFFFFF
        out += stream.push(1, (65530 + number) & 0xFFFF, stamp, audio).tolist()
    return out


def test_stream_reorders_across_wrap_around() -> None:
    stream = ReceiveStream()
    got = _push(stream, 0, 2, 1, 3, 7, 4, 6, 5, 8, 8, first=2**32 - 6)
    assert got == [value for number in range(9) for value in (number, number)]
    assert (stream.counts.lost, stream.counts.late) == (0, 1)


def test_stream_fills_loss_with_silence() -> None:
    stream = ReceiveStream()
    got = _push(stream, 1, 2, 4, 5, 6, 7, 8, 9)
    assert got[:8] == [1, 1, 2, 2, 0, 0, 4, 4]
    assert stream.counts.lost == 1
    assert _push(stream, 3) == []
    assert stream.counts.late == 1


def test_stream_keeps_time_through_events_and_survives_a_restart() -> None:
    stream = ReceiveStream()
    assert stream.push(1, 10, 1000, np.full(2, 5, np.int16)).tolist() == [5, 5]
    assert stream.push(1, 11, 1002, None).tolist() == []
    assert stream.push(1, 12, 1006, np.full(2, 6, np.int16)).tolist() == [0, 0, 0, 0, 6, 6]
    assert stream.push(2, 40000, 77, np.full(2, 7, np.int16)).tolist() == [7, 7]
    assert stream.counts.restarts == 1


# SIP pieces


def test_message_parsing_is_liberal() -> None:
    raw = (
        b"MESSAGE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP one;branch=z9hG4bK1, SIP/2.0/UDP two:5\r\n"
        b'f: "A, <B>" <sip:x@y;p=1>;tag=t1\r\nTO: <sip:a@b>\r\ni: id\r\nCSeq: 7   MESSAGE\r\n'
        b"Subject: folded\r\n  line\r\nl: 5\r\n\r\nhello and more"
    )
    message = Message(raw)
    assert (message.method, message.cseq, message.call_id) == ("MESSAGE", 7, "id")
    assert [via.split()[1] for via in message.get_all("Via")] == ["one;branch=z9hG4bK1", "two:5"]
    assert NameAddress.parse(message.get("From")).uri == "sip:x@y;p=1"
    assert NameAddress.parse(message.get("From")).tag == "t1"
    assert message.get("subject") == "folded line"
    assert message.content == b"hello"
    assert split_list('"a,b" <sip:c,d>, e') == ['"a,b" <sip:c,d>', "e"]


def test_response_copies_every_via_and_adds_rport() -> None:
    head = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5070;{}branch=z9hG4bKa;x=y\r\n"
    head += "Via: SIP/2.0/UDP far;branch=z9hG4bKb;received=1.2.3.4\r\nFrom: <sip:x@y>;tag=t\r\n"
    head += "To: <sip:a@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n"
    request = Message(head.format("rport;").encode(), ("127.0.0.1", 4444))
    data, address = response_bytes(request, 200, "tag", [], b"")
    response = Message(data)
    assert address == ("127.0.0.1", 4444)
    assert response.get_all("via") == [
        "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;x=y;received=127.0.0.1;rport=4444",
        "SIP/2.0/UDP far;branch=z9hG4bKb;received=1.2.3.4",
    ]
    assert NameAddress.parse(response.get("to")).tag == "tag"
    plain = Message(head.format("").encode(), ("127.0.0.1", 4444))
    data, address = response_bytes(plain, 200, "tag", [], b"")
    assert address == ("127.0.0.1", 5070)
    assert Message(data).get_all("via")[0].endswith(";x=y;received=127.0.0.1")


def test_ack_of_2xx_and_of_failure() -> None:
    base = "Via: SIP/2.0/UDP 127.0.0.1:1;branch=z9hG4bKinv\r\nFrom: <sip:me@x>;tag=mine\r\n"
    invite = Message(
        f"INVITE sip:you@h SIP/2.0\r\n{base}To: <sip:you@h>\r\nCall-ID: c\r\nCSeq: 9 INVITE\r\n\r\n".encode()
    )
    tail = f"{base}To: <sip:you@h>;tag=theirs\r\nCall-ID: c\r\nCSeq: 9 INVITE\r\n"
    tail += "Contact: <sip:real@1.2.3.4:99;p>\r\nRecord-Route: <sip:p1;lr>, <sip:p2;lr>\r\n\r\n"
    new = "SIP/2.0/UDP 127.0.0.1:1;branch=z9hG4bKnew"
    ack = Message(ack_text(invite, Message(f"SIP/2.0 200 OK\r\n{tail}".encode()), new).encode())
    assert (ack.method, ack.request_uri, ack.get("cseq")) == ("ACK", "sip:real@1.2.3.4:99;p", "9 ACK")
    assert (NameAddress.parse(ack.get("to")).tag, ack.branch) == ("theirs", "z9hG4bKnew")
    assert ack.get_all("route") == ["<sip:p2;lr>", "<sip:p1;lr>"]
    busy = Message(f"SIP/2.0 486 Busy Here\r\n{tail}".encode())
    ack = Message(ack_text(invite, busy, new).encode())
    assert (ack.request_uri, ack.branch) == ("sip:you@h", "z9hG4bKinv")
    assert NameAddress.parse(ack.get("to")).tag == "theirs"


def test_digest_vectors() -> None:
    # RFC 2617 section 3.5 gives HA1 and HA2; without qop the answer is fixed.
    challenge = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    value = authorization(challenge, "GET", "/dir/index.html", "Mufasa", "Circle Of Life")
    assert 'response="670fd8c2df070c60b045671b8b24ff02"' in value


def test_sdp_offer_and_choice() -> None:
    session = LocalSession.create("127.0.0.1", 4000)
    offer = session.offer(("PCMA", "PCMU"))
    assert b"m=audio 4000 RTP/AVP 8 0 101\r\n" in offer
    assert b"a=rtpmap:101 telephone-event/8000" in offer
    media = choose_media(offer, ("PCMA", "PCMU"))
    assert media == Media("127.0.0.1", 4000, "PCMA", 8, 101, "sendrecv")
    mixed = sdp(5000, "18 97 0 96", "97 PCMA/8000", "96 telephone-event/8000").encode()
    chosen = choose_media(mixed, ("PCMA", "PCMU"))
    assert (chosen.codec, chosen.payload, chosen.event_payload) == ("PCMA", 97, 96)
    assert b"m=audio 4000 RTP/AVP 97 96\r\n" in session.answer(chosen)
    for bad in (sdp(5000, "18"), sdp(0, "8"), "v=0\r\n"):
        with pytest.raises(SdpError):
            choose_media(bad.encode(), ("PCMA", "PCMU"))


# RTP on the wire


def test_dtmf_packets_and_the_sending_clock() -> None:
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    far.settimeout(LIMIT)
    session = RtpSession("127.0.0.1", lambda *_: None, lambda *_: None, lambda *_: None)
    assert session.bind() % 2 == 0
    session.configure(Media("127.0.0.1", far.getsockname()[1], "PCMU", 0, 96))
    session.outSequence, session.outTimestamp = 65530, 2**32 - 1000
    session.start()
    packets: list[tuple[int, ...]] = []
    try:
        audio = speech(0.1)
        done = session.play(audio).done
        digit = session.send_digit("#").done
        while not digit.is_set():
            data = far.recv(2000)
            packets.append((*struct.unpack("!BBHI", data[:8]), data[12:]))  # type: ignore[arg-type]
    finally:
        session.stop()
        far.close()
    assert done.is_set()
    first = packets[0]
    assert first[1] == 0x80 | 0
    for index, packet in enumerate(packets):
        assert packet[0] == 0x80
        assert packet[2] == (65530 + index) & 0xFFFF
        if packet[1] & 0x7F == 0:
            assert packet[3] == (2**32 - 1000 + 160 * index) & 0xFFFFFFFF
    events = [(index, p) for index, p in enumerate(packets) if p[1] & 0x7F == 96]
    start = events[0][0]
    assert [index for index, _ in events] == list(range(start, start + 10))
    assert {p[3] for _, p in events} == {(2**32 - 1000 + 160 * start) & 0xFFFFFFFF}
    assert [p[1] >> 7 for _, p in events] == [1] + [0] * 9
    bodies = [struct.unpack("!BBH", p[4]) for _, p in events]  # type: ignore[arg-type]
    assert [body[0] for body in bodies] == [11] * 10
    assert [body[1] >> 7 for body in bodies] == [0] * 7 + [1] * 3
    assert [body[2] for body in bodies] == [160 * n for n in (1, 2, 3, 4, 5, 6, 7, 8, 8, 8)]
    sent = b"".join(p[4] for p in packets[start - 5 : start])  # type: ignore[misc]
    assert sent == g711.ulaw_encode(audio)


# Two softphones


@pytest.mark.parametrize("codec", ["pcma", "pcmu"])
def test_conversation_is_heard_sample_for_sample(phone: Callable[..., Phone], tmp_path: Path, codec: str) -> None:
    audio = {name: speech(0.5, seed) for seed, name in enumerate(("ask", "reply", "thanks"))}
    for name, samples in audio.items():
        save_wav(tmp_path / f"{name}.wav", samples)
    quick = ("--turn-silence", "300")
    script = f"+say:{tmp_path}/ask.wav;say:{tmp_path}/thanks.wav;+wait:0.4;hangup"
    far = phone("answer", *quick, "--ring-seconds", "0.2", "--script", script, "--record", f"{tmp_path}/a.wav")
    target = f"sip:100@127.0.0.1:{port_of(far.until('listening'))}"
    near = phone(
        "call", target, *quick, "--user", "+821012345678", "--codecs", codec,
        "--script", f"say:{tmp_path}/reply.wav;+dtmf:5*", "--record", f"{tmp_path}/c.wav",
    )  # fmt: skip
    assert (near.finish(), far.finish()) == (0, 0)
    through = {
        name: g711.DECODERS[codec.upper()](g711.ENCODERS[codec.upper()](samples)) for name, samples in audio.items()
    }
    for record, names in (("c", ("ask", "thanks")), ("a", ("reply",))):
        heard = load_wav(tmp_path / f"{record}.wav").astype(np.float64)
        for name in names:
            match = np.correlate(heard, through[name].astype(np.float64), "valid")
            at = int(np.argmax(match))
            assert (heard[at : at + len(through[name])] == through[name]).all(), name
    assert [e["event"] for e in near.events if e["event"] != "media"][:4] == [
        "listening", "ringing", "answered", "turn",
    ]  # fmt: skip
    assert near.named("ended")[0]["by"] == "remote"
    assert far.named("ended")[0]["by"] == "local"
    assert far.named("ringing")[0]["caller"].startswith("sip:+821012345678@")
    digits = [event["digit"] for event in far.named("dtmf") if event["direction"] == "received"]
    assert digits == ["5", "*"]
    assert near.named("ended")[0]["rtp"]["lost"] == 0
    assert near.named("ended")[0]["script_left"] == 0


def test_hang_up_in_the_middle_of_a_prompt(phone: Callable[..., Phone], tmp_path: Path) -> None:
    save_wav(tmp_path / "long.wav", speech(10.0))
    far = phone("answer", "--script", f"+say:{tmp_path}/long.wav")
    target = f"sip:127.0.0.1:{port_of(far.until('listening'))}"
    near = phone("call", target, "--script", "hangup:0.5")
    assert (near.finish(), far.finish()) == (0, 0)
    ended = near.named("ended")[0]
    assert 0.45 < ended["heard"] < 1.0
    assert far.named("ended")[0]["script_left"] == 1


def test_speak_into_a_prompt_over_its_echo(phone: Callable[..., Phone], tmp_path: Path) -> None:
    prompt, remark = speech(1.5), speech(0.3, 1)
    save_wav(tmp_path / "prompt.wav", prompt)
    save_wav(tmp_path / "remark.wav", remark)
    far = phone("answer", "--script", f"+say:{tmp_path}/prompt.wav", "--record", f"{tmp_path}/a.wav")
    target = f"sip:127.0.0.1:{port_of(far.until('listening'))}"
    near = phone("call", target, "--script", f"+echo:200;into:0.5;say:{tmp_path}/remark.wav;hangup")
    assert (near.finish(), far.finish()) == (0, 0)
    heard = load_wav(tmp_path / "a.wav").astype(np.float64)
    echo, said = (int(np.argmax(np.correlate(heard, one.astype(np.float64), "valid"))) for one in (prompt, remark))
    assert np.abs(heard[echo : echo + 2400] - prompt[:2400]).max() < 1000, "the echo alone, as loud as it was"
    assert 0.2 < (said - echo) / 8000 < 0.8, "half a second after the prompt began, its echo 200 ms after"
    assert near.named("said")[0]["turn"] == 0


def test_rejected(phone: Callable[..., Phone]) -> None:
    far = phone("answer", "--reject", "486")
    near = phone("call", f"sip:x@127.0.0.1:{port_of(far.until('listening'))}")
    assert (near.finish(), far.finish()) == (1, 0)
    failed = near.named("failed")[0]
    assert (failed["code"], failed["reason"]) == (486, "Busy Here")
    assert far.named("rejected")[0]["code"] == 486


def test_cancelled(phone: Callable[..., Phone]) -> None:
    far = phone("answer", "--ring-seconds", "10")
    port = port_of(far.until("listening"))
    near = phone("call", f"sip:x@127.0.0.1:{port}", "--cancel-after", "0.2")
    assert (near.finish(), far.finish()) == (1, 1)
    assert near.named("failed")[0]["code"] == far.named("failed")[0]["code"] == 487


def test_message_and_no_thread_left(phone: Callable[..., Phone], capsys: pytest.CaptureFixture[str]) -> None:
    far = phone("answer", "--calls", "0", "--messages", "1")
    target = f"sip:x@127.0.0.1:{port_of(far.until('listening'))}"
    before = set(threading.enumerate())
    text = "요금제 가입 안내: 가입되었습니다."
    assert main(["message", target, "--user", "gw", "--text", text, "--json"]) == 0
    assert set(threading.enumerate()) == before
    assert far.finish() == 0
    message = far.named("message")[0]
    assert message["text"] == text
    assert message["from"].startswith("sip:gw@127.0.0.1")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "message-sent"


def test_call_leaves_no_thread_and_usage_errors_are_2(
    phone: Callable[..., Phone], capsys: pytest.CaptureFixture[str]
) -> None:
    far = phone("answer", "--script", "+wait:0.2;hangup")
    target = f"sip:x@127.0.0.1:{port_of(far.until('listening'))}"
    before = set(threading.enumerate())
    assert main(["call", target, "--json"]) == 0
    assert set(threading.enumerate()) == before
    assert far.finish() == 0
    assert main(["call", target, "--script", "sing"]) == 2
    assert main(["call", "tel:1"]) == 2
    assert main(["call", target, "--say", "/nowhere.wav"]) == 2
    assert main([]) == 2
    assert "not a readable PCM WAV" in capsys.readouterr().err


def test_limit_without_a_call(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    target = f"sip:silent@127.0.0.1:{peer.port}"
    assert main(["call", target, "--max-seconds", "0.2"]) == 1
    assert main(["message", target, "--text", "x", "--max-seconds", "0.2"]) == 1
    assert time.monotonic() - begin < 5
    assert main(["answer", "--max-seconds", "0.2", "--json"]) == 1
    assert "max-seconds" in capsys.readouterr().out


# One softphone against SIP by hand


def test_caller_logs_in_acknowledges_repeats_and_says_goodbye(phone: Callable[..., Phone], peer: Peer) -> None:
    near = phone(
        "call", f"sip:you@127.0.0.1:{peer.port}", "--user", "me", "--password", "secret",
        "--script", "+wait:0.6;hangup",
    )  # fmt: skip
    invite = peer.receive("INVITE")
    challenge = 'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth", opaque="o"\n'
    peer.answer(invite, "407 Proxy Authentication Required", challenge)
    ack = peer.receive("ACK")
    assert ack.branch == invite.branch
    assert NameAddress.parse(ack.get("to")).tag == "far"
    again = peer.receive("INVITE")
    assert (again.cseq, again.call_id) == (invite.cseq + 1, invite.call_id)
    assert again.branch != invite.branch
    assert 'username="me"' in again.get("proxy-authorization")
    assert 'opaque="o"' in again.get("proxy-authorization")
    body = sdp(40000, "8 101", "101 telephone-event/8000")
    content = "Content-Type: application/sdp\n"
    for _ in range(2):
        peer.answer(again, "200 OK", content, body)
        ack = peer.receive("ACK")
        assert ack.request_uri == f"sip:target@127.0.0.1:{peer.port};x=1"
        assert ack.get("cseq") == f"{again.cseq} ACK"
        assert NameAddress.parse(ack.get("to")).tag == "far"
    bye = peer.receive("BYE")
    assert bye.request_uri == ack.request_uri
    assert bye.cseq == again.cseq + 1
    assert bye.get("from") == again.get("from")
    assert bye.get("to") == ack.get("to")
    repeated = peer.receive("BYE")
    assert repeated.raw == bye.raw
    peer.answer(bye, "200 OK")
    assert near.finish() == 0


def _invite(port: int, body: str) -> str:
    return (
        "INVITE sip:softphone@127.0.0.1 SIP/2.0\n"
        "Via: SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bKtop\n"
        "Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKinner;custom\n"
        "From: <sip:gw@127.0.0.1>;tag=gwtag\nTo: <sip:softphone@127.0.0.1>\n"
        f"Call-ID: by-hand\nCSeq: 5 INVITE\nContact: <sip:gw@127.0.0.1:{port}>\n"
        f"Content-Type: application/sdp"
    )


def test_callee_answers_with_the_offered_numbers(phone: Callable[..., Phone], peer: Peer) -> None:
    far = phone("answer")
    to = ("127.0.0.1", port_of(far.until("listening")))
    body = sdp(40000, "0 96", "96 telephone-event/8000")
    invite = _invite(peer.port, body)
    peer.send(invite, to, body)
    ringing = peer.receive("SIP/2.0 180")
    ok = peer.receive("SIP/2.0 200")
    assert re.search(rb"m=audio \d+ RTP/AVP 0 96\r\n", ok.content)
    assert ok.get_all("via")[1] == "SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKinner;custom"
    assert f"rport={peer.port}" in ok.get_all("via")[0]
    tag = NameAddress.parse(ok.get("to")).tag
    assert tag == NameAddress.parse(ringing.get("to")).tag != ""
    assert peer.receive("SIP/2.0 200").raw == ok.raw  # repeated until the ACK
    common = "\n".join(invite.split("\n")[1:4])
    tail = f"To: <sip:softphone@127.0.0.1>;tag={tag}\nCall-ID: by-hand\n"
    peer.send(f"ACK {ok.contact} SIP/2.0\n{common}\n{tail}CSeq: 5 ACK", to)
    stray = f"{common}\n{tail.replace(tag, 'wrong')}".replace("z9hG4bKtop", "z9hG4bKstray")
    peer.send(f"BYE {ok.contact} SIP/2.0\n{stray}CSeq: 9 BYE", to)
    peer.receive("SIP/2.0 481")
    hold = invite.replace("z9hG4bKtop", "z9hG4bKhold").replace("CSeq: 5", "CSeq: 6")
    hold = hold.replace("<sip:softphone@127.0.0.1>\n", f"<sip:softphone@127.0.0.1>;tag={tag}\n")
    peer.send(hold, to, body + "a=sendonly\r\n")
    held = peer.receive("SIP/2.0 200")
    assert (held.cseq, b"a=recvonly" in held.content) == (6, True)
    again = common.replace("z9hG4bKtop", "z9hG4bKack")
    peer.send(f"ACK {ok.contact} SIP/2.0\n{again}\n{tail}CSeq: 6 ACK", to)
    goodbye = f"{common}\n{tail}".replace("z9hG4bKtop", "z9hG4bKbye")
    peer.send(f"BYE {ok.contact} SIP/2.0\n{goodbye}CSeq: 7 BYE", to)
    answer = peer.receive("SIP/2.0 200")
    assert answer.get("cseq") == "7 BYE"
    assert far.finish() == 0
    assert far.named("answered")[0]["codec"] == "PCMU"


def test_nonsense_does_not_end_the_phone(phone: Callable[..., Phone], peer: Peer) -> None:
    far = phone("answer")
    to = ("127.0.0.1", port_of(far.until("listening")))
    for junk in (b"\r\n\r\n", b"\x00\x00\x00\x00", b"hello", b"INVITE sip:x SIP/2.0\r\n\r\n", b"\xff"):
        peer.socket.sendto(junk, to)
    body = sdp(40000, "18")
    peer.send(_invite(peer.port, body), to, body)
    refusal = peer.receive("SIP/2.0 488")
    ack = "\n".join(_invite(peer.port, body).split("\n")[1:4])
    peer.send(f"ACK sip:x SIP/2.0\n{ack}\nTo: {refusal.get('to')}\nCall-ID: by-hand\nCSeq: 5 ACK", to)
    far.process.terminate()
    assert far.finish() == 1
    assert len(far.named("warning")) == 4


def test_register(phone: Callable[..., Phone], peer: Peer) -> None:
    near = phone(
        "message", "sip:you@example.invalid", "--text", "hi", "--user", "me", "--password", "pw",
        "--server", f"127.0.0.1:{peer.port}", "--register",
    )  # fmt: skip
    first = peer.receive("REGISTER")
    peer.answer(first, "401 Unauthorized", 'WWW-Authenticate: Digest realm="r", nonce="n"\n')
    second = peer.receive("REGISTER")
    assert (second.call_id, second.cseq) == (first.call_id, first.cseq + 1)
    value = second.get("authorization")
    assert f'uri="sip:127.0.0.1:{peer.port}"' in value
    peer.answer(second, "200 OK")
    peer.answer(peer.receive("MESSAGE"), "202 Accepted")
    last = peer.receive("REGISTER")
    assert last.get("expires") == "0"
    peer.answer(last, "200 OK")
    assert near.finish() == 0
    assert [event["event"] for event in near.events] == [
        "listening", "registered", "message-sent", "unregistered",
    ]  # fmt: skip


class SlowSession(RtpSession):
    """A sender whose work takes half of each packet's time."""

    def encode_packet(self, payload: bytes) -> bytes:
        time.sleep(0.01)
        return super().encode_packet(payload)


def test_sending_keeps_the_clock() -> None:
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    far.settimeout(LIMIT)
    session = SlowSession("127.0.0.1", lambda *_: None, lambda *_: None, lambda *_: None)
    session.bind()
    session.configure(Media("127.0.0.1", far.getsockname()[1], "PCMA", 8, None))
    session.start()
    try:
        far.recv(2000)
        begin = time.monotonic()
        for _ in range(50):
            far.recv(2000)
        # 50 packets take one second; a sender that sleeps 20 ms after its work takes 1.5.
        assert 0.9 < time.monotonic() - begin < 1.3
    finally:
        session.stop()
        far.close()
