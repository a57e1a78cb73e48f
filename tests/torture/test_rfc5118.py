"""RFC 5118: IPv6 in SIP, as the messages were archived and as they were meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiosipua.message import SipRequest
from cases import Case, answer_to, play, read, whole

from gateway.telephony.errors import BadMessage
from gateway.telephony.message import identity, parse_message, parse_sip_uri

CASES = [
    Case("ipv6-good", "4.1", None, (405,)),
    Case("ipv6-bad", "4.2", 400, (400,)),
    Case("port-ambiguous", "4.3", None, (405,)),
    Case("port-unambiguous", "4.4", None, (405,)),
    Case("via-received-param-with-delim", "4.5", None, (481,)),
    Case("via-received-param-no-delim", "4.5", None, (200,)),
    Case("ipv6-in-sdp", "4.6", None, (488,)),
    Case("mult-ip-in-header", "4.7", None, (481,)),
    Case("mult-ip-in-sdp", "4.8", None, (486,)),
    Case("ipv4-mapped-ipv6", "4.9", None, (488,)),
    Case("ipv6-bug-abnf-3-colons", "4.10", None, (200,)),
    Case("ipv6-correct-abnf-2-colons", "4.10", None, (200,)),
]
every = pytest.mark.parametrize("case", CASES, ids=str)


def meant(name: str) -> bytes:
    """The message as its RFC means it: CRLF, an empty line, and a Content-Length that is no longer than the body."""
    return whole(read("rfc5118", name)).replace(b"Content-Length: 268", b"Content-Length: 251")


def request(name: str) -> SipRequest:
    message = parse_message(meant(name))
    assert isinstance(message, SipRequest)
    return message


@every
def test_the_parser_takes_it_or_says_which_status_answers_it(case: Case) -> None:
    if case.refused is None:
        parse_message(meant(case.name))
    else:
        with pytest.raises(BadMessage, match="SIP") as refusal:
            parse_message(meant(case.name))
        assert case.refused == refusal.value.status


@every
def test_the_transaction_layer_answers_what_is_wrong_and_hands_up_what_is_right(case: Case) -> None:
    sent, handed_up = play(meant(case.name))
    assert ([case.refused] if case.refused else [], int(case.refused is None)) == (sent, handed_up)


@every
def test_as_archived_it_is_handed_up_or_answered_400_or_dropped(case: Case) -> None:
    sent, handed_up = play(read("rfc5118", case.name))
    assert (sent, handed_up) in (([], 1), ([400], 0), ([], 0))


@every
async def test_a_user_agent_answers_as_the_rfc_says_and_lives_on(case: Case) -> None:
    finals, faults = await answer_to(meant(case.name), expected=True)
    assert [] == faults
    assert finals[0] in case.answers


def test_there_is_a_case_for_every_message() -> None:
    assert {path.stem for path in (Path(__file__).parent / "rfc5118").glob("*.dat")} == {case.name for case in CASES}


class TestWhatIsRead:
    def test_an_address_in_brackets_is_a_host(self) -> None:
        assert "[2001:db8::9:1]" == identity(request("ipv6-good")).via.host
        assert "[2001:db8::1]" == request("ipv6-good").contact[0].uri.host

    def test_what_stands_within_the_brackets_is_no_port(self) -> None:
        assert ("[2001:db8::10:5070]", None) == host_and_port("port-ambiguous")
        assert ("[2001:db8::10]", 5070) == host_and_port("port-unambiguous")

    @pytest.mark.parametrize(
        ("name", "received"),
        [
            ("via-received-param-with-delim", "[2001:db8::9:255]"),
            ("via-received-param-no-delim", "2001:db8::9:255"),
        ],
    )
    def test_received_may_have_brackets_or_none(self, name: str, received: str) -> None:
        assert received == identity(request(name)).via.received

    def test_both_families_may_stand_in_one_list(self) -> None:
        assert ["[2001:db8::9:1]", "192.0.2.1", "[2001:db8::9:255]"] == [
            via.host for via in request("mult-ip-in-header").via
        ]

    def test_ipv4_within_ipv6_is_ipv6(self) -> None:
        via = identity(request("ipv4-mapped-ipv6")).via
        assert ("[::ffff:192.0.2.10]", 19823) == (via.host, via.port)

    def test_the_colon_too_many_of_the_old_grammar_is_forgiven(self) -> None:
        assert "[2001:db8:::192.0.2.1]" == identity(request("ipv6-bug-abnf-3-colons")).to.uri.host


def host_and_port(name: str) -> tuple[str, int | None]:
    uri = parse_sip_uri(request(name).uri)
    return uri.host, uri.port
