"""The grammar of SIP (RFC 3261 §25) as far as an endpoint needs it, over octets that may be hostile.

aiosipua's codecs take what does not parse as something else: a ``<`` inside a quoted name, a ``?`` in a user part, a
parameter of a Contact without brackets as one of its URI. What is read here either is what the standard says or is a
BadMessage; every expression runs in linear time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache

from aiosipua.headers import COMPACT_HEADERS, MULTI_INSTANCE_HEADERS, Address, CaseInsensitiveDict, CSeq, SipUri, Via

from gateway.telephony.errors import BadMessage

MOST_HEADERS = 256
MOST_VIAS = 71
"""One more than the hops that Max-Forwards allows at first (RFC 3261 §8.1.1.6)."""
LARGEST_CSEQ = 2**32 - 1
_REMEMBERED = 256
"""Values kept parsed: the layers read those of one message several times each. Small, for a hostile one may have 16 KB."""

_TOKEN = r"[A-Za-z0-9\-.!%*_+`'~]+"  # noqa: S105 - the standard's word
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ODD = r"\s<>\"\x00-\x1f\x7f\ufffd"
"""What stands in no word unquoted; U+FFFD is what octets become that are no UTF-8."""
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[^\]\s]*\])"

_NAME = re.compile(rf"({_TOKEN})[ \t]*:")
_REQUEST_LINE = re.compile(rf"({_TOKEN}) +([^ \t]+) +SIP/([0-9]+\.[0-9]+) *", re.IGNORECASE)
_STATUS_LINE = re.compile(r"SIP/([0-9]+\.[0-9]+) +(-?[0-9]{1,10})[0-9]*(?: (.*))?", re.IGNORECASE)
_ABSOLUTE_URI = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*):[^{_ODD}]+")
_SIP_URI = re.compile(
    rf"(?P<scheme>sips?):(?:(?P<user>[^@{_ODD}]+)@)?(?P<host>{_HOST})(?::(?P<port>[^;?@]*))?"
    rf"(?P<params>(?:;[^;?@{_ODD}]*)*)(?:\?(?P<headers>[^@{_ODD}]*))?",
    re.IGNORECASE,
)
_VIA = re.compile(
    rf"SIP[ \t]*/[ \t]*(?P<version>[0-9.]+)[ \t]*/[ \t]*(?P<transport>{_TOKEN})[ \t]+(?P<host>{_HOST})"
    r"(?:[ \t]*:[ \t]*(?P<port>[^;\s]*))?[ \t]*(?P<params>;.*)?",
    re.IGNORECASE | re.DOTALL,
)
_PARAM = re.compile(rf"[ \t]*;[ \t]*(?P<name>{_TOKEN})(?P<value>[ \t]*=[ \t]*(?:{_QUOTED}|[^;,{_ODD}]*))?", re.DOTALL)
_NAME_ADDR = re.compile(
    rf"(?:(?P<quoted>{_QUOTED})[ \t]*|(?P<words>[^\",;<>@:\\\x00-\x08\x0a-\x1f\x7f]*))<(?P<uri>[^<>]*)>"
    r"[ \t]*(?P<params>;.*)?",
    re.DOTALL,
)
_ADDR_SPEC = re.compile(rf"(?P<uri>[^,;?{_ODD}]+)[ \t]*(?P<params>;.*)?", re.DOTALL)
_VALUE = re.compile(rf"(?:{_QUOTED}|<[^>]*>|[^,\"<]+)*", re.DOTALL)
_CSEQ = re.compile(rf"([0-9]{{1,64}})[ \t]+({_TOKEN})")
_CALL_ID = re.compile(r"[^\s\x00-\x1f\x7f\ufffd]+")
_TAG = re.compile(r"[^\"]+")

_COMPACT = {
    **COMPACT_HEADERS, "a": "accept-contact", "b": "referred-by", "d": "request-disposition", "j": "reject-contact",
    "o": "event", "r": "refer-to", "u": "allow-events", "x": "session-expires", "y": "identity",
}  # fmt: skip
"""The compact forms that the codec knows and those registered since (RFC 3265, 3515, 3841, 3892, 4028, 8224)."""


def read_request_line(line: str) -> tuple[str, str, str]:
    """Method, Request-URI and version. More than one space between them is forgiven (RFC 4475 §3.1.2.9, §3.1.2.10)."""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadMessage(f"SIP message does not parse: Malformed request line {_short(line)}")
    return found[1], found[2], found[3]


def read_status_line(line: str) -> tuple[int, str, str]:
    """Status, reason phrase and version."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise BadMessage(f"SIP message does not parse: Malformed status line {_short(line)}")
    return int(found[2]), found[3] or "", found[1]


