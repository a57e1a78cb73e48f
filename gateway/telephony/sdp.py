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


@dataclass(frozen=True, slots=True)
class MediaTerms:
    """What both sides agreed on. *event_type* is None when the far end takes no telephone-events."""

    law: Law
    payload_type: int
    event_type: int | None
    remote: HostPort
    direction: Direction = "sendrecv"

    @property
    def on_hold(self) -> bool:
        """The far end does not want to hear us."""
        return self.direction in ("sendonly", "inactive") or self.remote[0] == "0.0.0.0"


def make_offer(local: HostPort, session: int) -> bytes:
    formats = [str(STATIC_TYPES[law]) for law in PREFERENCE]
    rtpmap = [f"{STATIC_TYPES[law]} {law}/8000" for law in PREFERENCE]
    return _describe(local, session, formats, rtpmap, OFFERED_EVENT_TYPE, "sendrecv")


def make_answer(local: HostPort, session: int, terms: MediaTerms) -> bytes:
    """The answer that takes *terms*, with the payload numbers of the offer (RFC 3264 §6.1)."""
    mirrored: dict[Direction, Direction] = {"sendonly": "recvonly", "recvonly": "sendonly"}
    direction = mirrored.get(terms.direction, terms.direction)
    rtpmap = [f"{terms.payload_type} {terms.law}/8000"]
    return _describe(local, session, [str(terms.payload_type)], rtpmap, terms.event_type, direction)


def read_description(body: bytes) -> MediaTerms:
    """The terms in an offer or answer, our preference first.

    Raises BadMessage when it is no SDP, NoCommonCodec when it has no audio that we speak.
    """
    try:
        sdp = parse_sdp(body.decode("utf-8", errors="replace"))
    except ValueError as error:
        raise BadMessage(f"SDP does not parse: {error}") from error
    audio, address = sdp.audio, sdp.rtp_address
    if audio is None or address is None or audio.port == 0:
        raise NoCommonCodec("SDP has no audio stream with an address")
    if audio.proto not in ("RTP/AVP", "RTP/AVPF"):
        raise NoCommonCodec(f"SDP offers audio over {audio.proto}; RTP/AVP is spoken here")
    if not 0 < audio.port < 65536:
        raise BadMessage(f"SDP audio port {audio.port} is no port")
    try:
        ipaddress.ip_address(address[0])
    except ValueError as error:
        raise BadMessage(f"SDP connection address {address[0]!r} is no IP address") from error
    event_type = next(
        (c.payload_type for c in audio.codecs if c.encoding_name.lower() == "telephone-event" and c.clock_rate == 8000),
        None,
    )
    for law in PREFERENCE:
        for codec in audio.codecs:
            if codec.encoding_name.upper() == law and codec.clock_rate == 8000:
                return MediaTerms(law, codec.payload_type, event_type, address, _direction(sdp, audio))
    raise NoCommonCodec("SDP offers neither PCMA nor PCMU")


def _direction(sdp: SdpMessage, audio: MediaDescription) -> Direction:
    directions: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
    for attributes in (audio.attributes, sdp.attributes):
        for direction in directions:
            if direction in attributes:
                return direction
    return "sendrecv"


def _describe(
    local: HostPort, session: int, formats: list[str], rtpmap: list[str], event_type: int | None, direction: Direction
) -> bytes:
    family = "IP6" if ":" in local[0] else "IP4"
    attributes: dict[str, list[str]] = {"rtpmap": list(rtpmap)}
    if event_type is not None:
        formats = [*formats, str(event_type)]
        attributes["rtpmap"].append(f"{event_type} telephone-event/8000")
        attributes["fmtp"] = [f"{event_type} 0-15"]
    attributes["ptime"] = [str(PTIME_MS)]
    attributes[direction] = []
    audio = MediaDescription(media="audio", port=local[1], formats=formats, attributes=attributes)
    origin = Origin("-", str(session), str(session), "IN", family, local[0])
    connection = ConnectionData("IN", family, local[0])
    sdp = SdpMessage(origin=origin, session_name="consent-gateway", connection=connection, media=[audio])
    return serialize_sdp(sdp).encode()
