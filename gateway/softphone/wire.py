"""SIP messages the endpoint builds from other messages: ACK, CANCEL and responses."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from pyVoIP import SIP

from gateway.softphone.message import Message, NameAddress, Uri, render
from gateway.softphone.transaction import Address

ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE"
PHRASES = {
    100: "Trying",
    180: "Ringing",
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    500: "Server Internal Error",
    603: "Decline",
}


class SipError(RuntimeError):
    """A request had no success; ``code`` is the SIP code, 408 when nothing came."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def resolve(uri: Uri) -> Address:
    """The IPv4 address and port of a URI (no SRV look-up).

    Raises:
        SipError: the host has no address.

    """
    try:
        found = socket.getaddrinfo(uri.host, uri.port or 5060, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        raise SipError(503, f"cannot resolve {uri.host}: {error}") from error
    host, port = found[0][4][0], found[0][4][1]
    return str(host), int(port)


def ack_text(invite: Message, response: Message, new_via: str) -> str:
    """The ACK for a final response to our INVITE.

    To comes with the tag of the response, CSeq keeps the number. For a 2xx the
    request URI is the remote target and the Via is ``new_via`` (RFC 3261 section
    13.2.2.4); otherwise URI, Via and Route are those of the INVITE (17.1.1.3).
    """
    uri, via, routes = invite.request_uri, invite.via.text, invite.get_all("route")
    if response.code < 300:
        uri, via = response.contact or uri, new_via
        routes = list(reversed(response.get_all("record-route")))
    fields = [
        ("Via", via),
        *(("Route", route) for route in routes),
        ("Max-Forwards", "70"),
        ("From", invite.get("from")),
        ("To", response.get("to")),
        ("Call-ID", invite.call_id),
        ("CSeq", f"{invite.cseq} ACK"),
    ]
    if response.code < 300:
        # The credentials of the INVITE go with its ACK (section 22.1).
        for name in ("Authorization", "Proxy-Authorization"):
            fields += [(name, value) for value in invite.get_all(name)]
    return render(f"ACK {uri} SIP/2.0", fields).decode()


def cancel_request(invite: Message) -> Message:
    """The CANCEL of a pending INVITE: same URI, Via, tags and number (section 9.1)."""
    fields = [
        ("Via", invite.via.text),
        *(("Route", route) for route in invite.get_all("route")),
        ("Max-Forwards", "70"),
        ("From", invite.get("from")),
        ("To", invite.get("to")),
        ("Call-ID", invite.call_id),
        ("CSeq", f"{invite.cseq} CANCEL"),
    ]
    return Message(render(f"CANCEL {invite.request_uri} SIP/2.0", fields))


def response_bytes(
    request: Message, code: int, tag: str, extra: Sequence[tuple[str, str]], content: bytes
) -> tuple[bytes, Address]:
    """A response and where it goes: every Via in order, address as RFC 3581 says.

    ``tag`` completes To if the request had none there; 100 gets no tag (8.2.6.2).
    """
    vias = request.get_all("via")
    host, port = request.source
    top = request.via
    if "rport" in top.params:
        parts = [part for part in vias[0].split(";") if part.strip().split("=")[0] != "rport"]
        # With rport, received is due even if the address is the same (section 4).
        vias[0] = f"{';'.join(parts)};received={host};rport={port}"
    else:
        port = top.port
        if top.host != host:
            vias[0] += f";received={host}"
    to = request.get("to")
    if code > 100 and not NameAddress.parse(to).tag:
        to += f";tag={tag}"
    fields = [
        *(("Via", via) for via in vias),
        *(("Record-Route", route) for route in request.get_all("record-route")),
        ("From", request.get("from")),
        ("To", to),
        ("Call-ID", request.call_id),
        ("CSeq", request.get("cseq")),
    ]
    if code > 100:
        fields.append(("Allow", ALLOW))
    start = f"SIP/2.0 {code} {PHRASES.get(code) or SIP.SIPStatus(code).phrase}"
    return render(start, [*fields, *extra], content), (host, port)
