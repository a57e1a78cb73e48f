"""SIP messages: parsing (over pyVoIP's class) and the pieces of headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyVoIP import SIP

_COMPACT = {
    "v": "via",
    "f": "from",
    "t": "to",
    "i": "call-id",
    "m": "contact",
    "l": "content-length",
    "c": "content-type",
    "e": "content-encoding",
    "s": "subject",
    "k": "supported",
}
"""RFC 3261 section 7.3.3."""
_LISTS = {"via", "route", "record-route", "contact"}
"""Headers whose values may stand comma-separated in one line (section 7.3.1)."""
_URI = re.compile(
    r"^(?P<scheme>sips?):(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]+\]|[^:;?]+)"
    r"(?::(?P<port>\d+))?(?P<rest>[;?].*)?$",
    re.IGNORECASE,
)
USER_AGENT = "consent-gateway-softphone (pyVoIP 1.6.8)"


def split_list(value: str) -> list[str]:
    """Split at commas that stand outside quotes and angle brackets."""
    parts, depth, quoted, current = [], 0, False, ""
    for char in value:
        if char == '"':
            quoted = not quoted
        elif not quoted and char in "<>":
            depth += 1 if char == "<" else -1
        if char == "," and not quoted and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [part for part in [*parts, current.strip()] if part]


def split_params(text: str) -> dict[str, str | None]:
    """``;a=b;c`` as a dictionary; names in lower case, a bare name has no value."""
    found: dict[str, str | None] = {}
    for piece in text.split(";"):
        name, sep, value = piece.strip().partition("=")
        if name:
            found[name.strip().lower()] = value.strip() if sep else None
    return found


@dataclass(frozen=True)
class Uri:
    """A ``sip:`` URI; ``port`` is ``None`` when not written."""

    text: str
    user: str
    host: str
    port: int | None

    @staticmethod
    def parse(text: str) -> Uri:
        """Raises ValueError: not a sip: URI (RFC 3261 section 19.1.1)."""
        match = _URI.match(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a sip: URI")
        port = int(match["port"]) if match["port"] else None
        return Uri(text.strip(), match["user"] or "", match["host"], port)


@dataclass(frozen=True)
class NameAddress:
    """A From, To, Contact or Route value: the URI and the header parameters."""

    uri: str
    params: dict[str, str | None] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The tag, empty when there is none."""
        return self.params.get("tag") or ""

    @staticmethod
    def parse(value: str) -> NameAddress:
        """Read ``"Name" <uri>;params`` or ``uri;params`` (RFC 3261 section 20.10)."""
        match = re.match(r'^\s*(?:"(?:[^"\\]|\\.)*"\s*|[^<"]*)<([^>]*)>(.*)$', value)
        if match is not None:
            return NameAddress(match[1].strip(), split_params(match[2]))
        uri, _, rest = value.partition(";")
        return NameAddress(uri.strip(), split_params(rest))


@dataclass(frozen=True)
class Via:
    """One Via value; ``host``/``port`` are the sent-by."""

    text: str
    host: str
    port: int
    params: dict[str, str | None]

    @staticmethod
    def parse(value: str) -> Via:
        """Raises ValueError: no sent-by (RFC 3261 section 20.42)."""
        main, _, rest = value.partition(";")
        words = main.split()
        if len(words) != 2:
            raise ValueError(f"{value!r} is not a Via value")
        host, _, port = words[1].partition(":")
        return Via(value, host, int(port) if port else 5060, split_params(rest))


