"""The arithmetic of ``bench listen``: where speech ends, what counts as late, when the search stops."""

from __future__ import annotations

import json
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gateway import cli_bench
from gateway.measure import bench_listen
from gateway.measure.bench_listen import QUIET, Run, Verdict, find, percentiles, speech_span, take_of, takes_of
from gateway.measure.listening import BadManifest, Clip
from gateway.measure.processes import Memory, Usage, cpu_s, memory
from gateway.speech.frontend import Pcm

IDLE = Memory(rss_mb=500.0, pss_mb=400.0)


def ramp(*parts: tuple[int, int]) -> Pcm:
    """Samples of constant level: (how many, level)."""
    return np.concatenate([np.full(count, level, np.int16) for count, level in parts])


def clip(folder: Path, samples: Pcm, *, rate: int = 8000, speech_end_s: float | None = None) -> Clip:
    path = folder / "clip.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return Clip(path, "", "other", speech_end_s=speech_end_s)


def ended(*latencies: float, **counts: int) -> Run:
    return Run(2, verdicts=[Verdict(latency + 20, latency) for latency in latencies], **counts)


class TestTheEndOfSpeech:
    def test_is_the_last_sample_above_two_per_cent_of_the_peak(self) -> None:
        assert speech_span(ramp((100, 0), (50, 10_000), (30, 201), (70, 200))) == (100, 179)

    def test_knows_the_loudest_negative_sample(self) -> None:
        assert speech_span(ramp((3, 600), (1, -32768), (3, 700))) == (3, 6)

    def test_is_nowhere_in_silence(self) -> None:
        assert speech_span(np.zeros(800, np.int16)) is None

    def test_is_nowhere_in_nothing(self) -> None:
        assert speech_span(np.zeros(0, np.int16)) is None


class TestATake:
    def test_says_which_frames_hold_the_speech(self, tmp_path: Path) -> None:
        take = take_of(clip(tmp_path, ramp((320, 0), (321, 8000), (800, 0))))
        assert (take.start, take.end) == (2, 4)

    def test_counts_frames_of_20_ms_whatever_the_rate_of_the_file(self, tmp_path: Path) -> None:
        take = take_of(clip(tmp_path, ramp((640, 0), (642, 8000), (1600, 0)), rate=16000))
        assert (take.start, take.end) == (2, 4)

    def test_is_cut_into_whole_frames_without_losing_the_last(self, tmp_path: Path) -> None:
        take = take_of(clip(tmp_path, ramp((150, 0), (200, 8000))))
        assert [frame.size for frame in take.frames] == [160, 160, 160]
        assert (take.start, take.end) == (0, 2)

    def test_has_been_through_a_law(self, tmp_path: Path) -> None:
        take = take_of(clip(tmp_path, ramp((160, 1001), (160, 0))))
        assert take.frames[0][0] == 1008
        assert np.array_equal(take.frames[1], QUIET)

    def test_ends_where_it_is_labelled_to(self, tmp_path: Path) -> None:
        assert take_of(clip(tmp_path, ramp((1600, 8000)), speech_end_s=0.1)).end == 5

    def test_never_ends_behind_itself(self, tmp_path: Path) -> None:
        take = take_of(clip(tmp_path, ramp((1600, 8000)), speech_end_s=9.0))
        assert take.end == len(take.frames) - 1

    def test_of_silence_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadManifest, match=r"clip.wav: nothing but silence"):
            take_of(clip(tmp_path, np.zeros(800, np.int16)))

    def test_of_a_large_corpus_is_one_of_two_hundred(self, tmp_path: Path) -> None:
        assert len(takes_of([clip(tmp_path, ramp((160, 8000)))] * 201)) == 200


class TestPercentiles:
    def test_of_a_hundred_and_one_values(self) -> None:
        assert percentiles([float(value) for value in range(101)]) == {
            "p50": 50.0,
            "p95": 95.0,
            "p99": 99.0,
            "max": 100.0,
        }

    def test_of_nothing_are_none_so_that_json_can_hold_them(self) -> None:
        assert percentiles([]) == {"p50": None, "p95": None, "p99": None, "max": None}


