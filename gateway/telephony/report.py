"""What is known of a call's media, and of an attempt that came to none, when it is over: the last line of its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gateway.telephony.message import HostPort


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReport:
    """The media of an answered call. Times are ms since its media began; *received* counts audio packets that were used.

    Addresses are (host, port). *direction* is what the far end's last description says of itself (RFC 3264 §5.1).
    """

    codec: str
    direction: str = "sendrecv"
    srtp: bool = False
    local: HostPort
    """What our description told the far end to send to."""
    remote: HostPort
    """What its last description told us to send to."""
    latched: HostPort | None = None
    """Where its RTP really came from, and ours went, when that was not *remote*; None while nothing else was learnt."""

    sent_packets: int = 0
    sent_octets: int = 0
    unsent_packets: int = 0
    """Refused by our own socket."""
    received_packets: int = 0
    received_octets: int = 0
    lost: int = 0
    """Never came, by sequence numbers (RFC 3550 A.3)."""
    lost_fraction: float = 0.0
    """Of those expected, 0 to 1."""
    late: int = 0
    """Came when their time to be heard was over."""
    duplicates: int = 0
    reordered: int = 0
    malformed: int = 0
    foreign: int = 0
    """Dropped by the latch: from an address that is neither the signalled nor the learnt one."""
    concealed_ms: int = 0
    jitter_ms: float = 0.0
    """The last estimate (RFC 3550 A.8)."""
    jitter_max_ms: float = 0.0
    rtt_ms: float | None = None
    """From the far end's RTCP (RFC 3550 §6.4.1); None when it sent no report of us."""

    far_reports: int = 0
    """Report blocks on our stream that the far end sent."""
    far_lost_fraction: float | None = None
    """The fraction in the last of them, 0 to 1."""
    far_lost: int | None = None
    """Cumulative, of all that we sent."""
    far_jitter_ms: float | None = None

    keys: int = 0
    """DTMF keys heard; which they were is nobody's business (rule R14)."""
    first_packet_ms: int | None = None
    last_packet_ms: int | None = None
    longest_gap_ms: int = 0
    caller_speech_ms: int | None = None
    """Time in which the caller's channel was above a speech level; None where nobody measured it."""
    gateway_speech_ms: int | None = None
    """The same of our own channel."""

    ended_by: str = ""
    reason: str = ""
    duration_ms: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; :func:`read_report` gives it back."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """A call that was never answered. *status* is the SIP status it ended with, 408 when nothing came."""

    status: int
    reason: str = ""
    duration_ms: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_report(data: Mapping[str, Any]) -> MediaReport | AttemptReport:
    """The report in *data*, of this version or another: what is unknown is passed over, what is missing is the default.

    Raises ValueError for what is no report.
    """
    kind = AttemptReport if "status" in data else MediaReport
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {
        name: tuple(value) if name in ("local", "remote", "latched") and isinstance(value, list) else value
        for name, value in data.items()
        if name in known
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"no report of a call: {error}") from error
