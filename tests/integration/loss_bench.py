"""A whole conversation over loopback with a callee whose line loses what the test says: two user agents on the real clock.

The callee's socket drops packets before anything counts them, so that his receiver reports tell of a loss that was real. What he
says is put into the listener's place; the record is reduced by the real rules, without a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
from histories import kept

from gateway.audio.codec import CLOCK_RATE
from gateway.consent import events as ev
from gateway.consent.order import Order, OrderRequest
from gateway.consent.phonetics import sounds
from gateway.consent.record import Record, begin, reduce
from gateway.consent.testimony import Grammar, Testimony, Word
from gateway.conversation import Conversation
from gateway.demo.orders import sample_order
from gateway.dialplan.model import Dialplan, load_dialplans
from gateway.language.pack import load_pack
from gateway.resources import data_folder
from gateway.speech.listener import Hearing
from gateway.speech.prompts import Prompt, Wording
from gateway.telephony.agent import UserAgent
from gateway.telephony.call import Call
from gateway.telephony.errors import TransportFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.media import MediaEngine
from gateway.telephony.rtp import HEADER

LIMIT_S = 60.0
"""The longest that any single wait may take; each ends when what it waits for comes."""

PACK = load_pack(data_folder("prompts"), "ko")
SHIPPED = load_dialplans(data_folder("dialplans"))["plan-upgrade"]
PRICE_FRAMES = 40
FRAMES = {"disclosure_price": PRICE_FRAMES, "consent": 40, "thanks": 10}
"""Of 20 ms; the price is long enough that something can happen in the middle of it, the question that a report comes meanwhile."""
OTHER_FRAMES = 5

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 - what is waited for lies in plain attributes
            await asyncio.sleep(0.005)


class House:
    """A user agent with its media on ports of its own; every call that comes in is answered."""

    def __init__(self, folder: Path, ports: range) -> None:
        self.engine = MediaEngine("127.0.0.1", ports, folder)
        self.agent = UserAgent(self.engine, ("127.0.0.1", 0), trusted=lambda _: True, codecs=("PCMA",))
        self.agent.on_invite = self._answer
        self.taken: asyncio.Queue[Call] = asyncio.Queue()

    async def open(self) -> None:
        for _ in range(10):
            try:
                await self.agent.start()
                break
            except TransportFailed:  # somebody has the port that the kernel chose for UDP for TCP already
                self.agent.stop()
        self.engine.start()

    async def close(self) -> None:
        for call in self.agent.calls:
            await call.close()
        self.agent.stop()
        self.engine.stop()
        await asyncio.sleep(0)

    async def _answer(self, invitation: Invitation) -> None:
        self.taken.put_nowait(await invitation.answer("callee"))


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of audio as it came from the wire; *lost*: nobody has heard of it."""

    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    lost: bool


class Line:
    """What comes to the callee's socket. *loses* is asked of each packet of audio, in turn."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.packets: list[Packet] = []
        self.loses: Callable[[bytes], bool] = lambda _: False
        self._receive = call.stream._receive
        call.stream._receive = self._take  # type: ignore[method-assign, assignment]

    def _take(self, size: int, ancillary: int) -> Any:
        came = self._receive(size, ancillary)
        kind, number, timestamp, ssrc = HEADER.unpack_from(came[0])[1:]
        if kind & 0x7F != 8:
            return came
        payload = came[0][HEADER.size :]
        lost = self.loses(payload)
        self.packets.append(Packet(number, timestamp, ssrc, payload, lost))
        if lost:
            raise BlockingIOError
        return came

    def of(self, frames: tuple[bytes, ...]) -> list[list[Packet]]:
        """The packets that carry a prompt of *frames*, for each time that it was begun."""
        found: list[list[Packet]] = []
        for packet in self.packets:
            if packet.payload == frames[0]:
                found.append([])
            if packet.payload in frames and found:
                found[-1].append(packet)
        return found


class Answer:
    """What is heard after one question, in the place of a listening session."""

    def __init__(self, testimony: Testimony | None) -> None:
        self._testimony = testimony
        self.final: asyncio.Future[Hearing] = asyncio.get_running_loop().create_future()

    def feed_octets(self, heard: bytes, sent: bytes | None = None) -> None:
        """The callee says nothing beside the prompts."""

    def question_ended(self) -> None:
        if self._testimony is not None and not self.final.done():
            self.final.set_result(Hearing(self._testimony))

    def close(self) -> None:
        self.final.cancel()


class Answers:
    """In the listener's place: whoever is asked says yes, in words that every witness agrees on."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ready(self) -> None:
        """At once."""

    def open(self, grammar: str, *, mode: str, **_: object) -> Answer:
        if mode == "watch":
            return Answer(None)
        self.asked.append(grammar)
        return Answer(yes(PACK.grammars[grammar]))


