"""An INVITE that waits for our answer: ringing, PRACK, a late offer (RFC 3261 §13.3.1; RFC 3262 §3; RFC 3311 §5.2)."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from aiosipua.message import SipRequest, SipResponse
from sip_bench import OFFER, Bench, request

from gateway.telephony.call import Call
from gateway.telephony.endpoint import Endpoint, Incoming
from gateway.telephony.errors import CallFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.message import make_response


class Caller:
    """The far end, and in the user agent's place what only notes that it was asked."""

    def __init__(self, require: str = "", body: bytes = OFFER) -> None:
        self.bench = Bench(self._take)
        self.dropped = 0
        self.answered: list[str] = []
        self._numbers = count(2)
        self.invitation: Invitation | None = None
        self.bench.take(request("INVITE", body=body, headers={"Require": require} if require else {}))

    @property
    def endpoint(self) -> Endpoint:
        return self.bench.endpoint

    async def answer(self, invitation: Invitation, call_id: str) -> Call:
        if invitation.cancelled.is_set():
            raise CallFailed(487, "the caller gave up")
        self.answered.append(call_id)
        return None  # type: ignore[return-value]

    def drop(self, invitation: Invitation) -> None:
        self.dropped += 1

    def _take(self, incoming: Incoming) -> None:
        if self.invitation is None:
            self.invitation = Invitation(self, incoming, "200", None, "ours", "<sip:192.0.2.1>")
        else:
            self.invitation.take(incoming)

    @property
    def invited(self) -> Invitation:
        assert self.invitation is not None
        return self.invitation

    @property
    def statuses(self) -> list[str | int]:
        return self.bench.wire.summary

    @property
    def last(self) -> SipResponse:
        assert isinstance(self.bench.wire.last, SipResponse)
        return self.bench.wire.last

    @property
    def rseq(self) -> str:
        return next(m.get_header("RSeq") or "" for m in self.bench.wire.messages if m.get_header("RSeq"))

    def send(self, method: str, **headers: str) -> SipRequest:
        number = next(self._numbers)
        made = request(method, branch=f"z9hG4bK-{number}", seq=number, to_tag="ours", headers=headers)
        self.bench.take(made)
        return made

    def prack(self, rack: str = "") -> None:
        self.send("PRACK", RAck=rack or f"{self.rseq} 1 INVITE")


@pytest.fixture
async def caller() -> Caller:
    return Caller()


@pytest.fixture
async def reliable() -> Caller:
    """Demands that provisional responses be reliable, and is rung."""
    made = Caller(require="100rel")
    made.invited.ring()
    return made


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class TestRinging:
    async def test_a_180_has_our_tag_and_contact(self, caller: Caller) -> None:
        """RFC 3261 §12.1.1: it makes an early dialog."""
        caller.invited.ring()
        assert [180] == caller.statuses
        assert ("ours", "<sip:192.0.2.1>") == (
            caller.last.to_addr.tag if caller.last.to_addr else None, caller.last.get_header("Contact"),
        )  # fmt: skip

    async def test_it_is_not_repeated(self, caller: Caller) -> None:
        caller.invited.ring()
        caller.bench.clock.advance(100)
        assert [180] == caller.statuses

    async def test_a_refusal_ends_it(self, caller: Caller) -> None:
        caller.invited.ring()
        caller.invited.reject(486)
        assert ([180, 486], 1) == (caller.statuses, caller.dropped)

    async def test_after_a_final_response_there_is_no_ringing(self, caller: Caller) -> None:
        caller.invited.reject(486)
        caller.invited.ring()
        assert [486] == caller.statuses


