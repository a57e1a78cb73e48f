"""Who is let in, before anything costs much: token buckets per source, a cap and a rate of calls; and whom we may call.

Pure: time is passed in, nothing is sent. A datagram of a stranger is judged before it is parsed, a new INVITE before a call
is made of it. What is refused is answered a few times (503, RFC 3261 §21.5.4) and then left in silence: an answer to a
flood is a second flood, and to a forged source it is an attack on somebody else.
"""

from __future__ import annotations

import math
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.consent.order import mask

MOST_SOURCES = 10_000
"""Sources remembered at once; the one that was silent longest is forgotten, and would begin with a full bucket again."""

CALL_TOKENS = 4.0
"""A new call takes so many tokens of its source, besides the one of its datagram: it costs us far more than a packet."""

BUSY_RATE, BUSY_BURST = 0.2, 3.0
"""How often a source that is refused hears so, per second; the rest is silence."""

RESERVE = 0.25
"""The share of the calls per second that strangers leave to the configured peers."""

FULL_RETRY_S = 5
"""Retry-After when every call is in use. Short, for a trunk sends us nothing at all until it is over."""

Verdict = Literal["admit", "busy", "drop"]

_ROUNDING = 1e-6
"""Tokens that floating point may lose on the way."""

_MAPPED = b"\0" * 10 + b"\xff\xff"
_PREFIX = re.compile(r"\+[0-9]{0,15}")
_NUMBER = re.compile(r"\+[0-9]{1,15}")


class Bucket:
    """A token bucket: *rate* tokens a second flow in, at most *burst* stay. Full at the start. Times are seconds."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate < 0 or burst < 1:
            raise ValueError(
                f"a bucket of {rate} tokens/s and a burst of {burst}: a rate of 0 or more, a burst of 1 or more"
            )
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0, reserve: float = 0.0) -> bool:
        """Take *tokens* if they are there and *reserve* stays behind. Neither is ever more than the burst allows."""
        held = self._tokens + (now - self._at) * self._rate
        burst = self._burst
        held = min(held, burst)
        self._tokens, self._at = held, now
        tokens = min(tokens, burst)
        if held < tokens + min(reserve, burst - tokens) - _ROUNDING:
            return False
        self._tokens = held - tokens
        return True

    def wait_s(self, now: float) -> float:
        """Seconds until one token is there; infinite where none flows in."""
        lacking = 1 - min(self._tokens + (now - self._at) * self._rate, self._burst)
        if lacking <= _ROUNDING:
            return 0.0
        return lacking / self._rate if self._rate else math.inf


@dataclass(slots=True)
class Counts:
    """For metrics. *dropped*: datagrams not looked at and calls not answered; *busy*: 503; *admitted*: calls let in."""

    dropped: int = 0
    busy: int = 0
    admitted: int = 0


class _Source:
    __slots__ = ("answers", "packets")

    def __init__(self, packets: Bucket, answers: Bucket) -> None:
        self.packets = packets
        self.answers = answers


class Admission:
    """The door. *source_rate* and *source_burst* are datagrams (per second) of one source that is no configured peer,
    *call_rate* and *call_burst* new calls (per second) of all together, *most_calls* the calls at once.

    *now* gives monotonic seconds. A flood from more than 10,000 forged addresses is not stopped by the buckets per source,
    only by those of all together, of which a quarter is kept for the peers.
    """

    def __init__(
        self,
        source_rate: float,
        source_burst: float,
        call_rate: float,
        call_burst: float,
        most_calls: int,
        now: Callable[[], float],
    ) -> None:
        self.counts = Counts()
        self.retry_after_s = 1
        """What the last ``busy`` is to say in Retry-After, in seconds."""
        self._source_rate, self._source_burst = source_rate, source_burst
        self._call_burst = call_burst
        self._most_calls = most_calls
        self._now = now
        self._calls = Bucket(call_rate, call_burst, now())
        self._sources: OrderedDict[str | bytes, _Source] = OrderedDict()

    def __len__(self) -> int:
        """Sources remembered."""
        return len(self._sources)

    def packet(self, source_host: str) -> bool:
        """Whether a datagram of a source that is no configured peer is looked at; False is silence."""
        now = self._now()
        if self._source(source_host, now).packets.take(now):
            return True
        self.counts.dropped += 1
        return False

    def call(self, source_host: str, calls_now: int, *, peer: bool = False) -> Verdict:
        """What becomes of a new INVITE while *calls_now* calls go on. ``busy`` is a 503 with :attr:`retry_after_s`.

        A configured *peer* has no bucket of its own and is always answered, so that it can turn to another gateway.
        """
        now = self._now()
        source = None if peer else self._source(source_host, now)
        if calls_now >= self._most_calls:
            return self._refuse(source, now, FULL_RETRY_S)
        if source is not None and not source.packets.take(now, CALL_TOKENS):
            return self._refuse(source, now, source.packets.wait_s(now))
        if not self._calls.take(now, reserve=0.0 if peer else RESERVE * self._call_burst):
            return self._refuse(source, now, self._calls.wait_s(now))
        self.counts.admitted += 1
        return "admit"

    def _refuse(self, source: _Source | None, now: float, wait_s: float) -> Verdict:
        if source is not None and not source.answers.take(now):
            self.counts.dropped += 1
            return "drop"
        self.counts.busy += 1
        self.retry_after_s = max(1, math.ceil(min(wait_s, FULL_RETRY_S)))
        return "busy"

    def _source(self, host: str, now: float) -> _Source:
        key = _network(host) if ":" in host else host
        source = self._sources.get(key)
        if source is not None:
            self._sources.move_to_end(key)
            return source
        if len(self._sources) >= MOST_SOURCES:
            self._sources.popitem(last=False)
        source = self._sources[key] = _Source(
            Bucket(self._source_rate, self._source_burst, now), Bucket(BUSY_RATE, BUSY_BURST, now)
        )
        return source


def _network(host: str) -> str | bytes:
    """The /64 of an IPv6 address, which is the least that one site gets; IPv4 within IPv6 is that IPv4 address."""
    try:
        octets = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    return socket.inet_ntoa(octets[12:]) if octets.startswith(_MAPPED) else octets[:8]


class Destinations:
    """Where calls may go (toll fraud): the longest prefix that a number begins with decides, among *prefixes* and *denied*.

    Prefixes are E.164 with their plus, such as ``+82``; ``+`` alone is every number. No list allows nothing. Raises
    ValueError for what is no prefix, or both allowed and denied.
    """

    def __init__(self, prefixes: Iterable[str], denied: Iterable[str] = ()) -> None:
        self._rules: dict[str, bool] = {}
        for prefix, allowed in (*((p, True) for p in prefixes), *((p, False) for p in denied)):
            if not _PREFIX.fullmatch(prefix):
                raise ValueError(f"sip.destinations: {prefix!r} is no prefix of E.164 numbers, such as +82")
            if self._rules.setdefault(prefix, allowed) != allowed:
                raise ValueError(f"sip.destinations: {prefix!r} is both allowed and denied; remove one")

    def allows(self, number_e164: str) -> bool:
        """Whether *number_e164* (with its plus, digits only) may be called."""
        if not _NUMBER.fullmatch(number_e164):
            return False
        for end in range(len(number_e164), 0, -1):
            allowed = self._rules.get(number_e164[:end])
            if allowed is not None:
                return allowed
        return False

    def refusal(self, number_e164: str) -> str:
        """Why *number_e164* is not called, for people; the number is masked (rule R14)."""
        return f"{mask(number_e164)} is not called: sip.destinations allows no such number"
