"""The whole main job through a real Asterisk 22: `consent-gateway serve`, calls and SMS over its trunk, a softphone at the carrier."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from secrets import token_urlsafe

import aiohttp
import pytest
import pytest_asyncio
from asterisk import CARRIER_HOST, CONSENT_NUMBER, PHONE_HOST, SECRETS, Asterisk
from town import HOST, PASSWORD, TURN_MS, Town, open_folder, own_prompts, secret, settings

from gateway.demo.parties import CODE, Billing, Handset, start_parties
from gateway.demo.world import World, clip, free_port

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))
NO = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "refuse"))


def through(asterisk: Asterisk, text: str) -> str:
    """A town's settings, its one line led to Asterisk as docs/asterisk.md says."""
    transfer = f'transfer = {{ agents = "sip:agents@{asterisk.host}:{asterisk.udp_port}" }}'
    head, line = text.replace("\n[sip]", f"{transfer}\n\n[sip]", 1).split("[[lines]]\n")
    _, rest = line.split("\n\n", 1)
    trunk = f"""\
[[lines]]
name = "asterisk"
host = "{asterisk.host}"
port = {asterisk.udp_port}
from_user = "{CONSENT_NUMBER}"
username = "consent"
password = "{SECRETS["consent"]}"
ring_s = 20
"""
    rest = rest.replace('channel = "sip"', 'channel = "sip"\nline = "asterisk"')
    return f"{head}{trunk}\n{rest}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(
    running_asterisk: Asterisk, testify: Callable[[str, Callable[[], str]], AbstractContextManager[None]]
) -> AsyncIterator[Town]:
    """A gateway with billing, whose trunk is Asterisk."""
    folder = open_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        ports = free_port(socket.SOCK_DGRAM), free_port(), free_port()
        billing, handset = Billing(secret()), Handset("", "", lambda *_: None)
        world = World(folder, HOST, *ports, token_urlsafe(24), PASSWORD, billing, handset, session, stack)
        text = settings(world, running_asterisk.udp_port, own_prompts(folder / "prompts"))
        world.config.write_text(through(running_asterisk, text), encoding="utf-8")
        runner = await start_parties(billing, handset, world.parties_port)
        stack.push_async_callback(runner.cleanup)
        made = Town(world, running_asterisk.udp_port)
        await made.run()
        running_asterisk.mark = len(running_asterisk.log)
        await running_asterisk.reset_site()
        await running_asterisk.set_site(
            {"site-consent-aor": {"contact": f"sip:{HOST}:{world.sip_port}"}, "site-consent-identify": {"match": HOST}}
        )
        with testify("The gateway's log", lambda: made.log):
            yield made


@dataclass
class Done:
    """A call that is over. *exits* are those of its phones."""

    order_id: str
    exits: list[int]


def subscriber(number: str, port: int = 0) -> tuple[str, ...]:
    """The account of a phone at the carrier, which gives its numbers without the +."""
    return "--listen", f"{CARRIER_HOST}:{port}", "--user", number.removeprefix("+"), "--turn-silence", TURN_MS


async def consents(town: Town, asterisk: Asterisk) -> Done:
    """Called over the trunk, says yes, gets the code as MESSAGE and replies with it."""
    number, port = "+821090000301", free_port(socket.SOCK_DGRAM)
    await asterisk.set_site({"site-carrier-aor": {"contact": f"sip:{CARRIER_HOST}:{port}"}})
    phone = await town.phone("answer", *subscriber(number, port), "--script", YES, "--messages", "1")
    order_id = await town.order(number, call="now")
    text = str((await phone.told("message"))["text"])
    called = await phone.done()
    code = CODE.search(text)
    assert code is not None, text
    account = subscriber(number)[:4]
    reply = await town.phone("message", consent_number(asterisk), *account, "--text", f"인증번호 {code[0]}")
    replied = await reply.done()
    await town.reaches(order_id, "provisioned", "failed", "expired")
    return Done(order_id, [called, replied])


async def calls_in(town: Town, asterisk: Asterisk, number: str, script: str) -> Done:
    """Calls the consent number at Asterisk, and says *script*."""
    order_id = await town.order(number)
    phone = await town.phone("call", consent_number(asterisk), *subscriber(number), "--script", script)
    exits = [await phone.done()]
    await town.comes(order_id, "call.ended")
    return Done(order_id, exits)


async def asks_for_a_person(town: Town, asterisk: Asterisk) -> Done:
    """Calls in, wants a person, and is handed over to the one who waits in the queue."""
    account = "--listen", f"{PHONE_HOST}:0", "--user", "7100", "--password", SECRETS["7100"]
    server = f"{asterisk.host}:{asterisk.udp_port}"
    person = await town.phone("answer", *account, "--server", server, "--register", "--script", "+wait:1;hangup")
    await person.told("registered")
    done = await calls_in(town, asterisk, "+821090000303", clip("mix", "agent"))
    return Done(done.order_id, [*done.exits, await person.done()])


def consent_number(asterisk: Asterisk) -> str:
    return f"sip:{CONSENT_NUMBER}@{asterisk.host}:{asterisk.udp_port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(town: Town, running_asterisk: Asterisk) -> list[Done]:
    """All three at once: a consent, a refusal, a transfer."""
    return list(
        await asyncio.gather(
            consents(town, running_asterisk),
            calls_in(town, running_asterisk, "+821090000302", NO),
            asks_for_a_person(town, running_asterisk),
        )
    )


async def test_a_call_through_the_trunk_and_a_code_by_message_open_the_service(town: Town, calls: list[Done]) -> None:
    done, billing = calls[0], town.world.billing
    statuses = [attempt["status"] for attempt in await town.events(done.order_id, "delivery.attempted")]
    assert ("provisioned", [0, 0]) == (await town.state(done.order_id), done.exits)
    assert ([200], 0, True) == (statuses, billing.forged, done.order_id in billing.received)


async def test_a_subscriber_who_calls_in_through_asterisk_and_says_no_is_not_billed(
    town: Town, calls: list[Done]
) -> None:
    done = calls[1]
    assert ("refused", [0]) == (await town.state(done.order_id), done.exits)
    assert done.order_id not in town.world.billing.received


async def test_a_subscriber_who_wants_a_person_gets_one_from_the_queue(town: Town, calls: list[Done]) -> None:
    done = calls[2]
    [ended] = await town.events(done.order_id, "call.ended")
    assert ("transferred", [0, 0]) == (ended["outcome"], done.exits)
    assert done.order_id not in town.world.billing.received
