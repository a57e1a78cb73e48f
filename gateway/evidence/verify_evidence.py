"""Says whether an evidence bundle is valid, or names the first thing in it that is not.

    python verify_evidence.py BUNDLE.zip [--key VKEY] [--json]

Stands alone: Python 3.10 or newer and the package ``cryptography``, nothing else. Exit code 0: valid, 1: not valid, 2: not used
rightly. This one file is the whole of the verification, also behind ``consent-gateway evidence verify``; that is why it is long.

What is checked, in this order: every octet of the ZIP container; the manifest (RFC 8785), the length and SHA-256 of every member
and the manifest's signature (Ed25519); the signed checkpoints of the ledger (C2SP signed-note, tlog-checkpoint); the chain of the
record's events; their place in the ledger (RFC 6962 inclusion) and that the ledger only grew (consistency); then what the events say:
that they open with the key given, that the order's terms have the order's hash, and the promise itself, that nobody is billed
without every disclosure heard, a clear yes on a recorded call, and the code replied by SMS afterwards and in time; at last the
recordings, the prompts, the call script, transcript, messages and deliveries, each against the events.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import math
import re
import stat
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    sys.stderr.write("the package cryptography is missing: pip install cryptography\n")
    sys.exit(2)

FORMAT = "consent-gateway evidence 1"
CONTAINER = "the ZIP container"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
EVENTS, KEYS, RECORD = "events.jsonl", "keys.json", "record.json"
CHECKPOINT, FIRST_CHECKPOINT = "ledger/checkpoint", "ledger/first-checkpoint"
DATED_CHECKPOINT, TIMESTAMP = "ledger/dated-checkpoint", "ledger/dated-checkpoint.tsr"
KEY_TEXT, KEY_PEM, PROOFS = "ledger/key.txt", "ledger/key.pem", "ledger/proofs.json"
TRANSCRIPT, TRANSCRIPT_TEXT = "transcript.json", "transcript.txt"
MESSAGES, DELIVERIES, DIALPLAN = "messages.json", "deliveries.json", "dialplan.json"
README, AGREEMENT, VERIFIER = "README.txt", "agreement.pdf", "verify_evidence.py"
ALWAYS = frozenset({
    MANIFEST, SIGNATURE, EVENTS, CHECKPOINT, FIRST_CHECKPOINT, KEY_TEXT, KEY_PEM, PROOFS, README, VERIFIER,
})  # fmt: skip
READABLE = frozenset({KEYS, RECORD, TRANSCRIPT, TRANSCRIPT_TEXT, MESSAGES, DELIVERIES})
"""What a bundle has as well, unless the person was erased."""
DATED = frozenset({DATED_CHECKPOINT, TIMESTAMP})
"""What a bundle has as well, where a time-stamping authority has dated the ledger since."""
MAY_BE_MISSING = frozenset({AGREEMENT, DIALPLAN})
"""What may be gone; the manifest then says why. So may recordings and prompts."""
PROMPT_RATE = 16_000
HEADER_OCTETS = 44
MANDATORY = ("price", "billing", "start", "term", "promotion", "trial", "function", "use", "ask", "cancel")
CONFIRMED = frozenset({"confirmed", "provisioning", "provisioned"})
UNCONFIRMED = frozenset({
    "ordered", "calling", "spoken", "challenged", "refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "failed",
})  # fmt: skip

MOST_OCTETS = 1 << 30
MOST_MEMBERS = 4096
MOST_TEXT = 64 << 20
MOST_EVENTS = 100_000
MOST_HEARD = 20
"""How often over a recording may have been listened to: what was judged overlaps, but not for ever."""
MOST_STEPS = 64
"""No Merkle proof is longer: no tree has 2**64 leaves."""
LARGEST_INTEGER = 2**53 - 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
_SIZE = re.compile(r"[1-9][0-9]{0,18}")
_CALL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FIRST_DAY = 0x21
"""1980-01-01 as ZIP counts: the only date in a bundle."""
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16


class Invalid(Exception):
    """The bundle is not valid: *member* is the first thing that is not, *reason* says why."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}")
        self.member = member
        self.reason = reason


def canonical(value: Any) -> bytes:
    """The one spelling of *value* in JSON (RFC 8785), UTF-8. Raises ValueError for what has none."""
    parts: list[str] = []
    _spell(value, parts.append)
    return "".join(parts).encode()


def _spell(value: Any, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(json.dumps(value, ensure_ascii=False))
    elif value is None or value is True or value is False:
        put(json.dumps(value))
    elif isinstance(value, int) and abs(value) <= LARGEST_INTEGER:
        put(str(value))
    elif isinstance(value, (int, float)):
        put(_spell_float(float(value)))
    elif isinstance(value, dict):
        mark = "{"
        for key in sorted(value, key=lambda name: name.encode("utf-16-be")):
            put(mark + json.dumps(key, ensure_ascii=False) + ":")
            _spell(value[key], put)
            mark = ","
        put("}" if value else "{}")
    elif isinstance(value, (list, tuple)):
        mark = "["
        for item in value:
            put(mark)
            _spell(item, put)
            mark = ","
        put("]" if value else "[]")
    else:
        raise ValueError(f"a {type(value).__name__} has no place in JSON")


def _spell_float(number: float) -> str:
    """As Number::toString of ECMAScript, which RFC 8785 §3.2.2.3 prescribes."""
    if not math.isfinite(number):
        raise ValueError("neither NaN nor infinity is JSON")
    if number == 0:
        return "0"
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)  # the value is 0.DIGITS * 10**point
    digits = digits.rstrip("0")
    sign = "-" if number < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = "." + digits[1:] if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def parse(member: str, data: bytes | memoryview) -> Any:
    """The JSON in *data*, which must be spelled canonically."""
    octets = bytes(data)
    if len(octets) > MOST_TEXT:
        raise Invalid(member, f"{len(octets)} octets are too many")
    try:
        value = json.loads(octets.decode(), object_pairs_hook=_no_twins, parse_constant=_no_constant)
        again = canonical(value)
    except (ValueError, RecursionError) as error:
        raise Invalid(member, f"is no canonical JSON: {error}") from error
    if again != octets:
        raise Invalid(member, "its JSON is not in the canonical form (RFC 8785)")
    return value