class Message(SIP.SIPMessage):
    """A parsed SIP message.

    Replaces pyVoIP's parser (SIP.py:368), which refuses every method but
    INVITE/ACK/BYE/CANCEL, knows no compact or folded headers, keeps only one
    header of a name, splits at ``": "`` anywhere in the value and raises on
    status codes outside its enumeration. ``headers`` keeps pyVoIP's shape for
    Call-ID, CSeq, From and To, which ``VoIPCall`` reads.

    Raises:
        SIPParseError: not SIP, or a mandatory header is missing.

    """

    method: str

    def __init__(self, data: bytes, source: tuple[str, int] = ("", 0)) -> None:
        self.source = source
        self.fields: list[tuple[str, str]] = []
        self.request_uri = ""
        self.code = 0
        self.phrase = ""
        self.content = b""
        super().__init__(data)

    @property
    def is_response(self) -> bool:
        """True for a response, False for a request."""
        return self.type == SIP.SIPMessageType.RESPONSE

    def parse(self, data: bytes) -> None:
        """Fill this message from a datagram; see the class for errors."""
        head, blank, content = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
        if not blank:
            raise SIP.SIPParseError("no empty line after the headers")
        text = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "replace"))
        start, *lines = text.split("\r\n")
        self.heading = start.encode()
        self._parse_start(start)
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise SIP.SIPParseError(f"header without a colon: {line!r}")
            lower = name.strip().lower()
            self.fields.append((_COMPACT.get(lower, lower), value.strip()))
        self._check()
        length = self.get("content-length")
        if length and (not length.isdigit() or int(length) > len(content)):
            raise SIP.SIPParseError(f"Content-Length {length!r}, {len(content)} bytes came")
        self.content = content[: int(length)] if length else content

    def _parse_start(self, start: str) -> None:
        words = start.split(" ", 2)
        if len(words) >= 2 and words[0] == "SIP/2.0" and words[1].isdigit():
            self.type = SIP.SIPMessageType.RESPONSE
            self.code = int(words[1])
            self.phrase = words[2] if len(words) == 3 else ""
            known = {int(status) for status in SIP.SIPStatus}
            if self.code in known:
                self.status = SIP.SIPStatus(self.code)
        elif len(words) == 3 and words[2] == "SIP/2.0":
            self.type = SIP.SIPMessageType.MESSAGE
            self.method, self.request_uri = words[0], words[1]
        else:
            raise SIP.SIPParseError(f"neither request nor status line: {start!r}")

    def _check(self) -> None:
        for name in ("via", "from", "to", "call-id", "cseq"):
            if not self.get(name):
                raise SIP.SIPParseError(f"header {name} is missing")
        number, _, method = self.get("cseq").partition(" ")
        if not number.isdigit() or not method.strip():
            raise SIP.SIPParseError(f"CSeq {self.get('cseq')!r}")
        self.headers["Call-ID"] = self.get("call-id")
        self.headers["CSeq"] = {"check": number, "method": method.strip()}
        if self.is_response:
            self.method = method.strip()
        for name in ("From", "To"):
            raw = self.get(name)
            parsed = NameAddress.parse(raw)
            self.headers[name] = {"raw": raw, "tag": parsed.tag, "address": parsed.uri}
        try:
            Via.parse(self.get_all("via")[0])
        except ValueError as error:
            raise SIP.SIPParseError(str(error)) from error

    def get(self, name: str) -> str:
        """The first value of a header, empty when there is none."""
        lower = name.lower()
        return next((value for key, value in self.fields if key == lower), "")

    def get_all(self, name: str) -> list[str]:
        """All values of a header in order, comma-joined lists taken apart."""
        lower = name.lower()
        values = [value for key, value in self.fields if key == lower]
        if lower not in _LISTS:
            return values
        return [part for value in values for part in split_list(value)]

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.get("call-id")

    @property
    def cseq(self) -> int:
        """The CSeq number."""
        return int(self.headers["CSeq"]["check"])

    @property
    def via(self) -> Via:
        """The topmost Via."""
        return Via.parse(self.get_all("via")[0])

    @property
    def branch(self) -> str:
        """The branch of the topmost Via."""
        return self.via.params.get("branch") or ""

    @property
    def contact(self) -> str:
        """The URI of the first Contact, empty when there is none."""
        values = self.get_all("contact")
        return NameAddress.parse(values[0]).uri if values else ""


def render(start: str, fields: Sequence[tuple[str, str]], content: bytes = b"") -> bytes:
    """A message as it goes on the wire; adds User-Agent and Content-Length."""
    lines = [start, *(f"{name}: {value}" for name, value in fields)]
    lines += [f"User-Agent: {USER_AGENT}", f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content
