"""Plays the prompts of one call, and keeps the proof of each: what was sent, in which packets, and what the far end reported.

A disclosure that was noted as heard may turn out lost, by a report that comes only later: then that is noted, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.audio.codec import FRAME
from gateway.consent import events as ev
from gateway.consent.disclosure import Disclosure, unheard
from gateway.speech.prompts import Prompt
from gateway.telephony.call import Call
from gateway.telephony.media import Frames
from gateway.telephony.passage import FarEnd, Passage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A prompt that has stopped. *interruption*: what cut it, where it was cut."""

    prompt: Prompt
    passage: Passage
    interruption: ev.Interruption


class Prompter:
    """Of one *call*: *prompts* by name, with their frames in its codec. Every event goes to *note*; *loss_allowed*, 0 to 1, is what
    may be lost of a disclosure. *why* says what cuts a prompt that :meth:`stop` did not.
    """

    def __init__(
        self,
        call: Call,
        prompts: Mapping[str, tuple[Prompt, Frames]],
        *,
        note: Callable[[ev.Event], Awaitable[Any]],
        loss_allowed: float,
        why: Callable[[], ev.Interruption],
    ) -> None:
        self._call, self._prompts = call, dict(prompts)
        self._note, self._loss_allowed, self._why = note, loss_allowed, why
        self._stopped_for: ev.Interruption = ""
        self._heard: dict[Disclosure, tuple[Passage, ev.PromptPlayed]] = {}
        """The disclosures that count as heard, as they were noted."""

    def stop(self, why: ev.Interruption) -> None:
        """Stop what plays."""
        self._stopped_for = why
        self._call.stop_playing()

    async def speak(self, name: str) -> Spoken:
        """Play the prompt *name*. Raises CallOver when the call has ended before."""
        prompt, frames = self._prompts[name]
        self._stopped_for = ""
        passage = await self._call.play(frames)
        return Spoken(prompt, passage, "" if passage.whole else self._stopped_for or self._why())

    async def prove(self, spoken: Spoken, step: str, disclosure: Disclosure | None) -> bool:
        """Note what became of a prompt of *step*. Whether all of it was sent; and of a *disclosure*, whether it was heard."""
        event = _played(spoken, self._call.call_id, step, disclosure)
        await self._note(event)
        if disclosure is None:
            return spoken.passage.whole
        reason = unheard(event, self._loss_allowed)
        if reason:
            log.warning("call.disclosure_unheard", call=self._call.call_id, disclosure=disclosure, reason=reason)
            return False
        self._heard[disclosure] = spoken.passage, event
        return True

    async def lost(self) -> tuple[Disclosure, ...]:
        """Note which disclosures were lost after all, by what the far end has reported since the last time; and return them."""
        found: list[Disclosure] = []
        for disclosure, (passage, event) in tuple(self._heard.items()):
            far = _report(passage.far)
            reason = unheard(event.model_copy(update={"far": far}), self._loss_allowed)
            if reason:
                call_id = self._call.call_id
                await self._note(ev.DisclosureUnheard(call_id=call_id, disclosure=disclosure, reason=reason, far=far))
                log.warning("call.disclosure_lost", call=call_id, disclosure=disclosure, reason=reason)
                del self._heard[disclosure]
                found.append(disclosure)
        return tuple(found)


def _played(spoken: Spoken, call_id: str, step: str, disclosure: Disclosure | None) -> ev.PromptPlayed:
    prompt, passage = spoken.prompt, spoken.passage
    first_sequence, first_timestamp = passage.first or (None, None)
    last_sequence, last_timestamp = passage.last or (None, None)
    text = prompt.wording.text
    return ev.PromptPlayed(
        call_id=call_id, step=step, disclosure=disclosure, text=text,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(), voice=prompt.voice, audio_sha256=prompt.sha256,
        samples_planned=passage.planned * FRAME, samples_sent=passage.sent * FRAME, ssrc=passage.ssrc,
        first_sequence=_on_the_wire(first_sequence), last_sequence=_on_the_wire(last_sequence),
        first_timestamp=first_timestamp, last_timestamp=last_timestamp,
        interruption=spoken.interruption, held_ms=passage.held_ms, far=_report(passage.far),
    )  # fmt: skip


def _report(far: FarEnd | None) -> ev.FarReport | None:
    return None if far is None else ev.FarReport(**dataclasses.asdict(far))


def _on_the_wire(sequence: int | None) -> int | None:
    """The 16 bits of an extended sequence number that a packet has."""
    return None if sequence is None else sequence & 0xFFFF
