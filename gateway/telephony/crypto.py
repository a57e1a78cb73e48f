"""SRTP keyed by SDES (RFC 3711, RFC 4568): the a=crypto attribute, and one stream's protection by libsrtp."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pylibsrtp import Error, Policy, Session

from gateway.telephony.errors import BadMessage

KEY_OCTETS = 30
"""16 of the master key, 14 of the salt."""

SUITES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
}
"""What is spoken, the stronger one first."""

_ATTRIBUTE = re.compile(r"(\d{1,9})\s+(\S+)\s+inline:([A-Za-z0-9+/=]+)(?:\|[0-9^]+)?(?:\|\d+:\d+)?((?:\s+\S+)*)")


@dataclass(frozen=True, slots=True)
class Crypto:
    """One direction's suite and key. Its repr does not show the key."""

    tag: int
    suite: str
    key: bytes

    @property
    def attribute(self) -> str:
        return f"{self.tag} {self.suite} inline:{base64.b64encode(self.key).decode()}"

    def __repr__(self) -> str:
        return f"Crypto({self.tag}, {self.suite})"


def new_crypto(tag: int = 1, suite: str = next(iter(SUITES))) -> Crypto:
    """A key of our own, for what we send."""
    return Crypto(tag, suite, secrets.token_bytes(KEY_OCTETS))


def read_crypto(attributes: Sequence[str]) -> Crypto | None:
    """The far end's first usable a=crypto. One with a master key index or session parameters is no such (RFC 4568 §6)."""
    for text in attributes:
        found = _ATTRIBUTE.fullmatch(text.strip())
        if found is None or found[2] not in SUITES or found[4].strip():
            continue
        try:
            key = base64.b64decode(found[3] + "=" * (-len(found[3]) % 4), validate=True)
        except binascii.Error:
            continue
        if len(key) == KEY_OCTETS:
            return Crypto(int(found[1]), found[2], key)
    return None


class Protection:
    """Both directions of one call's media, audio and reports. Each raises BadMessage for what fails to be proven."""

    def __init__(self, ours: Crypto, theirs: Crypto) -> None:
        self.ours, self.theirs = ours, theirs
        self._out, self._in = _session(ours, Policy.SSRC_ANY_OUTBOUND), _session(theirs, Policy.SSRC_ANY_INBOUND)

    def rekey(self, theirs: Crypto) -> None:
        """The far end has a new key; ours, and how far it is used, stay."""
        self.theirs = theirs
        self._in = _session(theirs, Policy.SSRC_ANY_INBOUND)

    def protect(self, packet: bytes) -> bytes:
        return bytes(self._out.protect(packet))

    def protect_rtcp(self, packet: bytes) -> bytes:
        return bytes(self._out.protect_rtcp(packet))

    def unprotect(self, packet: bytes) -> bytes:
        try:
            return bytes(self._in.unprotect(packet))
        except Error as error:
            raise BadMessage(f"SRTP packet: {error}") from error

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        try:
            return bytes(self._in.unprotect_rtcp(packet))
        except Error as error:
            raise BadMessage(f"SRTCP packet: {error}") from error


def _session(crypto: Crypto, ssrc_type: int) -> Session:
    return Session(Policy(key=crypto.key, ssrc_type=ssrc_type, srtp_profile=SUITES[crypto.suite]))
