"""The server side of the user agent, without a socket: who may come in, and what becomes of each request (RFC 3261 §8.2, §9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from agent_bench import Gateway, closed
from aiosipua.message import SipResponse
from sip_bench import OFFER, authorize, request

from gateway.telephony.auth import Credentials, DigestServer
from gateway.telephony.crypto import new_crypto
from gateway.telephony.errors import CallFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.registrar import Registrar
from gateway.telephony.sdp import make_offer, read_description
from gateway.telephony.transport import Hop

SOFTPHONE = Credentials("100", "secret")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    yield made
    await closed(made)


async def ringing(invitation: Invitation) -> None:
    invitation.ring()
    await invitation.cancelled.wait()


class TestInvitations:
    async def test_one_that_is_taken_is_tried_and_answered(self, gateway: Gateway) -> None:
        assert [100, 200] == await gateway.take(body=OFFER)
        assert "<sip:192.0.2.1:5060>" == gateway.last.get_header("Contact")
        assert "PCMA" == read_description(gateway.last.body).codec
        assert {"timer", "100rel"} <= set(gateway.last.get_header_values("Supported"))
        assert "UPDATE" in ",".join(gateway.last.get_header_values("Allow"))

    @pytest.mark.parametrize("handler", [True, False])
    async def test_while_the_gateway_drains_it_is_sent_elsewhere(self, gateway: Gateway, handler: bool) -> None:
        gateway.agent.draining = handler
        gateway.agent.on_invite = gateway._invited if handler else None
        assert [503] == await gateway.take(body=OFFER)
        assert "30" == gateway.last.get_header("Retry-After")

    async def test_without_a_common_codec_it_says_what_is_wrong(self, gateway: Gateway) -> None:
        """RFC 3261 §20.43: 304, incompatible media format."""
        assert [488] == await gateway.take(
            body=OFFER.replace(b"8 0 101", b"18").replace(b"rtpmap:8 PCMA", b"x").replace(b"rtpmap:0 PCMU", b"x")
        )
        assert (gateway.last.get_header("Warning") or "").startswith('304 192.0.2.1 "SDP offers no')

    @pytest.mark.parametrize("body", [b"nonsense", OFFER.replace(b"4000", b"many")])
    async def test_what_is_no_offer_is_a_bad_request(self, gateway: Gateway, body: bytes) -> None:
        assert await gateway.take(body=body) in ([400], [488])

    async def test_a_session_that_is_too_short_is_refused_with_the_least(self, gateway: Gateway) -> None:
        """RFC 4028 §9."""
        headers = {"Session-Expires": "30", "Supported": "timer"}
        assert [422] == await gateway.take(body=OFFER, headers=headers)
        assert "90" == gateway.last.get_header("Min-SE")

    async def test_a_session_timer_is_agreed(self, gateway: Gateway) -> None:
        await gateway.take(body=OFFER, headers={"Session-Expires": "600;refresher=uac", "Supported": "timer"})
        assert ("600;refresher=uac", "timer") == (
            gateway.last.get_header("Session-Expires"), gateway.last.get_header("Require"),
        )  # fmt: skip

    async def test_an_extension_that_is_demanded_and_unknown_is_named(self, gateway: Gateway) -> None:
        """RFC 3261 §8.2.2.3."""
        assert [420] == await gateway.take(body=OFFER, headers={"Require": "100rel, sec-agree, x"})
        assert {"sec-agree", "x"} == {
            word.strip() for value in gateway.last.get_header_values("Unsupported") for word in value.split(",")
        }

    async def test_one_that_the_house_drops_is_refused(self, gateway: Gateway) -> None:
        async def nothing(invitation: Invitation) -> None:
            """Goes without an answer."""

        gateway.policy = nothing
        assert [100, 500] == await gateway.take(body=OFFER)

    async def test_one_that_the_house_refuses_is_refused_so(self, gateway: Gateway) -> None:
        async def busy(invitation: Invitation) -> None:
            invitation.reject(486)

        gateway.policy = busy
        assert [100, 486] == await gateway.take(body=OFFER)

    async def test_when_all_ports_are_in_use_it_is_sent_elsewhere(self, gateway: Gateway) -> None:
        taken = [gateway.media.reserve("127.0.0.1") for _ in range(2)]
        assert [100, 503] == await gateway.take(body=OFFER)
        for pair in taken:
            gateway.media.release(pair)

    async def test_what_cannot_be_recorded_is_not_answered(self, gateway: Gateway) -> None:
        """Rule R8."""
        gateway.media.full = True
        assert [100, 500] == await gateway.take(body=OFFER)
        assert isinstance(gateway.failed[0], CallFailed)

    async def test_an_encrypted_offer_is_answered_encrypted(self, gateway: Gateway) -> None:
        theirs = new_crypto(3)
        assert [100, 200] == await gateway.take(body=make_offer(("192.0.2.2", 4000), 1, crypto=theirs))
        terms = read_description(gateway.last.body, secure=True)
        assert terms.crypto is not None
        assert (3, False) == (terms.crypto.tag, terms.crypto.key == theirs.key)

    async def test_a_retransmission_rings_no_second_phone(self, gateway: Gateway) -> None:
        gateway.policy = ringing
        await gateway.take(body=OFFER, branch="z9hG4bK-a")
        assert [180] == await gateway.take(body=OFFER, branch="z9hG4bK-a")
        assert 1 == len(gateway.numbers)
        await gateway.take("CANCEL", branch="z9hG4bK-a")


class TestLateOffer:
    """RFC 3261 §13.3.1.4."""

    ANSWER = OFFER

    async def test_our_offer_goes_in_the_2xx_and_the_ack_makes_the_call(self, gateway: Gateway) -> None:
        assert [100, 200] == await gateway.take()
        assert "m=audio" in gateway.last.body.decode()
        assert [] == gateway.calls
        assert [] == await gateway.take("ACK", to_tag=gateway.tag, body=self.ANSWER)
        assert ["PCMA"] == [call.stream.terms.codec for call in gateway.calls]

    @pytest.mark.parametrize("body", [b"", b"nonsense"])
    async def test_an_ack_without_a_usable_answer_ends_the_dialog(self, gateway: Gateway, body: bytes) -> None:
        await gateway.take()
        assert ["BYE"] == await gateway.take("ACK", to_tag=gateway.tag, body=body)
        assert [488] == [error.status for error in gateway.failed if isinstance(error, CallFailed)]

    async def test_a_call_that_cannot_be_recorded_is_ended(self, gateway: Gateway) -> None:
        await gateway.take()
        gateway.media.full = True
        assert ["BYE"] == await gateway.take("ACK", to_tag=gateway.tag, body=self.ANSWER)
        assert 1 == len(gateway.failed)

    async def test_a_cancel_comes_too_late(self, gateway: Gateway) -> None:
        """§9.2: after the final response it changes nothing."""
        await gateway.take(branch="z9hG4bK-a")
        tag = gateway.tag
        assert [200] == await gateway.take("CANCEL", branch="z9hG4bK-a")
        await gateway.take("ACK", to_tag=tag, body=self.ANSWER)
        assert 1 == len(gateway.calls)

    async def test_who_hangs_up_instead_of_answering_is_let_go(self, gateway: Gateway) -> None:
        await gateway.take()
        assert 200 == (await gateway.take("BYE", to_tag=gateway.tag, seq=2))[0]
        assert [487] == [error.status for error in gateway.failed if isinstance(error, CallFailed)]


class TestCancel:
    """RFC 3261 §9.2."""

    async def test_it_ends_the_ringing(self, gateway: Gateway) -> None:
        gateway.policy = ringing
        assert [100, 180] == await gateway.take(body=OFFER, branch="z9hG4bK-a")
        assert [200, 487] == await gateway.take("CANCEL", branch="z9hG4bK-a")

    async def test_after_the_answer_it_changes_nothing(self, gateway: Gateway) -> None:
        await gateway.take(body=OFFER, branch="z9hG4bK-a")
        assert [200] == await gateway.take("CANCEL", branch="z9hG4bK-a")
        assert not gateway.calls[0].ended.done()

    async def test_of_an_invite_that_nobody_knows_is_refused(self, gateway: Gateway) -> None:
        assert [481] == await gateway.take("CANCEL")

    async def test_it_needs_no_password(self) -> None:
        """§22.1: a CANCEL is never challenged."""
        gateway = Gateway(trusted=lambda _: False, registrar=registrar())
        assert [481] == await gateway.take("CANCEL")
        await closed(gateway)


class TestOtherRequests:
    async def test_options_tell_what_we_can(self, gateway: Gateway) -> None:
        """§11.2."""
        assert [200] == await gateway.take("OPTIONS")
        assert "INVITE" in ",".join(gateway.last.get_header_values("Allow"))
        assert "application/sdp" == gateway.last.get_header("Accept")

    async def test_a_gateway_that_drains_says_so_to_the_trunks_keep_alive(self, gateway: Gateway) -> None:
        gateway.agent.draining = True
        assert [503] == await gateway.take("OPTIONS")

    @pytest.mark.parametrize("method", ["BYE", "INFO", "PRACK", "UPDATE", "NOTIFY"])
    @pytest.mark.parametrize("to_tag", ["", "nobodys"])
    async def test_of_a_call_that_nobody_knows_there_is_none(self, gateway: Gateway, method: str, to_tag: str) -> None:
        assert [481] == await gateway.take(method, to_tag=to_tag)

    async def test_an_ack_of_a_call_that_nobody_knows_is_passed_over(self, gateway: Gateway) -> None:
        assert [] == await gateway.take("ACK", to_tag="nobodys")

    @pytest.mark.parametrize("method", ["SUBSCRIBE", "PUBLISH", "REGISTER", "REFER"])
    async def test_a_method_that_is_not_served_is_refused_with_those_that_are(
        self, gateway: Gateway, method: str
    ) -> None:
        assert [405] == await gateway.take(method)
        assert "INVITE" in ",".join(gateway.last.get_header_values("Allow"))

    async def test_one_that_nobody_ever_heard_of_is_not_implemented(self, gateway: Gateway) -> None:
        """§21.5.2."""
        assert [501] == await gateway.take("FOO")

    async def test_a_message_is_taken_when_it_is_kept(self, gateway: Gateway) -> None:
        kept: list[tuple[str, str, str]] = []

        async def keep(number: str, text: str, name: str) -> None:
            kept.append((number, text, name))

        gateway.agent.on_message = keep
        assert [202] == await gateway.take("MESSAGE", body="네 123456".encode(), headers={"Content-Type": "text/plain"})
        assert [("200", "네 123456", "call@192.0.2.2 1")] == kept

    async def test_one_that_cannot_be_kept_is_to_come_again(self, gateway: Gateway) -> None:
        async def fail(*_: str) -> None:
            raise OSError("the database is down")

        gateway.agent.on_message = fail
        assert [500] == await gateway.take("MESSAGE", body=b"x")

    async def test_one_that_is_no_text_is_refused(self, gateway: Gateway) -> None:
        assert [415] == await gateway.take("MESSAGE", body=b"<x/>", headers={"Content-Type": "application/xml"})
        assert "text/plain" == gateway.last.get_header("Accept")


def registrar() -> Registrar:
    return Registrar(DigestServer("gateway", {SOFTPHONE.username: SOFTPHONE.password}, lambda: 0.0), lambda: 0.0)


class TestWhoCalls:
    """The number is what is proven, not what is said (RFC 3325, RFC 3261 §22)."""

    async def test_a_line_of_ours_is_believed(self, gateway: Gateway) -> None:
        await gateway.take(body=OFFER)
        assert ["200"] == gateway.numbers

    @pytest.mark.parametrize(
        "identity_header", ["<sip:+821012345678@pbx>", '"A" <sip:+821012345678@pbx;user=phone>', "<tel:+821012345678>"]
    )
    async def test_above_all_what_it_asserts(self, gateway: Gateway, identity_header: str) -> None:
        await gateway.take(body=OFFER, headers={"P-Asserted-Identity": identity_header})
        assert ["+821012345678"] == gateway.numbers

    async def test_a_stranger_is_turned_away(self) -> None:
        gateway = Gateway(trusted=lambda _: False)
        assert [[403], [403]] == [
            await gateway.take("INVITE", body=OFFER),
            await gateway.take("MESSAGE", body=b"x", seq=2),
        ]
        assert [] == gateway.numbers
        await closed(gateway)

    async def test_where_phones_have_passwords_he_is_asked_for_one(self) -> None:
        gateway = Gateway(trusted=lambda _: False, registrar=registrar())
        assert [401] == await gateway.take(body=OFFER)
        refusal = gateway.last
        assert isinstance(refusal, SipResponse)
        again = request("INVITE", branch="z9hG4bK-again", seq=2, body=OFFER)
        assert authorize(again, refusal, SOFTPHONE)
        assert [100, 200] == await gateway.hear(again)
        assert ["100"] == gateway.numbers
        await closed(gateway)

    async def test_what_a_stranger_asserts_counts_nothing(self) -> None:
        gateway = Gateway(trusted=lambda _: False, registrar=registrar())
        assert [401] == await gateway.take(body=OFFER, headers={"P-Asserted-Identity": "<sip:100@pbx>"})
        await closed(gateway)


class TestWithinACall:
    async def test_a_bye_ends_it(self, gateway: Gateway) -> None:
        await gateway.take(body=OFFER)
        tag = gateway.tag
        await gateway.take("ACK", to_tag=tag)
        assert [200] == await gateway.take("BYE", to_tag=tag, seq=2)
        assert "caller" == gateway.calls[0].ended.result().by

    @pytest.mark.parametrize("forged", [{"from_tag": "other"}, {"call_id": "other"}])
    async def test_a_forged_bye_does_not(self, gateway: Gateway, forged: dict[str, str]) -> None:
        await gateway.take(body=OFFER)
        assert [481] == await gateway.take("BYE", to_tag=gateway.tag, seq=2, **forged)
        assert not gateway.calls[0].ended.done()

    async def test_a_far_end_that_moved_is_followed(self, gateway: Gateway) -> None:
        """RFC 3261 §12.2.1.2."""
        await gateway.take(body=OFFER)
        tag = gateway.tag
        await gateway.take("ACK", to_tag=tag)
        moved = request("UPDATE", branch="z9hG4bK-moved", seq=2, to_tag=tag, body=OFFER)
        moved.set_header("Contact", "<sip:200@192.0.2.99:5099>")
        assert [200] == await gateway.hear(moved)
        assert Hop("192.0.2.99", 5099) == gateway.calls[0].hop

    async def test_nobody_transfers_the_gateway(self, gateway: Gateway) -> None:
        await gateway.take(body=OFFER)
        tag = gateway.tag
        await gateway.take("ACK", to_tag=tag)
        assert [405] == await gateway.take("REFER", to_tag=tag, seq=2, headers={"Refer-To": "<sip:x@192.0.2.9>"})
