"""Canonical JSON (RFC 8785) and the SHA-256 names of things."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785

_LARGEST_INTEGER = 2**53 - 1
_ALIKE = (1e-4, 1e16)
"""Between these Python and ECMAScript spell a float in the same way."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


class _Otherwise(Exception):
    """Something that the two spell differently, or that RFC 8785 forbids."""


def canonical(value: Any) -> bytes:
    """The one JSON spelling of *value* (RFC 8785), UTF-8. Raises ``rfc8785.CanonicalizationError``.

    Where the standard library spells alike, it does: five times as fast, and every event of every call goes through here.
    """
    try:
        return _encode(_plain(value)).encode()
    except (_Otherwise, UnicodeEncodeError):
        return rfc8785.dumps(value)


def _plain(value: Any) -> Any:
    """*value* as the standard library is to be given it. Raises _Otherwise."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        if not all(type(key) is str and key.isascii() for key in value):  # others sort by UTF-16
            raise _Otherwise
        return {key: _plain(inner) for key, inner in value.items()}
    if kind is list or kind is tuple:
        return [_plain(inner) for inner in value]
    if kind is int and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
        return value
    if kind is float:
        if value.is_integer():
            if abs(value) > _LARGEST_INTEGER:
                raise _Otherwise
            return int(value)
        if _ALIKE[0] <= abs(value) < _ALIKE[1]:
            return value
    raise _Otherwise


def digest(data: bytes) -> str:
    """SHA-256 of *data* as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 over the canonical JSON of *value*, hexadecimal."""
    return digest(canonical(value))
