"""Dialogs (RFC 3261 §12): who talks to whom, over which route, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

from aiosipua.headers import Address
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.errors import BadMessage
from gateway.telephony.grammar import address_uri, read_address
from gateway.telephony.message import identity, make_request


@dataclass(slots=True)
class Dialog:
    """One side of a dialog. *remote_target* and *route_set* are URIs and Route values as text."""

    call_id: str
    local: Address
    remote: Address
    remote_target: str
    route_set: tuple[str, ...]
    local_seq: int
    remote_seq: int | None

    @property
    def key(self) -> tuple[str, str, str]:
        """Call-ID, local tag, remote tag."""
        return self.call_id, self.local.tag or "", self.remote.tag or ""

    def request(self, method: str, seq: int | None = None) -> SipRequest:
        """The next request in this dialog; an ACK takes the CSeq number *seq* of its INVITE. A strict router in the
        route set is served as RFC 3261 §12.2.1.1 demands.
        """
        if seq is None:
            self.local_seq += 1
            seq = self.local_seq
        routes = list(self.route_set)
        uri = self.remote_target
        if routes and "lr" not in read_address(routes[0]).uri.params:
            uri = address_uri(routes[0])
            routes = [*routes[1:], f"<{self.remote_target}>"]
        request = make_request(method, uri, self.local, self.remote, self.call_id, seq)
        for route in routes:
            request.add_header("Route", route)
        return request

    def accepts(self, request: SipRequest) -> bool:
        """Whether *request* comes in order (RFC 3261 §12.2.2); a lower CSeq is answered 500."""
        seq = identity(request).cseq.seq
        if request.method == "ACK":
            return True
        if self.remote_seq is not None and seq <= self.remote_seq:
            return False
        self.remote_seq = seq
        return True

    @property
    def next_hop(self) -> str:
        """The URI that requests are sent to: the first route, else the remote target."""
        return address_uri(self.route_set[0]) if self.route_set else self.remote_target

    def retarget(self, message: SipRequest | SipResponse) -> None:
        """Take the Contact of a target refresh."""
        contacts = message.get_header_values("Contact")
        if contacts:
            self.remote_target = address_uri(contacts[0])


def server_dialog(invite: SipRequest, local_tag: str) -> Dialog:
    """The dialog that answering *invite* makes (RFC 3261 §12.1.1). Raises BadMessage without a Contact."""
    ids = identity(invite)
    contacts = invite.get_header_values("Contact")
    if not contacts:
        raise BadMessage("INVITE has no Contact")
    ids.to.tag = local_tag
    return Dialog(
        call_id=ids.call_id,
        local=ids.to,
        remote=ids.from_,
        remote_target=address_uri(contacts[0]),
        route_set=tuple(invite.get_header_values("Record-Route")),
        local_seq=0,
        remote_seq=ids.cseq.seq,
    )


def client_dialog(invite: SipRequest, response: SipResponse) -> Dialog:
    """The dialog that *response*, a 2xx or a provisional one with a tag, to our *invite* makes (RFC 3261 §12.1.2).

    Raises BadMessage without a Contact.
    """
    ids = identity(response)
    contacts = response.get_header_values("Contact")
    if not contacts:
        raise BadMessage(f"{response.status_code} to INVITE has no Contact")
    return Dialog(
        call_id=ids.call_id,
        local=ids.from_,
        remote=ids.to,
        remote_target=address_uri(contacts[0]),
        route_set=tuple(reversed(response.get_header_values("Record-Route"))),
        local_seq=identity(invite).cseq.seq,
        remote_seq=None,
    )
