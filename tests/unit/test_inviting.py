"""An INVITE of ours on its way to an answer, a refusal or a CANCEL (RFC 3261 §9, §13, §22; RFC 3262; RFC 4028)."""

from __future__ import annotations

import asyncio

import pytest
from aiosipua.header_codec import parse_auth
from aiosipua.message import SipRequest, SipResponse
from sip_bench import OFFER, PEER, Bench, ours, response

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.dialog import Dialog
from gateway.telephony.errors import CallFailed
from gateway.telephony.inviting import MOST_ATTEMPTS, Answered, Inviting, Refused
from gateway.telephony.message import identity

CONTACT = {"Contact": "<sip:bob@192.0.2.8:5090>"}


class Caller:
    """An INVITE on a bench. Branches that nobody wants are kept in ``unwanted``: tag and CSeq number."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.bench = Bench()
        self.unwanted: list[tuple[str | None, int]] = []
        self.inviting = Inviting(
            self.bench.endpoint, PEER, ClientAuth(credentials) if credentials else None, self._within, self._end
        )
        self.task: asyncio.Task[Answered | Refused] | None = None

    def _within(self, dialog: Dialog, request: SipRequest) -> None:
        self.bench.endpoint.request(request, PEER, lambda _: None)

    def _end(self, dialog: Dialog, seq: int) -> None:
        self.unwanted.append((dialog.remote.tag, seq))

    async def invite(self, *, ring_s: float = 60, first_s: float | None = None, **headers: str) -> Caller:
        invite = ours("INVITE")
        for name, value in headers.items():
            invite.set_header(name.replace("_", "-"), value)
        self.task = asyncio.create_task(self.inviting.run(invite, ring_s, first_s))
        await self.settle()
        return self

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def last(self) -> SipRequest:
        """The last INVITE that was sent."""
        return [m for m in self.bench.wire.messages if isinstance(m, SipRequest) and m.method == "INVITE"][-1]

    @property
    def methods(self) -> list[str | int]:
        return self.bench.wire.summary

    def requests(self, method: str) -> list[SipRequest]:
        return [m for m in self.bench.wire.messages if isinstance(m, SipRequest) and m.method == method]

    async def take(
        self, status: int, *, to_tag: str = "theirs", body: bytes = b"", to: SipRequest | None = None, **headers: str
    ) -> SipResponse:
        """A response comes, with a Contact unless it is said otherwise."""
        made = response(to or self.last, status, to_tag=to_tag, headers=CONTACT)
        for name, value in headers.items():
            made.remove_header(name.replace("_", "-"))
            if value:
                made.set_header(name.replace("_", "-"), value)
        made.body = body
        self.bench.take(made)
        await self.settle()
        return made

    async def outcome(self) -> Answered | Refused:
        assert self.task is not None
        return await asyncio.wait_for(self.task, 10)

    async def failure(self) -> CallFailed:
        with pytest.raises(CallFailed) as failed:
            await self.outcome()
        return failed.value


class TestFinalAnswers:
    """§13.2.2."""

    async def test_a_2xx_makes_the_dialog(self) -> None:
        caller = await Caller().invite()
        await caller.take(180)
        await caller.take(200, body=OFFER)
        answered = await caller.outcome()
        assert isinstance(answered, Answered)
        assert ("theirs", "sip:bob@192.0.2.8:5090", OFFER) == (
            answered.dialog.remote.tag, answered.dialog.remote_target, answered.body,
        )  # fmt: skip

    async def test_a_2xx_without_a_contact_is_no_call(self) -> None:
        caller = await Caller().invite()
        await caller.take(200, Contact="")
        assert 502 == (await caller.failure()).status

    @pytest.mark.parametrize(("before", "rang"), [((), False), ((100,), False), ((100, 180), True), ((183,), True)])
    async def test_a_refusal_tells_whether_a_phone_rang(self, before: tuple[int, ...], rang: bool) -> None:
        caller = await Caller().invite()
        for status in (*before, 486):
            await caller.take(status)
        refused = await caller.outcome()
        assert isinstance(refused, Refused)
        assert (486, rang) == (refused.response.status_code, refused.rang)

    async def test_silence_is_408(self) -> None:
        caller = await Caller().invite()
        caller.bench.clock.advance(33)
        assert 408 == (await caller.failure()).status

    async def test_a_hop_that_cannot_be_reached_is_408_at_once(self) -> None:
        caller = Caller()
        caller.bench.wire.broken.add(PEER)
        await caller.invite()
        assert 408 == (await caller.failure()).status
        assert [] == caller.methods

    async def test_a_hop_that_says_nothing_in_time_is_given_up(self) -> None:
        caller = await Caller().invite(first_s=0.01)
        assert 408 == (await caller.failure()).status

    async def test_any_response_counts_as_a_sign_of_life(self) -> None:
        caller = await Caller().invite(first_s=0.05)
        await caller.take(100)
        await asyncio.sleep(0.1)
        assert caller.task is not None
        assert not caller.task.done()
        await caller.take(200)
        assert isinstance(await caller.outcome(), Answered)


class TestForks:
    """§13.2.2.4: several phones may answer; one is wanted."""

    async def test_the_second_phone_that_answers_is_ended(self) -> None:
        caller = await Caller().invite()
        await caller.take(200, to_tag="first")
        answered = await caller.outcome()
        await caller.take(200, to_tag="second")
        assert isinstance(answered, Answered)
        assert "first" == answered.dialog.remote.tag
        assert [("second", 1)] == caller.unwanted

    async def test_a_2xx_that_comes_again_is_told_to_the_call(self) -> None:
        """Its ACK was lost."""
        caller = await Caller().invite()
        await caller.take(200)
        again: list[int] = []
        caller.inviting.on_2xx_again = lambda: again.append(1)
        await caller.take(200)
        await caller.take(200)
        assert ([1, 1], []) == (again, caller.unwanted)

    async def test_until_there_is_a_call_it_is_passed_over(self) -> None:
        caller = await Caller().invite()
        await caller.take(200)
        await caller.take(200)
        assert [] == caller.unwanted

    async def test_a_2xx_of_a_second_phone_without_a_contact_is_passed_over(self) -> None:
        caller = await Caller().invite()
        await caller.take(200, to_tag="first")
        await caller.take(200, to_tag="second", Contact="")
        assert [] == caller.unwanted


class TestCancelling:
    """§9.1."""

    async def test_a_phone_that_rings_too_long_is_cancelled(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.take(180)
        failed = await caller.failure()
        assert (487, True) == (failed.status, failed.rang)
        assert ["INVITE", "CANCEL"] == caller.methods
        (cancel,) = caller.requests("CANCEL")
        assert identity(caller.last).branch == identity(cancel).branch

    async def test_nothing_is_cancelled_before_something_was_heard(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.failure()
        assert ["INVITE"] == caller.methods
        await caller.take(100)
        assert ["INVITE", "CANCEL"] == caller.methods

    async def test_it_is_cancelled_once(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.take(100)
        await caller.failure()
        await caller.take(180)
        await caller.take(183)
        assert ["INVITE", "CANCEL"] == caller.methods

    async def test_the_487_ends_it_all(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.take(180)
        await caller.failure()
        await caller.take(200, to=caller.requests("CANCEL")[0])
        await caller.take(487)
        caller.bench.clock.advance(40)
        assert ["INVITE", "CANCEL", "ACK"] == caller.methods
        assert 0 == len(caller.bench.endpoint)

    async def test_a_2xx_that_crosses_the_cancel_is_ended(self) -> None:
        caller = await Caller().invite(ring_s=0.02)
        await caller.take(180)
        assert 487 == (await caller.failure()).status
        await caller.take(200)
        assert [("theirs", 1)] == caller.unwanted

    async def test_and_ended_again_when_it_comes_again(self) -> None:
        """The ACK to it was lost."""
        caller = await Caller().invite(ring_s=0.02)
        await caller.take(180)
        await caller.failure()
        await caller.take(200)
        await caller.take(200)
        assert 2 == len(caller.unwanted)

    async def test_who_gives_the_attempt_up_cancels_it(self) -> None:
        caller = await Caller().invite()
        await caller.take(180)
        assert caller.task is not None
        caller.task.cancel()
        await caller.settle()
        assert ["INVITE", "CANCEL"] == caller.methods

    async def test_who_gives_up_just_as_the_answer_comes_ends_the_call(self) -> None:
        caller = await Caller().invite()
        assert caller.task is not None
        caller.bench.take(response(caller.last, 200, headers=CONTACT))
        caller.task.cancel()
        await caller.settle()
        assert [("theirs", 1)] == caller.unwanted

    async def test_a_hop_that_was_given_up_and_rings_after_all_is_cancelled(self) -> None:
        caller = await Caller().invite(first_s=0.01)
        await caller.failure()
        await caller.take(180)
        assert ["INVITE", "CANCEL"] == caller.methods


class TestChallenges:
    """§22.2, §22.3."""

    ALICE = Credentials("alice", "wonderland")

    def challenge(self, nonce: str, realm: str = "pbx", more: str = "") -> str:
        return f'Digest realm="{realm}", nonce="{nonce}", qop="auth"{more}'

    def answers(self, request: SipRequest, name: str = "Authorization") -> list[tuple[str, str]]:
        """Realm and nonce of each answer."""
        parsed = [parse_auth(value, credentials=True).params for value in request.get_header_values(name)]
        return [(params["realm"], params["nonce"]) for params in parsed]

    async def test_a_challenged_invite_comes_again_as_a_new_transaction_of_the_same_call(self) -> None:
        caller = await Caller(self.ALICE).invite()
        first = caller.last
        await caller.take(401, WWW_Authenticate=self.challenge("n1"))
        second = caller.last
        assert ["INVITE", "ACK", "INVITE"] == caller.methods
        one, two = identity(first), identity(second)
        assert (one.call_id, one.from_.tag, one.cseq.seq + 1) == (two.call_id, two.from_.tag, two.cseq.seq)
        assert one.branch != two.branch
        assert [("pbx", "n1")] == self.answers(second)

    async def test_a_proxy_and_then_the_far_end_are_both_answered(self) -> None:
        caller = await Caller(self.ALICE).invite()
        await caller.take(407, Proxy_Authenticate=self.challenge("p1", "proxy"))
        await caller.take(401, WWW_Authenticate=self.challenge("n1"))
        assert [("pbx", "n1")] == self.answers(caller.last)
        assert [("proxy", "p1")] == self.answers(caller.last, "Proxy-Authorization")
        await caller.take(200)
        assert isinstance(await caller.outcome(), Answered)

    async def test_the_ack_to_a_refusal_repeats_the_answers(self) -> None:
        """§22.1."""
        caller = await Caller(self.ALICE).invite()
        await caller.take(401, WWW_Authenticate=self.challenge("n1"))
        await caller.take(486)
        assert [("pbx", "n1")] == self.answers(caller.requests("ACK")[-1])

    async def test_a_wrong_password_ends_it(self) -> None:
        caller = await Caller(self.ALICE).invite()
        for nonce in ("n1", "n2"):
            await caller.take(401, WWW_Authenticate=self.challenge(nonce))
        refused = await caller.outcome()
        assert isinstance(refused, Refused)
        assert (401, 2) == (refused.response.status_code, len(caller.requests("INVITE")))

    async def test_a_stale_nonce_is_replaced(self) -> None:
        caller = await Caller(self.ALICE).invite()
        await caller.take(401, WWW_Authenticate=self.challenge("n1"))
        await caller.take(401, WWW_Authenticate=self.challenge("n2", more=", stale=true"))
        assert [("pbx", "n2")] == self.answers(caller.last)

    async def test_endless_staleness_ends(self) -> None:
        caller = await Caller(self.ALICE).invite()
        assert caller.task is not None
        for number in range(50):
            if not caller.task.done():
                await caller.take(401, WWW_Authenticate=self.challenge(f"n{number}", more=", stale=true"))
        assert isinstance(await caller.outcome(), Refused)
        assert len(caller.requests("INVITE")) <= MOST_ATTEMPTS

    async def test_without_credentials_a_challenge_is_a_refusal(self) -> None:
        caller = await Caller().invite()
        await caller.take(407, Proxy_Authenticate=self.challenge("n1"))
        refused = await caller.outcome()
        assert isinstance(refused, Refused)
        assert 407 == refused.response.status_code


class TestLongerSessions:
    """RFC 4028 §7.3."""

    async def test_a_session_that_is_too_short_is_asked_for_longer(self) -> None:
        caller = await Caller().invite(Session_Expires="1800;refresher=uac")
        await caller.take(422, Min_SE="3600")
        assert ("3600", "3600;refresher=uac") == (
            caller.last.get_header("Min-SE"), caller.last.get_header("Session-Expires"),
        )  # fmt: skip
        assert 2 == identity(caller.last).cseq.seq

    async def test_and_longer_still(self) -> None:
        caller = await Caller().invite(Session_Expires="90;refresher=uac", Min_SE="90")
        for least in ("600", "1200"):
            await caller.take(422, Min_SE=least)
        assert "1200;refresher=uac" == caller.last.get_header("Session-Expires")

    async def test_one_that_is_never_long_enough_is_refused(self) -> None:
        caller = await Caller().invite(Session_Expires="1800;refresher=uac")
        await caller.take(422, Min_SE="3600")
        await caller.take(422, Min_SE="3600")
        assert isinstance(await caller.outcome(), Refused)
