"""The CSV that a billing system exports: what is read, and how what cannot be is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.billing_export import LONGEST_LINE, BadExport, Bill, read_bills

ORDER = "11111111-2222-3333-4444-555555555555"
AT = datetime(2026, 11, 22, 0, 0, tzinfo=UTC)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return tmp_path / "bills.csv"


def bills(path: Path, text: str | bytes) -> list[Bill]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_bills(path))


def faults(path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(BadExport) as refused:
        bills(path, text)
    return [fault.removeprefix(f"{path}, ") for fault in refused.value.faults]


class TestWhatIsRead:
    @pytest.mark.parametrize(
        "text",
        [
            f"order_id,reference,billed_at\n{ORDER},B-7,2026-11-22T09:00:00+09:00\n",
            f"order_id;reference;billed_at\r\n{ORDER};B-7;2026-11-22T00:00:00Z\r\n",
            f"billed_at\torder_id\treference\n2026-11-22 00:00\t{ORDER}\tB-7",
            f'\ufeffOrder_ID , Reference,billed_at,amount\n" {ORDER} ","B-7",2026-11-22T00:00,"39,000"\n',
            f'"order_id","reference","billed_at"\n\n"{ORDER.upper()}","B-7","2026-11-22T00:00"\n\n',
        ],
    )
    def test_the_same_bill_in_several_hands(self, export: Path, text: str) -> None:
        (bill,) = bills(export, text)
        assert (UUID(ORDER), "B-7", AT) == (bill.order_id, bill.reference, bill.billed_at)

    def test_a_reference_alone_will_do(self, export: Path) -> None:
        assert [Bill(2, None, "B-7", None)] == bills(export, "reference\nB-7\n")
        assert [Bill(2, None, "B-7", None)] == bills(export, "order_id,reference\n,B-7\n")

    def test_an_order_alone_will_do(self, export: Path) -> None:
        assert [Bill(2, UUID(ORDER), None, None)] == bills(export, f"order_id\n{ORDER}\n")

    def test_no_bill_is_no_fault(self, export: Path) -> None:
        assert [] == bills(export, "order_id,reference\n")

    def test_lines_are_counted_as_an_editor_counts_them(self, export: Path) -> None:
        text = f'order_id,note\n{ORDER},"two\nlines"\n\n{ORDER},x\n'
        assert [2, 5] == [bill.line for bill in bills(export, text)]

    def test_a_mere_date_is_the_end_of_that_day_wherever_it_is(self, export: Path) -> None:
        (bill,) = bills(export, f"order_id,billed_at\n{ORDER},2026-11-22\n")
        assert datetime(2026, 11, 23, 12, tzinfo=UTC) == bill.billed_at

    def test_progress_is_told_in_octets(self, export: Path) -> None:
        export.write_text(f"order_id\n{ORDER}\n{ORDER}\n")
        told: list[int] = []
        assert 2 == len(list(read_bills(export, told.append)))
        assert export.stat().st_size == sum(told)

    def test_it_is_read_as_it_is_asked_for(self, export: Path) -> None:
        """So a file of any size costs no memory."""
        export.write_text("order_id\n" + f"{ORDER}\n" * 10_000)
        told: list[int] = []
        reading: Iterator[Bill] = read_bills(export, told.append)
        next(reading)
        assert 2 == len(told)
        assert 9999 == len(list(reading))


class TestWhatIsNot:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("line 1: no column order_id or reference", ""),
            ("line 1: no column order_id or reference", "id,ref\n1,2\n"),
            ("line 1: a column is named twice", "order_id,order_id\n"),
            ("line 2: column order_id: 'B-7' is no order id", "order_id\nB-7\n"),
            ("line 2: column order_id: empty, and no reference", "order_id,reference,billed_at\n,,2026-11-22\n"),
            ("line 2: column billed_at: 'yesterday' is no time", f"order_id,billed_at\n{ORDER},yesterday\n"),
            ("line 2: column billed_at: '22.11.2026' is no time", f"order_id,billed_at\n{ORDER},22.11.2026\n"),
            ("line 2: column billed_at: '9999-12-31' is no time", f"order_id,billed_at\n{ORDER},9999-12-31\n"),
            ("line 2: column reference: 201 characters", "reference\n" + "x" * 201 + "\n"),
            ("line 2: 1 fields, the header has 2", f"order_id,reference\n{ORDER}\n"),
            ("line 2: 3 fields, the header has 2", f"order_id,reference\n{ORDER},a,b\n"),
            ("line 2: ", f'order_id,reference\n{ORDER},"a"b\n'),
            ("line 3: ", f'order_id,reference\n{ORDER},a\n{ORDER},"never closed\n{ORDER},b\n'),
            ("line 2, octet 6: not UTF-8", b"reference\nB-7 M\xfcller\n"),
            ("line 1: this is UTF-16", "order_id\n".encode("utf-16")),
            ("line 2: a NUL octet", "reference\nB\x007\n"),
            ("line 2: longer than", "reference\n" + "x" * LONGEST_LINE + "\n"),
            ("line 1: longer than", "x" * 10_000_000),
        ],
    )
    def test_each_is_named_by_line_and_column(self, export: Path, expected: str, text: str | bytes) -> None:
        found = faults(export, text)
        assert 1 == len(found)
        assert found[0].startswith(expected)

    def test_several_are_named_at_once(self, export: Path) -> None:
        assert ["line 2", "line 4"] == [
            fault.partition(":")[0] for fault in faults(export, f"order_id\nx\n{ORDER}\ny\n")
        ]

    def test_a_file_that_is_something_else_is_not_read_to_its_end(self, export: Path) -> None:
        assert 21 == len(faults(export, "order_id\n" + "x\n" * 1000))

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=300))
    def test_whatever_comes_is_read_or_named(self, export: Path, octets: bytes) -> None:
        for text in (octets, b"order_id,reference,billed_at\n" + octets):
            export.write_bytes(text)
            found: list[Bill] = []
            with suppress(BadExport):
                found += read_bills(export)
            assert all(bill.order_id or bill.reference for bill in found)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            list(read_bills(tmp_path / f"{uuid4()}.csv"))
