"""Signed notes and checkpoints (C2SP ``signed-note``, ``tlog-checkpoint``): the published example, and whatever is none."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.errors import BadNote
from gateway.ledger.merkle import EMPTY_ROOT
from gateway.ledger.note import (
    LONGEST_NOTE,
    Checkpoint,
    Verifier,
    parse_checkpoint,
    parse_verifier,
    sign,
    verifier_of,
    verify,
)

# The example of golang.org/x/mod/sumdb/note, from which the specification was made.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
NOTE = f"{TEXT}\n{SIGNED}"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_SIGNED = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

SIGNER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
ORIGIN = "consent-gateway/ledger"
VERIFIER = verifier_of(SIGNER, ORIGIN)
ROOT = base64.b64encode(b"r" * 32).decode()


class TestThePublishedExample:
    def test_it_is_signed_octet_by_octet(self) -> None:
        assert NOTE == sign(TEXT, Ed25519PrivateKey.from_private_bytes(PETER_SEED), "PeterNeumann")

    def test_it_is_verified(self) -> None:
        assert TEXT == verify(NOTE, parse_verifier(PETER))

    @pytest.mark.parametrize("key", [PETER, ENOCH])
    def test_with_two_signatures_each_counts(self, key: str) -> None:
        assert TEXT == verify(NOTE + ENOCH_SIGNED, parse_verifier(key))
        assert TEXT == verify(f"{TEXT}\n{ENOCH_SIGNED}{SIGNED}", parse_verifier(key))

    @pytest.mark.parametrize("key", [PETER, ENOCH, "TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6"])
    def test_a_verifier_key_is_written_as_it_was_read(self, key: str) -> None:
        """In the last the base64 holds a plus itself."""
        verifier = parse_verifier(f"{key}\n")
        assert (key, key.split("+")[1]) == (str(verifier), verifier.id.hex())

    def test_no_piece_of_a_verifier_key_is_one(self) -> None:
        for begin in range(len(PETER) + 1):
            for end in range(begin, len(PETER) + 1):
                if (begin, end) != (0, len(PETER)):
                    with pytest.raises(BadNote):
                        parse_verifier(PETER[begin:end])

    def test_no_verifier_key_with_one_character_changed_is_one(self) -> None:
        for at, character in enumerate(PETER):
            with pytest.raises(BadNote):
                parse_verifier(PETER[:at] + chr(ord(character) + 1) + PETER[at + 1 :])


class TestVerifierKeys:
    def test_its_id_is_made_of_its_name_and_key(self) -> None:
        made = sha256(f"{ORIGIN}\n".encode() + b"\x01" + VERIFIER.key).digest()[:4]
        assert (made, VERIFIER) == (VERIFIER.id, parse_verifier(str(VERIFIER)))

    @pytest.mark.parametrize(
        "text",
        [
            "", "+", "++", "name", "name+00000000", "name+00000000+", "name+00000000+AA==", "name++AA==", f"+{PETER}",
            PETER.replace("c74f20a3", "C74F20A3"),
            PETER.replace("+", " "),
            PETER.replace("ARpc", "비밀번호"),
            PETER + "=",
            PETER.replace("W", "W\n"),
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long, its id is right
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another algorithm, its id is right
            str(Verifier("a name", VERIFIER.key)),
            str(Verifier("a\u2028name", VERIFIER.key)),
            str(Verifier("", VERIFIER.key)),
            str(Verifier("name", VERIFIER.key[:31])),
        ],
    )  # fmt: skip
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(BadNote):
            parse_verifier(text)


def made(*lines: str, text: str = TEXT) -> str:
    return f"{text}\n" + "".join(f"{line}\n" for line in lines)


PETER_LINE = SIGNED.rstrip("\n")
BASE64 = PETER_LINE.rpartition(" ")[2]


class TestNotes:
    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), min_size=1))
    def test_any_text_of_lines_is_signed_and_verified(self, lines: list[str]) -> None:
        text = "\n".join(lines) + "\n"
        assert text == verify(sign(text, SIGNER, ORIGIN), VERIFIER)

    @given(st.integers(0, len(NOTE.encode()) - 1), st.integers(0, 7))
    def test_not_one_bit_of_it_may_differ(self, at: int, bit: int) -> None:
        """Not even one that base64 does not need."""
        octets = bytearray(NOTE.encode())
        octets[at] ^= 1 << bit
        with pytest.raises(BadNote):
            verify(octets.decode("utf-8", "surrogateescape"), parse_verifier(PETER))

    def test_no_character_of_its_signature_may_differ(self) -> None:
        for at, character in enumerate(BASE64):
            for other in set("AQgwBz/+=\n") - {character}:
                with pytest.raises(BadNote):
                    verify(made(f"— PeterNeumann {BASE64[:at]}{other}{BASE64[at + 1 :]}"), parse_verifier(PETER))

    @pytest.mark.parametrize(
        "note",
        [
            "", "\n", "\n\n", TEXT, f"{TEXT}\n", NOTE.rstrip("\n"), NOTE + "\n", NOTE.replace("\n", "\r\n"),
            TEXT + SIGNED,
            NOTE.replace("\n\n", "\n"),
            made(PETER_LINE.removeprefix("— ")),
            made(PETER_LINE.replace("—", "-")),
            made(PETER_LINE.replace("— ", "—  ")),
            made(PETER_LINE + " "),
            made(PETER_LINE + "="),
            made(f"— PeterNeumann {BASE64} {BASE64}"),
            made(f"—  {BASE64}", PETER_LINE),
            made("— Somebody", PETER_LINE),
            made("— Somebody AAAA", PETER_LINE),  # no signature behind the id
            made("— Some+body AAAAAAAA", PETER_LINE),
            made("— Somebody 비밀번호", PETER_LINE),
            made("a line", PETER_LINE),
            made(PETER_LINE + "\u2028" + "— Somebody AAAAAAAA"),
            made(PETER_LINE, text=TEXT + "\0\n"),
            made(PETER_LINE, text=TEXT.replace(",", "\x1b")),
            made(PETER_LINE, text=TEXT.replace(",", "\ud800")),
        ],
    )  # fmt: skip
    def test_what_is_none(self, note: str) -> None:
        with pytest.raises(BadNote):
            verify(note, parse_verifier(PETER))

    def test_signatures_of_others_are_passed_over(self) -> None:
        other = sign(TEXT, SIGNER, ORIGIN).splitlines(keepends=True)[-1]
        assert TEXT == verify(f"{TEXT}\n{other}{SIGNED}", parse_verifier(PETER))

    def test_and_alone_prove_nothing(self) -> None:
        with pytest.raises(BadNote, match="not signed by PeterNeumann"):
            verify(sign(TEXT, SIGNER, ORIGIN), parse_verifier(PETER))

    def test_another_key_under_the_same_name_proves_nothing(self) -> None:
        with pytest.raises(BadNote, match="not signed by PeterNeumann"):
            verify(sign(TEXT, SIGNER, "PeterNeumann"), parse_verifier(PETER))

    def test_a_wrong_signature_beside_a_right_one_is_no_proof(self) -> None:
        wrong = sign(TEXT.upper(), SIGNER, ORIGIN).splitlines(keepends=True)[-1]
        right = sign(TEXT, SIGNER, ORIGIN)
        for note in (right + wrong, f"{TEXT}\n{wrong}" + right.splitlines(keepends=True)[-1]):
            with pytest.raises(BadNote, match="signature of consent-gateway/ledger is not right"):
                verify(note, VERIFIER)

    def test_a_signature_of_another_length_is_not_right(self) -> None:
        for octets in (VERIFIER.id + bytes(63), VERIFIER.id + bytes(65), VERIFIER.id + b"x"):
            with pytest.raises(BadNote, match="is not right"):
                verify(made(f"— {ORIGIN} {base64.b64encode(octets).decode()}"), VERIFIER)

    def test_one_without_end_is_not_read(self) -> None:
        text = "x" * LONGEST_NOTE + "\n"
        with pytest.raises(BadNote, match="at most"):
            verify(sign(text, SIGNER, ORIGIN), VERIFIER)


class TestCheckpoints:
    def test_it_is_three_lines(self) -> None:
        assert f"{ORIGIN}\n7\n{ROOT}\n" == Checkpoint(ORIGIN, 7, b"r" * 32).text

    @given(st.integers(0, 2**53), st.binary(min_size=32, max_size=32))
    def test_it_is_read_as_it_was_written(self, size: int, root: bytes) -> None:
        checkpoint = Checkpoint(ORIGIN, size, root)
        assert checkpoint == parse_checkpoint(verify(sign(checkpoint.text, SIGNER, ORIGIN), VERIFIER))

    def test_the_empty_tree_has_one(self) -> None:
        empty = f"{ORIGIN}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        assert Checkpoint(ORIGIN, 0, EMPTY_ROOT) == parse_checkpoint(empty)

    def test_lines_of_others_are_passed_over(self) -> None:
        """``tlog-checkpoint``: extension lines may follow."""
        assert Checkpoint(ORIGIN, 7, b"r" * 32) == parse_checkpoint(f"{ORIGIN}\n7\n{ROOT}\nextra\nmore\n")

    @pytest.mark.parametrize(
        "text",
        [
            "", "\n", "\n\n\n", f"\n7\n{ROOT}\n", f"{ORIGIN}\n7\n", f"{ORIGIN}\n7\n{ROOT}", f"{ORIGIN}\n7\n{ROOT}\nx",
            f"{ORIGIN}\n\n{ROOT}\n", f"{ORIGIN}\n07\n{ROOT}\n", f"{ORIGIN}\n+7\n{ROOT}\n", f"{ORIGIN}\n-7\n{ROOT}\n",
            f"{ORIGIN}\n7.0\n{ROOT}\n", f"{ORIGIN}\n 7\n{ROOT}\n", f"{ORIGIN}\n٧\n{ROOT}\n", f"{ORIGIN}\n²\n{ROOT}\n",
            f"{ORIGIN}\n{10**19}\n{ROOT}\n", f"{ORIGIN}\n7\n\n", f"{ORIGIN}\n7\n{ROOT[:-1]}\n", f"{ORIGIN}\n7\n{ROOT}=\n",
            f"{ORIGIN}\n7\n비밀번호\n", f"{ORIGIN}\n7\n{base64.b64encode(bytes(31)).decode()}\n",
            f"{ORIGIN}\n7\n{base64.b64encode(bytes(33)).decode()}\n", f"{ORIGIN}\n7\n{ROOT}\n\nmore\n",
            f"{ORIGIN}\n7\n{ROOT[:-2]}J=\n",  # the same octets, otherwise spelt
        ],
    )  # fmt: skip
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(BadNote):
            parse_checkpoint(text)
