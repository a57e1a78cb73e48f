"""The four SIP transactions (RFC 3261 §17, corrected by RFC 6026) as pure state machines. Over a *reliable* transport nothing is
retransmitted, and nothing is waited for that could only be a retransmission (timers D, I, J and K are zero).

Events go in (``start``, ``receive``, ``respond``, ``fire``), actions come out; no socket, no clock. The endpoint carries the
actions out: it sends, sets timers by name, and hands messages to the user agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.telephony.message import make_ack

T1 = 0.5
T2 = 4.0
T4 = 5.0
GIVE_UP = 64 * T1
TIMER_D = 32.0

Key = tuple[str, str, str]
"""What a message is matched by (RFC 3261 §17.1.3, §17.2.3): branch, sent-by of the top Via, method."""


@dataclass(frozen=True, slots=True)
class Send:
    message: SipMessage


@dataclass(frozen=True, slots=True)
class Arm:
    """Call ``fire(timer)`` after *seconds*; an armed timer of that name is replaced."""

    timer: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Disarm:
    timer: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """A response for the user agent."""

    response: SipResponse


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nothing came: the user agent treats it as 408 (client) or as a lost ACK (server)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The transaction may be forgotten."""


Action = Send | Arm | Disarm | Deliver | TimedOut | Ended


class Transaction(Protocol):
    def fire(self, timer: str) -> Iterator[Action]: ...


class ClientTransaction(Transaction, Protocol):
    request: SipRequest

    def start(self) -> Iterator[Action]: ...
    def receive(self, response: SipResponse) -> Iterator[Action]: ...


class ServerTransaction(Transaction, Protocol):
    request: SipRequest

    def receive(self, request: SipRequest) -> Iterator[Action]: ...
    def respond(self, response: SipResponse) -> Iterator[Action]: ...


class InviteClient:
    """RFC 3261 §17.1.1 with the Accepted state of RFC 6026 §8.4."""

    def __init__(self, request: SipRequest, *, reliable: bool = False) -> None:
        self.request = request
        self._reliable = reliable
        self.state: Literal["calling", "proceeding", "accepted", "completed", "terminated"] = "calling"
        self._interval = T1

    def start(self) -> Iterator[Action]:
        if not self._reliable:
            yield Arm("A", self._interval)
        yield Arm("B", GIVE_UP)
        yield Send(self.request)

    def receive(self, response: SipResponse) -> Iterator[Action]:
        status = response.status_code
        if self.state in ("calling", "proceeding"):
            yield Disarm("A")
            yield Disarm("B")
            if status < 200:
                self.state = "proceeding"
            elif status < 300:
                self.state = "accepted"
                yield Arm("M", GIVE_UP)
            else:
                self.state = "completed"
                yield Send(make_ack(self.request, response))
                yield Arm("D", 0.0 if self._reliable else TIMER_D)
            yield Deliver(response)
        elif self.state == "accepted" and 200 <= status < 300:
            yield Deliver(response)
        elif self.state == "completed" and status >= 300:
            yield Send(make_ack(self.request, response))

    def give_up(self) -> Iterator[Action]:
        """The INVITE was cancelled: forget it when no final response comes within 64*T1 (RFC 3261 §9.1)."""
        if self.state in ("calling", "proceeding"):
            yield Arm("cancelled", GIVE_UP)

    def fire(self, timer: str) -> Iterator[Action]:
        if timer == "A" and self.state == "calling":
            self._interval *= 2
            yield Send(self.request)
            yield Arm("A", self._interval)
        elif (timer == "B" and self.state == "calling") or (
            timer == "cancelled" and self.state in ("calling", "proceeding")
        ):
            self.state = "terminated"
            yield TimedOut()
            yield Ended()
        elif timer in ("D", "M"):
            self.state = "terminated"
            yield Ended()