def read_headers(lines: list[str], *, strict: bool = True) -> CaseInsensitiveDict:
    """The headers in *lines*, folded ones made whole, lists cut apart, compact names spelled out; without *strict*, lines
    that are none are passed over.
    """
    whole: list[list[str]] = []
    for line in lines:
        if line[:1] in (" ", "\t") and whole:
            whole[-1].append(line.strip(" \t"))
        elif line:
            whole.append([line])
    if len(whole) > MOST_HEADERS:
        raise BadMessage(f"SIP message has {len(whole)} header lines, at most {MOST_HEADERS} are read")
    headers = CaseInsensitiveDict()
    for parts in whole:
        line = " ".join(parts)
        found = _NAME.match(line)
        if found is None or "\r" in line:
            if strict:
                raise BadMessage(f"SIP message does not parse: {_short(line)} is no header")
            continue
        name = _COMPACT.get(found[1].lower(), found[1])
        value = line[found.end() :].strip(" \t")
        for each in split_values(value) if name.lower() in MULTI_INSTANCE_HEADERS else (value,):
            headers.append(name, each)
    return headers


def split_values(text: str) -> Iterator[str]:
    """The comma-separated values in *text*, none where it is empty; commas in quotes or in brackets part nothing."""
    at = 0
    while text and at <= len(text):
        found = _VALUE.match(text, at)
        assert found is not None, "the expression matches nothing, too"
        end = found.end()
        if end < len(text) and text[end] != ",":  # a quote or a bracket without its end: the rest is one value
            end = len(text)
        yield text[at:end].strip(" \t")
        at = end + 1


def read_params(text: str) -> dict[str, str | None]:
    """Header parameters, of which *text* is nothing or a list that begins with a semicolon. Names come in lower case."""
    params: dict[str, str | None] = {}
    at, end = 0, len(text.rstrip(" \t"))
    while at < end:
        found = _PARAM.match(text, at)
        if found is None:
            raise BadMessage(f"SIP parameters {_short(text)} do not parse")
        name = found["name"].lower()
        if name in params:
            raise BadMessage(f"SIP parameter {name!r} comes twice")
        params[name] = found["value"].partition("=")[2].strip(" \t") if found["value"] is not None else None
        at = found.end()
    return params


def read_via(text: str, *, strict: bool = True) -> Via:
    """One Via value; its version is read, not judged. Without *strict*, parameters that do not parse are dropped."""
    via = _via(text, strict)
    return Via(via.protocol, via.transport, via.host, via.port, dict(via.params))


@lru_cache(_REMEMBERED)
def _via(text: str, strict: bool) -> Via:
    found = _VIA.fullmatch(text)
    if found is None:
        raise BadMessage(f"SIP Via {_short(text)} does not parse")
    port = _port(found["port"], "SIP Via port")
    params = read_params(found["params"] or "") if strict else _readable_params(found["params"] or "")
    return Via(f"SIP/{found['version']}", found["transport"].upper(), _host(found["host"]), port, params)


def read_cseq(text: str) -> CSeq:
    found = _CSEQ.fullmatch(text)
    if found is None:
        raise BadMessage(f"SIP message does not parse: invalid literal for CSeq: {_short(text)}")
    return CSeq(int(found[1]), found[2])


def read_call_id(text: str) -> str:
    if not _CALL_ID.fullmatch(text):
        raise BadMessage(f"SIP Call-ID {_short(text)} is no word")
    return text


def read_address(text: str) -> Address:
    """A From, To, Contact or route. Without brackets every parameter is the header's (RFC 3261 §20.10)."""
    name, uri, params = _address(text)
    return Address(name, _copied(uri), dict(params))


