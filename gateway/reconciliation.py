"""Whether what was billed and what was consented to agree: a billing system's export against the record.

The export is read in pieces and the orders billed are kept in a file, so that its size costs no memory; the record is only read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from gateway.billing_export import Bill
from gateway.consent.record import CONFIRMED
from gateway.store.database import Connection, Database, sql

PIECE = 5000
"""So many bills or consents at a time."""

WORDS = {
    "ambiguous_reference": "the reference is that of several orders",
    "unknown_reference": "no order has this reference",
    "unknown_order": "there is no such order",
    "another_tenant": "the order is another billing system's",
    "frozen": "the order is frozen",
    "withdrawn": "the order was withdrawn",
    "not_confirmed": "the order was never confirmed: it is {state}",
    "billed_twice": "billed twice, first on line {first_line}",
    "billed_early": "billed before it was confirmed at {confirmed_at:%Y-%m-%d %H:%M:%S} UTC",
}
WEBHOOK = {
    "delivered": "billing took the webhook at {delivered_at:%Y-%m-%d %H:%M:%S} UTC",
    "pending": "the webhook is under way",
    "dead": "the webhook is dead ({last_error}); replay it",
    "cancelled": "the webhook was cancelled ({last_error})",
}


@dataclass(frozen=True, slots=True)
class Unfounded:
    """A bill without consent. *fault* is one of WORDS."""

    line: int
    order_id: str
    reference: str
    fault: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unbilled:
    """A consent without bill; *webhook* is where its delivery stands."""

    order_id: str
    tenant: str
    confirmed_at: datetime
    reference: str
    webhook: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """*lines* were read; those that are not named agree with the record."""

    lines: int
    billed_without_consent: tuple[Unfounded, ...]
    consent_without_billing: tuple[Unbilled, ...]

    @property
    def agrees(self) -> bool:
        return not self.billed_without_consent and not self.consent_without_billing

    def as_json(self) -> dict[str, Any]:
        return {"lines": self.lines, "agrees": self.agrees} | {
            name: [asdict(one) for one in getattr(self, name)]
            for name in ("billed_without_consent", "consent_without_billing")
        }


class Spool:
    """The orders that were billed, each with its first line, in a file that vanishes with this process."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE billed (order_id BLOB PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID")

    def close(self) -> None:
        self._file.close()

    def first_line(self, order_id: UUID, line: int) -> int:
        """The line on which the order was billed first; *line*, when it is that."""
        if self._file.execute("INSERT OR IGNORE INTO billed VALUES (?, ?)", (order_id.bytes, line)).rowcount:
            return line
        return int(self._file.execute("SELECT line FROM billed WHERE order_id = ?", (order_id.bytes,)).fetchone()[0])

    def has(self, order_id: UUID) -> bool:
        found = self._file.execute("SELECT 1 FROM billed WHERE order_id = ?", (order_id.bytes,)).fetchone()
        return found is not None


async def reconcile(
    database: Database,
    bills: Iterable[Bill],
    *,
    tenant: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Reconciliation:
    """Compare *bills* with the record, of one *tenant* or of all.

    Every bill is judged; consents without bill are sought among those confirmed from *since* to before *until*. Raises what reading
    the bills raises.
    """
    lines, unfounded = 0, list[Unfounded]()
    async with (
        database.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        with closing(Spool()) as spool:
            for piece in _pieces(bills):
                lines += len(piece)
                columns = [one.line for one in piece], [one.order_id for one in piece], [one.reference for one in piece]
                rows = await connection.fetch(sql("orders_of_bills"), tenant, *columns)
                for bill, row in zip(piece, map(dict, rows), strict=True):
                    order_id = row["order_id"]
                    first = spool.first_line(order_id, bill.line) if order_id is not None else bill.line
                    fault = judge(bill, row, tenant, first)
                    if fault:
                        reason = WORDS[fault].format_map({**row, "first_line": first})
                        unfounded.append(Unfounded(bill.line, str(order_id or ""), bill.reference or "", fault, reason))
            unbilled = [one async for one in _unbilled(connection, spool, tenant, since, until)]
    return Reconciliation(lines, tuple(unfounded), tuple(unbilled))


def judge(bill: Bill, row: Mapping[str, Any], tenant: str | None, first_line: int) -> str:
    """Why *bill* has no consent behind it, one of WORDS; empty when it has. *row* is what the record knows of it."""
    if row["order_id"] is None:
        return "ambiguous_reference" if row["many"] else "unknown_reference"
    if row["state"] is None:
        return "unknown_order"
    if tenant is not None and row["tenant"] != tenant:
        return "another_tenant"
    if row["state"] in ("frozen", "withdrawn"):
        return str(row["state"])
    if row["confirmed_at"] is None or row["state"] not in CONFIRMED:
        return "not_confirmed"
    if first_line < bill.line:
        return "billed_twice"
    return "billed_early" if bill.billed_at is not None and bill.billed_at < row["confirmed_at"] else ""


async def _unbilled(
    connection: Connection, spool: Spool, tenant: str | None, since: datetime | None, until: datetime | None
) -> AsyncIterator[Unbilled]:
    consents = await connection.cursor(sql("consents_to_bill"), tenant, sorted(CONFIRMED), since, until)
    while piece := await consents.fetch(PIECE):
        missing = [row["order_id"] for row in piece if not spool.has(row["order_id"])]
        for row in await connection.fetch(sql("unbilled_consents"), missing) if missing else ():
            yield Unbilled(
                str(row["order_id"]), row["tenant"], row["confirmed_at"], row["reference"] or "", row["webhook"] or "",
                WEBHOOK[row["webhook"]].format_map(dict(row)),
            )  # fmt: skip


def _pieces(bills: Iterable[Bill]) -> Iterator[list[Bill]]:
    left = iter(bills)
    while piece := list(islice(left, PIECE)):
        yield piece
