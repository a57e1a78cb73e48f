"""Endpoints of tenants: from the settings to where is posted, what is told of at the door, and what webhooks say."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from gateway.checks import _webhooks
from gateway.provisioning.errors import BadSecret
from gateway.settings import ENVIRONMENT, Settings, SettingsError, load_settings
from gateway.webhooks import endpoints_of, subscriptions_of

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
SIGNING_KEY = "whsk_" + base64.b64encode(bytes(range(32))).decode()
TENANT = f"""
[[tenants]]
id = "billing"
api_key = "a-key-of-at-least-twenty-four-octets"
webhook_url = "https://billing.example/hook"
webhook_secret = "{SECRET}"
"""
CRM = f"""
[[tenants.endpoints]]
name = "crm"
url = "https://crm.example/hook"
secret = "{OLD_SECRET}"
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT)]:
        monkeypatch.delenv(name)


def load(folder: Path, text: str) -> Settings:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


class TestEndpoints:
    def test_every_endpoint_has_its_own_address_and_secret(self, tmp_path: Path) -> None:
        found = endpoints_of(load(tmp_path, TENANT + CRM))
        assert {("billing", "main"), ("billing", "crm")} == set(found)
        main, crm = found["billing", "main"], found["billing", "crm"]
        assert ("https://billing.example/hook", b"0123456789abcdef0123456789abcdef") == (main.url, main.signer.secret)
        assert ("https://crm.example/hook", b"fedcba9876543210fedcba9876543210") == (crm.url, crm.signer.secret)
        assert (None, None) == (main.signer.previous, main.signer.signing_key)

    def test_a_secret_that_is_being_changed_and_a_signing_key(self, tmp_path: Path) -> None:
        more = f'webhook_previous_secret = "{OLD_SECRET}"\nwebhook_signing_key = "{SIGNING_KEY}"\n'
        signer = endpoints_of(load(tmp_path, TENANT + more))["billing", "main"].signer
        assert b"fedcba9876543210fedcba9876543210" == signer.previous
        assert signer.signing_key is not None
        assert bytes(range(32)) == signer.signing_key.private_bytes_raw()

    def test_a_bad_secret_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadSecret):
            endpoints_of(load(tmp_path, TENANT.replace(SECRET, "whsec_short")))

    @pytest.mark.parametrize("name", ["main", "crm"])
    def test_names_are_unique_and_main_is_taken(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SettingsError, match="endpoints: two of the same name"):
            load(tmp_path, TENANT + CRM + CRM.replace('"crm"', f'"{name}"'))

    def test_a_confirmation_cannot_be_subscribed_to(self, tmp_path: Path) -> None:
        """It goes to the main endpoint and nowhere else: nobody bills twice."""
        for text in (
            TENANT + 'webhook_notices = ["consent.confirmed"]\n',
            TENANT + CRM + 'events = ["consent.confirmed"]\n',
        ):
            with pytest.raises(SettingsError, match=r"consent\.refused"):
                load(tmp_path, text)


class TestSubscriptions:
    def test_the_main_endpoint_is_told_to_stop_billing_unless_it_asks_otherwise(self, tmp_path: Path) -> None:
        assert ("main",) == subscriptions_of(load(tmp_path, TENANT)).of("billing", "consent.frozen")
        deaf = subscriptions_of(load(tmp_path, TENANT + "webhook_notices = []\n"))
        assert () == deaf.of("billing", "consent.frozen")

    def test_the_main_endpoint_hears_only_what_it_asks_for(self, tmp_path: Path) -> None:
        assert () == subscriptions_of(load(tmp_path, TENANT)).of("billing", "order.provisioned")
        asked = load(tmp_path, TENANT + 'webhook_notices = ["order.provisioned", "order.provisioned"]\n')
        assert ("main",) == subscriptions_of(asked).of("billing", "order.provisioned")
        assert () == subscriptions_of(asked).of("billing", "consent.refused")

    def test_another_hears_every_notice_unless_it_names_some(self, tmp_path: Path) -> None:
        every = subscriptions_of(load(tmp_path, TENANT + CRM))
        kinds = ("consent.refused", "consent.expired", "consent.withdrawn", "consent.frozen", "order.provisioned")
        assert [("crm",)] * 3 + [("main", "crm"), ("crm",)] == [every.of("billing", kind) for kind in kinds]
        some = subscriptions_of(load(tmp_path, TENANT + CRM + 'events = ["consent.frozen"]\n'))
        assert [(), (), (), ("main", "crm"), ()] == [some.of("billing", kind) for kind in kinds]

    def test_tenants_are_apart(self, tmp_path: Path) -> None:
        assert () == subscriptions_of(load(tmp_path, TENANT + CRM)).of("another", "consent.refused")


class TestAtTheDoor:
    def test_good_ones_are_passed(self, tmp_path: Path) -> None:
        assert [] == _webhooks(load(tmp_path, TENANT + CRM))

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (
                "tenants.billing.webhook_url: 10.1.2.3 is private; add its network to provisioning.allowed_networks",
                TENANT.replace("billing.example", "10.1.2.3"),
            ),
            (
                "tenants.billing.webhook_url: 'nowhere' is no web",
                TENANT.replace("https://billing.example/hook", "nowhere"),
            ),
            (
                "tenants.billing.endpoints.crm.url: 2130706433: an odd",
                TENANT + CRM.replace("crm.example", "2130706433"),
            ),
            ("tenants.billing.webhook_secret: the webhook secret has 5", TENANT.replace(SECRET, "whsec_c2hvcnQ=")),
            ("tenants.billing.endpoints.crm.secret: ", TENANT + CRM.replace(OLD_SECRET, "whsec_?")),
            ("tenants.billing.webhook_previous_secret: ", TENANT + 'webhook_previous_secret = "whsec_?"\n'),
            (
                "tenants.billing.webhook_signing_key: a signing key is whsk_",
                TENANT + 'webhook_signing_key = "whsec_?"\n',
            ),
        ],
    )
    def test_each_fault_is_named_by_its_path(self, tmp_path: Path, expected: str, text: str) -> None:
        (fault,) = _webhooks(load(tmp_path, text))
        assert fault.startswith(expected)

    def test_what_the_settings_allow_is_no_fault(self, tmp_path: Path) -> None:
        inside = TENANT.replace("billing.example", "10.1.2.3")
        assert [] == _webhooks(load(tmp_path, inside + '[provisioning]\nallowed_networks = ["10.1.0.0/16"]\n'))
