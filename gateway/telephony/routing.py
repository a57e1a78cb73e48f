"""The bookkeeping of a line: in which order its peers are tried, which of them are down, and how many calls it may carry.

Pure: time and chance are passed in, nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from gateway.telephony.admission import Bucket

Transport = Literal["udp", "tcp", "tls"]

FAILOVER_STATUSES = frozenset({408, 500, 502, 503, 504})
"""Final responses to an initial INVITE after which the next peer is tried.

RFC 3263 §4.3 demands it for 503, for a transport that failed and for a transaction that timed out without any response;
RFC 3261 §8.1.3.1 has the latter two treated as 503 and 408. 500, 502 and 504 are a server's own failure or that of what
lies behind it (RFC 3261 §21.5), never the callee's will, so another way may work. 501, 505 and 513 speak of our request,
which is the same everywhere; 580 of the media; 4xx and 6xx of the callee.
"""

DOWN_STATUSES = frozenset({408, 503})
"""Those of them that say that the peer itself takes no calls (RFC 3261 §21.5.4); the others may concern one call only."""

FIRST_DOWN_S, LONGEST_DOWN_S = 2.0, 120.0
LONGEST_RETRY_AFTER_S = 900.0
"""A Retry-After beyond this is not believed: one wrong header must not cost a line its peer for days."""


def fails_over(status: int, *, rang: bool) -> bool:
    """Whether another peer is tried after the final *status* (408 and 503 of our own making included).

    Never once the callee *rang* (any response from 101 to 199): his phone would ring a second time for the same call.
    """
    return status in FAILOVER_STATUSES and not rang


@dataclass(frozen=True, slots=True)
class Peer:
    """A host that takes calls. The lowest *priority* is tried first; within it *weight* is the share (RFC 2782)."""

    host: str
    port: int = 5060
    transport: Transport = "udp"
    priority: int = 0
    weight: int = 1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.transport}"


@dataclass(slots=True)
class _Health:
    failures: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer as metrics and people see it. *down_s*: seconds until it is tried in its turn again, 0 when it is up;
    *failures*: in a row.
    """

    peer: Peer
    up: bool
    down_s: float
    failures: int


class Route:
    """The peers of one line and its limits; a limit of None is none. *now* gives monotonic seconds.

    A peer that failed is down for 2 s, and twice as long each time that it fails again, up to two minutes. When that is over
    it is tried in its turn; only an answer makes it as good as new.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        most_calls: int | None,
        calls_per_second: float | None,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        if not peers or len(set(peers)) != len(peers):
            raise ValueError("a line needs at least one peer, and none of them twice")
        self.peers = tuple(peers)
        self.calls = 0
        self._most_calls = most_calls
        self._per_second = calls_per_second
        self._now = now
        self._rng = rng
        self._health = {peer: _Health() for peer in peers}
        self._bucket = Bucket(calls_per_second, max(1.0, calls_per_second), now()) if calls_per_second else None

    def order(self) -> list[Peer]:
        """The peers as they are to be tried: by priority, weighted within it; those that are down last, the soonest first.

        They come last, not never: when all are down, one of them may know better.
        """
        now = self._now()
        alive = [peer for peer in self.peers if self._health[peer].until <= now]
        down = sorted((p for p in self.peers if self._health[p].until > now), key=lambda p: self._health[p].until)
        chosen: list[Peer] = []
        for priority in sorted({peer.priority for peer in alive}):
            chosen += _weighted([peer for peer in alive if peer.priority == priority], self._rng)
        return chosen + down

    def failed(self, peer: Peer) -> None:
        """A time-out, a broken transport, a 503 without Retry-After, an OPTIONS without answer.

        Calls that fail together while the peer is down already are one failure, not many.
        """
        health, now = self._health[peer], self._now()
        if health.until > now:
            return
        health.failures += 1
        health.until = now + min(FIRST_DOWN_S * 2.0 ** min(health.failures - 1, 16), LONGEST_DOWN_S)

    def down(self, peer: Peer, until: float) -> None:
        """The peer asked to be left alone *until* then (503 with Retry-After, RFC 3261 §21.5.4)."""
        health, now = self._health[peer], self._now()
        if health.until <= now:
            health.failures += 1
        health.until = max(health.until, min(until, now + LONGEST_RETRY_AFTER_S))

    def up(self, peer: Peer) -> None:
        """The peer answered: an OPTIONS whatever the status, or an INVITE with anything but a failure of its own."""
        self._health[peer] = _Health()

    def is_up(self, peer: Peer) -> bool:
        return self._health[peer].until <= self._now()

    def may_call(self) -> str | None:
        """None when the line may carry one more call, else why not. Nothing is taken: :meth:`began` does."""
        if self._most_calls is not None and self.calls >= self._most_calls:
            return f"{self.calls} calls are on the line, most_calls is {self._most_calls}"
        if self._bucket is not None and self._bucket.wait_s(self._now()) > 0:
            return f"the line begins no more than {self._per_second:g} calls a second (calls_per_second)"
        return None

    def began(self) -> None:
        """A call begins on the line: once a call, however many peers are tried for it."""
        self.calls += 1
        if self._bucket is not None:
            self._bucket.take(self._now())

    def ended(self) -> None:
        """A call of the line is over, or never came about."""
        assert self.calls > 0, "more calls ended than began"
        self.calls -= 1

    def states(self) -> list[PeerState]:
        """Every peer, in the order of the settings."""
        now = self._now()
        return [
            PeerState(peer, health.until <= now, max(0.0, health.until - now), health.failures)
            for peer, health in self._health.items()
        ]


def _weighted(peers: list[Peer], rng: Random) -> list[Peer]:
    """*peers* of one priority in the order of RFC 2782: weight 0 first, then by the running sum of weights."""
    left = sorted(peers, key=lambda peer: peer.weight > 0)
    chosen: list[Peer] = []
    while left:
        mark = rng.randint(0, sum(peer.weight for peer in left))
        running = 0
        for peer in left:
            running += peer.weight
            if running >= mark:
                chosen.append(peer)
                left.remove(peer)
                break
    return chosen
