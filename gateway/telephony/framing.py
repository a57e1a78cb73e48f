"""SIP over a stream (RFC 3261 §18.3): octets in, whole messages out, by Content-Length. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.telephony.errors import BadMessage
from gateway.telephony.message import MAXIMUM_OCTETS

PING, PONG = b"\r\n\r\n", b"\r\n"
"""Keep-alive of a connection and its answer (RFC 5626 §3.5.1)."""

_LENGTH = re.compile(rb"(?:^|\n)(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?(?=\n)", re.IGNORECASE)


class Framer:
    """Cuts one connection's stream into messages. A keep-alive comes out as ``PING``."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        """How far the end of the headers was looked for: a message that comes octet by octet costs no more than another."""

    @property
    def waiting(self) -> int:
        """Octets of a message that is not whole yet; line ends before it are none."""
        return 0 if PING.startswith(self._buffer) else len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that *data* completes. Raises BadMessage when the stream cannot be cut any more: close it."""
        self._buffer += data
        while self._buffer:
            if self._buffer.startswith(PING):
                del self._buffer[: len(PING)]
                yield PING
            elif PING.startswith(self._buffer):  # part of a ping, or the answer to ours
                return
            elif self._buffer.startswith(PONG):
                del self._buffer[: len(PONG)]
            elif (message := self._message()) is not None:
                yield message
            else:
                return

    def _message(self) -> bytes | None:
        end = self._buffer.find(PING, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(PING) + 1)
            if len(self._buffer) > MAXIMUM_OCTETS:
                raise BadMessage(f"SIP headers of over {MAXIMUM_OCTETS} octets on a stream")
            return None
        lengths = set(_LENGTH.findall(self._buffer, 0, end + 2))
        if len(lengths) != 1:
            raise BadMessage(f"SIP message on a stream has {len(lengths) or 'no'} Content-Length (RFC 3261 §18.3)")
        self._searched = end
        total = end + len(PING) + int(lengths.pop())
        if total > MAXIMUM_OCTETS:
            raise BadMessage(f"SIP message of {total} octets on a stream, at most {MAXIMUM_OCTETS} are read")
        if len(self._buffer) < total:
            return None
        message = bytes(self._buffer[:total])
        del self._buffer[:total]
        self._searched = 0
        return message
