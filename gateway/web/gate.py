"""What every request passes on its way to a handler: key, rate, scope, form. And what is written down of it afterwards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from gateway.access import Busy, Caller, Keys, TooManyFailures, Unrecognised
from gateway.consent.errors import Fault
from gateway.rates import Rates, Standing, network_of
from gateway.store import access
from gateway.store.database import UNREACHABLE, Database
from gateway.web import fields
from gateway.web.problems import Handler, Refused, faults_of, settle
from gateway.web.remote import remote_of
from gateway.web.routes import JSON, Call, Route

log = structlog.get_logger(__name__)
BODY_S = 20.0
"""How long a body may take to come."""

CHALLENGE: dict[str, str] = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="consent-gateway"'}
HEADERS: web.RequestKey[dict[str, str]] = web.RequestKey("answer.headers", dict)
REFUSED = (401, 403, 429)
NOBODY: Mapping[str, Any] = {"tenant": None, "key_id": None}
SAFE: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}


class Gate:
    """*rates*: how many requests a key may make; *refusals*: how many refused ones of one address are written down."""

    def __init__(
        self,
        keys: Keys,
        database: Database,
        rates: Rates,
        *,
        now: Callable[[], datetime],
        refusals: Rates | None = None,
    ) -> None:
        self._keys = keys
        self._database = database
        self._rates = rates
        self._now = now
        self._refusals = refusals or Rates(rate=0.5, burst=50)

    def guard(self, route: Route) -> Handler:
        """The aiohttp handler of *route*."""

        async def unkeyed(request: web.Request) -> web.StreamResponse:
            return await route.handler(await self._checked(request, route, None))

        async def open_to_all(request: web.Request) -> web.StreamResponse:
            answer = await settle(request, unkeyed)
            if answer.status in REFUSED:  # a signature that is not right
                await self._write_down(request, route, answer.status, NOBODY)
            return answer

        async def guarded(request: web.Request) -> web.StreamResponse:
            seen = dict(NOBODY)
            answer = await settle(request, lambda request: self._let_in(request, route, seen))
            await self._write_down(request, route, answer.status, seen)
            return answer

        return open_to_all if route.scope is None else guarded

    async def _let_in(self, request: web.Request, route: Route, seen: dict[str, Any]) -> web.StreamResponse:
        """Raises Refused; *seen* is told whose key it is, as far as that is known."""
        caller = await self._recognise(request, seen)
        seen |= {"tenant": caller.tenant, "key_id": caller.key_id}
        standing = self._rates.standing(f"{caller.tenant}/{caller.key_id}", rate=caller.rate, burst=caller.burst)
        request[HEADERS] = rate_headers(standing)
        if standing.wait_s:
            raise Refused(429, "too many requests with this key", headers=_wait(standing.wait_s))
        if route.scope not in caller.scopes:
            raise Refused(403, f"this key lacks the scope {route.scope}")
        return await route.handler(await self._checked(request, route, caller))

    async def _recognise(self, request: web.Request, seen: dict[str, Any]) -> Caller:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        try:
            return await self._keys.recognise(
                token if scheme.lower() == "bearer" else "", network_of(remote_of(request))
            )
        except Unrecognised as error:
            seen |= {"tenant": error.tenant, "key_id": error.key_id}
            raise Refused(401, str(error), headers=CHALLENGE) from error
        except TooManyFailures as error:
            raise Refused(429, str(error), headers=_wait(error.wait_s)) from error
        except Busy as error:
            raise Refused(503, "too many keys are being checked", headers=_wait(1.0)) from error

    async def _checked(self, request: web.Request, route: Route, caller: Caller | None) -> Call:
        call = Call(request, caller)
        for name, read in (("order_id", fields.order_id), ("webhook_id", fields.webhook_id)):
            if name in request.match_info:
                request.match_info[name] = read(request.match_info[name])
        if not route.unread:
            call.query = _read_query(request, route.query)
        if route.body is not None and not route.unread:
            call.body = await _read_body(request, route, route.body)
        return call

    async def _write_down(self, request: web.Request, route: Route, status: int, seen: Mapping[str, Any]) -> None:
        """An audit that cannot be written is told in the log: what was done stands in the ledger anyway."""
        remote = remote_of(request)
        if status in REFUSED and self._refusals.take(str(seen["key_id"] or network_of(remote))):
            return
        row = access.AuditRow(
            at=self._now(), method=request.method, route=route.path, order_id=_order_of(request), status=status,
            remote=remote, tenant=seen["tenant"], key_id=seen["key_id"],
        )  # fmt: skip
        try:
            await access.insert_audit(self._database, row)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            log.error("audit.lost", route=row.route, status=status, key=row.key_id, error=str(error))


async def add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """For ``on_response_prepare``: the headers that answers of every kind bear."""
    for name, value in (SAFE | request.get(HEADERS, {})).items():
        answer.headers.setdefault(name, value)


def rate_headers(standing: Standing) -> dict[str, str]:
    """In the form of the IETF's draft-ietf-httpapi-ratelimit-headers."""
    return {
        "RateLimit-Policy": f'"key";q={standing.limit};w={standing.window_s}',
        "RateLimit": f'"key";r={standing.remaining};t={standing.reset_s}',
    }


async def read_octets(request: web.Request) -> bytes:
    """The body. Raises Refused for one that does not come in time or cannot be unpacked; too large a one is 413."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as error:
        raise Refused(
            408, f"the body did not come within {BODY_S:.0f} s", headers={str(hdrs.CONNECTION): "close"}
        ) from error
    except web.RequestPayloadError as error:
        raise Refused(400, "the body cannot be read: its encoding or its length is not what the headers say") from error


def holds_nul(value: Any, path: str = "") -> list[Fault]:
    """Where a text holds U+0000, which PostgreSQL cannot store. *value*: plain data, no deeper than a model is."""
    if isinstance(value, str):
        return [Fault(path or "body", "holds U+0000")] if "\0" in value else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [fault for key, part in inner for fault in holds_nul(part, f"{path}.{key}".lstrip("."))]


async def _read_body(request: web.Request, route: Route, model: type[BaseModel]) -> BaseModel:
    data = await read_octets(request)
    title = f"the {route.noun} does not fit the schema"
    if not data and route.optional:
        return model()
    if data and request.content_type != JSON:
        raise Refused(415, f"the body must be {JSON}", headers={hdrs.ACCEPT: JSON})
    try:
        asked = model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise Refused(422, title, faults_of(error)) from error
    faults = holds_nul(asked.model_dump())
    if faults:
        raise Refused(422, title, faults)
    return asked


def _read_query(request: web.Request, model: type[BaseModel] | None) -> BaseModel | None:
    """Unknown parameters are refused, and so is one that comes twice: which of them was meant?"""
    title = "the query does not fit"
    doubled = sorted({name for name in request.query if len(request.query.getall(name)) > 1})
    if doubled:
        raise Refused(422, title, [Fault(name[:80], "is given more than once") for name in doubled])
    given = dict(request.query)
    if model is None:
        if given:
            raise Refused(422, title, [Fault(name[:80], "is not known here") for name in sorted(given)])
        return None
    try:
        read = model.model_validate(given)
    except ValidationError as error:
        raise Refused(422, title, faults_of(error, "query")) from error
    faults = holds_nul(given)
    if faults:
        raise Refused(422, title, faults)
    return read


def _order_of(request: web.Request) -> UUID | None:
    try:
        return UUID(request.match_info["order_id"])
    except (KeyError, ValueError):
        return None


def _wait(seconds: float) -> dict[str, str]:
    return {hdrs.RETRY_AFTER: str(max(1, math.ceil(seconds)))}
