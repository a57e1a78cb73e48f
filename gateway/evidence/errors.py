"""The exceptions of the evidence room.

EvidenceError
├── NotExported      a bundle could not be made, or would not have been valid
└── BadTypesetting   the agreement cannot be set: a font is missing or broken
"""

from __future__ import annotations


class EvidenceError(Exception):
    """Base of everything this room raises."""


class NotExported(EvidenceError):
    """There is no bundle."""


class BadTypesetting(EvidenceError):
    """There is no page."""
