"""Standard Webhooks signatures, scheme v1 (HMAC-SHA256): made for billing systems, checked on inbound SMS replies."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

from gateway.provisioning.errors import BadSecret

PREFIX = "whsec_"
SHORTEST_SECRET = 24
TOLERANCE_S = 300
LONGEST_TIMESTAMP = 12
HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def read_secret(text: str) -> bytes:
    """The key in ``whsec_<base64>``. Raises BadSecret for fewer than 24 octets (Standard Webhooks wants 24 to 64)."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError as error:
        raise BadSecret(
            "a webhook secret is whsec_ followed by base64; make one with: consent-gateway secret"
        ) from error
    if len(key) < SHORTEST_SECRET:
        raise BadSecret(
            f"the webhook secret has {len(key)} octets, at least {SHORTEST_SECRET} are wanted; make one with: consent-gateway secret"
        )
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    return {
        HEADER_ID: message_id,
        HEADER_TIMESTAMP: str(timestamp),
        HEADER_SIGNATURE: sign(key, message_id, timestamp, body),
    }


def verify(key: bytes, given: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the signatures in *given* (headers) is right and the timestamp within five minutes."""
    message_id, timestamp = given.get(HEADER_ID, ""), given.get(HEADER_TIMESTAMP, "")
    signatures = given.get(HEADER_SIGNATURE, "")
    if not message_id or not (message_id + timestamp + signatures).isascii():
        return False
    if not timestamp.isdigit() or len(timestamp) > LONGEST_TIMESTAMP or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign(key, message_id, int(timestamp), body)
    return any(hmac.compare_digest(expected, one) for one in signatures.split())
