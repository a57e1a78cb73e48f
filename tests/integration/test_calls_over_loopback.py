"""Whole calls over real sockets on loopback: two user agents, or one and a peer that speaks raw datagrams."""

from __future__ import annotations

import asyncio
import itertools
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, SOCK_NONBLOCK, socket
from typing import TypeVar

import numpy as np
import pytest
from aiosipua.header_codec import parse_auth
from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.audio.g711 import SILENCE, decode, encode
from gateway.telephony.admission import Admission
from gateway.telephony.agent import UserAgent
from gateway.telephony.auth import Credentials, DigestServer
from gateway.telephony.call import Call
from gateway.telephony.errors import CallFailed, CallOver, TransportFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.lines import Line, keep_registered
from gateway.telephony.media import MediaEngine
from gateway.telephony.message import HostPort, make_response, new_branch, new_tag
from gateway.telephony.recorder import Recording
from gateway.telephony.registrar import Registrar
from gateway.telephony.routing import Peer as Trunk
from gateway.telephony.rtp import HEADER
from gateway.telephony.transport import Hop
from gateway.telephony.vault import read_recording

LIMIT_S = 5.0
"""The longest that any single wait may take; each ends when what it waits for comes."""

ALICE = Credentials("100", "secret")
LAWS = ("PCMA", "PCMU")
"""Told apart octet by octet; G.722 has tests of its own."""

T = TypeVar("T")


def cut(octets: bytes) -> tuple[bytes, ...]:
    """*octets* of G.711 in frames of 20 ms."""
    return tuple(octets[start : start + 160] for start in range(0, len(octets), 160))


async def soon(wanted: Awaitable[T]) -> T:
    return await asyncio.wait_for(wanted, LIMIT_S)


async def until(true: Callable[[], object]) -> None:
    """Return when *true* is."""
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 - what is waited for lies in plain attributes
            await asyncio.sleep(0.005)


class House:
    """A user agent with its media. What comes in is answered, unless :attr:`policy` says otherwise."""

    def __init__(self, folder: Path, ports: range, **options: object) -> None:
        self.folder = folder
        self.engine = MediaEngine("127.0.0.1", ports, folder)
        self.ports = len(self.engine.ports)
        self.agent = UserAgent(self.engine, ("127.0.0.1", 0), **{"trusted": lambda _: True, "codecs": LAWS} | options)  # type: ignore[arg-type]
        self.agent.on_invite = self._on_invite
        self.agent.on_message = self._on_message
        self.policy: Callable[[Invitation], Awaitable[None]] = self.answer
        self.invitations: asyncio.Queue[Invitation] = asyncio.Queue()
        self.taken: asyncio.Queue[Call] = asyncio.Queue()
        self.messages: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._names = itertools.count(1)

    @property
    def address(self) -> HostPort:
        return "127.0.0.1", self.agent.port

    @property
    def uri(self) -> str:
        return f"sip:100@127.0.0.1:{self.agent.port}"

    def name(self) -> str:
        return f"call-{next(self._names)}"

    async def dial(self, target: str, **options: object) -> Call:
        return await self.agent.dial(target, self.name(), from_user="200", **options)  # type: ignore[arg-type]

    async def answer(self, invitation: Invitation) -> None:
        self.taken.put_nowait(await invitation.answer(self.name()))

    async def ring(self, invitation: Invitation) -> None:
        invitation.ring()
        await invitation.cancelled.wait()

    async def call_to(self, other: House) -> tuple[Call, Call]:
        """Our side and theirs of an answered call."""
        return await soon(self.dial(other.uri)), await soon(other.taken.get())

    async def _on_invite(self, invitation: Invitation) -> None:
        self.invitations.put_nowait(invitation)
        await self.policy(invitation)

    async def _on_message(self, number: str, text: str, _: str) -> None:
        self.messages.put_nowait((number, text))

    async def close(self) -> None:
        """Close every call; then no stream is left and every port is back."""
        for call in self.agent.calls:
            await call.close()
        self.agent.stop()
        self.engine.stop()
        await asyncio.sleep(0)
        assert (0, self.ports) == (len(self.engine), len(self.engine.ports))


