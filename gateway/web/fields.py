"""Fields of requests: what stands in a query string or a path is text, and is read strictly."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.consent.errors import Fault
from gateway.consent.order import normalise_number
from gateway.store.errors import UnknownDelivery, UnknownOrder
from gateway.web.problems import Refused

CURSOR = "`next` of the page before; empty: from the newest"
LONGEST_CURSOR = 200
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,9}", re.ASCII)

CursorText = Annotated[str, Field(min_length=1, max_length=LONGEST_CURSOR, pattern=r"^[A-Za-z0-9_-]+$")]


def _moment(text: Any) -> Any:
    """RFC 3339 only. A ``+`` that the client did not escape comes as a space."""
    if not isinstance(text, str):
        return text
    text = text.replace(" ", "+").upper()
    if not _MOMENT.fullmatch(text):
        raise ValueError("is no time such as 2026-03-01T09:00:00Z (RFC 3339)")
    return datetime.fromisoformat(text)


def _plus(text: Any) -> Any:
    """A ``+`` that the client did not escape comes as a space."""
    return "+" + text[1:] if isinstance(text, str) and text.startswith(" ") else text


def _whole(text: Any) -> Any:
    if isinstance(text, str):
        if not _WHOLE.fullmatch(text):
            raise ValueError("is no whole number")
        return int(text)
    return text


def _flag(text: Any) -> Any:
    if isinstance(text, str):
        if text not in ("true", "false"):
            raise ValueError("is neither true nor false")
        return text == "true"
    return text


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the years 1 to 9999") from error


Moment = Annotated[
    datetime, BeforeValidator(_moment), AfterValidator(_utc),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-03-01T09:00:00Z"]}),
]  # fmt: skip
NUMBER_SCHEMA = {
    "type": "string",
    "minLength": 6,
    "maxLength": 32,
    "pattern": r"^\+[0-9 ().-]+$",
    "examples": ["+821012345678"],
}
Number = Annotated[
    str, Field(min_length=6, max_length=32, pattern=r"^\+[0-9 ().-]+$"), AfterValidator(normalise_number),
    WithJsonSchema(NUMBER_SCHEMA | {"description": "a phone number in international form, E.164"}),
]  # fmt: skip
QueryNumber = Annotated[Number, BeforeValidator(_plus)]
Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]


def cursor_of(*parts: Any) -> str:
    """Where a page ended, opaque to the client. *parts*: text and whole numbers."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()


def after(cursor: str | None, *kinds: type) -> tuple[Any, ...]:
    """What :func:`cursor_of` was given; as many None where there is no cursor. Raises Refused (422) for one that is not ours."""
    if cursor is None:
        return (None,) * len(kinds)
    try:
        parts = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(parts, list) or len(parts) != len(kinds):
            raise ValueError(cursor)
        return tuple(_read(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, OverflowError) as error:
        raise Refused(422, "the query does not fit", [Fault("cursor", "is not the `next` of a page")]) from error


def _read(part: Any, kind: type) -> Any:
    if kind is int and type(part) is int and abs(part) < 2**63:
        return part
    if kind is str and isinstance(part, str) and "\0" not in part:
        return part
    if kind is UUID and isinstance(part, str):
        return UUID(part)
    if kind is datetime and isinstance(part, str):
        moment = datetime.fromisoformat(part)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise ValueError(part)


def order_id(text: str) -> str:
    """An order's id as it stands in a path. Raises UnknownOrder for what is no UUID in its usual form."""
    if not _UUID.fullmatch(text):
        raise UnknownOrder(f"{text[:80]!r} is no order id")
    return text.lower()


def webhook_id(text: str) -> str:
    """The same of a delivery. Raises UnknownDelivery."""
    if not _UUID.fullmatch(text):
        raise UnknownDelivery(f"{text[:80]!r} is no webhook id")
    return text.lower()
