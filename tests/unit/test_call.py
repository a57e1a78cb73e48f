"""An answered call, as the rest of the house sees it: keys, transfer, end (RFC 3261 §15, RFC 3515, RFC 6086)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from call_bench import Party

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.call import CallEnd
from gateway.telephony.errors import CallOver

RELAY, PLAIN = "application/dtmf-relay", "application/dtmf"
FRAGMENT = "message/sipfrag;version=2.0"


@pytest.fixture
async def party() -> Iterator[Party]:
    made = Party()
    yield made  # type: ignore[misc]
    made.close()


class TestKeysByInfo:
    """What phones without telephone-events do."""

    @pytest.mark.parametrize(
        ("kind", "body", "keys"),
        [
            (RELAY, b"Signal=5\r\nDuration=160\r\n", ["5"]), (RELAY, b"Signal= *\r\n", ["*"]),
            (RELAY, b"Duration=160\nsignal = #\n", ["#"]), (RELAY, b"Signal=10\r\n", ["*"]), (RELAY, b"Signal=11", ["#"]),
            (PLAIN, b"7", ["7"]), (PLAIN, b" d \r\n", ["D"]), (f"{PLAIN}; charset=utf-8", b"1", ["1"]),
            (RELAY, b"Signal=55\r\n", []), (RELAY, b"", []), (PLAIN, b"x", []), (PLAIN, b"", []), (RELAY, b"\xff\xfe", []),
            ("text/plain", b"Signal=5", []), ("", b"Signal=5", []),
        ],
    )  # fmt: skip
    async def test_each_is_heard_once(self, party: Party, kind: str, body: bytes, keys: list[str]) -> None:
        headers = {"Content_Type": kind} if kind else {}
        assert 200 == party.send("INFO", body=body, **headers).status_code
        assert keys == party.line.keys


class TestEnding:
    async def test_hanging_up_says_bye(self, party: Party) -> None:
        party.call.hangup("done")
        assert (["BYE"], CallEnd("gateway", "done")) == (party.methods, party.end)

    async def test_twice_is_once(self, party: Party) -> None:
        for reason in ("first", "second"):
            party.call.hangup(reason)
        assert (["BYE"], CallEnd("gateway", "first")) == (party.methods, party.end)

    async def test_byes_that_cross_are_both_answered(self, party: Party) -> None:
        party.call.hangup("done")
        assert 200 == party.send("BYE").status_code
        assert CallEnd("gateway", "done") == party.end

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "NOTIFY"])
    async def test_afterwards_nothing_is_known_of_it(self, party: Party, method: str) -> None:
        party.call.hangup("done")
        assert 481 == party.send(method).status_code

    async def test_a_bye_that_is_challenged_is_sent_with_the_password(self) -> None:
        """Kamailio asks within dialogs, too."""
        party = Party("outbound")
        party.call.auth = ClientAuth(Credentials("alice", "wonderland"))
        party.call.hangup("done")
        await party.reply(407, "BYE", Proxy_Authenticate='Digest realm="proxy", nonce="n1"')
        byes = party.sent("BYE")
        party.close()
        assert [False, True] == [bye.get_header("Proxy-Authorization") is not None for bye in byes]
        assert ["2 BYE", "3 BYE"] == [bye.get_header("CSeq") for bye in byes]

    async def test_what_plays_stops(self, party: Party) -> None:
        playing = asyncio.create_task(party.call.play((b"a" * 160,) * 100))
        await party.settle()
        party.send("BYE")
        assert 0 == (await asyncio.wait_for(playing, 10)).sent
        with pytest.raises(CallOver, match="hung up"):
            await party.call.play((b"a" * 160,))


class TestTransfer:
    """RFC 3515: the far end calls another, and says how that goes."""

    @pytest.fixture
    async def transferring(self, party: Party) -> asyncio.Task[bool]:
        task = asyncio.create_task(party.call.transfer("sip:agents@pbx.example.com"))
        await party.settle()
        return task

    def notify(self, party: Party, line: str) -> int:
        return party.send("NOTIFY", body=line.encode(), Content_Type=FRAGMENT, Event="refer").status_code

    async def test_it_is_asked_for_by_refer(self, party: Party, transferring: asyncio.Task[bool]) -> None:
        (refer,) = party.sent("REFER")
        assert "<sip:agents@pbx.example.com>" == refer.get_header("Refer-To")
        transferring.cancel()

    @pytest.mark.parametrize(("line", "worked"), [("SIP/2.0 200 OK", True), ("SIP/2.0 486 Busy Here", False)])
    async def test_the_final_notify_says_whether_it_worked(
        self, party: Party, transferring: asyncio.Task[bool], line: str, worked: bool
    ) -> None:
        await party.reply(202, "REFER")
        assert 200 == self.notify(party, line)
        assert worked == await asyncio.wait_for(transferring, 10)

    async def test_progress_is_told_and_decides_nothing(self, party: Party, transferring: asyncio.Task[bool]) -> None:
        heard: list[int] = []
        party.call.on_progress = heard.append
        for line in ("SIP/2.0 100 Trying", "SIP/2.0 180 Ringing", "SIP/2.0 200 OK"):
            self.notify(party, line)
        assert await asyncio.wait_for(transferring, 10)
        assert [100, 180, 200] == heard

    @pytest.mark.parametrize("status", [403, 405, 603])
    async def test_a_refusal_is_a_no(self, party: Party, transferring: asyncio.Task[bool], status: int) -> None:
        await party.reply(status, "REFER")
        assert not await asyncio.wait_for(transferring, 10)

    async def test_silence_is_a_no(self, party: Party, transferring: asyncio.Task[bool]) -> None:
        party.bench.clock.advance(33)
        assert not await asyncio.wait_for(transferring, 10)

    async def test_so_is_the_end_of_the_call(self, party: Party, transferring: asyncio.Task[bool]) -> None:
        party.send("BYE")
        assert not await asyncio.wait_for(transferring, 10)

    @pytest.mark.parametrize("line", ["", "hello", "SIP/2.0", "SIP/2.0 ²00 OK", "SIP/2.0 999 x", "HTTP/1.1 200 OK"])
    async def test_what_is_no_status_decides_nothing(
        self, party: Party, transferring: asyncio.Task[bool], line: str
    ) -> None:
        assert 200 == self.notify(party, line)
        await party.settle()
        assert not transferring.done()
        transferring.cancel()

    async def test_a_notify_that_nobody_asked_for_is_passed_over(self, party: Party) -> None:
        assert 200 == self.notify(party, "SIP/2.0 200 OK")
        assert party.end is None
