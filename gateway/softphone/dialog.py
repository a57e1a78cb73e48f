"""The dialog of a call: everything a request inside it needs (RFC 3261 section 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.softphone.message import Message, NameAddress, Uri


@dataclass(frozen=True)
class Request:
    """A request before it gets Via, CSeq and (perhaps) Authorization."""

    method: str
    uri: str
    sender: str
    to: str
    call_id: str
    routes: Sequence[str] = ()
    extra: Sequence[tuple[str, str]] = ()
    content: bytes = b""

    def next_hop(self) -> Uri:
        """Where it is sent: the first Route, else the request URI (section 8.1.2).

        Raises:
            ValueError: that is no sip: URI.

        """
        return Uri.parse(NameAddress.parse(self.routes[0]).uri if self.routes else self.uri)


@dataclass
class Dialog:
    """Both ends of an established dialog, as we see them; tags are in the addresses."""

    call_id: str
    local: str
    remote: str
    target: str
    routes: list[str] = field(default_factory=list)
    cseq: int = 0
    remote_cseq: int = -1

    @staticmethod
    def of_caller(invite: Message, response: Message) -> Dialog:
        """The caller's dialog, from the 2xx (section 12.1.2)."""
        return Dialog(
            call_id=invite.call_id,
            local=invite.get("from"),
            remote=response.get("to"),
            target=response.contact or invite.request_uri,
            routes=list(reversed(response.get_all("record-route"))),
            cseq=invite.cseq,
        )

    @staticmethod
    def of_callee(invite: Message, tag: str) -> Dialog:
        """The callee's dialog, from the INVITE (section 12.1.1)."""
        return Dialog(
            call_id=invite.call_id,
            local=f"{invite.get('to')};tag={tag}",
            remote=invite.get("from"),
            target=invite.contact or NameAddress.parse(invite.get("from")).uri,
            routes=invite.get_all("record-route"),
            remote_cseq=invite.cseq,
        )

    def request(self, method: str) -> Request:
        """A request inside this dialog (section 12.2.1.1; routes are loose routers)."""
        return Request(method, self.target, self.local, self.remote, self.call_id, self.routes)

    def matches(self, message: Message) -> bool:
        """Whether a request from the far end belongs here: both tags (section 12.2.2)."""
        return (
            NameAddress.parse(message.get("from")).tag == NameAddress.parse(self.remote).tag
            and NameAddress.parse(message.get("to")).tag == NameAddress.parse(self.local).tag
        )
