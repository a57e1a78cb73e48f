"""The OpenAPI 3.1 document, made from the table of routes and the models that requests are checked by and answers made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway.access import SCOPES
from gateway.web.problems import PROBLEM_JSON, Problem
from gateway.web.routes import JSON, Header, Route

TITLE = "Consent gateway"
DESCRIPTION = """A subscriber is billed only after a clear spoken yes on a recorded call, and after the code that belongs to the order has come \
back by SMS from the same number. Orders go in here; signed webhooks tell what became of them.

Amounts are in minor units (won, fen, cents), numbers in E.164, times in RFC 3339. Unknown fields are refused. Every error is a problem \
(RFC 9457) with the path of each fault. Lists come in pages: `next` of one is the `cursor` of the next."""
TAGS = {
    "orders": "One subscriber, one offer, one record.",
    "evidence": "What happened, so that anybody can verify it.",
    "deliveries": "Webhooks: what was posted, what was answered, and again.",
    "do-not-call": "Whom nobody may call.",
    "offers": "A catalogue of terms, every version kept.",
    "audit": "Who did what with your keys.",
    "messages": "For the SMS aggregator.",
    "service": "For those who run it.",
}
PARAMETERS = {
    "order_id": ("the order's id", {"type": "string", "format": "uuid"}),
    "offer_id": ("your own id of the offer", {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 64}),
    "webhook_id": ("the `webhook-id` of a delivery", {"type": "string", "format": "uuid"}),
}  # fmt: skip
KEYED = {
    401: "no key, or one that is not known, revoked or expired",
    403: "the key lacks the scope",
    429: "too many requests; see Retry-After",
}
BODIED = {
    400: "the body cannot be read", 408: "the body did not come in time", 413: "the body is larger than 64 KiB",
    415: "the body is no application/json", 422: "the request does not fit, or is refused: every fault is named",
}  # fmt: skip
OURS = {500: "the gateway failed; its log says why", 503: "too many keys are being checked; see Retry-After"}
LINKS = {
    "createOrder": ("order_id", "$response.body#/order_id"),
    "listOrders": ("order_id", "$response.body#/orders/0/order_id"),
    "listDeliveries": ("webhook_id", "$response.body#/deliveries/0/webhook_id"),
    "listOffers": ("offer_id", "$response.body#/offers/0/offer_id"),
}
"""Where in an answer stands the id that other operations take."""

RATE = ("RateLimit", "what is left of the key's rate: `r` requests now, all again in `t` seconds")
_ROLE = re.compile(r":\w+:`(?:[\w.]+\.)?(\w+)`")
_PLACE = re.compile(r"\{(\w+)\}")


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 for *routes*, as plain JSON."""
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization")]
    wanted += [(route.body, "validation") for route in routes if route.body is not None]
    wanted += [
        (told.model, "serialization") for route in routes for told in route.answers.values() if told.model is not None
    ]
    references, schemas = models_json_schema(list(dict.fromkeys(wanted)), ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references, routes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE, "version": version("consent-gateway"), "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": about} for name, about in TAGS.items() if any(r.tag == name for r in routes)],
        "paths": paths,
        "components": {
            "schemas": _tidy(schemas.get("$defs", {})),
            "securitySchemes": {
                "key": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "cg_<id>_<secret>",
                    "description": f"Made by `consent-gateway keys create`. Scopes: {', '.join(f'`{scope}`' for scope in SCOPES)}.",
                }
            },
        },
    }  # fmt: skip


def _operation(route: Route, references: Any, routes: Sequence[Route]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "tags": [route.tag]}
    scope = f"Needs the scope `{route.scope}`." if route.scope else ""
    described = "\n\n".join(part for part in (route.description, scope) if part)
    if described:
        operation["description"] = described
    parameters = [_place(name) for name in _PLACE.findall(route.path)] + _query(route.query)
    parameters += [_sent(header) for header in route.headers]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = references[route.body, "validation"]
        operation["requestBody"] = {"required": not route.optional, "content": {JSON: {"schema": schema}}}
    operation["responses"] = {str(status): told for status, told in sorted(_responses(route, references).items())}
    if route.name in LINKS:
        first = str(min(route.answers))
        operation["responses"][first]["links"] = _links(*LINKS[route.name], routes)
    operation["security"] = [{"key": []}] if route.scope else []
    return operation


def _responses(route: Route, references: Any) -> dict[int, dict[str, Any]]:
    found = {status: _problem(status, about, references) for status, about in errors(route).items()}
    for status, told in route.answers.items():
        schema = references[told.model, "serialization"] if told.model is not None else _opaque(told.media)
        found[status] = {"description": told.description, "content": {told.media: {"schema": schema}}}
        headers = {header.name: _returned(header.description) for header in told.headers}
        if route.scope:
            headers[RATE[0]] = _returned(RATE[1])
        if headers:
            found[status]["headers"] = headers
    return found


def errors(route: Route) -> dict[int, str]:
    """Every error that *route* may answer, and what it means there."""
    found = {500: OURS[500]}
    if route.scope:
        found |= KEYED | {503: OURS[503]}
    if route.body is not None:
        found |= BODIED
    if not route.unread:
        found |= {422: BODIED[422]}
    for status, about in route.errors.items():
        found[status] = about if status not in (400, 503) or status not in found else f"{found[status]}; or {about}"
    return found


def _tidy(schema: Any) -> Any:
    """Without the titles that repeat the names, and with docstrings as the Markdown that OpenAPI speaks."""
    if isinstance(schema, list):
        return [_tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for name, part in schema.items():
        if name == "description" and isinstance(part, str):
            found[name] = _ROLE.sub(r"`\1`", part).replace("``", "`")
        elif name != "title" or not isinstance(part, str):
            found[name] = part if name in ("examples", "default", "enum", "const") else _tidy(part)
    return found


def _links(name: str, expression: str, routes: Sequence[Route]) -> dict[str, Any]:
    """What may be asked next about that which an answer names."""
    place = f"{{{name}}}"
    return {
        route.name: {"operationId": route.name, "parameters": {name: expression}} for route in routes if place in route.path
    }  # fmt: skip


def _problem(status: int, about: str, references: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": about, "content": {PROBLEM_JSON: {"schema": references[Problem, "serialization"]}},
    }  # fmt: skip
    if status == 429:
        told["headers"] = {"Retry-After": _returned("seconds to wait")}
    if status == 401:
        told["headers"] = {"WWW-Authenticate": _returned("`Bearer`")}
    return told


def _opaque(media: str) -> dict[str, Any]:
    return {"type": "object"} if media == JSON else {"type": "string"}


def _returned(about: str) -> dict[str, Any]:
    return {"description": about, "schema": {"type": "string"}}


def _place(name: str) -> dict[str, Any]:
    about, schema = PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def _sent(header: Header) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if header.pattern:
        schema["pattern"] = header.pattern
    if header.most:
        schema["maxLength"] = header.most
    told = {"name": header.name, "in": "header", "required": False, "description": header.description, "schema": schema}
    return told | ({"example": header.example} if header.example else {})


def _query(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    """A query string holds no null: what may be left out is left out."""
    if model is None:
        return []
    described = model.model_json_schema(ref_template="{model}")
    found = []
    for name, field in described["properties"].items():
        options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
        only = options[0] if len(options) == 1 else {"anyOf": options}
        schema = {key: value for key, value in only.items() if key not in ("description", "title")}
        if field.get("default") is not None:
            schema["default"] = field["default"]
        found.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": field.get("description", ""),
                "schema": schema,
            }
        )
    return found
