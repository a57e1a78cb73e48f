"""Calls, in and out: from a ringing line to the end of the recording."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import asyncpg
import structlog

from gateway.consent import events as ev
from gateway.consent.order import mask, normalise_number
from gateway.consent.record import Record
from gateway.conversation import Conversation, new_call_id
from gateway.engine import Engine
from gateway.frames import FrameStore
from gateway.house import House
from gateway.ledger.sealing import recording_key
from gateway.speech.errors import SpeechError
from gateway.speech.prompts import PromptStore
from gateway.store.database import UNREACHABLE
from gateway.tasks import Tasks
from gateway.telephony.admission import Destinations
from gateway.telephony.agent import UserAgent
from gateway.telephony.call import Call
from gateway.telephony.errors import CallFailed, CallOver, TelephonyError
from gateway.telephony.invitation import Invitation
from gateway.telephony.lines import Line
from gateway.telephony.message import parse_sip_uri
from gateway.telephony.routing import Peer

log = structlog.get_logger(__name__)
PREPARE_S = 30.0
NOTE_AGAIN_S = 5.0
LONGEST_WAIT_S = 60.0
NOTE_TRIES = 120
GOODBYE_S = 20.0
CLOSE_S = 3.0
_OUTCOMES: dict[int, ev.CallOutcome] = {
    408: "no_answer", 480: "no_answer", 487: "no_answer", 486: "busy", 600: "busy", 403: "rejected", 603: "rejected",
}  # fmt: skip


class Calls:
    """Every call of this gateway. Outbound ones leave over the first of *lines* that has room, to *destinations* alone."""

    def __init__(
        self,
        agent: UserAgent,
        engine: Engine,
        house: House,
        prompts: PromptStore,
        lines: tuple[Line, ...],
        destinations: Destinations,
        *,
        region: str,
        transfer_targets: dict[str, str],
    ) -> None:
        self._agent = agent
        self._engine = engine
        self._house = house
        self._prompts = prompts
        self._frames = FrameStore()
        self._lines = lines
        self._destinations = destinations
        self._region = region
        self._office = agent.engine.office
        self._transfer_targets = transfer_targets
        self._conversations: set[Conversation] = set()
        self._dialling: set[asyncio.Future[Call]] = set()
        """Phones that ring."""
        self._tasks = Tasks("call")

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping and begins no more calls."""
        return self._agent.draining

    async def dial(self, record: Record, target: str | None = None) -> str:
        """Begin an outbound call about *record*, to the SIP URI *target* or its number over the first line.

        Returns the call's id once the record says that it is being called. Raises BadMessage for a *target* that is no
        SIP URI, CallFailed when the call cannot be begun.
        """
        if target is not None:
            parse_sip_uri(target)
        if self.draining:
            raise CallFailed(503, "the gateway is stopping")
        if self._office.full:
            raise CallFailed(503, self._office.full)
        if not self._lines and target is None:
            raise CallFailed(503, "no line is configured: add [[lines]] to the settings")
        plan = self._house.plan_for(record.order)
        if plan is None:
            raise CallFailed(503, f"the dialplan {record.order.dialplan.name} was changed since the order was made")
        await self.prepare(record)
        number = record.order.subscriber.number
        if target is None and not self._destinations.allows(number):
            raise CallFailed(403, self._destinations.refusal(number))
        line = self._line(target)
        if await self._engine.withdraw_if_blocked(record):
            raise CallFailed(486, "the number is on the do-not-call list")
        call_id = new_call_id()
        await self._seal(record, call_id)
        await self._start(record, call_id, "outbound")
        self._tasks.spawn(self._outbound(record, call_id, line, target))
        return call_id

    def _line(self, target: str | None) -> Line:
        """The first line that may carry one more call; for a *target* named by hand, the line that it belongs to.

        Raises CallFailed(503) when every line is full.
        """
        if target is not None:
            host = parse_sip_uri(target).host
            own = next((line for line in self._lines if host in {peer.host for peer in line.peers}), None)
            # a host that was named by hand gets no answer to a challenge: our password is the line's alone
            return own or Line(
                "direct", (Peer(host),), from_user=self._lines[0].from_user if self._lines else "gateway"
            )
        refusals = [f"line {line.name}: {line.route.may_call()}" for line in self._lines]
        for line in self._lines:
            if line.route.may_call() is None:
                return line
        raise CallFailed(503, "; ".join(refusals))

    async def note_failed(self, record: Record, reason: str) -> None:
        """Write down an attempt that could not even be begun, so that the order goes on or ends by its limits."""
        call_id = new_call_id()
        await self._start(record, call_id, "outbound")
        await self._note(record, _ended(call_id, "failed", reason))

    async def on_invite(self, invitation: Invitation) -> None:
        """A call comes in: match the caller to the newest open order and run its script."""
        number = self._caller(invitation.number)
        record = await self._engine.open_order_of(number) if number else None
        if record is None:
            log.info("call.no_order", number=mask(invitation.number))
            await self._turn_away(invitation)
            return
        if self._house.plan_for(record.order) is None:
            log.error("call.dialplan_changed", order=record.order.order_id, dialplan=record.order.dialplan.name)
            invitation.reject(480)
            return
        if self._office.full:
            log.error("call.not_recordable", order=record.order.order_id, error=self._office.full)
            invitation.reject(480)
            return
        invitation.ring()
        try:
            await self.prepare(record)
            call_id = new_call_id()
            await self._seal(record, call_id)
            await self._start(record, call_id, "inbound")
        except (SpeechError, CallFailed) as error:
            log.error("call.not_prepared", order=record.order.order_id, error=str(error))
            invitation.reject(480)
            return
        try:
            call = await invitation.answer(call_id)
        except TelephonyError as error:
            await self._note(record, _ended(call_id, "failed", str(error)))
            return
        except BaseException:
            self._tasks.spawn(self._note(record, _ended(call_id, "failed", "the gateway failed")))
            raise
        self._tasks.spawn(self._converse(call, record))

    async def drain(self, seconds: float) -> None:
        """Let running calls end by themselves for *seconds*, then say goodbye and hang up."""
        self._agent.draining = True
        await self._tasks.wait(seconds)
        for conversation in tuple(self._conversations):
            self._tasks.spawn(conversation.say_goodbye("the gateway is stopping"))
        await self._tasks.wait(GOODBYE_S)

    async def hang_up(self) -> None:
        """End the calls that are left, and those that still ring, at once, and let their records be closed."""
        for dialling in tuple(self._dialling):
            dialling.cancel()
        for call in self._agent.calls:
            call.hangup("the gateway is stopping")
        await self._tasks.wait(CLOSE_S)

    async def _outbound(self, record: Record, call_id: str, line: Line, target: str | None) -> None:
        began = time.monotonic()
        number, dialplan = record.order.subscriber.number, record.order.dialplan.name
        if target is None:
            dialling = asyncio.ensure_future(
                line.call(self._agent, number, call_id, dialplan=dialplan, allows=self._destinations.allows)
            )
        else:
            dialling = asyncio.ensure_future(line.call_uri(self._agent, target, call_id, dialplan=dialplan))
        self._dialling.add(dialling)
        dialling.add_done_callback(self._dialling.discard)
        try:
            call = await dialling
        except asyncio.CancelledError:
            await self._note(record, _ended(call_id, "failed", "the gateway is stopping"))
            return
        except TelephonyError as error:
            status = error.status if isinstance(error, CallFailed) else 503
            waited = int((time.monotonic() - began) * 1000)
            await self._note(record, _ended(call_id, _OUTCOMES.get(status, "failed"), str(error), waited))
            return
        except Exception:
            await self._note(record, _ended(call_id, "failed", "the gateway failed"))
            raise
        await self._converse(call, record)

    async def _converse(self, call: Call, record: Record) -> None:
        """The call itself, and whatever comes: its recording is kept and its end written down."""
        last: list[ev.Event] = [_ended(call.call_id, "failed", "the gateway failed")]
        try:
            conversation = await self._prepared(call, record)
            self._conversations.add(conversation)
            try:
                ended = await conversation.run()
                last = [*conversation.unwritten, ended]
            finally:
                self._conversations.discard(conversation)
        finally:
            await self._close(call, record, last)

    async def _prepared(self, call: Call, record: Record) -> Conversation:
        order, codec = record.order, call.stream.terms.codec
        plan, language = self._house.plan_for(order), order.subscriber.language
        assert plan is not None, "looked up before the call began"
        await self.prepare(record)  # at once, unless what was prepared has been forgotten while the phone rang
        prompts = {name: self._prompts.get(wording) for name, wording in self._house.wordings(order).items()}
        return Conversation(
            call, record, plan, self._house.packs[language],
            {name: (prompt, self._frames.get(prompt, codec)) for name, prompt in prompts.items()},
            engine=self._engine, listener=self._house.listeners[language], transfer_targets=self._transfer_targets,
        )  # fmt: skip

    async def _close(self, call: Call, record: Record, last: list[ev.Event]) -> None:
        """Keep the recording, and write down the *last* events: every no that is not written yet, then the end."""
        kept: ev.RecordingKept | ev.RecordingFailed
        try:
            recording = await call.close()
        except OSError as error:
            log.error("recording.failed", call=call.call_id, error=str(error))
            kept = ev.RecordingFailed(call_id=call.call_id, reason=str(error))
        else:
            assert recording is not None, "the call was not closed before"
            kept = ev.RecordingKept(
                call_id=call.call_id, sha256=recording.sha256, duration_ms=recording.duration_ms, rate=recording.rate,
                blocks=recording.blocks,
            )  # fmt: skip
        *refusals, ended = last
        await self._note(record, *refusals, kept, ended)

    async def _seal(self, record: Record, call_id: str) -> None:
        """Let the recording of the call be sealed with the record's key."""
        key = await self._engine.record_key(record.order.order_id)
        self._office.use_key(call_id, recording_key(key, call_id))

    async def _note(self, record: Record, *events: ev.Event) -> None:
        """Append *events*, and again while the database is away, however long; :data:`NOTE_TRIES` times where it refuses them: a call
        that ended must not seem to go on.
        """
        for tries in itertools.count(1):
            try:
                await self._engine.append(record.order.order_id, *events)
            except (*UNREACHABLE, asyncpg.PostgresError) as error:
                kinds = [event.type for event in events]
                log.error("call.not_noted", order=record.order.order_id, events=kinds, error=str(error), tries=tries)
                if not isinstance(error, UNREACHABLE) and tries >= NOTE_TRIES:
                    log.error("call.never_noted", order=record.order.order_id, events=kinds)
                    return
                await asyncio.sleep(min(LONGEST_WAIT_S, NOTE_AGAIN_S * tries))
            else:
                return

    async def _start(self, record: Record, call_id: str, direction: Any) -> None:
        """Claim the record for this call. Raises CallFailed when somebody else was quicker."""
        started = ev.CallStarted(call_id=call_id, gateway=self._engine.gateway, direction=direction)
        try:
            after = await self._engine.append(record.order.order_id, started)
        except BaseException:  # perhaps it was written before the connection was lost: then it must end
            self._tasks.spawn(self._note(record, _ended(call_id, "failed", "the call could not be begun")))
            raise
        if after.call_id != call_id:
            raise CallFailed(486, f"order {record.order.order_id} is {after.state}")

    async def prepare(self, record: Record) -> None:
        """Have everything that a call about *record* may say spoken, and cut into frames. Raises SpeechError."""
        async with asyncio.timeout(PREPARE_S):
            wordings = self._house.wordings(record.order).values()
            await self._prompts.prepare(wordings)
            await self._frames.prepare(self._prompts.get(wording) for wording in wordings)

    async def _turn_away(self, invitation: Invitation) -> None:
        """Say politely that there is nothing to talk about, and end. Nothing of it is recorded as an order's."""
        language = next(iter(self._house.packs))
        greeting = self._house.greeting(language)
        await self._prompts.prepare([greeting])
        prompt = self._prompts.get(greeting)
        await self._frames.prepare([prompt])
        try:
            call = await invitation.answer(new_call_id())
        except TelephonyError as error:
            log.info("call.not_answered", error=str(error))
            return
        recorder, call.stream.recorder = call.stream.recorder, None
        if recorder is not None:
            recorder.discard()
        try:
            await call.play(self._frames.get(prompt, call.stream.terms.codec))
        except CallOver as over:
            log.info("call.turned_away", reason=str(over))
        await call.close()

    def _caller(self, user: str) -> str:
        """The caller's number in E.164; empty when it is none."""
        try:
            return normalise_number(user, self._region)
        except ValueError:
            return ""


def _ended(call_id: str, outcome: ev.CallOutcome, reason: str, duration_ms: int = 0) -> ev.CallEnded:
    return ev.CallEnded(call_id=call_id, outcome=outcome, reason=reason, duration_ms=duration_ms)
