"""Orders: made, listed, looked at, called, ended; and billing's answer to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiohttp import web

from gateway.consent import events as ev
from gateway.consent.errors import Fault, OrderRefused
from gateway.consent.order import DialplanRef, Language, OrderRequest
from gateway.consent.record import CONFIRMED, Record, begin
from gateway.deliveries import keep_reference
from gateway.dialplan.model import Dialplan
from gateway.engine import Engine
from gateway.store.database import Connection, sql
from gateway.store.errors import UnknownOrder
from gateway.web import idempotency
from gateway.web.fields import after, cursor_of
from gateway.web.idempotency import Claim, idempotency_key
from gateway.web.offers import Offers
from gateway.web.order_models import (
    Acknowledgement,
    CallRequest,
    Events,
    Freeze,
    NewOrder,
    OrderPage,
    OrderQuery,
    OrderRow,
    OrderState,
    StartedCall,
    Withdrawal,
    utc,
)
from gateway.web.problems import Refused
from gateway.web.remote import is_local
from gateway.web.routes import Answer, Call, Header, Route, answer

Dial = Callable[[Record, str | None], Awaitable[str]]
UNKNOWN = {404: "there is no such order of yours", 410: "the subscriber was erased: nothing of the order can be read"}
LOCATION = Header("Location", "the path of the order")
REPLAYED = Header(
    idempotency.REPLAYED, "`true` when the order was made by an earlier request with the same Idempotency-Key"
)


@dataclass(frozen=True, slots=True)
class Offered:
    """What orders may name: dialplans, and languages with a listener."""

    dialplans: Mapping[str, Dialplan]
    languages: frozenset[Language]


async def own_order(engine: Engine, call: Call) -> str:
    """The id in the path, of an order of the caller's. Raises UnknownOrder."""
    order_id = call.request.match_info["order_id"]
    tenant = await engine.database.pool.fetchval(sql("tenant_of_order"), UUID(order_id))
    if tenant != call.tenant:
        raise UnknownOrder(f"there is no order {order_id}")
    return order_id


