"""Session timers (RFC 4028): how long a call lives without a sign of life, and which side gives it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aiosipua.message import SipMessage, SipRequest, SipResponse

MIN_SE = 90
"""The shortest interval in seconds that is granted (RFC 4028 §4)."""

Refresher = Literal["us", "them"]
_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class SessionTimer:
    """The session lasts *expires_s* after each refresh; *refresher* sends them."""

    expires_s: int
    refresher: Refresher

    @property
    def due_s(self) -> float:
        """Seconds until we refresh, or until we give the far end up (RFC 4028 §10)."""
        if self.refresher == "us":
            return self.expires_s / 2
        return self.expires_s - min(32.0, self.expires_s / 3)


class TooBrief(Exception):
    """They want a shorter interval than we grant: 422 with Min-SE."""


def as_server(request: SipRequest, wanted_s: int, *, refresher: Refresher | None = None) -> SessionTimer | None:
    """The timer that the 2xx to *request* announces: theirs where they ask for one, else *wanted_s*, refreshed by us, when
    it is not 0. *refresher* keeps the roles of a session that is refreshed. Raises TooBrief.
    """
    asked, who = session_expires(request)
    if asked is None:
        return SessionTimer(max(wanted_s, _min_se(request)), "us") if wanted_s else None
    if asked < MIN_SE:
        raise TooBrief
    timed = "timer" in supported(request)
    if not timed:
        return SessionTimer(asked, "us")
    chosen: Refresher = {"uac": "them", "uas": "us"}.get(who, refresher or "them")  # type: ignore[assignment]
    return SessionTimer(asked, chosen)


def as_client(response: SipResponse, wanted_s: int) -> SessionTimer | None:
    """The timer that a 2xx to our request agrees on. A far end that knows of no timer leaves the refreshing to us."""
    expires, who = session_expires(response)
    if expires is None:
        return SessionTimer(wanted_s, "us") if wanted_s else None
    return SessionTimer(max(expires, MIN_SE), "them" if who == "uas" else "us")


def announce(message: SipMessage, timer: SessionTimer, *, requesting: bool) -> None:
    """Write *timer* into our request or our response to theirs."""
    by_client = (timer.refresher == "us") == requesting
    message.set_header("Session-Expires", f"{timer.expires_s};refresher={'uac' if by_client else 'uas'}")
    if not requesting and timer.refresher == "them":
        message.set_header("Require", "timer")


def session_expires(message: SipMessage) -> tuple[int | None, str]:
    """Seconds and refresher in Session-Expires (compact form x); None when there is none that can be read."""
    value = message.get_header("Session-Expires") or message.get_header("x") or ""
    seconds, *params = [part.strip() for part in value.split(";")]
    if not _SECONDS.fullmatch(seconds):
        return None, ""
    named = dict(p.lower().split("=", 1) for p in params if "=" in p)
    return int(seconds), named.get("refresher", "").strip()


def supported(message: SipMessage) -> set[str]:
    """The option tags that the sender of *message* understands."""
    values = (*message.get_header_values("Supported"), *message.get_header_values("k"))
    return {tag.strip().lower() for value in values for tag in value.split(",") if tag.strip()}


def required(message: SipMessage) -> set[str]:
    """The option tags that the sender of *message* demands."""
    return {
        tag.strip().lower() for value in message.get_header_values("Require") for tag in value.split(",") if tag.strip()
    }


def min_se(message: SipMessage) -> int:
    """What a 422 says is long enough."""
    return max(MIN_SE, _min_se(message))


def _min_se(message: SipMessage) -> int:
    value = (message.get_header("Min-SE") or "").split(";")[0].strip()
    return int(value) if _SECONDS.fullmatch(value) else MIN_SE
