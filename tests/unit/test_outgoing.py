"""Requests of ours and what comes back: challenges, hops, final responses (RFC 3261 §8.1.3, §22; RFC 3263 §4.3)."""

from __future__ import annotations

import asyncio

import pytest
from aiosipua.header_codec import parse_auth
from aiosipua.message import SipRequest, SipResponse
from sip_bench import PEER, Bench, ours, response

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.dialog import Dialog, client_dialog
from gateway.telephony.errors import CallFailed
from gateway.telephony.message import identity
from gateway.telephony.outgoing import MOST_ATTEMPTS, Outgoing
from gateway.telephony.transport import Hop

ALICE = Credentials("alice", "wonderland")
SECOND = Hop("192.0.2.3", 5060)


def challenge(nonce: str, more: str = "") -> dict[str, str]:
    return {"WWW-Authenticate": f'Digest realm="pbx", nonce="{nonce}", qop="auth"{more}'}


class Sender:
    def __init__(self) -> None:
        self.bench = Bench()
        self.outgoing = Outgoing(self.bench.endpoint)
        self.finals: list[int | None] = []

    @property
    def sent(self) -> list[SipRequest]:
        """Each request once, however often it was sent again."""
        found = {m.via[0].branch: m for m in self.bench.wire.messages if isinstance(m, SipRequest)}
        return list(found.values())

    def send(self, request: SipRequest, auth: ClientAuth | None = None, dialog: Dialog | None = None) -> None:
        def final(response: SipResponse | None) -> None:
            self.finals.append(response.status_code if response else None)

        self.outgoing.send(request, PEER, final, auth=auth, dialog=dialog)

    def reply(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.bench.take(response(self.sent[-1], status, headers=headers))

    def nonces(self) -> list[str | None]:
        """Of the answer in each request."""
        values = [request.get_header("Authorization") for request in self.sent]
        return [parse_auth(value, credentials=True).params["nonce"] if value else None for value in values]


@pytest.fixture
def sender() -> Sender:
    return Sender()


class TestWithoutADialog:
    def test_the_final_response_is_told_once(self, sender: Sender) -> None:
        sender.send(ours("MESSAGE"))
        for status in (100, 200, 200):
            sender.reply(status)
        assert [200] == sender.finals

    def test_silence_is_told_too(self, sender: Sender) -> None:
        sender.send(ours("MESSAGE"))
        sender.bench.clock.advance(33)
        assert [None] == sender.finals

    def test_a_challenge_is_answered_under_the_next_number(self, sender: Sender) -> None:
        sender.send(ours("REGISTER"), ClientAuth(ALICE))
        sender.reply(401, challenge("n1"))
        sender.reply(200)
        assert ([200], [None, "n1"]) == (sender.finals, sender.nonces())
        first, second = (identity(request) for request in sender.sent)
        assert (first.cseq.seq + 1, first.call_id, first.from_.tag) == (
            second.cseq.seq, second.call_id, second.from_.tag,
        )  # fmt: skip

    def test_a_wrong_password_is_told(self, sender: Sender) -> None:
        sender.send(ours("REGISTER"), ClientAuth(ALICE))
        sender.reply(401, challenge("n1"))
        sender.reply(401, challenge("n2"))
        assert ([401], 2) == (sender.finals, len(sender.sent))

    def test_endless_staleness_ends(self, sender: Sender) -> None:
        sender.send(ours("REGISTER"), ClientAuth(ALICE))
        for number in range(50):
            if not sender.finals:
                sender.reply(401, challenge(f"n{number}", ", stale=true"))
        assert ([401], MOST_ATTEMPTS) == (sender.finals, len(sender.sent))

    def test_without_credentials_it_is_told(self, sender: Sender) -> None:
        sender.send(ours("REGISTER"))
        sender.reply(401, challenge("n1"))
        assert [401] == sender.finals


class TestWithinADialog:
    @pytest.fixture
    def dialog(self) -> Dialog:
        invite = ours("INVITE", seq=5)
        invite.add_header("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-ours")
        return client_dialog(invite, response(invite, 200, headers={"Contact": "<sip:bob@192.0.2.8>"}))

    def test_the_dialog_counts_on(self, sender: Sender, dialog: Dialog) -> None:
        sender.send(dialog.request("BYE"), ClientAuth(ALICE), dialog)
        sender.reply(401, challenge("n1"))
        assert ["6 BYE", "7 BYE", "8 INFO"] == [
            *(request.get_header("CSeq") for request in sender.sent), dialog.request("INFO").get_header("CSeq"),
        ]  # fmt: skip

    def test_what_was_asked_before_is_answered_at_once(self, sender: Sender, dialog: Dialog) -> None:
        """RFC 3261 §22.2: it saves the challenge."""
        auth = ClientAuth(ALICE)
        for _ in range(2):
            sender.send(dialog.request("INFO"), auth, dialog)
            if not sender.finals:
                sender.reply(401, challenge("n1"))
            sender.reply(200)
        assert ([200, 200], [None, "n1", "n1"]) == (sender.finals, sender.nonces())

    def test_hours_of_challenged_refreshes_are_all_answered(self, sender: Sender, dialog: Dialog) -> None:
        """Each with a nonce of its own, said to be stale or not."""
        auth = ClientAuth(ALICE)
        for number in range(30):
            sender.send(dialog.request("UPDATE"), auth, dialog)
            sender.reply(401, challenge(f"n{number}", ", stale=true" if number else ""))
            sender.reply(200)
        assert [200] * 30 == sender.finals


class TestSeveralHops:
    async def run(self, sender: Sender, *statuses: int | None) -> SipResponse:
        """The response when each hop in turn says so; None: nothing at all."""
        task = asyncio.create_task(sender.outgoing.request(ours("OPTIONS"), [PEER, SECOND], None))
        for status in statuses:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if status is None:
                sender.bench.clock.advance(33)
            else:
                sender.reply(status)
        return await asyncio.wait_for(task, 10)

    async def test_the_first_that_answers_is_enough(self, sender: Sender) -> None:
        assert 200 == (await self.run(sender, 200)).status_code
        assert [PEER] == [hop for _, _, hop in sender.bench.wire.sent]

    @pytest.mark.parametrize("first", [None, 503])
    async def test_the_next_is_asked_when_one_is_silent_or_overloaded(self, sender: Sender, first: int | None) -> None:
        assert 200 == (await self.run(sender, first, 200)).status_code
        assert SECOND == sender.bench.wire.sent[-1][2]

    async def test_any_other_answer_is_the_answer(self, sender: Sender) -> None:
        assert 404 == (await self.run(sender, 404)).status_code

    async def test_no_two_attempts_are_alike(self, sender: Sender) -> None:
        """One proxy behind both must not take the second for a loop of the first (RFC 3261 §8.2.2.2)."""
        await self.run(sender, 503, 200)
        assert 2 == len({identity(request).cseq.seq for request in sender.sent})

    async def test_an_overload_everywhere_is_told(self, sender: Sender) -> None:
        assert 503 == (await self.run(sender, 503, 503)).status_code

    async def test_silence_everywhere_is_408(self, sender: Sender) -> None:
        with pytest.raises(CallFailed, match="408 no answer to our OPTIONS"):
            await self.run(sender, None, None)
