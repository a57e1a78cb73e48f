"""One call: drives the dialplan over the line, and writes down everything that is said on it.

The way of the data: call → utterance → verdict → event. What an event means is the engine's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import structlog

from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.consent.verdict import Grammar, Judgement, Testimony, judge
from gateway.dialplan import interpreter as script
from gateway.dialplan.model import Dialplan
from gateway.engine import Engine
from gateway.language.pack import LanguagePack
from gateway.speech.errors import DecoderLost
from gateway.speech.listener import Hearing, Listener, Session
from gateway.speech.prompts import Prompt
from gateway.telephony.call import Call
from gateway.telephony.errors import CallOver
from gateway.telephony.g711 import decode
from gateway.telephony.media import Frames
from gateway.telephony.playout import FRAME

log = structlog.get_logger(__name__)
MOST_CALL_S = 900.0
"""The longest call: a far end that holds the line and is never heard again must not keep it for ever."""
PARTING_S = 1.5
GOODBYE_S = 15.0


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
        self._stopping = False
        self._prompts = dict(prompts)

    async def run(self) -> ev.CallEnded:
        """The whole call. Returns how it ended; the caller of this appends that, when the recording is finished."""
        actions = script.run(self._plan)
        action = next(actions)
        outcome: ev.CallOutcome = "failed"
        reason = ""
        try:
            async with asyncio.timeout(MOST_CALL_S):
                while not isinstance(action, script.End):
                    action = actions.send(await self._do(action))
            outcome, reason = action.outcome, action.reason
            if outcome != "transferred":
                self._call.hangup(f"the script ended: {outcome}")
        except CallOver as over:
            by_caller = self._call.ended.result().by == "caller"
            outcome, reason = ("hung_up", f"at {action.step}") if by_caller else ("failed", f"{over} at {action.step}")
        except Exception:
            log.exception("conversation.failed", call=self._call.call_id, step=action.step)
            outcome, reason = "failed", f"the gateway failed at {action.step}"
            await self.say_goodbye("the gateway failed")
        return ev.CallEnded(
            call_id=self._call.call_id, outcome=outcome, reason=reason, duration_ms=self._call.stream.position_ms
        )

    async def say_goodbye(self, reason: str) -> None:
        """Cut in with the goodbye prompt and hang up. Nothing more of the script is done, and no consent taken."""
        self._stopping = True
        _, frames = self._prompts[self._plan.goodbye]
        try:
            with contextlib.suppress(TimeoutError):  # on hold nothing is played: the call ends all the same
                async with asyncio.timeout(GOODBYE_S):
                    await self._call.play(frames)
        except CallOver:
            return
        self._call.hangup(reason)

    async def _do(self, action: script.Action) -> script.Result:
        if self._stopping and not isinstance(action, script.Deny):  # a no that was heard is written down all the same
            raise CallOver((await self._call.ended).reason)
        match action:
            case script.Play():
                return await self._play(action)
            case script.Question():
                return await self._ask(action)
            case script.Grant():
                event = ev.ConsentSpoken(call_id=self._call.call_id, order_hash=self._record.order_hash)
                record = await self._engine.append(self._order_id, event)
                return script.Done(ok=record.spoken is not None and not record.ended)
            case script.Deny():
                denied = ev.ConsentDenied(call_id=self._call.call_id, denial=action.denial, step=action.step)
                await self._engine.append(self._order_id, denied)
                return script.Done()
            case script.TransferTo():
                target = self._transfer_targets.get(action.target)
                return script.Done(ok=target is not None and await self._call.transfer(target))
            case script.End():
                raise AssertionError("the end of a script is not something to do")

    async def _play(self, action: script.Play) -> script.Played:
        whole = True
        for name in action.prompts:
            whole = await self._play_prompt(action.step, name, action.disclosure) and whole
        return script.Played(whole)

    async def _play_prompt(
        self, step: str, name: str, disclosure: str | None = None, session: Session | None = None
    ) -> bool:
        """Play one prompt and note how much of it was sent; whether that was all. Raises CallOver.

        *session* is told that the question has ended, when all that the caller said until then has been fed to it.
        """
        prompt, frames = self._prompts[name]
        sent = await self._call.play(frames)
        if session is not None:
            await asyncio.sleep(self._call.stream.behind_ms / 1000)
            session.question_ended()
        if self._stopping:
            raise CallOver((await self._call.ended).reason)
        event = ev.PromptPlayed(
            call_id=self._call.call_id, step=step, disclosure=disclosure, text=prompt.wording.text,
            audio_sha256=prompt.sha256, samples_planned=len(frames) * FRAME, samples_sent=sent * FRAME,
        )  # fmt: skip
        await self._engine.append(self._order_id, event)
        if self._call.ended.done():
            raise CallOver(self._call.ended.result().reason)
        return sent == len(frames)

    async def _ask(self, action: script.Question) -> script.Heard:
        """Play the question and listen to the answer; a decoder that died means that the question is put again."""
        try:
            hearing, judgement, opened_ms = await self._listen(action)
        except DecoderLost as lost:
            log.warning("conversation.decoder_lost", call=self._call.call_id, step=action.step)
            hearing, judgement, opened_ms = None, Judgement("repeat", str(lost)), self._call.stream.position_ms
        testimony = hearing.testimony if hearing else Testimony()
        utterance = ev.UtteranceHeard(
            call_id=self._call.call_id,
            step=action.step,
            grants_consent=action.grants_consent,
            verdict=judgement.verdict,
            reason=judgement.reason,
            heard=" ".join(word.word for word in testimony.words),
            heard_open=testimony.open_text or "",
            words=testimony.words,
            dtmf=testimony.dtmf,
            start_ms=opened_ms + (hearing.onset_ms if hearing else 0),
            end_ms=opened_ms + (hearing.end_ms if hearing else 0),
            snr_db=testimony.snr_db,
            model=hearing.model if hearing else "",
            grammar_sha256=hearing.grammar_sha256 if hearing else "",
        )
        await self._engine.append(self._order_id, utterance)
        return script.Heard(judgement.verdict)

    async def _listen(self, action: script.Question) -> tuple[Hearing, Judgement, int]:
        ask, call = action.ask, self._call
        grammar = self._grammars[ask.grammar]
        law = call.stream.terms.law
        keys: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        cut_in = call.stop_playing if ask.bargein else _nothing
        await self._listener.ready()
        session = self._listener.open(
            ask.grammar, timeout_s=ask.timeout_s, bargein=ask.bargein,
            second_pass=action.grants_consent, on_started=cut_in,
        )  # fmt: skip

        def on_key(key: str) -> None:
            if not keys.done():
                keys.set_result(key)
                cut_in()

        opened_ms = call.stream.position_ms
        call.stream.tap = lambda octets: session.feed(decode(octets, law))
        call.stream.on_key = on_key
        try:
            *before, last = action.prompts
            for name in before:
                await self._play_prompt(action.step, name)
            await self._play_prompt(action.step, last, session=session)
            await asyncio.wait(_waits(session.final, keys, call.ended), return_when=asyncio.FIRST_COMPLETED)
            if call.ended.done() and not await self._parting_no(session, grammar):
                raise CallOver(call.ended.result().reason)
            if keys.done() and not session.final.done():
                testimony = Testimony(dtmf=keys.result())
                elapsed = call.stream.position_ms - opened_ms
                hearing = Hearing(testimony, elapsed, elapsed, "", "")
            else:
                hearing = session.final.result()
            return hearing, judge(hearing.testimony, grammar, binding=action.grants_consent), opened_ms
        finally:
            call.stream.tap = call.stream.on_key = None
            session.close()

    async def _parting_no(self, session: Session, grammar: Grammar) -> bool:
        """Whether the last words before the caller hung up were a no or a stop word: they count, the hang-up comes after."""
        await asyncio.wait({session.final}, timeout=PARTING_S)
        if not session.final.done() or session.final.exception() is not None:
            return False
        return judge(session.final.result().testimony, grammar, binding=True).verdict in ("deny", "stop")


def new_call_id() -> str:
    return str(uuid4())


def _waits(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)


def _nothing() -> None:
    """A question that may not be cut into."""
