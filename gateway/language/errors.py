"""The exceptions of the language room.

LanguageError
└── BadPack   a file of prompts/<language>/ is missing, malformed, or names a slot that no order has
"""

from __future__ import annotations


class LanguageError(Exception):
    """Base of everything this room raises."""


class BadPack(LanguageError):
    """The language pack cannot be used; the message names the file and the fault."""
