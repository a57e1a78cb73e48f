"""The gateway's SIP against SIPp: every ladder of ``sipp/`` as caller and as callee, with session timers and on a bad path.

SIPp sends back the audio that it gets: what the gateway hears of a call is the tone that it plays itself.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateways import TRUSTED, Gateway, LossyPath
from peers import Outcome, Sipp
from processes import LOCALHOST, free_port, until

pytestmark = pytest.mark.interop

TONE_HZ = 1000
PHONE = '[[softphones]]\nnumber = "+821012345678"\npassword = "secret"\n'
RETRIES = ("-max_invite_retrans", "6", "-max_non_invite_retrans", "11", "-default_behaviors", "all,-abortunexp")
"""As many as RFC 3261's timers B and F allow, 7 INVITEs and 11 of the others in 32 s; SIPp gives up earlier by itself. And a 200
that comes again while the BYE is on its way is no reason to end the call.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sipp")


@pytest.fixture(scope="module", autouse=True)
def long_calls(folder: Path) -> Iterator[dict[str, Sipp]]:
    """The calls that live by session timers take a minute (RFC 4028 allows no less): they run beside all other tests."""
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway(folder, "timers", sip=TRUSTED))
        calls = {
            name: stack.enter_context(Sipp(folder, name, gateway.address, limit_s=100))
            for name in ("timer_refresh_in", "timer_silent_in")
        }
        calls["timer_refresh_out"] = stack.enter_context(Sipp(folder, "timer_refresh_out", limit_s=100))
        gateway.dial("refreshed", calls["timer_refresh_out"].address)
        yield calls


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Gateway]:
    with Gateway(folder, sip=TRUSTED) as opened:
        yield opened


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """A gateway that trusts SIPp; after each test no call is left in it."""
    yield running
    until(running.idle, "the end of all calls")


class TestCallsIn:
    """SIPp calls the gateway."""

    @pytest.mark.parametrize("transport", ["u1", "t1"])
    def test_a_call_is_answered_heard_and_hung_up(self, folder: Path, gateway: Gateway, transport: str) -> None:
        with Sipp(folder, "call_in", gateway.address, pause_ms=1500, transport=transport) as sipp:
            sipp.finish().require()
        ended = gateway.event("ended")
        assert ("caller", "hung up") == (ended["by"], ended["reason"])
        assert TONE_HZ == ended["heard_hz"]

    def test_a_caller_who_gives_up_gets_487(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "cancel_in", gateway.address, called="ring") as sipp:
            sipp.finish().require()
        gateway.event("cancelled")

    def test_a_busy_gateway_says_486(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "busy_in", gateway.address, called="busy") as sipp:
            sipp.finish().require()

    @pytest.mark.parametrize("transport", ["u1", "t1"])
    def test_hold_and_resume(self, folder: Path, gateway: Gateway, transport: str) -> None:
        with Sipp(folder, "hold_in", gateway.address, transport=transport) as sipp:
            sipp.finish().require()
        assert "hung up" == gateway.event("ended")["reason"]

    def test_hold_by_update(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "update_in", gateway.address) as sipp:
            sipp.finish().require()

    def test_an_offer_that_comes_late_is_ours_and_the_answer_counts(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "late_offer_in", gateway.address, pause_ms=1500) as sipp:
            sipp.finish().require()
        assert "PCMA" == gateway.event("answered")["codec"]
        assert TONE_HZ == gateway.event("ended")["heard_hz"]

    def test_a_reliable_180_waits_for_its_prack(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "prack_in", gateway.address) as sipp:
            sipp.finish().require()

    def test_a_session_interval_below_90_s_is_refused(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "timer_small_in", gateway.address) as sipp:
            sipp.finish().require()

    def test_the_same_invite_again_is_the_same_call(self, folder: Path, gateway: Gateway) -> None:
        before = _count(gateway, "invited")
        with Sipp(folder, "retransmission_in", gateway.address, options=("-nr",)) as sipp:
            sipp.finish().require()
        gateway.event("ended")
        assert 1 == _count(gateway, "invited") - before

    def test_options_are_answered(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "options_in", gateway.address) as sipp:
            sipp.finish().require()

    def test_a_stranger_is_challenged_and_does_not_get_through(self, folder: Path) -> None:
        with Gateway(folder, "strict", settings=PHONE) as gateway:
            with Sipp(folder, "stranger_in", gateway.address) as sipp:
                sipp.finish().require()
            assert 0 == _count(gateway, "invited")

    def test_a_stranger_who_proves_himself_gets_through(self, folder: Path) -> None:
        """SIPp answers the first challenge that it finds, and that must be MD5."""
        with Gateway(folder, "plain", settings=PHONE, sip='digests = ["MD5"]') as gateway:
            with Sipp(folder, "auth_in", gateway.address) as sipp:
                sipp.finish().require()
            assert "+821012345678" == gateway.event("invited")["number"]
            assert "hung up" == gateway.event("ended")["reason"]