def yes(grammar: Grammar) -> Testimony:
    """The target phrase, spoken at 80 ms a sound."""
    words, at = [], 0.3
    for word in grammar.affirm[0].split():
        end = at + 0.08 * len(sounds(word))
        words.append(Word(word, at, end, 1.0))
        at = end
    return Testimony(
        words=tuple(words), open_words=tuple(words), path_margin=30.0, share=1.0, speech_ms=round(1000 * (at - 0.3)),
        snr_db=25.0, pitch_jump=2.0, final_rise=-3.0,
    )  # fmt: skip


class Book:
    """In the engine's place: the record, kept in memory, and every event of it."""

    def __init__(self, plan: Dialplan, loss_allowed: float) -> None:
        request = OrderRequest.model_validate(sample_order("+821012345678", START.date()))
        order = Order(
            order_id=str(UUID(int=1)), tenant="billing", subscriber=request.subscriber, offer=request.offer,
            fit=request.fit, dialplan=plan.ref,
        )  # fmt: skip
        limits = ev.Limits(
            call_attempts=1, call_retry_s=60, code_ttl_s=3600, code_tries=3, disclosure_loss=loss_allowed
        )
        created = ev.OrderCreated(order=order, order_hash=order.order_hash, call_now=False, limits=limits)
        self.events: list[ev.Event] = []
        self.away = False
        """The database is not there."""
        self.record: Record = begin(self._entry(created))[0]

    async def append(self, _: str, event: ev.Event) -> Record:
        if self.away:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        self.record = reduce(self.record, self._entry(event))[0]
        return self.record

    def all(self, *kinds: type[ev.Fact]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def told(self, disclosure: str) -> list[ev.PromptPlayed]:
        return [event for event in self.all(ev.PromptPlayed) if event.disclosure == disclosure]

    def _entry(self, event: ev.Event) -> ev.Entry:
        self.events.append(event)
        seq = len(self.events)
        at = START + timedelta(seconds=seq)
        return ev.Entry(order_id=str(UUID(int=1)), seq=seq, event_id=str(UUID(int=seq)), at=at, event=event)


class Scene:
    """A conversation about to begin on an answered call: the gateway's side, and the callee's line."""

    def __init__(self, near: Call, far: Call, *, loss_allowed: float = 0.05, plan: Dialplan = SHIPPED) -> None:
        self.near, self.far = near, far
        self.line = Line(far)
        self.book = Book(plan, loss_allowed)
        self.answers = Answers()
        self.frames = {name: frames_of_prompt(number, name) for number, name in enumerate(plan.prompt_names())}
        prompts = {name: (_prompt(name), frames) for name, frames in self.frames.items()}
        self.conversation = Conversation(
            near, self.book.record, plan, PACK, prompts, engine=self.book, listener=self.answers,  # type: ignore[arg-type]
            transfer_targets={},
        )  # fmt: skip

    async def run(self) -> ev.CallEnded:
        started = ev.CallStarted(call_id=self.near.call_id, gateway="g1", direction=self.near.direction)
        await self.book.append("", started)
        async with asyncio.timeout(LIMIT_S):
            ended = await self.conversation.run()
        for event in (kept(self.near.call_id, ended.duration_ms), ended):
            await self.book.append("", event)
        return ended

    def carries(self, name: str) -> Callable[[bytes], bool]:
        """Whether a packet is of the prompt *name*."""
        frames = frozenset(self.frames[name])
        return lambda payload: payload in frames

    def playing(self, name: str) -> Callable[[], bool]:
        """Whether the prompt *name* has begun to arrive."""
        frames = frozenset(self.frames[name])
        return lambda: any(packet.payload in frames for packet in reversed(self.line.packets[-5:]))


def frames_of_prompt(number: int, name: str) -> tuple[bytes, ...]:
    """Frames that are no other prompt's, and each unlike the others."""
    count = FRAMES.get(name, OTHER_FRAMES)
    return tuple(bytes([number + 1, place]) + b"\x55" * (CLOCK_RATE // 50 - 2) for place in range(count))


def _prompt(name: str) -> Prompt:
    return Prompt(Wording(name, "ko", f"[{name}]", "ko", 170), np.zeros(0, np.int16), "0" * 64)
