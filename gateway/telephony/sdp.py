"""Offer and answer (RFC 3264) for one audio stream: G.722, G.711 in both laws, telephone-event, comfort noise; RTP or SRTP."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aiosipua.sdp import ConnectionData, MediaDescription, Origin, SdpMessage, parse_sdp, serialize_sdp

from gateway.audio.codec import CODECS, STATIC_TYPES, Codec
from gateway.telephony.crypto import Crypto, read_crypto
from gateway.telephony.errors import BadMessage, NoCommonCodec
from gateway.telephony.message import HostPort

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
OFFERED_EVENT_TYPE = 101
COMFORT_TYPE = 13
PTIME_MS = 20
MOST_STREAMS = 32
UNSPECIFIED = ("0.0.0.0", "::")
"""Addresses that say *do not send* (RFC 3264 §8.4)."""

_PORT = re.compile(r"[0-9]{1,5}")
_PLAIN, _SECURE = ("RTP/AVP", "RTP/AVPF"), ("RTP/SAVP", "RTP/SAVPF")
_MIRRORED: dict[Direction, Direction] = {"sendonly": "recvonly", "recvonly": "sendonly"}


@dataclass(frozen=True, slots=True)
class MediaTerms:
    """What both sides agreed on, as the far end described it. *event_type* is None when it takes no telephone-events,
    *comfort_type* when it sends no comfort noise, *crypto* when it speaks plain RTP.
    """

    codec: Codec
    payload_type: int
    event_type: int | None
    remote: HostPort
    direction: Direction = "sendrecv"
    comfort_type: int | None = None
    rtcp: HostPort | None = None
    """Where its reports go; None: the port after *remote*'s."""
    mux: bool = False
    """Whether reports share the port of the audio (RFC 5761)."""
    crypto: Crypto | None = None
    lines: tuple[tuple[str, str, str], ...] = (("audio", "RTP/AVP", "8"),)
    """Media, protocol and first format of each stream that they described; *line* is the one taken, we refuse the others."""
    line: int = 0

    @property
    def on_hold(self) -> bool:
        """The far end does not want to hear us."""
        return self.direction in ("sendonly", "inactive") or self.remote[0] in UNSPECIFIED

    @property
    def silent(self) -> bool:
        """The far end does not mean to send."""
        return self.direction in ("recvonly", "inactive")


def make_offer(
    local: HostPort, session: int, *, codecs: Sequence[Codec] = CODECS, direction: Direction = "sendrecv",
    crypto: Crypto | None = None,
) -> bytes:  # fmt: skip
    """What we can do at *local*; with *crypto* over SRTP alone."""
    types = [(STATIC_TYPES[codec], codec) for codec in codecs]
    return _describe(local, session, [_audio(local, types, OFFERED_EVENT_TYPE, COMFORT_TYPE, direction, crypto)])


def make_answer(
    local: HostPort, session: int, terms: MediaTerms, *, hold: bool = False, crypto: Crypto | None = None
) -> bytes:
    """The answer that takes *terms*, with the payload numbers of the offer (RFC 3264 §6.1) and a stream for each of its.
    With *hold* we do not want to hear them.
    """
    direction = _MIRRORED.get(terms.direction, terms.direction)
    if hold:
        direction = "sendonly" if direction in ("sendrecv", "sendonly") else "inactive"
    media = [MediaDescription(media=kind, port=0, proto=proto, formats=[first]) for kind, proto, first in terms.lines]
    audio = _audio(
        local, [(terms.payload_type, terms.codec)], terms.event_type, terms.comfort_type, direction, crypto,
        proto=terms.lines[terms.line][1], mux=terms.mux,
    )  # fmt: skip
    media[terms.line] = audio
    return _describe(local, session, media)


def read_description(
    body: bytes, codecs: Sequence[Codec] = CODECS, *, secure: bool | None = None, answer: bool = False
) -> MediaTerms:
    """The terms in an offer or answer: of its first stream that will do the first of *codecs* that it has; with *secure* the
    first that is encrypted, or that is not. Of an *answer* the first codec that it names is taken (RFC 3264 §7).

    Raises BadMessage when it is no SDP, NoCommonCodec when it has no audio that we speak.
    """
    try:
        sdp = parse_sdp(body.decode("utf-8", errors="replace"))
    except ValueError as error:
        raise BadMessage(f"SDP does not parse: {error}") from error
    if len(sdp.media) > MOST_STREAMS:
        raise BadMessage(f"SDP has {len(sdp.media)} streams, at most {MOST_STREAMS} are read")
    refusal = NoCommonCodec("SDP has no audio stream with an address")
    for line, media in enumerate(sdp.media):
        if media.media == "audio" and media.port != 0:
            try:
                return _read_audio(sdp, line, codecs, secure, answer=answer)
            except NoCommonCodec as error:
                refusal = error
    raise refusal


