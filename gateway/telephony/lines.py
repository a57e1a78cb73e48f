"""The lines out: trunks by IP with one or more peers, and registrations to a PBX with digest credentials."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import SystemRandom
from typing import NoReturn

import structlog
from aiosipua.header_codec import parse_address
from aiosipua.headers import Address
from aiosipua.message import SipResponse

from gateway.telephony.agent import UserAgent
from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.errors import CallFailed, TelephonyError
from gateway.telephony.message import parse_sip_uri, uri_text
from gateway.telephony.routing import DOWN_STATUSES, Peer, Route, fails_over

log = structlog.get_logger(__name__)
REGISTER_S = 300
FIRST_S = 4.0
"""How long a peer may say nothing at all before the next one is tried."""

ADDRESSES_S = 60.0
"""How often the addresses of a line that is known by name are looked up again."""

_SECONDS = re.compile(r"[1-9][0-9]{0,8}")
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 120.0


@dataclass(eq=False)
class Line:
    """*from_user* is the number shown to the callee, *callers* another one for calls by that dialplan; *dial* makes the user
    part from ``{number}`` or ``{digits}``. With *srtp* the media is encrypted or there is no call.
    """

    name: str
    peers: Sequence[Peer]
    from_user: str = "gateway"
    from_host: str = ""
    dial: str = "{number}"
    credentials: Credentials | None = None
    register: bool = False
    ring_s: float = 45.0
    srtp: bool = False
    most_calls: int | None = None
    calls_per_second: float | None = None
    keepalive_s: float = 0.0
    callers: dict[str, str] = field(default_factory=dict)
    route: Route = field(init=False)
    addresses: set[str] = field(default_factory=set, init=False)
    """Where its peers' calls come from: trusted by IP."""

    _known: dict[Peer, set[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.route = Route(self.peers, self.most_calls, self.calls_per_second, time.monotonic, SystemRandom())

    def uri(self, number: str, peer: Peer | None = None) -> str:
        """The SIP URI that reaches *number* (E.164) over *peer*, the first one unless given."""
        peer = peer or self.peers[0]
        user = self.dial.format(number=number, digits=number.lstrip("+"))
        return uri_text(user, peer.host, peer.port or None, peer.transport)

    async def call(
        self, agent: UserAgent, number: str, call_id: str, *, dialplan: str = "",
        allows: Callable[[str], bool] = lambda _: False,
    ) -> Call:  # fmt: skip
        """Call *number* over the first peer that takes the call; a redirection to another number is followed where *allows*
        says so. Raises CallFailed with what the last peer said.
        """
        refusal = self.route.may_call()
        if refusal is not None:
            raise CallFailed(503, f"line {self.name}: {refusal}")
        self.route.began()
        began = time.monotonic()
        try:
            call = await self._call(agent, number, call_id, self.callers.get(dialplan, self.from_user), allows)
        except BaseException as error:
            self.route.ended()
            if isinstance(error, CallFailed):
                agent.gave_up(call_id, error, began)
            raise
        call.ended.add_done_callback(lambda _: self.route.ended())
        return call

    async def call_uri(self, agent: UserAgent, target: str, call_id: str, *, dialplan: str = "") -> Call:
        """Call the SIP URI *target* as this line, past its peers."""
        began = time.monotonic()
        try:
            return await agent.dial(
                target, call_id, from_user=self.callers.get(dialplan, self.from_user), from_host=self.from_host,
                credentials=self.credentials, ring_s=self.ring_s, secure=self.srtp, may_redirect=lambda _: False,
            )  # fmt: skip
        except CallFailed as failed:
            agent.gave_up(call_id, failed, began)
            raise

    async def _call(
        self, agent: UserAgent, number: str, call_id: str, caller: str, allows: Callable[[str], bool]
    ) -> Call:
        peers = self.route.order()
        for peer in peers:
            last = peer is peers[-1]
            try:
                call = await agent.dial(
                    self.uri(number, peer), call_id, from_user=caller, from_host=self.from_host,
                    credentials=self.credentials, ring_s=self.ring_s, first_s=None if last else FIRST_S, secure=self.srtp,
                    may_redirect=allows,
                )  # fmt: skip
            except CallFailed as failed:
                self._note(peer, failed)
                if last or not fails_over(failed.status, rang=failed.rang):
                    raise
                log.warning("line.failover", line=self.name, peer=str(peer), error=str(failed))
            else:
                self.route.up(peer)
                return call
        raise AssertionError("a line has at least one peer")

    def _note(self, peer: Peer, failed: CallFailed) -> None:
        if failed.status not in DOWN_STATUSES:
            self.route.up(peer)
        elif failed.retry_after_s is not None:
            self.route.down(peer, time.monotonic() + failed.retry_after_s)
        elif not failed.rang:
            self.route.failed(peer)

    async def watch(self, agent: UserAgent) -> NoReturn:
        """Know the peers' addresses, and by OPTIONS whether they are up, until cancelled."""
        looked_up = -ADDRESSES_S
        while True:
            try:
                if time.monotonic() - looked_up >= ADDRESSES_S:
                    looked_up = time.monotonic()
                    await self.look_up(agent)
                if self.keepalive_s:
                    await asyncio.gather(*(self._ping(agent, peer) for peer in self.peers))
            except Exception:  # whatever it was: a line must not go unwatched from then on
                log.exception("line.unwatched", line=self.name)
            await asyncio.sleep(self.keepalive_s or ADDRESSES_S)

    async def look_up(self, agent: UserAgent) -> None:
        """Learn the addresses of the peers; one that cannot be found just now keeps those that it had."""
        for peer in self.peers:
            try:
                hops = await agent.locate(parse_sip_uri(uri_text(None, peer.host, peer.port or None, peer.transport)))
            except TelephonyError as error:
                log.warning("line.no_address", line=self.name, peer=str(peer), error=str(error))
                continue
            self._known[peer] = {hop.host for hop in hops}
        self.addresses = set().union(*self._known.values())

    async def _ping(self, agent: UserAgent, peer: Peer) -> None:
        was_up = self.route.is_up(peer)
        try:
            target = uri_text(None, peer.host, peer.port or None, peer.transport)
            response = await agent.request("OPTIONS", target, from_user=self.from_user, from_host=self.from_host)
        except TelephonyError as error:
            self.route.failed(peer)
            if was_up:
                log.warning("line.down", line=self.name, peer=str(peer), error=str(error))
            return
        if response.status_code in DOWN_STATUSES:
            self.route.failed(peer)
        else:
            self.route.up(peer)
        if self.route.is_up(peer) != was_up:
            log.warning(
                "line.up" if not was_up else "line.down", line=self.name, peer=str(peer), status=response.status_code
            )


async def keep_registered(agent: UserAgent, line: Line) -> NoReturn:
    """Keep *line* registered until cancelled: refresh at four fifths of the granted time, back off on failure."""
    assert line.credentials is not None, "the settings let no registration without credentials pass"
    peer = line.peers[0]
    registrar = uri_text(None, peer.host, peer.port or None, peer.transport)
    address = uri_text(line.credentials.username, line.from_host or peer.host)
    retry, failures, expires = FIRST_RETRY_S, 0, REGISTER_S
    while True:
        try:
            hops = await agent.locate(parse_sip_uri(registrar))
            hop = hops[failures % len(hops)]
            contact = agent.contact(line.credentials.username, hop)
            response = await agent.request(
                "REGISTER", registrar, from_user=line.credentials.username, from_host=line.from_host or peer.host,
                to=address, credentials=line.credentials, hop=hop,
                headers={
                    "Contact": contact,
                    "Expires": str(expires),
                },
            )  # fmt: skip
        except TelephonyError as error:
            log.warning("line.unregistered", line=line.name, error=str(error), retry_s=retry)
        except Exception:  # whatever it was: a line must not stay unregistered from then on
            log.exception("line.unregistered", line=line.name, retry_s=retry)
        else:
            if response.status_code == 200:
                log.info("line.registered", line=line.name)
                retry, failures = FIRST_RETRY_S, 0
                await asyncio.sleep(_granted(response, contact) * 0.8)
                continue
            if response.status_code == 423 and _SECONDS.fullmatch(response.get_header("Min-Expires") or ""):
                expires = int(response.get_header("Min-Expires") or REGISTER_S)
            log.warning("line.unregistered", line=line.name, status=response.status_code, retry_s=retry)
        failures += 1
        await asyncio.sleep(retry)
        retry = min(2 * retry, LONGEST_RETRY_S)


def _place(address: Address) -> tuple[str | None, str, int | None]:
    """What two Contacts of one phone share; a registrar may have added parameters."""
    return address.uri.user, address.uri.host, address.uri.port


def _granted(response: SipResponse, contact: str) -> int:
    """Seconds that *contact* is bound for: its own parameter before the Expires header (RFC 3261 §10.2.4)."""
    ours = _place(parse_address(contact))
    own = [address.params.get("expires") for address in response.contact if _place(address) == ours]
    for text in (*own, response.get_header("Expires")):
        if text is not None and _SECONDS.fullmatch(text):
            return int(text)
    return REGISTER_S
