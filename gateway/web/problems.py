"""Errors of the API in their own form: RFC 9457 problem details, with the path of every fault."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.consent.errors import Fault, OrderRefused
from gateway.store.database import UNREACHABLE
from gateway.store.errors import ErasedRecord, UnknownDelivery, UnknownOrder

log = structlog.get_logger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PROBLEM_JSON = "application/problem+json"


class ProblemFault(BaseModel):
    """One thing that is wrong. *path* is dotted, as in the request."""

    path: str = Field(examples=["offer.starts_on"])
    message: str = Field(examples=["2020-01-01 is past; today is 2026-11-22 at the subscriber"])


class Problem(BaseModel):
    """Problem details (RFC 9457); *errors* names every fault there is at once."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "title", "status"]})

    type: str = "about:blank"
    title: str = Field(examples=["the order is refused"])
    status: int = Field(examples=[422])
    errors: list[ProblemFault] = Field(default_factory=list)


class Refused(Exception):
    """Answer with a problem: *status*, a title for people, and the faults."""

    def __init__(
        self, status: int, title: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.faults = faults
        self.headers = headers or {}


def problem(
    status: int, title: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    told = Problem(title=title, status=status, errors=[ProblemFault(path=f.path, message=f.message) for f in faults])
    body = told.model_dump(exclude=set() if faults else {"errors"})
    return web.json_response(body, status=status, content_type=PROBLEM_JSON, headers=headers)


def faults_of(error: ValidationError, otherwise: str = "body") -> list[Fault]:
    """What pydantic found, in the form of the order's own faults; *otherwise* is the path of what is wrong as a whole."""
    return [
        Fault(".".join(str(part) for part in fault["loc"]) or otherwise, fault["msg"].removeprefix("Value error, "))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]


async def settle(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The answer of *handler*; everything that goes wrong leaves in one form, and nothing internal is told."""
    try:
        return await handler(request)
    except Refused as error:
        return problem(error.status, error.title, error.faults, error.headers)
    except OrderRefused as error:
        return problem(422, "the order is refused", error.faults)
    except UNREACHABLE as error:
        log.error("api.no_database", method=request.method, error=str(error))
        return problem(503, "the database is away; try again", headers={hdrs.RETRY_AFTER: "5"})
    except (UnknownOrder, UnknownDelivery) as error:
        return problem(404, str(error))
    except ErasedRecord as error:
        return problem(410, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept: dict[str, str] = {
            name: error.headers[name] for name in (hdrs.ALLOW, hdrs.RETRY_AFTER) if name in error.headers
        }
        return problem(error.status, error.reason, headers=kept)
    except json.JSONDecodeError as error:
        return problem(400, f"the body is not JSON: {error}")
    except UnicodeDecodeError:
        return problem(400, "the body is not UTF-8")
    except Exception:
        log.exception("api.failed", method=request.method, route=route_of(request))
        return problem(500, "the gateway failed; its log says why")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await settle(request, handler)


def route_of(request: web.Request) -> str:
    """The template of the path: a path as it came may hold anything, a number too."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
