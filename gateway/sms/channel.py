"""The seam to whatever carries a short message."""

from __future__ import annotations

from typing import Protocol


class SmsChannel(Protocol):
    """A way to a subscriber's handset."""

    name: str

    async def send(self, number: str, text: str, reference: str) -> str:
        """Send *text* to *number* (E.164); *reference* is the same on every retry. Returns the channel's message id.

        Raises SmsRejected or SmsUndelivered.
        """
        ...
