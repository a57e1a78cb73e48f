"""Checkpoints of the log as signed notes: C2SP ``signed-note`` and ``tlog-checkpoint``, Ed25519."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.ledger.errors import BadNote

ED25519 = b"\x01"
ID_OCTETS = 4
HASH_OCTETS = 32
LONGEST_NOTE = 65_536
_DASH = "\u2014"
_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")
_FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
"""What the text of a note never holds: control characters but the newline, and what is no UTF-8."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name: who may have signed a note. As text: ``name+id+key``."""

    name: str
    key: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + ED25519 + self.key).digest()[:ID_OCTETS]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.key).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log *origin* has *size* leaves, and *root* over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def verifier_of(signer: Ed25519PrivateKey, name: str) -> Verifier:
    return Verifier(name, signer.public_key().public_bytes_raw())


def parse_verifier(text: str) -> Verifier:
    """Raises BadNote."""
    name, _, rest = text.strip().partition("+")
    given_id, _, encoded = rest.partition("+")
    try:
        raw = _base64(encoded)
    except ValueError as error:
        raise BadNote("a verifier key is name+id+base64; print this gateway's: consent-gateway ledger key") from error
    if not _NAME.fullmatch(name) or _FORBIDDEN.search(name) or raw[:1] != ED25519 or len(raw) != HASH_OCTETS + 1:
        raise BadNote(f"{text[:60]!r} is no verifier key of a log that signs with Ed25519")
    verifier = Verifier(name, raw[1:])
    if verifier.id.hex() != given_id:
        raise BadNote(f"the verifier key {text[:60]!r} is not whole: its id does not fit its name and key")
    return verifier


def sign(text: str, signer: Ed25519PrivateKey, name: str) -> str:
    """The note: *text*, which ends in a newline, an empty line and the signature line."""
    signature = verifier_of(signer, name).id + signer.sign(text.encode())
    return f"{text}\n{_DASH} {name} {base64.b64encode(signature).decode()}\n"


def verify(note: str, verifier: Verifier) -> str:
    """The text that *verifier* has signed. Signatures of others are passed over. Raises BadNote."""
    if len(note) > LONGEST_NOTE or _FORBIDDEN.search(note):
        raise BadNote(f"a note is text of at most {LONGEST_NOTE} characters, without control characters")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise BadNote("the note has no signature")
    text += "\n"
    signed = False
    for name, signature in map(_read_signature, signatures[:-1].split("\n")):
        if name != verifier.name or signature[:ID_OCTETS] != verifier.id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(verifier.key).verify(signature[ID_OCTETS:], text.encode())
        except (InvalidSignature, ValueError):
            raise BadNote(f"the signature of {name} is not right") from None
        signed = True
    if not signed:
        raise BadNote(f"the note is not signed by {verifier.name} with the key {verifier.id.hex()}")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """Lines of others, after the third, are passed over. Raises BadNote."""
    origin, *rest = text.split("\n")
    if len(rest) < 3 or rest.pop() or not origin or not _SIZE.fullmatch(rest[0]) or not all(rest):
        raise BadNote("a checkpoint is origin, size and root, each on a line of its own")
    size, encoded = rest[:2]
    try:
        root = _base64(encoded)
    except ValueError as error:
        raise BadNote("the root of the checkpoint is not base64") from error
    if len(root) != HASH_OCTETS:
        raise BadNote(f"the root of the checkpoint has {len(root)} octets, not {HASH_OCTETS}")
    return Checkpoint(origin, int(size), root)


def _read_signature(line: str) -> tuple[str, bytes]:
    """Who signed, and the key's id with the signature. Raises BadNote."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        signature = _base64(encoded)
    except ValueError as error:
        raise BadNote("a signature of the note is not base64") from error
    if dash != _DASH or not _NAME.fullmatch(name) or len(signature) <= ID_OCTETS:
        raise BadNote(f"{line[:60]!r} is no signature: dash, name and base64")
    return name, signature


def _base64(text: str) -> bytes:
    """*text* in its one spelling. Raises ValueError: there is no second base64 that means the same."""
    octets = base64.b64decode(text, validate=True)
    if base64.b64encode(octets).decode() != text:
        raise ValueError("not the canonical base64 of its octets")
    return octets
