"""What a call is given, gathers, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gateway.softphone.g711 import Samples
from gateway.softphone.script import Item


@dataclass(frozen=True)
class CallSettings:
    """How the softphone behaves in a call; all times in seconds."""

    script: tuple[Item, ...] = ()
    record: Path | None = None
    turn_silence: float = 1.0
    threshold: float = 150.0
    codecs: tuple[str, ...] = ("PCMA", "PCMU")
    ring_seconds: float = 0.0
    reject: int | None = None
    cancel_after: float | None = None


@dataclass(eq=False)
class CallOver(Exception):
    """The call ended: by ``local``, ``remote`` or ``limit``; ``failed`` if not in order."""

    by: str
    reason: str
    failed: bool = False
    code: int | None = None


@dataclass
class Heard:
    """The received audio; ``first`` is the monotonic time of its first sample."""

    parts: list[Samples] = field(default_factory=list)
    samples: int = 0
    first: float | None = None
