"""Token buckets, and memory that stays bounded however many there are to remember."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
MOST_BUCKETS = 10_000


class Forgetful(OrderedDict[Key, Value], Generic[Key, Value]):
    """A mapping of at most *most* entries: the one that was set the longest ago goes first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)


@dataclass(slots=True)
class Bucket:
    """Holds up to *burst* tokens and gains *rate* a second. Times are seconds of one clock."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, now: float) -> float:
        """Take a token: 0, or how many seconds until there is one."""
        self.fill(now)
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate

    def give_back(self) -> None:
        self.tokens = min(self.burst, self.tokens + 1)

    def fill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller may still do: *limit* requests in *window_s* seconds, *remaining* of them now, and all again in *reset_s*."""

    limit: int
    remaining: int
    window_s: int
    reset_s: int
    wait_s: float


class Rates:
    """A bucket for each name. Names are forgotten, the longest unused first, beyond MOST_BUCKETS."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: Forgetful[str, Bucket] = Forgetful(MOST_BUCKETS)

    def take(self, name: str, *, rate: float | None = None, burst: float | None = None) -> float:
        """Take a token of *name*: 0, or how many seconds until there is one. *rate* and *burst* override the common ones."""
        return self._bucket(name, rate or self._rate, burst or self._burst).take(self._clock())

    def give_back(self, name: str) -> None:
        bucket = self._buckets.get(name)
        if bucket is not None:
            bucket.give_back()

    def standing(self, name: str, *, rate: float | None = None, burst: float | None = None) -> Standing:
        """Take a token and say how *name* stands after it."""
        bucket = self._bucket(name, rate or self._rate, burst or self._burst)
        wait_s = bucket.take(self._clock())
        return Standing(
            limit=max(1, int(bucket.burst)),
            remaining=int(bucket.tokens),
            window_s=max(1, math.ceil(bucket.burst / bucket.rate)),
            reset_s=math.ceil((bucket.burst - bucket.tokens) / bucket.rate),
            wait_s=wait_s,
        )

    def _bucket(self, name: str, rate: float, burst: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = Bucket(rate, burst, burst, self._clock())
        self._buckets[name] = bucket
        return bucket


def network_of(address: str) -> str:
    """Whose address it is: one IPv4 address, or the /64 of an IPv6 one, as somebody who has one has them all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
