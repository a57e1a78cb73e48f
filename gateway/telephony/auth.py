"""Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): as client over aiosipua's codec, as server for registrations."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiosipua.auth import SipDigestAuth, build_credentials
from aiosipua.header_codec import parse_auth, stringify_auth
from aiosipua.message import SipRequest, SipResponse

NONCE_TTL_S = 120.0
_STRENGTH = {"SHA-256": 2, "MD5": 1}


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str


def authorize(request: SipRequest, response: SipResponse, credentials: Credentials) -> bool:
    """Answer the strongest challenge of a 401 or 407 in *request*; False when none can be answered."""
    proxy = response.status_code == 407
    challenges = [
        parse_auth(value) for value in response.get_header_values("Proxy-Authenticate" if proxy else "WWW-Authenticate")
    ]
    challenges.sort(key=lambda c: _STRENGTH.get(c.params.get("algorithm", "MD5").upper(), 0), reverse=True)
    digest = SipDigestAuth(credentials.username, credentials.password)
    for challenge in challenges:
        answer = build_credentials(digest, challenge, request.method, request.uri)
        if answer is not None:
            request.set_header("Proxy-Authorization" if proxy else "Authorization", stringify_auth(answer))
            return True
    return False


class DigestServer:
    """Challenges and checks. Nonces are stateless: a time, signed together with the *source* (an address) that is challenged;
    each lives two minutes. An answer that was overheard is worth nothing from elsewhere.
    """

    def __init__(self, realm: str, passwords: dict[str, str], now: Callable[[], float]) -> None:
        self._realm = realm
        self._passwords = passwords
        self._now = now
        self._key = secrets.token_bytes(32)

    def challenges(self, source: str = "", *, stale: bool = False) -> list[str]:
        """WWW-Authenticate values, the stronger algorithm first (RFC 8760 §2.4)."""
        nonce = self._nonce(int(self._now()), source)
        suffix = ", stale=true" if stale else ""
        return [
            f'Digest realm="{self._realm}", nonce="{nonce}", algorithm={algorithm}, qop="auth"{suffix}'
            for algorithm in ("SHA-256", "MD5")
        ]

    def check(self, request: SipRequest, source: str = "") -> str | None:
        """The user that *request* proves to be; None when it proves nobody."""
        user, age = self._proof(request, source)
        return user if 0 <= age <= NONCE_TTL_S else None

    def stale(self, request: SipRequest, source: str = "") -> bool:
        """Whether *request* fails by the age of its nonce alone (RFC 7616 §3.3)."""
        user, age = self._proof(request, source)
        return user is not None and age > NONCE_TTL_S

    def _proof(self, request: SipRequest, source: str) -> tuple[str | None, float]:
        """The user whose password *request* knows, and the seconds since its nonce was given."""
        header = request.get_header("Authorization")
        if not header:
            return None, 0.0
        try:
            given = parse_auth(header, credentials=True).params
            at = self._given_at(given.get("nonce", ""), source)
        except ValueError:
            return None, 0.0
        user = given.get("username", "")
        algorithm = given.get("algorithm", "MD5").upper()
        hasher = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}.get(algorithm)
        password = self._passwords.get(user)
        if hasher is None or password is None or given.get("realm") != self._realm:
            return None, 0.0

        def digest(text: str) -> str:
            return hasher(text.encode()).hexdigest()

        ha1 = digest(f"{user}:{self._realm}:{password}")
        ha2 = digest(f"{request.method}:{given.get('uri', '')}")
        if given.get("qop"):
            parts = [ha1, given["nonce"], given.get("nc", ""), given.get("cnonce", ""), given["qop"], ha2]
        else:
            parts = [ha1, given["nonce"], ha2]
        proven = hmac.compare_digest(digest(":".join(parts)).encode(), given.get("response", "").encode())
        return user if proven else None, self._now() - at

    def _nonce(self, at: int, source: str) -> str:
        return f"{at:x}-{hmac.digest(self._key, f'{at}|{source}'.encode(), 'sha256').hex()[:32]}"

    def _given_at(self, nonce: str, source: str) -> int:
        """When we made *nonce* for *source*. Raises ValueError when we did not."""
        at = int(nonce.split("-", maxsplit=1)[0], 16)
        if not hmac.compare_digest(nonce.encode(), self._nonce(at, source).encode()):
            raise ValueError("the nonce is not ours")
        return at
