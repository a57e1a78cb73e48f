"""What the doctor says: one thing that was seen in a call, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.doctor.reading import printable

Severity = Literal["fault", "warning", "fact"]


@dataclass(frozen=True, slots=True)
class Finding:
    """*code* names the kind for scripts, such as ``rtp.none``; *text* says what was seen, what it means and what mends it."""

    severity: Severity
    code: str
    text: str


def fault(code: str, text: str) -> Finding:
    return Finding("fault", code, printable(text))


def warning(code: str, text: str) -> Finding:
    return Finding("warning", code, printable(text))


def fact(code: str, text: str) -> Finding:
    return Finding("fact", code, printable(text))