class TestReliableRinging:
    """RFC 3262 §3."""

    async def test_it_says_that_it_wants_to_be_acknowledged(self, reliable: Caller) -> None:
        assert ("100rel", True) == (reliable.last.get_header("Require"), 0 < int(reliable.rseq) < 2**31)

    async def test_it_is_sent_again_at_doubling_intervals_until_it_is(self, reliable: Caller) -> None:
        reliable.bench.clock.advance(4)
        reliable.prack()
        reliable.bench.clock.advance(100)
        assert [180, 180, 180, 180, 200] == reliable.statuses
        assert [0.0, 0.5, 1.5, 3.5, 4.0] == reliable.bench.wire.times

    async def test_without_an_acknowledgement_the_invite_is_refused(self, reliable: Caller) -> None:
        reliable.bench.clock.advance(32)
        assert (504, 1, True) == (reliable.statuses[-1], reliable.dropped, reliable.invited.cancelled.is_set())

    @pytest.mark.parametrize(
        "rack", ["1 1 INVITE", "{} 2 INVITE", "{} 1 UPDATE", "{} 1", "", "x 1 INVITE", "{} 1 INVITE 4"]
    )
    async def test_a_prack_of_something_else_is_not_taken(self, reliable: Caller, rack: str) -> None:
        reliable.send("PRACK", RAck=rack.format(reliable.rseq))
        assert 481 == reliable.statuses[-1]
        reliable.bench.clock.advance(0.6)
        assert 180 == reliable.statuses[-1]

    async def test_a_prack_that_comes_again_is_answered_again(self, reliable: Caller) -> None:
        reliable.prack()
        sent = [m for m in reliable.bench.wire.messages if m.status_code == 200]  # type: ignore[union-attr]
        reliable.bench.take(
            request("PRACK", branch="z9hG4bK-2", seq=2, to_tag="ours", headers={"RAck": f"{reliable.rseq} 1 INVITE"})
        )
        assert [180, 200, 200] == reliable.statuses
        assert 1 == len(sent)

    async def test_it_rings_once(self, reliable: Caller) -> None:
        reliable.invited.ring()
        assert [180] == reliable.statuses

    async def test_the_2xx_waits_for_the_acknowledgement(self, reliable: Caller) -> None:
        answering = asyncio.create_task(reliable.invited.answer("call-1"))
        await settle()
        assert [] == reliable.answered
        reliable.prack()
        await answering
        assert ["call-1"] == reliable.answered

    async def test_who_gives_up_meanwhile_is_not_answered(self, reliable: Caller) -> None:
        answering = asyncio.create_task(reliable.invited.answer("call-1"))
        await settle()
        reliable.invited.cancelled.set()
        reliable.invited.reject(487)
        with pytest.raises(CallFailed, match="487"):
            await answering
        assert 487 == reliable.statuses[-1]

    async def test_nor_is_one_whose_acknowledgement_never_comes(self, reliable: Caller) -> None:
        answering = asyncio.create_task(reliable.invited.answer("call-1"))
        await settle()
        reliable.bench.clock.advance(33)
        with pytest.raises(CallFailed, match="487"):
            await answering
        assert [] == reliable.answered

    async def test_a_refusal_ends_the_repetitions(self, reliable: Caller) -> None:
        reliable.invited.reject(486)
        reliable.bench.take(request("ACK", to_tag="ours"))
        reliable.bench.clock.advance(100)
        assert [180, 486] == reliable.statuses


class TestTheEarlyDialog:
    async def test_an_update_is_too_early(self, caller: Caller) -> None:
        """RFC 3311 §5.2: the offer of the INVITE is not answered yet."""
        caller.invited.ring()
        caller.send("UPDATE")
        assert (500, True) == (caller.statuses[-1], 0 <= int(caller.last.get_header("Retry-After") or "-1") <= 10)

    async def test_a_bye_ends_it(self, caller: Caller) -> None:
        """RFC 3261 §15: the caller may, and the INVITE is answered 487."""
        caller.invited.ring()
        caller.send("BYE")
        assert ([180, 200, 487], True) == (caller.statuses, caller.invited.cancelled.is_set())

    @pytest.mark.parametrize("method", ["INFO", "NOTIFY", "REFER", "MESSAGE"])
    async def test_nothing_else_is_known_there(self, caller: Caller, method: str) -> None:
        caller.send(method)
        assert [481] == caller.statuses

    @pytest.mark.parametrize(
        ("changed", "belongs"),
        [({}, True), ({"to_tag": "other"}, False), ({"from_tag": "other"}, False), ({"call_id": "other"}, False)],
    )
    async def test_what_belongs_to_it_has_its_call_id_and_both_tags(
        self, caller: Caller, changed: dict[str, str], belongs: bool
    ) -> None:
        bench = Bench()
        bench.take(request("PRACK", **{"to_tag": "ours", **changed}))  # type: ignore[arg-type]
        assert belongs == caller.invited.belongs(bench.requests[0].ids)


class TestLateOffer:
    """RFC 3261 §13.3.1.4: our offer goes in the 200, their answer comes in the ACK."""

    @pytest.fixture
    async def waiting(self) -> tuple[Caller, asyncio.Task[bytes]]:
        caller = Caller(body=b"")
        final = make_response(caller.invited.incoming.request, 200, to_tag="ours")
        final.body = OFFER
        task = asyncio.create_task(caller.invited.answer_to(final))
        await settle()
        return caller, task

    async def test_the_answer_is_the_body_of_the_ack(self, waiting: tuple[Caller, asyncio.Task[bytes]]) -> None:
        caller, task = waiting
        caller.invited.acknowledged(request("ACK", to_tag="ours", body=b"answer"))
        assert b"answer" == await task

    async def test_until_it_comes_the_200_is_sent_again(self, waiting: tuple[Caller, asyncio.Task[bytes]]) -> None:
        caller, task = waiting
        caller.bench.clock.advance(4)
        caller.invited.acknowledged(request("ACK", to_tag="ours", body=b"answer"))
        await task
        caller.bench.clock.advance(100)
        assert [200] * 4 == caller.statuses

    async def test_the_second_ack_changes_nothing(self, waiting: tuple[Caller, asyncio.Task[bytes]]) -> None:
        caller, task = waiting
        for body in (b"first", b"second"):
            caller.invited.acknowledged(request("ACK", to_tag="ours", body=body))
        assert b"first" == await task

    async def test_who_hangs_up_instead_ends_the_wait(self, waiting: tuple[Caller, asyncio.Task[bytes]]) -> None:
        caller, task = waiting
        caller.send("BYE")
        with pytest.raises(CallFailed, match="487"):
            await task
        assert [200, 200] == caller.statuses

    async def test_an_ack_that_nobody_waits_for_is_passed_over(self, caller: Caller) -> None:
        caller.invited.acknowledged(request("ACK", to_tag="ours", body=b"answer"))
        assert [] == caller.statuses
