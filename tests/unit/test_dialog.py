"""Dialogs (RFC 3261 §12): routes, order and targets."""

from __future__ import annotations

import pytest
from aiosipua.message import SipRequest
from sip_bench import request, response

from gateway.telephony.dialog import Dialog, client_dialog, server_dialog
from gateway.telephony.errors import BadMessage

FIRST, SECOND = "<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"
STRICT = "<sip:strict.example.com>"


def invite(*record_routes: str) -> SipRequest:
    made = request("INVITE", seq=7)
    for route in record_routes:
        made.add_header("Record-Route", route)
    return made


def answered(*record_routes: str) -> Dialog:
    """The dialog of an outgoing call whose 2xx carries *record_routes*."""
    sent = request("INVITE", seq=7, from_tag="ours")
    ok = response(sent, 200, headers={"Contact": "<sip:bob@192.0.2.8:5090>"})
    for route in record_routes:
        ok.add_header("Record-Route", route)
    return client_dialog(sent, ok)


class TestCreation:
    """RFC 3261 §12.1."""

    def test_the_uas_takes_record_route_in_its_order(self) -> None:
        assert (FIRST, SECOND) == server_dialog(invite(FIRST, SECOND), "ours").route_set

    def test_the_uac_takes_record_route_in_reverse(self) -> None:
        assert (SECOND, FIRST) == answered(FIRST, SECOND).route_set

    def test_the_uas_is_known_by_call_id_its_own_tag_and_the_callers(self) -> None:
        assert ("call@192.0.2.2", "ours", "theirs") == server_dialog(invite(), "ours").key

    def test_the_uac_is_known_by_call_id_its_own_tag_and_the_callees(self) -> None:
        assert ("call@192.0.2.2", "ours", "theirs") == answered().key

    def test_the_remote_target_is_the_contact(self) -> None:
        assert "sip:200@192.0.2.2:5070" == server_dialog(invite(), "ours").remote_target
        assert "sip:bob@192.0.2.8:5090" == answered().remote_target

    def test_no_dialog_is_made_without_a_contact(self) -> None:
        bare = invite()
        bare.remove_header("Contact")
        with pytest.raises(BadMessage, match="INVITE has no Contact"):
            server_dialog(bare, "ours")
        with pytest.raises(BadMessage, match="200 to INVITE has no Contact"):
            client_dialog(bare, response(bare, 200))


class TestRequestsWithin:
    """RFC 3261 §12.2.1.1."""

    def test_from_is_our_side_and_to_the_far_one(self) -> None:
        bye = server_dialog(invite(), "ours").request("BYE")
        assert "<sip:100@192.0.2.1>;tag=ours" == bye.get_header("From")
        assert "<sip:200@192.0.2.2>;tag=theirs" == bye.get_header("To")
        assert "call@192.0.2.2" == bye.call_id

    def test_the_uac_counts_on_from_its_invite(self) -> None:
        dialog = answered()
        assert ["8 INFO", "9 BYE"] == [dialog.request(m).get_header("CSeq") for m in ("INFO", "BYE")]

    def test_the_uas_counts_from_one(self) -> None:
        assert "1 BYE" == server_dialog(invite(), "ours").request("BYE").get_header("CSeq")

    def test_an_ack_takes_the_number_of_its_invite_and_counts_nothing(self) -> None:
        dialog = answered()
        assert "7 ACK" == dialog.request("ACK", 7).get_header("CSeq")
        assert "8 BYE" == dialog.request("BYE").get_header("CSeq")

    def test_without_routes_it_goes_to_the_target_alone(self) -> None:
        bye = answered().request("BYE")
        assert ("sip:bob@192.0.2.8:5090", []) == (bye.uri, bye.get_header_values("Route"))

    def test_loose_routers_leave_the_target_in_the_request_uri(self) -> None:
        bye = answered(SECOND, FIRST).request("BYE")
        assert ("sip:bob@192.0.2.8:5090", [FIRST, SECOND]) == (bye.uri, bye.get_header_values("Route"))

    def test_a_strict_router_becomes_the_request_uri_and_the_target_the_last_route(self) -> None:
        bye = answered(SECOND, STRICT).request("BYE")
        assert "sip:strict.example.com" == bye.uri
        assert [SECOND, "<sip:bob@192.0.2.8:5090>"] == bye.get_header_values("Route")


class TestOrder:
    """RFC 3261 §12.2.2."""

    def test_a_higher_number_is_accepted_even_with_a_gap(self) -> None:
        dialog = server_dialog(invite(), "ours")
        assert dialog.accepts(request("INFO", seq=9))
        assert dialog.accepts(request("BYE", seq=20))

    def test_a_lower_number_is_out_of_order(self) -> None:
        dialog = server_dialog(invite(), "ours")
        assert dialog.accepts(request("INFO", seq=9))
        assert not dialog.accepts(request("BYE", seq=8))

    def test_a_new_request_with_the_number_of_the_last_is_out_of_order(self) -> None:
        assert not server_dialog(invite(), "ours").accepts(request("BYE", seq=7))

    def test_a_refused_number_does_not_move_the_count(self) -> None:
        dialog = server_dialog(invite(), "ours")
        assert not dialog.accepts(request("BYE", seq=6))
        assert 7 == dialog.remote_seq

    def test_an_ack_is_accepted_with_the_number_of_its_invite(self) -> None:
        assert server_dialog(invite(), "ours").accepts(request("ACK", seq=7))

    def test_the_uac_accepts_whatever_number_the_far_end_begins_with(self) -> None:
        assert answered().accepts(request("BYE", seq=1))


class TestTargetRefresh:
    """RFC 3261 §12.2.1.2, §12.2.2."""

    def test_a_new_contact_is_where_requests_go(self) -> None:
        dialog = server_dialog(invite(), "ours")
        moved = request("INVITE", seq=8)
        moved.set_header("Contact", "<sip:200@192.0.2.77:6000>")
        dialog.retarget(moved)
        assert "sip:200@192.0.2.77:6000" == dialog.request("BYE").uri

    def test_without_a_contact_the_target_stays(self) -> None:
        dialog = server_dialog(invite(), "ours")
        moved = request("INVITE", seq=8)
        moved.remove_header("Contact")
        dialog.retarget(moved)
        assert "sip:200@192.0.2.2:5070" == dialog.request("BYE").uri
