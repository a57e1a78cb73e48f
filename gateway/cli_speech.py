"""``consent-gateway speech``: measure the listener, explain what it heard, and draw what its witnesses are worth."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.consent.order import Language
from gateway.consent.testimony import Grammar, Word
from gateway.extras import need
from gateway.language.pack import LANGUAGES, LanguagePack, load_pack
from gateway.measure.channel import Channel, parse_channel
from gateway.measure.listening import BadManifest, Clip, Evaluation, Heard, evaluate, hear, read_manifest
from gateway.measure.report import BadReport, Report, read_report, upper_bound
from gateway.measure.sweep import judged_otherwise
from gateway.resources import data_folder
from gateway.settings import Settings, find_file, load_settings
from gateway.speech.listener import Listener

app = typer.Typer(no_args_is_help=True, help="Measure the listener, explain what it heard, draw what it is worth.")
out, err = Console(), Console(stderr=True)
Result = TypeVar("Result")
Config = Annotated[Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")]
Lang = Annotated[str, typer.Option("--lang", help="ko, zh-CN or en")]
GrammarName = Annotated[str, typer.Option("--grammar", help="which question's grammar")]
ChannelText = Annotated[
    str,
    typer.Option("--channel", help="line to send clean clips through: alaw, ulaw, g722, nb, plN, snrN[-pink|-brown]"),
]

ChannelTexts = Annotated[
    list[str] | None,
    typer.Option("--channel", help="as in speech hear; given more than once, every clip is sent through each"),
]
Voices = Annotated[list[str] | None, typer.Option("--voice", help="only clips of these voices")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="listening processes; 0 is one a core")]


@app.command("eval")
def evaluate_command(
    manifest: Annotated[Path, typer.Argument(help="TSV with path, transcript, label [voice, band, cond, speech_end]")],
    lang: Lang = "ko",
    grammar: GrammarName = "consent",
    channel: ChannelTexts = None,
    voice: Voices = None,
    workers: Workers = 0,
    max_false_accepts: Annotated[int | None, typer.Option(help="exit code 1 above this number")] = None,
    max_false_rejects: Annotated[
        float | None, typer.Option(help="exit code 1 above this share of the asked phrase")
    ] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Run the whole listener over labelled clips: confusion, false accepts with their bound, false rejects, latency, cost."""
    report = _evaluate(config, lang, grammar, _channels(channel), _clips(manifest, voice), workers)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), ensure_ascii=False) + "\n")
    else:
        _print(report)
    chances = len(report.chances)
    too_many = max_false_accepts is not None and len(report.false_accepts) > max_false_accepts
    too_strict = max_false_rejects is not None and chances > 0 and report.rejected / chances > max_false_rejects
    raise typer.Exit(1 if too_many or too_strict else 0)


