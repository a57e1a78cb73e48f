"""What the user agent itself sends again until it is acknowledged: a 2xx to an INVITE, a reliable provisional response."""

from __future__ import annotations

from collections.abc import Callable

from gateway.telephony.endpoint import CallLater, Cancellable
from gateway.telephony.transaction import GIVE_UP, T1, T2


class Repeater:
    """Calls *again* after T1, 2*T1 and so on up to *longest* apart, until :meth:`stop`; *lost* once, 64*T1 after the start
    (RFC 3261 §13.3.1.4, RFC 3262 §3).
    """

    def __init__(
        self, call_later: CallLater, again: Callable[[], None], lost: Callable[[], None], longest: float = T2
    ) -> None:
        self._call_later = call_later
        self._again = again
        self._lost = lost
        self._longest = longest
        self._interval = T1
        self._waited = 0.0
        self._timer: Cancellable | None = call_later(T1, self._fire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._waited += self._interval
        if self._waited >= GIVE_UP:
            self._timer = None
            self._lost()
            return
        self._interval = min(2 * self._interval, self._longest, GIVE_UP - self._waited)
        self._timer = self._call_later(self._interval, self._fire)
        self._again()
