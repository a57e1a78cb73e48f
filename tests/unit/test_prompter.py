"""The proof of each prompt, as it is written down: text, sound, packets, hold, reports; and what is taken back later."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from call_bench import HELD, OFFER, Party

from gateway.consent import events as ev
from gateway.consent.disclosure import Disclosure
from gateway.prompter import Prompter, Spoken
from gateway.speech.prompts import Prompt, Wording
from gateway.telephony.errors import CallOver
from gateway.telephony.rtcp import Report, ReportBlock, make_report

TEXT = "요금은 매월 39,000원입니다."
SAMPLES = np.arange(3200, dtype=np.int16)
FRAMES = (b"\x2a" * 160,) * 100
ALLOWED = 0.05


def prompt(*, recorded: bool = False) -> Prompt:
    wording = Wording("disclosure_price", "ko", TEXT, "ko", 170)
    return Prompt(wording, SAMPLES, hashlib.sha256(SAMPLES.astype("<i2").tobytes()).hexdigest(), recorded)


class Desk:
    """A prompter on a call whose clock is turned by hand, and what it has noted."""

    def __init__(self, party: Party) -> None:
        self.party, self.line = party, party.line
        self.noted: list[ev.Event] = []
        self.why: ev.Interruption = "objection"
        prompts = {"price": (prompt(), FRAMES), "recorded": (prompt(recorded=True), FRAMES), "none": (prompt(), ())}
        self.prompter = Prompter(
            party.call, prompts, note=self._note, loss_allowed=ALLOWED, why=lambda: self.why
        )  # fmt: skip

    async def _note(self, event: ev.Event) -> None:
        self.noted.append(event)

    async def speak(self, *ticks_and_then: object, name: str = "price") -> Spoken:
        """Play to the end, or as many ticks as are given with something done behind each."""
        speaking = asyncio.create_task(self.prompter.speak(name))
        await self.party.settle()
        for step in ticks_and_then:
            if isinstance(step, int):
                self.line.tick(step)
            elif callable(step):
                step()
        self.line.tick(len(FRAMES))
        return await asyncio.wait_for(speaking, 10)

    async def prove(self, spoken: Spoken, disclosure: Disclosure | None = "price") -> tuple[ev.PromptPlayed, bool]:
        heard = await self.prompter.prove(spoken, "terms", disclosure)
        event = self.noted[-1]
        assert isinstance(event, ev.PromptPlayed)
        return event, heard

    def report(self, lost: int, *, fraction: int = 0, jitter: int = 0) -> None:
        """The far end has all up to now, but for *lost* in all."""
        stream = self.line.stream
        block = ReportBlock(stream._ssrc, fraction, lost, stream._sequence & 0xFFFF, jitter, 0, 0)
        self.line.report(make_report(Report(7, (block,)), "far"))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    party = Party()
    party.answered()
    party.ack(seq=1)
    yield Desk(party)
    party.close()


class TestTheProof:
    async def test_it_names_the_text_the_sound_and_the_voice(self, desk: Desk) -> None:
        event, _ = await desk.prove(await desk.speak())
        assert ("call", "terms", "price", TEXT) == (event.call_id, event.step, event.disclosure, event.text)
        assert hashlib.sha256(TEXT.encode()).hexdigest() == event.text_sha256
        assert hashlib.sha256(SAMPLES.tobytes()).hexdigest() == event.audio_sha256
        assert "espeak:ko 170 wpm" == event.voice

    async def test_of_a_recording_it_says_so(self, desk: Desk) -> None:
        event, _ = await desk.prove(await desk.speak(name="recorded"))
        assert "recording" == event.voice

    async def test_it_has_the_numbers_of_the_packets_on_the_wire(self, desk: Desk) -> None:
        desk.line.stream._sequence = 0xFFF0  # they wrap around in the middle
        desk.line.tick(3)
        event, heard = await desk.prove(await desk.speak())
        packets = [packet for packet in desk.line.far.heard() if packet.payload == FRAMES[0]]
        first, last = packets[0], packets[-1]
        assert (16_000, 16_000, True) == (event.samples_planned, event.samples_sent, heard)
        assert (first.sequence, first.timestamp) == (event.first_sequence, event.first_timestamp)
        assert (last.sequence, last.timestamp) == (event.last_sequence, event.last_timestamp)
        assert (first.ssrc, "", 0, None) == (event.ssrc, event.interruption, event.held_ms, event.far)

    async def test_one_without_sound_has_none_and_is_not_heard(self, desk: Desk) -> None:
        event, heard = await desk.prove(await desk.speak(name="none"))
        assert (None, None, None, None) == (
            event.first_sequence, event.last_sequence, event.first_timestamp, event.last_timestamp,
        )  # fmt: skip
        assert not heard

    async def test_a_call_that_is_over_has_no_more_prompts(self, desk: Desk) -> None:
        desk.party.send("BYE")
        with pytest.raises(CallOver, match="hung up"):
            await desk.prompter.speak("price")
        assert [] == desk.noted


class TestInterrupted:
    @pytest.mark.parametrize("why", ["key", "bargein", "objection"])
    async def test_what_stopped_it_is_said(self, desk: Desk, why: ev.Interruption) -> None:
        event, heard = await desk.prove(await desk.speak(30, lambda: desk.prompter.stop(why)))
        assert (why, 4800, False) == (event.interruption, event.samples_sent, heard)

    @pytest.mark.parametrize("why", ["hung_up", "machine", "stopping"])
    async def test_so_is_what_happened_to_the_call(self, desk: Desk, why: ev.Interruption) -> None:
        desk.why = why
        event, _ = await desk.prove(await desk.speak(30, desk.party.call.stop_playing))
        assert (why, 4800) == (event.interruption, event.samples_sent)

    async def test_a_stop_behind_its_end_cuts_nothing(self, desk: Desk) -> None:
        event, heard = await desk.prove(await desk.speak(100, lambda: desk.prompter.stop("key")))
        assert ("", True) == (event.interruption, heard)

    async def test_what_stopped_one_does_not_stop_the_next(self, desk: Desk) -> None:
        await desk.speak(30, lambda: desk.prompter.stop("key"))
        event, _ = await desk.prove(await desk.speak(30, desk.party.call.stop_playing))
        assert "objection" == event.interruption

    async def test_a_prompt_that_is_no_disclosure_is_whole_or_not(self, desk: Desk) -> None:
        whole = await desk.speak()
        cut = await desk.speak(30, lambda: desk.prompter.stop("key"))
        assert (True, False) == ((await desk.prove(whole, None))[1], (await desk.prove(cut, None))[1])


class TestHold:
    async def test_theirs_in_the_middle_of_a_disclosure_makes_it_unheard(self, desk: Desk) -> None:
        spoken = await desk.speak(
            30, lambda: desk.party.send("UPDATE", body=HELD), 20, lambda: desk.party.send("UPDATE", body=OFFER)
        )
        desk.line.tick(100)
        event, heard = await desk.prove(spoken)
        assert (16_000, 400, False) == (event.samples_sent, event.held_ms, heard)

    async def test_ours_counts_from_our_asking_until_they_agreed_to_its_end(self, desk: Desk) -> None:
        party = desk.party
        speaking = asyncio.create_task(desk.prompter.speak("price"))
        await party.settle()
        desk.line.tick(10)
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        desk.line.tick(10)
        await party.reply(200, body=OFFER)  # with no word of the hold: we hold all the same
        assert await holding
        desk.line.tick(10)
        resuming = asyncio.create_task(party.call.resume())
        await party.settle()
        desk.line.tick(10)
        await party.reply(200, body=OFFER)
        assert await resuming
        desk.line.tick(60)
        event, heard = await desk.prove(await asyncio.wait_for(speaking, 10))
        assert (600, False) == (event.held_ms, heard)

    async def test_one_that_they_refused_counts_while_it_was_asked_for(self, desk: Desk) -> None:
        party = desk.party
        speaking = asyncio.create_task(desk.prompter.speak("price"))
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        desk.line.tick(10)
        await party.reply(488)
        assert not await holding
        desk.line.tick(90)
        event, _ = await desk.prove(await asyncio.wait_for(speaking, 10))
        assert 200 == event.held_ms


class TestReported:
    async def test_loss_within_what_is_allowed_is_noted_and_heard(self, desk: Desk) -> None:
        event, heard = await desk.prove(await desk.speak(100, lambda: desk.report(5, fraction=12, jitter=80)))
        assert (ev.FarReport(reports=1, lost_fraction=0.05, jitter_ms=10.0), True) == (event.far, heard)

    async def test_more_is_not_heard(self, desk: Desk) -> None:
        event, heard = await desk.prove(await desk.speak(100, lambda: desk.report(6)))
        assert (ev.FarReport(reports=1, lost_fraction=0.06, jitter_ms=0.0), False) == (event.far, heard)

    async def test_of_other_prompts_it_is_only_noted(self, desk: Desk) -> None:
        event, whole = await desk.prove(await desk.speak(100, lambda: desk.report(100)), None)
        assert (ev.FarReport(reports=1, lost_fraction=1.0, jitter_ms=0.0), True) == (event.far, whole)


class TestLostLate:
    async def test_a_report_that_comes_later_takes_it_away_once(self, desk: Desk) -> None:
        _, heard = await desk.prove(await desk.speak())
        assert ((), True) == (await desk.prompter.lost(), heard)
        desk.report(6)
        far = ev.FarReport(reports=1, lost_fraction=0.06, jitter_ms=0.0)
        assert ("price",) == await desk.prompter.lost()
        assert [
            ev.DisclosureUnheard(
                call_id="call", disclosure="price", far=far,
                reason="6 % of it was lost on the line, more than 5 %",
            )
        ] == desk.noted[1:]  # fmt: skip
        desk.report(100)
        assert ((), 2) == (await desk.prompter.lost(), len(desk.noted))

    async def test_one_that_says_that_it_arrived_changes_nothing(self, desk: Desk) -> None:
        await desk.prove(await desk.speak())
        desk.report(5)
        assert ((), 1) == (await desk.prompter.lost(), len(desk.noted))

    async def test_one_that_was_not_heard_cannot_be_lost(self, desk: Desk) -> None:
        await desk.prove(await desk.speak(30, lambda: desk.prompter.stop("key")))
        desk.report(100)
        assert () == await desk.prompter.lost()

    async def test_what_is_no_disclosure_cannot_either(self, desk: Desk) -> None:
        await desk.prove(await desk.speak(), None)
        desk.report(100)
        assert () == await desk.prompter.lost()

    async def test_of_one_that_was_told_twice_the_second_time_counts(self, desk: Desk) -> None:
        await desk.prove(await desk.speak(100, lambda: desk.report(50)))
        _, heard = await desk.prove(await desk.speak())
        assert heard
        desk.report(50)
        assert () == await desk.prompter.lost()

    async def test_so_it_does_where_the_first_was_heard_as_well(self, desk: Desk) -> None:
        """A script may tell its terms anew."""
        await desk.prove(await desk.speak(100, lambda: desk.report(0)))
        await desk.prove(await desk.speak())
        desk.report(50)
        assert ("price",) == await desk.prompter.lost()

    async def test_and_may_be_lost_in_its_turn(self, desk: Desk) -> None:
        await desk.prove(await desk.speak())
        desk.report(50)
        assert ("price",) == await desk.prompter.lost()
        await desk.prove(await desk.speak())
        desk.report(100)
        assert ("price",) == await desk.prompter.lost()