@lru_cache(_REMEMBERED)
def _address(text: str) -> tuple[str | None, SipUri, tuple[tuple[str, str | None], ...]]:
    name, uri, params_text = _address_parts(text)
    params = read_params(params_text)
    if "tag" in params and not _TAG.fullmatch(params["tag"] or ""):
        raise BadMessage(f"SIP tag {_short(params['tag'] or '')} is no token")
    return name or None, read_uri(uri), tuple(params.items())


def _copied(uri: SipUri) -> SipUri:
    return SipUri(uri.scheme, uri.user, uri.host, uri.port, dict(uri.params), dict(uri.headers))


def canonical_address(text: str) -> str:
    """The address *text*, which :func:`read_address` takes, in brackets and as the codec reads it aright: a name with
    brackets in it, which would mislead it, is left out.
    """
    name, uri, params = _address_parts(text)
    return f'"{name}" <{uri}>{params}' if name and not set(name) & set("<>") else f"<{uri}>{params}"


def address_uri(text: str) -> str:
    """The URI in the address *text*, octet for octet: what goes back to its sender must be what he wrote (RFC 3261 §12.1)."""
    return _address_parts(text)[1]


def rescued_address(text: str) -> str:
    """What can be told of an address that may not parse, its URI and tag, so that an error can be answered."""
    try:
        read_address(text)
        return canonical_address(text)
    except BadMessage:
        start, end = text.rfind("<"), text.rfind(">")
        if not 0 <= start < end:
            raise
        tag = _readable_params(text[end + 1 :]).get("tag")
        rescued = f"<{text[start + 1 : end].strip()}>{f';tag={tag}' if tag else ''}"
        read_address(rescued)
        return rescued


def _address_parts(text: str) -> tuple[str, str, str]:
    """Name, URI and parameters."""
    found = _NAME_ADDR.fullmatch(text)
    if found is not None:
        name = found["quoted"][1:-1] if found["quoted"] else found["words"].strip(" \t")
        return name, found["uri"], found["params"] or ""
    found = _ADDR_SPEC.fullmatch(text)
    if found is None:
        raise BadMessage(f"SIP address {_short(text)} does not parse")
    return "", found["uri"], found["params"] or ""


def read_uri(text: str) -> SipUri:
    """A URI of any scheme; of one that is not SIP's, ``host`` holds all that follows the scheme."""
    scheme = _ABSOLUTE_URI.fullmatch(text)
    if scheme is None:
        raise BadMessage(f"SIP URI {_short(text)} does not parse")
    if scheme[1].lower() not in ("sip", "sips"):
        return SipUri(scheme=scheme[1], host=text[len(scheme[1]) + 1 :])
    return read_sip_uri(text)


def read_sip_uri(text: str) -> SipUri:
    """A sip or sips URI (RFC 3261 §19.1.1)."""
    found = _SIP_URI.fullmatch(text)
    if found is None:
        raise BadMessage(f"{_short(text)} is not a SIP URI (sip:user@host:port)")
    port = _port(found["port"], f"{_short(text)} is not a SIP URI:")
    params: dict[str, str | None] = {}
    for part in found["params"].split(";")[1:]:
        key, equals, value = part.partition("=")
        params.setdefault(key.lower(), value if equals else None)
    headers = dict(part.partition("=")[::2] for part in (found["headers"] or "").split("&") if part)
    return SipUri(found["scheme"].lower(), found["user"], _host(found["host"]), port, params, headers)


def _host(text: str) -> str:
    """A host name, an IPv4 address, or an IPv6 address in brackets. The colon too many that RFC 3261's own grammar allowed
    is forgiven (RFC 5118 §4.10).
    """
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text[1:-1].replace(":::", "::"))
        except ValueError as error:
            raise BadMessage(f"SIP host {_short(text)} is no IPv6 address") from error
    return text


def _port(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= 5
    if not digits or not 0 < int(text) < 65536:
        raise BadMessage(
            f"{where} port {text[:10]} is no port" if where == "SIP Via" else f"{where} {text[:10]} is no port"
        )
    return int(text)


def _readable_params(text: str) -> dict[str, str | None]:
    """The parameters in *text* that stand alone and parse."""
    params: dict[str, str | None] = {}
    for part in text.split(";"):
        try:
            params = {**read_params(f";{part}"), **params} if part.strip() else params
        except BadMessage:
            continue
    return params


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
