"""RFC 4475: each message is answered as it says, or dropped; none breaks anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiosipua.message import SipRequest, SipResponse
from cases import Case, answer_to, play, read, whole

from gateway.telephony.errors import BadMessage
from gateway.telephony.grammar import read_address, read_via
from gateway.telephony.message import Identity, answerable, identity, parse_message

DECLINED = (486,)
"""Reached whoever decides about calls, who declines all of them here."""

CASES = [
    # valid messages; what carries a To tag belongs to no call of ours (RFC 3261 §12.2.2)
    Case("wsinv", "3.1.1.1", None, (481,)),
    Case("intmeth", "3.1.1.2", None, (501,)),
    Case("esc01", "3.1.1.3", None, DECLINED),
    Case("escnull", "3.1.1.4", None, (405,)),
    Case("esc02", "3.1.1.5", None, (501,)),
    Case("lwsdisp", "3.1.1.6", None, (200,)),
    Case("longreq", "3.1.1.7", None, DECLINED),
    Case("dblreq", "3.1.1.8", None, (405,)),
    Case("semiuri", "3.1.1.9", None, (200,)),
    Case("transports", "3.1.1.10", None, (200,)),
    Case("mpart01", "3.1.1.11", None, (415,)),
    Case("unreason", "3.1.1.12", None, ()),
    Case("noreason", "3.1.1.13", None, ()),
    # invalid messages
    Case("badinv01", "3.1.2.1", 400, (400,)),
    Case("clerr", "3.1.2.2", 400, (400,)),
    Case("ncl", "3.1.2.3", 400, (400,)),
    Case("scalar02", "3.1.2.4", 400, (400,)),
    Case("scalarlg", "3.1.2.5", 400, ()),
    Case("quotbal", "3.1.2.6", 400, (400,)),
    Case("ltgtruri", "3.1.2.7", 400, (400,)),
    Case("lwsruri", "3.1.2.8", 400, (400,)),
    Case("lwsstart", "3.1.2.9", None, DECLINED),
    Case("trws", "3.1.2.10", None, (200,)),
    Case("escruri", "3.1.2.11", 400, (400,)),
    Case("baddate", "3.1.2.12", None, DECLINED),
    Case("regbadct", "3.1.2.13", 400, (400,)),
    Case("badaspec", "3.1.2.14", 400, (400,)),
    Case("baddn", "3.1.2.15", 400, (400,)),
    Case("badvers", "3.1.2.16", 505, (505,)),
    Case("mismatch01", "3.1.2.17", 400, (400,)),
    Case("mismatch02", "3.1.2.18", 400, (400, 501)),
    Case("bigcode", "3.1.2.19", 400, ()),
    # transactions: a branch of nothing but the cookie falls back to RFC 2543
    Case("badbranch", "3.2.1", None, (200,)),
    # what a user agent makes of it
    Case("insuf", "3.3.1", 400, ()),
    Case("unkscm", "3.3.2", 416, (416,)),
    Case("novelsc", "3.3.3", 416, (416,)),
    Case("unksm2", "3.3.4", None, (405,)),
    Case("bext01", "3.3.5", None, (420,)),
    Case("invut", "3.3.6", None, (415,)),
    Case("regaut01", "3.3.7", None, (405,)),
    Case("multi01", "3.3.8", 400, (400,)),
    Case("mcl01", "3.3.9", 400, (400,)),
    Case("bcast", "3.3.10", None, ()),
    Case("zeromf", "3.3.11", None, (200,)),
    Case("cparam01", "3.3.12", None, (405,)),
    Case("cparam02", "3.3.13", None, (405,)),
    Case("regescrt", "3.3.14", None, (405,)),
    Case("sdp01", "3.3.15", None, (400, 406)),
    # RFC 2543 knew no Contact in an INVITE; RFC 3261 §8.1.1.8 demands it
    Case("inv2543", "3.4.1", None, (400,)),
]
every = pytest.mark.parametrize("case", CASES, ids=str)


def request(name: str) -> SipRequest:
    message = parse_message(read("rfc4475", name))
    assert isinstance(message, SipRequest)
    return message


def response(name: str) -> SipResponse:
    message = parse_message(read("rfc4475", name))
    assert isinstance(message, SipResponse)
    return message


def identified(name: str) -> Identity:
    return identity(request(name))


@every
def test_the_parser_takes_it_or_says_which_status_answers_it(case: Case) -> None:
    data = whole(read("rfc4475", case.name))
    if case.refused is None:
        parse_message(data)
    else:
        with pytest.raises(BadMessage, match="SIP") as refusal:
            parse_message(data)
        assert case.refused == refusal.value.status


@every
def test_the_transaction_layer_answers_what_is_wrong_and_hands_up_what_is_right(case: Case) -> None:
    data = whole(read("rfc4475", case.name))
    sent, handed_up = play(data)
    is_response = data.startswith(b"SIP/")
    assert ([case.refused] if case.refused and case.answers else []) == sent
    assert int(case.refused is None and not is_response) == handed_up


@every
async def test_a_user_agent_answers_as_the_rfc_says_and_lives_on(case: Case) -> None:
    finals, faults = await answer_to(whole(read("rfc4475", case.name)), expected=bool(case.answers))
    assert [] == faults
    assert case.answers or finals == []
    assert set(finals[:1]) <= set(case.answers)


def test_there_is_a_case_for_every_message() -> None:
    names = {path.stem for path in (Path(__file__).parent / "rfc4475").glob("*.dat")}
    assert names == {case.name for case in CASES}


def test_a_message_without_its_empty_line_is_dropped_as_truncated() -> None:
    """baddn, as it is archived."""
    assert ([], 0) == play(read("rfc4475", "baddn"))


class TestWhatIsRead:
    """The fields that the RFC says are in its valid messages."""

    def test_folds_white_space_and_compact_names(self) -> None:
        invite, ids = request("wsinv"), identified("wsinv")
        assert ("INVITE", "sip:vivekg@chair-dnrc.example.com;unknownparam") == (invite.method, invite.uri)
        assert ("1918181833n", "98asjd8", "wsinv.ndaksdj@192.0.2.1", 9) == (
            ids.to.tag, ids.from_.tag, ids.call_id, ids.cseq.seq,
        )  # fmt: skip
        assert 'J Rosenberg \\\\\\"' == ids.from_.display_name
        assert [("UDP", "192.0.2.2"), ("TCP", "spindle.example.com"), ("UDP", "192.168.255.111")] == [
            (via.transport, via.host) for via in invite.via
        ]
        contact = read_address(invite.get_header_values("Contact")[0])
        assert {"newparam": "newvalue", "secondparam": None, "q": "0.33"} == contact.params
        assert b"a=rtpmap:31 LPC" in invite.body

    def test_a_branch_without_the_cookie_tells_transactions_apart_all_the_same(self) -> None:
        first, again, other = identified("wsinv"), identified("wsinv"), identified("longreq")
        assert first.branch == again.branch
        assert first.branch != other.branch

    def test_every_character_that_is_legal(self) -> None:
        ids = identified("intmeth")
        assert "!interesting-Method0123456789_*+`.%indeed'~" == request("intmeth").method == ids.cseq.method
        assert "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*" == ids.to.uri.user
        assert "token1~` token2'+_ token3*%!.-" == ids.from_.display_name
        assert ("_token~1'+`*%!-.", '"работающий"') == (ids.from_.tag, ids.from_.params["fromparam''~+*_!.-%"])
        assert "BEL:\\\a NUL:\\\0 DEL:\\\x7f" == ids.to.display_name
        assert "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{" == ids.call_id

    def test_a_percent_sign_is_an_escape_in_uris_only(self) -> None:
        assert "RE%47IST%45R" == request("esc02").method
        assert "%Z%45" == identified("esc02").to.display_name
        assert 2 == len(request("esc02").contact)
        assert "%75se%72" == identified("esc01").to.uri.user

    def test_escaped_nulls_shorten_no_name(self) -> None:
        assert "null-%00-null" == identified("escnull").to.uri.user
        assert ["%00", "%00%00"] == [contact.uri.user for contact in request("escnull").contact]

    def test_a_name_needs_no_space_before_its_bracket(self) -> None:
        assert "caller" == identified("lwsdisp").from_.display_name

    def test_long_values_are_whole(self) -> None:
        ids = identified("longreq")
        assert 34 == len(request("longreq").via)
        assert "12" + 50 * "982" + "424" == ids.from_.tag
        assert 5 * "amazinglylongcallername" == ids.from_.uri.user

    def test_octets_after_the_body_are_noise(self) -> None:
        assert ("REGISTER", b"") == (request("dblreq").method, request("dblreq").body)

    def test_a_semicolon_in_the_user_part_begins_no_parameter(self) -> None:
        uri = read_address(f"<{request('semiuri').uri}>").uri
        assert ("user;par=u%40example.net", "example.com", {}) == (uri.user, uri.host, uri.params)

    def test_a_transport_may_be_unknown(self) -> None:
        assert ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"] == [via.transport for via in request("transports").via]

    def test_a_body_of_octets_with_nulls_is_framed_by_its_length(self) -> None:
        body = request("mpart01").body
        assert 553 == len(body)
        assert b"\0" in body
        assert body.endswith(b"--7a9cbec02ceef655--\r\n")

    def test_the_reason_phrase_is_any_text_or_none(self) -> None:
        assert "= 2**3 * 5**2 но сто девяносто девять - простое" == response("unreason").reason_phrase
        assert (100, "") == (response("noreason").status_code, response("noreason").reason_phrase)

    def test_spaces_too_many_in_the_start_line_go_no_further(self) -> None:
        assert "sip:user@example.com" == request("lwsstart").uri
        assert bytes(request("trws")).startswith(b"OPTIONS sip:remote-target@example.com SIP/2.0\r\n")

    @pytest.mark.parametrize(("name", "in_header", "in_uri"), [("cparam01", True, False), ("cparam02", False, True)])
    def test_a_parameter_is_the_contacts_or_the_uris(self, name: str, in_header: bool, in_uri: bool) -> None:
        contact = request(name).contact[0]
        assert (in_header, in_uri) == ("unknownparam" in contact.params, "unknownparam" in contact.uri.params)

    def test_an_escaped_header_stays_in_the_contact(self) -> None:
        contact = read_address(request("regescrt").get_header_values("Contact")[0])
        assert {"Route": "%3Csip:sip.example.com%3E"} == contact.uri.headers

    def test_parameters_outside_of_brackets_are_the_headers(self) -> None:
        ids = identified("inv2543")
        assert ({"user": "phone"}, {}) == (ids.to.params, ids.to.uri.params)
        assert ({}, {"user": "phone"}) == (ids.from_.params, ids.from_.uri.params)


class TestTheRefusal:
    """RFC 3261 §8.2.6 of messages that do not parse: what the response copies is mended first."""

    def mended(self, name: str) -> SipRequest:
        request = answerable(whole(read("rfc4475", name)))
        assert request is not None
        return request

    def test_a_via_loses_what_is_no_parameter(self) -> None:
        assert ["SIP/2.0/UDP 192.0.2.15"] == self.mended("badinv01").get_header_values("Via")

    def test_a_quote_without_end_goes_with_its_name(self) -> None:
        assert "<sip:j.user@example.com>" == self.mended("quotbal").get_header("To")

    def test_the_tag_of_an_address_that_does_not_parse_is_kept(self) -> None:
        assert "<sip:a.g.bell@example.com>;tag=43" == self.mended("baddn").get_header("From")

    def test_of_headers_that_come_twice_the_first_is_copied(self) -> None:
        mended = self.mended("multi01")
        assert [1, 1, 1, 1] == [len(mended.get_header_values(n)) for n in ("From", "To", "Call-ID", "CSeq")]

    def test_what_names_no_caller_cannot_be_answered(self) -> None:
        assert answerable(read("rfc4475", "insuf")) is None

    def test_a_response_is_never_answered(self) -> None:
        assert answerable(read("rfc4475", "bigcode")) is None

    def test_the_version_in_its_via_is_copied(self) -> None:
        assert "SIP/7.0" == read_via(self.mended("badvers").get_header_values("Via")[0]).protocol
