"""SIP messages (RFC 3261 §7) over aiosipua's wire codecs: strict parsing, and requests and responses made right.

Only ``message``, ``headers``, ``header_codec``, ``sdp`` and ``auth`` of aiosipua are used; its transactions, dialogs and
agents lose calls (DESIGN §7).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from aiosipua.headers import Address, CSeq, SipUri, Via, parse_uri, stringify_uri
from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.telephony.errors import BadMessage

BRANCH_COOKIE = "z9hG4bK"
MAXIMUM_OCTETS = 65_535
MAXIMUM_FORWARDS = 70
USER_AGENT = "consent-gateway"
ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, NOTIFY, REGISTER"
REASONS = {
    100: "Trying", 180: "Ringing", 200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized",
    403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    415: "Unsupported Media Type", 420: "Bad Extension", 423: "Interval Too Brief",
    480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 486: "Busy Here",
    487: "Request Terminated", 488: "Not Acceptable Here", 491: "Request Pending", 500: "Server Internal Error",
    503: "Service Unavailable", 603: "Decline",
}  # fmt: skip

HostPort = tuple[str, int]
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


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
    """The message in *data* with every header that RFC 3261 §8.1.1 demands. Raises BadMessage in words."""
    if len(data) > MAXIMUM_OCTETS:
        raise BadMessage(f"SIP message has {len(data)} octets, at most {MAXIMUM_OCTETS} are read")
    if b"\r\n\r\n" not in data and b"\n\n" not in data:
        raise BadMessage("SIP message is truncated: no empty line ends its headers")
    try:
        message = SipMessage.parse(data)
        identity(message)
        declared = message.get_header("Content-Length")
        length = int(declared) if declared is not None else len(message.body)
    except BadMessage:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise BadMessage(f"SIP message does not parse: {error}") from error
    if length < 0 or len(message.body) < length:
        raise BadMessage(f"SIP body has {len(message.body)} octets, Content-Length says {length}")
    if isinstance(message, SipResponse) and not 100 <= message.status_code <= 699:
        raise BadMessage(f"SIP status {message.status_code} is not between 100 and 699")
    return message


def identity(message: SipMessage) -> Identity:
    """The identifying headers of *message*. Raises BadMessage naming what is missing."""
    via, cseq, from_, to, call_id = message.via, message.cseq, message.from_addr, message.to_addr, message.call_id
    if not via:
        raise BadMessage("SIP message has no Via")
    if cseq is None or not call_id or from_ is None or to is None:
        raise BadMessage("SIP message lacks one of CSeq, Call-ID, From, To")
    if isinstance(message, SipRequest) and cseq.method != message.method:
        raise BadMessage(f"SIP CSeq method {cseq.method!r} is not the request's {message.method!r}")
    if not _is_port(via[0].port):
        raise BadMessage(f"SIP Via port {via[0].port} is no port")
    return Identity(via[0], via[0].branch or "", call_id, cseq, from_, to)


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
    to = request.to_addr
    if to is not None and not to.tag and to_tag and status > 100:
        to.tag = to_tag
        response.to_addr = to
    response.set_header("Server", USER_AGENT)
    return response


def make_ack(invite: SipRequest, response: SipResponse) -> SipRequest:
    """The ACK to a non-2xx final response: same branch, Route and Request-URI as the INVITE (RFC 3261 §17.1.1.3)."""
    seq = identity(invite).cseq.seq
    ack = SipRequest(method="ACK", uri=invite.uri)
    ack.via = invite.via[:1]
    for value in invite.get_header_values("Route"):
        ack.add_header("Route", value)
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
    try:
        uri = parse_uri(text)
    except ValueError as error:
        raise BadMessage(f"{text!r} is not a SIP URI: {error}") from error
    host = uri.host.strip("[]")
    if not text.lower().startswith(("sip:", "sips:")) or not host or not _HOST.fullmatch(host):
        raise BadMessage(f"{text!r} is not a SIP URI (sip:user@host:port)")
    if not _is_port(uri.port):
        raise BadMessage(f"{text!r} is not a SIP URI: {uri.port} is no port")
    return uri


def _is_port(port: int | None) -> bool:
    return port is None or 0 < port < 65536


def uri_text(user: str | None, host: str, port: int | None = None) -> str:
    return stringify_uri(SipUri(user=user, host=host, port=port))
