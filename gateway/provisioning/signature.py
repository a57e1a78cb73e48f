"""Standard Webhooks signatures: made for billing systems, checked on inbound SMS replies.

Two schemes: v1 is HMAC-SHA256 with a shared secret (``whsec_``), v1a is Ed25519 with a key pair (``whsk_`` is ours, ``whpk_``
is what the billing system verifies with). Both sign ``{webhook-id}.{webhook-timestamp}.{body}``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.provisioning.errors import BadSecret

PREFIX, SIGNING_PREFIX, VERIFYING_PREFIX = "whsec_", "whsk_", "whpk_"
SHORTEST_SECRET, LONGEST_SECRET = 24, 64
SEED_OCTETS = 32
TOLERANCE_S = 300
LONGEST_TIMESTAMP = 12
HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def read_secret(text: str) -> bytes:
    """The key in ``whsec_<base64>``. Raises BadSecret unless it has 24 to 64 octets, as Standard Webhooks wants."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError as error:
        raise BadSecret(
            "a webhook secret is whsec_ followed by base64; make one with: consent-gateway secret"
        ) from error
    if not SHORTEST_SECRET <= len(key) <= LONGEST_SECRET:
        raise BadSecret(
            f"the webhook secret has {len(key)} octets, {SHORTEST_SECRET} to {LONGEST_SECRET} are wanted; "
            "make one with: consent-gateway secret"
        )
    return key


def read_signing_key(text: str) -> Ed25519PrivateKey:
    """The key in ``whsk_<base64>``: the seed of RFC 8032 (32 octets), or seed and public key (64) as some tools write it.

    Raises BadSecret, also when the two halves are not of one key.
    """
    try:
        octets = base64.b64decode(text.removeprefix(SIGNING_PREFIX), validate=True)
    except ValueError:
        octets = b""
    if not text.startswith(SIGNING_PREFIX) or len(octets) not in (SEED_OCTETS, 2 * SEED_OCTETS):
        raise BadSecret(
            "a signing key is whsk_ followed by the base64 of an Ed25519 key; make one with: consent-gateway secret --ed25519"
        )
    key = Ed25519PrivateKey.from_private_bytes(octets[:SEED_OCTETS])
    if octets[SEED_OCTETS:] not in (b"", key.public_key().public_bytes_raw()):
        raise BadSecret("the signing key's public half is not that of its private half; make a new one")
    return key


def write_signing_key(key: Ed25519PrivateKey) -> tuple[str, str]:
    """``whsk_...`` for the settings, ``whpk_...`` for the billing system."""
    private, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    return SIGNING_PREFIX + base64.b64encode(private).decode(), VERIFYING_PREFIX + base64.b64encode(public).decode()


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The v1 signature, as it stands in ``webhook-signature``."""
    return "v1," + base64.b64encode(hmac.digest(key, _signed(message_id, timestamp, body), hashlib.sha256)).decode()


def sign_asymmetric(key: Ed25519PrivateKey, message_id: str, timestamp: int, body: bytes) -> str:
    """The v1a signature, as it stands in ``webhook-signature``."""
    return "v1a," + base64.b64encode(key.sign(_signed(message_id, timestamp, body))).decode()


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs for one endpoint: its secret, while that is being changed also the *previous* one, and a signing key if
    it has one. A receiver is content with any one signature, so that neither side has to change at the same moment.
    """

    secret: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)
    signing_key: Ed25519PrivateKey | None = None

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        signatures = [sign(key, message_id, timestamp, body) for key in (self.secret, self.previous) if key is not None]
        if self.signing_key is not None:
            signatures.append(sign_asymmetric(self.signing_key, message_id, timestamp, body))
        return {
            HEADER_ID: message_id,
            HEADER_TIMESTAMP: str(timestamp),
            HEADER_SIGNATURE: " ".join(signatures),
        }


def headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers, with one v1 signature."""
    return Signer(key).headers(message_id, timestamp, body)


def verify(key: bytes, given: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the v1 signatures in *given* (headers) is right and the timestamp within five minutes."""
    message_id, timestamp = given.get(HEADER_ID, ""), given.get(HEADER_TIMESTAMP, "")
    signatures = given.get(HEADER_SIGNATURE, "")
    if not message_id or not (message_id + timestamp + signatures).isascii():
        return False
    if not timestamp.isdigit() or len(timestamp) > LONGEST_TIMESTAMP or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign(key, message_id, int(timestamp), body)
    return any(hmac.compare_digest(expected, one) for one in signatures.split())