def _object(member: str, value: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise Invalid(member, f"must have exactly the keys {', '.join(sorted(keys))}")
    return value


def _text(member: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid(member, f"{value!r:.60} is no text")
    return value


def _count(member: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_INTEGER:
        raise Invalid(member, f"{value!r:.60} is no count")
    return value


def _time(member: str, value: Any) -> datetime:
    if not _TIME.fullmatch(_text(member, value)):
        raise Invalid(member, f"{value!r:.60} is no time")
    whole, _, zone = value.replace("Z", "+00:00").partition(".")
    fraction = zone[:-6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{whole}.{fraction}{zone[-6:]}" if zone else whole)
    except ValueError as error:
        raise Invalid(member, f"{value!r:.60} is no time") from error


def _unbase64(member: str, text: Any, octets: int | None = None) -> bytes:
    try:
        data = base64.b64decode(_text(member, text).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Invalid(member, f"{text!r:.60} is no base64") from error
    if base64.b64encode(data).decode() != text or octets not in (None, len(data)):
        raise Invalid(member, f"{text!r:.60} is not the base64 of {octets or 'some'} octets")
    return data


def sha256(data: Any) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def local_header(name: str, crc: int, length: int) -> bytes:
    """What stands before a member in the ZIP: stored, no extra field, of no date."""
    octets = name.encode("ascii")
    return _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _FIRST_DAY, crc, length, length, len(octets), 0) + octets


def central_header(name: str, crc: int, length: int, offset: int) -> bytes:
    """A member's entry in the ZIP's directory at the end; *offset*: where its local header begins."""
    octets = name.encode("ascii")
    sizes = crc, length, length, len(octets), 0, 0, 0, 0
    return _CENTRAL.pack(b"PK\1\2", 3 << 8 | 20, 20, 0, 0, 0, _FIRST_DAY, *sizes, _PLAIN_FILE, offset) + octets


def end_record(members: int, size: int, offset: int) -> bytes:
    """The end of the ZIP: how many members, the size of the directory and where it begins."""
    return _END.pack(b"PK\5\6", 0, 0, members, members, size, offset, 0)


def unpack(data: bytes) -> dict[str, memoryview]:
    """The members by name. The container is made again from names and contents, and every octet of it compared."""
    if len(data) > MOST_OCTETS:
        raise Invalid(CONTAINER, f"{len(data)} octets are too many")
    if len(data) < _END.size:
        raise Invalid(CONTAINER, "the file is cut off, or is no bundle")
    view = memoryview(data)
    _, _, _, count, _, size, begin, _ = _END.unpack_from(view, len(view) - _END.size)
    whole = begin + size + _END.size == len(view) and bytes(view[-_END.size :]) == end_record(count, size, begin)
    if not whole or count > MOST_MEMBERS:
        raise Invalid(CONTAINER, "it does not end as a bundle does: it was cut off, added to or changed")
    members: dict[str, memoryview] = {}
    last, at, entry = "", 0, begin
    for _ in range(count):
        if entry + _CENTRAL.size > begin + size:
            raise Invalid(CONTAINER, "its directory is too short")
        length, named = _CENTRAL.unpack_from(view, entry)[9:11]
        name = bytes(view[entry + _CENTRAL.size : entry + _CENTRAL.size + named]).decode("ascii", "replace")
        if not _NAME.fullmatch(name) or name <= last:
            raise Invalid(CONTAINER, f"the name {name!r:.100} is not in order, stands twice or is no name of a member")
        body = at + len(local_header(name, 0, 0))
        if body + length > begin:
            raise Invalid(CONTAINER, f"{name} reaches into the directory")
        content = view[body : body + length]
        crc = zlib.crc32(content)
        if bytes(view[at:body]) != local_header(name, crc, length):
            raise Invalid(name, "it was changed, or the header before it (CRC)")
        directory = central_header(name, crc, length, at)
        if bytes(view[entry : entry + len(directory)]) != directory:
            raise Invalid(CONTAINER, f"the entry of {name} in the directory was changed")
        members[name] = content
        last, at, entry = name, body + length, entry + len(directory)
    if at != begin or entry != begin + size:
        raise Invalid(CONTAINER, "there are octets in it that belong to no member")
    return members


@dataclass(frozen=True)
class Key:
    """The public key of a ledger, with its name. As text a C2SP verifier key: ``name+id+base64(0x01 | key)``."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n\x01" + self.public).digest()[:4]

    def __str__(self) -> str:
        return "+".join((self.name, self.id.hex(), base64.b64encode(b"\x01" + self.public).decode()))

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True

    def pem(self) -> bytes:
        key = Ed25519PublicKey.from_public_bytes(self.public)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_key(member: str, text: str) -> Key:
    """The key that *text* is."""
    name, _, rest = text.partition("+")
    given, _, encoded = rest.partition("+")
    raw = _unbase64(member, encoded, 33)
    key = Key(name, raw[1:])
    if not name or raw[:1] != b"\x01" or key.id.hex() != given:
        raise Invalid(member, "is no verifier key (name+id+base64 of 0x01 and an Ed25519 key)")
    return key


@dataclass(frozen=True)
class Checkpoint:
    """That the ledger had *size* leaves, and *root* over them."""

    size: int
    root: bytes


def parse_checkpoint(member: str, data: bytes | memoryview, key: Key) -> Checkpoint:
    """The checkpoint that *key* has signed. Other signatures (of witnesses) are passed over."""
    octets = bytes(data)
    text, separator, signatures = octets.rpartition(b"\n\n")
    if not separator or len(octets) > MOST_TEXT or not signatures.endswith(b"\n"):
        raise Invalid(member, "is no signed note")
    signed = text + b"\n"
    ours = f"\u2014 {key.name} ".encode()
    lines = [line[len(ours) :] for line in signatures[:-1].split(b"\n") if line.startswith(ours)]
    if len(lines) != 1:
        raise Invalid(member, f"is not signed by {key.name}")
    signature = _unbase64(member, lines[0].decode("utf-8", "replace"), 68)
    if signature[:4] != key.id or not key.has_signed(signed, signature[4:]):
        raise Invalid(member, f"the signature of {key.name} is not right")
    try:
        origin, size, root = signed.decode()[:-1].split("\n")
    except ValueError as error:
        raise Invalid(member, "a checkpoint is origin, size and root, each on a line of its own") from error
    if origin != key.name or not _SIZE.fullmatch(size):
        raise Invalid(member, f"is no checkpoint of {key.name}")
    return Checkpoint(int(size), _unbase64(member, root, 32))


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def is_included(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether *proof* leads from the leaf (its hash) at *index* to *root* (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size or len(proof) > MOST_STEPS:
        return False
    place, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(step, node)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, step)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root


def only_grew(first: Checkpoint, second: Checkpoint, proof: Sequence[bytes]) -> bool:
    """Whether the tree of *second* is that of *first* with leaves added (RFC 9162 §2.1.4.2)."""
    if not 0 < first.size <= second.size or len(proof) > MOST_STEPS:
        return False
    if first.size == second.size:
        return not proof and first.root == second.root
    path = list(proof) if first.size & (first.size - 1) else [first.root, *proof]
    if not path:
        return False
    place, last = first.size - 1, second.size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first.root and new == second.root


@dataclass(frozen=True)
class Envelope:
    """One event as the ledger has it; *sealed* is its payload, to be opened with the record's key."""

    seq: int
    event_id: str
    at: str
    when: datetime
    type: str
    sealed: bytes
    hash: bytes


@dataclass(frozen=True)
class Event:
    """One event, opened."""

    seq: int
    event_id: str
    at: str
    when: datetime
    hash: str
    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body["type"])

    def of(self, kind: str, call_id: str | None = None) -> bool:
        return self.body["type"] == kind and (call_id is None or self.body["call_id"] == call_id)


def read_envelopes(data: bytes | memoryview, order_id: str) -> list[Envelope]:
    """The events of *order_id* from the first on, each following from the one before it."""
    octets = bytes(data)
    lines = octets.split(b"\n")
    if len(octets) > MOST_TEXT or len(lines) > MOST_EVENTS or lines.pop() != b"" or not lines:
        raise Invalid(EVENTS, "must have one event on each line, and a newline behind each")
    found: list[Envelope] = []
    names: set[str] = set()
    previous = ""
    for seq, line in enumerate(lines, 1):
        where = f"{EVENTS}, event {seq}"
        said = _object(where, parse(where, line), "at", "event_id", "order_id", "payload", "previous", "seq", "type")
        if said["order_id"] != order_id:
            raise Invalid(where, f"is of another order: {said['order_id']!r:.60}")
        if said["seq"] != seq or said["previous"] != previous:
            raise Invalid(where, "does not follow the event before it: the chain is broken")
        when = _time(where, said["at"])
        if found and when <= found[-1].when:
            raise Invalid(where, "is not later than the event before it")
        name = _text(where, said["event_id"])
        if name in names:
            raise Invalid(where, "has the id of another event")
        names.add(name)
        digest = hashlib.sha256(line)
        previous = digest.hexdigest()
        sealed = _unbase64(where, said["payload"])
        kind = _text(where, said["type"])
        found.append(Envelope(seq, name, said["at"], when, kind, sealed, digest.digest()))
    return found


def open_events(envelopes: Sequence[Envelope], key: bytes, order_id: str) -> list[Event]:
    """What the envelopes hold. *key*: 32 octets."""
    cipher = AESGCM(key)
    found: list[Event] = []
    for envelope in envelopes:
        where = f"{EVENTS}, event {envelope.seq}"
        associated = f"{order_id}/{envelope.seq}/{envelope.type}".encode()
        try:
            plain = cipher.decrypt(envelope.sealed[:12], envelope.sealed[12:], associated)
        except (InvalidTag, ValueError) as error:
            raise Invalid(where, f"does not open with the key in {KEYS}") from error
        body = parse(where, plain)
        if not isinstance(body, dict) or body.get("type") != envelope.type:
            raise Invalid(where, f"is not the {envelope.type!r:.40} that its envelope says")
        found.append(Event(envelope.seq, envelope.event_id, envelope.at, envelope.when, envelope.hash.hex(), body))
    return found


def unheard(played: dict[str, Any], loss_allowed: float) -> str:
    """Why a disclosure does not count as heard; empty when it does."""
    planned, sent = played["samples_planned"], played["samples_sent"]
    if planned <= 0 or sent < planned:
        return f"cut after {sent} of {planned} samples"
    if played["held_ms"]:
        return f"on hold for {played['held_ms']} ms"
    if played["far"] is not None and played["far"]["lost_fraction"] > loss_allowed:
        return f"{100 * played['far']['lost_fraction']:.0f} % of it were lost on the line"
    return ""


@dataclass
class Promise:
    """What the events of a record add up to. *no*: why nothing can be billed any more, and the event that says so."""

    order: dict[str, Any]
    order_hash: str
    loss_allowed: float
    tries_left: int
    call_id: str = ""
    on_the_line: bool = False
    by_machine: bool = False
    held: bool = False
    disclosed: set[str] = field(default_factory=set)
    affirmed: Event | None = None
    spoken: Event | None = None
    recording: Event | None = None
    challenge: Event | None = None
    reply: Event | None = None
    no: tuple[Event, str] | None = None
    frozen: Event | None = None
    provisioned: Event | None = None

    @property
    def confirmed(self) -> bool:
        return self.reply is not None


def keep_promise(events: Sequence[Event]) -> Promise:
    """Judge the promise from the events alone: a small reducer of its own, knowing nothing of the gateway's."""
    first = events[0]
    where = f"{EVENTS}, event 1"
    if not first.of("order.created"):
        raise Invalid(where, "a record begins with order.created")
    order, limits = first.body["order"], first.body["limits"]
    terms = sha256(canonical(order))
    if terms != first.body["order_hash"]:
        raise Invalid(where, f"the terms of the order have the hash {terms}, not {first.body['order_hash']!r:.70}")
    promise = Promise(order, terms, float(limits["disclosure_loss"]), int(limits["code_tries"]))
    billed: set[str] = set()
    for event in events[1:]:
        if event.of("order.created"):
            raise Invalid(f"{EVENTS}, event {event.seq}", "a record has only one order")
        webhook = _billing_of(event)
        if webhook:
            if not promise.confirmed:
                raise Invalid(
                    f"{EVENTS}, event {event.seq}", f"the order was billed without both proofs: {why_not(promise)}"
                )
            billed.add(webhook)
            if len(billed) > 1:
                raise Invalid(f"{EVENTS}, event {event.seq}", "the order was billed twice, by two webhooks")
        _take(promise, event)
    return promise


def _billing_of(event: Event) -> str:
    """The webhook by which *event* says that billing was told to bill; empty for all else."""
    if event.of("order.provisioned") or (event.of("delivery.attempted") and event.body["kind"] == "consent.confirmed"):
        return str(event.body["webhook_id"])
    return ""


def why_not(promise: Promise) -> str:
    """What is missing for a confirmation."""
    if promise.no is not None:
        return promise.no[1]
    if promise.affirmed is None and promise.spoken is None:
        lacking = [name for name in MANDATORY if name not in promise.disclosed]
        return f"not heard before the consent: {', '.join(lacking)}" if lacking else "nobody said a clear yes"
    if promise.spoken is None:
        return "the yes was not bound to the order"
    if promise.recording is None:
        return "the call was not recorded"
    return "the code was not replied"


def _take(promise: Promise, event: Event) -> None:
    """Let one event have its say."""
    body, kind = event.body, event.type
    unbilled = promise.confirmed and promise.provisioned is None
    stopped = unbilled and kind == "reply.received" and body["reading"] == "stop"
    if (kind == "order.frozen" or stopped) and promise.frozen is None and promise.no is None:
        promise.frozen = event
    if kind in ("hold.placed", "hold.released"):
        promise.held = kind == "hold.placed"
    if kind == "order.provisioned" and promise.provisioned is None:
        promise.provisioned = event
    if promise.confirmed or promise.no is not None:
        return
    refusal = _refusal(promise, event)
    if refusal:
        promise.no = event, refusal
        return
    ours = body.get("call_id") == promise.call_id
    if kind == "call.started" and promise.spoken is None and not promise.on_the_line:
        promise.call_id, promise.on_the_line, promise.by_machine = _text(EVENTS, body["call_id"]), True, False
        promise.disclosed, promise.affirmed = set(), None
    elif kind == "call.ended" and ours:
        promise.on_the_line = False
    elif not promise.on_the_line and kind in (
        "prompt.played",
        "disclosure.unheard",
        "utterance.heard",
        "consent.spoken",
    ):
        return
    elif kind == "prompt.played" and ours and promise.spoken is None and body["disclosure"] is not None:
        if not unheard(body, promise.loss_allowed):
            promise.disclosed.add(str(body["disclosure"]))
    elif kind == "disclosure.unheard" and ours and promise.spoken is None:
        promise.disclosed.discard(body["disclosure"])
        promise.affirmed = None
    elif kind == "utterance.heard" and ours and promise.spoken is None and body["grants_consent"] and not body["aside"]:
        clear = body["verdict"] == "affirm" and promise.disclosed.issuperset(MANDATORY)
        promise.affirmed = event if clear else None
    elif kind == "consent.spoken" and ours and promise.spoken is None and not promise.by_machine:
        if promise.affirmed is not None and body["order_hash"] == promise.order_hash:
            promise.spoken = event
    elif kind == "recording.kept" and ours and promise.spoken is not None and promise.challenge is None:
        promise.recording = event
    elif kind == "challenge.issued" and promise.recording is not None and promise.challenge is None:
        promise.challenge = event
    elif kind == "reply.received" and promise.challenge is not None:
        if body["reading"] == "code" and body["matches"] is True:
            promise.reply = event
        else:
            promise.tries_left -= 1


def _refusal(promise: Promise, event: Event) -> str:
    """Why *event* ends an order that is not confirmed; empty where it does not."""
    body, kind = event.body, event.type
    ours = body.get("call_id") == promise.call_id and promise.call_id != ""
    spoken, affirmed = promise.spoken is not None, promise.affirmed
    machine = (kind == "answer.judged" and body["verdict"] == "machine") or (
        kind == "call.ended" and body["outcome"] == "machine"
    )
    if machine and ours:
        promise.by_machine = True
    reasons: tuple[tuple[bool, str], ...] = (
        (kind == "consent.denied", "consent was denied on the call: " + str(body.get("denial"))),
        (kind == "utterance.heard" and ours and body.get("verdict") == "stop", "a stop word was said on the call"),
        (kind == "utterance.heard" and ours and body.get("verdict") == "deny"
         and (body.get("grants_consent") is True or body.get("aside") is True), "a no was said on the call"),
        (kind == "order.withdrawn", "the order was withdrawn"),
        (kind == "order.frozen", "the order was frozen"),
        (kind == "record.erased" and not promise.held, "the person was erased"),
        (machine and ours and spoken, "a machine had answered the call"),
        (kind == "disclosure.unheard" and ours and spoken, f"the disclosure {body.get('disclosure')} was lost on the line"),
        (kind == "recording.failed" and ours and spoken, "the call could not be recorded"),
        (kind == "recording.kept" and ours and spoken and promise.challenge is None and affirmed is not None
         and body.get("duration_ms", 0) < affirmed.body["audio_end_ms"], "the recording ends before the consent"),
        (kind == "call.ended" and ours and spoken and promise.recording is None, "the call ended and its recording was not kept"),
        (kind == "reply.received" and body.get("reading") == "stop", "a stop word was replied by SMS"),
    )  # fmt: skip
    for holds, reason in reasons:
        if holds:
            return reason
    if promise.challenge is None:
        return ""
    if kind == "challenge.expired" and body["challenge_id"] == promise.challenge.body["challenge_id"]:
        return "no code was replied in time"
    if kind == "reply.received":
        if event.when >= _time(EVENTS, promise.challenge.body["expires_at"]):
            return "the code was replied too late"
        if not (body["reading"] == "code" and body["matches"] is True) and promise.tries_left <= 1:
            return "too many wrong codes were replied"
    return ""


def recording_member(call_id: str) -> str:
    """The member that holds the recording of a call."""
    return f"recordings/{call_id if _CALL.fullmatch(call_id) else sha256(call_id.encode())}.wav"


def prompt_member(audio_sha256: str) -> str:
    """The member that holds a prompt, by the hash of its samples."""
    return f"prompts/{audio_sha256}.wav"


def wav_header(channels: int, rate: int, octets: int) -> bytes:
    """The 44 octets before *octets* of 16-bit samples."""
    frame = 2 * channels
    return _WAV.pack(
        b"RIFF", 36 + octets, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * frame, frame, 16, b"data", octets
    )  # fmt: skip


@dataclass(frozen=True)
class Proven:
    """A recording, and how much of it is what the ledger says. Times in seconds. *same*: utterances whose audio was found in it bit
    for bit, of *judged*.
    """

    call_id: str
    member: str
    kept_s: float
    proven_s: float
    whole: bool
    same: int
    judged: int


def check_recording(member: str, data: memoryview, digest: str, kept: Event, utterances: Sequence[Event]) -> Proven:
    """Hold a recording against the event that it was kept by, and against what was heard on its call. *digest*: its SHA-256."""
    body = kept.body
    call_id, rate = str(body["call_id"]), _count(EVENTS, body["rate"])
    blocks, block = body["blocks"], rate * _count(EVENTS, body["block_ms"]) // 1000 * 4
    samples = data[HEADER_OCTETS:]
    if rate not in (8000, 16_000, 32_000, 48_000) or block <= 0:
        raise Invalid(member, f"was kept at {rate} samples a second, which no call has")
    if bytes(data[:HEADER_OCTETS]) != wav_header(2, rate, len(samples)) or len(samples) % 4:
        raise Invalid(member, "is no WAV of two channels of 16 bits at the rate that the ledger says")
    whole = digest == body["sha256"]
    proven = 0
    for expected in blocks:
        piece = samples[proven : proven + block]
        if len(piece) == 0 or sha256(piece) != expected:
            break
        proven += len(piece)
    if whole and blocks and proven != len(samples):
        raise Invalid(member, "has the hash that the ledger says, and not those of its blocks")
    if not whole:
        seconds = len(samples) / 4 / rate
        unproven = len(samples) - proven
        if unproven >= block or 1000 * seconds >= body["duration_ms"]:
            raise Invalid(member, f"is not what was recorded: changed after {proven / 4 / rate:.0f} s")
    end = len(samples) if whole else proven
    if whole and abs(1000 * end / 4 / rate - body["duration_ms"]) > 20:
        raise Invalid(member, f"does not last {body['duration_ms']} ms")
    same, judged = _heard_again(member, samples[:end], rate, kept, utterances)
    return Proven(call_id, member, body["duration_ms"] / 1000, end / 4 / rate, whole, same, judged)


def _heard_again(
    member: str, samples: memoryview, rate: int, kept: Event, utterances: Sequence[Event]
) -> tuple[int, int]:
    """How many utterances of the call have, in the caller's channel, the very samples that were judged; of how many.

    G.711 decodes to the same samples always, so there each must. G.722 keeps a memory, and decodes by a rounding otherwise from
    another beginning: there a difference says nothing.
    """
    caller = array("H", bytes(samples))[0::2]
    same = judged = heard = 0
    for event in utterances:
        body = event.body
        start, end = (_count(EVENTS, body[name]) * rate // 1000 for name in ("audio_start_ms", "audio_end_ms"))
        if not body["audio_sha256"] or not start < end <= len(caller):
            continue
        judged += 1
        heard += end - start
        if heard > MOST_HEARD * len(caller):
            raise Invalid(member, f"is shorter than what is said to have been heard on it, {MOST_HEARD} times over")
        found = sha256(caller[start:end].tobytes()) == body["audio_sha256"]
        same += found
        if not found and rate == 8000 and not kept.body["salvaged"]:
            raise Invalid(member, f"does not hold what was judged in event {event.seq}")
    return same, judged


def check_prompt(member: str, data: memoryview, played: Sequence[Event]) -> None:
    """Hold a prompt against the events that say it was played."""
    samples = data[HEADER_OCTETS:]
    if bytes(data[:HEADER_OCTETS]) != wav_header(1, PROMPT_RATE, len(samples)):
        raise Invalid(member, f"is no WAV of one channel of 16 bits at {PROMPT_RATE} samples a second")
    if sha256(samples) != played[0].body["audio_sha256"]:
        raise Invalid(member, "is not what was played: its samples have another hash")
    for event in played:
        planned = 2 * _count(EVENTS, event.body["samples_planned"])
        if abs(planned - len(samples) // 2) > PROMPT_RATE // 10:
            raise Invalid(member, f"is not as long as event {event.seq} says that it is")


def record_of(order_id: str, events: Sequence[Event]) -> dict[str, Any]:
    """All events, opened, as record.json has them."""
    rows = [
        {"at": event.at, "event": event.body, "event_id": event.event_id, "hash": event.hash, "seq": event.seq}
        for event in events
    ]
    return {"events": rows, "order_id": order_id}


def transcript_of(order_id: str, events: Sequence[Event]) -> dict[str, Any]:
    """Who said what, call by call, as transcript.json has it: prompts with their audio, and what was heard with its times in the
    recording, confidences, second pass and verdict.
    """
    calls: dict[str, dict[str, Any]] = {}
    for event in events:
        call_id = event.body.get("call_id")
        if not isinstance(call_id, str):
            continue
        call = calls.setdefault(
            call_id,
            {"call_id": call_id, "direction": "", "outcome": "", "recording": None, "started_at": "", "turns": []},
        )
        if event.of("call.started"):
            call["direction"], call["started_at"] = event.body["direction"], event.at
        elif event.of("call.ended"):
            call["outcome"] = event.body["outcome"]
        elif event.of("recording.kept"):
            call["recording"] = recording_member(call_id)
        elif event.type in ("prompt.played", "utterance.heard", "answer.judged", "consent.spoken", "consent.denied",
                            "disclosure.unheard"):  # fmt: skip
            said = {name: value for name, value in event.body.items() if name != "call_id"}
            call["turns"].append({"at": event.at, "seq": event.seq, **said})
    return {"calls": list(calls.values()), "order_id": order_id}


def transcript_text(transcript: dict[str, Any]) -> str:
    """The transcript for people: one line a turn."""
    lines = [f"Order {transcript['order_id']}"]
    for call in transcript["calls"]:
        lines += ["", f"Call {call['call_id']} ({call['direction']}), {call['started_at']}: {call['outcome']}"]
        lines += [_turn(turn) for turn in call["turns"]]
    return "".join(f"{_plain(line)}\n" for line in lines)


def _turn(turn: dict[str, Any]) -> str:
    kind, at = turn["type"], turn["at"][11:19]
    if kind == "prompt.played":
        whole = turn["samples_sent"] >= turn["samples_planned"]
        cut = "" if whole else f" [cut after {turn['samples_sent'] / 8000:.1f} s: {turn['interruption']}]"
        told = f" [disclosure: {turn['disclosure']}]" if turn["disclosure"] else ""
        return f"{at} {turn['step']} GATEWAY: {turn['text']}{told}{cut}"
    if kind == "utterance.heard":
        testimony = turn["testimony"]
        words = " ".join(f"{word['word']}({word['confidence']:.2f})" for word in testimony["words"])
        heard = f"key {testimony['dtmf']}" if testimony["dtmf"] else words or "nothing"
        again = testimony["open_words"]
        second = "" if again is None else f"; second pass: {' '.join(word['word'] for word in again) or 'nothing'}"
        where = f"{turn['start_ms'] / 1000:.2f}-{turn['end_ms'] / 1000:.2f} s"
        return f"{at} {turn['step']} CALLER at {where}: {heard}{second} = {turn['verdict']}: {turn['reason']}"
    rest = {name: value for name, value in turn.items() if name not in ("at", "seq", "type", "captures")}
    return f"{at} {kind}: {', '.join(f'{name} {value}' for name, value in rest.items())}"


def messages_of(order_id: str, events: Sequence[Event]) -> dict[str, Any]:
    """What was sent and received by SMS, as messages.json has it."""
    rows = [
        {"at": event.at, "seq": event.seq, **event.body}
        for event in events
        if event.type.partition(".")[0] in ("sms", "reply", "challenge")
    ]
    return {"messages": rows, "order_id": order_id}


def check_deliveries(data: memoryview, promise: Promise, order_id: str, events: Sequence[Event]) -> int:
    """Hold the webhooks and what was answered against the events. How many attempts there were."""
    said = _object(DELIVERIES, parse(DELIVERIES, data), "deliveries", "order_id")
    kept: dict[tuple[Any, Any], tuple[Any, ...]] = {}
    for delivery in said["deliveries"]:
        _object(DELIVERIES, delivery, "attempts", "body", "endpoint", "kind", "webhook_id")
        webhook_id, kind, endpoint = delivery["webhook_id"], delivery["kind"], delivery["endpoint"]
        for attempt in delivery["attempts"]:
            _object(DELIVERIES, attempt, "at", "attempt", "error", "response", "status")
            name = webhook_id, attempt["attempt"]
            if name in kept:
                raise Invalid(DELIVERIES, f"attempt {attempt['attempt']!r:.10} of {webhook_id!r:.40} stands twice")
            kept[name] = kind, endpoint, attempt["status"], attempt["error"]
    attempts = 0
    for event in events:
        if event.of("delivery.attempted"):
            attempts += 1
            body = event.body
            told = body["kind"], body["endpoint"], body["status"], body["error"]
            if kept.pop((body["webhook_id"], body["attempt"]), None) != told:
                raise Invalid(DELIVERIES, f"does not have the attempt of event {event.seq}, or tells it otherwise")
    if kept or said["order_id"] != order_id:
        raise Invalid(DELIVERIES, "has attempts that are not in the record")
    for delivery in said["deliveries"]:
        _check_told(delivery["body"], delivery["kind"], promise, order_id)
    return attempts


def _check_told(text: Any, kind: Any, promise: Promise, order_id: str) -> None:
    """Whether billing was told what *kind* says of this order, number and offer; where it was to bill, of these terms and proofs."""
    bills, order = kind == "consent.confirmed", promise.order
    try:
        body = json.loads(_text(DELIVERIES, text), object_pairs_hook=_no_twins, parse_constant=_no_constant)
        told = body["data"]
        if (told["order_id"], told["order_hash"]) != (order_id, promise.order_hash):
            raise Invalid(DELIVERIES, "billing was told of another order, or of other terms")
        if body["type"] != kind:
            raise Invalid(DELIVERIES, f"a webhook of {kind!r:.40} says that it is {body['type']!r:.40}")
        for name, proof in (("spoken_consent", promise.spoken), ("code_reply", promise.reply)) if bills else ():
            if proof is None or told[name]["event_id"] != proof.event_id:
                raise Invalid(DELIVERIES, f"billing was told of a {name} that the record does not have")
        offer = order["offer"] if bills else {"id": order["offer"]["id"]}
        if (told["subscriber"], told["offer"]) != ({"number": order["subscriber"]["number"]}, offer):
            raise Invalid(DELIVERIES, "billing was told of another number, or of another offer")
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise Invalid(DELIVERIES, f"a webhook of {kind!r:.40} is not of the form that it has") from error


@dataclass
class Report:
    """What a valid bundle proves."""

    order_id: str
    state: str
    key: Key
    pinned: bool
    events: int
    checkpoint: Checkpoint
    first: Checkpoint
    timestamped: bool
    exported_at: str
    promise: Promise | None
    recordings: list[Proven] = field(default_factory=list)
    deliveries: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """In a word: erased, provisioned, confirmed, frozen, or not confirmed."""
        if self.promise is None:
            return "erased"
        if self.promise.frozen is not None:
            return "frozen"
        if self.promise.confirmed:
            return "provisioned" if self.promise.provisioned is not None else "confirmed"
        return "not confirmed"

    def as_json(self) -> dict[str, Any]:
        promise = self.promise
        told: dict[str, Any] = {
            "valid": True, "order_id": self.order_id, "outcome": self.outcome, "state": self.state, "events": self.events,
            "exported_at": self.exported_at, "key": str(self.key), "key_pinned": self.pinned,
            "checkpoint": {"size": self.checkpoint.size, "root": base64.b64encode(self.checkpoint.root).decode()},
            "first_checkpoint": {"size": self.first.size}, "timestamp": "not checked" if self.timestamped else None,
            "recordings": [vars(recording) for recording in self.recordings],
            "deliveries": self.deliveries, "missing": self.missing,
        }  # fmt: skip
        if promise is not None:
            proofs = (
                ("spoken_at", promise.spoken),
                ("replied_at", promise.reply),
                ("provisioned_at", promise.provisioned),
            )
            told |= {"order_hash": promise.order_hash, "why_not": "" if promise.confirmed else why_not(promise)}
            told |= {name: event.at if event is not None and promise.confirmed else None for name, event in proofs}
        return told

    def lines(self) -> Iterator[str]:
        yield f"valid: order {self.order_id}: {self.outcome}"
        promise = self.promise
        if promise is None:
            yield "  person     erased: what happened cannot be read any more; that so much happened, in this order, is proven"
        elif promise.confirmed:
            yield from self._proofs(promise)
        else:
            by = f" (event {promise.no[0].seq}, {_utc(promise.no[0].when)})" if promise.no else ""
            yield f"  consent    none: {why_not(promise)}{by}; nobody was told to bill"
        if promise is not None:
            if promise.frozen is not None:
                yield f"  frozen     {_utc(promise.frozen.when)}: {promise.frozen.body.get('reason', 'a stop word was replied by SMS')}"
            yield f"  order hash {promise.order_hash}"
        for recording in self.recordings:
            yield from self._recording(recording)
        if (
            promise is not None
            and promise.spoken is not None
            and promise.call_id not in [one.call_id for one in self.recordings]
        ):
            yield f"  recording  {promise.call_id}: NOT in this bundle: the consent cannot be listened to"
        last = "erasure" if promise is None else "export"
        yield f"  events     {self.events}, in one unbroken chain, up to the {last} at {self.exported_at}"
        yield f"  ledger     all of them in the checkpoint of {self.checkpoint.size} events, which only grew from that of {self.first.size}"
        if self.timestamped:
            command = f"openssl ts -verify -data {DATED_CHECKPOINT} -in {TIMESTAMP} -CAfile ..."
            yield f"  dated      a time stamp (RFC 3161) is in it, NOT CHECKED here: {command}"
        yield f"  root       {base64.b64encode(self.checkpoint.root).decode()}"
        for member, reason in self.missing.items():
            yield f"  missing    {member}: {reason}"
        if self.pinned:
            yield f"  key        {self.key}, as given with --key"
        else:
            yield f"  key        {self.key}"
            yield "             NOT PINNED: whoever holds this key can have made all of this. Compare it with the one that the operator"
            yield "             has published, and verify again with --key"

    def _proofs(self, promise: Promise) -> Iterator[str]:
        spoken, reply, affirmed, challenge = promise.spoken, promise.reply, promise.affirmed, promise.challenge
        if spoken is None or reply is None or affirmed is None or challenge is None:
            raise Invalid(EVENTS, "a confirmation lacks a proof")
        start, end = affirmed.body["start_ms"] / 1000, affirmed.body["end_ms"] / 1000
        heard = " ".join(word["word"] for word in affirmed.body["testimony"]["words"])
        yield f"  spoken     {_utc(spoken.when)}: {heard!r}, {start:.1f}-{end:.1f} s into call {promise.call_id}, after all {len(MANDATORY)} disclosures"
        yield f"  replied    {_utc(reply.when)}: the code, by SMS, before {challenge.body['expires_at']}"
        if promise.provisioned is not None:
            yield f"  billed     {_utc(promise.provisioned.when)}: taken by the billing system, once"

    def _recording(self, recording: Proven) -> Iterator[str]:
        same = f"{recording.same} of {recording.judged} utterances in it bit for bit"
        if recording.same < recording.judged:
            same += " (after G.722, or a crash, a difference says nothing)"
        if recording.whole:
            yield f"  recording  {recording.call_id}: {recording.kept_s:.1f} s, whole; {same}"
        else:
            yield f"  recording  {recording.call_id}: CUT: {recording.proven_s:.0f} s of {recording.kept_s:.1f} s are proven; {same}"
            affirmed = self.promise.affirmed if self.promise is not None else None
            ours = affirmed is not None and affirmed.body["call_id"] == recording.call_id
            if ours and affirmed is not None and affirmed.body["audio_end_ms"] > 1000 * recording.proven_s:
                yield "             the consent is not in the part that is proven"


def verify(data: bytes, pinned: str | None = None) -> Report:
    """What the bundle *data* proves. *pinned*: the verifier key that it must be signed by. Raises Invalid, and nothing else."""
    try:
        report = _verify(data, pinned)
        report.as_json()
        tuple(report.lines())
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(
            MANIFEST, f"something in the bundle is not as it must be: {type(error).__name__}: {error}"
        ) from error
    return report


def _verify(data: bytes, pinned: str | None) -> Report:
    members = unpack(data)
    for name in sorted(ALWAYS - members.keys()):
        raise Invalid(name, "is missing")
    manifest, digests = _manifest(members)
    order_id = manifest["order_id"]
    key = _key(members, pinned)
    if not key.has_signed(bytes(members[MANIFEST]), bytes(members[SIGNATURE])):
        raise Invalid(SIGNATURE, f"is not the signature of {MANIFEST} by the key in {KEY_TEXT}")
    checkpoint = parse_checkpoint(CHECKPOINT, members[CHECKPOINT], key)
    first = parse_checkpoint(FIRST_CHECKPOINT, members[FIRST_CHECKPOINT], key)
    envelopes = read_envelopes(members[EVENTS], order_id)
    leaves = _in_the_ledger(members[PROOFS], envelopes, checkpoint, first)
    if manifest["exported_at"] != envelopes[-1].at:
        raise Invalid(MANIFEST, "the export is not at the time of the last event")
    report = Report(
        order_id, manifest["state"], key, pinned is not None, len(envelopes), checkpoint, first, TIMESTAMP in members,
        manifest["exported_at"], None, missing=manifest["missing"],
    )  # fmt: skip
    dated = _dated(members, checkpoint, key)
    if KEYS in members:
        _check_content(members, digests, envelopes, report)
    else:
        _check_erased(members, envelopes, report)
    seq = report.promise.reply.seq if report.promise is not None and report.promise.reply is not None else 1
    if leaves[seq - 1] >= first.size:
        raise Invalid(FIRST_CHECKPOINT, f"does not cover event {seq}")
    if dated is not None and leaves[seq - 1] >= dated.size:
        raise Invalid(DATED_CHECKPOINT, f"does not cover event {seq}")
    return report


def _manifest(members: dict[str, memoryview]) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest, and the SHA-256 of every other member, which are what it says."""
    said = parse(MANIFEST, members[MANIFEST])
    _object(MANIFEST, said, "exported_at", "format", "members", "missing", "order_id", "state")
    if said["format"] != FORMAT:
        raise Invalid(MANIFEST, f"is of the format {said['format']!r:.60}; this verifies {FORMAT!r}")
    if not _CALL.fullmatch(_text(MANIFEST, said["order_id"])):
        raise Invalid(MANIFEST, "names no order")
    _text(MANIFEST, said["state"])
    listed, missing = said["members"], said["missing"]
    if not isinstance(listed, dict) or not isinstance(missing, dict):
        raise Invalid(MANIFEST, "must list the members, and those that are missing")
    digests: dict[str, str] = {}
    for name in sorted({*listed, *members} - {MANIFEST, SIGNATURE}):
        if name not in members:
            raise Invalid(name, f"is missing: {MANIFEST} has it")
        if name not in listed:
            raise Invalid(name, f"was added: {MANIFEST} does not have it")
        expected = _object(MANIFEST, listed[name], "length", "sha256")
        digests[name] = sha256(members[name])
        if expected["length"] != len(members[name]) or expected["sha256"] != digests[name]:
            raise Invalid(name, f"is not what {MANIFEST} says: its SHA-256 is {digests[name]}")
    for name, reason in missing.items():
        _text(MANIFEST, reason)
        if name in members:
            raise Invalid(name, f"is there, and {MANIFEST} says that it is missing")
    return said, digests


def _key(members: dict[str, memoryview], pinned: str | None) -> Key:
    """The ledger's key; the one that was asked for, where one was."""
    text = bytes(members[KEY_TEXT]).decode("utf-8", "replace")
    if not text.endswith("\n") or len(text) > 1000:
        raise Invalid(KEY_TEXT, "is no verifier key on a line of its own")
    key = parse_key(KEY_TEXT, text[:-1])
    if pinned is not None:
        wanted = parse_key("--key", pinned.strip())
        if wanted != key:
            raise Invalid(
                KEY_TEXT, f"unknown key: the bundle is signed by {key}, and not by {wanted}, which --key wants"
            )
    if bytes(members[KEY_PEM]) != key.pem():
        raise Invalid(KEY_PEM, f"is not the key in {KEY_TEXT}")
    return key


def _in_the_ledger(
    data: memoryview, envelopes: Sequence[Envelope], checkpoint: Checkpoint, first: Checkpoint
) -> list[int]:
    """The leaves of the events in the ledger, each proven to be in *checkpoint*, and that this only grew from *first*."""
    said = _object(PROOFS, parse(PROOFS, data), "consistency", "dated", "inclusion")
    if not only_grew(first, checkpoint, [_unbase64(PROOFS, step, 32) for step in said["consistency"]]):
        raise Invalid(
            PROOFS, f"the checkpoint of {checkpoint.size} events is not proven to have grown from that of {first.size}"
        )
    if len(said["inclusion"]) != len(envelopes):
        raise Invalid(PROOFS, f"has {len(said['inclusion'])} inclusion proofs for {len(envelopes)} events")
    leaves: list[int] = []
    for envelope, given in zip(envelopes, said["inclusion"], strict=True):
        leaf = _count(PROOFS, _object(PROOFS, given, "leaf", "proof")["leaf"])
        steps = [_unbase64(PROOFS, step, 32) for step in given["proof"]]
        if not is_included(leaf, checkpoint.size, leaf_hash(envelope.hash), steps, checkpoint.root):
            raise Invalid(PROOFS, f"event {envelope.seq} is not proven to be in the checkpoint")
        leaves.append(leaf)
    return leaves


def _dated(members: dict[str, memoryview], checkpoint: Checkpoint, key: Key) -> Checkpoint | None:
    """The checkpoint that a time-stamping authority has dated (RFC 3161), where there is one; *checkpoint* grew from it.

    Whether the authority's own signature is right is for who trusts it: ``openssl ts -verify``.
    """
    steps = [_unbase64(PROOFS, step, 32) for step in parse(PROOFS, members[PROOFS])["dated"]]
    if not DATED & members.keys():
        return None
    for name in sorted(DATED - members.keys()):
        raise Invalid(name, "is missing")
    if hashlib.sha256(members[DATED_CHECKPOINT]).digest() not in bytes(members[TIMESTAMP]):
        raise Invalid(TIMESTAMP, f"is not a time stamp of {DATED_CHECKPOINT}")
    dated = parse_checkpoint(DATED_CHECKPOINT, members[DATED_CHECKPOINT], key)
    if not only_grew(dated, checkpoint, steps):
        raise Invalid(
            PROOFS, f"the checkpoint of {checkpoint.size} events is not proven to have grown from the dated one"
        )
    return dated


def _check_erased(members: dict[str, memoryview], envelopes: Sequence[Envelope], report: Report) -> None:
    if envelopes[-1].type != "record.erased":
        raise Invalid(KEYS, "is missing, and the person was not erased")
    if report.state != "erased":
        raise Invalid(MANIFEST, f"calls the order {report.state}, and the person was erased")
    for name in sorted(members.keys() - ALWAYS - DATED):
        raise Invalid(name, "has no place in the bundle of an erased person")
    if report.missing:
        raise Invalid(MANIFEST, "calls something missing that an erased person has not")


def _check_content(
    members: dict[str, memoryview], digests: dict[str, str], envelopes: Sequence[Envelope], report: Report
) -> None:
    """Open the events, judge the promise, and hold all that is said beside against them."""
    for name in sorted(READABLE - members.keys()):
        raise Invalid(name, "is missing")
    key = _unbase64(KEYS, _object(KEYS, parse(KEYS, members[KEYS]), "events")["events"], 32)
    events = open_events(envelopes, key, report.order_id)
    if not events[-1].of("evidence.exported"):
        raise Invalid(EVENTS, "the last event is not the export of this bundle: events were left out")
    try:
        promise = report.promise = keep_promise(events)
        if promise.order["order_id"] != report.order_id:
            raise Invalid(EVENTS, "the terms are those of another order")
        if not _is_borne_out(report.state, promise, events):
            raise Invalid(MANIFEST, f"calls the order {report.state}, and the events say: {report.outcome}")
        _check_texts(events)
        expected = _check_sounds(members, digests, events, report)
        _check_dialplan(members, digests, promise)
        report.deliveries = check_deliveries(members[DELIVERIES], promise, report.order_id, events)
        transcript = transcript_of(report.order_id, events)
        for name, again in (
            (RECORD, canonical(record_of(report.order_id, events))),
            (TRANSCRIPT, canonical(transcript)),
            (TRANSCRIPT_TEXT, transcript_text(transcript).encode()),
            (MESSAGES, canonical(messages_of(report.order_id, events))),
        ):
            if bytes(members[name]) != again:
                raise Invalid(name, "is not what the events say")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Invalid(EVENTS, f"an event is not of the form that it has: {type(error).__name__}: {error}") from error
    may_be_missing = expected | MAY_BE_MISSING
    for name in sorted(report.missing.keys() - may_be_missing):
        raise Invalid(MANIFEST, f"calls {name!r:.100} missing, which no event speaks of")
    expected = may_be_missing | ALWAYS | READABLE | DATED
    for name in sorted(members.keys() - expected):
        raise Invalid(name, "has no place in the bundle: no event speaks of it")
    for name in sorted(expected - members.keys() - report.missing.keys() - DATED):
        raise Invalid(name, f"is missing, and {MANIFEST} does not say why")


def _is_borne_out(state: str, promise: Promise, events: Iterable[Event]) -> bool:
    """Whether the events say that the order is in *state*; of the ways not to be confirmed they tell freezing from the others."""
    if promise.confirmed and promise.frozen is None:
        began = any(event.of("delivery.attempted") and event.body["kind"] == "consent.confirmed" for event in events)
        return state == ("provisioned" if promise.provisioned else "provisioning" if began else "confirmed")
    if state == "frozen" or promise.confirmed:
        return state == "frozen" and promise.frozen is not None
    return state in UNCONFIRMED


def _check_texts(events: Iterable[Event]) -> None:
    for event in events:
        if event.of("prompt.played") and event.body["text_sha256"] not in ("", sha256(event.body["text"].encode())):
            raise Invalid(f"{EVENTS}, event {event.seq}", "the text has not the hash that stands beside it")


def _check_sounds(
    members: dict[str, memoryview], digests: dict[str, str], events: Sequence[Event], report: Report
) -> set[str]:
    """Recordings and prompts. Returns the members that the events speak of."""
    utterances = grouped(events, "utterance.heard", "call_id")
    prompts = {
        prompt_member(digest): played for digest, played in grouped(events, "prompt.played", "audio_sha256").items()
    }
    recordings = {
        recording_member(call_id): kept[-1] for call_id, kept in grouped(events, "recording.kept", "call_id").items()
    }
    for member, kept in recordings.items():
        if member in members:
            heard = utterances.get(kept.body["call_id"], [])
            report.recordings.append(check_recording(member, members[member], digests[member], kept, heard))
    for member, played in prompts.items():
        if member in members:
            check_prompt(member, members[member], played)
    return {*prompts, *recordings}


def grouped(events: Iterable[Event], kind: str, name: str) -> dict[str, list[Event]]:
    """The events of *kind* by what they call *name*, in their order."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.of(kind):
            found.setdefault(_text(EVENTS, event.body[name]), []).append(event)
    return found


def _check_dialplan(members: dict[str, memoryview], digests: dict[str, str], promise: Promise) -> None:
    if DIALPLAN in members:
        parse(DIALPLAN, members[DIALPLAN])
        if digests[DIALPLAN] != promise.order["dialplan"]["sha256"]:
            raise Invalid(DIALPLAN, "is not the script that the order is bound to: it has another hash")


def _utc(when: datetime) -> str:
    offset = when.utcoffset()
    return f"{when.replace(tzinfo=None) - offset if offset else when:%Y-%m-%d %H:%M:%S} UTC"


def _plain(line: str) -> str:
    """*line* without what a terminal would take for a command, or that ends a line."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in line)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 valid, 1 not valid, 2 not used rightly."""
    parser = argparse.ArgumentParser(prog="verify_evidence.py", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.zip")
    parser.add_argument(
        "--key", metavar="VKEY", help="the ledger's key that the bundle must be signed by: name+id+base64"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    given = parser.parse_args(arguments)
    try:
        if not stat.S_ISREG(given.bundle.stat().st_mode):
            raise OSError("is no file")
        with given.bundle.open("rb") as file:
            data = file.read(MOST_OCTETS + 1)
        if given.key is not None:
            parse_key("--key", given.key.strip())
    except (OSError, Invalid) as error:
        parser.error(f"{given.bundle}: {error.strerror or error}" if isinstance(error, OSError) else str(error))
    code, told, lines = examine(data, given.key)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(json.dumps(told, indent=2) + "\n" if given.json else "".join(f"{line}\n" for line in lines))
    return code


def examine(data: bytes, pinned: str | None = None) -> tuple[int, dict[str, Any], list[str]]:
    """The exit code, and what is to be said: for scripts, and for people."""
    try:
        report = verify(data, pinned)
        return 0, report.as_json(), [_plain(line) for line in report.lines()]
    except Invalid as invalid:
        told = {"valid": False, "member": invalid.member, "reason": invalid.reason}
        return 1, told, [_plain(f"NOT valid: {invalid.member}: {invalid.reason}")]


if __name__ == "__main__":
    sys.exit(main())
