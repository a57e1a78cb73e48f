"""The one loop: load the record, decide, append the event and enqueue its effects, all in one transaction.

Everything that happens to an order, on a call, by SMS, by API or by a timer, comes through :meth:`Engine.append`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import structlog
from pydantic import ValidationError

from gateway import deliveries
from gateway.consent import events as ev
from gateway.consent.code import Reply, code_matches, derive_code, read_reply
from gateway.consent.effects import (
    BlockNumber,
    Effect,
    ExpireChallenge,
    IssueChallenge,
    Notify,
    PlaceCall,
    Provision,
    RenderPrompts,
    SendSms,
)
from gateway.consent.errors import ConsentError, Fault, OrderRefused
from gateway.consent.order import DialplanRef, Order, OrderRequest, Policy, check_order, mask
from gateway.consent.record import CONFIRMED, ENDS, Record, begin, challenge_expiry, reduce, replay
from gateway.ledger.envelope import close
from gateway.ledger.errors import LedgerError
from gateway.ledger.sealing import Keyring, events_key, new_key
from gateway.store import ledger
from gateway.store.database import Connection, Database, sql
from gateway.store.errors import ErasedRecord, NotErasable
from gateway.store.jobs import enqueue
from gateway.webhooks import Subscriptions

log = structlog.get_logger(__name__)
DEADLOCKS = 3
Result = TypeVar("Result")
TICK = timedelta(microseconds=1)
MOST_TAILS = 10_000
LONGEST_CALL = timedelta(hours=12)
"""A call that began before that, and of whose end nobody told, is over: its gateway died and never came back."""
OPEN = ("ordered", "calling", "spoken", "challenged")
STOPPABLE = (*OPEN, "confirmed", "provisioning")
"""A stop word still ends these: billing has not taken them."""

ANSWERABLE = ("challenged", "expired", "frozen", *CONFIRMED)
NO_ENDS = ENDS - {"provisioned"}
"""What the database is told, too: such an order is never confirmed."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """What became of a message from a subscriber: ``result`` is one of taken, repeated, unknown_number."""

    result: str
    order_id: str | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of a record: its last event, what all of them add up to, and what they are sealed with."""

    seq: int
    hash: str
    at: datetime
    record: Record
    key: bytes


