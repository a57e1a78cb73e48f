"""What a user agent server looks at before it does anything for a request (RFC 3261 §8.2): method, extensions, content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aiosipua.message import SipRequest

from gateway.telephony.message import ALLOW, SUPPORTED

METHODS = frozenset(
    "INVITE ACK BYE CANCEL OPTIONS REGISTER INFO PRACK UPDATE SUBSCRIBE NOTIFY REFER MESSAGE PUBLISH".split()
)
"""Registered methods: one that is not ours to answer gets a 405, any other a 501 (RFC 3261 §21.4.6, §21.5.2)."""

SDP = "application/sdp"
CONTENT = {"INVITE": SDP, "UPDATE": SDP, "PRACK": SDP, "MESSAGE": "text/plain"}
"""The one type of body that is read in each method; those of others are read by whoever knows them, or not at all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A final response, and the headers that say what would be right."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


def screen(request: SipRequest, allow: str = ALLOW, supported: str = SUPPORTED) -> Refusal | None:
    """Why *request* is refused whatever it is about; None when nothing speaks against it. ACK and CANCEL are never refused:
    the one has no answer, and the other needs the same mercy as what it cancels (RFC 3261 §8.2.2.3).
    """
    if request.method in ("ACK", "CANCEL"):
        return None
    if request.method not in _values([allow]):
        return Refusal(405 if request.method in METHODS else 501, {"Allow": allow})
    known = {tag.lower() for tag in _values([supported])}
    unknown = [tag for tag in _values(request.get_header_values("Require")) if tag.lower() not in known]
    if unknown:
        return Refusal(420, {"Unsupported": ", ".join(unknown)})
    return _screen_content(request)


def _screen_content(request: SipRequest) -> Refusal | None:
    """RFC 3261 §8.2.3; an INVITE whose sender takes no description cannot be answered with one (§21.4.7)."""
    wanted = CONTENT.get(request.method)
    if request.body and wanted is not None:
        if any(coding.lower() != "identity" for coding in _values(request.get_header_values("Content-Encoding"))):
            return Refusal(415, {"Accept-Encoding": "identity"})
        if _type(request.content_type or wanted) != wanted:
            return Refusal(415, {"Accept": wanted})
    if request.method == "INVITE":
        accepted = {_type(value) for value in request.get_header_values("Accept")}
        if accepted and not accepted & {SDP, "application/*", "*/*"}:
            return Refusal(406, {"Warning": f'399 consent-gateway "{SDP} is spoken here"'})
    return None


def _type(text: str) -> str:
    """The media type in *text*, without its parameters."""
    return text.partition(";")[0].strip().lower()


def _values(lists: Iterable[str]) -> list[str]:
    return [value.strip() for text in lists for value in text.split(",") if value.strip()]
