"""The exceptions of the provisioning room.

ProvisioningError
└── BadSecret   a webhook secret that is malformed or too short
"""

from __future__ import annotations


class ProvisioningError(Exception):
    """Base of everything this room raises."""


class BadSecret(ProvisioningError):
    """The secret cannot sign."""
