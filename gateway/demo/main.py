"""``make demo``: the main job on this machine, shown live: real SIP, real speech, a real database, a real webhook."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gateway.consent.events import parse_event
from gateway.demo.evidence import fetch_and_verify
from gateway.demo.orders import sample_order
from gateway.demo.scenarios import SCENARIOS, Scenario
from gateway.demo.world import DemoFailed, World, open_world, phone_events, start_phone
from gateway.timeline import describe

CODE_TTL_S = 25.0
KEPT_CODE_TTL_S = 90.0
"""A person who types needs longer."""

RUN_S = 240.0
POLL_S = 0.3
CALLS = 2
"""A caller who was not understood before the offer was made, and released, calls once more, as people do."""

SHOWN = {"answer.judged", "consent.spoken", "consent.denied", "call.started", "call.ended", "utterance.heard", "reply.received",
         "challenge.expired", "sms.sent", "order.provisioned", "prompt.played"}  # fmt: skip
console = Console()


@dataclass
class Progress:
    """One scenario under way."""

    scenario: Scenario
    order_id: str = ""
    state: str = ""
    reason: str = ""
    last: str = ""
    seen: int = 0
    phone: str = ""
    done: bool = False
    log: list[str] = field(default_factory=list)

    def right(self, billed: bool) -> bool:
        return self.done and self.state == self.scenario.state and billed == self.scenario.webhook


def run_demo(*, keep: bool, json_file: Path | None) -> int:
    """The exit code: 0 only when every order ended as it must, and its evidence is valid."""
    try:
        return asyncio.run(_demo(keep=keep, json_file=json_file))
    except DemoFailed as error:
        console.print(f"[red]✗ {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


async def _demo(*, keep: bool, json_file: Path | None) -> int:
    began = time.monotonic()
    outbound = [scenario for scenario in SCENARIOS if scenario.outbound]
    console.print("Starting database, gateway, billing system, handset and softphones …")
    callee = await start_phone(
        None, "answer", "--calls", str(len(outbound)), "--script", outbound[0].script, "--max-seconds", str(int(RUN_S)),
        "--ring-seconds", "1",
    )  # fmt: skip
    events = phone_events(callee)
    line_port = int((await anext(events))["sip"].rpartition(":")[2])
    drained = asyncio.create_task(_drain(events))

    def on_sms(number: str, text: str) -> None:
        if keep:
            console.print(f"[cyan]SMS to {number}:[/] {text}", highlight=False)

    try:
        async with open_world(
            on_sms, host="127.0.0.1", code_ttl_s=KEPT_CODE_TTL_S if keep else CODE_TTL_S, line_port=line_port
        ) as world:
            console.print(
                f"ready after {time.monotonic() - began:.1f} s; settings, logs and evidence in {world.folder}"
            )
            scenes = [Progress(scenario) for scenario in SCENARIOS]
            await _run_all(world, scenes)
            await asyncio.sleep(POLL_S)
            right = _report(world, scenes, json_file, time.monotonic() - began)
            right &= await _evidence(world, scenes[0].order_id)
            if keep:
                await _keep(world)
            return 0 if right else 1
    finally:
        drained.cancel()
        if callee.returncode is None:
            callee.terminate()
            await callee.wait()


async def _run_all(world: World, scenes: list[Progress]) -> None:
    tasks = [asyncio.create_task(_run(world, scene)) for scene in scenes]
    show = asyncio.create_task(_show(scenes)) if console.is_terminal else None
    _, late = await asyncio.wait(tasks, timeout=RUN_S)
    for task in (*late, *([show] if show else [])):
        task.cancel()
    for scene, task in zip(scenes, tasks, strict=True):
        if task in late:
            scene.reason = f"did not come to rest in {RUN_S:.0f} s"
        elif task.exception() is not None:
            scene.reason = str(task.exception())


async def _run(world: World, scene: Progress) -> None:
    """Order, call, follow the record until it is where it must be or cannot get there any more."""
    scenario = scene.scenario
    world.handset.habits[scenario.number] = scenario.habit
    order = sample_order(scenario.number, datetime.now(UTC).date(), call="now" if scenario.outbound else "inbound")
    scene.order_id = (await world.ask("POST", "/v1/orders", order))["order_id"]
    for calls in range(1, 2 if scenario.outbound else CALLS + 1):
        phone = None if scenario.outbound else asyncio.create_task(_dial_in(world, scenario))
        while not await _follow(world, scene, calls) or (phone is not None and not phone.done()):
            await asyncio.sleep(POLL_S)
        if scene.state != "ordered" or scenario.state == "ordered":
            break
    scene.done = True


async def _dial_in(world: World, scenario: Scenario) -> None:
    """One call of the subscriber, from ringing to the end."""
    phone = await start_phone(
        world, "call", f"sip:gateway@{world.host}:{world.sip_port}", "--user", scenario.number,
        "--script", scenario.script, "--max-seconds", "120",
        "--record", str(world.folder / f"heard-{scenario.number[-1]}.wav"),
    )  # fmt: skip
    await _drain(phone_events(phone))
    await phone.wait()


async def _follow(world: World, scene: Progress, calls: int) -> bool:
    """Read what is new in the record; whether it has come to rest after *calls* calls."""
    summary = await world.ask("GET", f"/v1/orders/{scene.order_id}")
    entries = (await world.ask("GET", f"/v1/orders/{scene.order_id}/events"))["events"]
    for entry in entries[scene.seen :]:
        if entry["event"]["type"] in SHOWN:
            scene.last = f"{entry['event']['type']}: {describe(parse_event(entry['event']))}"
            _tell(scene)
    scene.seen = len(entries)
    scene.state, scene.reason = summary["state"], summary["reason"]
    over = sum(e["event"]["type"] == "call.ended" for e in entries) >= calls
    settled = scene.state in ("refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "failed")
    told = any(e["event"]["type"] == "sms.sent" and e["event"]["kind"] == "provisioned" for e in entries)
    return over and (settled or told or scene.state == "ordered")


def _tell(scene: Progress) -> None:
    """Without a terminal: a line for each event as it comes."""
    if not console.is_terminal:
        line = f"{scene.scenario.name:40.40} {scene.last}"
        console.print(line[:150], highlight=False, markup=False, soft_wrap=True)


async def _show(scenes: list[Progress]) -> None:
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while not all(scene.done for scene in scenes):
            rows = Table(box=None, pad_edge=False)
            rows.add_column("", width=2)
            rows.add_column("order", min_width=38, no_wrap=True)
            rows.add_column("state", min_width=11, no_wrap=True)
            rows.add_column("last", no_wrap=True, overflow="ellipsis")
            for scene in scenes:
                mark: Any = Text("✓", "green") if scene.done else Spinner("dots")
                rows.add_row(mark, scene.scenario.name, scene.state, Text(scene.last, overflow="ellipsis"))
            live.update(Group(rows))
            await asyncio.sleep(0.15)


def _report(world: World, scenes: list[Progress], json_file: Path | None, seconds: float) -> bool:
    """Print the table of orders and outcomes; whether all are as they must be."""
    table = Table(title="orders and outcomes", title_justify="left")
    for heading in ("", "what happened", "state", "why", "verified webhook", "order"):
        table.add_column(heading, overflow="fold")
    outcomes = []
    for scene in scenes:
        billed = scene.order_id in world.billing.received
        right = scene.right(billed)
        table.add_row(
            "[green]✓" if right else "[red]✗", scene.scenario.name, scene.state, scene.reason,
            "yes" if billed else "none", scene.order_id[:8],
        )  # fmt: skip
        outcomes.append(
            {
                "scenario": scene.scenario.name, "order_id": scene.order_id, "state": scene.state,
                "expected_state": scene.scenario.state, "webhook": billed, "expected_webhook": scene.scenario.webhook,
                "reason": scene.reason, "right": right,
            }
        )  # fmt: skip
    all_right = all(outcome["right"] for outcome in outcomes) and world.billing.forged == 0
    console.print(table)
    console.print(
        f"{'[green]the promise was kept' if all_right else '[red]NOT as it must be'}[/]: "
        f"{len(world.billing.received)} verified webhooks, {world.billing.forged} forged, in {seconds:.0f} s",
        highlight=False,
    )
    order, config = scenes[0].order_id[:8], world.config
    for command in (
        f"timeline: consent-gateway record show {order} --config {config}",
        f"recording: consent-gateway recording export {order} -o call.wav --by NAME --purpose TEXT --config {config}",
    ):
        console.print(command, highlight=False, soft_wrap=True)
    if json_file is not None:
        data = {"right": all_right, "seconds": round(seconds, 1), "folder": str(world.folder), "orders": outcomes}
        json_file.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return all_right


async def _evidence(world: World, order_id: str) -> bool:
    """Show the evidence of an order, and the stand-alone file's word for it; whether it is valid."""
    try:
        command, said = await fetch_and_verify(world, order_id)
    except (RuntimeError, aiohttp.ClientError, TimeoutError) as error:
        console.print(f"[red]✗ evidence: {escape(str(error))}", highlight=False, soft_wrap=True)
        return False
    console.print(f"evidence: {command}", highlight=False, soft_wrap=True, markup=False)
    console.print(said.rstrip(), highlight=False, soft_wrap=True, markup=False)
    return True


