"""The HTTP API for billing systems (docs/billing.md), put together: one table of routes, one gate before them all."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from aiohttp import web

from gateway.access import Keys
from gateway.engine import Engine
from gateway.evidence.bundle import Exporter
from gateway.rates import Rates
from gateway.web.audit import Audit
from gateway.web.deliveries import WebhookDeliveries
from gateway.web.do_not_call import DoNotCall
from gateway.web.evidence import Evidence
from gateway.web.gate import Gate, add_headers
from gateway.web.inbound import Inbound, Verify
from gateway.web.offers import Offers
from gateway.web.orders import Dial, Offered, Orders
from gateway.web.problems import problems
from gateway.web.remote import behind
from gateway.web.routes import Route
from gateway.web.service import Service

__all__ = ["LARGEST_BODY", "RATES", "Api", "Offered"]
LARGEST_BODY = 65_536
RATES = (20.0, 100)
"""Requests a second of one key, and how many at once, where the settings say nothing else."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Api:
    """*operators* maps SHA-256 of each API key of the settings to its tenant; *verify_sms* checks a reply's signature; *rates*:
    requests a second of one key, and how many at once; *proxies*: networks whose ``X-Forwarded-For`` is believed.
    """

    def __init__(
        self,
        engine: Engine,
        offered: Offered,
        dial: Dial,
        operators: Mapping[bytes, str],
        verify_sms: Verify | None,
        *,
        region: str | None = None,
        unready: Callable[[], str] = lambda: "",
        rates: tuple[float, float] = RATES,
        now: Callable[[], datetime] = utc_now,
        keys: Keys | None = None,
        exporter: Exporter | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        self._keys = keys or Keys(engine.database, operators, now=now)
        self._gate = Gate(self._keys, engine.database, Rates(*rates), now=now)
        offers, service = Offers(engine, now), Service(engine, unready)
        self.routes: list[Route] = [
            *Orders(engine, offered, offers, dial, now).routes(),
            *Evidence(engine, exporter).routes(),
            *WebhookDeliveries(engine, now).routes(),
            *DoNotCall(engine, now).routes(),
            *offers.routes(),
            *Audit(engine.database).routes(),
            *Inbound(engine, verify_sms, region).routes(),
            *service.routes(),
        ]
        service.describe(self.routes)
        self._proxies = [ipaddress.ip_network(network) for network in proxies]

    def application(self) -> web.Application:
        app = web.Application(middlewares=[behind(self._proxies), problems], client_max_size=LARGEST_BODY)
        for route in self.routes:
            handler = self._gate.guard(route)
            if route.method == "GET":
                app.router.add_get(route.path, handler, allow_head=route.head)
            else:
                app.router.add_route(route.method, route.path, handler)
        app.on_response_prepare.append(add_headers)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        self._keys.close()
