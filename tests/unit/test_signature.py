"""Standard Webhooks signatures, judged by the reference implementation (v1) and by plain Ed25519 (v1a)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.provisioning.errors import BadSecret
from gateway.provisioning.signature import (
    Signer,
    headers,
    read_secret,
    read_signing_key,
    sign,
    verify,
    write_signing_key,
)

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
KEY, OLD_KEY = read_secret(SECRET), read_secret(OLD_SECRET)
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BODY = b'{"type": "consent.confirmed"}'


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def signatures(given: dict[str, str]) -> list[str]:
    return given["webhook-signature"].split(" ")


class TestV1:
    @given(st.binary(min_size=24, max_size=64), st.text(alphabet="abcdef0123456789-", min_size=1), st.text())
    def test_the_reference_implementation_makes_the_same(self, key: bytes, message_id: str, body: str) -> None:
        at = datetime.now(UTC)
        expected = Webhook(base64.b64encode(key).decode()).sign(message_id, at, body)
        assert expected == sign(key, message_id, int(at.timestamp()), body.encode())

    def test_the_example_of_the_specification(self) -> None:
        """The test vector that the libraries of Standard Webhooks share."""
        key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        made = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == made

    @pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
    def test_every_signed_part_counts(self, changed: str) -> None:
        made = headers(KEY, "m", 1000, BODY)
        assert verify(KEY, made, BODY, 1000.0)
        if changed in made:
            made[changed] += "1"
        assert not verify(KEY, made, BODY + b" " if changed == "body" else BODY, 1000.0)

    @pytest.mark.parametrize("apart_s", [-300, 300])
    def test_five_minutes_are_let_pass(self, apart_s: int) -> None:
        assert verify(KEY, headers(KEY, "m", 1000, BODY), BODY, 1000.0 + apart_s)

    @pytest.mark.parametrize("apart_s", [-301, 301])
    def test_more_than_five_minutes_are_not(self, apart_s: int) -> None:
        assert not verify(KEY, headers(KEY, "m", 1000, BODY), BODY, 1000.0 + apart_s)


class TestRotation:
    def test_while_a_secret_is_changed_both_are_signed_with_in_one_header(self) -> None:
        made = Signer(KEY, OLD_KEY).headers("m", now(), BODY)
        assert 2 == len(signatures(made))
        for secret in (SECRET, OLD_SECRET):
            assert {"type": "consent.confirmed"} == Webhook(secret).verify(BODY, made)

    def test_after_it_the_old_secret_verifies_nothing(self) -> None:
        made = Signer(KEY).headers("m", now(), BODY)
        assert 1 == len(signatures(made))
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD_SECRET).verify(BODY, made)


class TestV1a:
    def test_the_signature_is_one_of_ed25519_over_the_same_octets(self) -> None:
        made = Signer(KEY, OLD_KEY, SIGNING_KEY).headers("m", 1000, BODY)
        scheme, _, signature = signatures(made)[2].partition(",")
        _, public = write_signing_key(SIGNING_KEY)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_"), validate=True))
        assert "v1a" == scheme
        key.verify(base64.b64decode(signature, validate=True), b"m.1000." + BODY)
        with pytest.raises(InvalidSignature):
            key.verify(base64.b64decode(signature), b"m.1001." + BODY)

    def test_libraries_that_know_only_v1_pass_it_over(self) -> None:
        made = Signer(KEY, None, SIGNING_KEY).headers("m", now(), BODY)
        assert ["v1", "v1a"] == [one.partition(",")[0] for one in signatures(made)]
        assert {"type": "consent.confirmed"} == Webhook(SECRET).verify(BODY, made)

    def test_the_example_of_rfc_8032(self) -> None:
        """§7.1, test 1: the seed, and the public key that it makes."""
        seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        for octets in (seed, seed + public):
            key = read_signing_key("whsk_" + base64.b64encode(octets).decode())
            assert (seed, public) == (key.private_bytes_raw(), key.public_key().public_bytes_raw())

    def test_a_key_is_read_as_it_was_written(self) -> None:
        private, public = write_signing_key(SIGNING_KEY)
        assert private.startswith("whsk_")
        assert public.startswith("whpk_")
        assert SIGNING_KEY.private_bytes_raw() == read_signing_key(private).private_bytes_raw()

    @pytest.mark.parametrize(
        "text",
        ["", "whsk_", "whsk_????", "whsk_비밀", "whsk_" + base64.b64encode(b"x" * 31).decode(),
         "whsk_" + base64.b64encode(b"x" * 33).decode(), base64.b64encode(b"x" * 32).decode(), SECRET,
         write_signing_key(SIGNING_KEY)[1]],
    )  # fmt: skip
    def test_a_bad_key_is_told_its_mend(self, text: str) -> None:
        with pytest.raises(BadSecret, match="consent-gateway secret --ed25519"):
            read_signing_key(text)

    def test_two_halves_of_two_keys_are_no_key(self) -> None:
        octets = SIGNING_KEY.private_bytes_raw() + bytes(32)
        with pytest.raises(BadSecret, match="public half"):
            read_signing_key("whsk_" + base64.b64encode(octets).decode())


class TestSecrets:
    def test_a_secret_is_read_with_and_without_its_prefix(self) -> None:
        assert read_secret(SECRET) == read_secret(SECRET.removeprefix("whsec_")) == KEY

    @pytest.mark.parametrize(
        "text",
        ["", "whsec_", "whsec_????", "whsec_비밀", "whsec_c2hvcnQ=", "whsec_" + "a" * 31,
         "whsec_" + base64.b64encode(b"x" * 65).decode()],
    )  # fmt: skip
    def test_a_bad_secret_is_told_its_mend(self, text: str) -> None:
        with pytest.raises(BadSecret, match="consent-gateway secret"):
            read_secret(text)

    def test_any_of_several_signatures_may_be_right(self) -> None:
        good = sign(KEY, "m", 1000, b"body")
        given = {"webhook-id": "m", "webhook-timestamp": "1000", "webhook-signature": f"v1,AAAA v1a,BBBB {good}"}
        assert verify(KEY, given, b"body", 1000.0)

    def test_a_signer_does_not_tell_its_secrets(self) -> None:
        assert KEY.decode() not in repr(Signer(KEY, OLD_KEY))
        assert OLD_KEY.decode() not in repr(Signer(KEY, OLD_KEY))