class TestCallsOut:
    """The gateway calls SIPp."""

    def test_a_call_is_answered_heard_and_hung_up(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "call_out") as sipp:
            ended = self._call(gateway, sipp, pause_s=1.5)
        assert TONE_HZ == ended["heard_hz"]

    def test_401_is_answered_and_sipp_proves_the_answer(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "auth_401_out") as sipp:
            self._call(gateway, sipp, user="gateway", password="secret")

    def test_a_wrong_password_is_refused_by_sipp(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "auth_401_out") as sipp:
            gateway.dial("liar", sipp.address, user="gateway", password="guessed")
            assert 403 == gateway.event("failed", name="liar")["status"]
            sipp.finish().require()

    def test_407_is_answered_with_the_right_digest(self, folder: Path, gateway: Gateway) -> None:
        """SIPp proves Authorization only: the Proxy-Authorization is proven here (RFC 7616 §3.4)."""
        with Sipp(folder, "auth_407_out") as sipp:
            self._call(gateway, sipp, user="gateway", password="secret")
            header = re.search(r"^Proxy-Authorization: Digest (.*)$", sipp.messages(), re.MULTILINE)
        assert header is not None
        given = dict(re.findall(r'(\w+)="?([^",\r]+)"?', header[1]))
        secret, wanted = _md5("gateway:carrier:secret"), _md5(f"INVITE:{given['uri']}")
        proof = _md5(":".join([secret, given["nonce"], given["nc"], given["cnonce"], given["qop"], wanted]))
        assert proof == given["response"]

    def test_a_busy_callee(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "busy_out") as sipp:
            gateway.dial("busy", sipp.address)
            assert 486 == gateway.event("failed", name="busy")["status"]
            sipp.finish().require()

    def test_a_callee_who_does_not_answer_is_cancelled(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "ring_out") as sipp:
            gateway.dial("ringing", sipp.address, ring_s=1)
            assert 487 == gateway.event("failed", name="ringing")["status"]
            sipp.finish().require()

    def test_a_redirection_is_followed(self, folder: Path, gateway: Gateway) -> None:
        with (
            Sipp(folder, "call_out") as elsewhere,
            Sipp(folder, "redirect_out", keys={"moved_port": str(elsewhere.port)}) as sipp,
        ):
            self._call(gateway, sipp)
            elsewhere.finish().require()

    def test_the_callee_holds_resumes_and_hangs_up(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "hold_out") as sipp:
            gateway.dial("held", sipp.address)
            assert "caller" == gateway.event("ended", name="held")["by"]
            sipp.finish().require()

    def test_a_reliable_180_is_acknowledged_with_prack(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "prack_out") as sipp:
            self._call(gateway, sipp)

    def test_of_two_answers_of_a_fork_one_is_ended(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "fork_out") as sipp:
            self._call(gateway, sipp)

    def test_options_tell_that_a_trunk_lives(self, folder: Path, gateway: Gateway) -> None:
        with Sipp(folder, "options_out") as sipp:
            gateway.do("request", name="ping", method="OPTIONS", to=f"sip:{LOCALHOST}:{sipp.port}")
            assert 200 == gateway.event("response", name="ping")["status"]
            sipp.finish().require()

    @staticmethod
    def _call(gateway: Gateway, sipp: Sipp, pause_s: float = 0.3, **options: object) -> dict[str, object]:
        """A call that the gateway hangs up *pause_s* after the answer; how it ended. SIPp must be content."""
        name = f"to-{sipp.port}"
        gateway.dial(name, sipp.address, **options)
        gateway.event("answered", name=name)
        time.sleep(pause_s)
        gateway.do("hangup", name=name)
        ended = gateway.event("ended", name=name)
        sipp.finish().require()
        return ended


