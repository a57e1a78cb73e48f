"""Who may use the API: keys of billing systems, what each may do, and how a presented one is recognised.

A key is ``cg_<id>_<secret>``: 12 and 64 hexadecimal digits, the secret of 256 random bits. Only its argon2id hash is stored, so whoever
reads the database can use none. The tenant's ``api_key`` of the settings is a key too, with every scope.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

import structlog
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.rates import Forgetful, Rates
from gateway.store import access
from gateway.store.database import Database

log = structlog.get_logger(__name__)
Scope = Literal[
    "orders:read",
    "orders:write",
    "calls:write",
    "evidence:read",
    "deliveries:read",
    "deliveries:write",
    "dnc:read",
    "dnc:write",
    "dnc:lift",
    "offers:read",
    "offers:write",
    "audit:read",
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SETTINGS_KEY = "settings"
"""The name, in the audit, of the key that stands in the settings."""

REMEMBERED_S = 60.0
"""How long a key that argon2 has proven is believed without it. Revocation and expiry are looked up for every request."""

MOST_REMEMBERED = 10_000
TOUCH_S = 60.0
MOST_WAITING = 32
_TOKEN = re.compile(r"cg_([0-9a-f]{12})_[0-9a-f]{64}")
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$" + "A" * 22 + "$" + "A" * 43
"""No key has this hash; an unknown id is checked against it, so that it costs what a wrong secret costs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: *rate* (requests a second) and *burst* only where the key has its own."""

    tenant: str
    key_id: str
    scopes: frozenset[Scope]
    rate: float | None = None
    burst: int | None = None


class Unrecognised(Exception):
    """No good key. *tenant* and *key_id* are those whose id was named, where there is such a key."""

    def __init__(self, why: str, *, tenant: str | None = None, key_id: str | None = None) -> None:
        super().__init__(why)
        self.tenant = tenant
        self.key_id = key_id


class TooManyFailures(Exception):
    """More keys than allowed from this address proved wrong; try again in *wait_s* seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong keys from this address")
        self.wait_s = wait_s


class Busy(Exception):
    """More keys wait to be checked than the gateway takes on."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as its holder gets it: *token* is shown once and stored nowhere."""

    key_id: str
    token: str
    secret_hash: str


def make_key() -> NewKey:
    """Takes about 30 ms: argon2id with 19 MiB and two passes (OWASP's figures)."""
    key_id = secrets.token_hex(6)
    token = f"cg_{key_id}_{secrets.token_hex(32)}"
    return NewKey(key_id, token, _HASHER.hash(token))


def fits(secret_hash: str, token: str) -> bool:
    """Whether *token* is the one that was hashed. Takes about 30 ms, and the same for a wrong one."""
    try:
        return _HASHER.verify(secret_hash, token)
    except (VerificationError, InvalidHashError):
        return False


class Keys:
    """Recognises keys. *operators*: SHA-256 of each key of the settings, to its tenant; *clock* gives seconds."""

    def __init__(
        self,
        database: Database,
        operators: Mapping[bytes, str],
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        failures: Rates | None = None,
    ) -> None:
        self._database = database
        self._operators = operators
        self._now = now
        self._clock = clock
        self._failures = failures or Rates(rate=0.2, burst=20, clock=clock)
        self._proven: Forgetful[bytes, tuple[str, float]] = Forgetful(MOST_REMEMBERED)
        self._touched: Forgetful[str, float] = Forgetful(MOST_REMEMBERED)
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        # one thread of its own: argon2 must neither hold up the media clock nor take every core
        self._thread = ThreadPoolExecutor(1, "argon2")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def recognise(self, token: str, address: str) -> Caller:
        """Whose key *token* is. *address*: where it came from.

        Raises Unrecognised, TooManyFailures, Busy.
        """
        seen = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        tenants = [tenant for known, tenant in self._operators.items() if hmac.compare_digest(known, seen)]
        if tenants:
            return Caller(tenants[0], SETTINGS_KEY, frozenset(SCOPES))
        form = _TOKEN.fullmatch(token)
        if form is None:
            raise Unrecognised("send a key as Authorization: Bearer KEY")
        row = await access.find_key(self._database, form[1])
        if not await self._proves(seen, token, row.secret_hash if row else _NOBODYS, address) or row is None:
            named = {"tenant": row.tenant, "key_id": row.key_id} if row else {}
            raise Unrecognised("this key is not known here", **named)
        now = self._now()
        if row.revoked_at is not None:
            raise Unrecognised("this key has been revoked", tenant=row.tenant, key_id=row.key_id)
        if row.expires_at is not None and now >= row.expires_at:
            raise Unrecognised("this key has expired", tenant=row.tenant, key_id=row.key_id)
        await self._touch(row.key_id, now)
        return Caller(row.tenant, row.key_id, frozenset(s for s in SCOPES if s in row.scopes), row.rate, row.burst)

    async def _proves(self, seen: bytes, token: str, secret_hash: str, address: str) -> bool:
        """A key that was proven a moment ago is believed; one that ever was is not held up by the failures of others."""
        proven, at = self._proven.get(seen) or ("", 0.0)
        trusted = hmac.compare_digest(proven, secret_hash)
        if trusted and self._clock() - at < REMEMBERED_S:
            return True
        counted = not trusted and seen not in self._checks
        wait_s = self._failures.take(address) if counted else 0.0
        if wait_s:
            raise TooManyFailures(wait_s)
        good = await self._check(seen, token, secret_hash)
        if good:
            self._proven[seen] = secret_hash, self._clock()
        if good and counted:
            self._failures.give_back(address)
        return good

    async def _check(self, seen: bytes, token: str, secret_hash: str) -> bool:
        """The same key on many connections at once is checked once."""
        check = self._checks.get(seen)
        if check is None:
            if len(self._checks) >= MOST_WAITING:
                raise Busy
            check = asyncio.ensure_future(self._in_thread(secret_hash, token))
            self._checks[seen] = check
            check.add_done_callback(lambda _: self._checks.pop(seen, None))
        return await asyncio.shield(check)

    async def _in_thread(self, secret_hash: str, token: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fits, secret_hash, token)

    async def _touch(self, key_id: str, now: datetime) -> None:
        last = self._touched.get(key_id)
        if last is None or self._clock() - last >= TOUCH_S:
            self._touched[key_id] = self._clock()
            await access.touch_key(self._database, key_id, now)


async def create_key(
    database: Database,
    tenant: str,
    name: str,
    scopes: frozenset[Scope],
    *,
    now: datetime,
    valid: timedelta | None = None,
    rate: float | None = None,
    burst: int | None = None,
) -> NewKey:
    """A new key of *tenant*, stored. It is shown to its holder and then forgotten."""
    made = await asyncio.to_thread(make_key)
    await access.insert_key(
        database,
        access.KeyRow(
            key_id=made.key_id, tenant=tenant, name=name, secret_hash=made.secret_hash,
            scopes=tuple(s for s in SCOPES if s in scopes), rate=rate, burst=burst,
            created_at=now, expires_at=now + valid if valid else None,
        ),
    )  # fmt: skip
    log.info("key.created", key=made.key_id, tenant=tenant, scopes=sorted(scopes))
    return made
