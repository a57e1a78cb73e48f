"""The table of routes: what each takes, needs and answers. Router, checks, document and page are all made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from gateway.access import Caller, Scope
from gateway.web.fields import CURSOR, CursorText, Whole

Method = Literal["GET", "POST", "PUT"]
Tag = Literal["orders", "evidence", "deliveries", "do-not-call", "offers", "audit", "messages", "service"]
Model = TypeVar("Model", bound=BaseModel)
JSON = "application/json"


def iso(moment: datetime) -> str:
    return moment.isoformat()


Stamp = Annotated[
    AwareDatetime, PlainSerializer(iso), WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization")
]
"""A time of an answer: ISO 8601 with its offset."""


class Asked(BaseModel):
    """Base of what is posted: unknown fields are refused, and nothing is taken for what it is not (``"12"`` is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Told(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Asked):
    """A list in pages: *next* of one answer is the *cursor* of the next request."""

    limit: Whole = Field(100, ge=1, le=500, description="how many at most")
    cursor: CursorText | None = Field(None, description=CURSOR)


@dataclass(slots=True)
class Call:
    """One request, checked: whose it is, and what it asks."""

    request: web.Request
    caller: Caller | None
    query: BaseModel | None = None
    body: BaseModel | None = None

    @property
    def tenant(self) -> str:
        return self.by.tenant

    @property
    def by(self) -> Caller:
        assert self.caller is not None, "its route has a scope"
        return self.caller

    def asked(self, model: type[Model]) -> Model:
        assert isinstance(self.body, model), "the route names its body"
        return self.body

    def wanted(self, model: type[Model]) -> Model:
        assert isinstance(self.query, model), "the route names its query"
        return self.query


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or an answer, for the document; a pattern is for what is sent to us."""

    name: str
    description: str
    pattern: str = ""
    most: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One status. *model* is the JSON; *media* names what else it is, where it is not."""

    description: str
    model: type[BaseModel] | None = None
    media: str = JSON
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """*scope* is None where no key is needed. *errors*: statuses of its own, beside those that every route of its kind may answer,
    each with what it means. *optional*: the body may be left out. *unread*: the handler reads and checks the body itself. *head*: a
    GET may be asked for its headers alone.
    """

    method: Method
    path: str
    handler: Handler
    name: str
    summary: str
    tag: Tag
    answers: dict[int, Answer]
    description: str = ""
    scope: Scope | None = None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    noun: str = "body"
    optional: bool = False
    unread: bool = False
    head: bool = True
    headers: tuple[Header, ...] = ()
    errors: dict[int, str] = field(default_factory=dict)


def answer(told: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """*told* as JSON."""
    return web.Response(body=told.model_dump_json().encode(), status=status, content_type=JSON, headers=headers)


def example(data: dict[str, Any]) -> dict[str, Any]:
    """What a model's ``json_schema_extra`` takes to give one example."""
    return {"examples": [data]}
