"""What the media of a call tell: which side was silent and why, what was lost, where the packets really came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.doctor.finding import Finding, fact, fault, warning
from gateway.doctor.reading import Description, Said, address_text, is_private, is_public
from gateway.doctor.signalling import NAT, final
from gateway.telephony.report import MediaReport

SHORTEST_MS = 1000
"""A shorter call says nothing about silence."""

SPEECH_EXPECTED_MS = 5000
LOSS_HEARD, LOSS_BAD = 0.01, 0.03
"""From 1 % of loss on G.711 is heard to suffer, from 3 % words are lost."""

DEAF = 0.9
JITTER_HEARD_MS, JITTER_BAD_MS = 30.0, 60.0
"""60 ms is what the play-out buffer bears."""

GAP_BAD_MS = 2000
SLOW_MS = 400.0
"""A round trip that makes people talk over each other (ITU-T G.114 advises 150 ms one way, bears 400)."""

UNSPECIFIED = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class _Media:
    """A report with what the SDPs of both sides last said, as far as they were agreed on."""

    report: MediaReport
    ours: Description | None
    theirs: Description | None
    peer: str
    """Where the signalling comes from."""
    secure: bool

    @property
    def closed(self) -> bool:
        return self.theirs is not None and self.theirs.port == 0

    @property
    def they_send(self) -> bool:
        return self.report.direction in ("sendrecv", "sendonly") and not self.closed

    @property
    def they_hear(self) -> bool:
        return self.report.direction in ("sendrecv", "recvonly") and not self.closed and not self.parked

    @property
    def parked(self) -> bool:
        """Hold in the old way (RFC 3264 §8.4)."""
        return self.report.remote[0] in UNSPECIFIED

    @property
    def we_are_hidden(self) -> bool:
        """We told a public peer to send to an address that it cannot reach."""
        return is_private(self.report.local[0]) and is_public(self.peer)

    @property
    def they_are_hidden(self) -> bool:
        return is_private(self.report.remote[0]) and is_public(self.peer)

    @property
    def they_are_deaf(self) -> bool:
        report = self.report
        if not self.they_hear or not report.far_reports or not report.sent_packets:
            return False
        lost = report.far_lost or 0
        return (report.far_lost_fraction or 0.0) >= DEAF or lost >= DEAF * report.sent_packets


def media_findings(said: Sequence[Said], report: MediaReport) -> Iterator[Finding]:
    """Everything that the report and the descriptions show, silence first."""
    agreed = [one for one in said if one.sdp is not None and not _refused(one, said)]
    ours = next((one.sdp for one in reversed(agreed) if one.sent), None)
    theirs = next((one.sdp for one in reversed(agreed) if not one.sent), None)
    peer = said[-1].remote[0] if said else ""
    media = _Media(report, ours, theirs, peer, any(one.message.transport.lower() == "tls" for one in said))
    if report.duration_ms >= SHORTEST_MS:
        yield from _from_them(media)
        yield from _to_them(media)
    yield from _addresses(media)
    yield from _quality(report)
    yield from _facts(media)


def silent_sides(report: MediaReport) -> list[str]:
    """``caller`` where nothing of the far end was heard, ``gateway`` where nothing was said by us."""
    sides = []
    if not report.received_packets or report.caller_speech_ms == 0:
        sides.append("caller")
    if not report.sent_packets or report.gateway_speech_ms == 0:
        sides.append("gateway")
    return sides


def _refused(said: Said, everything: Sequence[Said]) -> bool:
    end = final(said, everything) if not said.status else said
    return end is not None and end.status >= 300


def _from_them(media: _Media) -> Iterator[Finding]:
    report = media.report
    where = address_text(report.remote)
    if report.received_packets:
        if report.caller_speech_ms == 0 and report.duration_ms >= SPEECH_EXPECTED_MS:
            text = "packets came from the far end, but nothing in them is as loud as speech: muted, or nobody spoke"
            yield warning("rtp.no_speech", text)
        last = report.last_packet_ms
        if last is not None and report.duration_ms - last >= GAP_BAD_MS and media.they_send:
            silent = (report.duration_ms - last) / 1000
            yield fault("rtp.stopped", f"the far end's audio stopped {silent:.1f} s before the end of the call")
        return
    if media.closed:
        yield fault("rtp.closed", "no audio from the far end: it closed the stream (port 0 in its SDP)")
    elif not media.they_send:
        yield fact("rtp.hold", f"no audio from the far end, as agreed: its SDP says {report.direction} (hold)")
    elif report.foreign:
        text = (
            f"no audio from the far end at {where}, but {report.foreign} packets came from another address and were not let in "
            "(RTP is taken from one source only): its SDP names the wrong address, or somebody forges packets"
        )
        yield fault("rtp.foreign", text)
    elif report.malformed:
        text = f"no audio from the far end: {report.malformed} packets came and none was RTP of this call"
        if report.srtp:
            text += "; with SRTP that mostly means that the keys differ"
        yield fault("rtp.malformed", text)
    elif media.we_are_hidden:
        text = (
            f"no audio from the far end: we told it to send to the private address {report.local[0]}, "
            f"and it is at the public {media.peer}: {NAT}"
        )
        yield fault("nat.local", text)
    else:
        text = (
            f"no audio from the far end: nothing came from {where} to {address_text(report.local)}: "
            "a firewall (are the UDP ports of media.ports open?), or it does not send"
        )
        yield fault("rtp.none", text)


def _to_them(media: _Media) -> Iterator[Finding]:
    report = media.report
    if media.parked or (not media.they_hear and not media.closed):
        how = "its SDP gives no address" if media.parked else f"its SDP says {report.direction}"
        yield fact("rtp.far_hold", f"the far end did not want to hear us at the end: {how} (hold)")
    elif media.they_are_deaf:
        text = f"the far end hears nothing of us: its reports miss {report.far_lost} of the {report.sent_packets} packets that we sent"
        if media.they_are_hidden and report.latched is None:
            text += f"; its SDP names the private address {report.remote[0]} while it is at the public {media.peer}"
        yield fault("rtp.far_deaf", text)
    elif not report.sent_packets and not media.closed:
        text = f"nothing was sent to the far end at {address_text(report.remote)}"
        if report.unsent_packets:
            text += f": this machine refused {report.unsent_packets} packets (no route, or a firewall here)"
        yield fault("rtp.not_sent", text)
    elif report.gateway_speech_ms == 0 and report.duration_ms >= SPEECH_EXPECTED_MS and media.they_hear:
        yield warning("rtp.we_said_nothing", "packets went to the far end, but nothing in them is as loud as speech")


def _addresses(media: _Media) -> Iterator[Finding]:
    report = media.report
    if report.latched is not None and report.latched != report.remote:
        text = f"RTP came from {address_text(report.latched)}, not from the signalled {address_text(report.remote)}; latched to it"
        yield fact("rtp.latched", text + (": the far end is behind NAT" if media.they_are_hidden else ""))
    elif media.they_are_hidden:
        text = (
            f"the far end's SDP names the private address {report.remote[0]}, its signalling comes from the public {media.peer}: "
            "it is behind NAT and does not know it. Its own address must be set there (Asterisk: external_media_address)"
        )
        yield fault("nat.remote", text) if not report.received_packets else warning("nat.remote", text)
    if media.we_are_hidden and report.received_packets:
        text = f"we told the public {media.peer} to send to our private address {report.local[0]}; it found us all the same: {NAT}"
        yield warning("nat.local", text)
    if report.foreign and report.received_packets:
        yield warning(
            "rtp.foreign", f"{report.foreign} packets came from addresses that are not the far end's; they were dropped"
        )
    if report.malformed and report.received_packets:
        yield warning("rtp.malformed", f"{report.malformed} packets were no RTP of this call")


def _quality(report: MediaReport) -> Iterator[Finding]:
    if report.received_packets and report.lost_fraction >= LOSS_HEARD:
        text = f"{_percent(report.lost_fraction)} of the far end's packets were lost ({report.lost}), {report.concealed_ms} ms concealed"
        yield fault("rtp.loss", text) if report.lost_fraction >= LOSS_BAD else warning("rtp.loss", text)
    far = report.far_lost_fraction or 0.0
    if report.far_reports and LOSS_HEARD <= far < DEAF:
        text = f"the far end last reported {_percent(far)} of our packets lost ({report.far_lost} in all)"
        yield fault("rtp.far_loss", text) if far >= LOSS_BAD else warning("rtp.far_loss", text)
    if report.jitter_max_ms >= JITTER_HEARD_MS:
        text = f"the far end's packets came unevenly: jitter up to {report.jitter_max_ms:.0f} ms, {report.late} came too late"
        yield fault("rtp.jitter", text) if report.jitter_max_ms >= JITTER_BAD_MS else warning("rtp.jitter", text)
    if report.longest_gap_ms >= GAP_BAD_MS and report.received_packets:
        yield warning("rtp.gap", f"for {report.longest_gap_ms / 1000:.1f} s at a stretch nothing came from the far end")
    if report.rtt_ms is not None and report.rtt_ms >= SLOW_MS:
        yield warning("rtp.slow", f"a packet takes {report.rtt_ms:.0f} ms there and back: people talk over each other")


def _facts(media: _Media) -> Iterator[Finding]:
    report = media.report
    yield fact("media.codec", f"codec {report.codec}, {'SRTP' if report.srtp else 'RTP'}")
    if media.secure and not report.srtp:
        yield warning("media.in_clear", "the signalling was encrypted (TLS), the audio was not: no SRTP was agreed on")
    jitter = f"jitter {report.jitter_ms:.1f} ms (at most {report.jitter_max_ms:.1f})"
    heard = f"{report.received_packets} packets, {_percent(report.lost_fraction)} lost, {jitter}"
    yield fact("media.from", f"from the far end: {heard}{_speech(report.caller_speech_ms)}")
    if report.far_reports:
        told = (
            f"it reports {_percent(report.far_lost_fraction or 0.0)} lost, jitter {report.far_jitter_ms or 0.0:.1f} ms"
        )
        told += f", round trip {report.rtt_ms:.0f} ms" if report.rtt_ms is not None else ""
    else:
        told = "it sends no RTCP, so what it hears of us is unknown"
    yield fact(
        "media.to",
        f"to the far end: {report.sent_packets} packets{_speech(report.gateway_speech_ms)}; {told}",
    )
    small = [(report.late, "late"), (report.duplicates, "twice"), (report.reordered, "out of order")]
    if any(number for number, _ in small):
        yield fact("media.order", "packets " + ", ".join(f"{word}: {number}" for number, word in small if number))
    dtmf = f"{report.keys} DTMF keys heard"
    if media.theirs is not None and not media.theirs.takes_events:
        dtmf += "; the far end takes no telephone-events (RFC 4733), only SIP INFO is left"
    yield fact("media.dtmf", dtmf)


def _speech(speech_ms: int | None) -> str:
    return "" if speech_ms is None else f", speech {speech_ms / 1000:.1f} s"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
