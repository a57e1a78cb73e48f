"""The SMS code: derived, never stored; and what a reply says (rule R2).

``code = decimal truncation of HMAC-SHA256(secret, order_hash | number | challenge_id | nonce)``: unpredictable without the
secret, bound to order and number, and a thief of the database alone cannot compute it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass

from gateway.consent.events import Reading

CODE_DIGITS = 6
MAXIMUM_REPLY = 500
STOP_WORDS = frozenset({"stop", "cancel", "unsubscribe", "quit", "end", "no", "not", "refuse", "td", "t", "안", "못"})
STOP_STEMS = ("취소", "거부", "거절", "중지", "해지", "아니요", "아니오", "싫", "取消", "拒绝", "退订", "不", "停止")
"""These count anywhere in a message: Korean joins endings to them ("취소해주세요"), Chinese has no spaces ("我不同意")."""
BESIDE_A_CODE = frozenset(
    "code the my is it otp pin sms yes ok okay reply confirm agree "
    "인증번호 인증번호는 인증번호입니다 인증 번호 번호는 코드 코드는 입니다 확인 네 예 넵 동의 동의합니다 신청 신청합니다 "
    "验证码 验证码是 我的验证码是 校验码 确认 同意 是 是的 好 好的 回复".split()
)
"""The only words that may stand beside a code: anything else, above all a refusal in words nobody foresaw, is no yes."""
_LONE_CODE = re.compile(rf"(?<!\d)\d(?:[\s.-]?\d){{{CODE_DIGITS - 1}}}(?!\d)")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a message says. *code* holds six ASCII digits when *reading* is ``code``, else is empty."""

    reading: Reading
    code: str = ""


def derive_code(secret: bytes, order_hash: str, number: str, challenge_id: str, nonce: str) -> str:
    """Six decimal digits. The bias of the truncation (2^64 mod 10^6) is below 10^-13."""
    message = "|".join((order_hash, number, challenge_id, nonce)).encode()
    value = int.from_bytes(hmac.digest(secret, message, hashlib.sha256)[:8], "big")
    return f"{value % 10**CODE_DIGITS:0{CODE_DIGITS}d}"


def code_matches(given: str, expected: str) -> bool:
    """Constant-time comparison."""
    return hmac.compare_digest(given.encode(), expected.encode())


def read_reply(text: str) -> Reply:
    """Read a subscriber's message: full-width digits, spaces, a leading word and stop words in any case.

    A stop word anywhere wins over a code. Two different codes in one message are unreadable, and so is one of more than
    MAXIMUM_REPLY characters or with words that do not belong to a code: nobody guesses here.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[^\W\d_]+", plain)
    joined = "".join(words)
    if STOP_WORDS.intersection((*words, joined)) or any(stem in joined for stem in STOP_STEMS):
        return Reply("stop")
    if len(text) > MAXIMUM_REPLY or not BESIDE_A_CODE.issuperset(words):
        return Reply("unreadable")
    digits = "".join(str(unicodedata.decimal(character)) if character.isdecimal() else character for character in plain)
    codes = {re.sub(r"\D", "", found) for found in _LONE_CODE.findall(digits)}
    if len(codes) == 1:
        return Reply("code", codes.pop())
    return Reply("unreadable")
