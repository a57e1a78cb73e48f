"""An answered call on the SIP bench: its far end is written by hand, its media are a stream that nobody ticks."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Literal

from aiosipua.message import SipRequest, SipResponse
from media_bench import Line
from sip_bench import OFFER, PEER, Bench, ours, request, response

from gateway.telephony.call import Call, CallEnd
from gateway.telephony.dialog import client_dialog, server_dialog
from gateway.telephony.endpoint import Incoming
from gateway.telephony.media import MediaStream
from gateway.telephony.message import make_response
from gateway.telephony.outgoing import Outgoing
from gateway.telephony.session_timer import SessionTimer
from gateway.telephony.transport import Hop

HELD = OFFER + b"a=sendonly\r\n"
TARGET = "sip:200@192.0.2.2:5070"


class _Media:
    """In the engine's place, which only closes streams here."""

    async def close(self, stream: MediaStream) -> None:
        stream.recorder = None


class Party:
    """The far end of a call, either way. What it sends reaches the call, what it gets is on ``wire``."""

    def __init__(self, direction: Literal["inbound", "outbound"] = "inbound", *, allows: str = "") -> None:
        self.bench = Bench(self._take)
        self.wire = self.bench.wire
        self.line = Line()
        self._numbers = count(2)
        if direction == "inbound":
            self.invite = request("INVITE", body=OFFER)
            dialog = server_dialog(self.invite, "ours")
        else:
            self.invite = ours("INVITE")
            self.invite.add_header("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-ours")
            dialog = client_dialog(self.invite, response(self.invite, 200, headers={"Contact": f"<{TARGET}>"}))
        self.call = Call(
            call_id="call", direction=direction, number="200", dialog=dialog, hop=PEER, endpoint=self.bench.endpoint,
            outgoing=Outgoing(self.bench.endpoint), engine=_Media(), stream=self.line.stream,  # type: ignore[arg-type]
            contact="<sip:192.0.2.1>", forget=lambda _: None, locate=self._locate, media_host="192.0.2.1",
            peer_allows=frozenset(allows.split()),
        )  # fmt: skip

    def close(self) -> None:
        self.line.close()

    @staticmethod
    async def _locate(*_: Any) -> Hop:
        return PEER

    def _take(self, incoming: Incoming) -> None:
        if incoming.ids.to.tag:
            self.call.take(incoming)
        else:
            self.bench.requests.append(incoming)

    def answered(self) -> SipResponse:
        """Our 200 to their first INVITE goes out, and waits for its ACK."""
        self.bench.take(self.invite)
        incoming = self.bench.requests[-1]
        final = make_response(incoming.request, 200, to_tag="ours")
        incoming.respond(final)
        self.call.negotiation.confirm_with(final, incoming)
        return final

    def send(self, method: str, *, body: bytes = b"", seq: int | None = None, **headers: str) -> SipResponse:
        """They send a request within the call; returns our final response to it."""
        number = next(self._numbers)
        made = request(
            method, branch=f"z9hG4bK-{number}", seq=seq or number, to_tag="ours", body=body,
        )  # fmt: skip
        for name, value in headers.items():
            made.set_header(name.replace("_", "-"), value)
        self.bench.take(made)
        answer = self.wire.last
        assert isinstance(answer, SipResponse)
        self._last = seq or number
        return answer

    def ack(self, *, seq: int | None = None, body: bytes = b"") -> None:
        """Their ACK to our 2xx, of the last INVITE unless it is said otherwise."""
        number = next(self._numbers)
        last = seq if seq is not None else getattr(self, "_last", 1)
        self.bench.take(request("ACK", branch=f"z9hG4bK-{number}", seq=last, to_tag="ours", body=body))
        self.call.negotiation.acknowledged(self.bench.acks[-1])

    def sent(self, method: str) -> list[SipRequest]:
        """What they got of *method*."""
        return [m for m in self.wire.messages if isinstance(m, SipRequest) and m.method == method]

    @property
    def methods(self) -> list[str]:
        """Of the requests that they got, each once, however often it was sent."""
        found = {(m.method, m.via[0].branch): m.method for m in self.wire.messages if isinstance(m, SipRequest)}
        return list(found.values())

    async def reply(self, status: int, method: str = "INVITE", *, body: bytes = b"", **headers: str) -> None:
        """They answer our last request of *method*."""
        made = response(self.sent(method)[-1], status, headers={"Contact": f"<{TARGET}>"})
        for name, value in headers.items():
            made.set_header(name.replace("_", "-"), value)
        made.body = body
        self.bench.take(made)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def end(self) -> CallEnd | None:
        return self.call.ended.result() if self.call.ended.done() else None

    @property
    def directions(self) -> list[str]:
        """The direction of each description that they got."""
        return [
            line[2:]
            for message in self.wire.messages
            for line in message.body.decode().splitlines()
            if line in ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")
        ]

    def live_by(self, expires_s: int, refresher: Literal["us", "them"]) -> None:
        self.call.keep_alive(SessionTimer(expires_s, refresher))
