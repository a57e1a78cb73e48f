"""Session timers (RFC 4028): who refreshes, how often, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from aiosipua.message import SipRequest, SipResponse
from hypothesis import given
from hypothesis import strategies as st
from sip_bench import ours, request, response

from gateway.telephony.session_timer import (
    MIN_SE,
    Refresher,
    SessionTimer,
    TooBrief,
    announce,
    as_client,
    as_server,
    min_se,
    required,
    session_expires,
    supported,
)


def asked(expires: str = "", *, timed: bool = True, least: str = "") -> SipRequest:
    """Their INVITE."""
    headers = {"Session-Expires": expires, "Supported": "timer" if timed else "", "Min-SE": least}
    return request("INVITE", headers={name: value for name, value in headers.items() if value})


def granted(expires: str = "") -> SipResponse:
    """Their 200 to our INVITE."""
    return response(ours("INVITE"), 200, headers={"Session-Expires": expires} if expires else {})


class TestAsServer:
    """§9, Table 2."""

    @pytest.mark.parametrize(
        ("named", "timed", "refresher"),
        [("", False, "us"), (";refresher=uac", True, "them"), (";refresher=uas", True, "us"), ("", True, "them")],
    )
    def test_who_refreshes(self, named: str, timed: bool, refresher: Refresher) -> None:
        """Where the far end knows of no timer only we can; else it may choose, and we leave it to do the work."""
        assert SessionTimer(600, refresher) == as_server(asked(f"600{named}", timed=timed), 1800)

    def test_a_refresh_that_names_nobody_keeps_the_roles(self) -> None:
        assert SessionTimer(600, "us") == as_server(asked("600"), 0, refresher="us")

    def test_a_refresh_that_names_somebody_changes_them(self) -> None:
        assert SessionTimer(600, "them") == as_server(asked("600;refresher=uac"), 0, refresher="us")

    def test_their_interval_is_taken(self) -> None:
        assert SessionTimer(MIN_SE, "them") == as_server(asked(str(MIN_SE)), 1800)

    def test_a_shorter_one_than_90_s_is_refused(self) -> None:
        """§5: 422 with Min-SE."""
        with pytest.raises(TooBrief):
            as_server(asked(str(MIN_SE - 1)), 1800)

    def test_where_they_ask_for_none_we_ask_and_refresh(self) -> None:
        assert SessionTimer(1800, "us") == as_server(asked(), 1800)

    def test_our_own_is_no_shorter_than_they_allow(self) -> None:
        assert SessionTimer(3600, "us") == as_server(asked(least="3600"), 1800)

    def test_without_a_wish_of_either_side_there_is_none(self) -> None:
        assert as_server(asked(), 0) is None


class TestAsClient:
    """§7.2."""

    @pytest.mark.parametrize(
        ("expires", "timer"),
        [
            ("600;refresher=uac", SessionTimer(600, "us")),
            ("600;refresher=uas", SessionTimer(600, "them")),
            ("600", SessionTimer(600, "us")),
            ("", SessionTimer(1800, "us")),
        ],
    )
    def test_the_2xx_says_who_refreshes(self, expires: str, timer: SessionTimer) -> None:
        assert timer == as_client(granted(expires), 1800)

    def test_nonsense_of_theirs_does_not_make_us_refresh_all_the_time(self) -> None:
        assert SessionTimer(MIN_SE, "us") == as_client(granted("1;refresher=uac"), 1800)

    def test_without_a_wish_of_either_side_there_is_none(self) -> None:
        assert as_client(granted(), 0) is None

    def test_a_422_says_what_is_long_enough(self) -> None:
        """§7.3; no less than the standard's own minimum."""
        refusal = response(ours("INVITE"), 422, headers={"Min-SE": "1200"})
        assert 1200 == min_se(refusal)
        refusal.set_header("Min-SE", "5")
        assert MIN_SE == min_se(refusal)
        refusal.remove_header("Min-SE")
        assert MIN_SE == min_se(refusal)


