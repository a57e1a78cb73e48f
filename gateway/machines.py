"""Who has answered an outbound call: waited for before anything is played, and looked for until a person has said something
that fits. It only ever ends a call (rule R1): whoever is no machine is asked like everybody else.

The detector runs in this process, on blocks of 100 ms: it takes 50 µs for each, in the first seconds of an outbound call only,
and needs no decoder that could be lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from gateway.audio.codec import FRAME, SAMPLE_RATE, Decoder, decoder, silence
from gateway.consent import events as ev
from gateway.dialplan.lint import message_findings
from gateway.dialplan.model import Dialplan
from gateway.ears import Tap
from gateway.language.pack import LanguagePack
from gateway.speech.machine import BLOCK_FRAMES, Finding, MachineDetector, Thresholds, Tone, has_tone
from gateway.telephony.call import Call
from gateway.telephony.errors import CallOver

log = structlog.get_logger(__name__)
SENT_PIECES = 200
"""Of 20 to 100 ms: the last four seconds of what was sent, or more."""

GREETING_S = 30.0
"""The longest greeting of a machine behind which a message is left."""


class MachineHeard(Exception):
    """A machine has taken the call, in the middle of what was being done."""


class MachineWatch:
    """Of one *call* by *plan*; *note* writes down who has answered. Nothing is looked for before :meth:`detect`."""

    def __init__(
        self, call: Call, plan: Dialplan, pack: LanguagePack, note: Callable[[ev.AnswerJudged], Awaitable[Any]]
    ) -> None:
        self._call, self._plan, self._pack, self._note = call, plan, pack, note
        self._ear: tuple[Decoder, MachineDetector] | None = None
        self._sent: deque[bytes] = deque(maxlen=SENT_PIECES)
        self._tap: Tap | None = None
        loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[Finding] = loop.create_future()
        self._takes_message: asyncio.Future[None] = loop.create_future()
        self._machine: asyncio.Future[Finding] = loop.create_future()

    @property
    def machine_heard(self) -> bool:
        return self._ear is not None and self._machine.done()

    @property
    def waits(self) -> set[asyncio.Future[Any]]:
        """What is done when a machine is heard; nothing where none is looked for."""
        return set() if self._ear is None else {self._machine}

    def take(self, heard: bytes, sent: bytes) -> None:
        """What the callee says and what is sent to him, in the codec of the call, whatever it was tapped for. A machine stops
        what plays.
        """
        if self._ear is None:
            return
        coder, detector = self._ear
        self._sent.append(sent)
        silent = silence(self._call.stream.terms.codec) * (len(sent) // FRAME)
        found = detector.push(coder.decode(heard), sending=sent != silent)
        if found is not None and not self._answered.done():
            self._answered.set_result(found)
        if found is not None and found.verdict == "machine":
            self._machine.set_result(found)
            self._call.stop_playing()
        if detector.takes_message and not self._takes_message.done():
            self._takes_message.set_result(None)

    async def detect(self) -> None:
        """Wait until it is told who has answered. Raises MachineHeard, and CallOver when the call ends before."""
        limits, codec = self._plan.machine, self._call.stream.terms.codec
        assert limits is not None, "the script looks for machines"
        values = {field.name: getattr(limits, field.name) for field in dataclasses.fields(Thresholds)}
        detector = MachineDetector(Thresholds(**values), SAMPLE_RATE[codec], is_own=self._was_sent)
        self._ear = decoder(codec), detector
        self._listen()
        await self._first_of(self._answered)
        if not self._machine.done():
            await self._write(self._answered.result())
        await self.unless_machine()

    async def unless_machine(self) -> None:
        """Raises MachineHeard where a machine is heard and a person was not, and writes it down."""
        if self.machine_heard:
            found = self._machine.result()
            await self._write(found)
            raise MachineHeard(found.reason)

    async def takes_message(self) -> bool:
        """Wait for the beep, or the silence, behind the greeting of a machine. Whether a message may be left now; a wording
        that tells more than the operator's name is none (rule R14). Raises CallOver.
        """
        machine = self._plan.machine
        assert machine is not None, "a machine was heard"
        wording = self._pack.prompts[str(machine.prompt)]
        findings = message_findings(self._plan, wording) if isinstance(wording, str) else ("it depends on the offer",)
        if findings:
            log.error("call.no_message_left", call=self._call.call_id, reason="; ".join(findings))
            return False
        self._listen()
        await self._first_of(self._takes_message, GREETING_S)
        return self._takes_message.done()

    def person(self) -> None:
        """Somebody has said what no machine says, or the call is over: look no longer."""
        self._ear = None
        if self._tap is not None:
            self._tap.off()

    def _was_sent(self, tone: Tone) -> bool:
        """Whether *tone* sounded in what was sent a moment ago: a recorded prompt may have one, and the line an echo."""
        codec = self._call.stream.terms.codec
        return has_tone(decoder(codec).decode(b"".join(self._sent)), SAMPLE_RATE[codec], tone.hertz)

    def _listen(self) -> None:
        """Listen by itself, until something else does so on the stream."""
        self._tap = Tap(self._call.stream, None, BLOCK_FRAMES, self.take)

    async def _first_of(self, awaited: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Until *awaited* is done. Raises CallOver when the call ends before."""
        ended: asyncio.Future[Any] = self._call.ended
        await asyncio.wait({awaited, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not awaited.done():
            raise CallOver(self._call.ended.result().reason)

    async def _write(self, found: Finding) -> None:
        await self._note(ev.AnswerJudged(call_id=self._call.call_id, **dataclasses.asdict(found)))
