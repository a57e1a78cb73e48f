"""SMS as SIP MESSAGE (RFC 3428): a softphone alone can do the whole flow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.sms.errors import SmsRejected, SmsUndelivered

SendMessage = Callable[[str, str], Awaitable[int]]
"""Sends text to a number by SIP; gives the final status, 408 when none came."""


class SipMessageSms:
    name = "sip"

    def __init__(self, send: SendMessage) -> None:
        self._send = send

    async def send(self, number: str, text: str, reference: str) -> str:
        status = await self._send(number, text)
        if 200 <= status < 300:
            return reference
        if status in (403, 404, 405, 415, 488, 603):
            raise SmsRejected(f"SIP {status}")
        raise SmsUndelivered(f"SIP {status}")
