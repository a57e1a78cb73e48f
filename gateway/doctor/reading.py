"""Traced messages as people speak of them: method, status, what the SDP says. It reads what is broken as far as it goes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.telephony.message import HostPort
from gateway.telephony.trace import TracedMessage

_COMPACT = {
    "i": "call-id", "v": "via", "f": "from", "t": "to", "m": "contact", "c": "content-type", "l": "content-length",
    "s": "subject", "k": "supported", "e": "content-encoding", "o": "event", "r": "refer-to", "x": "session-expires",
}  # fmt: skip
_STATUS = re.compile(r"SIP/2\.0 +([1-6][0-9]{2})(?: +(.*))?$")
_REQUEST = re.compile(r"([A-Za-z0-9.!%*_+`'~-]+) +(\S+) +SIP/2\.0$")
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
_STATIC = {"0": "PCMU", "3": "GSM", "4": "G723", "8": "PCMA", "9": "G722", "13": "CN", "18": "G729"}
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@dataclass(frozen=True, slots=True)
class Description:
    """The first audio stream of an SDP. *codecs* in the order of its formats, telephone-event among them."""

    address: str
    port: int
    protocol: str
    codecs: tuple[str, ...]
    direction: str
    keyed: bool
    """It brings SRTP keys (RFC 4568)."""

    @property
    def takes_events(self) -> bool:
        return any(codec.lower() == "telephone-event" for codec in self.codecs)


@dataclass(frozen=True, slots=True)
class Said:
    """A message that was read. *status* is 0 for a request; *method* of a response is that of its CSeq."""

    message: TracedMessage
    offset_ms: float
    """Since the first message of the trace."""
    method: str
    status: int = 0
    reason: str = ""
    uri: str = ""
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sdp: Description | None = None
    again: bool = False
    """A retransmission: the same came or went before, between the same two."""

    @property
    def sent(self) -> bool:
        return self.message.sent

    @property
    def remote(self) -> HostPort:
        return self.message.remote

    @property
    def call_id(self) -> str:
        return self.header("call-id")

    @property
    def branch(self) -> str:
        """Of the top Via: what belongs to one transaction has the same."""
        found = _BRANCH.search(self.header("via"))
        return found[1] if found else ""

    @property
    def cseq(self) -> str:
        return self.header("cseq").partition(" ")[0]

    @property
    def tagged(self) -> bool:
        """It was said within a dialog."""
        return bool(re.search(r";\s*tag\s*=", self.header("to"), re.IGNORECASE))

    def header(self, name: str) -> str:
        """The first value of *name* (lower case); empty where there is none."""
        return next(iter(self.headers.get(name, ())), "")


def read_messages(messages: Sequence[TracedMessage]) -> list[Said]:
    """Every message, read; what is no SIP has the method ``?``."""
    said: list[Said] = []
    seen: set[tuple[bool, HostPort, bytes]] = set()
    for message in messages:
        key = (message.sent, message.remote, message.data)
        offset = 1000 * (message.at - messages[0].at)
        said.append(_read(message, offset, again=key in seen))
        seen.add(key)
    return said


def _read(message: TracedMessage, offset_ms: float, *, again: bool) -> Said:
    head, _, body = message.text.replace("\r\n", "\n").partition("\n\n")
    start, *lines = re.sub(r"\n[ \t]+", " ", head).split("\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            lower = name.strip().lower()
            headers.setdefault(_COMPACT.get(lower, lower), []).append(value.strip())
    sdp = read_description(body) if body.startswith("v=") else None
    response, request = _STATUS.match(start), _REQUEST.match(start)
    if response is not None:
        method = (*headers.get("cseq", ("",))[0].split(), "?", "?")[1]
        status, reason = int(response[1]), response[2] or ""
        return Said(message, offset_ms, method, status, reason, headers=headers, sdp=sdp, again=again)
    if request is None:
        return Said(message, offset_ms, "?", headers=headers, again=again)
    return Said(message, offset_ms, request[1], uri=request[2], headers=headers, sdp=sdp, again=again)


def read_description(body: str) -> Description | None:
    """The first audio stream in *body*; None where there is none."""
    session: dict[str, str] = {}
    audio: dict[str, str] | None = None
    port, protocol, formats, names, keyed = 0, "", [], {}, False
    current = session
    for line in body.splitlines():
        kind, _, value = line.partition("=")
        if kind == "m":
            if audio is not None:
                break
            current = {}
            parts = value.split()
            if len(parts) >= 3 and parts[0] == "audio":
                audio = current
                digits = parts[1].partition("/")[0]
                port = int(digits) if digits.isascii() and digits.isdigit() else 0
                protocol, formats = parts[2], parts[3:]
        elif kind == "c":
            current["address"] = (value.split() or [""])[-1].partition("/")[0]
        elif kind == "a" and value in DIRECTIONS:
            current["direction"] = value
        elif kind == "a" and current is audio and value.startswith("rtpmap:"):
            number, _, codec = value.removeprefix("rtpmap:").partition(" ")
            names[number] = codec.partition("/")[0].strip()
        elif kind == "a" and current is audio and value.startswith("crypto:"):
            keyed = True
    if audio is None:
        return None
    merged = session | audio
    codecs = tuple(names.get(number) or _STATIC.get(number, number) for number in formats)
    direction = merged.get("direction", "sendrecv")
    return Description(merged.get("address", ""), port, protocol, codecs, direction, keyed)


def printable(text: str) -> str:
    """*text* for a terminal: what a stranger wrote must not move the cursor or colour the screen."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def address_text(address: HostPort) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_private(host: str) -> bool:
    """An address that nobody outside reaches: RFC 1918, RFC 4193, link-local, carrier NAT (RFC 6598). Loopback is not."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return any(address in network for network in _PRIVATE_6)
    return any(address in network for network in _PRIVATE_4)


def is_public(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_private(host) and not address.is_loopback and not address.is_unspecified


_PRIVATE_4 = [
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
]
_PRIVATE_6 = [ipaddress.IPv6Network(text) for text in ("fc00::/7", "fe80::/10")]