class Orders:
    def __init__(
        self, engine: Engine, offered: Offered, offers: Offers, dial: Dial, now: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._offered = offered
        self._offers = offers
        self._dial = dial
        self._now = now

    def routes(self) -> list[Route]:
        where = "/v1/orders/{order_id}"
        state = Answer("where the order stands", OrderState)
        return [
            Route(
                "POST", "/v1/orders", self.create, "createOrder", "Place an order", "orders",
                {201: Answer("the order is taken", OrderState, headers=(LOCATION, REPLAYED))},
                description="With an `Idempotency-Key` the request may be sent again without fear of a second order: the first answer "
                "comes again, marked `Idempotency-Replayed: true`.",
                scope="orders:write", body=NewOrder, noun="order", headers=(idempotency.HEADER,),
                errors={400: "a malformed Idempotency-Key", 409: "a request with this Idempotency-Key is under way",
                        410: "the order that this request made was erased"},
            ),
            Route(
                "GET", "/v1/orders", self.page, "listOrders", "List orders, the newest first", "orders",
                {200: Answer("one page", OrderPage)}, scope="orders:read", query=OrderQuery,
            ),
            Route(
                "GET", where, self.get, "getOrder", "Where an order stands, and why", "orders", {200: state},
                scope="orders:read", errors=UNKNOWN,
            ),
            Route(
                "GET", f"{where}/events", self.events, "getEvents", "The whole record of an order", "orders",
                {200: Answer("every event, the first one first", Events)}, scope="orders:read", errors=UNKNOWN,
            ),
            Route(
                "POST", f"{where}/calls", self.call, "callSubscriber", "Call the subscriber (again) now", "orders",
                {202: Answer("the call is on its way", StartedCall)}, scope="calls:write", body=CallRequest, noun="call",
                optional=True, errors=UNKNOWN | {409: "the order cannot be called now", 503: "no line takes the call"},
            ),
            Route(
                "POST", f"{where}/withdraw", self.withdraw, "withdrawOrder", "End an order before it is confirmed", "orders",
                {200: state}, scope="orders:write", body=Withdrawal, noun="withdrawal",
                errors=UNKNOWN | {409: "the order has ended, or is confirmed"},
            ),
            Route(
                "POST", f"{where}/freeze", self.freeze, "freezeOrder", "Stop an order that is in doubt, confirmed or not", "orders",
                {200: state}, description="For good: a frozen order is never billed. Billing is told by `consent.frozen`.",
                scope="orders:write", body=Freeze, noun="freeze", errors=UNKNOWN | {409: "the order has ended without a bill"},
            ),
            Route(
                "POST", f"{where}/ack", self.acknowledge, "acknowledgeOrder", "Give billing's own reference", "orders",
                {200: state}, description="Kept in the record, and matched by the reconciliation report. The same one may be sent again.",
                scope="orders:write", body=Acknowledgement, noun="acknowledgement",
                errors=UNKNOWN | {409: "the order is not confirmed, or has another reference"},
            ),
        ]  # fmt: skip

    async def create(self, call: Call) -> web.StreamResponse:
        asked, key = call.asked(NewOrder), idempotency_key(call.request)
        async with self._engine.database.transaction() as connection:
            claim = Claim(connection, call.tenant, key, asked) if key is not None else None
            made = await claim.order_made() if claim else None
            if made is None:
                request = await self._complete(connection, call.tenant, asked)
                # a number that is blocked at this moment is blocked for this order, or this order is ended by that
                await connection.execute(sql("lock_number"), request.subscriber.number)
                record = await self._engine.create_within(connection, request, call.tenant, self._admissible(request))
                if claim is not None:
                    await claim.keep(record.order.order_id, self._now())
        if made is not None:
            record, _ = begin((await self._engine.entries(made))[0])  # as it stood when it was first told
        headers = {"Location": f"/v1/orders/{record.order.order_id}"}
        return answer(OrderState.of(record), 201, headers if made is None else headers | {idempotency.REPLAYED: "true"})

    async def page(self, call: Call) -> web.StreamResponse:
        wanted = call.wanted(OrderQuery)
        at, last = after(wanted.cursor, datetime, UUID)
        rows = await self._engine.database.pool.fetch(
            sql("page_of_orders"),
            call.tenant, wanted.state, wanted.number, wanted.since, wanted.until, at, last, wanted.limit + 1,
        )  # fmt: skip
        orders = [OrderRow.model_validate(dict(row)) for row in rows[: wanted.limit]]
        more = len(rows) > wanted.limit
        last_one = orders[-1] if more else None
        following = cursor_of(utc(last_one.created_at).isoformat(), str(last_one.order_id)) if last_one else None
        return answer(OrderPage(orders=orders, next=following))

    async def get(self, call: Call) -> web.StreamResponse:
        return answer(OrderState.of(await self.own(call)))

    async def events(self, call: Call) -> web.StreamResponse:
        record = await self.own(call)
        return answer(Events.of(await self._engine.entries(record.order.order_id)))

    async def call(self, call: Call) -> web.StreamResponse:
        record, asked = await self.own(call), call.asked(CallRequest)
        if asked.to is not None and not is_local(call.request):
            raise Refused(403, "only the gateway's own machine may name a SIP URI to call; leave 'to' out")
        if not record.may_be_called:
            raise Refused(409, f"the order is {record.state} and cannot be called now")
        return answer(StartedCall(call_id=await self._dial(record, asked.to)), 202)

    async def withdraw(self, call: Call) -> web.StreamResponse:
        record, asked = await self.own(call), call.asked(Withdrawal)
        if record.is_open:
            event = ev.OrderWithdrawn(source="api", reason=asked.reason)
            record = await self._engine.append(record.order.order_id, event)
            if record.state == "withdrawn":
                return answer(OrderState.of(record))
        raise Refused(409, f"the order is {record.state} and cannot be withdrawn")

    async def freeze(self, call: Call) -> web.StreamResponse:
        record, asked = await self.own(call), call.asked(Freeze)
        if record.is_open or record.state in CONFIRMED:
            record = await self._engine.append(record.order.order_id, ev.OrderFrozen(source="api", reason=asked.reason))
            if record.state == "frozen":
                return answer(OrderState.of(record))
        raise Refused(409, f"the order is {record.state} and cannot be frozen")

    async def acknowledge(self, call: Call) -> web.StreamResponse:
        record, asked = await self.own(call), call.asked(Acknowledgement)
        if record.state in CONFIRMED and not record.reference:
            order_id, event = record.order.order_id, ev.BillingAcknowledged(reference=asked.reference, source="api")
            async with self._engine.database.transaction() as connection:
                record = await self._engine.append_within(connection, order_id, event)
                if record.reference == asked.reference:
                    await keep_reference(connection, order_id, call.tenant, asked.reference, self._now())
        if record.reference == asked.reference:
            return answer(OrderState.of(record))
        if record.reference:
            raise Refused(409, f"the order already has the reference {record.reference!r}")
        raise Refused(409, f"the order is {record.state}: only a confirmed one has a reference")

    async def own(self, call: Call) -> Record:
        """The order in the path, if it is the caller's; a stranger's is as unknown as none. Raises UnknownOrder, ErasedRecord."""
        return await self._engine.record(await own_order(self._engine, call))

    async def _complete(self, connection: Connection, tenant: str, asked: NewOrder) -> OrderRequest:
        """With the terms that it names. Raises OrderRefused when there are none of that name."""
        if "offer" in asked.model_fields_set:
            return asked.with_offer(asked.offer)
        offer = await self._offers.terms(connection, tenant, asked.offer_id)
        if offer is None:
            raise OrderRefused([Fault("offer_id", f"there is no offer {asked.offer_id!r} that is not withdrawn")])
        return asked.with_offer(offer)

    def _admissible(self, asked: OrderRequest) -> DialplanRef:
        """The dialplan of an order. Raises OrderRefused when the gateway cannot run it in the order's language."""
        faults = []
        language = asked.subscriber.language
        dialplan = self._offered.dialplans.get(asked.dialplan)
        if dialplan is None:
            known = ", ".join(self._offered.dialplans)
            faults.append(Fault("dialplan", f"there is no dialplan {asked.dialplan!r}; there are {known}"))
        elif language not in dialplan.languages:
            faults.append(Fault("dialplan", f"{asked.dialplan} is not for {language!r}"))
        if language not in self._offered.languages:
            listening = ", ".join(sorted(self._offered.languages))
            faults.append(
                Fault("subscriber.language", f"no model listens in {language!r} here; {listening} can be heard")
            )
        if faults or dialplan is None:
            raise OrderRefused(faults)
        return dialplan.ref
