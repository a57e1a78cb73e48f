"""What the SIP messages of a call tell: who never answered, who refused and why, what was lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.doctor.finding import Finding, fact, fault, warning
from gateway.doctor.reading import Said, address_text, is_private, is_public
from gateway.telephony.routing import FAILOVER_STATUSES

MANY_REPEATS = 3
NAT = "set sip.advertised_address to the address under which peers reach this gateway"

_UNREACHED = {
    408: "nobody answered in time", 480: "the callee cannot be reached now", 486: "busy", 487: "given up before an answer",
    600: "busy everywhere", 603: "the callee declined",
}  # fmt: skip
"""Final answers that are the callee's, not a fault of anybody's."""

_REFUSED = {
    403: "it takes no such call from us: is our address, or lines.from_user, known to it?",
    404: "it knows no such number: lines.dial makes the user part that it is sent",
    484: "the number is incomplete for it: lines.dial makes the user part that it is sent",
    604: "nobody has this number: lines.dial makes the user part that it is sent",
    488: "it can do none of the codecs or the encryption that were offered",
    606: "it can do none of the codecs or the encryption that were offered",
    415: "it does not read our SDP",
    420: "it lacks an extension that we required",
    482: "the call came back to where it was: the peer routes it in a circle",
    483: "the call went in a circle until its hops were used up",
    503: "it takes no calls now: overloaded, stopping, or our limit there is reached",
}

_WE_REFUSED = {
    403: "this gateway takes no call from there",
    404: "the number that was called is not known here",
    480: "this gateway could not prepare the call; its log says why",
    488: "none of the codecs that were offered is spoken here, or they came over a transport or encryption that is not",
    500: "this gateway failed; its log says how",
    503: "this gateway was full (sip.most_calls) or stopping",
}


def signalling_findings(said: Sequence[Said]) -> Iterator[Finding]:
    """Everything that the messages alone show, the outcome first."""
    strange = sum(one.method == "?" for one in said)
    invites = _first_of_each([one for one in said if one.method == "INVITE" and not one.status and not one.tagged])
    for number, invite in enumerate(invites):
        last = number == len(invites) - 1
        yield from _sent(invite, said, last=last) if invite.sent else _received(invite, said, last=last)
    yield from _unacknowledged(said)
    yield from _refused_later(said)
    yield from _unanswered(said)
    yield from _repeats(said)
    yield from _contact(said)
    if strange:
        yield warning("sip.malformed", f"messages of this call that are no SIP: {strange}")


def responses(request: Said, said: Sequence[Said]) -> list[Said]:
    """What was answered to *request*, in order."""
    return [
        one
        for one in said
        if one.status and one.method == request.method and one.branch == request.branch and one.sent != request.sent
        and one.call_id == request.call_id
    ]  # fmt: skip


def final(request: Said, said: Sequence[Said]) -> Said | None:
    """The first final response to *request*."""
    return next((one for one in responses(request, said) if one.status >= 200), None)


def _sent(invite: Said, said: Sequence[Said], *, last: bool) -> Iterator[Finding]:
    answers = responses(invite, said)
    end = final(invite, said)
    peer = _peer(invite)
    if not answers:
        times = sum(
            one.sent and one.method == "INVITE" and not one.status and one.branch == invite.branch for one in said
        )
        text = (
            f"{peer} never answered our INVITE, which was sent {_times(times)}: a wrong address or port, "
            "a firewall, or the peer is down"
        )
        yield fault("sip.no_answer", text) if last else warning("sip.no_answer", f"{text}; the next peer was tried")
        return
    if end is None:
        if any(one.sent and one.method == "CANCEL" and one.branch == invite.branch for one in said):
            yield fact("sip.cancelled", f"given up before {peer} answered")
        else:
            yield warning("sip.unfinished", f"{peer} said {_words(answers[-1])} and nothing final after it")
    elif end.status < 300:
        yield fact("sip.answered", f"answered by {peer} after {(end.offset_ms - invite.offset_ms) / 1000:.1f} s")
    elif not last:
        if end.status in FAILOVER_STATUSES:
            yield warning("sip.failover", f"{peer} said {_words(end)}; the next peer was tried")
    elif end.status in (401, 407):
        tried = "authorization" in invite.headers or "proxy-authorization" in invite.headers
        text = (
            "refused our lines.username and lines.password"
            if tried
            else "wants credentials: set lines.username, lines.password"
        )
        yield fault("sip.credentials", f"{peer} {text} ({_words(end)})")
    elif end.status in _UNREACHED:
        yield fact("sip.not_reached", f"{peer} said {_words(end)}: {_UNREACHED[end.status]}")
    else:
        why = _REFUSED.get(end.status, "it failed" if 500 <= end.status < 600 else "it refused the call")
        offer = f" (offered: {' '.join(invite.sdp.codecs)})" if end.status in (488, 606) and invite.sdp else ""
        yield fault("sip.refused", f"{peer} said {_words(end)}: {why}{offer}")


def _received(invite: Said, said: Sequence[Said], *, last: bool) -> Iterator[Finding]:
    end = final(invite, said)
    peer = _peer(invite)
    if end is None:
        yield warning("sip.unfinished", f"the call from {peer} got no final answer from us")
    elif end.status < 300:
        yield fact(
            "sip.answered", f"call from {peer}, answered after {(end.offset_ms - invite.offset_ms) / 1000:.1f} s"
        )
    elif end.status in (401, 407):
        if last:
            tried = "authorization" in invite.headers or "proxy-authorization" in invite.headers
            text = "gave credentials that are not right" if tried else "was asked for credentials and sent none"
            yield fault(
                "sip.credentials", f"{peer} {text}: compare its user and password with the softphones of the settings"
            )
    elif end.status == 487:
        yield fact("sip.cancelled", f"{peer} hung up before the call was answered")
    elif end.status == 486:
        yield fact("sip.refused", f"we said {_words(end)} to {peer}")
    else:
        why = _WE_REFUSED.get(end.status, "its log says why")
        offer = f" (offered: {' '.join(invite.sdp.codecs)})" if end.status == 488 and invite.sdp else ""
        yield fault("sip.refused", f"we said {_words(end)} to {peer}: {why}{offer}")


def _unacknowledged(said: Sequence[Said]) -> Iterator[Finding]:
    """A 2xx to an INVITE that was sent again and again for want of an ACK: it goes to the Contact (RFC 3261 §13.2.2.4)."""
    acks = {(one.call_id, one.cseq, one.sent) for one in said if one.method == "ACK"}
    for one in _first_of_each([one for one in said if one.method == "INVITE" and 200 <= one.status < 300]):
        if (one.call_id, one.cseq, not one.sent) in acks:
            continue
        times = sum(s.status == one.status and s.branch == one.branch and s.sent == one.sent for s in said)
        if times < 2:
            continue
        if one.sent:
            text = (
                f"our {one.status} was sent {_times(times)} and never acknowledged. The ACK goes to the Contact that we gave, "
                f"{one.header('contact')}: can {_peer(one)} reach it? Behind NAT {NAT}"
            )
        else:
            text = f"{_peer(one)} sent its {one.status} {_times(times)}: we never acknowledged it"
        yield fault("sip.no_ack", text)


def _refused_later(said: Sequence[Said]) -> Iterator[Finding]:
    """A re-INVITE or UPDATE that was turned down; 491 is glare and tried again (RFC 3261 §14.1)."""
    for one in _first_of_each(
        [one for one in said if one.tagged and not one.status and one.method in ("INVITE", "UPDATE")]
    ):
        end = final(one, said)
        if end is not None and end.status >= 400 and end.status != 491:
            who = f"{_peer(one)} refused our" if one.sent else f"we refused the {one.method} of {_peer(one)}, a"
            yield warning("sip.change_refused", f"{who} change of the call: {_words(end)}")


def _unanswered(said: Sequence[Said]) -> Iterator[Finding]:
    for one in _first_of_each([one for one in said if one.sent and one.method == "BYE" and not one.status]):
        if not responses(one, said):
            times = sum(s.sent and s.method == "BYE" and s.branch == one.branch for s in said)
            yield warning("sip.bye_unanswered", f"{_peer(one)} never answered our BYE, which was sent {_times(times)}")


def _repeats(said: Sequence[Said]) -> Iterator[Finding]:
    ours = sum(one.again and one.sent and not one.status for one in said)
    theirs = sum(one.again and not one.sent and not one.status for one in said)
    if ours >= MANY_REPEATS:
        yield warning(
            "sip.repeated", f"{ours} requests of ours had to be sent again: they or their answers were lost on the way"
        )
    if theirs >= MANY_REPEATS:
        yield warning("sip.repeated_to_us", f"{theirs} requests came to us again: our answers were lost or late")


def _contact(said: Sequence[Said]) -> Iterator[Finding]:
    """A Contact of ours that the peer cannot reach."""
    for one in said:
        host = _host_of(one.header("contact")) if one.sent else ""
        if host and is_private(host) and is_public(one.remote[0]):
            text = f"our Contact is the private address {host}, the peer is the public {one.remote[0]}: {NAT}"
            yield warning("nat.contact", text)
            return


def _host_of(contact: str) -> str:
    uri = contact.partition("<")[2].partition(">")[0] or contact
    rest = uri.partition(":")[2]
    host = rest.rpartition("@")[2].partition(";")[0]
    return host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]


def _first_of_each(said: Sequence[Said]) -> list[Said]:
    """Each without its retransmissions."""
    return list({(one.sent, one.call_id, one.branch, one.status): one for one in reversed(said)}.values())[::-1]


def _peer(said: Said) -> str:
    return address_text(said.remote)


def _words(said: Said) -> str:
    return f"{said.status} {said.reason}".rstrip()


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
