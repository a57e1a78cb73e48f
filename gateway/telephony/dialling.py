"""Calls that we place: redirections followed, hops tried in turn, the answer made a call of (RFC 3261 §13.2, RFC 3263 §4.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiosipua.header_codec import stringify_uri
from aiosipua.headers import Address, SipUri
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.call import Call
from gateway.telephony.crypto import new_crypto
from gateway.telephony.dialog import Dialog
from gateway.telephony.errors import BadMessage, CallFailed, NoCommonCodec, TransportFailed
from gateway.telephony.grammar import read_address
from gateway.telephony.inviting import Answered, Inviting, Refused
from gateway.telephony.message import (
    ALLOW,
    CREDENTIALS,
    SUPPORTED,
    allows,
    bracketed,
    identity,
    make_request,
    new_tag,
    parse_sip_uri,
)
from gateway.telephony.ports import PortPair
from gateway.telephony.sdp import make_offer, read_description
from gateway.telephony.session_timer import MIN_SE, SessionTimer, announce, as_client
from gateway.telephony.transport import Hop

if TYPE_CHECKING:
    from gateway.telephony.agent import UserAgent

MOST_REDIRECTS = 5
FIRST_S = 4.0
"""How long one of several addresses may say nothing at all before the next is tried."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a call is to be placed. With *secure* the media is SRTP or nothing; *first_s* is how long an address may say
    nothing at all, None as long as a transaction lasts.
    """

    call_id: str
    from_user: str
    from_host: str = ""
    credentials: Credentials | None = None
    ring_s: float = 45.0
    first_s: float | None = None
    secure: bool = False
    may_redirect: Callable[[str], bool] = lambda _: True
    """Whether a redirection to this user, who is another than the one called, is followed (toll fraud)."""


async def dial(agent: UserAgent, target: str, wish: Wish) -> Call:
    """Call the SIP URI *target*; redirections are followed, five at most, our password goes to its own host alone.

    Raises CallFailed with the status that ended the attempt (487 when nobody answered).
    """
    first = parse_sip_uri(target)
    targets, tried = deque([first]), set[str]()
    refused: Refused | None = None
    while targets and len(tried) <= MOST_REDIRECTS:
        uri = targets.popleft()
        if stringify_uri(uri) in tried:
            continue
        tried.add(stringify_uri(uri))
        try:
            outcome = await _dial_hops(agent, uri, wish, wish.credentials if uri.host == first.host else None)
        except CallFailed as failed:
            if failed.rang or not targets:
                raise
            continue
        if isinstance(outcome, Call):
            return outcome
        refused = outcome
        if 300 <= refused.response.status_code < 400:
            targets.extend(
                contact
                for contact in _contacts(refused.response)
                if contact.user == first.user or wish.may_redirect(contact.user or "")
            )
    assert refused is not None
    response = refused.response
    wait = (response.get_header("Retry-After") or "").split(";")[0].split("(")[0].strip()
    raise CallFailed(
        response.status_code, response.reason_phrase, rang=refused.rang,
        retry_after_s=float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else None,
    )  # fmt: skip


def end_branch(agent: UserAgent, dialog: Dialog, invite_seq: int) -> None:
    """Acknowledge a 2xx that nobody wants, and hang up at once (RFC 3261 §9.1, §13.2.2.4)."""

    async def end() -> None:
        hop = await agent.hop_of(dialog)
        agent.endpoint.send_ack(dialog.request("ACK", invite_seq), hop)
        agent.outgoing.send(dialog.request("BYE"), hop, lambda _: None, dialog=dialog)

    agent.tasks.spawn(end())


async def _dial_hops(agent: UserAgent, uri: SipUri, wish: Wish, credentials: Credentials | None) -> Call | Refused:
    """The call, or the refusal of the last hop that spoke. Raises CallFailed when none did."""
    hops = await agent.locate(uri)
    for number, hop in enumerate(hops, 1):
        last = number == len(hops)
        try:
            ports = agent.engine.reserve(agent.host(hop.host))
        except TransportFailed as error:  # no way to it, or no port: the next hop may be of another kind
            if last:
                raise CallFailed(503, str(error)) from error
            continue
        try:
            outcome = await _invite(
                agent, uri, hop, ports, wish, credentials, wish.first_s if last else wish.first_s or FIRST_S
            )
        except BaseException as error:
            agent.engine.release(ports)
            if isinstance(error, CallFailed) and error.status == 408 and not last:
                continue
            raise
        if isinstance(outcome, Call):
            return outcome
        agent.engine.release(ports)
        if outcome.response.status_code != 503 or outcome.rang or last:
            return outcome
    raise CallFailed(408, f"no answer from {uri.host}")


async def _invite(
    agent: UserAgent, uri: SipUri, hop: Hop, ports: PortPair, wish: Wish, credentials: Credentials | None,
    first_s: float | None,
) -> Call | Refused:  # fmt: skip
    host = agent.host(hop.host)
    crypto = new_crypto() if wish.secure else None
    contact = agent.contact(wish.from_user, hop)
    invite = _make_invite(uri, wish, host, contact)
    agent.note(invite.call_id or "", wish.call_id)
    if agent.session_s:
        announce(invite, SessionTimer(agent.session_s, "us"), requesting=True)
        invite.set_header("Min-SE", str(MIN_SE))
    invite.body = make_offer((host, ports.number), 1, codecs=agent.codecs, crypto=crypto)
    auth = ClientAuth(credentials) if credentials is not None else None

    def within(dialog: Dialog, request: SipRequest) -> None:
        agent.tasks.spawn(_send_within(agent, dialog, request, hop, auth))

    inviting = Inviting(agent.endpoint, hop, auth, within, lambda dialog, seq: end_branch(agent, dialog, seq))
    answered = await inviting.run(invite, wish.ring_s, first_s)
    if isinstance(answered, Refused):
        return answered
    try:
        ack = _make_ack(answered)
        terms = read_description(answered.body, agent.codecs, secure=wish.secure, answer=True)
        dialog_hop = await agent.hop_of(answered.dialog, hop)
        stream = agent.open(ports, terms, wish.call_id, crypto)
    except BaseException as error:
        end_branch(agent, answered.dialog, identity(answered.invite).cseq.seq)
        if isinstance(error, BadMessage | NoCommonCodec):
            raise CallFailed(488, str(error), rang=True) from error
        if isinstance(error, CallFailed):
            error.rang = True  # somebody has answered: nobody calls him again by another way
        raise
    call = Call(
        call_id=wish.call_id, direction="outbound", number=uri.user or "", dialog=answered.dialog, hop=dialog_hop,
        endpoint=agent.endpoint, outgoing=agent.outgoing, engine=agent.engine, stream=stream, contact=contact,
        forget=agent.forget, locate=agent.hop_of, media_host=host, auth=auth, peer_allows=allows(answered.response),
    )  # fmt: skip
    agent.add(call)
    inviting.on_2xx_again = call.on_2xx_again
    call.acknowledge(ack)
    call.keep_alive(as_client(answered.response, agent.session_s))
    return call


def _make_invite(uri: SipUri, wish: Wish, host: str, contact: str) -> SipRequest:
    from_ = Address(uri=SipUri(user=wish.from_user, host=wish.from_host or bracketed(host)), params={"tag": new_tag()})
    invite = make_request("INVITE", stringify_uri(uri), from_, Address(uri=uri), new_tag(), 1)
    for name, value in (
        ("Contact", contact), ("Allow", ALLOW), ("Supported", SUPPORTED), ("Content-Type", "application/sdp"),
    ):  # fmt: skip
        invite.set_header(name, value)
    return invite


def _make_ack(answered: Answered) -> SipRequest:
    """The ACK to the 2xx, with the credentials of its INVITE (RFC 3261 §13.2.2.4, §22.1)."""
    ack = answered.dialog.request("ACK", identity(answered.invite).cseq.seq)
    for name in CREDENTIALS:
        for value in answered.invite.get_header_values(name):
            ack.add_header(name, value)
    return ack


async def _send_within(
    agent: UserAgent, dialog: Dialog, request: SipRequest, hop: Hop, auth: ClientAuth | None
) -> None:
    """Send *request* in a dialog that is no call yet, to where its far end is."""
    agent.outgoing.send(request, await agent.hop_of(dialog, hop), lambda _: None, auth=auth, dialog=dialog)


def _contacts(response: SipResponse) -> list[SipUri]:
    """The targets of a redirection, the likeliest first (RFC 3261 §8.1.3.4); only ones that we can call."""
    addresses: list[Address] = []
    for value in response.get_header_values("Contact"):
        with suppress(BadMessage):
            addresses.append(read_address(value))
    addresses.sort(key=lambda address: -_quality(address.params.get("q")))
    return [a.uri for a in addresses if a.uri.scheme.lower() in ("sip", "sips") and a.uri.host]


def _quality(text: str | None) -> float:
    try:
        return float(text or 1.0)
    except ValueError:
        return 0.0
