"""Reliable provisional responses to an INVITE of ours (RFC 3262 §4)."""

from __future__ import annotations

import pytest
from sip_bench import OFFER
from test_inviting import Caller

from gateway.telephony.inviting import Answered
from gateway.telephony.message import identity


async def ringing(
    caller: Caller, rseq: int | str, *, to_tag: str = "theirs", status: int = 183, body: bytes = b""
) -> None:
    await caller.take(status, to_tag=to_tag, body=body, Require="100rel", RSeq=str(rseq))


def acknowledged(caller: Caller) -> list[str | None]:
    """The RAck of every PRACK."""
    return [prack.get_header("RAck") for prack in caller.requests("PRACK")]


@pytest.fixture
async def caller() -> Caller:
    return await Caller().invite()


class TestPrack:
    async def test_each_is_acknowledged_by_its_number_and_its_invite(self, caller: Caller) -> None:
        await ringing(caller, 7)
        await ringing(caller, 8, status=180)
        assert ["7 1 INVITE", "8 1 INVITE"] == acknowledged(caller)

    async def test_the_prack_is_a_request_of_the_early_dialog(self, caller: Caller) -> None:
        await ringing(caller, 7)
        (prack,) = caller.requests("PRACK")
        ids = identity(prack)
        assert ("sip:bob@192.0.2.8:5090", "theirs", "ours", 2) == (
            prack.uri, ids.to.tag, ids.from_.tag, ids.cseq.seq,
        )  # fmt: skip

    async def test_one_that_comes_again_is_not_acknowledged_anew(self, caller: Caller) -> None:
        """The PRACK's own transaction sends it again."""
        for _ in range(3):
            await ringing(caller, 7)
        assert ["7 1 INVITE"] == acknowledged(caller)

    @pytest.mark.parametrize("rseq", [9, 6])
    async def test_one_out_of_order_is_not_acknowledged(self, caller: Caller, rseq: int) -> None:
        await ringing(caller, 7)
        await ringing(caller, rseq)
        assert ["7 1 INVITE"] == acknowledged(caller)

    async def test_the_one_that_was_missing_goes_on_the_order(self, caller: Caller) -> None:
        for rseq in (7, 9, 8, 9):
            await ringing(caller, rseq)
        assert ["7 1 INVITE", "8 1 INVITE", "9 1 INVITE"] == acknowledged(caller)

    async def test_each_fork_counts_for_itself(self, caller: Caller) -> None:
        await ringing(caller, 7, to_tag="first")
        await ringing(caller, 100, to_tag="second")
        await ringing(caller, 8, to_tag="first")
        assert ["7 1 INVITE", "100 1 INVITE", "8 1 INVITE"] == acknowledged(caller)
        assert ["first", "second", "first"] == [identity(prack).to.tag for prack in caller.requests("PRACK")]

    async def test_an_unreliable_one_is_not_acknowledged(self, caller: Caller) -> None:
        await caller.take(180, RSeq="7")
        await caller.take(180, Require="100rel")
        assert [] == acknowledged(caller)

    @pytest.mark.parametrize("rseq", ["", "x", "-1", "²", "9" * 40])
    async def test_a_number_that_is_none_is_not_acknowledged(self, caller: Caller, rseq: str) -> None:
        await ringing(caller, rseq)
        assert [] == acknowledged(caller)

    async def test_without_a_contact_there_is_nobody_to_acknowledge_to(self, caller: Caller) -> None:
        await caller.take(183, Require="100rel", RSeq="7", Contact="")
        assert [] == acknowledged(caller)

    async def test_once_given_up_it_is_cancelled_instead(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.failure()
        await ringing(caller, 7)
        assert ["INVITE", "CANCEL"] == caller.methods


class TestTheCallAfterwards:
    async def test_its_requests_count_on_from_the_pracks(self, caller: Caller) -> None:
        await ringing(caller, 7)
        await ringing(caller, 8)
        await caller.take(200, body=OFFER)
        answered = await caller.outcome()
        assert isinstance(answered, Answered)
        assert "4 BYE" == answered.dialog.request("BYE").get_header("CSeq")

    async def test_the_answer_of_a_reliable_response_stands_where_the_2xx_has_none(self, caller: Caller) -> None:
        """RFC 3262 §5."""
        await ringing(caller, 7, body=OFFER)
        await caller.take(200)
        answered = await caller.outcome()
        assert isinstance(answered, Answered)
        assert OFFER == answered.body

    async def test_the_answer_of_another_fork_does_not(self, caller: Caller) -> None:
        await ringing(caller, 7, to_tag="first", body=OFFER)
        await caller.take(200, to_tag="second")
        answered = await caller.outcome()
        assert isinstance(answered, Answered)
        assert b"" == answered.body
