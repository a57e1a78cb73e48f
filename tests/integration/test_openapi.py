"""The document of the API: it says what the router does, it is OpenAPI 3.1, and its page needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web
from api_server import Server, serving

from gateway.access import SCOPES
from gateway.consent.order import Policy
from gateway.consent.record import Record
from gateway.engine import Engine
from gateway.ledger.sealing import Keyring
from gateway.store.database import Database
from gateway.web.api import Api, Offered, utc_now
from gateway.web.openapi import document

OPEN = {"/healthz", "/readyz", "/metrics", "/v1/openapi.json", "/v1/docs", "/v1/sms/inbound"}


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


@pytest.fixture
def api() -> Api:
    """One that nobody calls: it needs no database."""
    engine = Engine(
        None,
        policy=Policy(),
        secret=b"s" * 32,
        keyring=Keyring(b"k" * 32),
        gateway="g1",
        now=utc_now,  # type: ignore[arg-type]
    )
    return Api(engine, Offered({}, frozenset()), _nobody, {}, None)


async def _nobody(_record: Record, _target: str | None) -> str:
    raise AssertionError


@pytest.fixture
def described(api: Api) -> dict[str, Any]:
    return document(api.routes)


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        for part in value.values():
            yield from schemas_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from schemas_in(part)


class TestTheDocument:
    async def test_it_is_served_as_it_is_made(self, server: Server, described: dict[str, Any]) -> None:
        assert (200, described) == await server.send("GET", "/v1/openapi.json", key=None)

    def test_it_names_every_route_of_the_router_and_no_other(self, api: Api, described: dict[str, Any]) -> None:
        app = api.application()
        routed = {
            (route.method, route.resource.canonical)
            for route in app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        assert routed == {(method, path) for method, path, _ in operations(described)}

    def test_every_operation_has_a_name_of_its_own(self, described: dict[str, Any]) -> None:
        names = [operation["operationId"] for _, _, operation in operations(described)]
        assert len(names) == len(set(names))

    def test_who_needs_a_key_is_said_and_who_needs_none(self, described: dict[str, Any]) -> None:
        for _, path, operation in operations(described):
            expected = [] if path in OPEN else [{"key": []}]
            assert expected == operation["security"], path
            assert (path not in OPEN) == ("Needs the scope `" in operation.get("description", "")), path

    def test_every_scope_is_of_use(self, api: Api) -> None:
        assert set(SCOPES) >= {route.scope for route in api.routes if route.scope}

    def test_every_reference_leads_somewhere(self, described: dict[str, Any]) -> None:
        found = {reference["$ref"] for reference in schemas_in(described)}
        assert found
        for reference in found:
            assert reference.removeprefix("#/components/schemas/") in described["components"]["schemas"], reference

    def test_every_schema_is_one(self, described: dict[str, Any]) -> None:
        for name in described["components"]["schemas"]:
            schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True)

    def test_every_example_fits_its_schema(self, described: dict[str, Any]) -> None:
        examples = 0
        for name, schema in described["components"]["schemas"].items():
            whole = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
            for given in schema.get("examples", []):
                jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(given)
                examples += 1
        assert examples > 5

    def test_what_is_posted_is_described_with_an_example(self, described: dict[str, Any]) -> None:
        for _, path, operation in operations(described):
            if operation.get("requestBody", {}).get("required"):
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                assert described["components"]["schemas"][reference.rpartition("/")[2]].get("examples"), path

    def test_every_error_is_a_problem(self, described: dict[str, Any]) -> None:
        for method, path, operation in operations(described):
            for status, told in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert ["application/problem+json"] == list(told["content"]), (method, path, status)

    def test_a_parameter_names_every_value_that_it_takes(self, described: dict[str, Any]) -> None:
        (kind,) = (p for p in described["paths"]["/v1/deliveries"]["get"]["parameters"] if p["name"] == "kind")
        validator = jsonschema_rs.Draft202012Validator(kind["schema"])
        assert all(validator.is_valid(value) for value in ("consent.confirmed", "consent.frozen", "order.provisioned"))
        assert not validator.is_valid(None)
        assert not validator.is_valid("consent.given")

    def test_unknown_fields_are_refused_by_the_document_too(self, described: dict[str, Any]) -> None:
        for _, path, operation in operations(described):
            if "requestBody" in operation and path != "/v1/sms/inbound":
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                assert described["components"]["schemas"][reference.rpartition("/")[2]]["additionalProperties"] is False


class _Page(HTMLParser):
    """What a page has, by tag, and whether each element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert {"src", "style", "onclick", "onload"}.isdisjoint(given)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if given.get("href") else []
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()


class TestThePage:
    async def test_it_needs_no_script_and_nothing_from_outside(self, server: Server) -> None:
        async with server.session.get(f"{server.url}/v1/docs") as answer:
            text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
            assert (200, "text/html", "utf-8") == (answer.status, answer.content_type, answer.charset)
        page = _Page()
        page.feed(text)
        page.close()
        assert [] == page.open
        assert {"script", "img", "link", "iframe", "form", "object"}.isdisjoint(page.tags)
        assert {"openapi.json"} == {link for link in page.links if not link.startswith("#")}
        assert policy.startswith("default-src 'none'; ")
        (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in policy

    async def test_every_link_leads_somewhere(self, server: Server) -> None:
        async with server.session.get(f"{server.url}/v1/docs") as answer:
            page = _Page()
            page.feed(await answer.text())
        assert len(page.ids) == len(set(page.ids))
        assert [] == [link for link in page.links if link.startswith("#") and link[1:] not in page.ids]

    async def test_every_operation_and_every_scope_is_on_it(self, server: Server, described: dict[str, Any]) -> None:
        async with server.session.get(f"{server.url}/v1/docs") as answer:
            text = await answer.text()
        for _, path, operation in operations(described):
            assert f'<details id="{operation["operationId"]}">' in text
            assert path in text
        for scope in SCOPES:
            assert f"<code>{scope}</code>" in text


async def test_the_api_closes_what_it_opened(api: Api) -> None:
    runner = web.AppRunner(api.application(), access_log=None)
    await runner.setup()
    await runner.cleanup()
    with pytest.raises(RuntimeError):
        api._keys._thread.submit(int)
