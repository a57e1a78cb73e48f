"""The script of a call: what the softphone does at each turn of the far end.

Grammar: items separated by ``;``. Each item answers one turn of the far end::

    say:FILE      play the WAV file
    silent        let the turn pass unanswered
    dtmf:DIGITS   send RFC 4733 events (0-9 * # A-D)
    wait:SECONDS  pause, then do the next item in the same turn
    into:SECONDS  wait for no turn: do the next item so long after the far end's
                  next speech *starts*, in the middle of its prompt
    echo:MS       from here on, send back what is heard, so much later
    hangup        send BYE
    hangup:S      the same as into:S;hangup

The far end's next speech is the one after its last finished turn.

A ``+`` before an item makes it follow the one before it at once, in the same
turn; before the first item: as soon as the call is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.softphone.audio import load_wav
from gateway.softphone.g711 import Samples

DTMF_DIGITS = "0123456789*#ABCD"
"""Index in this string = RFC 4733 event number (section 3.2, table 7)."""
_NOTHING: Samples = np.zeros(0, dtype=np.int16)


class ScriptError(ValueError):
    """The script does not follow the grammar."""


@dataclass(frozen=True)
class Item:
    """One item; ``immediate`` means it does not wait for a turn of the far end."""

    kind: str
    immediate: bool = False
    argument: str = ""
    seconds: float | None = None
    audio: Samples = field(default_factory=lambda: _NOTHING, repr=False)


def _seconds(kind: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ScriptError(f"{kind}:{text}: not a number") from error
    if not 0 <= value <= 3600:
        raise ScriptError(f"{kind}:{text}: outside 0..3600")
    return value


def _item(text: str, immediate: bool) -> Item:
    kind, _, argument = text.partition(":")
    if kind == "say" and argument:
        return Item(kind, immediate, argument, audio=load_wav(Path(argument)))
    if kind == "dtmf" and argument:
        digits = argument.upper()
        if any(digit not in DTMF_DIGITS for digit in digits):
            raise ScriptError(f"{text}: digits are {DTMF_DIGITS}")
        return Item(kind, immediate, digits)
    if kind in ("wait", "into") and argument:
        return Item(kind, immediate, argument, _seconds(kind, argument))
    if kind == "echo" and argument:
        return Item(kind, immediate, argument, _seconds(kind, argument) / 1000)
    if kind == "hangup":
        return Item(kind, immediate, argument, _seconds(kind, argument) if argument else None)
    if text == "silent":
        return Item(kind, immediate)
    raise ScriptError(f"{text!r}: not one of say:FILE silent dtmf:DIGITS wait:S into:S echo:MS hangup hangup:S")


def parse_script(text: str) -> list[Item]:
    """The items of a script, audio loaded.

    Raises:
        ScriptError: the grammar is broken.
        AudioFileError: a file cannot be played.

    """
    items: list[Item] = []
    for part in (piece.strip() for piece in text.split(";")):
        if not part:
            continue
        after_wait = bool(items) and items[-1].kind in ("wait", "into")
        items.append(_item(part.removeprefix("+").strip(), part.startswith("+") or after_wait))
    return items


def say_script(files: list[str]) -> list[Item]:
    """The script that says one file per turn.

    Raises:
        AudioFileError: a file cannot be played.

    """
    return [_item(f"say:{name}", False) for name in files]