class NonInviteClient:
    """RFC 3261 §17.1.2."""

    def __init__(self, request: SipRequest, *, reliable: bool = False) -> None:
        self.request = request
        self._reliable = reliable
        self.state: Literal["trying", "proceeding", "completed", "terminated"] = "trying"
        self._interval = T1

    def start(self) -> Iterator[Action]:
        if not self._reliable:
            yield Arm("E", self._interval)
        yield Arm("F", GIVE_UP)
        yield Send(self.request)

    def receive(self, response: SipResponse) -> Iterator[Action]:
        if self.state not in ("trying", "proceeding"):
            return
        if response.status_code < 200:
            self.state = "proceeding"
        else:
            self.state = "completed"
            yield Disarm("E")
            yield Disarm("F")
            yield Arm("K", 0.0 if self._reliable else T4)
        yield Deliver(response)

    def fire(self, timer: str) -> Iterator[Action]:
        if timer == "E" and self.state in ("trying", "proceeding"):
            self._interval = T2 if self.state == "proceeding" else min(2 * self._interval, T2)
            yield Send(self.request)
            yield Arm("E", self._interval)
        elif timer == "F" and self.state in ("trying", "proceeding"):
            self.state = "terminated"
            yield TimedOut()
            yield Ended()
        elif timer == "K":
            self.state = "terminated"
            yield Ended()


class InviteServer:
    """RFC 3261 §17.2.1 with the Accepted state of RFC 6026 §8.5. The user agent retransmits its 2xx itself."""

    def __init__(self, request: SipRequest, *, reliable: bool = False) -> None:
        self.request = request
        self._reliable = reliable
        self.state: Literal["proceeding", "accepted", "completed", "confirmed", "terminated"] = "proceeding"
        self._last: SipResponse | None = None
        self._interval = T1

    def receive(self, request: SipRequest) -> Iterator[Action]:
        if request.method == "ACK":
            if self.state == "completed":
                self.state = "confirmed"
                yield Disarm("G")
                yield Disarm("H")
                yield Arm("I", 0.0 if self._reliable else T4)
        elif self.state in ("proceeding", "completed") and self._last is not None:
            yield Send(self._last)

    def respond(self, response: SipResponse) -> Iterator[Action]:
        if self.state != "proceeding":
            return
        self._last = response
        if 200 <= response.status_code < 300:
            self.state = "accepted"
            yield Arm("L", GIVE_UP)
        elif response.status_code >= 300:
            self.state = "completed"
            if not self._reliable:
                yield Arm("G", self._interval)
            yield Arm("H", GIVE_UP)
        yield Send(response)

    def fire(self, timer: str) -> Iterator[Action]:
        if timer == "G" and self.state == "completed" and self._last is not None:
            self._interval = min(2 * self._interval, T2)
            yield Send(self._last)
            yield Arm("G", self._interval)
        elif timer == "H" and self.state == "completed":
            self.state = "terminated"
            yield TimedOut()
            yield Ended()
        elif timer in ("I", "L"):
            self.state = "terminated"
            yield Ended()


class NonInviteServer:
    """RFC 3261 §17.2.2."""

    def __init__(self, request: SipRequest, *, reliable: bool = False) -> None:
        self.request = request
        self._reliable = reliable
        self.state: Literal["trying", "proceeding", "completed", "terminated"] = "trying"
        self._last: SipResponse | None = None

    def receive(self, request: SipRequest) -> Iterator[Action]:  # noqa: ARG002 - any retransmission is answered alike
        if self._last is not None:
            yield Send(self._last)

    def respond(self, response: SipResponse) -> Iterator[Action]:
        if self.state in ("completed", "terminated"):
            return
        self._last = response
        if response.status_code < 200:
            self.state = "proceeding"
        else:
            self.state = "completed"
            yield Arm("J", 0.0 if self._reliable else GIVE_UP)
        yield Send(response)

    def fire(self, timer: str) -> Iterator[Action]:
        if timer == "J":
            self.state = "terminated"
            yield Ended()
