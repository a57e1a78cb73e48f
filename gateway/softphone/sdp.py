"""The session descriptions the softphone offers, reads and answers (RFC 4566, RFC 3264)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.softphone.g711 import STATIC_PAYLOADS

EVENT_PAYLOAD = 101
"""The telephone-event number of our own offers."""
_NAMES = {number: name for name, number in STATIC_PAYLOADS.items()}
_MIRROR = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly"}


class SdpError(ValueError):
    """The description is broken or shares no codec with us."""


@dataclass(frozen=True)
class Media:
    """What both sides agreed on: where to send and with which payload numbers."""

    address: str
    port: int
    codec: str
    payload: int
    event_payload: int | None
    direction: str = "sendrecv"


@dataclass(frozen=True)
class LocalSession:
    """The origin of our descriptions; the same session id for the whole call."""

    address: str
    port: int
    session_id: int

    @staticmethod
    def create(address: str, port: int) -> LocalSession:
        """A session with a fresh random id."""
        return LocalSession(address, port, secrets.randbelow(2**31))

    def _text(self, payloads: Sequence[tuple[int, str]], direction: str, version: int) -> bytes:
        numbers = " ".join(str(number) for number, _ in payloads)
        lines = [
            "v=0",
            f"o=softphone {self.session_id} {version} IN IP4 {self.address}",
            "s=softphone",
            f"c=IN IP4 {self.address}",
            "t=0 0",
            f"m=audio {self.port} RTP/AVP {numbers}",
        ]
        for number, name in payloads:
            lines.append(f"a=rtpmap:{number} {name}/8000")
            if name == "telephone-event":
                lines.append(f"a=fmtp:{number} 0-15")
        lines += ["a=ptime:20", f"a={direction}", ""]
        return "\r\n".join(lines).encode()

    def offer(self, codecs: Sequence[str]) -> bytes:
        """Offer the codecs in order of preference, and telephone-event."""
        payloads = [(STATIC_PAYLOADS[name], name) for name in codecs]
        return self._text([*payloads, (EVENT_PAYLOAD, "telephone-event")], "sendrecv", 1)

    def answer(self, media: Media, version: int = 1) -> bytes:
        """Answer with the one codec chosen, under the payload numbers offered."""
        payloads = [(media.payload, media.codec)]
        if media.event_payload is not None:
            payloads.append((media.event_payload, "telephone-event"))
        return self._text(payloads, _MIRROR.get(media.direction, media.direction), version)


def choose_media(text: bytes, codecs: Sequence[str]) -> Media:
    """What to use of an offer or an answer: its first audio codec that we have.

    Raises:
        SdpError: no audio line, or none of ``codecs`` in it.

    """
    session_address = address = direction = session_direction = ""
    port, numbers, maps, section = 0, [], dict[int, str](), ""
    for line in text.decode("utf-8", "replace").splitlines():
        kind, _, value = line.strip().partition("=")
        if kind == "m":
            if section == "audio":
                break
            words = value.split()
            section = words[0] if words else ""
            if section == "audio":
                try:
                    port, numbers = int(words[1].split("/")[0]), [int(word) for word in words[3:]]
                except (IndexError, ValueError) as error:
                    raise SdpError(f"audio line {value!r}") from error
        elif kind == "c" and section in ("", "audio"):
            words = value.split()
            if len(words) != 3 or words[1] != "IP4":
                raise SdpError(f"connection line {value!r}")
            if section:
                address = words[2].split("/")[0]
            else:
                session_address = words[2].split("/")[0]
        elif kind == "a" and section in ("", "audio"):
            name, _, rest = value.partition(":")
            if name == "rtpmap" and section:
                number, _, encoding = rest.partition(" ")
                if number.isdigit():
                    maps[int(number)] = encoding.strip()
            elif name in ("sendrecv", "sendonly", "recvonly", "inactive"):
                direction, session_direction = (name, session_direction) if section else (direction, name)
    if not numbers or port == 0 or not (address or session_address):
        raise SdpError("no usable audio line")
    names = {number: _encoding(number, maps) for number in numbers}
    chosen = next((number for number in numbers if names[number] in codecs), None)
    if chosen is None:
        raise SdpError(f"none of {'/'.join(codecs)} among {', '.join(map(str, numbers))}")
    event = next((number for number in numbers if names[number] == "telephone-event"), None)
    return Media(
        address or session_address,
        port,
        names[chosen],
        chosen,
        event,
        direction or session_direction or "sendrecv",
    )


def _encoding(number: int, maps: dict[int, str]) -> str:
    """``PCMA``, ``PCMU``, ``telephone-event``, or empty for anything else."""
    mapped = maps.get(number)
    if mapped is None:
        # The static numbers need no rtpmap (RFC 3551 section 6).
        return _NAMES.get(number, "")
    name, _, rate = mapped.partition("/")
    if rate.split("/")[0] != "8000":
        return ""
    if name.lower() == "telephone-event":
        return "telephone-event"
    return name.upper() if name.upper() in STATIC_PAYLOADS else ""
