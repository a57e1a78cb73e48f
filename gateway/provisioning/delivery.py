"""Posts webhooks to billing systems: one attempt at a time; what becomes of it is told, not decided, here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise

import aiohttp

from gateway.provisioning.signature import headers

TIMEOUT_S = 15.0
LONGEST_ANSWER = 65_536
RETRY_AT_S = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""When attempts are made, in seconds after the first."""

RETRY_DELAYS_S = tuple(float(later - sooner) for sooner, later in pairwise(RETRY_AT_S))


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """*status* is None when there was no HTTP answer; *reference* is the billing system's own, if it gave one."""

    status: int | None
    error: str = ""
    reference: str = ""

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


async def post(
    session: aiohttp.ClientSession, endpoint: Endpoint, webhook_id: str, timestamp: int, body: bytes
) -> Answer:
    """POST *body* once; a redirect is a failure. Never raises for what the far end does."""
    signed = headers(endpoint.key, webhook_id, timestamp, body) | {"content-type": "application/json"}
    try:
        async with session.post(
            endpoint.url, data=body, headers=signed, allow_redirects=False, timeout=aiohttp.ClientTimeout(TIMEOUT_S)
        ) as response:
            answer = await _beginning(response.content)
            if 200 <= response.status < 300:
                return Answer(response.status, reference=_reference(answer))
            return Answer(response.status, error=f"HTTP {response.status}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return Answer(None, error=str(error) or type(error).__name__)


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """The body, or its first LONGEST_ANSWER octets, in however many pieces it comes."""
    try:
        return await content.readexactly(LONGEST_ANSWER)
    except asyncio.IncompleteReadError as ended:
        return ended.partial


def _reference(answer: bytes) -> str:
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    reference = data.get("reference", "") if isinstance(data, dict) else ""
    return str(reference)[:200].encode(errors="replace").decode()  # a lone surrogate has no place in the ledger
