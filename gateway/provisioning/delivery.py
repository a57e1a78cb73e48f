"""Posts webhooks to billing systems: one attempt at a time; what becomes of it is told, not decided, here."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from gateway.provisioning.errors import TargetRefused
from gateway.provisioning.guard import Guard, GuardedResolver, RefusedError
from gateway.provisioning.schedule import retry_after_s
from gateway.provisioning.signature import Signer

TIMEOUT_S = 15.0
LONGEST_ANSWER = 65_536
KEPT_OCTETS = 4096
KEPT_HEADERS = ("content-type", "content-length", "date", "location", "retry-after", "server", "via", "x-request-id")
LONGEST_TEXT = 200
IDLE_S = 30.0
MOST_HEADERS = 100
USER_AGENT = "consent-gateway"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one tenant takes webhooks, and what signs them for it."""

    url: str
    signer: Signer


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one POST. *status* is None when there was no HTTP answer; *reference* is the billing system's own, if it
    gave one; *body* is the beginning of what it said, *retry_after_s* when it wants to be asked again.
    """

    status: int | None
    error: str = ""
    reference: str = ""
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    duration_ms: int = 0

    @property
    def accepted(self) -> bool:
        return not self.error and self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The endpoint wants nothing any more (RFC 9110 §15.5.11)."""
        return self.status == 410


class Poster:
    """``async with Poster(guard) as poster``: connections are kept open, cookies and proxies of the environment are not used.

    *resolver* replaces the system's, *tls* its authorities.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        timeout_s: float = TIMEOUT_S,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._timeout_s = timeout_s
        self._names = resolver
        self._tls = tls
        self._resolver: GuardedResolver
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._resolver = GuardedResolver(self._guard, self._names)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, socket_factory=self._guard.socket, limit=0, keepalive_timeout=IDLE_S,
            ssl=self._tls or True,
        )  # fmt: skip
        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None), headers={"User-Agent": USER_AGENT}, trace_configs=[reuse],
            max_headers=MOST_HEADERS,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._resolver.close()

    async def post(
        self, endpoint: Endpoint, webhook_id: str, body: bytes, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> Answer:
        """POST *body* once; a redirect is a failure, and so is an answer that does not end in time.

        Never raises for what the far end does.
        """
        began = monotonic()
        heard = Answer(None)
        try:
            url = self._guard.check(endpoint.url)
            signed = endpoint.signer.headers(webhook_id, int(now().timestamp()), body)
            signed |= {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            async with asyncio.timeout(self._timeout_s), await self._send(url, body, signed) as response:
                heard = _heading(response, now())
                text, whole = await _beginning(response.content)
                heard = replace(heard, body=text[:KEPT_OCTETS], reference=_reference(text) if heard.accepted else "")
                if not whole:
                    response.close()  # the rest is not waited for
        except TimeoutError:
            missing = "no answer" if heard.status is None else "the answer did not end"
            heard = replace(heard, error=f"{missing} within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, TargetRefused, ValueError) as error:
            heard = replace(heard, error=_words(error))
        return replace(heard, duration_ms=round((monotonic() - began) * 1000))

    async def _send(self, url: URL, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The beginning of an answer. A kept connection that the far end closed meanwhile is given up for the next, or a new
        one: to post twice is harmless, the webhook-id is the same.
        """
        while True:
            use = SimpleNamespace(reused=False)
            try:
                return await self._session.post(
                    url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=use
                )
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not use.reused:
                    raise


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _heading(response: aiohttp.ClientResponse, now: datetime) -> Answer:
    """What the status line and the header say."""
    accepted = 200 <= response.status < 300
    again = response.headers.get("retry-after", "")
    kept = {name: _clean(response.headers[name]) for name in KEPT_HEADERS if name in response.headers}
    return Answer(
        response.status,
        error="" if accepted else f"HTTP {response.status}",
        retry_after_s=None if accepted else retry_after_s(again, now),
        headers=kept,
    )


async def _beginning(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    """The body, or its first LONGEST_ANSWER octets, in however many pieces it comes; and whether that is all."""
    try:
        return await content.readexactly(LONGEST_ANSWER), content.at_eof()
    except asyncio.IncompleteReadError as ended:
        return ended.partial, True


def _reference(answer: bytes) -> str:
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    reference = data.get("reference", "") if isinstance(data, dict) else ""
    return "" if reference is None else _clean(str(reference))


def _clean(text: str) -> str:
    """Something short that a database and a terminal take: no lone surrogate, no control character."""
    return "".join(char for char in text.encode(errors="replace").decode() if char.isprintable())[:LONGEST_TEXT]


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        below = error.os_error
        if isinstance(below, RefusedError):
            return str(below)
        return f"cannot connect to {error.host}:{error.port}: {below.strerror or below}"
    if isinstance(error, aiohttp.ClientResponseError):  # without the address: its query may hold a key
        return f"no HTTP answer: {_clean(error.message)}"
    if isinstance(error, aiohttp.InvalidURL):
        return "its address cannot be posted to"
    return str(error) or type(error).__name__
