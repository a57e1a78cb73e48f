"""Offer and answer (RFC 3264) for one audio stream: G.711 in both laws and telephone-event."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from aiosipua.sdp import ConnectionData, MediaDescription, Origin, SdpMessage, parse_sdp, serialize_sdp

from gateway.telephony.errors import BadMessage, NoCommonCodec
from gateway.telephony.g711 import Law
from gateway.telephony.message import HostPort

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
PREFERENCE: tuple[Law, ...] = ("PCMA", "PCMU")
STATIC_TYPES: dict[Law, int] = {"PCMA": 8, "PCMU": 0}
OFFERED_EVENT_TYPE = 101
PTIME_MS = 20
UNSPECIFIED = ("0.0.0.0", "::")
"""Addresses that say *do not send* (RFC 3264 §8.4)."""


@dataclass(frozen=True, slots=True)
class MediaTerms:
    """What both sides agreed on. *event_type* is None when the far end takes no telephone-events."""

    law: Law
    payload_type: int
    event_type: int | None
    remote: HostPort
    direction: Direction = "sendrecv"
    lines: tuple[tuple[str, str, str], ...] = (("audio", "RTP/AVP", "8"),)
    """Media, protocol and first format of each stream that they described; *line* is the one taken, we refuse the others."""
    line: int = 0

    @property
    def on_hold(self) -> bool:
        """The far end does not want to hear us."""
        return self.direction in ("sendonly", "inactive") or self.remote[0] in UNSPECIFIED


def make_offer(local: HostPort, session: int) -> bytes:
    codecs = [(STATIC_TYPES[law], law) for law in PREFERENCE]
    return _describe(local, session, [_audio(local, codecs, OFFERED_EVENT_TYPE, "sendrecv")])


def make_answer(local: HostPort, session: int, terms: MediaTerms) -> bytes:
    """The answer that takes *terms*, with the payload numbers of the offer (RFC 3264 §6.1) and a stream for each of its."""
    mirrored: dict[Direction, Direction] = {"sendonly": "recvonly", "recvonly": "sendonly"}
    direction = mirrored.get(terms.direction, terms.direction)
    media = [MediaDescription(media=kind, port=0, proto=proto, formats=[first]) for kind, proto, first in terms.lines]
    media[terms.line] = _audio(local, [(terms.payload_type, terms.law)], terms.event_type, direction)
    return _describe(local, session, media)


def read_description(body: bytes, laws: tuple[Law, ...] = PREFERENCE) -> MediaTerms:
    """The terms in an offer or answer: of its first stream that will do the first of *laws* that it has.

    Raises BadMessage when it is no SDP, NoCommonCodec when it has no audio that we speak.
    """
    try:
        sdp = parse_sdp(body.decode("utf-8", errors="replace"))
    except ValueError as error:
        raise BadMessage(f"SDP does not parse: {error}") from error
    refusal = NoCommonCodec("SDP has no audio stream with an address")
    for line, media in enumerate(sdp.media):
        if media.media == "audio" and media.port != 0:
            try:
                return _read_audio(sdp, line, laws)
            except NoCommonCodec as error:
                refusal = error
    raise refusal


def _read_audio(sdp: SdpMessage, line: int, laws: tuple[Law, ...]) -> MediaTerms:
    audio = sdp.media[line]
    connection = audio.connection or sdp.connection
    if connection is None:
        raise NoCommonCodec("SDP has no audio stream with an address")
    if audio.proto not in ("RTP/AVP", "RTP/AVPF"):
        raise NoCommonCodec(f"SDP offers audio over {audio.proto}; RTP/AVP is spoken here")
    if not 0 < audio.port < 65536:
        raise BadMessage(f"SDP audio port {audio.port} is no port")
    try:
        ipaddress.ip_address(connection.address)
    except ValueError as error:
        raise BadMessage(f"SDP connection address {connection.address!r} is no IP address") from error
    codecs = [c for c in audio.codecs if 0 <= c.payload_type <= 127 and c.clock_rate == 8000]
    event_type = next((c.payload_type for c in codecs if c.encoding_name.lower() == "telephone-event"), None)
    for law in laws:
        for codec in codecs:
            if codec.encoding_name.upper() == law:
                return MediaTerms(
                    law, codec.payload_type, event_type, (connection.address, audio.port), _direction(sdp, audio),
                    tuple((m.media, m.proto, (*m.formats, "0")[0]) for m in sdp.media), line,
                )  # fmt: skip
    raise NoCommonCodec(f"SDP offers no {' or '.join(laws)}")


def _direction(sdp: SdpMessage, audio: MediaDescription) -> Direction:
    directions: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
    for attributes in (audio.attributes, sdp.attributes):
        for direction in directions:
            if direction in attributes:
                return direction
    return "sendrecv"


def _audio(
    local: HostPort, codecs: list[tuple[int, Law]], event_type: int | None, direction: Direction
) -> MediaDescription:
    formats = [str(payload_type) for payload_type, _ in codecs]
    attributes = {"rtpmap": [f"{payload_type} {law}/8000" for payload_type, law in codecs]}
    if event_type is not None:
        formats.append(str(event_type))
        attributes["rtpmap"].append(f"{event_type} telephone-event/8000")
        attributes["fmtp"] = [f"{event_type} 0-15"]
    attributes["ptime"] = [str(PTIME_MS)]
    attributes[direction] = []
    return MediaDescription(media="audio", port=local[1], formats=formats, attributes=attributes)


def _describe(local: HostPort, session: int, media: list[MediaDescription]) -> bytes:
    """A description whose version is *session*; its id, the port, stays that of the call (RFC 3264 §8)."""
    family = "IP6" if ":" in local[0] else "IP4"
    origin = Origin("-", str(local[1]), str(session), "IN", family, local[0])
    connection = ConnectionData("IN", family, local[0])
    sdp = SdpMessage(origin=origin, session_name="consent-gateway", connection=connection, media=media)
    return serialize_sdp(sdp).encode()
