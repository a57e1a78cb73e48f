"""``Idempotency-Key`` (IETF draft-ietf-httpapi-idempotency-key-header): a request that is sent twice makes one order.

The key is kept in the transaction of the order, so a crash loses neither or both. What was refused is not kept: it made nothing, and may be
sent again with the same key once it is mended.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta

from aiohttp import hdrs, web

from gateway.consent.canonical import canonical
from gateway.store import access
from gateway.store.access import KeptRequest
from gateway.store.database import Connection
from gateway.web.order_models import NewOrder
from gateway.web.problems import Refused
from gateway.web.routes import Header

NAME = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LONGEST_KEY = 255
PATTERN = r"^[!-~]([ -~]*[!-~])?$"
KEPT_FOR = timedelta(hours=48)
_KEY = re.compile(PATTERN)
HEADER = Header(
    NAME, "any text of your own, such as a UUID, the same for every try of one request; kept for 48 hours", PATTERN, LONGEST_KEY,
    "8e03978e-40d5-43dd-bc93-6894a57f9324",
)  # fmt: skip


def idempotency_key(request: web.Request) -> str | None:
    """Raises Refused (400) for one that is malformed."""
    given = request.headers.getall(NAME, [])
    if not given:
        return None
    if len(given) > 1 or len(given[0]) > LONGEST_KEY or not _KEY.fullmatch(given[0]):
        raise Refused(400, f"{NAME} must come once, as 1 to {LONGEST_KEY} printable ASCII characters")
    return given[0]


class Claim:
    """One request under its key, in the transaction of *connection*."""

    def __init__(self, connection: Connection, tenant: str, key: str, asked: NewOrder) -> None:
        self._connection = connection
        self._tenant = tenant
        self._key_hash = hashlib.sha256(key.encode()).digest()
        # over the key as well: without it nobody can guess the number that the request was about
        request = canonical(asked.model_dump(mode="json", exclude_unset=True))
        self._fingerprint = hashlib.sha256(key.encode() + b"\0" + request).digest()

    async def order_made(self) -> str | None:
        """The order that this request has already made, if it has.

        Raises Refused: 409 while the first is still under way, 422 when it asked for something else.
        """
        if not await access.lock_request(self._connection, self._tenant, self._key_hash):
            raise Refused(409, f"a request with this {NAME} is under way", headers={hdrs.RETRY_AFTER: "1"})
        kept = await access.find_request(self._connection, self._tenant, self._key_hash)
        if kept is None:
            return None
        if kept.fingerprint != self._fingerprint:
            raise Refused(422, f"this {NAME} was used for another request")
        return kept.order_id

    async def keep(self, order_id: str, now: datetime) -> None:
        kept = KeptRequest(self._fingerprint, order_id)
        await access.keep_request(self._connection, self._tenant, self._key_hash, kept, now, now - KEPT_FOR)
