"""The envelope of an event: canonical JSON (RFC 8785), its hash, and a payload that only its record's key opens in its place."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent import events as ev
from gateway.consent.canonical import canonical
from gateway.ledger.envelope import close, open_envelope
from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import seal, unseal

KEY, OTHER = b"k" * 32, b"o" * 32
ORDER = "9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
AT = datetime(2026, 3, 1, 9, 0, 0, 123456, tzinfo=UTC)
HELD = ev.HoldPlaced(by="법무팀", reason="a complaint: +821012345678")


def entry(event: ev.Event = HELD, *, seq: int = 2, order_id: str = ORDER, at: datetime = AT) -> ev.Entry:
    return ev.Entry(order_id=order_id, seq=seq, event_id=str(UUID(int=7)), at=at, event=event)


class TestCanonicalJson:
    def test_the_example_of_the_rfc(self) -> None:
        """RFC 8785 §3.2.2 to §3.2.4."""
        given = json.loads(
            r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
        )
        expected = (
            r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            r'"string":"€$\u000f\nA'
            "'"
            r'B\"\\\\\"/"}'
        )
        assert expected == canonical(given).decode()

    def test_keys_are_sorted_by_utf_16(self) -> None:
        """RFC 8785 §3.2.3: a key beyond the basic plane comes before U+FB33, though its code point is higher."""
        keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
        assert ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"] == list(
            json.loads(canonical(dict.fromkeys(keys, 0)))
        )


class TestClosing:
    def test_it_holds_its_place_and_a_sealed_payload_and_nothing_else(self) -> None:
        envelope, _ = close(entry(), "ab" * 32, KEY)
        said = json.loads(envelope)
        payload = said.pop("payload")
        assert {
            "at": "2026-03-01T09:00:00.123456Z", "event_id": str(UUID(int=7)), "order_id": ORDER, "previous": "ab" * 32,
            "seq": 2, "type": "hold.placed",
        } == said  # fmt: skip
        plain = unseal(KEY, base64.b64decode(payload, validate=True), f"{ORDER}/2/hold.placed".encode())
        assert canonical(HELD.model_dump(mode="json")) == plain

    def test_it_is_spelt_in_the_one_way_there_is(self) -> None:
        envelope, _ = close(entry(), "", KEY)
        assert canonical(json.loads(envelope)).decode() == envelope
        assert envelope.isascii()

    def test_its_hash_is_over_what_is_stored(self) -> None:
        envelope, closed = close(entry(), "", KEY)
        assert sha256(envelope.encode()).hexdigest() == closed.hash
        assert entry() == closed.model_copy(update={"hash": ""})

    def test_nothing_of_the_event_can_be_read_in_it(self) -> None:
        envelope, _ = close(entry(), "", KEY)
        for known in ("법무팀", "complaint", "+821012345678"):
            assert known not in envelope
            assert known.encode() not in base64.b64decode(json.loads(envelope)["payload"])


class TestOpening:
    @given(st.text(), st.text(), st.integers(1, 10**6), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware below
    def test_what_was_closed_comes_back(self, by: str, reason: str, seq: int, at: datetime) -> None:
        closed = entry(ev.HoldPlaced(by=by, reason=reason), seq=seq, at=at.replace(tzinfo=UTC))
        envelope, with_hash = close(closed, "cd" * 32, KEY)
        assert (with_hash, "cd" * 32) == open_envelope(envelope, KEY)

    def test_another_key_opens_nothing(self) -> None:
        envelope, _ = close(entry(), "", KEY)
        with pytest.raises(Unsealable):
            open_envelope(envelope, OTHER)

    @pytest.mark.parametrize("place", [{"seq": 3}, {"order_id": str(UUID(int=8))}, {"type": "hold.released"}])
    def test_a_payload_in_another_place_is_not_opened(self, place: dict[str, Any]) -> None:
        envelope, _ = close(entry(), "", KEY)
        with pytest.raises(Unsealable):
            open_envelope(canonical(json.loads(envelope) | place).decode(), KEY)

    def test_two_payloads_of_one_record_cannot_be_exchanged(self) -> None:
        first, second = (json.loads(close(entry(seq=seq), "", KEY)[0]) for seq in (2, 3))
        with pytest.raises(Unsealable):
            open_envelope(canonical(first | {"payload": second["payload"]}).decode(), KEY)

    def test_the_hash_is_that_of_the_text_as_it_was_given(self) -> None:
        """Whoever compares it finds any change, also one that JSON does not see."""
        envelope, closed = close(entry(), "", KEY)
        opened, _ = open_envelope(envelope.replace(",", ", ", 1), KEY)
        assert opened.hash != closed.hash

    def test_a_time_that_was_changed_changes_the_hash(self) -> None:
        envelope, closed = close(entry(), "", KEY)
        opened, _ = open_envelope(envelope.replace("09:00:00", "09:00:01"), KEY)
        assert (AT + timedelta(seconds=1), True) == (opened.at, opened.hash != closed.hash)

    @pytest.mark.parametrize(
        "envelope",
        [
            "", "null", "[]", "7", "{", '"text"', "{}", '{"order_id":1}',
            '{"order_id":"a","payload":"!!!!","previous":"","seq":1,"type":"t"}',
            '{"order_id":"a","payload":"QUJ","previous":"","seq":1,"type":"t"}',
            '{"order_id":"a","payload":"법무팀","previous":"","seq":1,"type":"t"}',
            '{"order_id":"a","payload":null,"previous":"","seq":1,"type":"t"}',
            '{"order_id":"a","payload":7,"previous":"","seq":1,"type":"t"}',
            '{"order_id":"a","payload":"QUJD","previous":"","seq":1,"type":"t"}',
            "[" * 100_000,
        ],
    )  # fmt: skip
    def test_what_is_no_envelope_cannot_be_opened(self, envelope: str) -> None:
        with pytest.raises(Unsealable):
            open_envelope(envelope, KEY)

    @pytest.mark.parametrize("missing", ["order_id", "payload", "previous", "seq", "type", "event_id", "at"])
    def test_an_envelope_without_one_of_its_members_cannot_be_opened(self, missing: str) -> None:
        said = json.loads(close(entry(), "", KEY)[0])
        del said[missing]
        with pytest.raises(Unsealable):
            open_envelope(canonical(said).decode(), KEY)

    @pytest.mark.parametrize(
        "plain", [b"{}", b'{"type":"hold.placed"}', b'{"type":"call.ended"}', b"not JSON", b"\xff", b"7"]
    )
    def test_a_payload_that_is_no_event_cannot_be_opened(self, plain: bytes) -> None:
        """Whoever has the key may have sealed nonsense."""
        said = json.loads(close(entry(), "", KEY)[0])
        sealed = seal(KEY, plain, f"{ORDER}/2/hold.placed".encode())
        with pytest.raises(Unsealable):
            open_envelope(canonical(said | {"payload": base64.b64encode(sealed).decode()}).decode(), KEY)

    def test_an_event_of_another_type_than_its_envelope_says_cannot_be_opened(self) -> None:
        said = json.loads(close(entry(), "", KEY)[0]) | {"type": "hold.released"}
        sealed = seal(KEY, canonical(HELD.model_dump(mode="json")), f"{ORDER}/2/hold.released".encode())
        with pytest.raises(Unsealable):
            open_envelope(canonical(said | {"payload": base64.b64encode(sealed).decode()}).decode(), KEY)