@app.command("plot")
def plot_command(
    manifest: Annotated[
        Path | None, typer.Argument(help="TSV as for speech eval; it is listened to now", show_default=False)
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--from", help="what speech eval --json wrote: draw that, without listening")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="folder that the figures are written to")] = Path("plots"),
    lang: Lang = "ko",
    grammar: GrammarName = "consent",
    channel: ChannelTexts = None,
    voice: Voices = None,
    workers: Workers = 0,
    config: Config = None,
) -> None:
    """Draw what the witnesses are worth and how long the verdict takes: detection and latency, as PNG and SVG.

    Give a manifest, or --from a report of speech eval --json. The detection error tradeoff moves one floor at a time and
    judges the same clips again; the floors in force are marked. Needs: pip install 'consent-gateway[plot]'.
    """
    need("plot", "matplotlib")
    if (manifest is None) == (report_file is None):
        raise typer.BadParameter(
            "give a manifest to listen to, or --from REPORT.json; one of them", param_hint="MANIFEST"
        )
    if report_file is not None and (channel or voice):
        raise typer.BadParameter(
            "what was heard stays as it was; give --channel and --voice to speech eval", param_hint="--from"
        )
    from gateway.measure import plot  # noqa: PLC0415 - matplotlib takes half a second to load

    asked = _question(_pack(load_settings(find_file(config)), lang, grammar), grammar)
    if manifest is not None:
        report = _evaluate(config, lang, grammar, _channels(channel), _clips(manifest, voice), workers)
    else:
        assert report_file is not None
        report = _read(report_file)
        if report.target not in asked.affirm:
            _fail(f"{report_file}: {report.target!r} is asked there, and {asked.affirm[0]!r} by {lang}, grammar {grammar}; "
                  "name its question with --lang and --grammar")  # fmt: skip
        if changed := judged_otherwise(report, asked):
            err.print(f"{changed} of {len(report.heard)} clips judged otherwise today: floors or phrases have changed; today's are drawn",
                      style="yellow", highlight=False, soft_wrap=True)  # fmt: skip
    about = f"{(manifest or report_file or Path()).name}: {lang}, grammar {grammar}{''.join(f', {line}' for line in channel or ())}"
    faults = []
    detection = partial(plot.draw_detection, report, asked, about, out_folder)
    for draw in (detection, partial(plot.draw_latency, report, about, out_folder)):
        try:
            for path in draw():
                out.print(str(path), highlight=False, markup=False, soft_wrap=True)
        except plot.NothingToDraw as error:
            faults.append(str(error))
        except OSError as error:
            _fail(f"--out {out_folder}: {error.strerror}; choose another folder")
    if faults:
        _fail("; ".join(faults))


@app.command("hear")
def hear_command(
    file: Annotated[Path, typer.Argument(help="WAV, 16 bit")],
    lang: Lang = "ko",
    grammar: GrammarName = "consent",
    channel: ChannelText = "",
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Explain one clip: what each witness heard, the verdict, and why."""
    line = _channel(channel)

    async def run(listener: Listener, pack: LanguagePack) -> Heard:
        heard, _ = await hear(Clip(file, "", ""), listener, pack.grammars[grammar], line)
        return heard

    heard = _with_listener(config, lang, grammar, 1, run)
    testimony = heard.hearing.testimony
    rows = {
        "verdict": heard.judgement.verdict,
        "reason": heard.judgement.reason,
        "grammar pass": _words(testimony.words) or "nothing",
        "second pass": "not run: no target phrase" if testimony.open_words is None else _words(testimony.open_words),
        "path margin": "-" if testimony.path_margin is None else f"{testimony.path_margin:.1f}",
        "speech": f"{testimony.speech_ms} ms, from {heard.hearing.onset_ms} to {heard.hearing.end_ms} ms",
        "over the noise": "-" if testimony.snr_db is None else f"{testimony.snr_db:.1f} dB",
        "clipped": f"{100 * testimony.clipped:.1f} %",
        "pitch": "-" if testimony.pitch_jump is None else f"{testimony.pitch_jump:.0f} semitones between words",
        "end": "-" if testimony.final_rise is None else f"{testimony.final_rise:+.1f} semitones",
        "decided": f"at {heard.hearing.decided_ms} ms, computed in {heard.hearing.compute_ms:.0f} ms",
    }
    if as_json:
        out.print_json(data=rows)
        return
    for name, value in rows.items():
        out.print(f"{name:15} {value}", highlight=False, markup=False, soft_wrap=True)


def _words(words: tuple[Word, ...]) -> str:
    return " ".join(f"{word.word} ({word.confidence:.2f})" for word in words)


def _print(report: Report) -> None:
    verdicts = ("affirm", "deny", "unclear", "noinput", "stop", "repeat", "agent")
    table = Table(title=f"{len(report.heard)} clips, target {report.target!r}", title_justify="left")
    for heading in ("label", *verdicts):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, row in sorted(report.confusion().items()):
        table.add_row(label, *(str(row[verdict] or "") for verdict in verdicts))
    out.print(table)
    accepts, negatives = len(report.false_accepts), report.negatives
    out.print(
        f"false accepts   {accepts} of {negatives}; at most {100 * upper_bound(accepts, negatives):.3f} % (95 %)",
        highlight=False,
    )
    for one in report.false_accepts:
        out.print(f"    {one.clip.path.name}: {one.clip.transcript!r} {one.judgement.reason}; second pass "
                  f"{one.hearing.testimony.heard_open!r}", highlight=False, markup=False, soft_wrap=True)  # fmt: skip
    out.print(f"asked phrase    {report.rejected} of {len(report.chances)} rejected", highlight=False)
    for key, (lost, asked) in sorted(report.false_rejects().items()):
        out.print(f"    {key:14} {lost} of {asked}", highlight=False)
    twice = report.second_capture()
    if twice.negatives:
        out.print(
            f"given twice     {twice.accepted} of {twice.negatives} pairs accepted falsely, {twice.rejected} of "
            f"{twice.chances} pairs of the asked phrase rejected",
            highlight=False,
        )
    latencies = report.latencies()
    if latencies:
        out.print(
            f"latency         p50 {latencies[0]:.0f} ms, p95 {latencies[1]:.0f} ms after the end of speech",
            highlight=False,
        )
    if report.cost is not None:
        out.print(f"cost            {report.cost:.3f} CPU s per s of audio", highlight=False)


def _evaluate(
    config: Path | None, lang: str, grammar: str, lines: dict[str, Channel], clips: list[Clip], workers: int
) -> Report:
    async def run(listener: Listener, pack: LanguagePack) -> Report:
        asked = _question(pack, grammar)
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("listening", total=len(clips) * len(lines))
            whole = Evaluation()
            for name, line in lines.items():
                named = [replace(clip, condition=" ".join(filter(None, (clip.condition, name)))) for clip in clips]
                whole += await evaluate(named, listener, asked, line, lambda: progress.advance(task))
        return Report(asked.affirm[0], whole)

    return _with_listener(config, lang, grammar, workers or os.cpu_count() or 1, run)


def _with_listener(
    config: Path | None,
    lang: str,
    grammar: str,
    workers: int,
    work: Callable[[Listener, LanguagePack], Awaitable[Result]],
) -> Result:
    """Run *work* with warm listening processes of *lang*."""
    settings = load_settings(find_file(config))
    pack = _pack(settings, lang, grammar)
    spec = settings.speech.models.get(pack.language)
    if spec is None:
        raise typer.BadParameter(f"no model is configured for {lang!r}; set speech.models", param_hint="--lang")

    async def run() -> Result:
        listener = Listener(spec, pack.grammars, workers)
        try:
            await listener.start()
            return await work(listener, pack)
        finally:
            await listener.stop()

    return asyncio.run(run())


def _pack(settings: Settings, lang: str, grammar: str) -> LanguagePack:
    language: Language | None = next((known for known in LANGUAGES if known == lang), None)
    if language is None:
        raise typer.BadParameter(f"{lang!r} is none of {', '.join(LANGUAGES)}", param_hint="--lang")
    pack = load_pack(settings.prompts or data_folder("prompts"), language)
    if grammar not in pack.grammars:
        raise typer.BadParameter(f"{lang} has the grammars {', '.join(pack.grammars)}", param_hint="--grammar")
    return pack


def _question(pack: LanguagePack, grammar: str) -> Grammar:
    """The grammar of that name, which must be one that something is asked with."""
    if not pack.grammars[grammar].affirm:
        raise typer.BadParameter(f"{grammar!r} asks for no phrase, so none can be rejected", param_hint="--grammar")
    return pack.grammars[grammar]


def _channel(text: str) -> Channel:
    try:
        return parse_channel(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--channel") from error


def _channels(texts: list[str] | None) -> dict[str, Channel]:
    return {text: _channel(text) for text in texts or [""]}


def _clips(manifest: Path, voices: list[str] | None) -> list[Clip]:
    try:
        clips = read_manifest(manifest)
    except BadManifest as error:
        _fail(str(error))
    return [clip for clip in clips if not voices or clip.voice in voices]


def _read(file: Path) -> Report:
    try:
        return read_report(file)
    except BadReport as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
