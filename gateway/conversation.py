"""One call: drives the dialplan over the line, and writes down everything that is said on it.

The way of the data: call → utterance → verdict → event. What an event means is the engine's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import asyncpg
import structlog

from gateway.consent import events as ev
from gateway.consent.disclosure import Disclosure
from gateway.consent.record import Record
from gateway.consent.testimony import Grammar, Testimony
from gateway.consent.verdict import Judgement, judge
from gateway.dialplan import interpreter as script
from gateway.dialplan.model import Dialplan
from gateway.ears import Tap, Watch
from gateway.engine import Engine
from gateway.language.pack import WATCH, LanguagePack
from gateway.machines import MachineHeard, MachineWatch
from gateway.minutes import Minutes
from gateway.prompter import Prompter
from gateway.speech.errors import DecoderLost
from gateway.speech.listener import Hearing, Listener, Session
from gateway.speech.prompts import Prompt
from gateway.store.database import UNREACHABLE
from gateway.telephony.call import Call
from gateway.telephony.errors import CallOver
from gateway.telephony.media import Frames

log = structlog.get_logger(__name__)
MOST_CALL_S = 900.0
"""The longest call: a far end that holds the line and is never heard again must not keep it for ever."""
PARTING_S = 1.5
"""How long after the end of the call its last words may take to be understood."""

SETTLE_S = 3.0
"""How long a callee who speaks when a prompt ends may take to finish: a refusal, the silence behind it, and the decoder."""

GOODBYE_S = 15.0
LOST = (*UNREACHABLE, asyncpg.PostgresError)
"""The database is away, or could not be told."""


class Conversation:
    """Runs *plan* on an answered *call* about the order of *record*; *prompts* holds all that it can say,
    by name, with the frames in the law of the call.
    """

    def __init__(
        self,
        call: Call,
        record: Record,
        plan: Dialplan,
        pack: LanguagePack,
        prompts: Mapping[str, tuple[Prompt, Frames]],
        *,
        engine: Engine,
        listener: Listener,
        transfer_targets: dict[str, str],
    ) -> None:
        self._call = call
        self._record = record
        self._order_id = record.order.order_id
        self._plan = plan
        self._grammars = pack.grammars
        self._engine = engine
        self._listener = listener
        self._transfer_targets = transfer_targets
        self.unwritten: list[ev.Event] = []
        """Every no that the database could not be told of: whoever closes the call writes it down before its end."""
        self._stopping = False
        self._parting: asyncio.Task[None] | None = None
        self._step = plan.start
        self._captures: dict[str, ev.Capture] = {}
        self._minutes = Minutes(call.call_id, self._note)
        self._machines = MachineWatch(call, plan, pack, self._note)
        self._watch = Watch(call.stream, listener, WATCH, self._on_aside, self._machines.take)
        self._machine = ""
        self._goodbye = prompts[plan.goodbye][1]
        self._prompter = Prompter(
            call, prompts, note=self._note, loss_allowed=record.limits.disclosure_loss, why=self._interruption
        )

    async def run(self) -> ev.CallEnded:
        """The whole call. Returns how it ended; the caller of this appends that, when the recording is finished."""
        actions = script.run(self._plan, outbound=self._call.direction == "outbound")
        action = next(actions)
        outcome: ev.CallOutcome = "failed"
        reason = ""
        self._call.stream.on_unrecorded = self._on_unrecorded
        try:
            async with asyncio.timeout(MOST_CALL_S):
                while not isinstance(action, script.End):
                    self._step = action.step
                    action = actions.send(await self._do_unless_machine(action))
            outcome, reason = action.outcome, action.reason
            if outcome != "transferred":
                self._call.hangup(f"the script ended: {outcome}")
        except CallOver as over:
            by_caller = self._call.ended.result().by == "caller"
            outcome, reason = ("hung_up", f"at {action.step}") if by_caller else ("failed", f"{over} at {action.step}")
            await self._watch.settled(PARTING_S)  # the last words before the caller hung up
        except Exception:
            log.exception("conversation.failed", call=self._call.call_id, step=action.step)
            outcome, reason = "failed", f"the gateway failed at {action.step}"
            await self.say_goodbye("the gateway failed")
        finally:
            self._watch.off()
            self._machines.person()
            self._call.stream.on_unrecorded = None
        if self._parting is not None:
            await self._parting
        try:
            await self._minutes.write_asides()
            await self._prompter.lost()
        except LOST as error:
            log.error("conversation.unwritten", call=self._call.call_id, error=str(error))
            self.unwritten += [aside for aside in self._minutes.unwritten() if _is_no(aside)]
        machine = self._plan.machine if self._machine else None
        return ev.CallEnded(
            call_id=self._call.call_id,
            outcome="machine" if self._machine else outcome,
            reason=reason if outcome == "machine" or not self._machine else f"{self._machine}; {outcome} {reason}",
            duration_ms=self._call.stream.position_ms,
            next_call=machine and ev.NextCall(wanted=machine.retry, after_s=machine.retry_after_s),
        )

    async def say_goodbye(self, reason: str) -> None:
        """Cut in with the goodbye prompt and hang up. Nothing more of the script is done, and no consent taken."""
        self._stopping = True
        try:
            with contextlib.suppress(TimeoutError):  # on hold nothing is played: the call ends all the same
                async with asyncio.timeout(GOODBYE_S):
                    await self._call.play(self._goodbye)
        except CallOver:
            return
        self._call.hangup(reason)

    def _on_unrecorded(self, reason: str) -> None:
        """A call that is not recorded ends, politely (rule R8), and no consent is taken from now on."""
        self._stopping = True
        if self._parting is None:
            self._parting = asyncio.create_task(self.say_goodbye(reason))

    async def _do_unless_machine(self, action: script.Action) -> script.Result:
        """What came of *action*, or that a machine was heard in the middle of it."""
        try:
            return await self._do(action)
        except MachineHeard as heard:
            self._watch.off()
            self._machine = str(heard)
            return script.MachineFound(self._machine)

    async def _do(self, action: script.Action) -> script.Result:
        if self._stopping and not isinstance(action, script.Deny):  # a no that was heard is written down all the same
            raise CallOver((await self._call.ended).reason)
        match action:
            case script.Detect():
                await self._machines.detect()
                return script.Done()
            case script.AwaitBeep():
                return script.Done(ok=await self._machines.takes_message())
            case script.Play():
                return await self._play(action)
            case script.Question():
                return await self._ask(action)
            case script.Grant():
                self._call.stream.save()
                event = ev.ConsentSpoken(
                    call_id=self._call.call_id, order_hash=self._record.order_hash,
                    captures=tuple(self._captures.values()),
                )  # fmt: skip
                record = await self._engine.append(self._order_id, event)
                return script.Done(ok=record.spoken is not None and not record.ended)
            case script.Deny():
                await self._note(ev.ConsentDenied(call_id=self._call.call_id, denial=action.denial, step=action.step))
                return script.Done()
            case script.TransferTo():
                target = self._transfer_targets.get(action.target)
                return script.Done(ok=target is not None and await self._call.transfer(target))
            case script.End():
                raise AssertionError("the end of a script is not something to do")

    async def _note(self, event: ev.Event) -> None:
        try:
            await self._engine.append(self._order_id, event)
        except LOST:
            if _is_no(event):
                self.unwritten.append(event)
            raise

    async def _play(self, action: script.Play) -> script.Played:
        """Play the prompts of *action*; an objection that is heard beside them stops them. Who is speaking when they end may
        finish.
        """
        whole = True
        if action.watch:
            self._watch.on()
        for name in action.prompts:
            if action.watch and (self._watch.objection is not None or self._machines.machine_heard):
                whole = False
                break
            whole = await self._play_prompt(action.step, name, action.disclosure) and whole
        objection = await self._watch.settled(SETTLE_S) if action.watch else None
        await self._minutes.write_asides()
        if objection is not None:
            self._machines.person()
        if action.watch:
            await self._machines.unless_machine()
        return script.Played(whole and objection is None, objection, await self._prompter.lost())

    def _on_aside(self, hearing: Hearing, opened_ms: int) -> Judgement:
        """What was said while a prompt played: it can take consent away, and never give it."""
        judgement = judge(hearing.testimony, self._grammars[WATCH], binding=True)
        self._minutes.remarked(hearing, judgement, opened_ms, self._step)
        return judgement

    async def _play_prompt(
        self, step: str, name: str, disclosure: Disclosure | None = None, session: Session | None = None
    ) -> bool:
        """Play one prompt and note what became of it; whether all of it was sent, or a disclosure heard. Raises CallOver.

        *session* is told that the question has ended, when all that the caller said until then has been fed to it.
        """
        spoken = await self._prompter.speak(name)
        if session is not None:
            await asyncio.sleep(self._call.stream.behind_ms / 1000)
            session.question_ended()
        heard = await self._prompter.prove(spoken, step, disclosure)
        if self._stopping:
            raise CallOver((await self._call.ended).reason)
        if self._call.ended.done():
            raise CallOver(self._call.ended.result().reason)
        return heard

    def _interruption(self) -> ev.Interruption:
        """What cuts a prompt just now, other than the answer to it."""
        ended = self._call.ended
        if self._stopping or (ended.done() and ended.result().by == "gateway"):
            return "stopping"
        if ended.done():
            return "hung_up"
        return "machine" if self._machines.machine_heard else "objection"

    async def _ask(self, action: script.Question) -> script.Heard:
        """Play the question and listen to the answer; a decoder that died means that the question is put again."""
        try:
            hearing, judgement, opened_ms = await self._listen(action)
        except DecoderLost as lost:
            log.warning("conversation.decoder_lost", call=self._call.call_id, step=action.step)
            hearing, judgement, opened_ms = None, Judgement("repeat", str(lost)), self._call.stream.position_ms
        utterance = await self._minutes.answered(
            hearing or Hearing(Testimony()), judgement, opened_ms, action.step, grants_consent=action.grants_consent
        )
        if judgement.verdict not in ("unclear", "noinput", "repeat"):
            self._machines.person()
        if judgement.verdict == "affirm" and action.binding:
            self._captures[action.ask.purpose] = ev.Capture(
                step=action.step, purpose=action.ask.purpose,
                said=utterance.testimony.heard, audio_sha256=utterance.audio_sha256,
            )  # fmt: skip
        return script.Heard(judgement.verdict, await self._prompter.lost())

    async def _listen(self, action: script.Question) -> tuple[Hearing, Judgement, int]:
        """Play the question and listen to the answer; or to the no that is said while it still plays."""
        ask, call = action.ask, self._call
        grammar = self._grammars[ask.grammar]
        loop = asyncio.get_running_loop()
        keys: asyncio.Future[str] = loop.create_future()
        objected: asyncio.Future[Hearing] = loop.create_future()
        await self._listener.ready()
        self._watch.off()

        def cut_in(why: ev.Interruption = "bargein") -> None:
            if ask.bargein:
                self._prompter.stop(why)

        def on_key(key: str) -> None:
            if not keys.done():
                keys.set_result(key)
                cut_in("key")

        def on_aside(hearing: Hearing) -> None:
            judgement = judge(hearing.testimony, grammar, binding=True)
            if judgement.verdict in ("deny", "stop") and not objected.done():
                objected.set_result(hearing)
                self._prompter.stop("objection")
            else:
                self._minutes.remarked(hearing, judgement, tap.opened_ms, self._step)

        session = self._listener.open(
            ask.grammar, mode="bargein" if ask.bargein else "ask", timeout_s=ask.timeout_s,
            codec=call.stream.terms.codec, second_pass=action.binding, on_started=cut_in, on_aside=on_aside,
        )  # fmt: skip
        tap = Tap(call.stream, session, also=self._machines.take)
        call.stream.on_key = on_key
        try:
            with contextlib.suppress(CallOver):  # hung up in the middle of the question: the last words count
                *before, last = action.prompts
                for name in before:
                    await self._play_prompt(action.step, name)
                await self._play_prompt(action.step, last, session=session)
            waits = _waits(session.final, keys, objected, call.ended)
            await asyncio.wait(waits | self._machines.waits, return_when=asyncio.FIRST_COMPLETED)
            if not objected.done() and not _said_no(session, grammar):
                await self._machines.unless_machine()
            if call.ended.done() and not objected.done() and not await self._parting_no(session, grammar):
                raise CallOver(call.ended.result().reason)
            if objected.done():
                hearing = objected.result()
            elif keys.done() and not session.final.done():
                elapsed = call.stream.position_ms - tap.opened_ms
                hearing = Hearing(Testimony(dtmf=keys.result()), elapsed, elapsed)
            else:
                hearing = session.final.result()
            return hearing, judge(hearing.testimony, grammar, binding=action.binding), tap.opened_ms
        finally:
            tap.off()
            call.stream.on_key = None
            session.close()

    async def _parting_no(self, session: Session, grammar: Grammar) -> bool:
        """Whether the last words before the caller hung up were a no or a stop word: they count, the hang-up comes after."""
        await asyncio.wait({session.final}, timeout=PARTING_S)
        return _said_no(session, grammar)


def _said_no(session: Session, grammar: Grammar) -> bool:
    """Whether the answer has been heard, and was a no or a stop word."""
    if not session.final.done() or session.final.exception() is not None:
        return False
    return judge(session.final.result().testimony, grammar, binding=True).verdict in ("deny", "stop")


def _is_no(event: ev.Event) -> bool:
    return isinstance(event, ev.ConsentDenied) or (
        isinstance(event, ev.UtteranceHeard) and event.verdict in ("deny", "stop")
    )


def new_call_id() -> str:
    return str(uuid4())


def _waits(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)
