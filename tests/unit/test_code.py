"""The SMS code, and what a reply says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.code import CODE_DIGITS, MAXIMUM_REPLY, Reply, code_matches, derive_code, read_reply

SECRET = b"a secret of thirty-two octets...."
ARGUMENTS = {"order_hash": "a" * 64, "number": "+821012345678", "challenge_id": "c-1", "nonce": "n-1"}
STOP, UNREADABLE = Reply("stop"), Reply("unreadable")


def code(digits: str) -> Reply:
    return Reply("code", digits)


class TestTheCode:
    def test_it_is_the_same_for_the_same_challenge(self) -> None:
        assert derive_code(SECRET, **ARGUMENTS) == derive_code(SECRET, **ARGUMENTS)

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_it_is_bound_to(self, name: str) -> None:
        assert derive_code(SECRET, **ARGUMENTS) != derive_code(SECRET, **(ARGUMENTS | {name: "other"}))

    def test_it_cannot_be_made_without_the_secret(self) -> None:
        assert derive_code(SECRET, **ARGUMENTS) != derive_code(SECRET[:-1], **ARGUMENTS)

    @given(secret=st.binary(min_size=1), nonce=st.text())
    def test_it_is_always_six_digits(self, secret: bytes, nonce: str) -> None:
        made = derive_code(secret, **(ARGUMENTS | {"nonce": nonce}))
        assert CODE_DIGITS == len(made)
        assert made.isascii()
        assert made.isdigit()

    def test_a_known_one(self) -> None:
        """Computed once by hand with openssl: a change of the derivation would break the codes that are under way."""
        assert "981739" == derive_code(SECRET, **ARGUMENTS)

    @pytest.mark.parametrize(
        ("expected", "given_code"), [(True, "123456"), (False, "123457"), (False, ""), (False, "١٢٣٤٥٦")]
    )
    def test_only_the_very_code_matches(self, expected: bool, given_code: str) -> None:
        assert expected is code_matches(given_code, "123456")


class TestReadingACode:
    @pytest.mark.parametrize(
        "text",
        [
            "123456",
            "  123456\n",
            "123 456",
            "12 34 56",
            "123-456",
            "1.2.3.4.5.6",
            "１２３４５６",
            "１２３ ４５６",
            "①②③④⑤⑥",
            "١٢٣٤٥٦",
            "code 123456",
            "the code is 123456",
            "Code:123456",
            "인증번호 123456",
            "인증번호는 123456 입니다",
            "验证码123456",
            "验证码：１２３４５６。",
            "123456!",
            "123456 123456",
            "네 123456",
        ],
    )
    def test_the_code_is_found(self, text: str) -> None:
        assert code("123456") == read_reply(text)

    def test_a_leading_zero_stays(self) -> None:
        assert code("000123") == read_reply("000123")

    @pytest.mark.parametrize(
        "text", ["", " ", "네", "yes", "好的", "12345", "1234567", "12345 ", "123,456", "010-1234-5678", "1588-0000",
                 "123456 654321", "code one two three", "½½½½½½"],
    )  # fmt: skip
    def test_what_is_not_one_code_is_unreadable(self, text: str) -> None:
        assert UNREADABLE == read_reply(text)

    def test_a_code_beside_a_telephone_number_is_found(self) -> None:
        assert code("123456") == read_reply("123456 (010-1234-5678)")


class TestReadingAStop:
    @pytest.mark.parametrize(
        "text",
        ["stop", "STOP", "Stop!", "s t o p", "ＳＴＯＰ", "please cancel", "no", "No, thanks", "TD", "T", "quit.",
         "취소", "취소합니다", "취소해주세요", "해지 해 주세요", "거부", "수신거부", "수신 거부", "아니요", "싫어요", "안 해요",
         "\u110e\u1171\u1109\u1169",  # 취소 in separate jamo
         "取消", "我要取消", "请取消订阅", "退订", "不", "不要", "不同意", "我不同意", "我不同意开通", "拒绝办理"],
    )  # fmt: skip
    def test_a_stop_word_is_heard(self, text: str) -> None:
        assert STOP == read_reply(text)

    @pytest.mark.parametrize(
        "text",
        ["stop 123456", "123456 stop", "123456취소", "123456 취소해주세요", "请取消123456", "我不同意 123456", "123456不要",
         "I do not agree 123456", "i don't agree 123456", "동의 안 합니다 123456"],
    )  # fmt: skip
    def test_a_stop_word_beats_a_code(self, text: str) -> None:
        assert STOP == read_reply(text)

    @pytest.mark.parametrize("text", ["stopwatch 123456", "notice 123456", "안녕하세요 123456"])
    def test_a_word_that_only_begins_like_one_is_none(self, text: str) -> None:
        assert "stop" != read_reply(text).reading

    @pytest.mark.parametrize(
        "text",
        ["안해요 123456", "동의안함 123456", "안할래요 123456", "하지마세요 123456", "그만하세요 123456", "아니 123456",
         "没同意 123456", "别开通 123456", "算了 123456", "never 123456", "nope 123456", "dont want 123456",
         "wrong number 123456", "누구세요? 123456", "how much? 123456"],
    )  # fmt: skip
    def test_a_code_among_other_words_confirms_nothing(self, text: str) -> None:
        assert "code" != read_reply(text).reading


class TestLongMessages:
    def test_a_long_message_is_no_code(self) -> None:
        assert UNREADABLE == read_reply("123456".ljust(MAXIMUM_REPLY + 1))

    def test_a_cut_never_makes_a_code_of_a_longer_number(self) -> None:
        assert UNREADABLE == read_reply(" " * (MAXIMUM_REPLY - 6) + "1234567")

    def test_a_stop_word_is_heard_at_the_end_of_a_long_message(self) -> None:
        assert STOP == read_reply("123456 " + "word " * 400 + "stop")


@given(st.text())
def test_nothing_that_can_be_written_raises(text: str) -> None:
    assert read_reply(text).reading in ("code", "stop", "unreadable")


@given(st.text(alphabet="0123456789 -.٣３stopx취소不"))
def test_a_reply_that_reads_as_a_code_holds_six_digits(text: str) -> None:
    reply = read_reply(text)
    assert (reply.reading == "code") is (len(reply.code) == CODE_DIGITS)
    assert reply.code == "" or (reply.code.isascii() and reply.code.isdigit())


@given(st.text(alphabet="0123456789 abcdefg", max_size=80), st.sampled_from(["stop", "취소", "不同意"]))
def test_a_message_with_a_stop_word_never_is_a_code(text: str, word: str) -> None:
    assert STOP == read_reply(f"{text} {word} {text}")
