"""SIP transactions over UDP: retransmission, duplicates, time-outs (RFC 3261 section 17)."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass, field

from gateway.softphone.message import Message

Address = tuple[str, int]
T1 = 0.5
"""Estimate of the round trip, seconds (section 17.1.1.1)."""
T2 = 4.0
"""Longest interval between retransmissions of a non-INVITE request or a final answer."""
LIFETIME = 64 * T1
"""Timers B, F, H and L: seconds after which a transaction is given up or forgotten."""


@dataclass
class ClientTransaction:
    """A request we sent. ``responses`` gets every response once, ``None`` at time-out."""

    request: Message
    address: Address
    responses: queue.Queue[Message | None] = field(default_factory=queue.Queue)
    interval: float = T1
    due: float = field(default_factory=lambda: time.monotonic() + T1)
    deadline: float = field(default_factory=lambda: time.monotonic() + LIFETIME)
    provisional: bool = False
    final: Message | None = None
    ack: tuple[bytes, Address] | None = None

    def retransmit(self, now: float) -> bool:
        """Whether the request must go out again now; plans the next time."""
        invite = self.request.method == "INVITE"
        if self.final is not None or (invite and self.provisional) or now < self.due:
            return False
        self.interval = self.interval * 2
        if not invite:
            self.interval = T2 if self.provisional else min(self.interval, T2)
        self.due = now + self.interval
        return True

    def accept(self, response: Message) -> bool:
        """Take a response; False when it is a repetition of the final one."""
        if self.final is not None:
            return False
        if response.code < 200:
            self.provisional = True
        else:
            self.final = response
            self.deadline = time.monotonic() + LIFETIME
        self.responses.put(response)
        return True

    def expired(self, now: float) -> bool:
        """Whether to forget it; puts ``None`` if no final answer came.

        An INVITE that rings has no time limit of its own (section 17.1.1.2).
        """
        if now < self.deadline:
            return False
        if self.final is None:
            if self.request.method == "INVITE" and self.provisional:
                return False
            self.responses.put(None)
        return True


@dataclass
class ServerTransaction:
    """A request we received, and our last answer to it."""

    request: Message
    created: float = field(default_factory=time.monotonic)
    response: tuple[bytes, Address] | None = None
    final: bool = False
    acked: bool = False
    interval: float = T1
    due: float = 0.0
    deadline: float = 0.0

    def answered(self, data: bytes, address: Address, final: bool) -> None:
        """Note the answer just sent."""
        now = time.monotonic()
        self.response, self.final = (data, address), final
        self.due, self.deadline = now + self.interval, now + LIFETIME

    @property
    def awaits_ack(self) -> bool:
        """A final answer to INVITE is repeated until its ACK comes (13.3.1.4, 17.2.1)."""
        return self.request.method == "INVITE" and self.final and not self.acked

    def retransmit(self, now: float) -> bool:
        """Whether the answer must go out again now; plans the next time."""
        if not self.awaits_ack or now < self.due:
            return False
        self.interval = min(self.interval * 2, T2)
        self.due = now + self.interval
        return True
