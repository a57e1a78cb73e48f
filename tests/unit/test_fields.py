"""Fields of query strings: read strictly."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.store.errors import UnknownOrder
from gateway.web.fields import Flag, Moment, Number, QueryNumber, Whole, after, cursor_of, order_id
from gateway.web.problems import Refused


class TestMoments:
    @pytest.mark.parametrize(
        "text",
        ["2026-03-01T09:00:00Z", "2026-03-01T18:00:00+09:00", "2026-03-01T18:00:00 09:00", "2026-03-01t09:00:00z"],
    )
    def test_rfc_3339_is_read(self, text: str) -> None:
        assert datetime(2026, 3, 1, 9, tzinfo=UTC) == TypeAdapter(Moment).validate_python(text)

    @pytest.mark.parametrize(
        "text",
        ["", "0", "1772355600", "2026-03-01", "2026-03-01T09:00:00", "now", "2026-13-01T09:00:00Z", "0001-01-01T00:00:00+09:00",
         "9999-12-31T23:59:59-01:00", "2026-03-01T09:00:00Z\n", "２０２６-03-01T09:00:00Z"],
    )  # fmt: skip
    def test_all_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(Moment).validate_python(text)


class TestNumbers:
    @pytest.mark.parametrize("text", ["+821012345678", " 821012345678", "+82 10-1234-5678"])
    def test_an_unescaped_plus_comes_as_a_space(self, text: str) -> None:
        assert "+821012345678" == TypeAdapter(QueryNumber).validate_python(text)

    def test_in_a_body_it_is_none(self) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(Number).validate_python(" 821012345678")

    @pytest.mark.parametrize(
        "text", ["", "821012345678", "+", "+82", "01012345678", "+821012345678\0", "+8210" + "1" * 30]
    )
    def test_what_is_no_number_is_refused(self, text: str) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(Number).validate_python(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Whole, ""), (Whole, "1.0"), (Whole, " 1"), (Whole, "1_0"), (Whole, "１"), (Whole, "9" * 10), (Flag, "1"), (Flag, "yes"), (Flag, "")],
)  # fmt: skip
def test_nothing_is_taken_for_what_it_is_not(kind: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


class TestCursors:
    def test_what_was_written_is_read(self) -> None:
        moment, order = datetime(2026, 3, 1, 9, 0, 0, 123, tzinfo=UTC), UUID(int=7)
        assert (moment, order) == after(cursor_of(moment.isoformat(), str(order)), datetime, UUID)
        assert (2**62,) == after(cursor_of(2**62), int)
        assert ("a.b-c",) == after(cursor_of("a.b-c"), str)

    def test_without_one_it_begins_at_the_beginning(self) -> None:
        assert (None, None) == after(None, datetime, UUID)

    @pytest.mark.parametrize(
        "parts",
        [[], [1, 2], ["1"], [None], [True], [1.5], [2**63], [[1]], {"a": 1}, 7],
    )
    def test_what_is_not_ours_is_refused(self, parts: Any) -> None:
        cursor = base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()
        with pytest.raises(Refused, match="the query does not fit"):
            after(cursor, int)

    @pytest.mark.parametrize("text", ["a\0b"])
    def test_no_nul_comes_in_by_a_cursor(self, text: str) -> None:
        with pytest.raises(Refused):
            after(cursor_of(text), str)

    def test_no_time_beyond_the_calendar_comes_in_by_a_cursor(self) -> None:
        with pytest.raises(Refused):
            after(cursor_of("0001-01-01T00:00:00+14:00"), datetime)

    @given(
        st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=80)
    )
    def test_any_text_is_a_cursor_or_refused(self, text: str) -> None:
        with contextlib.suppress(Refused):
            assert all(isinstance(part, int) for part in after(text, int))


class TestOrderIds:
    def test_a_uuid_is_one(self) -> None:
        text = "0F8FAD5B-D9CB-469F-A165-70867728950E"
        assert text.lower() == order_id(text)

    @pytest.mark.parametrize(
        "text",
        ["", "1", "{0f8fad5b-d9cb-469f-a165-70867728950e}", "0f8fad5bd9cb469fa16570867728950e", "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
         "0f8fad5b-d9cb-469f-a165-70867728950e\n"],
    )  # fmt: skip
    def test_nothing_else_is(self, text: str) -> None:
        with pytest.raises(UnknownOrder):
            order_id(text)
