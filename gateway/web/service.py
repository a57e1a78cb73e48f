"""For those who run the gateway: whether it lives, whether it takes calls, what it measures; and the document of the API."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.engine import Engine
from gateway.web.openapi import document
from gateway.web.page import STYLE, page
from gateway.web.routes import JSON, Answer, Call, Route, Told, answer

HTML = "text/html"


class Health(Told):
    status: str
    gateway: str


class Readiness(Told):
    """*status*: ``ok``, or why no calls should be sent here."""

    status: str


class Service:
    """*unready* says why no calls should be sent here; empty when they may come."""

    def __init__(self, engine: Engine, unready: Callable[[], str]) -> None:
        self._engine = engine
        self._unready = unready
        self._document = b""
        self._page = b""

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/healthz", self.healthz, "getHealth", "Whether the gateway and its database live", "service",
                {200: Answer("they do", Health)},
            ),
            Route(
                "GET", "/readyz", self.readyz, "getReadiness", "Whether calls should be sent here", "service",
                {200: Answer("they should", Readiness), 503: Answer("they should not", Readiness)},
            ),
            Route(
                "GET", "/metrics", self.metrics, "getMetrics", "What is measured, for Prometheus", "service",
                {200: Answer("the text format of Prometheus", media="text/plain")},
            ),
            Route(
                "GET", "/v1/openapi.json", self.openapi, "getOpenApi", "This document", "service",
                {200: Answer("OpenAPI 3.1", media=JSON)},
            ),
            Route(
                "GET", "/v1/docs", self.docs, "getDocs", "This document as a page", "service",
                {200: Answer("a page without scripts or outside resources", media=HTML)},
            ),
        ]  # fmt: skip

    def describe(self, routes: Sequence[Route]) -> None:
        """Write the document of *routes*, these among them."""
        described = document(routes)
        self._document = json.dumps(described, ensure_ascii=False).encode()
        self._page = page(described).encode()

    async def healthz(self, _call: Call) -> web.StreamResponse:
        await self._engine.database.pool.fetchval("SELECT 1")
        return answer(Health(status="ok", gateway=self._engine.gateway))

    async def readyz(self, _call: Call) -> web.StreamResponse:
        reason = self._unready()
        return answer(Readiness(status=reason or "ok"), 503 if reason else 200)

    async def metrics(self, _call: Call) -> web.StreamResponse:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _call: Call) -> web.StreamResponse:
        return web.Response(body=self._document, content_type=JSON)

    async def docs(self, _call: Call) -> web.StreamResponse:
        style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return web.Response(body=self._page, content_type=HTML, charset="utf-8", headers=headers)
