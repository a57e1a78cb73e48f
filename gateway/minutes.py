"""What was said on one call, as events: the answers to the questions, and the remarks beside the prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.consent import events as ev
from gateway.consent.verdict import Judgement
from gateway.speech.listener import Hearing

MOST_ASIDES = 100
"""Remarks beside one prompt that are written down; a no is written down whatever came before."""


class Minutes:
    """Of the call *call_id*; every event goes to *note*. All places are counted from the ms where listening began in the
    recording.
    """

    def __init__(self, call_id: str, note: Callable[[ev.Event], Awaitable[Any]]) -> None:
        self._call_id, self._note = call_id, note
        self._asides: asyncio.Queue[ev.UtteranceHeard] = asyncio.Queue()

    async def answered(
        self, hearing: Hearing, judgement: Judgement, opened_ms: int, step: str, *, grants_consent: bool
    ) -> ev.UtteranceHeard:
        """Write down the answer to a question, behind what was said beside it."""
        utterance = self._utterance(hearing, judgement, opened_ms, step, grants_consent=grants_consent)
        await self.write_asides()
        await self._note(utterance)
        return utterance

    def remarked(self, hearing: Hearing, judgement: Judgement, opened_ms: int, step: str) -> None:
        """Remember what was said beside a prompt, to be written down behind it."""
        if self._asides.qsize() < MOST_ASIDES or judgement.verdict in ("deny", "stop"):
            self._asides.put_nowait(self._utterance(hearing, judgement, opened_ms, step, aside=True))

    async def write_asides(self) -> None:
        while not self._asides.empty():
            await self._note(self._asides.get_nowait())

    def unwritten(self) -> list[ev.UtteranceHeard]:
        """What is not written down yet; from now on it is the caller's."""
        return [self._asides.get_nowait() for _ in range(self._asides.qsize())]

    def _utterance(
        self, hearing: Hearing, judgement: Judgement, opened_ms: int, step: str, *,
        grants_consent: bool = False, aside: bool = False,
    ) -> ev.UtteranceHeard:  # fmt: skip
        return ev.UtteranceHeard(
            call_id=self._call_id,
            step=step,
            grants_consent=grants_consent,
            aside=aside,
            verdict=judgement.verdict,
            reason=judgement.reason,
            testimony=hearing.testimony,
            start_ms=opened_ms + hearing.onset_ms,
            end_ms=opened_ms + hearing.end_ms,
            audio_start_ms=opened_ms + hearing.audio_start_ms,
            audio_end_ms=opened_ms + hearing.decided_ms,
            audio_sha256=hearing.audio_sha256,
            model=hearing.model,
            model_sha256=hearing.model_sha256,
            grammar_sha256=hearing.grammar_sha256,
        )
