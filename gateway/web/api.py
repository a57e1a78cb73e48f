"""The HTTP API for billing systems: orders in, records out, SMS replies in (docs/billing.md)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.consent import events as ev
from gateway.consent.errors import Fault, OrderRefused
from gateway.consent.order import DialplanRef, Language, OrderRequest, normalise_number
from gateway.consent.record import Record, State
from gateway.dialplan.model import Dialplan
from gateway.engine import Engine
from gateway.store import ledger
from gateway.web.problems import problem, problems

log = structlog.get_logger(__name__)
LARGEST_BODY = 65_536
LONGEST_TEXT = 2000
Dial = Callable[[Record, str | None], Awaitable[str]]
Verify = Callable[[Mapping[str, str], bytes], bool]


class InboundSms(BaseModel):
    """A subscriber's message, as the aggregator forwards it."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    number: str = Field(alias="from", max_length=32)
    text: str = Field(max_length=LONGEST_TEXT)
    message_id: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")


class CallRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(default=None, max_length=200, description="a SIP URI; the order's number when absent")


class WithdrawRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=2, max_length=200)


@dataclass(frozen=True, slots=True)
class Offered:
    """What orders may name: dialplans, and languages with a listener."""

    dialplans: Mapping[str, Dialplan]
    languages: frozenset[Language]


