"""Requests of ours outside a dialog, and what comes back: final responses, challenges answered, calls given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from aiosipua.header_codec import parse_address, stringify_uri
from aiosipua.headers import SipUri
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.auth import Credentials, authorize
from gateway.telephony.call import Call
from gateway.telephony.dialog import Dialog, client_dialog
from gateway.telephony.endpoint import Endpoint
from gateway.telephony.errors import BadMessage, CallFailed
from gateway.telephony.message import HostPort, identity, make_cancel, parse_sip_uri

log = structlog.get_logger(__name__)
CHALLENGES = (401, 407)


class Outgoing:
    """The client side of an endpoint. *resolve* gives the address of a URI, *spawn* runs work to its end."""

    def __init__(
        self,
        endpoint: Endpoint,
        resolve: Callable[[SipUri], Awaitable[HostPort]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._endpoint = endpoint
        self._resolve = resolve
        self._spawn = spawn

    async def request(self, request: SipRequest, peer: HostPort, credentials: Credentials | None) -> SipResponse:
        """The final response to *request*, a challenge answered once. Raises CallFailed(408) when none comes."""
        response = await self._final_response(request, peer)
        if response.status_code in CHALLENGES and credentials is not None:
            again = next_attempt(request)
            if authorize(again, response, credentials):
                response = await self._final_response(again, peer)
        return response

    async def invite(
        self, invite: SipRequest, peer: HostPort, ring_s: float, credentials: Credentials | None, made: list[Call]
    ) -> tuple[SipRequest, SipResponse]:
        """The INVITE that was answered last, and its final response, a challenge answered once.

        *made* holds the call once there is one: a 2xx that comes again is acknowledged again. Raises CallFailed when nothing
        came, or no answer within *ring_s*.
        """
        sent, response = await self._invite(invite, peer, ring_s, made)
        if response.status_code in CHALLENGES and credentials is not None:
            again = next_attempt(invite)
            if authorize(again, response, credentials):
                sent, response = await self._invite(again, peer, ring_s, made)
        return sent, response

    def end_unwanted(self, invite: SipRequest, response: SipResponse) -> None:
        """A 2xx that crossed our CANCEL or cannot be used: acknowledge it and hang up at once (RFC 3261 §9.1)."""
        try:
            dialog = client_dialog(invite, response)
            target = parse_sip_uri(next_hop(dialog))
        except BadMessage as error:
            log.warning("sip.unwanted_2xx", error=str(error))
            return

        async def end() -> None:
            peer = await self._resolve(target)
            self._endpoint.send_ack(dialog.request("ACK", identity(invite).cseq.seq), peer)
            self._endpoint.request(dialog.request("BYE"), peer, lambda _: None)

        self._spawn(end())

    async def _invite(
        self, invite: SipRequest, peer: HostPort, ring_s: float, made: list[Call]
    ) -> tuple[SipRequest, SipResponse]:
        """Send *invite* and wait for its final response; CANCEL after *ring_s* or when the caller of this is cancelled,
        though not before something was heard of it (RFC 3261 §9.1).
        """
        final: asyncio.Future[SipResponse] = asyncio.get_running_loop().create_future()
        provisional = abandoned = False

        def cancel() -> None:
            self._endpoint.cancel(make_cancel(sent), peer, lambda _: None)

        def on_response(response: SipResponse | None) -> None:
            nonlocal provisional
            if response is None:
                if not final.done() and not abandoned:
                    final.set_exception(CallFailed(408, "no answer to our INVITE"))
            elif response.status_code < 200:
                if abandoned and not provisional:
                    cancel()
                provisional = True
            elif abandoned and response.status_code < 300:
                self.end_unwanted(sent, response)
            elif not final.done():
                final.set_result(response)
            elif made:
                made[0].on_2xx_again()

        sent = self._endpoint.request(invite, peer, on_response)
        try:
            async with asyncio.timeout(ring_s):
                return sent, await asyncio.shield(final)
        except (TimeoutError, asyncio.CancelledError) as error:
            abandoned = True
            if final.done() and not final.exception() and final.result().status_code < 300:
                self.end_unwanted(sent, final.result())
            elif provisional:
                cancel()
            if isinstance(error, TimeoutError):
                raise CallFailed(487, f"not answered within {ring_s:.0f} s") from error
            raise

    async def _final_response(self, request: SipRequest, peer: HostPort) -> SipResponse:
        final: asyncio.Future[SipResponse] = asyncio.get_running_loop().create_future()

        def on_response(response: SipResponse | None) -> None:
            if final.done():
                return
            if response is None:
                final.set_exception(CallFailed(408, f"no answer to our {request.method}"))
            elif response.status_code >= 200:
                final.set_result(response)

        self._endpoint.request(request, peer, on_response)
        return await final


def next_hop(dialog: Dialog) -> str:
    """The URI that requests of *dialog* are sent to: its first route, else the remote target."""
    return stringify_uri(parse_address(dialog.route_set[0]).uri) if dialog.route_set else dialog.remote_target


def next_attempt(request: SipRequest) -> SipRequest:
    """*request* anew for a second try: the next CSeq number, no Via (RFC 3261 §22.2)."""
    again = SipRequest(method=request.method, uri=request.uri, headers=request.headers.copy(), body=request.body)
    again.remove_header("Via")
    cseq = identity(request).cseq
    cseq.seq += 1
    again.cseq = cseq
    return again
