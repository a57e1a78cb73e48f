"""SMS over an aggregator's HTTP API, JSON or form: url, headers and body are templates of the settings."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from gateway.sms.errors import SmsRejected, SmsUndelivered

TIMEOUT_S = 15.0
LONGEST_ANSWER = 65_536
_SLOT = re.compile(r"\{(\w+)\}")


class HttpSms:
    """Values of *body* and *headers* may hold ``{number}``, ``{digits}``, ``{text}`` and ``{reference}``.

    *message_id* is the dotted path of the message id in a JSON answer.
    """

    name = "http"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        encoding: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        message_id: str,
    ) -> None:
        self._session = session
        self._url = url
        self._encoding = encoding
        self._headers = headers
        self._body = body
        self._message_id = message_id

    async def send(self, number: str, text: str, reference: str) -> str:
        slots = {"number": number, "digits": number.lstrip("+"), "text": text, "reference": reference}
        body = fill(self._body, slots)
        headers = {name: fill(value, slots) for name, value in self._headers.items()}
        payload: dict[str, Any] = {"json": body} if self._encoding == "json" else {"data": body}
        try:
            async with self._session.post(
                self._url, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(TIMEOUT_S), **payload
            ) as response:
                answer = await _beginning(response.content)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise SmsUndelivered(str(error) or type(error).__name__) from error
        if status == 429 or status >= 500:
            raise SmsUndelivered(f"HTTP {status}")
        if not 200 <= status < 300:
            raise SmsRejected(f"HTTP {status}")
        return dig(answer, self._message_id) or reference


def fill(template: Any, slots: Mapping[str, str]) -> Any:
    """*template* with ``{slot}`` replaced in every string of it, however deep. Other braces stay as they are."""
    if isinstance(template, str):
        return _SLOT.sub(lambda found: slots.get(found[1], found[0]), template)
    if isinstance(template, Mapping):
        return {name: fill(value, slots) for name, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill(value, slots) for value in template]
    return template


def dig(answer: bytes, path: str) -> str:
    """The value at the dotted *path* in a JSON *answer*; empty when it is not there."""
    if not path:
        return ""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    for name in path.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return ""
    if value is None or isinstance(value, list | dict):
        return ""
    return str(value).encode(errors="replace").decode()  # a lone surrogate has no place in the ledger


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """The body, or its first LONGEST_ANSWER octets, in however many pieces it comes."""
    try:
        return await content.readexactly(LONGEST_ANSWER)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
