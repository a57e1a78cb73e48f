# ruff: noqa: INP001 - a program of the image, no package
"""The other parties around a composed gateway: a billing system, a handset, and subscribers who call through the Asterisk.

Exit code 0 only when every order ended as it must and the billing system heard of exactly the ones it should hear of. The addresses come
from the environment (``DEMO_ADDRESS``, ``DEMO_ASTERISK``, ``DEMO_GATEWAY``), the keys from the gateway's own secrets.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from gateway.demo.orders import sample_order
from gateway.demo.parties import Billing, Handset
from gateway.demo.scenarios import SCENARIOS, Scenario
from gateway.demo.world import phone_events, start_phone, stop_process

ADDRESS = os.environ.get("DEMO_ADDRESS", "127.0.0.1")
ASTERISK = os.environ.get("DEMO_ASTERISK", "127.0.0.1:5060")
GATEWAY = os.environ.get("DEMO_GATEWAY", "http://127.0.0.1:8080")
SECRETS = Path("/run/secrets")
CONSENT_NUMBER = "15880000"
PARTIES_PORT = 8090
SHOWN = SCENARIOS[:4]
"""Two clear yeses, in and out, a filler and a refusal. The others wait for codes to expire: `make demo` shows them."""

RUN_S, POLL_S = 240.0, 0.3
CALLS = 2
"""A caller who was not understood before the offer was made, and released, calls once more, as people do."""

ATTEMPTS, RETRY_S = 12, 5
"""An Asterisk that found the gateway absent asks again after 30 s, and refuses calls to it until then."""

OVER = ("refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "failed", "provisioned")


class Demo:
    """The parties and what they know: *session* asks the gateway's API with the tenant's *key*."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        tenant = json.loads((SECRETS / "CONSENT_GATEWAY__TENANTS").read_text())[0]
        sms_secret = (SECRETS / "CONSENT_GATEWAY__SMS__INBOUND_SECRET").read_text().strip()
        self.billing = Billing(tenant["webhook_secret"])
        self.handset = Handset(f"{GATEWAY}/v1/sms/inbound", sms_secret, lambda _number, text: say("SMS", text))
        self._key = {"Authorization": f"Bearer {tenant['api_key']}"}
        self._session = session

    async def run(self, scenario: Scenario) -> bool:
        """One order from the billing system to its end; whether it ended as it must."""
        number = f"+8210{secrets.randbelow(10**8):08d}"
        self.handset.habits[number] = scenario.habit
        async with AsyncExitStack() as stack:
            if scenario.outbound:
                await self._phone(
                    stack, number, scenario, "answer", "--listen", f"{ADDRESS}:5060", "--ring-seconds", "1"
                )
            order = sample_order(number, datetime.now(UTC).date(), call="now" if scenario.outbound else "inbound")
            order_id = (await self._ask("POST", "/v1/orders", order))["order_id"]
            say(scenario.name, f"order {order_id[:8]}")
            if not scenario.outbound:
                for _ in range(CALLS):
                    target = f"sip:{CONSENT_NUMBER}@{ASTERISK}"
                    await (
                        await self._phone(stack, number, scenario, "call", target, "--listen", f"{ADDRESS}:0")
                    ).wait()
                    if (await self._ask("GET", f"/v1/orders/{order_id}"))["state"] != "ordered":
                        break
            state = await self._follow(scenario, order_id)
        billed = order_id in self.billing.received
        right = (state, billed) == (scenario.state, scenario.webhook)
        say(scenario.name, f"{'✓' if right else '✗'} {state}, {'verified webhook' if billed else 'no webhook'}")
        return right

    async def _dial_in(self, stack: AsyncExitStack, number: str, scenario: Scenario, order_id: str) -> None:
        """Call until the order has moved: once more after a call that was released, and while nobody takes the call."""
        for _ in range(ATTEMPTS):
            target = f"sip:{CONSENT_NUMBER}@{ASTERISK}"
            await (await self._phone(stack, number, scenario, "call", target, "--listen", f"{ADDRESS}:0")).wait()
            order = await self._ask("GET", f"/v1/orders/{order_id}")
            if order["state"] != "ordered" or order["calls"] == CALLS:
                return
            await asyncio.sleep(0 if order["calls"] else RETRY_S)

    async def _phone(
        self, stack: AsyncExitStack, number: str, scenario: Scenario, *arguments: str
    ) -> asyncio.subprocess.Process:
        """A subscriber's phone that is ready, and is put away with *stack*."""
        phone = await start_phone(
            None, *arguments, "--user", number, "--script", scenario.script, "--max-seconds", str(int(RUN_S))
        )
        stack.push_async_callback(stop_process, phone)
        events = phone_events(phone)
        await anext(events)
        stack.callback(asyncio.create_task(_listen(scenario, events)).cancel)
        return phone

    async def _follow(self, scenario: Scenario, order_id: str) -> str:
        """The state in which the order comes to rest."""
        seen = ""
        while seen not in OVER or (seen == "provisioned" and order_id not in self.billing.received):
            state = (await self._ask("GET", f"/v1/orders/{order_id}"))["state"]
            if state != seen:
                say(scenario.name, state)
            seen = state
            await asyncio.sleep(POLL_S)
        return str(seen)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(method, GATEWAY + path, json=body, headers=self._key) as answer:
            answer.raise_for_status()
            return await answer.json()


async def _listen(scenario: Scenario, events: AsyncIterator[dict[str, Any]]) -> None:
    """Read a phone's events to their end, so that its pipe never fills."""
    async for event in events:
        if event["event"] in ("answered", "failed"):
            say(scenario.name, f"phone: {event['event']} {event.get('codec') or event.get('reason') or ''}")


def say(who: str, what: str) -> None:
    sys.stdout.write(f"{who:42.42} {what}\n")
    sys.stdout.flush()


async def main() -> int:
    """The exit code."""
    async with aiohttp.ClientSession() as session:
        demo = Demo(session)
        app = web.Application()
        app.add_routes([web.post("/billing", demo.billing.take), web.post("/sms", demo.handset.take)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, ADDRESS, PARTIES_PORT).start()
            async with asyncio.timeout(RUN_S):
                right = await asyncio.gather(*(demo.run(scenario) for scenario in SHOWN))
        except (TimeoutError, aiohttp.ClientError) as error:
            say("demo", f"✗ {error or f'not at rest after {RUN_S:.0f} s'}")
            return 1
        finally:
            await runner.cleanup()
    kept = all(right) and demo.billing.forged == 0
    say("the promise was kept" if kept else "NOT as it must be", f"{len(demo.billing.received)} verified webhooks")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