class Api:
    """The handlers. *keys* maps SHA-256 of an API key to its tenant; *verify_sms* checks a reply's signature."""

    def __init__(
        self,
        engine: Engine,
        offered: Offered,
        dial: Dial,
        keys: Mapping[bytes, str],
        verify_sms: Verify | None,
        *,
        region: str | None = None,
        unready: Callable[[], str] = lambda: "",
    ) -> None:
        self._engine = engine
        self._offered = offered
        self._dial = dial
        self._keys = keys
        self._verify_sms = verify_sms
        self._region = region
        self._unready = unready

    def application(self) -> web.Application:
        app = web.Application(middlewares=[problems], client_max_size=LARGEST_BODY)
        app.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/metrics", self.metrics),
                web.post("/v1/orders", self.create_order),
                web.get("/v1/orders", self.list_orders),
                web.get("/v1/orders/{order_id}", self.get_order),
                web.get("/v1/orders/{order_id}/events", self.get_events),
                web.post("/v1/orders/{order_id}/calls", self.call),
                web.post("/v1/orders/{order_id}/withdraw", self.withdraw),
                web.post("/v1/sms/inbound", self.sms_inbound),
            ]
        )
        return app

    async def healthz(self, _request: web.Request) -> web.Response:
        await self._engine.database.pool.fetchval("SELECT 1")
        return web.json_response({"status": "ok", "gateway": self._engine.gateway})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether new calls should be sent here: for load balancers."""
        reason = self._unready()
        return web.json_response({"status": reason or "ok"}, status=503 if reason else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def create_order(self, request: web.Request) -> web.Response:
        tenant = self._tenant(request)
        try:
            asked = OrderRequest.model_validate_json(await request.read())
            dialplan = self._admissible(asked)
            record = await self._engine.create(asked, tenant, dialplan)
        except ValidationError as error:
            return problem(422, "the order does not fit the schema", _faults(error))
        except OrderRefused as error:
            return problem(422, "the order is refused", error.faults)
        return web.json_response(
            _summary(record), status=201, headers={"Location": f"/v1/orders/{record.order.order_id}"}
        )

    async def list_orders(self, request: web.Request) -> web.Response:
        tenant, state = self._tenant(request), request.query.get("state")
        if state is not None and state not in get_args(State):
            return problem(422, "the query does not fit", [Fault("state", f"one of {', '.join(get_args(State))}")])
        async with self._engine.database.pool.acquire() as connection:
            rows = await ledger.list_orders(connection, tenant=tenant, state=state)
        return web.json_response({"orders": rows}, dumps=_dumps)

    async def get_order(self, request: web.Request) -> web.Response:
        return web.json_response(_summary(await self._own(request)))

    async def get_events(self, request: web.Request) -> web.Response:
        record = await self._own(request)
        entries = await self._engine.entries(record.order.order_id)
        return web.json_response({"events": [entry.model_dump(mode="json") for entry in entries]})

    async def call(self, request: web.Request) -> web.Response:
        record = await self._own(request)
        try:
            asked = CallRequest.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return problem(422, "the call does not fit the schema", _faults(error))
        if asked.to is not None and not _is_local(request):
            return problem(403, "only the gateway's own machine may name a SIP URI to call; leave 'to' out")
        if not record.may_be_called:
            return problem(409, f"the order is {record.state} and cannot be called now")
        return web.json_response({"call_id": await self._dial(record, asked.to)}, status=202)

    async def withdraw(self, request: web.Request) -> web.Response:
        record = await self._own(request)
        try:
            asked = WithdrawRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return problem(422, "the withdrawal does not fit the schema", _faults(error))
        if record.is_open:
            record = await self._engine.append(
                record.order.order_id, ev.OrderWithdrawn(source="api", reason=asked.reason)
            )
            if record.state == "withdrawn":
                return web.json_response(_summary(record))
        return problem(409, f"the order is {record.state} and cannot be withdrawn")

    async def sms_inbound(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self._verify_sms is None:
            return problem(404, "inbound SMS is off: set sms.inbound_secret")
        if not self._verify_sms(request.headers, body):
            return problem(401, "the signature is not right, or its timestamp is older than five minutes")
        try:
            message = InboundSms.model_validate_json(body)
            number = normalise_number(message.number, self._region)
        except ValidationError as error:
            return problem(422, "the message does not fit the schema", _faults(error))
        except ValueError as error:
            return problem(422, "the message does not fit the schema", [Fault("from", str(error))])
        taken = await self._engine.take_message("http", message.message_id, number, message.text)
        return web.json_response({"result": taken.result})

    def _admissible(self, asked: OrderRequest) -> DialplanRef:
        """The dialplan of an order. Raises OrderRefused when the gateway cannot run it in the order's language."""
        faults = []
        dialplan = self._offered.dialplans.get(asked.dialplan)
        if dialplan is None:
            faults.append(
                Fault(
                    "dialplan",
                    f"there is no dialplan {asked.dialplan!r}; there are {', '.join(self._offered.dialplans)}",
                )
            )
        elif asked.subscriber.language not in dialplan.languages:
            faults.append(Fault("dialplan", f"{asked.dialplan} is not for {asked.subscriber.language!r}"))
        if asked.subscriber.language not in self._offered.languages:
            listening = ", ".join(sorted(self._offered.languages))
            faults.append(
                Fault(
                    "subscriber.language",
                    f"no model listens in {asked.subscriber.language!r} here; {listening} can be heard",
                )
            )
        if faults or dialplan is None:
            raise OrderRefused(faults)
        return dialplan.ref

    async def _own(self, request: web.Request) -> Record:
        """The order in the path, if it is the caller's; a stranger's is as unknown as none."""
        tenant = self._tenant(request)
        order_id = request.match_info["order_id"]
        record = await self._engine.record(order_id)
        if record.order.tenant != tenant:
            raise web.HTTPNotFound(reason=f"there is no order {order_id}"[:80])
        return record

    def _tenant(self, request: web.Request) -> str:
        """Whose key it is. Raises 401."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        given = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = [tenant for known, tenant in self._keys.items() if hmac.compare_digest(known, given)]
        if scheme.lower() != "bearer" or not found:
            raise web.HTTPUnauthorized(reason="send a tenant's key as Authorization: Bearer KEY")
        return found[0]


def _is_local(request: web.Request) -> bool:
    """Whether the request comes over loopback (`consent-gateway call`): nobody else may make the gateway dial at will."""
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


def _faults(error: ValidationError) -> list[Fault]:
    return [
        Fault(".".join(str(part) for part in fault["loc"]) or "body", fault["msg"].removeprefix("Value error, "))
        for fault in error.errors(include_url=False)
    ]


def _summary(record: Record) -> dict[str, Any]:
    order = record.order
    return {
        "order_id": order.order_id,
        "order_hash": record.order_hash,
        "state": record.state,
        "reason": record.reason,
        "calls": record.calls,
        "subscriber": {"number": order.subscriber.number, "language": order.subscriber.language},
        "offer": {"id": order.offer.id, "name": order.offer.name},
        "spoken_at": record.spoken.at.isoformat() if record.spoken else None,
        "confirmed_at": record.confirmation.reply.at.isoformat() if record.confirmation else None,
    }


def _dumps(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
