"""What a callee says, whenever he says it: real calls, all at once, by the pyVoIP softphone with the demo's voices.

A no counts from wherever it is said, an echo never counts, and what was heard can be judged again from the record alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import pytest_asyncio
from town import Phone, Town

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.verdict import judge
from gateway.demo.world import clip
from gateway.dialplan.model import BINDING, load_dialplans
from gateway.language.pack import WATCH, load_pack
from gateway.resources import data_folder

pytestmark = pytest.mark.asyncio(loop_scope="session")

Event = TypeVar("Event", bound=ev.Fact)
LED = ";".join(clip("mix", name) for name in ("leave", "owner", "adult"))
YES, NO = clip("mix", "consent"), clip("mix", "refuse")
SCRIPTS = {
    "no in the disclosures": f"{LED};into:1.5;{NO}",
    "yes, then no in the thanks": f"{LED};{YES};into:0.3;{NO}",
    "yes twice": f"{LED};{YES};{YES}",
    "yes, then no in the thanks, and gone": f"{LED};{YES};into:0.3;{NO};+hangup",
    "no in the consent question, and gone": f"{LED};into:6;{NO};+hangup",
    "echo": f"{LED};+echo:200",
}
"""What the callee does. He speaks into the prompt that begins next; the echo is of all from the disclosures on."""

PLANS = load_dialplans(data_folder("dialplans"))
PLAN = {"yes twice": "plan-upgrade-twice"}
NUMBER = {call: f"+82109000020{place}" for place, call in enumerate(SCRIPTS)}


@dataclass
class Said:
    """A call that is over."""

    order_id: str
    call: str
    phone: Phone
    events: list[ev.Event]

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def outcome(self) -> tuple[str, str]:
        [ended] = self.all(ev.CallEnded)
        return ended.outcome, ended.reason

    @property
    def steps_played(self) -> list[str]:
        return list(dict.fromkeys(event.step for event in self.all(ev.PromptPlayed)))


async def run_call(town: Town, call: str) -> Said:
    """One call of *call*'s subscriber, from the order to what came of it."""
    number = NUMBER[call]
    order_id = await town.order(number, dialplan=PLAN.get(call, "plan-upgrade"))
    phone = await town.call_in(number, "--script", SCRIPTS[call])
    await phone.done()
    await town.comes(order_id, "call.ended")
    return Said(order_id, call, phone, [ev.parse_event(event) for event in await town.events(order_id)])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def calls(town: Town) -> dict[str, Said]:
    await town.run()
    said = await asyncio.gather(*(run_call(town, call) for call in SCRIPTS))
    return {one.call: one for one in said}


@pytest.fixture
def objected(calls: dict[str, Said]) -> Said:
    return calls["no in the disclosures"]


@pytest.fixture
def regretted(calls: dict[str, Said]) -> Said:
    return calls["yes, then no in the thanks"]


@pytest.fixture
def twice(calls: dict[str, Said]) -> Said:
    return calls["yes twice"]


@pytest.fixture
def echoed(calls: dict[str, Said]) -> Said:
    return calls["echo"]


async def test_a_no_during_the_disclosures_ends_the_order_as_refused(gateway: Town, objected: Said) -> None:
    assert "refused" == await gateway.state(objected.order_id)


async def test_it_is_written_down_as_said_beside_the_prompt(objected: Said) -> None:
    asides = [(heard.step, heard.verdict) for heard in objected.all(ev.UtteranceHeard) if heard.aside]
    assert [("terms", "deny")] == asides


async def test_it_ends_the_disclosures_and_no_consent_question_is_asked(objected: Said) -> None:
    disclosed = [event.disclosure for event in objected.all(ev.PromptPlayed) if event.disclosure]
    assert ["opening", "owner", "adult", "introduction", "terms", "refused"] == objected.steps_played
    assert 0 < len(disclosed) < len(MANDATORY)


async def test_the_call_ends_politely_after_it(objected: Said) -> None:
    goodbye = objected.all(ev.PromptPlayed)[-1]
    assert ("refused", goodbye.samples_planned) == (goodbye.step, goodbye.samples_sent)
    assert (("completed", "refused"), "remote") == (objected.outcome, (await objected.phone.told("ended"))["by"])


async def test_a_no_during_the_thanks_takes_the_consent_back(gateway: Town, regretted: Said) -> None:
    settled = [event.type for event in regretted.events if isinstance(event, ev.ConsentSpoken | ev.ConsentDenied)]
    asides = [(heard.step, heard.verdict) for heard in regretted.all(ev.UtteranceHeard) if heard.aside]
    assert (["consent.spoken", "consent.denied"], [("thanks", "deny")]) == (settled, asides)
    assert "refused" == await gateway.state(regretted.order_id)


