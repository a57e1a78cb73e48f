"""The exceptions of the telephony room.

TelephonyError
├── BadMessage        octets that are no SIP message, no SDP or no RTP packet; the message says what is wrong
├── NoCommonCodec     an offer without a codec that we speak (answered 488)
├── CallFailed        an outgoing call that was not answered; carries the SIP status
├── CallOver          the call ended while something was wanted of it
├── BadRecording      a recording that does not open: changed, torn, of another key, or none at all
└── TransportFailed   the socket could not be bound
"""

from __future__ import annotations


class TelephonyError(Exception):
    """Base of everything this room raises."""


class BadMessage(TelephonyError):
    """Octets from the network that do not parse. *status* and *phrase* answer the request that they were meant to be."""

    def __init__(self, message: str, status: int = 400, phrase: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.phrase = phrase


class NoCommonCodec(TelephonyError):
    """Nothing in the offer can be answered."""


class CallFailed(TelephonyError):
    """No 2xx came to our INVITE. *status* is 408 when nothing came at all; *rang* says whether a phone rang before, and
    *retry_after_s* how long the far end wants to be left alone.
    """

    def __init__(self, status: int, reason: str, *, rang: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.rang = rang
        self.retry_after_s = retry_after_s


class CallOver(TelephonyError):
    """The call has ended."""


class BadRecording(TelephonyError):
    """A recording that cannot be read; the message names the first second that is not right."""


class TransportFailed(TelephonyError):
    """The address cannot be listened on."""
