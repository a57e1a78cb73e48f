"""What the ledger seals with: published vectors of its algorithms, keys that are apart, and nothing opened that was not sealed so."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import (
    KEY_OCTETS,
    NONCE_OCTETS,
    TAG_OCTETS,
    Keyring,
    derive,
    events_key,
    new_key,
    recording_key,
    seal,
    unseal,
)

KEY, OTHER = b"k" * KEY_OCTETS, b"o" * KEY_OCTETS


class TestVectors:
    def test_hkdf_sha256(self) -> None:
        """RFC 5869, A.3: no salt, no info; its first 32 octets."""
        assert "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d" == derive(b"\x0b" * 22, b"").hex()

    @pytest.mark.parametrize(
        ("plain", "sealed"),
        [
            ("", "530f8afbc74536b9a963b4f1c4cb738b"),
            ("00" * 16, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
        ],
    )
    def test_aes_256_gcm(self, plain: str, sealed: str) -> None:
        """The GCM specification, test cases 13 and 14: key and nonce are zero."""
        assert plain == unseal(bytes(32), bytes(NONCE_OCTETS) + bytes.fromhex(sealed), b"").hex()


class TestSealing:
    @given(st.binary(max_size=300), st.binary(max_size=50))
    def test_what_was_sealed_is_opened_by_the_same_key_in_the_same_place(self, plain: bytes, place: bytes) -> None:
        sealed = seal(KEY, plain, place)
        assert NONCE_OCTETS + len(plain) + TAG_OCTETS == len(sealed)
        assert plain == unseal(KEY, sealed, place)
        for key, where in ((OTHER, place), (KEY, place + b"x")):
            with pytest.raises(Unsealable):
                unseal(key, sealed, where)

    def test_not_one_octet_of_it_may_differ(self) -> None:
        sealed = seal(KEY, b"she said yes", b"place")
        for at in range(len(sealed)):
            for bit in (1, 0x80):
                with pytest.raises(Unsealable, match="the octets were changed"):
                    unseal(KEY, sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :], b"place")

    @pytest.mark.parametrize("octets", range(NONCE_OCTETS + TAG_OCTETS))
    def test_less_than_a_nonce_and_a_tag_is_nothing_sealed(self, octets: int) -> None:
        with pytest.raises(Unsealable, match=f"{octets} octets are too few"):
            unseal(KEY, bytes(octets), b"")

    def test_a_cut_or_longer_one_is_not_opened(self) -> None:
        sealed = seal(KEY, b"she said yes", b"")
        for other in (sealed[:-1], sealed[1:], sealed + b"\0"):
            with pytest.raises(Unsealable):
                unseal(KEY, other, b"")

    def test_the_same_is_never_sealed_the_same_way_twice(self) -> None:
        """A nonce that comes twice under one key gives everything away."""
        assert 1000 == len({seal(KEY, b"yes", b"")[:NONCE_OCTETS] for _ in range(1000)})


class TestTheKeyring:
    def test_a_record_key_is_opened_only_by_the_secret_and_for_its_order(self) -> None:
        ring, key = Keyring(b"s" * 32), new_key()
        wrapped = ring.wrap(key, "order-1")
        assert key == Keyring(b"s" * 32).unwrap(wrapped, "order-1")
        assert key not in wrapped
        for other, order_id in ((Keyring(b"t" * 32), "order-1"), (ring, "order-2")):
            with pytest.raises(Unsealable):
                other.unwrap(wrapped, order_id)

    def test_the_signer_is_that_of_the_secret_alone(self) -> None:
        keys = [Keyring(secret).signer.public_key().public_bytes_raw() for secret in (b"s" * 32, b"s" * 32, b"t" * 32)]
        assert [True, False] == [one == next_one for one, next_one in pairwise(keys)]
        made = Ed25519PrivateKey.from_private_bytes(derive(b"s" * 32, b"consent-gateway ledger signer"))
        assert keys[0] == made.public_key().public_bytes_raw()

    def test_every_purpose_has_a_key_of_its_own(self) -> None:
        """Giving away what opens the events gives away neither the recordings nor the record's own key."""
        keys = {
            KEY, events_key(KEY), recording_key(KEY, "call-1"), recording_key(KEY, "call-2"), events_key(OTHER),
            derive(KEY, b"consent-gateway ledger signer"), derive(KEY, b"consent-gateway record keys"),
        }  # fmt: skip
        assert 7 == len(keys)
        assert {KEY_OCTETS} == {len(key) for key in keys}

    def test_new_keys_are_new(self) -> None:
        assert 100 == len({new_key() for _ in range(100)})
        assert KEY_OCTETS == len(new_key())