async def _keep(world: World) -> None:
    """Leave everything running until Ctrl-C; SMS are shown here and answered by typing."""
    number = "+821000000000"
    order = sample_order(number, datetime.now(UTC).date())
    created = await world.ask("POST", "/v1/orders", order)
    console.print(
        f"""
Everything keeps running. Dial in with Linphone or Zoiper on this machine:
  account   {number}@{world.host}:{world.sip_port}   (UDP, PCMA or PCMU)   password {world.phone_password}
  call      sip:gateway@{world.host}:{world.sip_port}   an order for you is open: {created["order_id"][:8]}
  answer    in Korean: 네 말씀하세요 · 네 본인입니다 · 네 어른입니다 · 네 동의합니다
  the SMS appears here; type your reply and press return. Its code lives {KEPT_CODE_TTL_S:.0f} s.
API {world.api}   key {world.api_key}   Ctrl-C ends it.""",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    reader = asyncio.StreamReader()
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except ValueError:  # stdin is a file: nobody types
        reader.feed_eof()
    async for line in reader:
        if line.strip():
            status = await world.handset.reply(number, line.decode(errors="replace").strip())
            console.print(f"[cyan]reply from {number}:[/] HTTP {status}", highlight=False)
    await asyncio.Event().wait()


async def _drain(events: Any) -> None:
    """Read a phone's events to their end, so that its pipe never fills."""
    async for _ in events:
        pass
