"""Requests of ours and what comes back: challenges answered, hops tried in turn, final responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.dialog import Dialog
from gateway.telephony.endpoint import Endpoint
from gateway.telephony.errors import CallFailed
from gateway.telephony.message import identity
from gateway.telephony.transport import Hop

MOST_ATTEMPTS = 6
"""What one request answers of challenges before it gives up."""

OnFinal = Callable[[SipResponse | None], None]
"""Is given the final response; None when none came."""


class Outgoing:
    """The client side of *endpoint*, but for INVITEs that make calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def send(
        self,
        request: SipRequest,
        hop: Hop,
        on_final: OnFinal,
        *,
        auth: ClientAuth | None = None,
        dialog: Dialog | None = None,
    ) -> None:
        """Send *request* now, with the answers to the challenges that *auth* knows; a new challenge is answered, within
        *dialog* under its next CSeq number.
        """
        left = MOST_ATTEMPTS

        def attempt(request: SipRequest) -> None:
            def on_response(response: SipResponse | None) -> None:
                nonlocal left
                if response is not None and response.status_code < 200:
                    return
                left -= 1
                if response is not None and auth is not None and left and auth.take(response, request):
                    attempt(next_attempt(request, dialog))
                else:
                    on_final(response)

            if auth is not None:
                auth.apply(request)
            self._endpoint.request(request, hop, on_response)

        attempt(request)

    async def request(
        self, request: SipRequest, hops: Sequence[Hop], credentials: Credentials | None = None
    ) -> SipResponse:
        """The final response to *request*, from the first of *hops* that gives one (RFC 3263 §4.3).

        Raises CallFailed(408) when none does.
        """
        response: SipResponse | None = None
        auth = ClientAuth(credentials) if credentials is not None else None
        for number, hop in enumerate(hops):
            final: asyncio.Future[SipResponse | None] = asyncio.get_running_loop().create_future()
            if number:  # far beyond the CSeq numbers that challenges may have taken: no two attempts are alike
                request = next_attempt(request, step=MOST_ATTEMPTS + 1)
            self.send(request, hop, lambda r, f=final: None if f.done() else f.set_result(r), auth=auth)  # type: ignore[misc]
            response = await final
            if response is not None and response.status_code != 503:
                return response
        if response is None:
            raise CallFailed(408, f"no answer to our {request.method}")
        return response


def next_attempt(request: SipRequest, dialog: Dialog | None = None, step: int = 1) -> SipRequest:
    """*request* anew for another try: a higher CSeq number, no Via (RFC 3261 §22.2)."""
    again = SipRequest(method=request.method, uri=request.uri, headers=request.headers.copy(), body=request.body)
    again.remove_header("Via")
    cseq = identity(request).cseq
    if dialog is not None:
        dialog.local_seq += 1
        cseq.seq = dialog.local_seq
    else:
        cseq.seq += step
    again.cseq = cseq
    return again
