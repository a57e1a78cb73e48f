"""Errors of the API in their own form: RFC 9457 problem details, with the path of every fault."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web

from gateway.consent.errors import Fault
from gateway.store.errors import UnknownOrder

log = structlog.get_logger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, title: str, faults: list[Fault] | None = None) -> web.Response:
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if faults:
        body["errors"] = [{"path": fault.path, "message": fault.message} for fault in faults]
    return web.json_response(body, status=status, content_type="application/problem+json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Everything that goes wrong leaves in one form; nothing internal is told."""
    try:
        return await handler(request)
    except UnknownOrder as error:
        return problem(404, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = problem(error.status, error.reason)
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except json.JSONDecodeError as error:
        return problem(400, f"the body is not JSON: {error}")
    except UnicodeDecodeError:
        return problem(400, "the body is not UTF-8")
    except Exception:
        log.exception("api.failed", method=request.method, path=request.path)
        return problem(500, "the gateway failed; its log says why")