Build = Callable[..., Awaitable[House]]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes houses; each has ports of its own below the ephemeral ones."""
    houses: list[House] = []

    async def make(**options: object) -> House:
        first = 22_000 + 40 * len(houses)
        house = House(tmp_path / str(len(houses)), range(first, first + 40), **options)
        await house.agent.start()
        house.engine.start()
        houses.append(house)
        return house

    yield make
    for house in houses:
        await house.close()


@pytest.fixture
async def alice(build: Build) -> House:
    return await build()


@pytest.fixture
async def bob(build: Build) -> House:
    return await build()


class Peer(asyncio.DatagramProtocol):
    """A far end made of datagrams: what it gets waits in a queue, what it sends is written out by the test."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[SipRequest | SipResponse] = asyncio.Queue()
        self.media = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK)
        self.media.bind(("127.0.0.1", 0))
        self.tag = new_tag()
        self.call_id = new_tag()
        self._numbers = itertools.count(1)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait(SipMessage.parse(data))

    @property
    def uri(self) -> str:
        return f"sip:300@127.0.0.1:{self.port}"

    @property
    def media_port(self) -> int:
        return int(self.media.getsockname()[1])

    def offer(self, formats: str = "8 0 101", *attributes: str, port: int | None = None) -> bytes:
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
                 f"m=audio {port if port is not None else self.media_port} RTP/AVP {formats}",
                 "a=rtpmap:101 telephone-event/8000", *attributes]  # fmt: skip
        return "\r\n".join(lines).encode() + b"\r\n"

    def send(self, message: SipMessage, to: House) -> None:
        self.transport.sendto(bytes(message), to.address)

    def request(
        self,
        method: str,
        *,
        to_tag: str = "",
        seq: int | None = None,
        branch: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> SipRequest:
        number = seq if seq is not None else next(self._numbers)
        made = SipRequest(method=method, uri="sip:100@127.0.0.1", body=body)
        every = {
            "Via": f"SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch or new_branch()};rport",
            "From": f"<sip:300@127.0.0.1>;tag={self.tag}",
            "To": f"<sip:100@127.0.0.1>{';tag=' + to_tag if to_tag else ''}",
            "Call-ID": self.call_id,
            "CSeq": f"{number} {method}",
            "Contact": f"<{self.uri}>",
            **(headers or {}),
        }
        for name, value in every.items():
            if value:
                made.set_header(name, value)
        return made

    async def next(self, kind: str | int) -> SipRequest | SipResponse:
        """The next message of that method or status; what comes before it is dropped."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                message = await self.got.get()
                if kind == (message.method if isinstance(message, SipRequest) else message.status_code):
                    return message

    async def next_request(self, method: str) -> SipRequest:
        message = await self.next(method)
        assert isinstance(message, SipRequest)
        return message

    async def next_response(self, status: int) -> SipResponse:
        message = await self.next(status)
        assert isinstance(message, SipResponse)
        return message

    async def ask(self, house: House, request: SipRequest) -> SipResponse:
        """The first final response to *request*."""
        self.send(request, house)
        async with asyncio.timeout(LIMIT_S):
            while True:
                message = await self.got.get()
                if isinstance(message, SipResponse) and message.status_code >= 200:
                    return message

    async def call(self, house: House, formats: str = "8 0 101") -> tuple[str, Call]:
        """Call *house*, and acknowledge: its To tag and its side of the call."""
        invite = self.request("INVITE", body=self.offer(formats))
        ok = await self.ask(house, invite)
        assert 200 == ok.status_code
        self.ack(house, invite, ok)
        return tag_of(ok), await soon(house.taken.get())

    def ack(self, house: House, invite: SipRequest, ok: SipResponse) -> None:
        assert invite.cseq is not None
        self.send(self.request("ACK", to_tag=tag_of(ok), seq=invite.cseq.seq), house)

    def answer(self, invite: SipRequest, status: int, house: House, **headers: str) -> SipResponse:
        """Answer *invite*; a 2xx comes with Contact and SDP unless told otherwise."""
        made = make_response(invite, status, to_tag=self.tag)
        if 200 <= status < 300:
            made.set_header("Contact", f"<{self.uri}>")
            made.body = self.offer()
        for name, value in headers.items():
            made.set_header(name.replace("_", "-"), value)
        self.send(made, house)
        return made

    def close(self) -> None:
        self.transport.close()
        self.media.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    _, made = await asyncio.get_running_loop().create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
    yield made
    made.close()
    await asyncio.sleep(0)


def tag_of(message: SipMessage) -> str:
    assert message.to_addr is not None
    assert message.to_addr.tag is not None
    return message.to_addr.tag


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20000, 20000, int(8000 * seconds)).astype(np.int16)


def recorded(recording: Recording) -> tuple[bytes, bytes]:
    """Both channels as octets of little-endian samples: caller, gateway."""
    with wave.open(BytesIO(read_recording(recording.path, recording.key)), "rb") as file:
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return both[:, 0].tobytes(), both[:, 1].tobytes()


def rtp(payload: bytes, number: int, payload_type: int = 8) -> bytes:
    return HEADER.pack(0x80, payload_type, number, 160 * number, 7) + payload


class TestMedia:
    """RFC 3550, RFC 3551, RFC 4733: what is said at one end is heard at the other."""

    async def test_audio_arrives_sample_for_sample_in_both_recordings(self, alice: House, bob: House) -> None:
        ours, theirs = await alice.call_to(bob)
        said, replied = (encode(noise(0.6, seed), "PCMA") for seed in (1, 2))
        played = await soon(asyncio.gather(ours.play(cut(said)), theirs.play(cut(replied))))
        frames = ours.stream.frames_in + 10
        await until(lambda: min(ours.stream.frames_in, theirs.stream.frames_in) >= frames)
        ours.hangup("done")
        await soon(theirs.ended)
        mine, yours = await ours.close(), await theirs.close()
        assert [30, 30] == [passage.sent for passage in played]
        assert mine is not None
        assert yours is not None
        for recording, heard, spoken in ((mine, replied, said), (yours, said, replied)):
            left, right = recorded(recording)
            assert decode(heard, "PCMA").tobytes() in left
            assert decode(spoken, "PCMA").tobytes() in right

    async def test_keys_arrive_in_both_directions(self, alice: House, bob: House) -> None:
        ours, theirs = await alice.call_to(bob)
        heard: dict[str, list[str]] = {"ours": [], "theirs": []}
        ours.stream.on_key, theirs.stream.on_key = heard["ours"].append, heard["theirs"].append
        ours.stream.send_keys("1379")
        theirs.stream.send_keys("*0#A")
        await until(lambda: (4, 4) == (len(heard["ours"]), len(heard["theirs"])))
        assert {"ours": list("*0#A"), "theirs": list("1379")} == heard

    async def test_a_prompt_that_cuts_in_is_played_to_its_end(self, alice: House, bob: House) -> None:
        """The goodbye of a gateway that stops cuts into whatever the script is saying."""
        ours, _ = await alice.call_to(bob)
        script = asyncio.create_task(ours.play((SILENCE["PCMA"] * 160,) * 500))
        await until(lambda: ours.stream._playing is not None)
        assert 5 == (await soon(ours.play((SILENCE["PCMA"] * 160,) * 5))).sent
        assert (await soon(script)).sent < 500

    async def test_a_prompt_stops_with_the_call_and_tells_how_much_was_sent(self, alice: House, bob: House) -> None:
        ours, theirs = await alice.call_to(bob)
        playing = asyncio.create_task(ours.play((SILENCE["PCMA"] * 160,) * 500))
        await until(lambda: ours.stream.frames_in > 2)
        theirs.hangup("enough")
        assert 0 < (await soon(playing)).sent < 500
        with pytest.raises(CallOver, match="hung up"):
            await ours.play((SILENCE["PCMA"] * 160,))

    async def test_rtp_from_a_foreign_address_is_not_heard(self, bob: House, peer: Peer) -> None:
        _, call = await peer.call(bob)
        heard: list[bytes] = []
        call.stream.tap = lambda frame, _: heard.append(frame)
        to = call.stream.ports.rtp.getsockname()
        peer.media.sendto(rtp(b"a" * 160, 1), to)
        await until(lambda: call.stream.received)
        with socket(AF_INET, SOCK_DGRAM) as stranger:
            stranger.sendto(rtp(b"x" * 160, 2), to)
        await until(lambda: call.stream.counters.foreign)
        peer.media.sendto(rtp(b"b" * 160, 3), to)
        await until(lambda: any(b"b" in frame for frame in heard))
        assert not any(b"x" in frame for frame in heard)

    async def test_malformed_rtp_is_counted_and_the_call_goes_on(self, bob: House, peer: Peer) -> None:
        _, call = await peer.call(bob)
        to = call.stream.ports.rtp.getsockname()
        for data in (b"x", b"\x8f" + bytes(11), rtp(b"\x05", 1, payload_type=101)):
            peer.media.sendto(data, to)
        peer.media.sendto(rtp(b"a" * 160, 1), to)
        await until(lambda: call.stream.received)
        assert 3 == call.stream.counters.malformed

    async def test_early_media_are_not_part_of_the_call(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        invite = await peer.next_request("INVITE")
        port = int(invite.text.split("m=audio ")[1].split()[0])
        for number in range(40):
            peer.media.sendto(rtp(b"e" * 160, number), ("127.0.0.1", port))
        peer.answer(invite, 200, alice)
        call = await soon(dialling)
        heard: list[bytes] = []
        call.stream.tap = lambda frame, _: heard.append(frame)
        peer.media.sendto(rtp(b"a" * 160, 40), ("127.0.0.1", port))
        await until(lambda: any(b"a" in frame for frame in heard))
        assert len(heard) < 20
        assert not any(b"e" in frame for frame in heard)


class TestEndings:
    """RFC 3261 §9, §13.2.2.3, §15: how a call does not come about, and how it ends."""

    async def test_either_side_may_hang_up(self, alice: House, bob: House) -> None:
        for caller_first in (True, False):
            ours, theirs = await alice.call_to(bob)
            first, second = (ours, theirs) if caller_first else (theirs, ours)
            first.hangup("done")
            assert ("caller", "hung up") == ((end := await soon(second.ended)).by, end.reason)
            assert ("gateway", "done") == ((end := await soon(first.ended)).by, end.reason)
            await ours.close()
            await theirs.close()
            assert ((), ()) == (alice.agent.calls, bob.agent.calls)

    async def test_a_ring_that_nobody_answers_is_cancelled_with_487_on_both_sides(
        self, alice: House, bob: House
    ) -> None:
        bob.policy = bob.ring
        with pytest.raises(CallFailed) as ours:
            await soon(alice.dial(bob.uri, ring_s=0.2))
        invitation = await soon(bob.invitations.get())
        await soon(invitation.cancelled.wait())
        with pytest.raises(CallFailed) as theirs:
            await invitation.answer("late")
        assert (487, 487) == (ours.value.status, theirs.value.status)

    async def test_a_caller_that_is_stopped_cancels(self, alice: House, bob: House) -> None:
        bob.policy = bob.ring
        dialling = asyncio.create_task(alice.dial(bob.uri))
        invitation = await soon(bob.invitations.get())
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await soon(invitation.cancelled.wait())

    async def test_the_cancel_waits_for_a_first_sign_of_the_callee(self, alice: House, peer: Peer) -> None:
        """RFC 3261 §9.1: no CANCEL before a provisional response; after it, at once."""
        with pytest.raises(CallFailed):
            await alice.dial(peer.uri, ring_s=0.05)
        invite = await peer.next_request("INVITE")
        assert peer.got.empty()
        peer.answer(invite, 180, alice)
        cancel = await peer.next_request("CANCEL")
        assert invite.via[0].branch == cancel.via[0].branch
        peer.answer(cancel, 200, alice)
        peer.answer(invite, 487, alice)
        await peer.next_request("ACK")

    async def test_a_2xx_that_crosses_our_cancel_is_acknowledged_and_ended(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri, ring_s=0.2))
        invite = await peer.next_request("INVITE")
        peer.answer(invite, 180, alice)
        await peer.next_request("CANCEL")
        peer.answer(invite, 200, alice)
        await peer.next_request("ACK")
        bye = await peer.next_request("BYE")
        peer.answer(bye, 200, alice)
        with pytest.raises(CallFailed):
            await dialling

    async def test_a_caller_that_is_stopped_in_the_moment_of_the_2xx_ends_the_call(
        self, alice: House, peer: Peer
    ) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        ok = make_response(await peer.next_request("INVITE"), 200, to_tag=peer.tag)
        ok.set_header("Contact", f"<{peer.uri}>")
        ok.body = peer.offer()
        alice.agent.endpoint.receive(bytes(ok), Hop("127.0.0.1", peer.port))
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await peer.next_request("ACK")
        await peer.next_request("BYE")

    async def test_a_cancel_while_the_answer_is_prepared_is_heard(self, bob: House, peer: Peer) -> None:
        """The Contact is a name, whose address is looked up before the 200."""
        started, answered = asyncio.Event(), asyncio.Event()
        failures: list[CallFailed] = []

        async def policy(invitation: Invitation) -> None:
            started.set()
            try:
                await invitation.answer("call")
            except CallFailed as failed:
                failures.append(failed)
            answered.set()

        bob.policy = policy
        branch = new_branch()
        invite = peer.request(
            "INVITE", seq=1, branch=branch, body=peer.offer(), headers={"Contact": f"<sip:300@localhost:{peer.port}>"}
        )
        bob.agent.endpoint.receive(bytes(invite), Hop("127.0.0.1", peer.port))
        await started.wait()
        bob.agent.endpoint.receive(bytes(peer.request("CANCEL", seq=1, branch=branch)), Hop("127.0.0.1", peer.port))
        await soon(answered.wait())
        assert [487] == [failed.status for failed in failures]
        assert () == bob.agent.calls

    async def test_busy_is_486_and_acknowledged(self, alice: House, bob: House) -> None:
        async def busy(invitation: Invitation) -> None:
            invitation.reject(486)

        bob.policy = busy
        with pytest.raises(CallFailed, match="486 Busy Here"):
            await soon(alice.dial(bob.uri))

    async def test_a_policy_that_answers_nothing_or_fails_is_500(self, bob: House, peer: Peer) -> None:
        async def nothing(_: Invitation) -> None: ...

        bob.policy = nothing
        assert 500 == (await peer.ask(bob, peer.request("INVITE", body=peer.offer()))).status_code

    async def test_nobody_there_is_408(self, alice: House, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.telephony.transaction.GIVE_UP", 0.2)
        with pytest.raises(CallFailed) as failed:
            await soon(alice.dial(peer.uri))
        assert 408 == failed.value.status
        assert 0 == len(alice.agent.endpoint)

    async def test_a_name_without_address_is_503(self, alice: House) -> None:
        with pytest.raises(CallFailed) as failed:
            await soon(alice.dial("sip:100@no-such-host.invalid"))
        assert 503 == failed.value.status

    async def test_an_address_that_our_socket_cannot_send_to_is_503(self, alice: House) -> None:
        with pytest.raises(CallFailed) as failed:
            await soon(alice.dial("sip:100@[2001:db8::1]"))
        assert 503 == failed.value.status

    async def test_an_address_that_is_taken_is_named(self, alice: House, tmp_path: Path) -> None:
        agent = UserAgent(MediaEngine("127.0.0.1", range(0), tmp_path), alice.address)
        with pytest.raises(TransportFailed, match=f"udp 127.0.0.1:{alice.agent.port}: "):
            await agent.start()

    async def test_a_request_within_no_dialog_is_481(self, bob: House, peer: Peer) -> None:
        for method in ("BYE", "INFO", "INVITE", "NOTIFY"):
            asked = peer.request(method, to_tag="unknown")
            assert 481 == (await peer.ask(bob, asked)).status_code

    async def test_a_cancel_of_nothing_is_481(self, bob: House, peer: Peer) -> None:
        assert 481 == (await peer.ask(bob, peer.request("CANCEL"))).status_code


class TestRefusals:
    """RFC 3261 §8.2, §13.3.1.3, §21: what is turned away, and with which words."""

    async def test_a_draining_gateway_is_503_with_retry_after(self, bob: House, peer: Peer) -> None:
        bob.agent.draining = True
        refusal = await peer.ask(bob, peer.request("INVITE", body=peer.offer()))
        assert (503, "30") == (refusal.status_code, refusal.get_header("Retry-After"))

    async def test_a_full_gateway_is_503_with_retry_after(self, build: Build, peer: Peer) -> None:
        bob = await build(admission=Admission(1000, 1000, 1000, 1000, 1, time.monotonic))
        await peer.call(bob)
        peer.call_id = new_tag()
        refusal = await peer.ask(bob, peer.request("INVITE", body=peer.offer()))
        assert (503, "5") == (refusal.status_code, refusal.get_header("Retry-After"))

    async def test_a_ringing_invitation_counts_as_a_call(self, build: Build, peer: Peer) -> None:
        bob = await build(admission=Admission(1000, 1000, 1000, 1000, 1, time.monotonic))
        bob.policy = bob.ring
        first = peer.request("INVITE", seq=1, branch=new_branch(), body=peer.offer())
        peer.send(first, bob)
        await peer.next(180)
        second = peer.request("INVITE", headers={"Call-ID": new_tag()}, body=peer.offer())
        assert 503 == (await peer.ask(bob, second)).status_code
        cancel = peer.request("CANCEL", seq=1, branch=first.via[0].branch or "")
        peer.send(cancel, bob)
        await peer.next(487)

    async def test_no_common_codec_is_488_with_a_warning(self, bob: House, peer: Peer) -> None:
        refusal = await peer.ask(bob, peer.request("INVITE", body=peer.offer("9 18")))
        assert 488 == refusal.status_code
        assert '304 127.0.0.1 "SDP offers no PCMA or PCMU"' == refusal.get_header("Warning")

    async def test_encrypted_media_are_488(self, bob: House, peer: Peer) -> None:
        offer = peer.offer().replace(b"RTP/AVP", b"RTP/SAVP")
        assert 488 == (await peer.ask(bob, peer.request("INVITE", body=offer))).status_code

    async def test_an_invite_without_contact_is_400(self, bob: House, peer: Peer) -> None:
        refusal = await peer.ask(bob, peer.request("INVITE", headers={"Contact": ""}, body=peer.offer()))
        assert (400, "INVITE has no Contact") == (refusal.status_code, refusal.reason_phrase)

    async def test_garbage_for_a_description_is_400(self, bob: House, peer: Peer) -> None:
        refusal = await peer.ask(bob, peer.request("INVITE", body=b"m=audio what RTP/AVP 8\r\n"))
        assert 400 == refusal.status_code

    async def test_a_required_extension_is_420_and_named(self, bob: House, peer: Peer) -> None:
        asked = peer.request("INVITE", headers={"Require": "timer, replaces, gin"}, body=peer.offer())
        refusal = await peer.ask(bob, asked)
        assert (420, ["replaces", "gin"]) == (refusal.status_code, refusal.get_header_values("Unsupported"))

    async def test_options_is_200_and_tells_what_is_allowed(self, bob: House, peer: Peer) -> None:
        answer = await peer.ask(bob, peer.request("OPTIONS"))
        assert 200 == answer.status_code
        assert "INVITE" in answer.get_header_values("Allow")
        assert "application/sdp" == answer.get_header("Accept")

    async def test_options_of_a_draining_gateway_is_503(self, bob: House, peer: Peer) -> None:
        bob.agent.draining = True
        assert 503 == (await peer.ask(bob, peer.request("OPTIONS"))).status_code

    @pytest.mark.parametrize("method", ["SUBSCRIBE", "PUBLISH", "REGISTER"])
    async def test_another_method_is_405_with_allow(self, bob: House, peer: Peer, method: str) -> None:
        refusal = await peer.ask(bob, peer.request(method))
        assert 405 == refusal.status_code
        assert refusal.get_header_values("Allow")

    @pytest.mark.parametrize("method", ["MESSAGE", "INVITE"])
    async def test_a_stranger_is_403_and_not_heard(self, build: Build, peer: Peer, method: str) -> None:
        bob = await build(trusted=lambda _: False)
        body = peer.offer() if method == "INVITE" else b"123456"
        assert 403 == (await peer.ask(bob, peer.request(method, body=body))).status_code
        assert bob.messages.empty()
        assert bob.invitations.empty()

    @pytest.mark.parametrize("method", ["MESSAGE", "INVITE"])
    async def test_a_stranger_is_challenged_where_phones_have_passwords(
        self, build: Build, peer: Peer, method: str
    ) -> None:
        registrar = Registrar(DigestServer("gateway", {"100": "secret"}, time.time), time.monotonic)
        bob = await build(trusted=lambda _: False, registrar=registrar)
        body = peer.offer() if method == "INVITE" else b"123456"
        answer = await peer.ask(bob, peer.request(method, body=body))
        schemes = [parse_auth(value).scheme for value in answer.get_header_values("WWW-Authenticate")]
        assert (401, ["Digest", "Digest"]) == (answer.status_code, schemes)

    async def test_who_proves_his_password_calls_as_himself(self, build: Build, alice: House) -> None:
        registrar = Registrar(DigestServer("gateway", {"100": "secret"}, time.time), time.monotonic)
        bob = await build(trusted=lambda _: False, registrar=registrar)
        await soon(alice.dial(bob.uri, credentials=ALICE))
        assert "100" == (await soon(bob.taken.get())).number

    async def test_a_line_may_assert_who_calls(self, bob: House, peer: Peer) -> None:
        asserted = {"P-Asserted-Identity": "<sip:+821012345678@127.0.0.1>"}
        await peer.ask(bob, peer.request("INVITE", headers=asserted, body=peer.offer()))
        assert "+821012345678" == (await soon(bob.taken.get())).number

    async def test_a_message_from_a_trusted_line_is_the_number_in_from(self, build: Build, peer: Peer) -> None:
        bob = await build(trusted=lambda source: source.host == "127.0.0.1")
        assert 202 == (await peer.ask(bob, peer.request("MESSAGE", body=b"123456"))).status_code
        assert ("300", "123456") == await soon(bob.messages.get())

    async def test_a_message_that_is_no_text_is_415(self, build: Build, peer: Peer) -> None:
        bob = await build(trusted=lambda _: True)
        asked = peer.request("MESSAGE", headers={"Content-Type": "image/png"}, body=b"x")
        assert 415 == (await peer.ask(bob, asked)).status_code
        assert bob.messages.empty()

    async def test_no_free_port_is_503(self, bob: House, peer: Peer) -> None:
        taken = [bob.engine.reserve("127.0.0.1") for _ in range(bob.ports)]
        refusal = await peer.ask(bob, peer.request("INVITE", body=peer.offer()))
        for each in taken:
            bob.engine.release(each)
        assert 503 == refusal.status_code

    async def test_a_call_that_cannot_be_recorded_is_500_and_its_port_comes_back(self, bob: House, peer: Peer) -> None:
        bob.folder.write_text("a file where the folder should be")
        refusal = await peer.ask(bob, peer.request("INVITE", body=peer.offer()))
        assert 500 == refusal.status_code
        assert bob.ports == len(bob.engine.ports)

    @pytest.mark.parametrize("via", ["127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:-1"])
    async def test_a_port_that_is_none_does_not_close_the_socket(self, bob: House, peer: Peer, via: str) -> None:
        """asyncio closes a datagram transport for good when it is told to send to such a port."""
        peer.send(peer.request("OPTIONS", headers={"Via": f"SIP/2.0/UDP {via};branch={new_branch()}"}), bob)
        assert 200 == (await peer.ask(bob, peer.request("OPTIONS"))).status_code
        assert 1 == bob.agent.endpoint.counters.malformed

    async def test_a_contact_port_that_is_none_does_not_close_the_socket(self, bob: House, peer: Peer) -> None:
        asked = peer.request("INVITE", headers={"Contact": "<sip:300@127.0.0.1:99999>"}, body=peer.offer())
        assert 400 == (await peer.ask(bob, asked)).status_code
        assert 200 == (await peer.ask(bob, peer.request("OPTIONS"))).status_code


class TestWithinACall:
    """RFC 3261 §12.2, §14; RFC 3264 §8; RFC 3515; RFC 6086."""

    @pytest.mark.parametrize(("offered", "answered"), [("sendonly", "recvonly"), ("inactive", "inactive")])
    async def test_hold_is_answered_with_its_counterpart_and_resume_with_sendrecv(
        self, bob: House, peer: Peer, offered: str, answered: str
    ) -> None:
        tag, call = await peer.call(bob)
        for direction, expected in ((offered, answered), ("sendrecv", "sendrecv")):
            invite = peer.request("INVITE", to_tag=tag, body=peer.offer("8 0 101", f"a={direction}"))
            ok = await peer.ask(bob, invite)
            peer.ack(bob, invite, ok)
            await until(lambda: call.negotiation._unconfirmed is None)
            assert 200 == ok.status_code
            assert f"a={expected}" in ok.text.splitlines()
            assert (expected != "sendrecv") == call.stream.terms.on_hold

    async def test_the_session_stays_and_its_version_counts_on(self, bob: House, peer: Peer) -> None:
        first = peer.request("INVITE", body=peer.offer())
        answers = [await peer.ask(bob, first)]
        peer.ack(bob, first, answers[0])
        again = peer.request("INVITE", to_tag=tag_of(answers[0]), body=peer.offer())
        answers.append(await peer.ask(bob, again))
        peer.ack(bob, again, answers[1])
        one, two = (answer.text.splitlines()[1].split() for answer in answers)
        assert one[1] == two[1]
        assert int(one[2]) + 1 == int(two[2])

    async def test_a_running_mu_law_call_is_held_with_both_laws_on_offer(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob, "0 101")
        invite = peer.request("INVITE", to_tag=tag, body=peer.offer("8 0 101", "a=sendonly"))
        ok = await peer.ask(bob, invite)
        peer.ack(bob, invite, ok)
        assert (200, "PCMU") == (ok.status_code, call.stream.terms.codec)

    async def test_another_codec_in_a_running_call_is_488_and_changes_nothing(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob, "8 101")
        invite = peer.request("INVITE", to_tag=tag, body=peer.offer("0 101"))
        assert 488 == (await peer.ask(bob, invite)).status_code
        assert "PCMA" == call.stream.terms.codec
        assert not call.ended.done()

    async def test_a_re_invite_before_the_ack_is_491(self, bob: House, peer: Peer) -> None:
        ok = await peer.ask(bob, peer.request("INVITE", body=peer.offer()))
        again = peer.request("INVITE", to_tag=tag_of(ok), body=peer.offer())
        peer.send(again, bob)
        await peer.next_response(491)

    async def test_the_200_to_a_re_invite_is_sent_again_until_its_ack(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        invite = peer.request("INVITE", to_tag=tag, body=peer.offer())
        ok = await peer.ask(bob, invite)
        again = await peer.next_response(200)
        peer.ack(bob, invite, ok)
        await until(lambda: call.negotiation._unconfirmed is None)
        assert bytes(ok) == bytes(again)

    async def test_a_far_end_that_moved_gets_our_bye_where_it_is(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        _, moved = await asyncio.get_running_loop().create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
        invite = peer.request("INVITE", to_tag=tag, headers={"Contact": f"<{moved.uri}>"}, body=peer.offer())
        ok = await peer.ask(bob, invite)
        peer.ack(bob, invite, ok)
        await until(lambda: call.hop.port == moved.port)
        call.hangup("done")
        bye = await moved.next_request("BYE")
        moved.close()
        assert moved.uri == bye.uri

    async def test_dtmf_relay_is_a_key(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        keys: list[str] = []
        call.stream.on_key = keys.append
        for signal in ("5", "#", "d", "é", "12", ""):
            info = peer.request(
                "INFO", to_tag=tag, headers={"Content-Type": "application/dtmf-relay"},
                body=f"Signal={signal}\r\nDuration=160\r\n".encode(),
            )  # fmt: skip
            assert 200 == (await peer.ask(bob, info)).status_code
        assert ["5", "#", "D"] == keys

    async def test_a_transfer_succeeds_when_the_far_end_says_so(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        transfer = asyncio.create_task(call.transfer("sip:agent@example.com"))
        refer = await peer.next_request("REFER")
        peer.answer(refer, 202, bob)
        for line in ("SIP/2.0 100 Trying", "SIP/2.0 200 OK"):
            assert not transfer.done()
            notify = peer.request(
                "NOTIFY", to_tag=tag, body=line.encode(), headers={"Event": "refer", "Content-Type": "message/sipfrag"}
            )
            assert 200 == (await peer.ask(bob, notify)).status_code
        assert await soon(transfer)
        assert "<sip:agent@example.com>" == refer.get_header("Refer-To")

    async def test_a_transfer_that_fails_there_is_false(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        transfer = asyncio.create_task(call.transfer("sip:agent@example.com"))
        peer.answer(await peer.next_request("REFER"), 202, bob)
        peer.send(peer.request("NOTIFY", to_tag=tag, body=b"SIP/2.0 486 Busy Here"), bob)
        assert not await soon(transfer)

    async def test_a_transfer_that_is_refused_is_false(self, bob: House, peer: Peer) -> None:
        _, call = await peer.call(bob)
        transfer = asyncio.create_task(call.transfer("sip:agent@example.com"))
        peer.answer(await peer.next_request("REFER"), 603, bob)
        assert not await soon(transfer)

    async def test_a_transfer_whose_call_ends_first_is_false(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        transfer = asyncio.create_task(call.transfer("sip:agent@example.com"))
        await peer.next_request("REFER")
        assert 200 == (await peer.ask(bob, peer.request("BYE", to_tag=tag))).status_code
        assert not await soon(transfer)

    async def test_an_old_cseq_is_500_and_changes_nothing(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        assert 500 == (await peer.ask(bob, peer.request("BYE", to_tag=tag, seq=0))).status_code
        assert not call.ended.done()

    async def test_another_method_in_a_call_is_405_with_allow(self, bob: House, peer: Peer) -> None:
        tag, _ = await peer.call(bob)
        refusal = await peer.ask(bob, peer.request("PUBLISH", to_tag=tag))
        assert 405 == refusal.status_code
        assert "BYE" in refusal.get_header_values("Allow")

    async def test_a_re_invite_after_our_bye_is_481(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        call.hangup("done")
        peer.send(peer.request("INVITE", to_tag=tag, body=peer.offer()), bob)
        await peer.next_response(481)

    async def test_a_bye_that_crosses_ours_is_200(self, bob: House, peer: Peer) -> None:
        tag, call = await peer.call(bob)
        call.hangup("done")
        peer.send(peer.request("BYE", to_tag=tag), bob)
        await peer.next_response(200)


class TestCallingOut:
    """RFC 3261 §13.2, §22."""

    @pytest.mark.parametrize(
        ("status", "challenge", "answer"),
        [(401, "WWW_Authenticate", "Authorization"), (407, "Proxy_Authenticate", "Proxy-Authorization")],
    )
    async def test_a_challenged_invite_is_sent_again_with_credentials(
        self, alice: House, peer: Peer, status: int, challenge: str, answer: str
    ) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri, credentials=ALICE))
        first = await peer.next_request("INVITE")
        peer.answer(first, status, alice, **{challenge: 'Digest realm="pbx", nonce="n1", qop="auth"'})
        await peer.next_request("ACK")
        second = await peer.next_request("INVITE")
        peer.answer(second, 200, alice)
        await peer.next_request("ACK")
        await soon(dialling)
        given = parse_auth(second.get_header(answer) or "", credentials=True).params
        assert ("100", "n1", "auth") == (given["username"], given["nonce"], given["qop"])
        assert first.cseq is not None
        assert second.cseq is not None
        assert (first.call_id, first.cseq.seq + 1) == (second.call_id, second.cseq.seq)
        assert first.via[0].branch != second.via[0].branch
        assert 1 == len(second.via)

    async def test_wrong_credentials_are_tried_once(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri, credentials=ALICE))
        for nonce in ("n1", "n2"):
            invite = await peer.next_request("INVITE")
            peer.answer(invite, 401, alice, WWW_Authenticate=f'Digest realm="pbx", nonce="{nonce}"')
            await peer.next_request("ACK")
        with pytest.raises(CallFailed) as failed:
            await soon(dialling)
        assert 401 == failed.value.status

    async def test_a_retransmitted_2xx_is_acknowledged_again(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        invite = await peer.next_request("INVITE")
        ok = peer.answer(invite, 200, alice)
        first = await peer.next_request("ACK")
        await soon(dialling)
        peer.send(ok, alice)
        second = await peer.next_request("ACK")
        assert first.get_header("CSeq") == second.get_header("CSeq") == "1 ACK"

    async def test_the_ack_follows_the_route_set(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        invite = await peer.next_request("INVITE")
        route = f"<sip:127.0.0.1:{peer.port};lr>"
        peer.answer(invite, 200, alice, Record_Route=route, Contact="<sip:300@192.0.2.1>")
        ack = await peer.next_request("ACK")
        await soon(dialling)
        assert ("sip:300@192.0.2.1", [route]) == (ack.uri, ack.get_header_values("Route"))

    @pytest.mark.parametrize("body", [b"", b"m=audio what RTP/AVP 8\r\n"])
    async def test_an_answer_without_usable_media_is_acknowledged_and_ended(
        self, alice: House, peer: Peer, body: bytes
    ) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        invite = await peer.next_request("INVITE")
        ok = make_response(invite, 200, to_tag=peer.tag)
        ok.set_header("Contact", f"<{peer.uri}>")
        ok.body = body
        peer.send(ok, alice)
        await peer.next_request("ACK")
        await peer.next_request("BYE")
        with pytest.raises(CallFailed) as failed:
            await soon(dialling)
        assert 488 == failed.value.status

    async def test_a_2xx_without_contact_fails_the_call(self, alice: House, peer: Peer) -> None:
        dialling = asyncio.create_task(alice.dial(peer.uri))
        invite = await peer.next_request("INVITE")
        ok = make_response(invite, 200, to_tag=peer.tag)
        ok.body = peer.offer()
        peer.send(ok, alice)
        with pytest.raises(CallFailed, match="200 to INVITE has no Contact"):
            await soon(dialling)

    async def test_a_call_that_cannot_be_recorded_is_ended(self, alice: House, peer: Peer) -> None:
        alice.folder.write_text("a file where the folder should be")
        dialling = asyncio.create_task(alice.dial(peer.uri))
        peer.answer(await peer.next_request("INVITE"), 200, alice)
        await peer.next_request("ACK")
        await peer.next_request("BYE")
        with pytest.raises(CallFailed, match="500 the call cannot be recorded"):
            await soon(dialling)


class Md5Only(DigestServer):
    """A PBX of the old days."""

    def challenges(self, source: str = "", *, stale: bool = False) -> list[str]:
        return [value for value in super().challenges(source, stale=stale) if "algorithm=MD5" in value]


class TestRegistering:
    """RFC 3261 §10, RFC 3428: a line of ours at a registrar of ours."""

    @pytest.mark.parametrize("server", [DigestServer, Md5Only])
    async def test_a_line_registers_by_digest_and_its_messages_bear_its_number(
        self, build: Build, alice: House, server: type[DigestServer]
    ) -> None:
        registrar = Registrar(server("gateway", {"100": "secret"}, time.time), time.monotonic)
        bob = await build(trusted=lambda _: False, registrar=registrar)
        line = Line("pbx", (Trunk(*bob.address),), credentials=ALICE, register=True)
        registering = asyncio.create_task(keep_registered(alice.agent, line))
        await until(lambda: registrar.find("100"))
        answer = await soon(alice.agent.request("MESSAGE", bob.uri, from_user="999", body=b"123456", credentials=ALICE))
        number = await soon(bob.messages.get())
        registering.cancel()
        binding = registrar.find("100")
        assert (202, ("100", "123456")) == (answer.status_code, number)
        assert alice.address == (binding.source.address if binding else None)

    async def test_a_wrong_password_binds_nothing(self, build: Build, alice: House) -> None:
        registrar = Registrar(DigestServer("gateway", {"100": "other"}, time.time), time.monotonic)
        bob = await build(registrar=registrar)
        answer = await soon(
            alice.agent.request(
                "REGISTER", bob.uri, from_user="100", to=bob.uri, credentials=ALICE,
                headers={"Contact": alice.agent.contact("100", Hop(*bob.address))},
            )
        )  # fmt: skip
        assert 401 == answer.status_code
        assert registrar.find("100") is None

    @pytest.mark.parametrize(
        ("headers", "first_wait_s"),
        [({"Contact": "<{contact}>;expires=50", "Expires": "200"}, 40.0), ({"Expires": "200"}, 160.0),
         ({"Expires": "soon"}, 240.0), ({"Expires": "²"}, 240.0)],
    )  # fmt: skip
    async def test_the_refresh_comes_at_four_fifths_of_the_granted_time(
        self, alice: House, peer: Peer, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], first_wait_s: float
    ) -> None:
        waits: asyncio.Queue[float] = asyncio.Queue()
        sleep = asyncio.sleep

        async def remember(seconds: float) -> None:
            waits.put_nowait(seconds)
            await sleep(3600)

        monkeypatch.setattr("gateway.telephony.lines.asyncio.sleep", remember)
        line = Line("pbx", (Trunk("127.0.0.1", peer.port),), credentials=ALICE, register=True)
        registering = asyncio.create_task(keep_registered(alice.agent, line))
        register = await peer.next_request("REGISTER")
        ok = make_response(register, 200, to_tag=peer.tag)
        for name, value in headers.items():
            ok.set_header(name, value.format(contact=(register.get_header("Contact") or "").strip("<>")))
        peer.send(ok, alice)
        assert first_wait_s == await soon(waits.get())
        monkeypatch.undo()
        registering.cancel()

    async def test_a_registrar_that_cannot_be_found_is_tried_again(
        self, alice: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice.agent._bind = ("0.0.0.0", 0)
        waits: asyncio.Queue[float] = asyncio.Queue()
        sleep = asyncio.sleep

        async def remember(seconds: float) -> None:
            waits.put_nowait(seconds)
            await sleep(0)

        monkeypatch.setattr("gateway.telephony.lines.asyncio.sleep", remember)
        line = Line("pbx", (Trunk("no-such-host.invalid"),), credentials=ALICE, register=True)
        registering = asyncio.create_task(keep_registered(alice.agent, line))
        assert [2.0, 4.0, 8.0] == [await soon(waits.get()) for _ in range(3)]
        monkeypatch.undo()
        registering.cancel()
