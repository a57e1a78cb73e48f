"""An INVITE of ours on its way: provisional responses acknowledged, forks ended, given up or answered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.auth import ClientAuth
from gateway.telephony.dialog import Dialog, client_dialog
from gateway.telephony.endpoint import Endpoint
from gateway.telephony.errors import BadMessage, CallFailed
from gateway.telephony.message import identity, make_cancel
from gateway.telephony.outgoing import next_attempt
from gateway.telephony.session_timer import SessionTimer, announce, min_se, required, session_expires
from gateway.telephony.transport import Hop

log = structlog.get_logger(__name__)
_NUMBER = re.compile(r"[0-9]{1,10}")
MOST_ATTEMPTS = 8
"""INVITEs to one hop: challenges and longer session timers."""


@dataclass(slots=True)
class Early:
    """A branch that rings (RFC 3261 §12.1): its dialog, the last reliable response, and the answer that came in one."""

    dialog: Dialog
    rseq: int = 0
    body: bytes = b""


@dataclass(slots=True)
class Answered:
    """The 2xx to our INVITE, the dialog that it makes, and the session description that answers our offer."""

    invite: SipRequest
    response: SipResponse
    dialog: Dialog
    body: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The response that refuses, and whether a phone rang before."""

    response: SipResponse
    rang: bool


class Inviting:
    """One INVITE at one hop, with what it takes to get a final answer. *within* sends a request in an early dialog, *end* hangs
    up on a branch that nobody wants.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        hop: Hop,
        auth: ClientAuth | None,
        within: Callable[[Dialog, SipRequest], None],
        end: Callable[[Dialog, int], None],
    ) -> None:
        self._endpoint = endpoint
        self._hop = hop
        self._auth = auth
        self._within = within
        self._end = end
        self._invite: SipRequest
        self._final: asyncio.Future[SipResponse | None]
        self._heard: asyncio.Event
        self._early: dict[str, Early] = {}
        self._abandoned = self._cancelled = self._provisional = self.rang = False
        self._settled_tag: str | None = None
        self.on_2xx_again: Callable[[], None] | None = None
        """Set by the call that was made: a 2xx that comes again is acknowledged again."""

    async def run(self, invite: SipRequest, ring_s: float, first_s: float | None = None) -> Answered | Refused:
        """The answer, or the response that refuses. CANCEL goes out after *ring_s*, and when this is cancelled.

        Raises CallFailed(408) when nothing came at all, within *first_s* where that is given; CallFailed(487) after *ring_s*.
        """
        try:
            async with asyncio.timeout(ring_s):
                for _ in range(MOST_ATTEMPTS):
                    response = await self._attempt(invite, first_s)
                    again = self._better(response)
                    if again is None:
                        break
                    invite = again
        except TimeoutError as error:
            self._abandon()
            raise CallFailed(487, f"not answered within {ring_s:.0f} s", rang=self.rang) from error
        except BaseException:
            self._abandon()
            raise
        if response.status_code >= 300:
            return Refused(response, self.rang)
        early = self._early.get(identity(response).to.tag or "")
        try:
            dialog = client_dialog(self._invite, response)
        except BadMessage as error:
            raise CallFailed(502, str(error), rang=True) from error
        if early is not None:
            dialog.local_seq = max(dialog.local_seq, early.dialog.local_seq)
        return Answered(self._invite, response, dialog, response.body or (early.body if early else b""))

    async def _attempt(self, invite: SipRequest, first_s: float | None) -> SipResponse:
        """The final response to one INVITE transaction."""
        self._final = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()
        self._provisional = False
        self._invite = invite
        self._endpoint.request(invite, self._hop, lambda response: self._on_response(invite, response))
        if first_s is not None:
            try:
                async with asyncio.timeout(first_s):
                    await self._heard.wait()
            except TimeoutError as error:
                raise CallFailed(408, f"no answer from {self._hop.host} within {first_s:.0f} s") from error
        final = await asyncio.shield(self._final)
        if final is None:
            raise CallFailed(408, "no answer to our INVITE")
        return final

    def _better(self, response: SipResponse) -> SipRequest | None:
        """The INVITE that may succeed where *response* refused: with credentials, or with a longer session."""
        again: SipRequest | None = None
        if response.status_code in (401, 407) and self._auth is not None and self._auth.take(response, self._invite):
            again = next_attempt(self._invite)
            self._auth.apply(again)
        elif response.status_code == 422 and min_se(response) > (session_expires(self._invite)[0] or 0):
            again = next_attempt(self._invite)
            again.set_header("Min-SE", str(min_se(response)))
            announce(again, SessionTimer(min_se(response), "us"), requesting=True)
        return again

    def _on_response(self, invite: SipRequest, response: SipResponse | None) -> None:
        self._heard.set()
        if response is None:
            if not self._final.done():
                self._final.set_result(None)
        elif response.status_code < 200:
            self._on_provisional(invite, response)
        elif response.status_code >= 300:
            if not self._final.done():
                self._final.set_result(response)
        else:
            self._on_2xx(invite, response)

    def _on_provisional(self, invite: SipRequest, response: SipResponse) -> None:
        if self._abandoned:
            self._cancel()
            return
        self._provisional = True
        self.rang = self.rang or response.status_code > 100
        rseq = (response.get_header("RSeq") or "").strip()
        if "100rel" in required(response) and _NUMBER.fullmatch(rseq):
            self._acknowledge_provisional(invite, int(rseq), response)

    def _acknowledge_provisional(self, invite: SipRequest, rseq: int, response: SipResponse) -> None:
        """PRACK (RFC 3262 §4), in order; a retransmission is acknowledged by the PRACK's own transaction."""
        tag = identity(response).to.tag or ""
        early = self._early.get(tag)
        if early is None:
            try:
                early = self._early[tag] = Early(client_dialog(invite, response))
            except BadMessage as error:
                log.info("sip.unacknowledged", error=str(error))
                return
        if early.rseq and rseq != early.rseq + 1:
            return
        early.rseq = rseq
        early.body = response.body or early.body
        cseq = identity(response).cseq
        prack = early.dialog.request("PRACK")
        prack.set_header("RAck", f"{rseq} {cseq.seq} {cseq.method}")
        self._within(early.dialog, prack)

    def _on_2xx(self, invite: SipRequest, response: SipResponse) -> None:
        tag = identity(response).to.tag or ""
        if self._settled_tag is None and not self._abandoned:
            self._settled_tag = tag
            self._final.set_result(response)
        elif tag == self._settled_tag and not self._abandoned:
            if self.on_2xx_again is not None:
                self.on_2xx_again()
        else:  # it crossed our CANCEL, or another phone of a fork answered too (RFC 3261 §9.1, §13.2.2.4)
            self._unwanted(invite, response)

    def _abandon(self) -> None:
        """Nobody waits any more: CANCEL, though not before something was heard of the INVITE (RFC 3261 §9.1)."""
        self._abandoned = True
        final = self._final.result() if self._final.done() and not self._final.cancelled() else None
        if final is not None and final.status_code < 300:
            self._unwanted(self._invite, final)
        elif not self._final.done() and self._provisional:
            self._cancel()

    def _cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._endpoint.cancel(make_cancel(self._invite), self._hop)

    def _unwanted(self, invite: SipRequest, response: SipResponse) -> None:
        try:
            self._end(client_dialog(invite, response), identity(invite).cseq.seq)
        except BadMessage as error:
            log.warning("sip.unwanted_2xx", error=str(error))
