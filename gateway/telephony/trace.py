"""The SIP messages of every call, kept in memory while it lives and written to a file of its own at its end.

``DATA_DIR/traces/CALL_ID.jsonl``, mode 0600: one JSON object a line for each message, in the order of time, then one with the
report of the call. Credentials, SRTP keys, DTMF keys and message bodies are blotted out; numbers stay.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gateway.telephony.message import HostPort

MOST_MESSAGES = 200
MOST_OCTETS = 128 * 1024
"""Of one dialog. Beyond these its middle is left out: the beginning and the end tell most."""

MOST_IDLE_OCTETS = 32 * 1024 * 1024
"""Of all dialogs together that belong to no call of ours."""

FORGET_S = 300.0
SUFFIX = ".jsonl"
BLOT = "*"

_CALL_ID = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_COMMON_CALL_ID = b"\nCall-ID:"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class TracedMessage(NamedTuple):
    """One SIP message. *at*: seconds since 1970; *local* and *remote*: addresses; *data*: as on the wire, or blotted."""

    at: float
    sent: bool
    transport: str
    local: HostPort
    remote: HostPort
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Trace:
    """A call as its trace holds it. *omitted* messages were left out of the middle of a dialog that had too many."""

    call_id: str
    messages: tuple[TracedMessage, ...]
    report: Mapping[str, Any] = field(default_factory=dict)
    omitted: int = 0


@dataclass(slots=True)
class _Dialog:
    """What was said under one SIP Call-ID."""

    touched: float
    messages: list[TracedMessage] = field(default_factory=list)
    octets: int = 0
    omitted: int = 0

    def add(self, message: TracedMessage) -> int:
        """Returns the octets that came to stay, less those that had to go."""
        before = self.octets
        self.messages.append(message)
        self.octets += len(message.data)
        while len(self.messages) > MOST_MESSAGES or (self.octets > MOST_OCTETS and len(self.messages) > 1):
            self.octets -= len(self.messages.pop(len(self.messages) // 2).data)
            self.omitted += 1
        self.touched = message.at
        return self.octets - before


class Tracer:
    """Listens to every SIP message. *now* gives seconds since 1970; *most_open* dialogs are kept, and as many of calls.

    Everything but :meth:`write` belongs to the event loop. Dialogs that become no call of ours (registrations, keep-alives,
    strangers) are forgotten after five minutes, the oldest first when there are too many; they never cost a call its trace.
    """

    def __init__(self, folder: Path, now: Callable[[], float], most_open: int = 5000) -> None:
        self._folder = folder
        self._now = now
        self._most = most_open
        self._idle: OrderedDict[bytes, _Dialog] = OrderedDict()
        self._idle_octets = 0
        self._bound: dict[bytes, _Dialog] = {}
        self._calls: OrderedDict[str, list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        """Dialogs in memory."""
        return len(self._idle) + len(self._bound)

    def sip(self, data: bytes, local: HostPort, remote: HostPort, transport: str, *, sent: bool) -> None:
        """Keep a message that came from or went to *remote*. One without a Call-ID is passed over."""
        key = _call_id(data)
        if not key:
            return
        now = self._now()
        message = TracedMessage(now, sent, transport, local, remote, data)
        bound = self._bound.get(key)
        if bound is not None:
            bound.add(message)
            return
        dialog = self._idle.get(key)
        if dialog is None:
            dialog = self._idle[key] = _Dialog(now)
        else:
            self._idle.move_to_end(key)
        self._idle_octets += dialog.add(message)
        self._forget(now)

    def bind(self, sip_call_id: str, call_id: str) -> None:
        """The dialog *sip_call_id* is of our call *call_id*; of several attempts each is bound to the same call."""
        key = sip_call_id.encode("utf-8", errors="replace").strip()
        if key in self._bound:
            return
        dialog = self._idle.pop(key, None)
        if dialog is not None:
            self._idle_octets -= dialog.octets
        self._bound[key] = dialog or _Dialog(self._now())
        self._calls.setdefault(call_id, []).append(key)
        if len(self._calls) > self._most:
            self._release(next(iter(self._calls)))

    def finish(self, call_id: str, report: Mapping[str, Any]) -> Trace:
        """Take the call out of memory, for :meth:`write`. Best a second after its end: the answer to the BYE belongs to it."""
        dialogs = self._release(call_id)
        messages = sorted(
            (message for dialog in dialogs for message in dialog.messages), key=lambda message: message.at
        )
        return Trace(call_id, tuple(messages), report, sum(dialog.omitted for dialog in dialogs))

    def write(self, trace: Trace) -> Path:
        """Write *trace* to its file and return that. Safe in a thread. Raises OSError; ValueError for a strange call id."""
        path = trace_file(self._folder, trace.call_id)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [json.dumps(_as_json(message), ensure_ascii=False) for message in trace.messages]
        lines.append(json.dumps({"report": dict(trace.report), "omitted": trace.omitted}, ensure_ascii=False))
        partial = path.with_suffix(".part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write("\n".join(lines) + "\n")
        partial.replace(path)
        return path

    def _release(self, call_id: str) -> list[_Dialog]:
        return [self._bound.pop(key) for key in self._calls.pop(call_id, ())]

    def _forget(self, now: float) -> None:
        while self._idle:
            dialog = next(iter(self._idle.values()))
            crowded = len(self._idle) > self._most or self._idle_octets > MOST_IDLE_OCTETS
            if not crowded and now - dialog.touched <= FORGET_S:
                return
            self._idle.popitem(last=False)
            self._idle_octets -= dialog.octets


def trace_file(folder: Path, call_id: str) -> Path:
    """Where the trace of *call_id* lies. Raises ValueError for what could be no file name."""
    if not _FILE_NAME.fullmatch(call_id):
        raise ValueError(f"{call_id!r} is no call id")
    return folder / f"{call_id}{SUFFIX}"


def read_trace(path: Path) -> Trace:
    """The trace in *path*. Raises OSError, and ValueError for what is no trace, with the line."""
    messages: list[TracedMessage] = []
    report: Mapping[str, Any] = {}
    omitted = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if "report" in entry:
                report, omitted = entry["report"], int(entry.get("omitted", 0))
            else:
                messages.append(_from_json(entry))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path}, line {number}: no line of a trace: {error!r}") from error
    return Trace(path.name.removesuffix(SUFFIX), tuple(messages), report, omitted)


def _call_id(data: bytes) -> bytes:
    start = data.find(_COMMON_CALL_ID)
    if start >= 0:
        start += len(_COMMON_CALL_ID)
        end = data.find(b"\n", start)
        return data[start:end].strip() if end >= 0 else b""
    found = _CALL_ID.search(data)
    return found[1].strip() if found else b""


def _as_json(message: TracedMessage) -> dict[str, Any]:
    return {
        "at": datetime.fromtimestamp(message.at, UTC).isoformat(timespec="microseconds"),
        "sent": message.sent,
        "transport": message.transport,
        "local": list(message.local[:2]),
        "remote": list(message.remote[:2]),
        "message": blotted(message.text),
    }


def _from_json(entry: Mapping[str, Any]) -> TracedMessage:
    at = datetime.fromisoformat(entry["at"]).timestamp()
    local, remote = ((str(entry[side][0]), int(entry[side][1])) for side in ("local", "remote"))
    text = str(entry["message"])
    return TracedMessage(at, bool(entry["sent"]), str(entry["transport"]), local, remote, text.encode())


_CREDENTIALS = re.compile(
    r"^((?:proxy-)?authorization|authentication-info|proxy-authentication-info)([ \t]*:[ \t]*)(.*(?:\r?\n[ \t].*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_SHOWN = re.compile(r'\b(?:username|realm|algorithm|uri|qop|nc)[ \t]*=[ \t]*(?:"[^"\r\n]*"|[^\s,"]+)', re.IGNORECASE)
_INLINE = re.compile(r"(\binline:)([^|\s;]+)", re.IGNORECASE)
_KEY_LINES = re.compile(r"^(k=|a=key-mgmt:)(.+)$", re.IGNORECASE | re.MULTILINE)
_SIGNAL = re.compile(r"^([ \t]*signal[ \t]*=[ \t]*)(\S+)", re.IGNORECASE | re.MULTILINE)
_METHOD = re.compile(r"^cseq[ \t]*:[ \t]*\d+[ \t]+(\w+)", re.IGNORECASE | re.MULTILINE)
_PASSWORD = re.compile(r"(sips?:[^@\s:;<>]{1,64}:)([^@\s<>]{1,64})(?=@)", re.IGNORECASE)
_VISIBLE = re.compile(r"\S")


def blotted(text: str) -> str:
    """*text*, a SIP message, without its secrets; each is replaced by as many asterisks, so that lengths stay true.

    Of credentials stay the scheme and what names the user; of a URI its password goes, of SDP (RFC 4568, RFC 8866 §5.12) the
    key, of DTMF in INFO the key, of MESSAGE, whose text may be the code of an order, the body.
    """
    head, separator, body = text.partition("\r\n\r\n")
    if not separator:
        head, separator, body = text.partition("\n\n")
    head = _CREDENTIALS.sub(lambda found: found[1] + found[2] + _credentials(found[3]), head)
    head = _PASSWORD.sub(lambda found: found[1] + BLOT * len(found[2]), head)
    body = _INLINE.sub(lambda found: found[1] + BLOT * len(found[2]), body)
    body = _KEY_LINES.sub(lambda found: found[1] + _VISIBLE.sub(BLOT, found[2]), body)
    method = _METHOD.search(head)
    if method and method[1].upper() == "MESSAGE":
        body = _VISIBLE.sub(BLOT, body)
    elif method and method[1].upper() == "INFO":
        if "signal" in body.lower():
            body = _SIGNAL.sub(lambda found: found[1] + BLOT * len(found[2]), body)
        else:
            body = _VISIBLE.sub(BLOT, body)
    return head + separator + body


def _credentials(value: str) -> str:
    """The value of an Authorization header with everything blotted out but its scheme and the parameters that name."""
    scheme, space, rest = value.partition(" ")
    if not space:
        return _VISIBLE.sub(BLOT, value)
    if scheme.lower() != "digest":
        return scheme + space + _VISIBLE.sub(BLOT, rest)
    shown, end = "", 0
    for found in _SHOWN.finditer(rest):
        shown += re.sub(r"[^\s,]", BLOT, rest[end : found.start()]) + found[0]
        end = found.end()
    return scheme + space + shown + re.sub(r"[^\s,]", BLOT, rest[end:])
