"""The exceptions of the consent room.

ConsentError
├── ProofMismatch      two proofs that do not belong to the same order, or in the wrong order of time
├── OrderRefused       an order that may not be placed at all; carries every fault with its path
└── BrokenChain        a stored event whose hash does not follow from its predecessor
"""

from __future__ import annotations

from dataclasses import dataclass


class ConsentError(Exception):
    """Base of everything this room raises."""


class ProofMismatch(ConsentError):
    """A spoken consent and a code reply that cannot be joined into one confirmation."""


class BrokenChain(ConsentError):
    """The stored events of a record do not form a hash chain."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an order. *path* is dotted, in the field's own names (``offer.starts_on``)."""

    path: str
    message: str


class OrderRefused(ConsentError):
    """The order is refused at the door; nothing of it was stored."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in faults))
        self.faults = faults
