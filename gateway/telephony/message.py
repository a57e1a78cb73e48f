"""SIP messages (RFC 3261 §7) over aiosipua's wire codecs: strict parsing, and requests and responses made right.

Only ``message``, ``headers``, ``header_codec``, ``sdp`` and ``auth`` of aiosipua are used; its transactions, dialogs and
agents lose calls (DESIGN §7).
"""

from __future__ import annotations

import re
import secrets
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from hashlib import sha256

from aiosipua.headers import Address, CaseInsensitiveDict, CSeq, SipUri, Via, stringify_uri, stringify_via
from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.telephony.errors import BadMessage
from gateway.telephony.grammar import (
    LARGEST_CSEQ,
    MOST_VIAS,
    canonical_address,
    read_address,
    read_call_id,
    read_cseq,
    read_headers,
    read_request_line,
    read_sip_uri,
    read_status_line,
    read_uri,
    read_via,
    rescued_address,
)

BRANCH_COOKIE = "z9hG4bK"
MAXIMUM_OCTETS = 65_535
MAXIMUM_HEAD_OCTETS = 16_384
MAXIMUM_FORWARDS = 70
USER_AGENT = "consent-gateway"
ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, NOTIFY, PRACK, UPDATE, REGISTER"
SUPPORTED = "100rel, timer"
CREDENTIALS = ("Authorization", "Proxy-Authorization")
"""What an ACK repeats of its INVITE (RFC 3261 §22.1)."""

REASONS = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
    199: "Early Dialog Terminated", 200: "OK", 202: "Accepted", 204: "No Notification",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily", 305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
    410: "Gone", 412: "Conditional Request Failed", 413: "Request Entity Too Large", 414: "Request-URI Too Long",
    415: "Unsupported Media Type", 416: "Unsupported URI Scheme", 417: "Unknown Resource-Priority",
    420: "Bad Extension", 421: "Extension Required", 422: "Session Interval Too Small", 423: "Interval Too Brief",
    424: "Bad Location Information", 428: "Use Identity Header", 429: "Provide Referrer Identity",
    430: "Flow Failed", 433: "Anonymity Disallowed", 436: "Bad Identity Info", 437: "Unsupported Credential",
    438: "Invalid Identity Header", 439: "First Hop Lacks Outbound Support", 440: "Max-Breadth Exceeded",
    469: "Bad Info Package", 470: "Consent Needed",
    480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops",
    484: "Address Incomplete", 485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated",
    488: "Not Acceptable Here", 489: "Bad Event", 491: "Request Pending", 493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Server Time-out", 505: "Version Not Supported", 513: "Message Too Large", 555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable", 607: "Unwanted",
    608: "Rejected",
}  # fmt: skip

