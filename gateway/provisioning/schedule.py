"""When a webhook that was not accepted is posted again: the schedule of Standard Webhooks, three days and some hours long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime

RETRY_DELAYS_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""After the first attempt and each one that follows it, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h."""

LONGEST_WAIT_S = 86_400.0
_LONGEST_NUMBER = 10


def next_delay_s(attempt: int, retry_after_s: float | None, jitter: float, random: Callable[[], float]) -> float | None:
    """Seconds from the failed *attempt* (from 1) to the next; None after the last.

    *jitter* makes it longer by up to that share, *random* (0 to 1) says by how much: what failed together is not to come
    back together. A Retry-After makes it longer too, up to a day, never shorter.
    """
    if attempt > len(RETRY_DELAYS_S):
        return None
    longer = 1 + jitter * random()
    delay = RETRY_DELAYS_S[attempt - 1] * longer
    return delay if retry_after_s is None else max(delay, min(retry_after_s * longer, LONGEST_WAIT_S))


def retry_after_s(text: str, now: datetime) -> float | None:
    """A Retry-After field (RFC 9110 §10.2.3), seconds or an HTTP date, as seconds from *now*; None when it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _LONGEST_NUMBER else LONGEST_WAIT_S
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, one beyond the calendar
        return None
