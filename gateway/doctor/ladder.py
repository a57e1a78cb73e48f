"""The SIP ladder of a call: one line a message, as text for a terminal and as a mermaid sequence diagram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.doctor.reading import Said, address_text, printable
from gateway.telephony.message import HostPort

COLUMN = 44
"""Characters from one life line to the next."""

TIME = 12
MOST_PARTIES = 6
"""Columns of the text; the messages with parties beyond are told in a line of their own."""

GATEWAY = "gateway"
_LEG = tuple[HostPort, str]


def text_ladder(said: Sequence[Said]) -> str:
    """Life lines with the gateway at the left; the seconds since the first message at the margin."""
    parties = _parties(said)
    shown = {leg: number for number, leg in enumerate(parties[:MOST_PARTIES])}
    names = [GATEWAY, *(_name(leg) for leg in shown)]
    head = " " * TIME + names[0].ljust(COLUMN)
    head += "".join(name.ljust(COLUMN) for name in names[1:])
    lines = [head.rstrip()]
    for one in said:
        column = shown.get(_leg(one))
        label = label_of(one)
        margin = f"{one.offset_ms / 1000:9.3f}".ljust(TIME)
        if column is None:
            lines.append(f"{margin}{'to' if one.sent else 'from'} {_name(_leg(one))}: {label}")
        else:
            lines.append((margin + _arrow(label, column, len(shown), sent=one.sent)).rstrip())
    return "\n".join(lines)


def mermaid(said: Sequence[Said]) -> str:
    """The same as a mermaid sequenceDiagram. Pauses of a second and more are noted."""
    parties = _parties(said)
    names = {leg: f"p{number}" for number, leg in enumerate(parties, 1)}
    lines = ["sequenceDiagram", f"    participant g as {GATEWAY}"]
    lines += [f"    participant {name} as {_escaped(_name(leg))}" for leg, name in names.items()]
    before = 0.0
    for one in said:
        name = names[_leg(one)]
        pause = one.offset_ms - before
        if pause >= 1000:
            lines.append(f"    Note over g,{name}: {pause / 1000:.1f} s later")
        before = one.offset_ms
        arrow = "-->>" if one.status else "->>"
        start, end = ("g", name) if one.sent else (name, "g")
        lines.append(f"    {start}{arrow}{end}: {_escaped(label_of(one))}")
    return "\n".join(lines) + "\n"


def label_of(said: Said) -> str:
    """What a message says, short: ``INVITE (sdp PCMA PCMU, sendonly)``, ``200 OK (INVITE)``, and whether it came again."""
    if said.status:
        notes = [said.method]
        label = f"{said.status} {said.reason}".rstrip()
    else:
        notes = []
        label = said.method if said.method != "?" else "no SIP"
    if said.sdp is not None:
        told = " ".join(codec for codec in said.sdp.codecs if codec.lower() != "telephone-event")
        told = "closed" if said.sdp.port == 0 else told
        told += f", {said.sdp.direction}" if said.sdp.direction != "sendrecv" else ""
        notes.append(f"sdp {told}")
    if said.again:
        notes.append("again")
    return printable(f"{label} ({', '.join(notes)})" if notes else label)


def _parties(said: Sequence[Said]) -> list[_LEG]:
    return list(dict.fromkeys(_leg(one) for one in said))


def _leg(said: Said) -> _LEG:
    return said.remote, said.message.transport


def _name(leg: _LEG) -> str:
    return printable(f"{address_text(leg[0])}/{leg[1]}")


def _arrow(label: str, column: int, columns: int, *, sent: bool) -> str:
    """The life lines, and between the gateway's and that of *column* (from 0) an arrow with its label."""
    width = COLUMN * (column + 1) - 1
    label = label if len(label) <= width - 6 else label[: width - 7] + "…"
    inner = f" {label} ".center(width - 1, "─")
    body = f"{inner}▶" if sent else f"◀{inner}"
    rest = "".join(_rest(columns - column - 1))
    return f"│{body}│{rest}"


def _rest(columns: int) -> Iterator[str]:
    for _ in range(columns):
        yield " " * (COLUMN - 1) + "│"


def _escaped(text: str) -> str:
    """For mermaid: a semicolon would end the line, a hash begins an entity, and so does what looks like markup."""
    return "".join(_ENTITIES.get(letter, letter) for letter in text)


_ENTITIES = {"#": "#35;", ";": "#59;", "<": "#lt;", ">": "#gt;", "%": "#37;"}