class TestARun:
    def test_passes_when_every_verdict_is_in_time(self) -> None:
        assert ended(300.0, 700.0).passed

    def test_counts_a_verdict_after_700_ms_as_late(self) -> None:
        run = ended(300.0, 700.1)
        assert run.late == 1
        assert not run.passed

    def test_counts_a_verdict_that_never_came_as_late(self) -> None:
        run = ended(300.0, unanswered=1)
        assert run.late == 1
        assert not run.passed

    def test_fails_when_a_decoder_died(self) -> None:
        assert not ended(300.0, lost=1).passed

    def test_fails_without_a_verdict(self) -> None:
        assert not ended().passed

    def test_tells_cost_and_memory_for_each_stream(self) -> None:
        usage = Usage(peak=Memory(600.0, 450.0), _cpu={1: (10.0, 11.0), 2: (0.5, 1.5)})
        told = Run(10, seconds=20.0, fed=5000, spoken=1000, usage=usage).as_json(IDLE)
        assert told["cpu_s_per_stream_s"] == pytest.approx(0.02)
        assert told["cpu_s_per_speech_s"] == pytest.approx(0.1)
        assert told["cores_used"] == pytest.approx(0.1)
        assert told["memory_per_stream_mb"] == pytest.approx(5.0)
        assert told["audio_share"] == pytest.approx(0.2)

    def test_tells_the_second_pass_by_itself(self) -> None:
        told = Run(2, verdicts=[Verdict(320.0, 300.0), Verdict(None, 650.0, candidate=True)]).as_json(IDLE)
        assert told["candidates"] == 1
        assert told["candidates_latency_ms"]["max"] == 650.0
        assert told["latency_from_clip_ms"]["max"] == 320.0
        assert told["before_clip_ended"] == 1

    def test_of_nothing_is_still_json(self) -> None:
        json.dumps(Run(1).as_json(IDLE), allow_nan=False)


class TestTheSearch:
    async def test_stops_at_the_first_step_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await self.steps(monkeypatch, most=100, bears=30) == [10, 20, 30, 40]

    async def test_goes_no_further_than_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await self.steps(monkeypatch, most=25, bears=100) == [10, 20]

    async def test_tries_fewer_than_a_step_when_no_more_are_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await self.steps(monkeypatch, most=4, bears=100) == [4]

    async def steps(self, monkeypatch: pytest.MonkeyPatch, *, most: int, bears: int) -> list[int]:
        async def run(*arguments: Any) -> Run:
            streams = arguments[3]
            return Run(streams, verdicts=[Verdict(None, 300.0 if streams <= bears else 900.0)])

        monkeypatch.setattr(bench_listen, "run", run)
        nobody: Any = None
        return [one.streams for one in await find(nobody, nobody, (), most, 1.0, lambda *_: None)]


class TestWhatProcessesCost:
    def test_this_one_has_used_a_processor(self) -> None:
        assert 0 < cpu_s(os.getpid()) <= sum(os.times()[:2]) + 0.02

    def test_shared_pages_make_the_proportional_set_no_larger(self) -> None:
        held = memory([os.getpid()])
        assert 1 < held.pss_mb <= held.rss_mb

    def test_a_process_that_died_is_left_out(self) -> None:
        usage = Usage()
        usage.sample([os.getpid()])
        peak = usage.peak
        usage.sample([2**22 + 1])
        assert usage.peak == peak
        assert usage.cpu_s == 0.0


class TestTheExitCode:
    @pytest.mark.parametrize(("verdicts", "code"), [(0, 1), (1, 0)])
    def test_is_1_when_not_a_single_verdict_came(
        self, monkeypatch: pytest.MonkeyPatch, verdicts: int, code: int
    ) -> None:
        async def listened(*_: Any, **__: Any) -> dict[str, Any]:
            return {"runs": [{"verdicts": verdicts}]}

        monkeypatch.setattr(cli_bench, "_listen", listened)
        told = CliRunner().invoke(cli_bench.app, ["listen", "--json"])
        assert told.exit_code == code, told.output
        assert json.loads(told.stdout)["conditions"]["decoders"] == 1

    def test_is_1_for_a_manifest_that_cannot_be_read(self) -> None:
        told = CliRunner().invoke(cli_bench.app, ["listen", "--manifest", "nowhere.tsv"])
        assert told.exit_code == 1
        assert "nowhere.tsv" in told.stderr