class TestLoss:
    """A quarter of all datagrams lost, each way: 400 calls in and 400 out at the same time."""

    CALLS = 400
    MUST = 399
    PER_SECOND = 20
    LOSS = 0.25
    LIMIT_S = 85.0

    def test_calls_survive(self, folder: Path) -> None:
        port = free_port()
        with (
            Gateway(folder, "lossy", sip=TRUSTED) as gateway,
            LossyPath(folder, gateway.port, self.LOSS, seed=1) as there,
            LossyPath(folder, port, self.LOSS, seed=2) as back,
            Sipp(folder, "lossy_out", port=port, calls=self.CALLS, limit_s=self.LIMIT_S,
                 keys={"answer_port": str(back.port)}, options=(*RETRIES[:4], "-default_behaviors", "none")) as callee,
            Sipp(folder, "call_in", there.address, calls=self.CALLS, per_second=self.PER_SECOND, pause_ms=500,
                 limit_s=self.LIMIT_S, options=RETRIES) as caller,
        ):  # fmt: skip
            self._dial(gateway, back)
            calls_in, calls_out = caller.finish(), callee.finish()
            until(gateway.idle, "the end of all calls")
            shares = (*there.shares_lost(), *back.shares_lost())
        assert [True] * 4 == [0.2 < share < 0.3 for share in shares]
        self._require(calls_in)
        self._require(calls_out)

    def _dial(self, gateway: Gateway, path: LossyPath) -> None:
        """Place the calls at their rate, and hang each up when it is answered."""
        begun, dialled, seen, over = time.monotonic(), 0, 0, 0
        while over < self.CALLS and time.monotonic() - begun < self.LIMIT_S:
            while dialled < min(self.CALLS, int((time.monotonic() - begun) * self.PER_SECOND)):
                gateway.dial(f"out-{dialled}", path.address)
                dialled += 1
            events = gateway.everything()
            for event in events[seen:]:
                outward = str(event.get("name", "")).startswith("out-")
                if outward and event["event"] == "answered":
                    gateway.do("hangup", name=event["name"])
                over += outward and event["event"] in ("answered", "failed")
            seen = len(events)
            time.sleep(0.02)

    def _require(self, outcome: Outcome) -> None:
        assert outcome.succeeded >= self.MUST, f"{outcome}\n{outcome.story}"


class TestSessionTimers:
    """RFC 4028. Last, for these calls have run since the first test."""

    def test_the_gateway_called_and_refreshes(self, long_calls: dict[str, Sipp]) -> None:
        long_calls["timer_refresh_in"].finish().require()

    def test_the_gateway_calling_refreshes(self, long_calls: dict[str, Sipp]) -> None:
        long_calls["timer_refresh_out"].finish().require()

    def test_a_far_end_that_does_not_refresh_is_ended(self, long_calls: dict[str, Sipp]) -> None:
        long_calls["timer_silent_in"].finish().require()


def _count(gateway: Gateway, kind: str) -> int:
    return sum(kind == event["event"] for event in gateway.everything())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
