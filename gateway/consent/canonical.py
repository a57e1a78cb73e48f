"""Canonical JSON (RFC 8785) and the SHA-256 names of things."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """The one JSON spelling of *value* (RFC 8785), UTF-8. Raises ``rfc8785.CanonicalizationError``."""
    return rfc8785.dumps(value)


def digest(data: bytes) -> str:
    """SHA-256 of *data* as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 over the canonical JSON of *value*, hexadecimal."""
    return digest(canonical(value))
