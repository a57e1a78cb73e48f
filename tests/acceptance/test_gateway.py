"""The gateway as its operator runs it: `consent-gateway serve` in a process of its own, real phones, real billing.

One gateway serves all modules (see town.py); a test that ends it leaves the next one to start it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from town import (
    DRAIN_S,
    HOST,
    PASSWORD,
    PITCH,
    PROMPT_S,
    RING_S,
    SUBSCRIBER,
    TURN_MS,
    WAIT_S,
    Phone,
    Town,
    changed,
    cli,
    command,
    descendants,
    heard_s,
    until,
)

from gateway.demo.parties import CODE
from gateway.demo.world import clip

pytestmark = pytest.mark.asyncio(loop_scope="session")

YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))
DISCLOSURES = ["function", "price", "billing", "start", "term", "promotion", "trial", "use", "ask", "cancel"]


@dataclass
class Provisioned:
    """What came of one order that a bare softphone took all the way. *call* and *reply* are its exit codes."""

    order_id: str
    sms: str
    call: int
    reply: int


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def provisioned(town: Town) -> Provisioned:
    """A registered softphone calls, consents, gets the code as SIP MESSAGE and replies with it."""
    await town.run()
    order_id = await town.order(SUBSCRIBER)
    account = ("--user", SUBSCRIBER, "--password", PASSWORD, "--server", f"{HOST}:{town.world.sip_port}", "--register")
    caller = await town.phone("call", town.sip, *account, "--turn-silence", TURN_MS, "--script", YES, "--messages", "1")
    for milestone in ("prompt.played", "consent.spoken", "call.ended", "challenge.issued"):  # each has its own patience
        await town.comes(order_id, milestone)
    text = str((await caller.told("message"))["text"])
    called = await caller.done()
    code = CODE.search(text)
    assert code is not None, text
    reply = await (await town.phone("message", town.sip, *account, "--text", f"인증번호 {code[0]}")).done()
    await town.reaches(order_id, "provisioned", "failed", "expired")
    return Provisioned(order_id, text, called, reply)


@dataclass
class Stopped:
    """What SIGTERM did while one caller was about to hang up, one stayed, and one came too late."""

    leaving: str
    staying: str
    late: str
    leaver: Phone
    stayer: Phone
    newcomer: Phone
    order_status: int
    exit_code: int
    heard: Path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stopped(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """SIGTERM during two calls; afterwards the gateway has ended."""
    process = await town.run()
    heard = tmp_path_factory.mktemp("stayer") / "heard.wav"
    numbers = [f"+82109000010{last}" for last in range(3)]
    leaving, staying, late = [await town.order(number) for number in numbers]
    leaver = await town.call_in(numbers[0], "--script", f"{clip('mix', 'leave')};hangup")
    stayer = await town.call_in(numbers[1], "--record", str(heard))
    for order_id in (leaving, staying):
        await town.reaches(order_id, "calling")
    process.send_signal(signal.SIGTERM)
    await until(lambda: "gateway.draining" in town.log, "draining")
    newcomer = await town.call_in(numbers[2])
    key = {"Authorization": f"Bearer {town.world.api_key}"}
    url = f"{town.world.api}/v1/orders/{late}/calls"
    async with town.world.session.post(url, json={}, headers=key) as answer:
        status = answer.status
    async with asyncio.timeout(WAIT_S):
        for phone in (newcomer, leaver, stayer):
            await phone.done()
        exit_code = await process.wait()
    return Stopped(leaving, staying, late, leaver, stayer, newcomer, status, exit_code, heard)


async def shown(town: Town, order_id: str, kind: str) -> list[dict[str, Any]]:
    """All events of *kind* that `record show` prints."""
    code, out, err = await cli("record", "show", order_id, "--json", "--config", str(town.world.config))
    assert (0, "") == (code, err)
    return [entry["event"] for entry in json.loads(out) if entry["event"]["type"] == kind]


async def test_a_bare_softphone_takes_its_order_all_the_way_by_sip_alone(
    gateway: Town, provisioned: Provisioned
) -> None:
    assert (0, 0, "provisioned") == (provisioned.call, provisioned.reply, await gateway.state(provisioned.order_id))


async def test_billing_hears_of_it_in_one_signed_webhook(gateway: Town, provisioned: Provisioned) -> None:
    attempts = await gateway.events(provisioned.order_id, "delivery.attempted")
    assert ([200], 0) == ([attempt["status"] for attempt in attempts], gateway.world.billing.forged)
    assert provisioned.order_id in gateway.world.billing.received


async def test_the_message_carries_offer_price_and_billing_method(provisioned: Provisioned) -> None:
    """Rule R2."""
    for wanted in ("한빛통신", "데이터 플러스 요금제", "39,000", "통신요금 합산 청구"):
        assert wanted in provisioned.sms


async def test_every_disclosure_was_played_whole_before_the_yes(gateway: Town, provisioned: Provisioned) -> None:
    """Rule R5; DESIGN §1."""
    events = await gateway.events(provisioned.order_id)
    yes = [event["type"] for event in events].index("consent.spoken")
    played = [event for event in events[:yes] if event["type"] == "prompt.played" and event["disclosure"]]
    assert DISCLOSURES == [e["disclosure"] for e in played if e["samples_sent"] == e["samples_planned"]]


async def test_the_recording_is_kept_under_its_hash_with_the_caller_on_the_left(
    gateway: Town, provisioned: Provisioned
) -> None:
    """Rules R8, R14."""
    [kept] = await gateway.events(provisioned.order_id, "recording.kept")
    wav = await gateway.listen(provisioned.order_id)
    assert (kept["sha256"], 0o600) == (hashlib.sha256(wav.read_bytes()).hexdigest(), wav.stat().st_mode & 0o777)
    path = gateway.world.folder / "data/recordings" / f"{kept['call_id']}.rec"
    assert (False, 0o600) == (wav.read_bytes()[44:1044] in path.read_bytes(), path.stat().st_mode & 0o777)
    with wave.open(str(wav)) as file:
        caller, ours = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    opening = slice(800, 2400)
    assert (True, True) == (np.abs(ours[opening]).max() > 4000, np.abs(caller[opening]).max() < 100)


async def test_the_timeline_shows_what_was_heard_beside_the_running_gateway(
    gateway: Town, provisioned: Provisioned
) -> None:
    code, out, err = await cli("record", "show", provisioned.order_id[:8], "--config", str(gateway.world.config))
    assert (0, "") == (code, err)
    for wanted in ("'네 동의 합니다'", "affirm", "a clear yes", "code, right over sip", "provisioned", "recording: "):
        assert wanted in out
    assert SUBSCRIBER not in out  # rule R14


async def test_deliveries_are_listed_beside_the_running_gateway(gateway: Town, provisioned: Provisioned) -> None:
    code, out, _ = await cli("deliveries", "list", "--json", "--config", str(gateway.world.config))
    listed = {row["order_id"]: (row["state"], row["last_status"]) for row in json.loads(out)}
    assert (0, ("delivered", 200)) == (code, listed[provisioned.order_id])


async def test_a_message_in_the_name_of_a_phone_that_is_not_registered_has_to_be_proven(gateway: Town) -> None:
    order_id = await gateway.order(SUBSCRIBER)
    phone = await gateway.phone("message", gateway.sip, "--user", SUBSCRIBER, "--text", "취소")
    assert (1, 401) == (await phone.done(), (await phone.told("failed"))["code"])
    assert "ordered" == await gateway.state(order_id)


async def test_a_wrong_password_does_not_register(gateway: Town) -> None:
    phone = await gateway.phone(
        "message", gateway.sip, "--user", SUBSCRIBER, "--password", "guessed", "--text", "취소",
        "--server", f"{HOST}:{gateway.world.sip_port}", "--register",
    )  # fmt: skip
    assert (1, 401) == (await phone.done(), (await phone.told("failed"))["code"])


async def test_a_caller_without_an_order_is_told_so_and_nothing_is_kept(gateway: Town, tmp_path: Path) -> None:
    before = gateway.recordings()
    phone = await gateway.call_in("+821099999999", "--record", str(tmp_path / "heard.wav"))
    code, ended = await phone.done(), await phone.told("ended")
    assert (0, "remote", set()) == (code, ended["by"], gateway.recordings() - before)
    assert PROMPT_S == pytest.approx(heard_s(tmp_path / "heard.wav", PITCH["no_order"]), abs=0.15)


async def test_a_callee_who_is_busy_is_busy(gateway: Town) -> None:
    phone = await gateway.phone("answer", "--listen", f"{HOST}:{gateway.line_port}", "--reject", "486")
    order_id = await gateway.order("+821090000003", call="now")
    summary = await gateway.reaches(order_id, "unreachable")
    await phone.done()
    assert ["busy"] == [event["outcome"] for event in await gateway.events(order_id, "call.ended")]
    assert summary["reason"].startswith("busy")


async def test_a_line_that_nobody_answers_is_no_answer_within_the_ringing_time(gateway: Town) -> None:
    order_id = await gateway.order("+821090000004", call="now")
    await gateway.reaches(order_id, "unreachable")
    [ended] = await gateway.events(order_id, "call.ended")
    assert ("no_answer", True) == (ended["outcome"], ended["duration_ms"] < 1000 * (RING_S + 2))


async def test_a_phone_that_only_rings_is_given_up_and_stops_ringing(gateway: Town) -> None:
    phone = await gateway.phone("answer", "--listen", f"{HOST}:{gateway.line_port}", "--ring-seconds", "60")
    order_id = await gateway.order("+821090000005", call="now")
    await gateway.reaches(order_id, "unreachable")
    assert ["no_answer"] == [event["outcome"] for event in await gateway.events(order_id, "call.ended")]
    assert 487 == (await phone.told("failed"))["code"]
    await phone.done()


async def test_a_call_by_hand_reaches_the_phone_that_is_named(gateway: Town) -> None:
    phone = await gateway.phone("answer", "--script", "hangup:0.2")
    target = f"sip:me@{(await phone.told('listening'))['sip']}"
    code, out, err = await cli("call", target, "--number", "+821090000006", "--config", str(gateway.world.config))
    assert (0, 0) == (code, await phone.done()), err
    found = re.search(r"order ([0-9a-f-]{36})", out)
    assert found is not None, out
    assert "hung_up" == (await gateway.comes(found[1], "call.ended"))["outcome"]


async def test_a_call_by_hand_to_what_is_no_sip_uri_is_refused_and_costs_no_attempt(gateway: Town) -> None:
    order_id = await gateway.order("+821090000007")
    code, _, err = await cli("call", "sip:me@", "--order", order_id, "--config", str(gateway.world.config))
    assert (1, "✗ 'sip:me@' is not a SIP URI (sip:user@host:port)\n") == (code, err)
    assert [] == await gateway.events(order_id, "call.started")


async def test_an_unknown_order_is_one_line_and_exit_code_1(gateway: Town) -> None:
    code, out, err = await cli("record", "show", "deadbeef", "--config", str(gateway.world.config))
    assert (1, "", "✗ no order begins with deadbeef\n") == (code, out, err)


async def test_a_second_gateway_on_the_same_database_folder_is_told_whose_it_is(gateway: Town) -> None:
    process = await gateway.run()
    with changed(gateway) as file:
        code, _, err = await cli("serve", "--config", str(file))
    assert (1, 1) == (code, err.count("\n")), err
    assert f"belongs to the running gateway process {process.pid}" in err


async def test_what_may_fail_is_logged_without_a_stack_and_no_number_stands_in_the_log(
    gateway: Town, provisioned: Provisioned
) -> None:
    """Rule R14. Messages went to a phone that had hung up; callers, codes and numbers came and went."""
    await gateway.comes(provisioned.order_id, "order.provisioned")
    assert [] == [line for line in gateway.log.splitlines() if "Traceback" in line or "2109000" in line]


async def test_a_decoder_that_dies_means_that_the_question_is_put_again(gateway: Town) -> None:
    order_id = await gateway.order("+821090000002")
    phone = await gateway.call_in("+821090000002", "--script", f"silent;{clip('mix', 'leave')};hangup")
    await phone.told("answered")
    [worker] = [pid for pid in descendants(await gateway.run()) if "gateway.speech.worker" in command(pid)]
    os.kill(worker, signal.SIGKILL)
    await phone.done()
    await gateway.comes(order_id, "call.ended")
    heard = [(event["step"], event["verdict"]) for event in await gateway.events(order_id, "utterance.heard")]
    assert [("opening", "repeat"), ("opening", "affirm")] == heard[:2]


async def test_a_gateway_that_was_killed_in_a_call_finds_it_lost_and_no_consent_in_it(gateway: Town) -> None:
    order_id = await gateway.order("+821090000008")
    phone = await gateway.call_in("+821090000008", "--script", YES)
    await gateway.comes(order_id, "utterance.heard")
    process = await gateway.run()
    children = descendants(process)
    process.kill()
    await process.wait()
    phone.process.kill()
    await phone.done()
    await until(lambda: not any(command(pid) for pid in children), "the end of its database, decoder and voice")
    await gateway.run()
    outcomes = [event["outcome"] for event in await gateway.events(order_id, "call.ended")]
    assert ("ordered", ["lost"]) == (await gateway.state(order_id), outcomes)
    assert [] == await gateway.events(order_id, "consent.spoken")


async def test_sigterm_takes_no_new_calls(stopped: Stopped) -> None:
    assert (503, 503) == ((await stopped.newcomer.told("failed"))["code"], stopped.order_status)


async def test_sigterm_lets_a_running_call_go_on_to_its_end(town: Town, stopped: Stopped) -> None:
    [ended] = await shown(town, stopped.leaving, "call.ended")
    heard = [(event["step"], event["verdict"]) for event in await shown(town, stopped.leaving, "utterance.heard")]
    assert ("hung_up", ("opening", "affirm")) == (ended["outcome"], heard[0])


async def test_sigterm_says_goodbye_to_whoever_is_still_there_and_hangs_up(town: Town, stopped: Stopped) -> None:
    assert "remote" == (await stopped.stayer.told("ended"))["by"]
    assert PROMPT_S == pytest.approx(heard_s(stopped.heard, PITCH["goodbye_trouble"]), abs=0.15)
    [ended] = await shown(town, stopped.staying, "call.ended")
    assert ("failed", True) == (ended["outcome"], ended["reason"].startswith("the gateway is stopping"))


async def test_sigterm_ends_with_exit_code_0_and_leaves_no_process(town: Town, stopped: Stopped) -> None:
    assert 0 == stopped.exit_code
    assert [] == town.processes()


async def test_records_are_shown_when_the_gateway_has_stopped(town: Town, stopped: Stopped) -> None:
    code, out, _ = await cli("record", "show", stopped.staying[:8], "--config", str(town.world.config))
    assert (0, True) == (code, "the gateway is stopping at opening" in out), out


async def test_a_second_signal_hangs_up_at_once(gateway: Town) -> None:
    order_id = await gateway.order("+821090000015")
    phone = await gateway.call_in("+821090000015")
    await phone.told("media")
    process = await gateway.run()
    process.send_signal(signal.SIGTERM)
    await until(lambda: "gateway.draining" in gateway.log, "draining")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WAIT_S):
        assert (0, 0) == (await phone.done(), await process.wait())
    assert ("remote", True) == ((await phone.told("ended"))["by"], time.monotonic() - began < DRAIN_S)
    assert 1 == len(await shown(gateway, order_id, "call.ended"))


async def test_check_finds_nothing_wrong_with_good_settings(town: Town) -> None:
    with changed(town, (f"{town.world.folder}/postgres/server", f"{town.world.folder}/other/server")) as file:
        code, out, _ = await cli("check", "--config", str(file))
    assert (0, False) == (code, "✗" in out), out


async def test_check_names_every_fault_in_one_line(town: Town) -> None:
    taken = town.world.parties_port
    changes = (
        (town.world.billing.secret, "whsec_c2hvcnQ="),
        ("[database]", '[database]\ndsn = "postgresql://nobody:secret@127.0.0.1:1/none"'),
        ("[sms]", f'[speech]\nmodels = {{ ko = "{town.world.folder}" }}\n\n[sms]'),
        (f'[api]\nbind = "{HOST}:0"', f'[api]\nbind = "{HOST}:{taken}"'),
    )
    with changed(town, *changes) as file:
        code, out, _ = await cli("check", "--json", "--config", str(file))
    faults = json.loads(out)["faults"]
    wanted = (
        r"tenants\.billing\.webhook_secret: ",
        r"sms\.code_secret: empty beside database\.dsn",
        r"ledger\.secret: empty beside database\.dsn",
        r"speech\.models\.ko: model .*: incomplete, am/final\.mdl, .* missing; install it again$",
        rf"api\.bind: {HOST}:{taken}: Address already in use",
        r"database\.dsn: .*check address, user, password and database$",
    )
    assert (1, len(wanted)) == (code, len(faults)), faults
    assert [] == [pattern for pattern in wanted if not any(re.match(pattern, fault) for fault in faults)], faults
    assert [] == [fault for fault in faults if "\n" in fault or "secret@" in fault]


async def test_a_word_that_the_model_does_not_know_is_named_by_check_and_stops_serve(town: Town) -> None:
    folder = town.world.folder / "misspelt"
    shutil.copytree(town.world.folder / "prompts", folder)
    intents = folder / "ko/intents.yaml"
    intents.write_text(intents.read_text().replace("affirm: [네 동의 합니다, ", "affirm: [네 동의합니다, "))
    with changed(town, (f"{town.world.folder}/prompts", f"{folder}"), ("/postgres/", "/other/")) as file:
        checked, served = await asyncio.gather(cli("check", "--config", str(file)), cli("serve", "--config", str(file)))
    said = [line for line in (checked[1] + served[2]).splitlines() if "동의합니다" in line]
    assert (1, 1, 2) == (checked[0], served[0], len(said)), (checked, served)
    for line in said:
        assert re.search(
            r"grammar consent: '네 동의합니다' has '동의합니다', which the model lacks; try 동의 \+ 합니다$", line
        )
    assert "Traceback" not in served[2]


async def test_an_unknown_key_is_named(town: Town) -> None:
    with changed(town, ("drain_s = ", "drian_s = ")) as file:
        code, out, err = await cli("check", "--config", str(file))
    assert (1, "", 1) == (code, out, err.count("\n"))
    assert f"✗ {file}: drian_s: unknown key" in err
