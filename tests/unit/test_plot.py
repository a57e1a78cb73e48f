"""Sweeps and figures: what one floor trades, a report read back from its JSON, and files that are the same every time."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import cli, cli_speech
from gateway.consent import testimony
from gateway.consent.testimony import Word
from gateway.consent.verdict import STRICT, judge
from gateway.language.pack import load_pack
from gateway.measure.listening import Clip, Evaluation, Heard
from gateway.measure.plot import NothingToDraw, draw_detection, draw_latency
from gateway.measure.report import BadReport, Report, read_report
from gateway.measure.sweep import SETS, Point, in_force, judged_otherwise, sweep
from gateway.resources import data_folder
from gateway.speech.listener import Hearing

GRAMMAR = load_pack(data_folder("prompts"), "ko").grammars["consent"]
TARGET = GRAMMAR.affirm[0]
ALONE, MARGIN, DISTANCE, ALL = SETS
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def said(
    text: str = TARGET, *, confidence: float = 1.0, margin: float = 14.0, openly: str = TARGET
) -> testimony.Testimony:
    """The phrase as the grammar pass heard it, at a human pace on a clean line."""
    words = tuple(Word(word, 0.4 * at, 0.4 * at + 0.4, confidence) for at, word in enumerate(text.split()))
    heard = tuple(Word(word, 0.0, 0.4, 1.0) for word in openly.split())
    return testimony.Testimony(words, heard, margin, share=1.0, speech_ms=400 * len(words), snr_db=30.0)


def clip(told: testimony.Testimony, label: str, transcript: str = TARGET, latency_ms: float | None = 400.0) -> Heard:
    judgement = judge(told, GRAMMAR, binding=True)
    return Heard(Clip(Path(f"{label}.wav"), transcript, label), Hearing(told), judgement, latency_ms)


def report(*heard: Heard) -> Report:
    return Report(TARGET, Evaluation(heard, 0.0, 0.0))


YES = (
    clip(said(), "affirm"),
    clip(said(margin=9.0), "affirm", latency_ms=350.0),
    clip(said(confidence=0.7), "affirm"),
    clip(said(margin=4.0, openly="네 동의 함"), "affirm", latency_ms=900.0),
    clip(said("네"), "affirm"),
)
NO = (
    clip(said(margin=12.0, confidence=0.65, openly="네 동의 합니까"), "question", "네 동의합니까?"),
    clip(said(margin=2.0, openly="네 도미 갑니다"), "other", "네 도미 갑니다", -30.0),
    clip(said(margin=-3.0, confidence=0.5, openly="비행기"), "other", "비행기"),
    clip(said("아니요"), "negative", "아니요", None),
)
HEARD = report(*YES, *NO)


def points(curve_of: Report, which: int) -> list[tuple[int, int]]:
    return [(point.accepted, point.rejected) for point in sweep(curve_of, GRAMMAR, SETS[which]).points]


@pytest.mark.parametrize("witnesses", SETS, ids=lambda one: one.name)
def test_a_stricter_floor_never_accepts_more_nor_rejects_less(witnesses) -> None:
    curve = sweep(HEARD, GRAMMAR, witnesses)
    towards = 1 if witnesses.strictest > witnesses.laxest else -1
    for lax, strict in pairwise(curve.points):
        assert towards * lax.threshold < towards * strict.threshold
        assert (lax.accepted, lax.rejected) != (strict.accepted, strict.rejected)
        assert strict.accepted <= lax.accepted
        assert strict.rejected >= lax.rejected


def test_the_grammar_pass_alone_trades_by_word_confidence() -> None:
    assert [(3, 1), (2, 1), (1, 1), (1, 2)] == points(HEARD, 0)
    assert [0.5, 0.65, 0.7, 1.0] == [pytest.approx(p.threshold) for p in sweep(HEARD, GRAMMAR, ALONE).points]


def test_the_path_margin_trades_where_the_clips_lie_and_minds_nothing_else() -> None:
    thresholds = [point.threshold for point in sweep(HEARD, GRAMMAR, MARGIN).points]
    assert [(3, 1), (2, 1), (1, 1), (1, 2), (1, 3), (0, 3), (0, 5)] == points(HEARD, 1)
    assert [-3.0, 2.0, 4.0, 9.0, 12.0, 14.0] == [pytest.approx(threshold) for threshold in thresholds[:-1]]


def test_the_phonetic_distance_grows_stricter_downwards() -> None:
    assert (0, 2) == points(HEARD, 2)[-1]
    assert 0.0 == sweep(HEARD, GRAMMAR, DISTANCE).points[-1].threshold


def test_all_witnesses_at_their_floors_are_the_operating_point() -> None:
    at_the_floor = next(p for p in sweep(HEARD, GRAMMAR, ALL).points if p.threshold >= STRICT.path_margin)
    assert Point(STRICT.path_margin, len(HEARD.false_accepts), HEARD.rejected) == in_force(HEARD, GRAMMAR)
    assert (at_the_floor.accepted, at_the_floor.rejected) == (len(HEARD.false_accepts), HEARD.rejected)


def test_a_second_pass_that_is_missing_is_no_yes_to_any_set_that_asks_it() -> None:
    deaf = clip(replace(said(), open_words=None), "affirm")
    assert [[(0, 0)], [(0, 1)], [(0, 1)], [(0, 1)]] == [points(report(deaf), which) for which in range(len(SETS))]


def test_a_verdict_that_has_changed_since_is_counted() -> None:
    then = replace(YES[0], judgement=replace(YES[0].judgement, verdict="unclear"))
    assert (0, 1) == (judged_otherwise(HEARD, GRAMMAR), judged_otherwise(report(then, *NO), GRAMMAR))


def written(folder: Path, told: object) -> Path:
    file = folder / "report.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told, ensure_ascii=False), encoding="utf-8")
    return file


def test_a_report_read_back_says_the_same(tmp_path: Path) -> None:
    again = read_report(written(tmp_path, HEARD.as_json()))
    assert HEARD.heard == again.heard
    assert HEARD.as_json() | {"cpu_s_per_audio_s": None} == again.as_json()


def spoiled(**changes: object) -> dict[str, object]:
    told = HEARD.as_json()
    told["heard"][1] |= changes
    return told


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("", r"Invalid JSON"),
        ("[]", r"Input should be an object"),
        ({"target": TARGET}, r"report\.json: heard: Field required"),
        (spoiled(verdict="yes"), r"heard\.1\.verdict: Input should be 'affirm', "),
        (spoiled(mood="good"), r"heard\.1\.mood: Extra inputs are not permitted"),
        (spoiled(witnesses={"words": []}), r"heard\.1\.witnesses: the witness open_words, path_margin, share, .* missing"),
        (spoiled(witnesses=7), r"heard\.1\.witnesses"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_report_is_refused_where_it_goes_wrong(tmp_path: Path, told: object, message: str) -> None:
    with pytest.raises(BadReport, match=message) as caught:
        read_report(written(tmp_path, told))
    assert str(caught.value).endswith("speech eval --json writes: run that again")


def test_a_report_that_is_not_there_names_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(
        BadReport, match=r"none\.json: No such file or directory; write one with: consent-gateway speech"
    ):
        read_report(tmp_path / "none.json")


def test_each_figure_is_written_as_png_and_svg(tmp_path: Path) -> None:
    files = draw_detection(HEARD, GRAMMAR, "twelve clips", tmp_path / "new")
    files += draw_latency(HEARD, "twelve clips", tmp_path / "new")
    assert ["detection.png", "detection.svg", "latency.png", "latency.svg"] == [file.name for file in files]
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(PNG_HEAD)
        else:
            assert ET.parse(file).getroot().tag.endswith("svg")


def test_the_same_report_gives_the_same_octets(tmp_path: Path) -> None:
    first, second = (
        [*draw_detection(HEARD, GRAMMAR, "x", tmp_path / at), *draw_latency(HEARD, "x", tmp_path / at)] for at in "ab"
    )
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"<dc:date>" not in first[1].read_bytes()


@pytest.mark.parametrize(
    "heard",
    [
        pytest.param(report(*YES[:1], *NO[3:]), id="nothing goes wrong"),
        pytest.param(report(*YES[4:], *NO), id="every yes is rejected"),
        pytest.param(report(*YES[4:], *NO[3:]), id="every yes is rejected, and nothing accepted"),
        pytest.param(report(*YES[:1], *NO[2:]), id="some sets reject nothing"),
        pytest.param(report(*YES * 4, *NO * 50), id="many"),
        pytest.param(report(*YES[:1], clip(said(), "other")), id="every no is accepted"),
    ],
)
def test_a_figure_is_drawn_whatever_was_heard(tmp_path: Path, heard: Report) -> None:
    assert 2 == len(draw_detection(heard, GRAMMAR, "동의.json", tmp_path))
    assert 2 == len(draw_latency(heard, "동의.json", tmp_path))


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        (
            report(*NO),
            r"no clip is of the asked phrase; add clips with the label affirm and the transcript '네 동의 합니다'",
        ),
        (report(*YES), r"every clip is a yes; add clips with other labels"),
    ],
)
def test_without_a_yes_or_without_a_no_there_is_nothing_to_trade(tmp_path: Path, heard: Report, message: str) -> None:
    with pytest.raises(NothingToDraw, match=message):
        draw_detection(heard, GRAMMAR, "", tmp_path)


def test_without_a_labelled_end_of_speech_there_is_no_latency(tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw, match=r"add the column speech_end \(seconds\) to the manifest"):
        draw_latency(report(NO[3]), "", tmp_path)


def plot(*arguments: str) -> tuple[int, str]:
    """Exit code and everything printed, its lines joined."""
    result = CliRunner().invoke(cli_speech.app, ["plot", *arguments])
    return result.exit_code, " ".join(result.output.replace("│", "").split())


def test_the_command_draws_a_report_without_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = plot("--from", str(written(tmp_path, HEARD.as_json())))
    assert (0, "plots/detection.png plots/detection.svg plots/latency.png plots/latency.svg") == (code, told)


def test_the_command_draws_what_it_can_and_says_what_is_lacking(tmp_path: Path) -> None:
    code, told = plot("--from", str(written(tmp_path, report(*NO).as_json())), "--out", str(tmp_path / "o"))
    assert (1, True, ["latency.png", "latency.svg"]) == (
        code, "add clips with the label affirm" in told, sorted(file.name for file in (tmp_path / "o").iterdir()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a manifest to listen to, or --from REPORT.json"),
        (["x.tsv", "--from", "REPORT"], 2, "one of them"),
        (["--from", "REPORT", "--channel", "nb"], 2, "give --channel and --voice to speech eval"),
        (["--from", "REPORT", "--lang", "fr"], 2, "'fr' is none of ko, zh-CN, en"),
        (["--from", "REPORT", "--grammar", "watch"], 2, "'watch' asks for no phrase"),
        (["--from", "REPORT", "--grammar", "owner"], 1, "name its question with --lang and --grammar"),
        (["--from", "REPORT", "--out", "/dev/null/x"], 1, "--out /dev/null/x: Not a directory; choose another folder"),
    ],
)
def test_the_command_names_the_mend(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    file = str(written(tmp_path, HEARD.as_json()))
    exit_code, told = plot(*(file if argument == "REPORT" else argument for argument in arguments))
    assert (code, True) == (exit_code, message in told), told


def test_without_matplotlib_the_command_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["consent-gateway", "speech", "plot", "--from", "report.json"])
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.main()
    assert "✗ matplotlib not installed; pip install 'consent-gateway[plot]'\n" == capsys.readouterr().err


def test_a_verdict_of_other_floors_is_told(tmp_path: Path) -> None:
    told = HEARD.as_json()
    told["heard"][0]["verdict"] = "unclear"
    code, said_so = plot("--from", str(written(tmp_path, told)), "--out", str(tmp_path))
    assert (0, True) == (code, "1 of 9 clips judged otherwise today" in said_so)
