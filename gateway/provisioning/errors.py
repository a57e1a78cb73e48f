"""The exceptions of the provisioning room.

ProvisioningError
├── BadSecret       a webhook secret or signing key that is malformed or too short
└── TargetRefused   an address that webhooks may not be posted to
"""

from __future__ import annotations


class ProvisioningError(Exception):
    """Base of everything this room raises."""


class BadSecret(ProvisioningError):
    """The secret cannot sign."""


class TargetRefused(ProvisioningError):
    """Nothing is posted there: it is no web address, or one of our own networks (SSRF)."""
