"""The exceptions of the SMS room.

SmsError
├── SmsRejected    the channel refused this message; sending it again would not help
└── SmsUndelivered the channel did not answer, or asks to be tried again
"""

from __future__ import annotations


class SmsError(Exception):
    """Base of everything this room raises."""


class SmsRejected(SmsError):
    """Final."""


class SmsUndelivered(SmsError):
    """Worth another try."""
