"""What webhooks say, and to whom: the bodies of all events, the endpoints of every tenant and what they subscribe to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from gateway.consent.events import NoticeKind
from gateway.consent.proofs import Confirmation
from gateway.consent.record import Record
from gateway.provisioning.delivery import Endpoint
from gateway.provisioning.signature import Signer, read_secret, read_signing_key
from gateway.settings import Settings
from gateway.settings_sections import MAIN_ENDPOINT


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """Which endpoints of a tenant are told of which notices. ``consent.confirmed`` is no notice: it goes to the main endpoint of
    the tenant and nowhere else, so that nobody bills twice.
    """

    names: Mapping[tuple[str, NoticeKind], tuple[str, ...]] = field(default_factory=dict)

    def of(self, tenant: str, kind: NoticeKind) -> tuple[str, ...]:
        return self.names.get((tenant, kind), ())


def subscriptions_of(settings: Settings) -> Subscriptions:
    names: dict[tuple[str, NoticeKind], tuple[str, ...]] = {}
    for tenant in settings.tenants:
        for name, notices in (
            (MAIN_ENDPOINT, tenant.webhook_notices), *((one.name, one.events) for one in tenant.endpoints)
        ):  # fmt: skip
            for kind in dict.fromkeys(notices):
                names[tenant.id, kind] = (*names.get((tenant.id, kind), ()), name)
    return Subscriptions(names)


def endpoints_of(settings: Settings) -> dict[tuple[str, str], Endpoint]:
    """Every endpoint by tenant and name. Raises BadSecret."""
    found: dict[tuple[str, str], Endpoint] = {}
    for tenant in settings.tenants:
        signer = _signer(tenant.webhook_secret, tenant.webhook_previous_secret, tenant.webhook_signing_key)
        found[tenant.id, MAIN_ENDPOINT] = Endpoint(tenant.webhook_url, signer)
        for one in tenant.endpoints:
            signer = _signer(one.secret, one.previous_secret, one.signing_key)
            found[tenant.id, one.name] = Endpoint(one.url, signer)
    return found


def _signer(secret: SecretStr, previous: SecretStr, signing_key: SecretStr) -> Signer:
    old, key = previous.get_secret_value(), signing_key.get_secret_value()
    return Signer(
        read_secret(secret.get_secret_value()),
        read_secret(old) if old else None,
        read_signing_key(key) if key else None,
    )


def confirmed_body(record: Record, confirmation: Confirmation) -> dict[str, Any]:
    """``consent.confirmed``: the terms, and where both proofs stand in the record."""
    order = record.order
    return {
        "type": "consent.confirmed",
        "timestamp": confirmation.reply.at.isoformat(),
        "data": {
            "order_id": order.order_id,
            "order_hash": confirmation.order_hash,
            "subscriber": {"number": order.subscriber.number},
            "offer": order.offer.model_dump(mode="json"),
            "dialplan": order.dialplan.model_dump(mode="json"),
            "spoken_consent": {
                "call_id": confirmation.spoken.call_id,
                "event_id": confirmation.spoken.event_id,
                "at": confirmation.spoken.at.isoformat(),
            },
            "code_reply": {
                "challenge_id": confirmation.reply.challenge_id,
                "event_id": confirmation.reply.event_id,
                "at": confirmation.reply.at.isoformat(),
            },
        },
    }


def notice_body(record: Record, kind: NoticeKind, at: datetime) -> dict[str, Any]:
    """All other events: where the order stands since *at*, and why. They bill nobody."""
    order = record.order
    return {
        "type": kind,
        "timestamp": at.isoformat(),
        "data": {
            "order_id": order.order_id,
            "order_hash": record.order_hash,
            "state": record.state,
            "reason": record.reason,
            "reference": record.reference,
            "subscriber": {"number": order.subscriber.number},
            "offer": {"id": order.offer.id},
        },
    }