class TestWhen:
    """§10."""

    def test_the_refresher_acts_at_half_time(self) -> None:
        assert 900.0 == SessionTimer(1800, "us").due_s

    @pytest.mark.parametrize(("expires", "due"), [(1800, 1768.0), (90, 60.0), (96, 64.0)])
    def test_the_other_side_gives_up_a_third_or_32_s_before_the_end(self, expires: int, due: float) -> None:
        assert due == SessionTimer(expires, "them").due_s


class TestAnnouncing:
    """§4, §7.1, §9."""

    @pytest.mark.parametrize(
        ("refresher", "requesting", "named"),
        [("us", True, "uac"), ("them", True, "uas"), ("us", False, "uas"), ("them", False, "uac")],
    )
    def test_the_refresher_is_named_by_its_role_in_this_transaction(
        self, refresher: Refresher, requesting: bool, named: str
    ) -> None:
        message = ours("INVITE")
        announce(message, SessionTimer(600, refresher), requesting=requesting)
        assert f"600;refresher={named}" == message.get_header("Session-Expires")

    def test_who_is_told_to_refresh_has_to_know_how(self) -> None:
        """§9: Require in the 2xx when the UAC refreshes, so that no proxy lets it pass unseen."""
        message = response(asked("600"), 200)
        announce(message, SessionTimer(600, "them"), requesting=False)
        assert "timer" == message.get_header("Require")

    def test_who_is_not_is_not_bound_to_know(self) -> None:
        for message, requesting in ((response(asked("600"), 200), False), (ours("INVITE"), True)):
            announce(message, SessionTimer(600, "us"), requesting=requesting)
            assert message.get_header("Require") is None

    @given(st.integers(MIN_SE, 10**8), st.sampled_from(["us", "them"]))
    def test_what_we_announce_they_read(self, expires: int, refresher: Refresher) -> None:
        message = response(ours("INVITE"), 200)
        announce(message, SessionTimer(expires, refresher), requesting=False)
        seen: Refresher = "them" if refresher == "us" else "us"
        assert SessionTimer(expires, seen) == as_client(message, 0)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "read"),
        [
            ("600", (600, "")), (" 600 ; refresher=UAS ", (600, "uas")), ("600;other=1;refresher=uac", (600, "uac")),
            ("", (None, "")), ("soon", (None, "")), ("-5", (None, "")), ("²", (None, "")), ("٣", (None, "")),
            ("9999999999", (None, "")), ("600;refresher", (600, "")),
        ],
    )  # fmt: skip
    def test_seconds_and_refresher(self, text: str, read: tuple[int | None, str]) -> None:
        message = ours("INVITE")
        message.set_header("Session-Expires", text)
        assert read == session_expires(message)

    def test_the_compact_form_is_read(self) -> None:
        message = ours("INVITE")
        message.set_header("x", "600;refresher=uac")
        assert (600, "uac") == session_expires(message)

    @pytest.mark.parametrize("least", ["²", "soon", "-1", "", "9999999999"])
    def test_a_minimum_that_is_none_counts_as_the_standards(self, least: str) -> None:
        message = ours("INVITE")
        message.set_header("Min-SE", least)
        assert MIN_SE == min_se(message)

    def test_option_tags_are_gathered_from_every_line(self) -> None:
        message = ours("INVITE")
        message.add_header("Supported", "100rel , Timer")
        message.add_header("Supported", "replaces")
        message.add_header("Require", "a,b,")
        assert ({"100rel", "timer", "replaces"}, {"a", "b"}) == (supported(message), required(message))

    @given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40))
    def test_no_text_raises(self, text: str) -> None:
        message = asked()
        for name in ("Session-Expires", "Min-SE", "Supported", "Require"):
            message.set_header(name, text)
        with suppress(TooBrief):
            as_server(message, 1800)
        as_client(response(message, 200), 1800)
        required(message)
