"""Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): as client against any number of realms, as server for phones."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiosipua.header_codec import parse_auth
from aiosipua.message import SipRequest, SipResponse

NONCE_TTL_S = 120.0
ALGORITHMS = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
"""What is answered and demanded, the stronger one first (RFC 8760 §2.4)."""

_ANSWERS = {401: ("WWW-Authenticate", "Authorization"), 407: ("Proxy-Authenticate", "Proxy-Authorization")}


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str


@dataclass(slots=True)
class _Challenge:
    """One realm's challenge, and how often it was answered: the nonce count."""

    header: str
    params: Mapping[str, str]
    algorithm: str
    count: int = 0


@dataclass(slots=True)
class ClientAuth:
    """Answers challenges with *credentials*: of proxies and of the far end, of several realms at once (RFC 3261 §22.3)."""

    credentials: Credentials
    _challenges: dict[tuple[str, str], _Challenge] = field(default_factory=dict)

    def take(self, response: SipResponse, request: SipRequest) -> bool:
        """Whether another attempt can do better after the 401 or 407 *response* to *request*: it answered no challenge of
        that realm, or one whose nonce had only grown stale. Otherwise our password is wrong.
        """
        names = _ANSWERS.get(response.status_code)
        if names is None:
            return False
        answered = {_params(value).get("realm", "") for value in request.get_header_values(names[1])}
        offered: dict[str, _Challenge] = {}
        for value in response.get_header_values(names[0]):
            params = _params(value)
            algorithm = params.get("algorithm", "MD5").upper()
            qop = [word.strip() for word in params.get("qop", "auth").split(",")]
            if any('"' in params.get(name, "") for name in ("realm", "nonce", "opaque")):
                continue
            if "nonce" not in params or algorithm not in ALGORITHMS or "auth" not in qop:
                continue
            known = offered.get(params.get("realm", ""))
            if known is None or (algorithm == "SHA-256" and known.algorithm == "MD5"):
                offered[params.get("realm", "")] = _Challenge(names[1], params, algorithm)
        better = False
        for realm, challenge in offered.items():
            if realm not in answered or challenge.params.get("stale", "").lower() == "true":
                self._challenges[names[1], realm] = challenge
                better = True
        return better

    def apply(self, request: SipRequest) -> None:
        """Put the answers to all challenges so far into *request*, each with its nonce counted on."""
        for header in {challenge.header for challenge in self._challenges.values()}:
            request.remove_header(header)
        for challenge in self._challenges.values():
            request.add_header(challenge.header, self._answer(challenge, request))

    def _answer(self, challenge: _Challenge, request: SipRequest) -> str:
        challenge.count += 1
        params = challenge.params
        realm, nonce = params.get("realm", ""), params["nonce"]
        count, cnonce = f"{challenge.count:08x}", secrets.token_hex(8)
        qop = "auth" if "qop" in params else ""
        name = self.credentials.username
        response = digest(
            challenge.algorithm, name, realm, self.credentials.password, request.method, request.uri, nonce,
            count, cnonce, qop,
        )  # fmt: skip
        parts = [f'username="{name}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{request.uri}"',
                 f'response="{response}"', f"algorithm={challenge.algorithm}"]  # fmt: skip
        if qop:
            parts += [f"qop={qop}", f"nc={count}", f'cnonce="{cnonce}"']
        if "opaque" in params:
            parts.append(f'opaque="{params["opaque"]}"')
        return "Digest " + ", ".join(parts)


class DigestServer:
    """Challenges and checks. Nonces are stateless: a time, signed together with the *source* (an address) that is challenged;
    each lives two minutes. An answer that was overheard is worth nothing from elsewhere.
    """

    def __init__(
        self,
        realm: str,
        passwords: dict[str, str],
        now: Callable[[], float],
        algorithms: Sequence[str] = tuple(ALGORITHMS),
    ) -> None:
        self._realm = realm
        self._passwords = passwords
        self._algorithms = algorithms
        self._now = now
        self._key = secrets.token_bytes(32)

    def __bool__(self) -> bool:
        """Whether there is anybody who could prove to be himself."""
        return bool(self._passwords)

    @property
    def users(self) -> frozenset[str]:
        """Who has a password."""
        return frozenset(self._passwords)

    def challenges(self, source: str = "", *, stale: bool = False) -> list[str]:
        """WWW-Authenticate values, the preferred algorithm first (RFC 8760 §2.4)."""
        nonce = self._nonce(int(self._now()), source)
        suffix = ", stale=true" if stale else ""
        return [
            f'Digest realm="{self._realm}", nonce="{nonce}", algorithm={algorithm}, qop="auth"{suffix}'
            for algorithm in self._algorithms
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
        given = _params(header)
        try:
            at = self._given_at(given.get("nonce", ""), source)
        except ValueError:
            return None, 0.0
        user = given.get("username", "")
        algorithm = given.get("algorithm", "MD5").upper()
        password = self._passwords.get(user)
        if algorithm not in self._algorithms or password is None or given.get("realm") != self._realm:
            return None, 0.0
        expected = digest(
            algorithm, user, self._realm, password, request.method, given.get("uri", ""), given["nonce"],
            given.get("nc", ""), given.get("cnonce", ""), given.get("qop", ""),
        )  # fmt: skip
        proven = hmac.compare_digest(expected.encode(), given.get("response", "").encode())
        return user if proven else None, self._now() - at

    def _nonce(self, at: int, source: str) -> str:
        return f"{at:x}-{hmac.digest(self._key, f'{at}|{source}'.encode(), 'sha256').hex()[:32]}"

    def _given_at(self, nonce: str, source: str) -> int:
        """When we made *nonce* for *source*. Raises ValueError when we did not."""
        at = int(nonce.split("-", maxsplit=1)[0], 16)
        if not hmac.compare_digest(nonce.encode(), self._nonce(at, source).encode()):
            raise ValueError("the nonce is not ours")
        return at


def digest(
    algorithm: str, username: str, realm: str, password: str, method: str, uri: str, nonce: str,
    count: str, cnonce: str, qop: str,
) -> str:  # fmt: skip
    """The response parameter (RFC 7616 §3.4.1); an empty *qop* is the old form of RFC 2069."""
    hasher = ALGORITHMS[algorithm]

    def hashed(text: str) -> str:
        return hasher(text.encode()).hexdigest()

    ha1, ha2 = hashed(f"{username}:{realm}:{password}"), hashed(f"{method}:{uri}")
    parts = [ha1, nonce, count, cnonce, qop, ha2] if qop else [ha1, nonce, ha2]
    return hashed(":".join(parts))


def _params(value: str) -> Mapping[str, str]:
    """The parameters of a Digest header; none for another scheme."""
    try:
        parsed = parse_auth(value)
    except ValueError:
        return {}
    return parsed.params if parsed.scheme.lower() == "digest" else {}
