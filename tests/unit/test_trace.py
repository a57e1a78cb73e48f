"""The recording of SIP messages: what is kept, what is forgotten, and what never reaches the file."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.trace import (
    FORGET_S,
    MOST_IDLE_OCTETS,
    MOST_MESSAGES,
    MOST_OCTETS,
    Trace,
    TracedMessage,
    Tracer,
    blotted,
    read_trace,
)

US, PEER = ("192.0.2.1", 5060), ("198.51.100.7", 5070)


def message(
    call_id: str = "dialog-1", method: str = "INVITE", *headers: str, body: str = "", name: str = "Call-ID"
) -> bytes:
    lines = [
        f"{method} sip:2@pbx.example.com SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
        "From: <sip:+821012345678@gw.example.com>;tag=a", "To: <sip:2@pbx.example.com>", f"{name}: {call_id}",
        f"CSeq: 1 {method}", *headers, f"Content-Length: {len(body)}",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Recording:
    """A tracer with its clock and folder."""

    def __init__(self, folder: Path, most_open: int = 5000) -> None:
        self.now = 1_700_000_000.0
        self.tracer = Tracer(folder / "traces", lambda: self.now, most_open)

    def say(self, data: bytes, *, sent: bool = True) -> None:
        self.tracer.sip(data, US, PEER, "udp", sent=sent)
        self.now += 0.001

    def finish(self, call_id: str = "call-1") -> Trace:
        return self.tracer.finish(call_id, {"status": 486})

    def methods(self, call_id: str = "call-1") -> list[str]:
        return [m.text.partition(" ")[0] for m in self.finish(call_id).messages]


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


class TestKeeping:
    def test_what_was_said_before_and_after_the_call_was_made_is_kept(self, recording: Recording) -> None:
        recording.say(message(method="INVITE"), sent=False)
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message(method="BYE"))
        trace = recording.finish()
        assert [(False, "INVITE"), (True, "BYE")] == [(m.sent, m.text.partition(" ")[0]) for m in trace.messages]
        assert {(US, PEER, "udp")} == {(m.local, m.remote, m.transport) for m in trace.messages}

    def test_a_dialog_may_be_bound_before_anything_is_said(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message())
        assert ["INVITE"] == recording.methods()

    def test_the_attempts_of_a_call_are_one_trace_in_the_order_of_time(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        recording.tracer.bind("dialog-2", "call-1")
        for call_id, method in (("dialog-1", "INVITE"), ("dialog-2", "INFO"), ("dialog-1", "CANCEL")):
            recording.say(message(call_id, method))
        assert ["INVITE", "INFO", "CANCEL"] == recording.methods()

    def test_calls_do_not_mix(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        recording.tracer.bind("dialog-2", "call-2")
        recording.say(message("dialog-1", "INVITE"))
        recording.say(message("dialog-2", "OPTIONS"))
        assert (["INVITE"], ["OPTIONS"]) == (recording.methods("call-1"), recording.methods("call-2"))

    def test_to_bind_twice_changes_nothing(self, recording: Recording) -> None:
        for _ in range(2):
            recording.tracer.bind("dialog-1", "call-1")
            recording.say(message())
        assert ["INVITE", "INVITE"] == recording.methods()
        assert 0 == len(recording.tracer)

    def test_a_call_of_which_nothing_is_known_has_an_empty_trace(self, recording: Recording) -> None:
        assert Trace("call-1", (), {"status": 486}) == recording.finish()

    @pytest.mark.parametrize("name", ["Call-ID", "call-id", "CALL-ID", "i", "I", "Call-ID ", "i "])
    def test_the_call_id_is_found_however_it_is_written(self, recording: Recording, name: str) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message(name=name))
        assert ["INVITE"] == recording.methods()

    def test_a_line_of_the_body_is_no_call_id(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message(name="i", body="i: other\r\nx"))
        assert ["INVITE"] == recording.methods()

    @pytest.mark.parametrize(
        "data", [b"", b"\r\n\r\n", b"\0\xff", b"INVITE x SIP/2.0\r\nCall-ID:", b"x\nCall-ID: \r\n\r\n"]
    )
    def test_what_has_no_call_id_is_passed_over(self, recording: Recording, data: bytes) -> None:
        recording.say(data)
        assert 0 == len(recording.tracer)


class TestBounds:
    def test_of_too_many_messages_the_middle_is_left_out(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        for number in range(500):
            recording.say(message("dialog-1", "INFO", f"X-Number: {number}"))
        trace = recording.finish()
        numbers = [int(m.text.partition("X-Number: ")[2].partition("\r")[0]) for m in trace.messages]
        assert (MOST_MESSAGES, 300) == (len(numbers), trace.omitted)
        assert [*range(100), *range(400, 500)] == numbers

    def test_of_too_many_octets_the_middle_is_left_out(self, recording: Recording) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        for number in range(10):
            recording.say(message("dialog-1", "INFO", f"X-Number: {number}", body="x" * 30_000))
        trace = recording.finish()
        assert sum(len(m.data) for m in trace.messages) <= MOST_OCTETS
        assert "X-Number: 0" in trace.messages[0].text
        assert "X-Number: 9" in trace.messages[-1].text
        assert 10 == len(trace.messages) + trace.omitted

    def test_a_dialog_that_became_no_call_is_forgotten(self, recording: Recording) -> None:
        recording.say(message("dialog-1"))
        recording.now += FORGET_S + 1
        recording.say(message("dialog-2"))
        assert 1 == len(recording.tracer)

    def test_a_dialog_that_goes_on_is_not(self, recording: Recording) -> None:
        for _ in range(10):
            recording.say(message("dialog-1"))
            recording.now += FORGET_S / 2
        assert 1 == len(recording.tracer)

    def test_strangers_push_each_other_out_but_never_a_call(self, tmp_path: Path) -> None:
        recording = Recording(tmp_path, most_open=10)
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message("dialog-1"))
        for number in range(1000):
            recording.say(message(f"flood-{number}", "OPTIONS"))
        recording.now += 10 * FORGET_S
        recording.say(message("dialog-1", "BYE"))
        assert 11 == len(recording.tracer)
        assert ["INVITE", "BYE"] == recording.methods()

    def test_strangers_hold_so_much_memory_and_no_more(self, recording: Recording) -> None:
        body = "x" * 60_000
        for number in range(600):
            recording.say(message(f"flood-{number}", body=body))
        assert MOST_IDLE_OCTETS // 60_000 >= len(recording.tracer) > 400

    def test_calls_that_are_never_finished_are_let_go(self, tmp_path: Path) -> None:
        recording = Recording(tmp_path, most_open=10)
        for number in range(50):
            recording.tracer.bind(f"dialog-{number}", f"call-{number}")
        assert 10 == len(recording.tracer)

    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(["say", "bind", "finish", "wait"]), st.integers(0, 6), st.integers(0, 40_000)),
            max_size=80,
        )
    )
    def test_whatever_happens_the_books_balance(
        self, steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        recording = Recording(tmp_path_factory.getbasetemp(), most_open=4)
        for step, number, octets in steps:
            match step:
                case "say":
                    recording.say(message(f"dialog-{number}", body="x" * octets))
                case "bind":
                    recording.tracer.bind(f"dialog-{number}", f"call-{number % 3}")
                case "finish":
                    recording.finish(f"call-{number % 3}")
                case "wait":
                    recording.now += octets / 100
            idle = recording.tracer._idle.values()
            assert sum(len(m.data) for d in idle for m in d.messages) == recording.tracer._idle_octets
            assert len(idle) <= 4
            assert {k for keys in recording.tracer._calls.values() for k in keys} == set(recording.tracer._bound)


class TestFiles:
    def finished(self, recording: Recording) -> Trace:
        recording.tracer.bind("dialog-1", "call-1")
        recording.say(message(body="안녕\r\n"))
        recording.say(message(method="BYE"), sent=False)
        return recording.finish()

    def test_a_trace_comes_back_from_its_file(self, recording: Recording) -> None:
        trace = self.finished(recording)
        path = recording.tracer.write(trace)
        again = read_trace(path)
        assert [m._replace(at=0) for m in trace.messages] == [m._replace(at=0) for m in again.messages]
        assert [pytest.approx(m.at, abs=1e-6) for m in trace.messages] == [m.at for m in again.messages]
        assert ("call-1", {"status": 486}, 0) == (again.call_id, again.report, again.omitted)

    def test_each_line_is_an_object_and_the_last_the_report(self, recording: Recording) -> None:
        lines = recording.tracer.write(self.finished(recording)).read_text().splitlines()
        first, second, last = map(json.loads, lines)
        assert ["at", "sent", "transport", "local", "remote", "message"] == list(first)
        assert ("2023-11-14T22:13:20.000000+00:00", True, "udp", list(US), list(PEER)) == tuple(first.values())[:5]
        assert not second["sent"]
        assert {"report": {"status": 486}, "omitted": 0} == last

    def test_nobody_else_may_read_it(self, recording: Recording) -> None:
        path = recording.tracer.write(self.finished(recording))
        assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
        assert [path] == list(path.parent.iterdir())

    @pytest.mark.parametrize("call_id", ["", "../x", "a/b", ".hidden", "a" * 200, "x\n"])
    def test_a_strange_call_id_makes_no_file(self, recording: Recording, call_id: str) -> None:
        with pytest.raises(ValueError, match="is no call id"):
            recording.tracer.write(Trace(call_id, ()))

    @pytest.mark.parametrize("line", ["{", "[]", "3", '{"at": "x"}', '{"report": {}, "omitted": "x"}'])
    def test_a_line_that_is_broken_is_named(self, recording: Recording, line: str) -> None:
        path = recording.tracer.write(self.finished(recording))
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(ValueError, match=r"call-1\.jsonl, line 4: no line of a trace"):
            read_trace(path)

    @given(data=st.binary(max_size=200))
    def test_any_octets_can_be_written(self, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        tracer = Tracer(tmp_path_factory.getbasetemp() / "any", lambda: 0.0)
        trace = Trace("call-1", (TracedMessage(0.0, True, "tcp", US, PEER, data),))
        (again,) = read_trace(tracer.write(trace)).messages
        assert isinstance(again.text, str)


SECRET = "7f3a9c0d2b"


class TestSecrets:
    def test_of_an_answer_to_a_challenge_stays_who_answered(self) -> None:
        header = (
            'Authorization: Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=MD5, '
            'nonce="7ypf/xlj9XXwfDPE", nc=00000001, cnonce="f2/wE4q74E6z", qop=auth, response="8ca523f5e9506fed4657c9700eebdbec"'
        )
        shown = (
            blotted(message("dialog-1", "REGISTER", header).decode())
            .partition("Authorization: ")[2]
            .partition("\r\n")[0]
        )
        expected = (
            'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=MD5, '
            f"{24 * '*'}, nc=00000001, {21 * '*'}, qop=auth, {43 * '*'}"
        )
        assert expected == shown

    @pytest.mark.parametrize(
        "header",
        [
            f'Authorization: Digest username="100", response="{SECRET}"',
            f'Proxy-Authorization: Digest response={SECRET},username="100"',
            f'proxy-authorization :Digest username="100",\r\n response="{SECRET}"',
            f"Authorization: Basic {SECRET}",
            f"Authorization: {SECRET}",
            f'Authorization: Digest response="{SECRET}", response="{SECRET}"',
            f'Authentication-Info: rspauth="{SECRET}"',
            f"Contact: <sip:100:{SECRET}@192.0.2.1>",
        ],
    )
    def test_credentials_never_reach_the_file(self, header: str) -> None:
        text = message("dialog-1", "REGISTER", header).decode()
        assert SECRET in text
        assert SECRET not in blotted(text)
        assert len(text) == len(blotted(text))

    @pytest.mark.parametrize(
        "line",
        [
            f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{SECRET}|2^20|1:4",
            f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 INLINE:{SECRET};inline:{SECRET}",
            f"k=base64:{SECRET}",
            f"a=key-mgmt:mikey {SECRET}",
        ],
    )
    def test_keys_of_the_media_never_reach_the_file(self, line: str) -> None:
        text = message(body=f"v=0\r\nm=audio 4000 RTP/SAVP 8\r\n{line}\r\na=sendrecv\r\n").decode()
        shown = blotted(text)
        assert SECRET not in shown
        assert shown.endswith("a=sendrecv\r\n")
        assert len(text) == len(shown)

    def test_of_a_crypto_line_everything_but_the_key_stays(self) -> None:
        text = message(body="a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:c2VjcmV0|2^20|1:4\r\n").decode()
        assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:********|2^20|1:4" in blotted(text)

    def test_which_key_was_pressed_is_nobodys_business(self) -> None:
        relay = message(method="INFO", body="Signal=7\r\nDuration=160\r\n").decode()
        assert "\r\n\r\nSignal=*\r\nDuration=160\r\n" == blotted(relay)[-len("\r\n\r\nSignal=*\r\nDuration=160\r\n") :]
        assert blotted(message(method="INFO", body="7").decode()).endswith("\r\n\r\n*")

    def test_a_code_in_a_message_is_blotted_out(self) -> None:
        assert "482913" not in blotted(message(method="MESSAGE", body="your code: 482913").decode())

    @pytest.mark.parametrize("method", ["INVITE", "BYE", "OPTIONS"])
    def test_numbers_and_everything_else_stay(self, method: str) -> None:
        text = message(
            "dialog-1", method, "WWW-Authenticate: Digest nonce=1", body="v=0\r\na=rtpmap:8 PCMA/8000\r\n"
        ).decode()
        assert text == blotted(text)

    def test_the_file_is_what_is_blotted(
        self, recording: Recording, secret_messages: Callable[[], list[bytes]]
    ) -> None:
        recording.tracer.bind("dialog-1", "call-1")
        for data in secret_messages():
            recording.say(data)
        assert SECRET not in recording.tracer.write(recording.finish()).read_text()

    @pytest.fixture
    def secret_messages(self) -> Callable[[], list[bytes]]:
        def make() -> list[bytes]:
            return [
                message("dialog-1", "INVITE", f'Proxy-Authorization: Digest response="{SECRET}"'),
                message(body=f"a=crypto:1 X inline:{SECRET}\r\n"),
            ]

        return make
