"""What the doctor says of a call: each fault on a trace that has just that fault."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traced_call import OTHER, PEER, START, US, Call, answered, healthy, sdp, sip

from gateway.doctor.diagnosis import Diagnosis, diagnose
from gateway.doctor.reading import is_private, is_public, printable, read_description
from gateway.telephony.report import AttemptReport, MediaReport, read_report
from gateway.telephony.trace import Trace, TracedMessage

INVITE = sip("INVITE sip:2@pbx SIP/2.0", "1 INVITE", body=sdp(US[0], 16384, "8 0 101"))
PRIVATE = "10.0.0.4"


def codes(diagnosis: Diagnosis, severity: str) -> set[str]:
    return {finding.code for finding in diagnosis.findings if finding.severity == severity}


def text_of(diagnosis: Diagnosis, code: str) -> str:
    (finding,) = [finding for finding in diagnosis.findings if finding.code == code]
    return finding.text


def examine(call: Call, **changes: Any) -> Diagnosis:
    return diagnose(call.trace(healthy(**changes)))


class TestHealthy:
    def test_a_good_call_has_no_fault_and_no_warning(self) -> None:
        diagnosis = examine(answered())
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert [] == diagnosis.silent

    def test_its_facts_are_told(self) -> None:
        diagnosis = examine(answered())
        assert "answered by 198.51.100.7:5070 after 3.1 s" == text_of(diagnosis, "sip.answered")
        assert "codec PCMA, RTP" == text_of(diagnosis, "media.codec")
        assert "from the far end: 998 packets, 0.0 % lost, jitter 1.5 ms (at most 4.0), speech 3.0 s" == text_of(
            diagnosis, "media.from"
        )
        assert "to the far end: 1000 packets, speech 9.0 s; it reports 0.0 % lost, jitter 2.0 ms, round trip 20 ms" == (
            text_of(diagnosis, "media.to")
        )
        assert "4 DTMF keys heard" == text_of(diagnosis, "media.dtmf")
        assert "ended by the caller after 20.0 s: hung up" == text_of(diagnosis, "call.ended")

    def test_an_inbound_call(self) -> None:
        call = Call().back(INVITE).out(sip("SIP/2.0 200 OK", "1 INVITE", tag="b", body=sdp(US[0])), 0.4)
        call.back(sip("ACK sip:1@gw SIP/2.0", "1 ACK", branch="z9hG4bK2", tag="b"))
        diagnosis = examine(call)
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert "call from 198.51.100.7:5070, answered after 0.4 s" == text_of(diagnosis, "sip.answered")

    def test_json_says_the_same(self) -> None:
        told = examine(answered(), received_packets=0, caller_speech_ms=0).as_dict()
        assert (False, ["caller"]) == (told["healthy"], told["silent"])
        assert {"severity", "code", "text"} == set(told["findings"][0])
        assert "fault" == told["findings"][0]["severity"]


class TestNothingFromTheFarEnd:
    SILENT: ClassVar[dict[str, Any]] = {
        "received_packets": 0, "received_octets": 0, "caller_speech_ms": 0, "first_packet_ms": None, "last_packet_ms": None,
    }  # fmt: skip

    def test_nothing_came_at_all(self) -> None:
        diagnosis = examine(answered(), **self.SILENT)
        assert {"rtp.none"} == codes(diagnosis, "fault")
        assert "nothing came from 198.51.100.7:4000 to 192.0.2.1:16384" in text_of(diagnosis, "rtp.none")
        assert ["caller"] == diagnosis.silent

    def test_our_own_address_is_private(self) -> None:
        call = answered(ours=sdp(PRIVATE, 16384), contact=f"<sip:gw@{PRIVATE}:5060>")
        diagnosis = examine(call, local=(PRIVATE, 16384), **self.SILENT)
        assert {"nat.local"} == codes(diagnosis, "fault")
        assert {"nat.contact"} == codes(diagnosis, "warning")
        assert "private address 10.0.0.4" in text_of(diagnosis, "nat.local")
        assert "set sip.advertised_address" in text_of(diagnosis, "nat.local")

    def test_it_came_from_another_address_and_was_not_let_in(self) -> None:
        diagnosis = examine(answered(), foreign=990, **self.SILENT)
        assert {"rtp.foreign"} == codes(diagnosis, "fault")
        assert "990 packets came from another address and were not let in" in text_of(diagnosis, "rtp.foreign")

    def test_the_far_end_is_behind_nat_and_names_its_private_address(self) -> None:
        diagnosis = examine(answered(theirs=sdp("192.168.1.20")), remote=("192.168.1.20", 4000), **self.SILENT)
        assert {"rtp.none", "nat.remote"} == codes(diagnosis, "fault")
        assert "192.168.1.20" in text_of(diagnosis, "nat.remote")
        assert "external_media_address" in text_of(diagnosis, "nat.remote")

    def test_it_closed_the_stream(self) -> None:
        diagnosis = examine(answered(theirs=sdp(port=0)), **self.SILENT)
        assert {"rtp.closed"} == codes(diagnosis, "fault")

    @pytest.mark.parametrize("direction", ["recvonly", "inactive"])
    def test_hold_is_no_fault(self, direction: str) -> None:
        diagnosis = examine(answered(), direction=direction, **self.SILENT)
        assert set() == codes(diagnosis, "fault")
        assert f"its SDP says {direction} (hold)" in text_of(diagnosis, "rtp.hold")

    def test_what_came_was_no_rtp(self) -> None:
        diagnosis = examine(answered(), malformed=500, srtp=True, **self.SILENT)
        assert {"rtp.malformed"} == codes(diagnosis, "fault")
        assert "the keys differ" in text_of(diagnosis, "rtp.malformed")

    def test_a_call_of_a_moment_says_nothing_about_silence(self) -> None:
        diagnosis = examine(answered(), **self.SILENT | {"duration_ms": 300})
        assert set() == codes(diagnosis, "fault")

    def test_packets_without_speech(self) -> None:
        diagnosis = examine(answered(), caller_speech_ms=0)
        assert ({"rtp.no_speech"}, ["caller"]) == (codes(diagnosis, "warning"), diagnosis.silent)

    def test_speech_that_nobody_measured_is_not_missed(self) -> None:
        diagnosis = examine(answered(), caller_speech_ms=None, gateway_speech_ms=None)
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert [] == diagnosis.silent
        assert "speech" not in text_of(diagnosis, "media.from") + text_of(diagnosis, "media.to")

    def test_it_stopped_before_the_end(self) -> None:
        diagnosis = examine(answered(), last_packet_ms=12_000)
        assert "the far end's audio stopped 8.0 s before the end of the call" == text_of(diagnosis, "rtp.stopped")

    def test_it_stopped_for_a_hold(self) -> None:
        diagnosis = examine(answered(), last_packet_ms=12_000, direction="inactive")
        assert set() == codes(diagnosis, "fault")


class TestNothingToTheFarEnd:
    @pytest.mark.parametrize(
        "told", [{"far_lost_fraction": 1.0, "far_lost": 400}, {"far_lost_fraction": 0, "far_lost": 990}]
    )
    def test_its_reports_say_that_it_hears_nothing(self, told: dict[str, Any]) -> None:
        diagnosis = examine(answered(), **told)
        assert {"rtp.far_deaf"} == codes(diagnosis, "fault")
        assert "the far end hears nothing of us" in text_of(diagnosis, "rtp.far_deaf")

    def test_it_is_deaf_behind_nat(self) -> None:
        call = answered(theirs=sdp("192.168.1.20"))
        diagnosis = examine(call, remote=("192.168.1.20", 4000), far_lost_fraction=1.0, far_lost=1000)
        assert "its SDP names the private address 192.168.1.20" in text_of(diagnosis, "rtp.far_deaf")

    def test_our_own_machine_let_nothing_out(self) -> None:
        diagnosis = examine(answered(), sent_packets=0, unsent_packets=1000, gateway_speech_ms=0, far_reports=0)
        assert {"rtp.not_sent"} == codes(diagnosis, "fault")
        assert "this machine refused 1000 packets" in text_of(diagnosis, "rtp.not_sent")
        assert ["gateway"] == diagnosis.silent

    @pytest.mark.parametrize("changes", [{"direction": "sendonly"}, {"remote": ("0.0.0.0", 4000)}])
    def test_on_hold_it_did_not_want_to_hear(self, changes: dict[str, Any]) -> None:
        diagnosis = examine(answered(), sent_packets=0, gateway_speech_ms=0, far_reports=0, **changes)
        assert set() == codes(diagnosis, "fault")
        assert "rtp.far_hold" in codes(diagnosis, "fact")

    def test_without_rtcp_nothing_is_known(self) -> None:
        diagnosis = examine(
            answered(), far_reports=0, far_lost_fraction=None, far_lost=None, far_jitter_ms=None, rtt_ms=None
        )
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert "what it hears of us is unknown" in text_of(diagnosis, "media.to")

    def test_we_said_nothing(self) -> None:
        diagnosis = examine(answered(), gateway_speech_ms=0)
        assert ({"rtp.we_said_nothing"}, ["gateway"]) == (codes(diagnosis, "warning"), diagnosis.silent)


class TestAddresses:
    def test_a_latch_is_told(self) -> None:
        diagnosis = examine(answered(), latched=(PEER[0], 31337))
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert (
            "RTP came from 198.51.100.7:31337, not from the signalled 198.51.100.7:4000; latched to it"
            == text_of(diagnosis, "rtp.latched")
        )  # fmt: skip

    def test_a_latch_heals_the_nat_of_the_far_end(self) -> None:
        call = answered(theirs=sdp("192.168.1.20"))
        diagnosis = examine(call, remote=("192.168.1.20", 4000), latched=(PEER[0], 31337))
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")
        assert "behind NAT" in text_of(diagnosis, "rtp.latched")

    def test_forged_packets_beside_the_real_ones(self) -> None:
        assert {"rtp.foreign"} == codes(examine(answered(), foreign=50), "warning")

    def test_our_private_address_that_did_no_harm(self) -> None:
        diagnosis = examine(answered(ours=sdp(PRIVATE)), local=(PRIVATE, 16384))
        assert (set(), {"nat.local"}) == (codes(diagnosis, "fault"), codes(diagnosis, "warning"))

    def test_private_addresses_among_each_other_are_fine(self) -> None:
        call = answered(remote=("10.0.0.9", 5060), contact=f"<sip:gw@{PRIVATE}>")
        diagnosis = examine(call, local=(PRIVATE, 16384), remote=("10.0.0.9", 4000))
        assert set() == codes(diagnosis, "fault") | codes(diagnosis, "warning")

    @pytest.mark.parametrize(
        "host", ["10.1.2.3", "172.16.0.1", "192.168.255.1", "169.254.1.1", "100.64.1.1", "fd00::1", "fe80::1%eth0"]
    )
    def test_what_is_private(self, host: str) -> None:
        assert (True, False) == (is_private(host), is_public(host))

    @pytest.mark.parametrize("host", ["198.51.100.7", "172.32.0.1", "8.8.8.8", "2001:db8::1"])
    def test_what_is_public(self, host: str) -> None:
        assert (False, True) == (is_private(host), is_public(host))

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "", "pbx.example.com"])
    def test_what_is_neither(self, host: str) -> None:
        assert (False, False) == (is_private(host), is_public(host))


class TestQuality:
    @pytest.mark.parametrize(
        ("changes", "severity", "code"),
        [
            ({"lost_fraction": 0.02, "lost": 20}, "warning", "rtp.loss"),
            ({"lost_fraction": 0.1, "lost": 100}, "fault", "rtp.loss"),
            ({"far_lost_fraction": 0.02, "far_lost": 20}, "warning", "rtp.far_loss"),
            ({"far_lost_fraction": 0.1, "far_lost": 100}, "fault", "rtp.far_loss"),
            ({"jitter_max_ms": 40.0}, "warning", "rtp.jitter"),
            ({"jitter_max_ms": 90.0}, "fault", "rtp.jitter"),
            ({"longest_gap_ms": 2500}, "warning", "rtp.gap"),
            ({"rtt_ms": 700.0}, "warning", "rtp.slow"),
            ({"malformed": 3}, "warning", "rtp.malformed"),
        ],
    )
    def test_what_was_bad_is_named(self, changes: dict[str, Any], severity: str, code: str) -> None:
        diagnosis = examine(answered(), **changes)
        other = "fault" if severity == "warning" else "warning"
        assert ({code}, set()) == (codes(diagnosis, severity), codes(diagnosis, other))

    def test_encrypted_signalling_with_audio_in_clear(self) -> None:
        assert {"media.in_clear"} == codes(examine(answered(transport="tls")), "warning")
        assert set() == codes(examine(answered(transport="tls"), srtp=True), "warning")

    def test_a_far_end_without_telephone_events(self) -> None:
        diagnosis = examine(answered(theirs=sdp(formats="8")))
        assert "only SIP INFO is left" in text_of(diagnosis, "media.dtmf")

    def test_packets_out_of_order_are_a_fact(self) -> None:
        assert "packets late: 1, twice: 2" == text_of(examine(answered(), late=1, duplicates=2), "media.order")


class TestNoCallCameAbout:
    """RFC 3261 §21 and §17.1."""

    FAILED = AttemptReport(status=503, reason="Service Unavailable", duration_ms=1500).as_dict()

    def test_a_peer_that_never_answers(self) -> None:
        call = Call().out(INVITE)
        for wait in (0.5, 1, 2, 4, 8, 16):
            call.out(INVITE, wait)
        diagnosis = diagnose(call.trace(AttemptReport(status=408, reason="no answer", duration_ms=32_000).as_dict()))
        assert {"sip.no_answer"} == codes(diagnosis, "fault")
        assert "198.51.100.7:5070 never answered our INVITE, which was sent 7 times" in text_of(
            diagnosis, "sip.no_answer"
        )
        assert "no call came about: 408 no answer, after 32.0 s" == text_of(diagnosis, "call.not_made")
        assert diagnosis.silent is None

    @pytest.mark.parametrize(
        ("status", "severity", "words"),
        [
            ("486 Busy Here", "fact", "busy"),
            ("480 Temporarily Unavailable", "fact", "cannot be reached now"),
            ("603 Decline", "fact", "declined"),
            ("403 Forbidden", "fault", "is our address, or lines.from_user, known to it?"),
            ("404 Not Found", "fault", "lines.dial"),
            ("488 Not Acceptable Here", "fault", "(offered: PCMA PCMU telephone-event)"),
            ("500 Oops", "fault", "it failed"),
            ("503 Service Unavailable", "fault", "overloaded"),
            ("499 Strange", "fault", "it refused the call"),
        ],
    )
    def test_a_peer_that_refuses(self, status: str, severity: str, words: str) -> None:
        call = Call().out(INVITE).back(sip(f"SIP/2.0 {status}", "1 INVITE", tag="b"))
        diagnosis = diagnose(call.trace(self.FAILED))
        (finding,) = [f for f in diagnosis.findings if f.code in ("sip.refused", "sip.not_reached")]
        assert severity == finding.severity
        assert f"198.51.100.7:5070 said {status}: " in finding.text
        assert words in finding.text

    def test_a_challenge_that_was_met_is_no_fault(self) -> None:
        call = Call().out(INVITE).back(sip("SIP/2.0 401 Unauthorized", "1 INVITE", tag="b"))
        again = "INVITE sip:2@pbx SIP/2.0"
        call.out(sip(again, "2 INVITE", "Authorization: Digest x", branch="z9hG4bK9", body=sdp(US[0])))
        call.back(sip("SIP/2.0 200 OK", "2 INVITE", branch="z9hG4bK9", tag="b", body=sdp()))
        call.out(sip("ACK sip:2@pbx SIP/2.0", "2 ACK", branch="z9hG4bK10", tag="b"))
        assert set() == codes(examine(call), "fault") | codes(examine(call), "warning")

    def test_credentials_that_are_wanted(self) -> None:
        call = Call().out(INVITE).back(sip("SIP/2.0 407 Proxy Authentication Required", "1 INVITE", tag="b"))
        assert "set lines.username, lines.password" in text_of(diagnose(call.trace(self.FAILED)), "sip.credentials")

    def test_credentials_that_are_refused(self) -> None:
        call = Call().out(sip("INVITE sip:2@pbx SIP/2.0", "2 INVITE", "Authorization: Digest x"))
        call.back(sip("SIP/2.0 401 Unauthorized", "2 INVITE", tag="b"))
        assert "refused our lines.username" in text_of(diagnose(call.trace(self.FAILED)), "sip.credentials")

    def test_a_failover_is_a_warning(self) -> None:
        call = Call().out(INVITE).back(sip("SIP/2.0 503 Service Unavailable", "1 INVITE", tag="b"))
        call.remote = OTHER
        call.out(sip("INVITE sip:2@pbx SIP/2.0", "1 INVITE", branch="z9hG4bK9", body=sdp(US[0])))
        call.back(sip("SIP/2.0 200 OK", "1 INVITE", branch="z9hG4bK9", tag="b", body=sdp()))
        call.out(sip("ACK sip:2@pbx SIP/2.0", "1 ACK", branch="z9hG4bK10", tag="b"))
        diagnosis = examine(call)
        assert (set(), {"sip.failover"}) == (codes(diagnosis, "fault"), codes(diagnosis, "warning"))
        assert "answered by 198.51.100.8:5070 after 0.1 s" == text_of(diagnosis, "sip.answered")

    def test_a_cancelled_call(self) -> None:
        call = Call().out(INVITE).back(sip("SIP/2.0 180 Ringing", "1 INVITE", tag="b"))
        call.out(sip("CANCEL sip:2@pbx SIP/2.0", "1 CANCEL"), 30)
        assert "given up before 198.51.100.7:5070 answered" == text_of(
            diagnose(call.trace(self.FAILED)), "sip.cancelled"
        )

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            ("488 Not Acceptable Here", "sip.refused", "(offered: PCMA PCMU telephone-event)"),
            ("503 Service Unavailable", "sip.refused", "sip.most_calls"),
            ("401 Unauthorized", "sip.credentials", "was asked for credentials and sent none"),
            ("487 Request Terminated", "sip.cancelled", "hung up before the call was answered"),
        ],
    )
    def test_a_call_that_we_refuse(self, status: str, code: str, words: str) -> None:
        call = Call().back(INVITE).out(sip(f"SIP/2.0 {status}", "1 INVITE", tag="b"))
        assert words in text_of(diagnose(call.trace(self.FAILED)), code)


class TestWithinTheCall:
    def test_a_200_that_is_never_acknowledged(self) -> None:
        ok = sip("SIP/2.0 200 OK", "1 INVITE", f"Contact: <sip:gw@{PRIVATE}:5060>", tag="b", body=sdp(PRIVATE))
        call = Call().back(INVITE).out(ok).out(ok, 0.5).out(ok, 1)
        diagnosis = examine(call, local=(PRIVATE, 16384))
        assert {"sip.no_ack"} == codes(diagnosis, "fault")
        text = text_of(diagnosis, "sip.no_ack")
        assert "our 200 was sent 3 times and never acknowledged" in text
        assert f"<sip:gw@{PRIVATE}:5060>" in text
        assert "sip.advertised_address" in text

    def test_a_200_that_we_never_acknowledged(self) -> None:
        ok = sip("SIP/2.0 200 OK", "1 INVITE", tag="b", body=sdp())
        call = Call().out(INVITE).back(ok).back(ok, 0.5)
        assert "we never acknowledged it" in text_of(examine(call), "sip.no_ack")

    def test_an_acknowledged_200_that_came_twice_is_fine(self) -> None:
        ok = sip("SIP/2.0 200 OK", "1 INVITE", tag="b", body=sdp())
        call = Call().out(INVITE).back(ok).back(ok, 0.5).out(sip("ACK sip:2@pbx SIP/2.0", "1 ACK", tag="b"))
        assert set() == codes(examine(call), "fault")

    def test_a_change_that_was_refused(self) -> None:
        call = answered()
        call.back(sip("INVITE sip:1@gw SIP/2.0", "7 INVITE", branch="z9hG4bK7", tag="b", body=sdp("10.9.9.9", port=0)))
        call.out(sip("SIP/2.0 488 Not Acceptable Here", "7 INVITE", branch="z9hG4bK7", tag="b"))
        diagnosis = examine(call)
        assert (set(), {"sip.change_refused"}) == (codes(diagnosis, "fault"), codes(diagnosis, "warning"))

    def test_glare_is_not_told(self) -> None:
        call = answered().out(sip("INVITE sip:1@gw SIP/2.0", "7 INVITE", branch="z9hG4bK7", tag="b"))
        call.back(sip("SIP/2.0 491 Request Pending", "7 INVITE", branch="z9hG4bK7", tag="b"))
        assert set() == codes(examine(call), "warning")

    def test_a_bye_without_answer(self) -> None:
        call, bye = answered(), sip("BYE sip:2@pbx SIP/2.0", "3 BYE", branch="z9hG4bK8", tag="b")
        for _ in range(4):
            call.out(bye)
        diagnosis = examine(call)
        assert {"sip.bye_unanswered", "sip.repeated"} == codes(diagnosis, "warning")
        assert "which was sent 4 times" in text_of(diagnosis, "sip.bye_unanswered")

    def test_requests_that_come_again_and_again(self) -> None:
        call, info = answered(), sip("INFO sip:1@gw SIP/2.0", "9 INFO", branch="z9hG4bK8", tag="b")
        for _ in range(4):
            call.back(info)
        assert "3 requests came to us again" in text_of(examine(call), "sip.repeated_to_us")


class TestWhatIsStrange:
    def test_a_trace_without_report(self) -> None:
        diagnosis = diagnose(answered().trace())
        assert ({"trace.no_report"}, None) == (codes(diagnosis, "warning"), diagnosis.silent)

    def test_an_empty_trace(self) -> None:
        assert {"trace.no_report"} == {finding.code for finding in diagnose(Trace("x", ())).findings}

    def test_messages_left_out_are_told(self) -> None:
        diagnosis = diagnose(answered().trace(healthy(), omitted=12))
        assert "12 messages were left out of the middle of this trace" == text_of(diagnosis, "trace.cut")

    def test_what_is_no_sip_is_counted(self) -> None:
        assert "messages of this call that are no SIP: 1" == text_of(
            examine(answered().back(b"\0\xff rubbish")), "sip.malformed"
        )

    def test_what_a_stranger_wrote_does_not_reach_the_terminal(self) -> None:
        call = Call().out(INVITE).back(sip("SIP/2.0 599 \x1b[2J\x07gone", "1 INVITE", tag="b"))
        report = AttemptReport(status=599, reason="\x1b[2J\x07gone").as_dict()
        told = " ".join(finding.text for finding in diagnose(call.trace(report)).findings)
        assert "gone" in told
        assert not {"\x1b", "\x07"} & set(told)
        assert "a�b" == printable("a\x9bb")

    @given(
        datas=st.lists(
            st.one_of(
                st.binary(max_size=300),
                st.builds(
                    lambda line, cseq, body: sip(line, cseq, body=body),
                    st.sampled_from(
                        ["INVITE sip:x SIP/2.0", "SIP/2.0 200 OK", "SIP/2.0 503", "BYE x SIP/2.0", "ACK x SIP/2.0"]
                    ),
                    st.sampled_from(["1 INVITE", "1", "", "x y z", "2 BYE"]),
                    st.text("v=cmaudio 0189:/.\r\n", max_size=80).map(lambda text: "v=0\r\n" + text),
                ),
            ),
            max_size=8,
        ),
        sents=st.integers(0, 255),
    )
    def test_nothing_in_a_trace_raises(self, datas: list[bytes], sents: int) -> None:
        messages = tuple(
            TracedMessage(START + n, bool(sents >> n & 1), "udp", US, PEER, data) for n, data in enumerate(datas)
        )
        for report in ({}, healthy().as_dict()):
            diagnosis = diagnose(Trace("x", messages, report))
            assert all(finding.text.isprintable() for finding in diagnosis.findings)


class TestReports:
    def test_a_report_comes_back_from_json(self) -> None:
        report = healthy(latched=(PEER[0], 31337))
        told = report.as_dict() | {
            "local": list(report.local),
            "remote": list(report.remote),
            "latched": [PEER[0], 31337],
        }
        assert report == read_report(told)

    def test_an_attempt_comes_back(self) -> None:
        attempt = AttemptReport(status=486, reason="Busy Here", duration_ms=900)
        assert attempt == read_report(attempt.as_dict())

    def test_what_a_later_version_added_is_passed_over(self) -> None:
        assert healthy() == read_report(healthy().as_dict() | {"mood": "good"})

    def test_what_an_earlier_version_lacked_is_the_default(self) -> None:
        report = read_report({"codec": "PCMU", "local": [US[0], 2], "remote": [PEER[0], 4]})
        assert MediaReport(codec="PCMU", local=(US[0], 2), remote=(PEER[0], 4)) == report

    def test_what_is_no_report_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no report of a call"):
            read_report({"codec": "PCMU"})


class TestDescriptions:
    """RFC 8866 and RFC 3264."""

    def test_the_first_audio_stream_is_read(self) -> None:
        body = sdp(
            "192.0.2.5",
            4000,
            "9 97 101",
            "a=rtpmap:97 opus/48000/2",
            "a=sendonly",
            "a=crypto:1 X inline:Y",
            protocol="RTP/SAVP",
        )
        told = read_description(body)
        assert told is not None
        assert ("192.0.2.5", 4000, "RTP/SAVP", ("G722", "opus", "telephone-event"), "sendonly", True, True) == (
            told.address, told.port, told.protocol, told.codecs, told.direction, told.keyed, told.takes_events,
        )  # fmt: skip

    def test_a_stream_has_its_own_address_and_direction(self) -> None:
        told = read_description(
            "v=0\nc=IN IP4 192.0.2.1\na=inactive\nm=audio 6 RTP/AVP 0\nc=IN IP6 2001:db8::1\na=recvonly\n"
        )
        assert told is not None
        assert ("2001:db8::1", "recvonly") == (told.address, told.direction)

    def test_of_the_session_comes_what_the_stream_does_not_say(self) -> None:
        told = read_description(
            "v=0\nc=IN IP4 192.0.2.1\na=inactive\nm=video 4 RTP/AVP 31\na=sendonly\nm=audio 6 RTP/AVP 0\n"
        )
        assert told is not None
        assert ("192.0.2.1", "inactive", 6) == (told.address, told.direction, told.port)

    def test_without_audio_there_is_none(self) -> None:
        assert read_description("v=0\r\nm=video 4 RTP/AVP 31\r\n") is None
