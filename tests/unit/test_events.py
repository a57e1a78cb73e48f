"""Events as the ledger keeps them: what is written down is what is read again, to the last digit."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.consent import events as ev
from gateway.consent.canonical import canonical
from gateway.consent.testimony import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.consent.testimony import Word
from gateway.consent.verdict import Verdict

numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | numbers
words = st.lists(st.builds(Word, st.text(), numbers, numbers, numbers), max_size=4).map(tuple)
testimonies = st.builds(
    Witnessed,
    words=words,
    open_words=st.none() | words,
    path_margin=maybe,
    share=maybe,
    speech_ms=st.integers(0, 15_000),
    snr_db=maybe,
    clipped=numbers,
    overlapped=st.booleans(),
    echo=numbers,
    pitch_jump=maybe,
    final_rise=maybe,
    dtmf=st.text("0123456789*#", max_size=4),
)
utterances = st.builds(
    ev.UtteranceHeard,
    call_id=st.just("call-1"),
    step=st.sampled_from(["terms", "consent"]),
    grants_consent=st.booleans(),
    aside=st.booleans(),
    verdict=st.sampled_from(get_args(Verdict)),
    reason=st.text(),
    testimony=testimonies,
    audio_sha256=st.sampled_from(["", "0" * 64]),
)
SILENCE = ev.UtteranceHeard(call_id="call-1", step="terms", grants_consent=False, verdict="noinput", reason="silence")
captures = st.builds(ev.Capture, step=st.text(), purpose=st.text(), said=st.text(), audio_sha256=st.text())
consents = st.builds(
    ev.ConsentSpoken,
    call_id=st.just("call-1"),
    order_hash=st.just("0" * 64),
    captures=st.lists(captures, max_size=2).map(tuple),
)


def stored(event: ev.Event) -> ev.Event:
    """*event* as it comes back from the ledger: its canonical JSON (RFC 8785), parsed."""
    return ev.parse_event(json.loads(canonical(event.model_dump(mode="json"))))


@given(utterances)
def test_an_utterance_comes_back_with_its_testimony_as_it_was(event: ev.UtteranceHeard) -> None:
    assert event == ev.parse_event(event.model_dump(mode="json"))
    assert event == stored(event)


@given(consents)
def test_a_consent_comes_back_with_its_captures(event: ev.ConsentSpoken) -> None:
    assert event == ev.parse_event(event.model_dump(mode="json"))
    assert event == stored(event)


@given(utterances)
def test_what_comes_back_can_be_judged(event: ev.UtteranceHeard) -> None:
    """Not a mapping with the same numbers: the very type that ``judge`` takes."""
    back = stored(event)
    assert isinstance(back, ev.UtteranceHeard)
    assert (Witnessed, event.testimony.heard, event.testimony.heard_open) == (
        type(back.testimony), back.testimony.heard, back.testimony.heard_open,
    )  # fmt: skip


@pytest.mark.parametrize(
    "testimony",
    [
        {"mood": "glad"},
        {"words": [{"word": "네", "start": 0.0, "end": 0.1}]},
        {"words": [{"word": "네", "start": 0.0, "end": 0.1, "confidence": "high"}]},
        {"speech_ms": "long"},
    ],
    ids=["an unknown witness", "a word without its confidence", "a confidence that is no number", "no length"],
)
def test_a_testimony_that_is_none_is_refused(testimony: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ev.parse_event(SILENCE.model_dump(mode="json") | {"testimony": testimony})


def test_an_utterance_without_a_testimony_is_silence() -> None:
    assert (Witnessed(), False) == (SILENCE.testimony, SILENCE.aside)
