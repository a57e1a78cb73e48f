"""The SIP ladder of a call, as text and as a mermaid diagram."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traced_call import OTHER, PEER, START, US, Call, answered, sdp, sip

from gateway.doctor.ladder import COLUMN, TIME, mermaid, text_ladder
from gateway.doctor.reading import read_messages
from gateway.telephony.trace import TracedMessage

INVITE = sip("INVITE sip:2@pbx SIP/2.0", "1 INVITE", body=sdp(US[0], 16384, "9 8"))
BUSY = sip("SIP/2.0 486 Busy Here", "1 INVITE", tag="b")


def text_of(call: Call) -> list[str]:
    return text_ladder(read_messages(call.messages)).splitlines()


def mermaid_of(call: Call) -> list[str]:
    return mermaid(read_messages(call.messages)).splitlines()


class TestText:
    def test_a_call_reads_from_top_to_bottom(self) -> None:
        assert (
            """\
            gateway                                     198.51.100.7:5070/udp
    0.000   │───────── INVITE (sdp G722 PCMA) ─────────▶│
    0.100   │◀────────── 100 Trying (INVITE) ───────────│
    0.600   │◀────────── 180 Ringing (INVITE) ──────────│
    3.100   │◀─────── 200 OK (INVITE, sdp PCMA) ────────│
    3.200   │────────────────── ACK ───────────────────▶│
   23.200   │────────────────── BYE ───────────────────▶│
   23.300   │◀────────────── 200 OK (BYE) ──────────────│""".splitlines()
            == text_of(answered(ours=sdp(US[0], 16384, "9 8"), theirs=sdp(formats="8 101")))
        )

    def test_a_retransmission_is_called_so(self) -> None:
        first, again = text_of(Call().out(INVITE).out(INVITE, 0.5))[1:]
        assert "again" not in first
        assert "INVITE (sdp G722 PCMA, again)" in again

    def test_the_same_to_another_peer_is_none(self) -> None:
        call = Call().out(INVITE)
        call.remote = OTHER
        assert not any("again" in line for line in text_of(call.out(INVITE)))

    @pytest.mark.parametrize(
        ("lines", "port", "told"), [(("a=sendonly",), 4000, "sdp PCMA, sendonly"), ((), 0, "sdp closed")]
    )
    def test_hold_and_a_closed_stream_are_told(self, lines: tuple[str, ...], port: int, told: str) -> None:
        invite = sip("INVITE sip:2@pbx SIP/2.0", "1 INVITE", body=sdp(US[0], port, "8 101", *lines))
        assert told in text_of(Call().out(invite))[1]

    def test_each_peer_has_a_life_line(self) -> None:
        call = Call().out(INVITE).back(BUSY)
        call.remote, call.transport = OTHER, "tls"
        call.out(INVITE).back(BUSY)
        head, *lines = text_of(call)
        assert TIME + COLUMN == head.index("198.51.100.7:5070/udp")
        assert TIME + 2 * COLUMN == head.index("198.51.100.8:5070/tls")
        assert {TIME + 2 * COLUMN + 1} == {len(line) for line in lines}
        assert ["▶", "◀"] == [lines[0][TIME + COLUMN - 1], lines[1][TIME + 1]]
        assert ["▶", "◀"] == [lines[2][TIME + 2 * COLUMN - 1], lines[3][TIME + 1]]

    def test_more_peers_than_there_is_room_for_are_still_told(self) -> None:
        call = Call()
        for number in range(9):
            call.remote = ("198.51.100.7", 6000 + number)
            call.out(INVITE)
        assert text_of(call)[-1].endswith("to 198.51.100.7:6008/udp: INVITE (sdp G722 PCMA)")

    def test_an_endless_label_is_cut(self) -> None:
        (line,) = text_of(Call().back(sip(f"SIP/2.0 500 {'x' * 300}", "1 INVITE")))[1:]
        assert TIME + COLUMN + 1 == len(line)
        assert "…" in line

    @given(st.lists(st.tuples(st.booleans(), st.sampled_from([PEER, OTHER]), st.binary(max_size=120)), max_size=8))
    def test_whatever_was_said_each_message_is_one_line(self, said: list[tuple[bool, tuple[str, int], bytes]]) -> None:
        messages = [TracedMessage(START + n, sent, "udp", US, peer, data) for n, (sent, peer, data) in enumerate(said)]
        text = text_ladder(read_messages(messages))
        lines = text.split("\n")
        assert 1 + len(said) == len(lines)
        assert all(line.isprintable() for line in lines)


class TestMermaid:
    def test_a_call_is_a_sequence_diagram(self) -> None:
        assert [
            "sequenceDiagram",
            "    participant g as gateway",
            "    participant p1 as 198.51.100.7:5070/udp",
            "    g->>p1: INVITE (sdp G722 PCMA)",
            "    p1-->>g: 100 Trying (INVITE)",
            "    p1-->>g: 180 Ringing (INVITE)",
            "    Note over g,p1: 2.5 s later",
            "    p1-->>g: 200 OK (INVITE, sdp PCMA)",
            "    g->>p1: ACK",
            "    Note over g,p1: 20.0 s later",
            "    g->>p1: BYE",
            "    p1-->>g: 200 OK (BYE)",
        ] == mermaid_of(answered(ours=sdp(US[0], 16384, "9 8"), theirs=sdp(formats="8 101")))

    def test_each_peer_takes_part(self) -> None:
        call = Call().out(INVITE)
        call.remote = ("2001:db8::1", 5060)
        call.out(INVITE)
        lines = mermaid_of(call)
        assert "    participant p2 as [2001:db8::1]:5060/udp" in lines
        assert "    g->>p2: INVITE (sdp G722 PCMA)" in lines

    def test_what_would_end_the_line_or_begin_markup_is_an_entity(self) -> None:
        lines = mermaid_of(Call().back(sip("SIP/2.0 500 a;b#c<d>e%%f", "1 INVITE")))
        assert "    p1-->>g: 500 a#59;b#35;c#lt;d#gt;e#37;#37;f (INVITE)" == lines[-1]

    @given(st.lists(st.tuples(st.booleans(), st.text(max_size=60)), max_size=8))
    def test_no_peer_can_write_a_line_of_its_own(self, said: list[tuple[bool, str]]) -> None:
        call = Call()
        for sent, reason in said:
            (call.out if sent else call.back)(sip(f"SIP/2.0 500 {reason}", "1 INVITE"))
        lines = mermaid(read_messages(call.messages)).split("\n")
        allowed = r"    (participant \w+ as [\w.:/]+|(g|p1)-->>(g|p1): [^;]*(;[^;]*)*|Note over g,p1: [0-9.]+ s later)|sequenceDiagram|"
        assert all(re.fullmatch(allowed, line) for line in lines)
        assert len(said) == sum("-->>" in line for line in lines)
