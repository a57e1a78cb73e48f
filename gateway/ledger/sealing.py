"""Keys, and what they seal: one secret makes the log's signing key and wraps the key of every record.

Events are sealed with a key of their record alone, so that destroying it erases the person and breaks no chain: all hashes are
over what is sealed. AES-256-GCM (NIST SP 800-38D) with random nonces, keys apart by HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.ledger.errors import Unsealable

KEY_OCTETS = 32
NONCE_OCTETS = 12
TAG_OCTETS = 16


class Keyring:
    """What the ledger's *secret* opens and signs."""

    def __init__(self, secret: bytes) -> None:
        self.signer = Ed25519PrivateKey.from_private_bytes(derive(secret, b"consent-gateway ledger signer"))
        self._wrapping = derive(secret, b"consent-gateway record keys")

    def wrap(self, record_key: bytes, order_id: str) -> bytes:
        """*record_key* as the database keeps it: of no use without the secret, or for another order."""
        return seal(self._wrapping, record_key, order_id.encode())

    def unwrap(self, wrapped: bytes, order_id: str) -> bytes:
        """Raises Unsealable."""
        return unseal(self._wrapping, wrapped, order_id.encode())


def new_key() -> bytes:
    return os.urandom(KEY_OCTETS)


def events_key(record_key: bytes) -> bytes:
    """What the events of a record are sealed with. An evidence bundle gives this one away, and not the record's own."""
    return derive(record_key, b"events")


def recording_key(record_key: bytes, call_id: str) -> bytes:
    return derive(record_key, b"recording " + call_id.encode())


def derive(secret: bytes, purpose: bytes) -> bytes:
    """A key of 32 octets for *purpose* alone."""
    return HKDF(SHA256(), KEY_OCTETS, salt=None, info=purpose).derive(secret)


def seal(key: bytes, plain: bytes, associated: bytes) -> bytes:
    """Nonce, ciphertext and tag; opened only with the same *associated* octets."""
    nonce = os.urandom(NONCE_OCTETS)
    return nonce + AESGCM(key).encrypt(nonce, plain, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Raises Unsealable."""
    if len(sealed) < NONCE_OCTETS + TAG_OCTETS:
        raise Unsealable(f"{len(sealed)} octets are too few to be sealed")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_OCTETS], sealed[NONCE_OCTETS:], associated)
    except InvalidTag:
        raise Unsealable("the key does not open it: it is another's, or the octets were changed") from None
