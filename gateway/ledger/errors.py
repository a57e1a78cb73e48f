"""The exceptions of the ledger room.

LedgerError
├── Unsealable      sealed octets that this key does not open: another key, or somebody changed them
├── BadNote         a signed note that cannot be read, or whose signature is not that of the key it is checked by
├── BadProof        a Merkle proof that does not lead to the root it is meant for
└── BadTimestamp    an answer of a time-stamping authority that dates something else, or cannot be read
"""

from __future__ import annotations


class LedgerError(Exception):
    """Base of everything this room raises."""


class Unsealable(LedgerError):
    """The key does not open it."""


class BadNote(LedgerError):
    """The note proves nothing."""


class BadProof(LedgerError):
    """The proof proves nothing."""


class BadTimestamp(LedgerError):
    """The time stamp proves nothing."""