def _read_audio(
    sdp: SdpMessage, line: int, codecs: Sequence[Codec], secure: bool | None, *, answer: bool
) -> MediaTerms:
    audio = sdp.media[line]
    connection = audio.connection or sdp.connection
    if connection is None:
        raise NoCommonCodec("SDP has no audio stream with an address")
    crypto = _security(audio, secure)
    if not 0 < audio.port < 65535:  # the next one is for RTCP
        raise BadMessage(f"SDP audio port {audio.port} is no port")
    try:
        address = ipaddress.ip_address(connection.address.split("/")[0])
    except ValueError as error:
        raise BadMessage(f"SDP connection address {connection.address!r} is no IP address") from error
    host = address.compressed
    if address.is_multicast or host == "255.255.255.255":
        raise BadMessage(f"SDP connection address {connection.address!r} is no address of one host")
    described = [c for c in audio.codecs if 0 <= c.payload_type <= 127 and c.clock_rate == 8000]

    def type_of(name: str) -> int | None:
        return next((c.payload_type for c in described if c.encoding_name.upper() == name), None)

    if answer:
        named = [codec.encoding_name.upper() for codec in described]
        codecs = sorted((codec for codec in codecs if codec in named), key=named.index)
    for codec in codecs:
        payload_type = type_of(codec)
        if payload_type is not None:
            return MediaTerms(
                codec, payload_type, type_of("TELEPHONE-EVENT"), (host, audio.port), _direction(sdp, audio),
                comfort_type=COMFORT_TYPE if str(COMFORT_TYPE) in audio.formats else type_of("CN"),
                rtcp=_rtcp(audio, host), mux="rtcp-mux" in audio.attributes, crypto=crypto,
                lines=tuple((m.media, m.proto, (*m.formats, "0")[0]) for m in sdp.media), line=line,
            )  # fmt: skip
    raise NoCommonCodec(f"SDP offers no {' or '.join(codecs)}")


def _security(audio: MediaDescription, secure: bool | None) -> Crypto | None:
    """The far end's key. Raises NoCommonCodec for a stream that is protected otherwise than wanted, or without a key."""
    if audio.proto in _PLAIN and not secure:
        return None
    if audio.proto in _SECURE and secure is not False:
        crypto = read_crypto(audio.attributes.get("crypto", []))
        if crypto is None:
            raise NoCommonCodec(f"SDP offers {audio.proto} without a key (a=crypto) of a suite that is spoken here")
        return crypto
    wanted = "RTP/AVP" if secure is False else "RTP/SAVP" if secure else "RTP/AVP or RTP/SAVP"
    raise NoCommonCodec(f"SDP offers audio over {audio.proto}; {wanted} is spoken here")


def _rtcp(audio: MediaDescription, host: str) -> HostPort | None:
    """The address in a=rtcp (RFC 3605), if there is a usable one."""
    words = (audio.attributes.get("rtcp") or [""])[0].split()
    if not words or not _PORT.fullmatch(words[0]) or not 0 < int(words[0]) < 65536:
        return None
    if len(words) >= 4:
        try:
            address = ipaddress.ip_address(words[3])
        except ValueError:
            return None
        if address.is_multicast:
            return None
        host = address.compressed
    return host, int(words[0])


def _direction(sdp: SdpMessage, audio: MediaDescription) -> Direction:
    directions: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
    for attributes in (audio.attributes, sdp.attributes):
        for direction in directions:
            if direction in attributes:
                return direction
    return "sendrecv"


def _audio(
    local: HostPort, codecs: Sequence[tuple[int, Codec]], event_type: int | None, comfort_type: int | None,
    direction: Direction, crypto: Crypto | None, *, proto: str = "", mux: bool = False,
) -> MediaDescription:  # fmt: skip
    formats = [str(payload_type) for payload_type, _ in codecs]
    attributes = {"rtpmap": [f"{payload_type} {codec}/8000" for payload_type, codec in codecs]}
    if comfort_type is not None:
        formats.append(str(comfort_type))
        attributes["rtpmap"].append(f"{comfort_type} CN/8000")
    if event_type is not None:
        formats.append(str(event_type))
        attributes["rtpmap"].append(f"{event_type} telephone-event/8000")
        attributes["fmtp"] = [f"{event_type} 0-15"]
    attributes["ptime"] = [str(PTIME_MS)]
    if crypto is not None:
        attributes["crypto"] = [crypto.attribute]
    if mux:
        attributes["rtcp-mux"] = []
    attributes[direction] = []
    proto = proto or ("RTP/SAVP" if crypto is not None else "RTP/AVP")
    return MediaDescription(media="audio", port=local[1], proto=proto, formats=formats, attributes=attributes)


def _describe(local: HostPort, session: int, media: list[MediaDescription]) -> bytes:
    """A description whose version is *session*; its id, the port, stays that of the call (RFC 3264 §8)."""
    family = "IP6" if ":" in local[0] else "IP4"
    origin = Origin("-", str(local[1]), str(session), "IN", family, local[0])
    connection = ConnectionData("IN", family, local[0])
    sdp = SdpMessage(origin=origin, session_name="consent-gateway", connection=connection, media=media)
    return serialize_sdp(sdp).encode()