HostPort = tuple[str, int]
_EMPTY_LINE = re.compile(rb"\r\n\r\n|\n\n")
_LENGTH = re.compile(r"-?[0-9]{1,10}")
_SINGLE = ("Call-ID", "CSeq", "From", "To", "Max-Forwards", "Content-Length", "Content-Type", "Expires")


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a message: parsed once, present for certain."""

    via: Via
    branch: str
    call_id: str
    cseq: CSeq
    from_: Address
    to: Address


def parse_message(data: bytes) -> SipRequest | SipResponse:
    """The message in *data* with every header that RFC 3261 §8.1.1 demands, its Via, From, To, Contact and Record-Route in
    canonical form. Raises BadMessage in words, with the status that answers it.
    """
    start, lines, body = _taken_apart(data)
    message: SipRequest | SipResponse
    if start[:4].upper() == "SIP/":
        status, reason, version = read_status_line(start)
        if not 100 <= status <= 699:
            raise BadMessage(f"SIP status {status} is not between 100 and 699")
        message = SipResponse(read_headers(lines), body, status, reason)
    else:
        method, uri, version = read_request_line(start)
        message = SipRequest(read_headers(lines), body, method, uri)
    if version != "2.0":
        raise BadMessage(f"SIP version {version[:10]} is not 2.0", 505)
    _check(message)
    return message


def answerable(data: bytes) -> SipRequest | None:
    """The request in *data*, which does not parse, as far as an error can be answered to it: with the headers that the answer
    copies, mended where that can be. None when it is no request, or an ACK, or does not tell who sent it what.
    """
    try:
        start, lines, _ = _taken_apart(data)
        method, _, uri = start.partition(" ")
        if method == "ACK" or not re.fullmatch(r"[A-Za-z0-9\-.!%*_+`'~]+", method):
            return None
        headers = read_headers(lines, strict=False)
        request = SipRequest(method=method, uri=uri.strip())
        for number, value in enumerate(headers.get("Via")[:MOST_VIAS]):
            with suppress(BadMessage) if number else nullcontext():
                request.add_header("Via", stringify_via(read_via(value, strict=False)))
        for name in ("From", "To"):
            request.set_header(name, rescued_address(headers.get_first(name) or ""))
        for name in ("Call-ID", "CSeq"):
            request.set_header(name, headers.get_first(name) or "")
        identity(request)
    except BadMessage:
        return None
    return request


def identity(message: SipMessage) -> Identity:
    """The identifying headers of *message*. Raises BadMessage naming what is missing.

    The branch of a request that has none of RFC 3261's is made of what tells transactions apart in RFC 2543
    (RFC 3261 §17.2.3).
    """
    first = message.headers.get_first
    via_text, cseq_text, call_id, from_text, to_text = (
        first("Via"), first("CSeq"), first("Call-ID"), first("From"), first("To"),
    )  # fmt: skip
    if not via_text:
        raise BadMessage("SIP message has no Via")
    if not cseq_text or not call_id or not from_text or not to_text:
        raise BadMessage("SIP message lacks one of CSeq, Call-ID, From, To")
    via, cseq = read_via(via_text), read_cseq(cseq_text)
    ids = Identity(via, via.branch or "", read_call_id(call_id), cseq, read_address(from_text), read_address(to_text))
    unmarked = not ids.branch.startswith(BRANCH_COOKIE) or ids.branch == BRANCH_COOKIE
    if unmarked and isinstance(message, SipRequest):
        parts = (message.uri, ids.from_.tag or "", call_id, str(cseq.seq), via_text)
        return replace(ids, branch=f"{BRANCH_COOKIE}-2543-{sha256(chr(10).join(parts).encode()).hexdigest()[:32]}")
    return ids


def _taken_apart(data: bytes) -> tuple[str, list[str], bytes]:
    """Start line, header lines and body. Line ends are CRLF; a bare LF is forgiven, and so are line ends before the start."""
    if len(data) > MAXIMUM_OCTETS:
        raise BadMessage(f"SIP message has {len(data)} octets, at most {MAXIMUM_OCTETS} are read", 513)
    data = data.lstrip(b"\r\n")
    end = _EMPTY_LINE.search(data, 0, MAXIMUM_HEAD_OCTETS)
    if end is None and len(data) > MAXIMUM_HEAD_OCTETS:
        raise BadMessage(f"SIP headers take more than {MAXIMUM_HEAD_OCTETS} octets", 513)
    if end is None:
        raise BadMessage("SIP message is truncated: no empty line ends its headers")
    lines = [line.removesuffix("\r") for line in data[: end.start()].decode("utf-8", "replace").split("\n")]
    return lines[0], lines[1:], data[end.end() :]


def _check(message: SipRequest | SipResponse) -> None:
    """Judge the headers of a fresh *message* and put those in canonical form that are read again. Raises BadMessage."""
    headers = message.headers
    for name in _SINGLE:
        if len(headers.get(name)) > 1:
            raise BadMessage(f"SIP header {name} comes {len(headers.get(name))} times")
    ids = identity(message)
    if ids.cseq.seq > LARGEST_CSEQ:
        raise BadMessage(f"SIP CSeq {str(ids.cseq.seq)[:20]} is over {LARGEST_CSEQ}")
    vias = headers.get("Via")
    if len(vias) > MOST_VIAS:
        raise BadMessage(f"SIP message has {len(vias)} Via, at most {MOST_VIAS} are read")
    _replace_all(headers, "Via", [stringify_via(read_via(value)) for value in vias])
    for name in ("From", "To"):
        headers.set_single(name, canonical_address(headers.get(name)[0]))
    if isinstance(message, SipRequest):
        if ids.cseq.method != message.method:
            raise BadMessage(f"SIP CSeq method {ids.cseq.method!r} is not the request's {message.method!r}")
        _check_request(message)
    else:
        for name in ("Contact", "Record-Route"):
            with suppress(BadMessage):
                if headers.get(name):
                    _replace_all(headers, name, [canonical_address(value) for value in headers.get(name)])
    message.body = _cut(message.body, headers.get_first("Content-Length"))


def _check_request(request: SipRequest) -> None:
    """RFC 3261 §8.2.2.1 for the Request-URI, §8.1.1.8 and §12.1.1 for the Contact and the route of a dialog to be."""
    uri = read_uri(request.uri)
    if uri.scheme not in ("sip", "sips"):
        raise BadMessage(f"SIP Request-URI has the scheme {uri.scheme[:20]!r}", 416)
    if uri.headers:
        raise BadMessage("SIP Request-URI has headers")
    contacts = request.headers.get("Contact")
    if request.method == "REGISTER" and contacts == ["*"]:
        return
    refreshes = request.method in ("INVITE", "UPDATE")
    if refreshes and len(contacts) > 1:
        raise BadMessage(f"SIP {request.method} has {len(contacts)} Contact, not one")
    for name, values in (("Contact", contacts), ("Record-Route", request.headers.get("Record-Route"))):
        addresses = [read_address(value) for value in values]
        if refreshes and any(address.uri.scheme not in ("sip", "sips") for address in addresses):
            raise BadMessage(f"SIP {request.method} has a {name} that is no SIP URI")
        if addresses:
            _replace_all(request.headers, name, [canonical_address(value) for value in values])


def _replace_all(headers: CaseInsensitiveDict, name: str, values: list[str]) -> None:
    """Give the header *name* its *values*, one or more, in its old place."""
    headers.set_single(name, values[0])
    for value in values[1:]:
        headers.append(name, value)


def _cut(body: bytes, declared: str | None) -> bytes:
    """*body* as long as Content-Length says: what follows it in a datagram is noise (RFC 3261 §18.3)."""
    if declared is None:
        return body
    if not _LENGTH.fullmatch(declared):
        raise BadMessage(f"SIP message does not parse: invalid literal for Content-Length: {declared[:20]!r}")
    length = int(declared)
    if not 0 <= length <= len(body):
        raise BadMessage(f"SIP body has {len(body)} octets, Content-Length says {length}")
    return body[:length]


def new_branch() -> str:
    return BRANCH_COOKIE + secrets.token_hex(10)


def new_tag() -> str:
    return secrets.token_hex(8)


def make_request(method: str, uri: str, from_: Address, to: Address, call_id: str, seq: int) -> SipRequest:
    """A request without Via: the endpoint that sends it adds its own."""
    request = SipRequest(method=method, uri=uri)
    request.set_header("Max-Forwards", str(MAXIMUM_FORWARDS))
    request.from_addr = from_
    request.to_addr = to
    request.call_id = call_id
    request.cseq = CSeq(seq, method)
    request.set_header("User-Agent", USER_AGENT)
    return request


def make_response(request: SipRequest, status: int, *, to_tag: str = "", reason: str = "") -> SipResponse:
    """A response with the headers that RFC 3261 §8.2.6 copies: every Via in order, From, To, Call-ID, CSeq."""
    response = SipResponse(status_code=status, reason_phrase=reason or REASONS.get(status, "Unknown"))
    for name in ("Via", "Record-Route", "From", "To", "Call-ID", "CSeq"):
        if name != "Record-Route" or status < 300:
            for value in request.get_header_values(name):
                response.add_header(name, value)
    to = request.get_header("To")
    if to and to_tag and status > 100 and not read_address(to).tag:
        response.set_header("To", f"{to};tag={to_tag}")
    response.set_header("Server", USER_AGENT)
    return response


def make_ack(invite: SipRequest, response: SipResponse) -> SipRequest:
    """The ACK to a non-2xx final response: same branch, Route and Request-URI as the INVITE (RFC 3261 §17.1.1.3)."""
    seq = identity(invite).cseq.seq
    ack = SipRequest(method="ACK", uri=invite.uri)
    ack.via = invite.via[:1]
    for name in ("Route", *CREDENTIALS):
        for value in invite.get_header_values(name):
            ack.add_header(name, value)
    ack.set_header("Max-Forwards", str(MAXIMUM_FORWARDS))
    ack.set_header("From", invite.get_header("From") or "")
    ack.set_header("To", response.get_header("To") or "")
    ack.set_header("Call-ID", invite.call_id or "")
    ack.cseq = CSeq(seq, "ACK")
    return ack


def make_cancel(invite: SipRequest) -> SipRequest:
    """The CANCEL of *invite* (RFC 3261 §9.1): identical Request-URI, Call-ID, To, From, Route, top Via and CSeq number."""
    cancel = SipRequest(method="CANCEL", uri=invite.uri)
    cancel.via = invite.via[:1]
    for name in ("Route", "From", "To", "Call-ID"):
        for value in invite.get_header_values(name):
            cancel.add_header(name, value)
    cancel.set_header("Max-Forwards", str(MAXIMUM_FORWARDS))
    cancel.cseq = CSeq(identity(invite).cseq.seq, "CANCEL")
    return cancel


def parse_sip_uri(text: str) -> SipUri:
    """The URI in *text*. Raises BadMessage unless it is a sip URI with a host."""
    return read_sip_uri(text)


def uri_text(user: str | None, host: str, port: int | None = None, transport: str = "udp") -> str:
    """A SIP URI; UDP is not named in it."""
    params: dict[str, str | None] = {} if transport == "udp" else {"transport": transport}
    return stringify_uri(SipUri(user=user, host=bracketed(host), port=port, params=params))


def bracketed(host: str) -> str:
    """*host* as it stands in a URI or a Via: an IPv6 address in brackets (RFC 3261 §25.1)."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def allows(message: SipRequest | SipResponse) -> frozenset[str]:
    """The methods in Allow."""
    return frozenset(m.strip().upper() for value in message.get_header_values("Allow") for m in value.split(",") if m)
