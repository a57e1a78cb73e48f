"""The bills that a billing system exports as CSV, read line by line whatever their number; every fault with its line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

COLUMNS = ("order_id", "reference", "billed_at")
LONGEST_LINE = 65_536
LONGEST_REFERENCE = 200
MOST_FAULTS = 20
ANYWHERE = timedelta(days=1, hours=12)
"""A day is over everywhere on Earth so long after it began in UTC."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = (",", ";", "\t")


class BadExport(Exception):
    """The file cannot be read as what it should be; one line a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Bill:
    """One line. Either *order_id* or *reference* is there; *billed_at* of a mere date is the end of that day, anywhere."""

    line: int
    order_id: UUID | None
    reference: str | None
    billed_at: datetime | None


def read_bills(path: Path, on_read: Callable[[int], None] = lambda _: None) -> Iterator[Bill]:
    """The lines of *path*; *on_read* is told how many octets were read since it was told last.

    A header names the columns: order_id, reference and billed_at, the others are passed over; comma, semicolon or tab; UTF-8.
    Raises BadExport, at the end or after twenty faults, and OSError.
    """
    faults: list[str] = []
    with path.open("rb") as file:
        lines = _Lines(path, file.readline, on_read)
        head = next(lines, "")
        delimiter = max(_DELIMITERS, key=head.count)
        names = [name.strip().strip('"').lower() for name in head.rstrip("\r\n").split(delimiter)]
        _check_header(path, names)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 2
        while len(faults) < MOST_FAULTS:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise BadExport([*faults, f"{path}, line {line}: {error}; is a quotation mark left open?"]) from error
            if fields is None:
                break
            if any(field.strip() for field in fields):
                try:
                    yield _bill(line, names, fields)
                except ValueError as error:
                    faults.append(f"{path}, line {line}: {error}")
            line = 2 + reader.line_num
    if faults:
        raise BadExport([*faults, "and more may follow"] if len(faults) == MOST_FAULTS else faults)


class _Lines:
    """The file line by line as text, none longer than LONGEST_LINE. Raises BadExport."""

    def __init__(self, path: Path, readline: Callable[[int], bytes], on_read: Callable[[int], None]) -> None:
        self._path = path
        self._readline = readline
        self._on_read = on_read
        self._line = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        octets = self._readline(LONGEST_LINE + 1)
        self._line += 1
        if not octets:
            raise StopIteration
        self._on_read(len(octets))
        where = f"{self._path}, line {self._line}"
        if self._line == 1 and octets.startswith(_UTF16):
            raise BadExport([f"{where}: this is UTF-16; export it as CSV in UTF-8"])
        if len(octets) > LONGEST_LINE:
            raise BadExport([f"{where}: longer than {LONGEST_LINE} octets; this is no CSV"])
        if b"\0" in octets:
            raise BadExport([f"{where}: a NUL octet; this is no CSV"])
        try:
            return octets.decode("utf-8-sig" if self._line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadExport([f"{where}, octet {error.start + 1}: not UTF-8; export it as CSV in UTF-8"]) from error


def _check_header(path: Path, names: list[str]) -> None:
    known = [name for name in names if name in COLUMNS]
    if len(set(known)) != len(known):
        raise BadExport([f"{path}, line 1: a column is named twice: {', '.join(known)}"])
    if not {"order_id", "reference"} & set(known):
        raise BadExport(
            [f"{path}, line 1: no column order_id or reference; the header is order_id,reference,billed_at"]
        )


def _bill(line: int, names: list[str], fields: list[str]) -> Bill:
    if len(fields) != len(names):
        raise ValueError(f"{len(fields)} fields, the header has {len(names)}")
    given = {name: field.strip() for name, field in zip(names, fields, strict=True) if name in COLUMNS}
    order, reference, billed = (given.get(name, "") for name in COLUMNS)
    if order and not _UUID.fullmatch(order):
        raise ValueError(f"column order_id: {order[:60]!r} is no order id")
    if not order and not reference:
        raise ValueError("column order_id: empty, and no reference beside it")
    if len(reference) > LONGEST_REFERENCE:
        raise ValueError(f"column reference: {len(reference)} characters, at most {LONGEST_REFERENCE} are kept")
    return Bill(line, UUID(order) if order else None, reference or None, _moment(billed) if billed else None)


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return (at + ANYWHERE if _DATE.fullmatch(text) else at).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"column billed_at: {text[:60]!r} is no time; 2026-11-22, or 2026-11-22T09:00:00+09:00"
        ) from None
