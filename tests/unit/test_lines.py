"""Lines out over a user agent without sockets: which peer is called, and what its answer means for the next call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from agent_bench import Gateway, closed
from aiosipua.message import SipRequest
from sip_bench import OFFER, response
from test_location import Zone

from gateway.telephony.call import Call
from gateway.telephony.errors import CallFailed
from gateway.telephony.lines import Line
from gateway.telephony.message import identity
from gateway.telephony.routing import Peer
from gateway.telephony.transport import Hop

FIRST, SECOND = Peer("192.0.2.11", priority=0), Peer("192.0.2.12", priority=10)
NUMBER = "+821012345678"


class Caller(Gateway):
    """A line of the gateway, and its peers by hand."""

    task: asyncio.Task[Call] | None = None

    @property
    def invites(self) -> list[SipRequest]:
        return [m for m in self.wires.sent if isinstance(m, SipRequest) and m.method == "INVITE"]

    async def call(self, line: Line, *, dialplan: str = "") -> None:
        self.task = asyncio.create_task(line.call(self.agent, NUMBER, f"call-{len(self.invites)}", dialplan=dialplan))
        await self.settle()

    async def reply(self, status: int, **headers: str) -> None:
        made = response(self.invites[-1], status, headers={"Contact": "<sip:b@192.0.2.9>"})
        for name, value in headers.items():
            made.set_header(name.replace("_", "-"), value)
        made.body = OFFER if status == 200 else b""
        await self.hear(made)

    @property
    def called(self) -> list[str]:
        """The hosts that got an INVITE."""
        return [invite.uri.partition("@")[2] for invite in self.invites]

    async def status(self) -> int:
        """200, or why there is no call."""
        assert self.task is not None
        try:
            await asyncio.wait_for(self.task, 10)
        except CallFailed as failed:
            return failed.status
        return 200


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller()
    yield made
    await closed(made)


@pytest.fixture
def line() -> Line:
    return Line("trunk", (FIRST, SECOND), from_user="16005555", callers={"survey": "16006666"})


class TestAddressing:
    @pytest.mark.parametrize(
        ("dial", "peer", "uri"),
        [
            ("{number}", FIRST, f"sip:{NUMBER}@192.0.2.11:5060"),
            ("9{digits}", Peer("pbx", 0), "sip:9821012345678@pbx"),
            ("{number}", Peer("pbx", 5061, "tls"), f"sip:{NUMBER}@pbx:5061;transport=tls"),
        ],
    )
    def test_the_number_is_dialled_as_the_line_wants_it(self, dial: str, peer: Peer, uri: str) -> None:
        assert uri == Line("trunk", (peer,), dial=dial).uri(NUMBER)

    @pytest.mark.parametrize(("dialplan", "shown"), [("", "16005555"), ("other", "16005555"), ("survey", "16006666")])
    async def test_each_campaign_may_show_a_number_of_its_own(
        self, caller: Caller, line: Line, dialplan: str, shown: str
    ) -> None:
        await caller.call(line, dialplan=dialplan)
        assert shown == identity(caller.invites[0]).from_.uri.user
        await caller.reply(486)
        await caller.status()


class TestFailover:
    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    async def test_a_peer_that_fails_leaves_the_call_to_the_next(self, caller: Caller, line: Line, status: int) -> None:
        await caller.call(line)
        await caller.reply(status)
        await caller.reply(200)
        assert (200, ["192.0.2.11:5060", "192.0.2.12:5060"]) == (await caller.status(), caller.called)

    @pytest.mark.parametrize("status", [404, 480, 486, 603])
    async def test_what_the_callee_says_is_final(self, caller: Caller, line: Line, status: int) -> None:
        await caller.call(line)
        await caller.reply(status)
        assert (status, 1) == (await caller.status(), len(caller.called))

    async def test_a_phone_that_rang_does_not_ring_again(self, caller: Caller, line: Line) -> None:
        await caller.call(line)
        await caller.reply(180)
        await caller.reply(503)
        assert (503, 1) == (await caller.status(), len(caller.called))

    async def test_what_cannot_be_reached_is_passed_over(self, caller: Caller, line: Line) -> None:
        caller.wires.broken.add(Hop(FIRST.host, 5060))
        await caller.call(line)
        await caller.reply(200)
        assert (200, ["192.0.2.12:5060"]) == (await caller.status(), caller.called)

    async def test_a_peer_that_wants_to_be_left_alone_is(self, caller: Caller, line: Line) -> None:
        await caller.call(line)
        await caller.reply(503, Retry_After="60")
        await caller.reply(200)
        await caller.status()
        assert (False, True) == (line.route.is_up(FIRST), line.route.is_up(SECOND))

    async def test_the_last_peers_answer_is_the_lines(self, caller: Caller, line: Line) -> None:
        await caller.call(line)
        await caller.reply(503)
        await caller.reply(500)
        assert 500 == await caller.status()


class TestLimits:
    async def test_a_line_that_is_full_calls_nobody(self, caller: Caller) -> None:
        line = Line("trunk", (FIRST,), most_calls=1)
        await caller.call(line)
        await caller.reply(200)
        assert 200 == await caller.status()
        await caller.call(line)
        assert (503, 1) == (await caller.status(), len(caller.called))

    @pytest.mark.parametrize("end", ["refused", "over"])
    async def test_a_call_that_ended_makes_room(self, caller: Caller, end: str) -> None:
        line = Line("trunk", (FIRST,), most_calls=1)
        await caller.call(line)
        await caller.reply(486 if end == "refused" else 200)
        await caller.status()
        for call in caller.agent.calls:
            await call.close()
        await caller.settle()
        await caller.call(line)
        await caller.reply(486)
        assert (486, 2) == (await caller.status(), len(caller.called))


class TestAddresses:
    """Where calls of a line's peers come from: trusted by address."""

    async def test_they_are_those_of_every_peer(self) -> None:
        gateway = Gateway(resolver=Zone(addresses={"a": ["192.0.2.1", "192.0.2.2"], "b": ["192.0.2.3"]}))
        line = Line("trunk", (Peer("a"), Peer("b"), FIRST))
        await line.look_up(gateway.agent)
        assert {"192.0.2.1", "192.0.2.2", "192.0.2.3", FIRST.host} == line.addresses
        await closed(gateway)

    async def test_a_peer_without_an_address_leaves_the_others(self) -> None:
        gateway = Gateway(resolver=Zone(addresses={"b": ["192.0.2.3"]}))
        line = Line("trunk", (Peer("gone"), Peer("b"), FIRST))
        await line.look_up(gateway.agent)
        assert {"192.0.2.3", FIRST.host} == line.addresses
        await closed(gateway)

    async def test_what_is_known_is_kept_while_dns_is_away(self) -> None:
        zone = Zone(addresses={"a": ["192.0.2.1"]})
        gateway, line = Gateway(resolver=zone), Line("trunk", (Peer("a"), FIRST))
        await line.look_up(gateway.agent)
        zone._addresses.clear()
        await line.look_up(gateway.agent)
        assert {"192.0.2.1", FIRST.host} == line.addresses
        await closed(gateway)
