"""The exceptions of the store, beside those of the embedded server (see ``postgres.py``).

StoreError
├── DatabaseUnreachable   no connection; the message names the address and the mend
├── UnknownOrder          no such order
├── UnknownDelivery       no such webhook
├── ErasedRecord          its person was erased: the key is destroyed
├── NotErasable           a record that must be kept for now
├── NameTaken             another process of that name runs on the database
└── WrongSecret           the ledger's secret is not the one that its records are sealed with
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything this room raises."""


class DatabaseUnreachable(StoreError):
    """PostgreSQL cannot be reached or refuses us."""


class UnknownOrder(StoreError):
    """There is no order of that number."""


class UnknownDelivery(StoreError):
    """There is no webhook of that id."""


class ErasedRecord(StoreError):
    """Nobody can read this record any more."""


class NotErasable(StoreError):
    """Something forbids to forget this person now."""


class WrongSecret(StoreError):
    """No record here can be read with this secret, and none should be sealed with it."""


class NameTaken(StoreError):
    """Two gateways of one name would take each other's calls for lost."""