async def test_it_cuts_the_thanks(regretted: Said) -> None:
    [thanks] = [event for event in regretted.all(ev.PromptPlayed) if event.step == "thanks"]
    assert 0 < thanks.samples_sent < thanks.samples_planned


async def test_after_it_no_code_is_ever_sent(gateway: Town, regretted: Said) -> None:
    """The challenge waits for the recording, and by then the no has been heard."""
    assert [] == [event.type for event in regretted.events if isinstance(event, ev.ChallengeIssued | ev.SmsSent)]
    assert [ev.RecordingKept] == [type(event) for event in regretted.events if isinstance(event, ev.RecordingKept)]
    assert "refused" == await gateway.state(regretted.order_id)
    assert [] == await gateway.events(regretted.order_id, "delivery.attempted")
    assert regretted.order_id not in gateway.world.billing.received


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("yes, then no in the thanks, and gone", ("thanks", True, "deny")),
        ("no in the consent question, and gone", ("consent", False, "deny")),
    ],
)
async def test_a_no_counts_though_the_callee_hangs_up_at_once(
    gateway: Town, calls: dict[str, Said], call: str, said: tuple[str, bool, str]
) -> None:
    left = calls[call]
    last, outcome = left.all(ev.UtteranceHeard)[-1], left.outcome[0]
    assert (said, "hung_up") == ((last.step, last.aside, last.verdict), outcome)
    assert "refused" == await gateway.state(left.order_id)


async def test_where_the_script_takes_two_captures_both_are_in_the_consent(gateway: Town, twice: Said) -> None:
    [consent] = twice.all(ev.ConsentSpoken)
    answers = {heard.step: heard for heard in twice.all(ev.UtteranceHeard) if heard.step in ("interest", "consent")}
    assert ["interest", "consent"] == [capture.purpose for capture in consent.captures]
    for capture in consent.captures:
        answer = answers[capture.step]
        assert ("affirm", answer.testimony.heard, answer.audio_sha256) == (
            answer.verdict, capture.said, capture.audio_sha256,
        )  # fmt: skip
        assert 64 == len(capture.audio_sha256)
    assert "challenged" == await gateway.state(twice.order_id)


async def test_both_captures_stood_the_second_pass(twice: Said) -> None:
    opened = {heard.step for heard in twice.all(ev.UtteranceHeard) if heard.testimony.open_words is not None}
    assert {"interest", "consent"} == opened


async def test_an_echo_of_our_own_prompts_is_neither_consent_nor_a_refusal(gateway: Town, echoed: Said) -> None:
    places = [heard.step for heard in echoed.all(ev.UtteranceHeard)].index("adult") + 1
    after = echoed.all(ev.UtteranceHeard)[places:]
    told = {(heard.step, heard.aside, heard.verdict) for heard in after}
    assert {("terms", True, "unclear"), ("consent", True, "unclear"), ("consent", False, "noinput")} == told
    assert ("unclear", ("completed", "unclear")) == (await gateway.state(echoed.order_id), echoed.outcome)


@pytest.mark.parametrize("call", SCRIPTS)
async def test_the_audio_that_was_judged_is_in_the_recording(gateway: Town, calls: dict[str, Said], call: str) -> None:
    """Rule R14: the caller's channel between the times of an utterance has the utterance's hash."""
    caller = read_caller(await gateway.listen(calls[call].order_id))
    heard = [utterance for utterance in calls[call].all(ev.UtteranceHeard) if utterance.audio_sha256]
    assert len(heard) >= 4
    for utterance in heard:
        span = slice(utterance.audio_start_ms * 8, utterance.audio_end_ms * 8)
        assert utterance.audio_sha256 == hashlib.sha256(caller[span].tobytes()).hexdigest(), utterance
        assert utterance.audio_start_ms <= utterance.start_ms < utterance.end_ms <= utterance.audio_end_ms


@pytest.mark.parametrize("call", SCRIPTS)
async def test_the_testimony_alone_gives_the_verdict_again(gateway: Town, calls: dict[str, Said], call: str) -> None:
    grammars = load_pack(gateway.world.folder / "prompts", "ko").grammars
    steps = PLANS[PLAN.get(call, "plan-upgrade")].steps
    for heard in calls[call].all(ev.UtteranceHeard):
        ask = steps[heard.step].ask
        grammar = grammars[ask.grammar if ask else WATCH]
        judged = judge(heard.testimony, grammar, binding=heard.aside or (ask is not None and ask.purpose in BINDING))
        assert (heard.verdict, heard.reason) == (judged.verdict, judged.reason)


def read_caller(wav: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The caller's channel of a recording."""
    with wave.open(str(wav)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0]
