"""``consent-gateway speech``: measure the listener, and explain what it heard."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.consent.order import Language
from gateway.language.pack import LANGUAGES, LanguagePack, load_pack
from gateway.measure.channel import Channel, parse_channel
from gateway.measure.listening import BadManifest, Clip, Heard, Report, evaluate, hear, read_manifest, upper_bound
from gateway.resources import data_folder
from gateway.settings import find_file, load_settings
from gateway.speech.listener import Listener

app = typer.Typer(no_args_is_help=True, help="Measure the listener, and explain what it heard.")
out, err = Console(), Console(stderr=True)
Result = TypeVar("Result")
Config = Annotated[Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")]
Lang = Annotated[str, typer.Option("--lang", help="ko, zh-CN or en")]
GrammarName = Annotated[str, typer.Option("--grammar", help="which question's grammar")]
ChannelText = Annotated[
    str, typer.Option("--channel", help="line to send clean clips through: alaw, ulaw, nb, plN, snrN")
]


@app.command("eval")
def evaluate_command(
    manifest: Annotated[Path, typer.Argument(help="TSV with path, transcript, label [voice, band, cond, speech_end]")],
    lang: Lang = "ko",
    grammar: GrammarName = "consent",
    channel: ChannelText = "",
    voice: Annotated[list[str] | None, typer.Option(help="only clips of these voices")] = None,
    workers: Annotated[int, typer.Option(min=0, help="listening processes; 0 is one a core")] = 0,
    max_false_accepts: Annotated[int | None, typer.Option(help="exit code 1 above this number")] = None,
    max_false_rejects: Annotated[
        float | None, typer.Option(help="exit code 1 above this share of the asked phrase")
    ] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Run the whole listener over labelled clips: confusion, false accepts with their bound, false rejects, latency, cost."""
    line, clips = _channel(channel), _clips(manifest, voice)

    async def run(listener: Listener, pack: LanguagePack) -> Report:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("listening", total=len(clips))
            return await evaluate(clips, listener, pack.grammars[grammar], line, lambda: progress.advance(task))

    report = _with_listener(config, lang, grammar, workers or os.cpu_count() or 1, run)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), ensure_ascii=False) + "\n")
    else:
        _print(report)
    chances = report.chances()
    rejected = sum(one.judgement.verdict != "affirm" for one in chances)
    too_many = max_false_accepts is not None and len(report.false_accepts) > max_false_accepts
    too_strict = max_false_rejects is not None and bool(chances) and rejected / len(chances) > max_false_rejects
    raise typer.Exit(1 if too_many or too_strict else 0)


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
        "grammar pass": " ".join(f"{word.word} ({word.confidence:.2f})" for word in testimony.words) or "nothing",
        "second pass": "not run: no target phrase" if testimony.open_text is None else testimony.open_text,
        "speech": f"{testimony.speech_ms} ms, from {heard.hearing.onset_ms} to {heard.hearing.end_ms} ms",
        "over the noise": "-" if testimony.snr_db is None else f"{testimony.snr_db:.1f} dB",
        "decided": f"at {heard.hearing.decided_ms} ms, computed in {heard.hearing.compute_ms:.0f} ms",
    }
    if as_json:
        out.print_json(data=rows)
        return
    for name, value in rows.items():
        out.print(f"{name:15} {value}", highlight=False, markup=False, soft_wrap=True)


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
                  f"{one.hearing.testimony.open_text!r}", highlight=False, markup=False, soft_wrap=True)  # fmt: skip
    chances = report.chances()
    rejected = sum(one.judgement.verdict != "affirm" for one in chances)
    out.print(f"asked phrase    {rejected} of {len(chances)} rejected", highlight=False)
    for key, (lost, asked) in sorted(report.false_rejects().items()):
        out.print(f"    {key:14} {lost} of {asked}", highlight=False)
    latencies = report.latencies()
    if latencies:
        out.print(
            f"latency         p50 {latencies[0]:.0f} ms, p95 {latencies[1]:.0f} ms after the end of speech",
            highlight=False,
        )
    out.print(f"cost            {report.cpu_s / report.audio_s:.3f} CPU s per s of audio", highlight=False)


def _with_listener(
    config: Path | None,
    lang: str,
    grammar: str,
    workers: int,
    work: Callable[[Listener, LanguagePack], Awaitable[Result]],
) -> Result:
    """Run *work* with warm listening processes of *lang*."""
    settings = load_settings(find_file(config))
    language: Language | None = next((known for known in LANGUAGES if known == lang), None)
    spec = settings.speech.models.get(language) if language else None
    if language is None or spec is None:
        raise typer.BadParameter(f"no model is configured for {lang!r}; set speech.models", param_hint="--lang")
    pack = load_pack(settings.prompts or data_folder("prompts"), language)
    if grammar not in pack.grammars:
        raise typer.BadParameter(f"{lang} has the grammars {', '.join(pack.grammars)}", param_hint="--grammar")

    async def run() -> Result:
        listener = Listener(spec, pack.grammars, workers)
        try:
            await listener.start()
            return await work(listener, pack)
        finally:
            await listener.stop()

    return asyncio.run(run())


def _channel(text: str) -> Channel:
    try:
        return parse_channel(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--channel") from error


def _clips(manifest: Path, voices: list[str] | None) -> list[Clip]:
    try:
        clips = read_manifest(manifest)
    except BadManifest as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    return [clip for clip in clips if not voices or clip.voice in voices]
