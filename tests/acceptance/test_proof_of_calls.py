"""Evidence of a real call: heard, spoken, recorded, confirmed by SMS and billed; exported while the gateway runs, verified alone."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pypdf import PdfReader
from town import HOST, PASSWORD, SUBSCRIBER, TURN_MS, Town, cli

from gateway.demo.parties import CODE
from gateway.demo.world import clip
from gateway.evidence import verify_evidence as evidence

pytestmark = pytest.mark.asyncio(loop_scope="session")

YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))


@dataclass
class Proven:
    order_id: str
    file: Path
    key: str
    members: dict[str, bytes]
    report: evidence.Report


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proven(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    """An order that was provisioned, and its bundle by the command line, beside the running gateway."""
    await town.run()
    order_id = await town.order(SUBSCRIBER)
    account = ("--user", SUBSCRIBER, "--password", PASSWORD, "--server", f"{HOST}:{town.world.sip_port}", "--register")
    caller = await town.phone("call", town.sip, *account, "--turn-silence", TURN_MS, "--script", YES, "--messages", "9")
    for milestone in ("prompt.played", "consent.spoken", "call.ended", "challenge.issued"):  # each has its own patience
        await town.comes(order_id, milestone)
    code = None
    while code is None:  # first may come what an earlier test's phone was not there for
        code = CODE.search(str((await caller.told("message"))["text"]))
    await (await town.phone("message", town.sip, *account, "--text", code[0])).done()
    await town.reaches(order_id, "provisioned")
    caller.process.kill()
    await caller.done()
    file = tmp_path_factory.mktemp("evidence") / "evidence.zip"
    status, out, err = await cli(
        "evidence", "export", order_id, "-o", str(file), "--by", "a test", "--json", "--config", str(town.world.config)
    )
    assert (0, "") == (status, err)
    key = str(json.loads(out)["key"])
    content = file.read_bytes()
    members = {name: bytes(octets) for name, octets in evidence.unpack(content).items()}
    return Proven(order_id, file, key, members, evidence.verify(content, key))


async def test_both_proofs_and_the_billing_are_in_it(proven: Proven) -> None:
    assert ("provisioned", proven.order_id, 1) == (
        proven.report.outcome, proven.report.order_id, proven.report.deliveries,
    )  # fmt: skip


async def test_nothing_is_missing(proven: Proven) -> None:
    assert {} == proven.report.missing


async def test_what_was_judged_is_in_the_recording_bit_for_bit(proven: Proven) -> None:
    [recording] = proven.report.recordings
    assert recording.whole
    assert recording.same == recording.judged >= 4


async def test_every_prompt_of_the_call_can_be_listened_to(proven: Proven) -> None:
    played = {row["event"]["audio_sha256"] for row in rows(proven) if row["event"]["type"] == "prompt.played"}
    assert {evidence.prompt_member(digest) for digest in played} == {
        name for name in proven.members if name.startswith("prompts/")
    }


async def test_the_agreement_names_the_operator_and_the_number(proven: Proven) -> None:
    [page] = PdfReader(io.BytesIO(proven.members["agreement.pdf"])).pages
    text = page.extract_text()
    assert all(wanted in text for wanted in ("한빛통신", SUBSCRIBER, proven.order_id, "데이터 플러스 요금제"))


async def test_the_code_is_nowhere_in_it(proven: Proven) -> None:
    [sent] = [
        row["event"]
        for row in rows(proven)
        if row["event"]["type"] == "sms.sent" and row["event"]["kind"] == "challenge"
    ]
    assert "······" in sent["text"]
    assert CODE.search(sent["text"]) is None


async def test_the_key_is_the_one_that_the_gateway_prints(gateway: Town, proven: Proven) -> None:
    status, out, _ = await cli("ledger", "key", "--config", str(gateway.world.config))
    assert (0, True) == (status, proven.key in out)


async def test_the_single_file_verifies_it_where_there_is_no_gateway(proven: Proven) -> None:
    alone = proven.file.with_name("verify_evidence.py")
    alone.write_bytes(proven.members["verify_evidence.py"])
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-I", str(alone), str(proven.file), "--key", proven.key], cwd=proven.file.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"valid: order {proven.order_id}: provisioned")


async def test_billing_may_fetch_it_too(gateway: Town, proven: Proven) -> None:
    key = {"Authorization": f"Bearer {gateway.world.api_key}"}
    url = f"{gateway.world.api}/v1/orders/{proven.order_id}/evidence"
    async with gateway.world.session.get(url, headers=key) as answer:
        assert (200, "application/zip") == (answer.status, answer.content_type)
        bundle = await answer.read()
    report = evidence.verify(bundle, proven.key)
    assert ("provisioned", proven.report.events + 1) == (report.outcome, report.events)


def rows(proven: Proven) -> list[dict[str, dict[str, str]]]:
    return list(json.loads(proven.members["record.json"])["events"])