class Engine:
    """*now* gives aware UTC times; *secret* is what codes are derived from, *keyring* what records are sealed with."""

    def __init__(
        self, database: Database, *, policy: Policy, secret: bytes, keyring: Keyring, gateway: str,
        now: Callable[[], datetime], subscriptions: Subscriptions | None = None,
    ) -> None:  # fmt: skip
        self.database = database
        self.policy = policy
        self.keyring = keyring
        self.gateway = gateway
        self._secret = secret
        self._now = now
        self._subscriptions = subscriptions or Subscriptions()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    async def create(self, request: OrderRequest, tenant: str, dialplan: DialplanRef) -> Record:
        """Open the record of a new order. Raises OrderRefused with every fault (rules R5, R6, R7, R11)."""
        async with self.database.transaction() as connection:
            return await self.create_within(connection, request, tenant, dialplan)

    async def create_within(
        self, connection: Connection, request: OrderRequest, tenant: str, dialplan: DialplanRef
    ) -> Record:
        """The same, in the caller's transaction."""
        now, policy, subscriber = self._now(), self.policy, request.subscriber
        check_order(request, policy, now.astimezone(ZoneInfo(subscriber.time_zone)).date())
        order = Order(
            order_id=str(uuid4()), tenant=tenant, subscriber=subscriber, offer=request.offer, fit=request.fit,
            dialplan=dialplan, salt=token_hex(16),
        )  # fmt: skip
        event = ev.OrderCreated(
            order=order,
            order_hash=order.order_hash,
            call_now=request.call == "now",
            limits=ev.Limits(
                call_attempts=policy.call_attempts, call_retry_s=policy.call_retry_s,
                code_ttl_s=policy.code_ttl_s, code_tries=policy.code_tries, disclosure_loss=policy.disclosure_loss,
            ),
        )  # fmt: skip
        entry = ev.Entry(order_id=order.order_id, seq=1, event_id=str(uuid4()), at=now, event=event)
        record, effects = begin(entry)
        if await connection.fetchval(sql("is_blocked"), subscriber.number):
            raise OrderRefused([Fault("subscriber.number", "is on the do-not-call list (rule R11)")])
        key = new_key()
        await ledger.insert_order(connection, record, now)
        await ledger.insert_record_key(connection, self.keyring, order.order_id, key)
        envelope, entry = close(entry, "", events_key(key))
        await ledger.insert_entries(connection, [(entry, envelope)])
        await self._enqueue(connection, record, entry, effects, events_key(key))
        log.info("order.created", order=order.order_id, tenant=tenant, number=mask(subscriber.number))
        return record

    async def check_keyring(self) -> None:
        """Raises WrongSecret when the records here are sealed with another secret."""
        async with self.database.pool.acquire() as connection:
            await ledger.check_keyring(connection, self.keyring)

    async def append(self, order_id: str, *events: ev.Event) -> Record:
        """Append *events* to a record, all of them or none, and let follow what follows. Raises UnknownOrder, ErasedRecord."""

        async def run() -> Record:
            async with self.database.transaction() as connection:
                return await self.append_within(connection, order_id, *events)

        return await _again_if_deadlocked(run)

    async def record(self, order_id: str) -> Record:
        """Raises UnknownOrder, ErasedRecord."""
        return replay(await self.entries(order_id))

    async def entries(self, order_id: str) -> list[ev.Entry]:
        """Raises UnknownOrder, ErasedRecord."""
        async with self.database.pool.acquire() as connection:
            return await self._entries(connection, order_id)

    async def record_key(self, order_id: str) -> bytes:
        """What everything of the order is sealed with. Raises UnknownOrder, ErasedRecord."""
        async with self.database.pool.acquire() as connection:
            return await ledger.record_key(connection, self.keyring, order_id)

    async def open_order_of(self, number: str) -> Record | None:
        """The newest order of *number* that a call may be about now."""
        async with self.database.pool.acquire() as connection:
            order_ids = await ledger.orders_of(connection, number, ("ordered",))
            return replay(await self._entries(connection, order_ids[0])) if order_ids else None

    async def erase(self, order_id: str, *, by: str, reason: str) -> None:
        """Forget the person: the record says so, and its key is destroyed with that event (rule R14). What its calls have left on
        the disks of gateways is noted for them to delete. Raises UnknownOrder, ErasedRecord, NotErasable.
        """
        async with self.database.transaction() as connection:
            for call_id, gateway in await self._erasable(connection, order_id):
                await connection.execute(sql("insert_erased_call"), call_id, gateway, self._now())
            await self.append_within(connection, order_id, ev.RecordErased(by=by, reason=reason))
            await connection.execute(sql("erase_record"), UUID(order_id))
        log.info("record.erased", order=order_id)

    async def check_erasable(self, order_id: str) -> None:
        """Raises NotErasable, saying why, where :meth:`erase` would; UnknownOrder, ErasedRecord."""
        async with self.database.transaction() as connection:
            await self._erasable(connection, order_id)

    async def forget_erased(self) -> None:
        """Drop from memory what is left there of people whom another gateway has erased."""
        known = [UUID(order_id) for order_id in self._tails]
        for row in await self.database.pool.fetch(sql("orders_without_key"), known):
            self._tails.pop(str(row["order_id"]), None)

    async def _erasable(self, connection: Connection, order_id: str) -> list[tuple[str, str]]:
        """The calls of a record that may be erased, each with the gateway that ran it; nobody else appends meanwhile."""
        record = (await self._locked_tail(connection, order_id)).record
        if record.held:
            raise NotErasable(f"order {order_id} is under a legal hold; release it first")
        if not record.ended:
            mend = (
                "withdraw it (record withdraw)"
                if record.is_open
                else "let billing answer, or freeze it (record freeze),"
            )
            raise NotErasable(f"order {order_id} is {record.state}: {mend} first")
        if await connection.fetchval(sql("has_pending_deliveries"), UUID(order_id)):
            raise NotErasable(f"order {order_id} has a webhook under way: let it arrive or die first")
        entries = await self._entries(connection, order_id)
        over = {entry.event.call_id for entry in entries if isinstance(entry.event, ev.CallEnded)}
        begun = [(entry.at, entry.event) for entry in entries if isinstance(entry.event, ev.CallStarted)]
        for at, call in begun:
            if call.call_id not in over and self._now() - at < LONGEST_CALL:
                raise NotErasable(f"order {order_id} has a call under way at {call.gateway}: let it end first")
        return [(call.call_id, call.gateway) for _, call in begun]

    async def take_message(self, channel: str, message_id: str, number: str, text: str) -> Inbound:
        """A message from *number* (E.164): matched to its newest challenged order, read, judged and recorded."""
        return await _again_if_deadlocked(lambda: self._take_message(channel, message_id, number, text))

    async def _take_message(self, channel: str, message_id: str, number: str, text: str) -> Inbound:
        reply = read_reply(text)
        async with self.database.transaction() as connection:
            seen = await connection.fetchrow(sql("select_inbound_message"), channel, message_id)
            if seen is not None:
                return await self._repeated(connection, seen["order_id"], message_id)
            order_ids = await self._orders_for(connection, number, reply)
            for known in sorted(order_ids):  # before anything refers to them: else two replies wait for each other
                await ledger.lock_order(connection, known)
            order_id = order_ids[0] if order_ids else None
            result = "taken" if order_id else "unknown_number"
            inserted = await connection.fetchval(
                sql("insert_inbound_message"),
                channel, message_id, number, UUID(order_id) if order_id else None, result, self._now(),
            )  # fmt: skip
            if inserted is None:  # the same message on another connection, a moment ago
                return Inbound("repeated")
            if order_id is None:
                log.info("reply.unknown_number", channel=channel, number=mask(number))
                return Inbound(result)
            record = (await self._locked_tail(connection, order_id)).record
            matches = reply.reading == "code" and code_matches(reply.code, self.code(record))
            event = ev.ReplyReceived(message_id=message_id, channel=channel, reading=reply.reading, matches=matches)
            record = await self.append_within(connection, order_id, event)
            for other in order_ids[1:]:
                await self.append_within(connection, other, event)
        log.info("reply.taken", order=order_id, reading=reply.reading, matches=matches, state=record.state)
        return Inbound(result, order_id, record.state)

    def code(self, record: Record) -> str:
        """The code of the record's challenge; empty when there is none."""
        challenge = record.challenge
        if challenge is None:
            return ""
        number = record.order.subscriber.number
        return derive_code(self._secret, record.order_hash, number, challenge.challenge_id, challenge.nonce)

    async def lost_calls(self) -> list[Record]:
        """The records whose call this gateway was running when it last died."""
        async with self.database.pool.acquire() as connection:
            lost = [str(row["order_id"]) for row in await connection.fetch(sql("orders_calling_at"), self.gateway)]
        records: list[Record] = []
        for order_id in lost:
            try:
                records.append(await self.record(order_id))
            except (ConsentError, LedgerError, ErasedRecord, ValidationError) as error:
                log.error("record.unreadable", order=order_id, error=str(error))
        return records

    async def _entries(self, connection: Connection, order_id: str) -> list[ev.Entry]:
        key = events_key(await ledger.record_key(connection, self.keyring, order_id))
        return await ledger.load_entries(connection, order_id, key)

    async def _orders_for(self, connection: Connection, number: str, reply: Reply) -> list[str]:
        """A stop word goes to every open order; a code to the challenged order whose it is, a wrong one to the newest; what
        comes when nothing is challenged any more, to the newest that it may come late to.
        """
        stop = reply.reading == "stop"
        for states in (STOPPABLE if stop else ("challenged",), ANSWERABLE):
            order_ids = await ledger.orders_of(connection, number, states)
            if not order_ids:
                continue
            if stop and states is STOPPABLE:
                return order_ids
            for order_id in order_ids if len(order_ids) > 1 and reply.code else ():
                record = replay(await self._entries(connection, order_id))
                if code_matches(reply.code, self.code(record)):
                    return [order_id]
            return order_ids[:1]
        return []

    async def _repeated(self, connection: Connection, order_id: UUID | None, message_id: str) -> Inbound:
        if order_id is None:
            return Inbound("repeated")
        record = await self.append_within(connection, str(order_id), ev.ReplyRepeated(message_id=message_id))
        return Inbound("repeated", str(order_id), record.state)

    async def append_within(self, connection: Connection, order_id: str, *events: ev.Event) -> Record:
        """As :meth:`append`, in the caller's transaction."""
        tail = await self._locked_tail(connection, order_id)
        first, record = tail.record, tail.record
        steps: list[tuple[ev.Entry, Record, Record, tuple[Effect, ...]]] = []
        envelopes: list[str] = []
        waiting = deque(events)
        while waiting:
            at = max(self._now(), tail.at + TICK)  # a clock that goes backwards never reorders a record
            event = waiting.popleft()
            entry = ev.Entry(order_id=order_id, seq=tail.seq + 1, event_id=str(uuid4()), at=at, event=event)
            envelope, entry = close(entry, tail.hash, tail.key)
            before, (record, effects) = record, reduce(record, entry)
            tail = _Tail(entry.seq, entry.hash, at, record, tail.key)
            steps.append((entry, before, record, effects))
            envelopes.append(envelope)
            if any(isinstance(effect, IssueChallenge) for effect in effects):
                expires_at = challenge_expiry(record, at)
                waiting.appendleft(
                    ev.ChallengeIssued(challenge_id=str(uuid4()), nonce=token_hex(16), expires_at=expires_at)
                )
        await ledger.insert_entries(
            connection, [(entry, text) for (entry, *_), text in zip(steps, envelopes, strict=True)]
        )
        for entry, before, after, _ in steps:
            await self._prove(connection, entry, before, after)
        if record is not first:
            await ledger.project(connection, record, tail.at)
        for entry, _, after, effects in steps:
            await self._enqueue(connection, after, entry, effects, tail.key)
        if record.erased:
            self._tails.pop(order_id, None)
        else:
            self._keep(order_id, tail)
        return record

    async def _prove(self, connection: Connection, entry: ev.Entry, before: Record, after: Record) -> None:
        """What the database keeps a second time of the step from *before* to *after*."""
        if after.spoken is not None and before.spoken is None:
            await ledger.insert_spoken(connection, after.spoken)
        if after.confirmation is not None and before.confirmation is None:
            await ledger.insert_confirmation(connection, after.confirmation)
        if after.state != before.state and after.state in NO_ENDS:
            await ledger.insert_refusal(connection, entry, after.state)

    async def _locked_tail(self, connection: Connection, order_id: str) -> _Tail:
        """Where the record stands, nobody else appending. Raises UnknownOrder.

        The last record seen here is good as long as its hash is that of the last event; else all events are read again. So
        an append costs the same however long the record is, and a rolled-back one leaves nothing behind.
        """
        await ledger.lock_order(connection, order_id)
        kept = self._tails.get(order_id)
        if kept is not None and kept.hash == await ledger.last_hash(connection, order_id):
            return kept
        self._tails.pop(order_id, None)
        key = events_key(await ledger.record_key(connection, self.keyring, order_id))
        entries = await ledger.load_entries(connection, order_id, key)
        last = entries[-1]
        return _Tail(last.seq, last.hash, last.at, replay(entries), key)

    def _keep(self, order_id: str, tail: _Tail) -> None:
        self._tails[order_id] = tail
        self._tails.move_to_end(order_id)
        while len(self._tails) > MOST_TAILS:
            self._tails.popitem(last=False)

    async def _enqueue(
        self, connection: Connection, record: Record, entry: ev.Entry, effects: tuple[Effect, ...], key: bytes
    ) -> None:
        order_id, event_id = entry.order_id, entry.event_id
        for effect in effects:
            match effect:
                case RenderPrompts():
                    await enqueue(connection, "render_prompts", f"{event_id}:render", {"order_id": order_id})
                case PlaceCall(after_s):
                    run_at = entry.at + timedelta(seconds=after_s)
                    payload: dict[str, Any] = {"order_id": order_id, "attempt": record.calls + 1}
                    await enqueue(connection, "place_call", f"{event_id}:call", payload, run_at=run_at)
                case ExpireChallenge(challenge_id, at):
                    payload = {"order_id": order_id, "challenge_id": challenge_id}
                    await enqueue(connection, "expire_challenge", f"{event_id}:expire", payload, run_at=at)
                case SendSms(kind, tries_left):
                    payload = {"order_id": order_id, "kind": kind, "tries_left": tries_left, "event_id": event_id}
                    await enqueue(connection, "send_sms", f"{event_id}:sms", payload)
                case Notify(kind):
                    await deliveries.notify(connection, record, kind, entry, key, self._subscriptions)
                case Provision(confirmation):
                    await deliveries.confirm(connection, record, confirmation, entry, key)
                case BlockNumber():
                    number = record.order.subscriber.number
                    await connection.execute(sql("block_number"), number, record.reason, UUID(order_id), entry.at)
                    await self.end_orders_of(connection, number, but=order_id)
                case IssueChallenge():
                    pass  # answered by append_within with challenge.issued, in this same transaction

    async def withdraw_if_blocked(self, record: Record) -> bool:
        """Whether the order is of a number that is not to be called (rule R11): it may have come on the list since."""
        async with self.database.pool.acquire() as connection:
            if not await connection.fetchval(sql("is_blocked"), record.order.subscriber.number):
                return False
        event = ev.OrderWithdrawn(source="do_not_call", reason="the number asked not to be called again")
        await self.append(record.order.order_id, event)
        return True

    async def end_orders_of(self, connection: Connection, number: str, *, but: str = "") -> None:
        """Who asks not to be called again is asked about nothing else either."""
        event = ev.OrderWithdrawn(source="do_not_call", reason="the number asked not to be called again")
        for other in sorted(await ledger.orders_of(connection, number, OPEN)):
            if other != but:
                await self.append_within(connection, other, event)


async def _again_if_deadlocked(work: Callable[[], Awaitable[Result]]) -> Result:
    """*work* is one transaction. A stop word takes several orders together, and two may meet: who has to give way tries again."""
    for _ in range(DEADLOCKS):
        try:
            return await work()
        except asyncpg.DeadlockDetectedError:
            log.warning("engine.deadlock")
    return await work()
