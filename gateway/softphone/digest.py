"""HTTP digest authentication as SIP uses it (RFC 3261 section 22, RFC 2617, RFC 8760)."""

from __future__ import annotations

import hashlib
import re
import secrets

_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class DigestError(ValueError):
    """The challenge cannot be answered."""


def parse_challenge(value: str) -> dict[str, str]:
    """The parameters of a WWW-Authenticate or Proxy-Authenticate value.

    Raises:
        DigestError: another scheme than Digest.

    """
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() != "digest":
        raise DigestError(f"authentication scheme {scheme!r} is not supported")
    found = _PARAMETER.findall(rest)
    return {name.lower(): quoted or plain for name, quoted, plain in found}


def authorization(challenge: str, method: str, uri: str, user: str, password: str) -> str:
    """The Authorization value that answers one challenge.

    pyVoIP 1.6.8 (SIP.py:1068) always hashes ``sip:SERVER;transport=UDP`` and
    knows neither qop, opaque nor 407; this answers for the URI really sent.

    Raises:
        DigestError: the scheme, algorithm or qop is not supported.

    """
    given = parse_challenge(challenge)
    algorithm = given.get("algorithm", "MD5")
    base = algorithm.upper().removesuffix("-SESS")
    if base not in _HASHES or "nonce" not in given or "realm" not in given:
        raise DigestError(f"cannot answer the challenge {challenge!r}")

    def hashed(text: str) -> str:
        return _HASHES[base](text.encode()).hexdigest()

    nonce, realm, cnonce, count = given["nonce"], given["realm"], secrets.token_hex(8), "00000001"
    first = hashed(f"{user}:{realm}:{password}")
    if algorithm.upper().endswith("-SESS"):
        first = hashed(f"{first}:{nonce}:{cnonce}")
    second = hashed(f"{method}:{uri}")
    fields = [f'username="{user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{uri}"']
    if "qop" in given:
        if "auth" not in [choice.strip() for choice in given["qop"].split(",")]:
            raise DigestError(f"qop {given['qop']!r} is not supported")
        answer = hashed(f"{first}:{nonce}:{count}:{cnonce}:auth:{second}")
        fields += ["qop=auth", f"nc={count}", f'cnonce="{cnonce}"']
    else:
        answer = hashed(f"{first}:{nonce}:{second}")
    fields.append(f'response="{answer}"')
    if "algorithm" in given:
        fields.append(f"algorithm={algorithm}")
    if "opaque" in given:
        fields.append(f'opaque="{given["opaque"]}"')
    return "Digest " + ", ".join(fields)
