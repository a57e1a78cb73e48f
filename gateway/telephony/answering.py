"""The server side of the user agent: who may come in, and what becomes of each request (RFC 3261 §8.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.admission import Admission
from gateway.telephony.call import Call
from gateway.telephony.crypto import new_crypto
from gateway.telephony.dialog import server_dialog
from gateway.telephony.endpoint import Endpoint, Incoming
from gateway.telephony.errors import BadMessage, CallFailed, NoCommonCodec, TransportFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.message import ALLOW, SUPPORTED, Identity, allows, identity, make_response, new_tag
from gateway.telephony.screening import screen
from gateway.telephony.sdp import MediaTerms, make_answer, make_offer, read_description
from gateway.telephony.session_timer import MIN_SE, SessionTimer, TooBrief, announce, as_server, supported
from gateway.telephony.transport import Hop

if TYPE_CHECKING:
    from gateway.telephony.agent import UserAgent

log = structlog.get_logger(__name__)
MESSAGE_OCTETS = 1300

OnInvite = Callable[[Invitation], Awaitable[None]]
OnMessage = Callable[[str, str, str], Awaitable[None]]
"""Number, text, and Call-ID with CSeq, which name the message: a retransmission has the same."""


class Answerer:
    """Takes every request that comes from outside. *trusted* says whether a hop is a line of ours; all others have to prove
    who they are, where anybody could.
    """

    def __init__(self, agent: UserAgent, admission: Admission, trusted: Callable[[Hop], bool]) -> None:
        self._agent = agent
        self._admission = admission
        self._trusted = trusted
        self._invitations: dict[tuple[str, str], Invitation] = {}
        self.draining = False
        self.on_invite: OnInvite | None = None
        self.on_message: OnMessage | None = None

    def __len__(self) -> int:
        return len(self._invitations)

    @property
    def endpoint(self) -> Endpoint:
        return self._agent.endpoint

    def admits(self, source: Hop) -> bool:
        """Whether a message from *source* is looked at: strangers have their rate, lines do not."""
        return self._trusted(source) or self._admission.packet(source.host)

    def take(self, incoming: Incoming) -> None:
        """A request that is new to the transaction layer."""
        request, ids = incoming.request, incoming.ids
        if incoming.source.transport == "tls" and "alias" in ids.via.params:
            self._agent.alias(incoming.source, ids.via.port or 5061)
        refused = screen(request)
        if refused is not None:
            incoming.reply(refused.status, to_tag=new_tag(), headers=refused.headers)
        elif request.method == "CANCEL":
            self._take_cancel(incoming)
        elif ids.to.tag:
            self._take_within(incoming)
        elif request.method == "INVITE":
            self._take_invite(incoming)
        elif request.method == "OPTIONS":
            self._take_options(incoming)
        elif request.method == "MESSAGE":
            self._take_message(incoming)
        elif request.method == "REGISTER" and self._agent.registrar is not None:
            self._agent.registrar.take(incoming)
        elif request.method in ("BYE", "PRACK", "UPDATE", "NOTIFY", "INFO"):
            incoming.reply(481, to_tag=new_tag())
        else:
            incoming.reply(405, to_tag=new_tag(), headers={"Allow": ALLOW})

    def take_ack(self, ack: SipRequest) -> None:
        call = self._call_of(identity(ack))
        if call is not None:
            call.negotiation.acknowledged(ack)
            return
        invitation = self._invitation_of(ack)
        if invitation is not None:
            invitation.acknowledged(ack)

    def drop(self, invitation: Invitation) -> None:
        ids = invitation.incoming.ids
        self._invitations.pop((ids.call_id, ids.branch), None)

    async def answer(self, invitation: Invitation, call_id: str) -> Call:
        """Send the 200 and open the media. Raises CallFailed when the caller gave up or no media can be had."""
        agent, invite, source = self._agent, invitation.incoming.request, invitation.incoming.source
        dialog = server_dialog(invite, invitation.tag)
        hop = await agent.hop_of(dialog, source)
        if invitation.cancelled.is_set():
            raise CallFailed(487, "the caller gave up")
        agent.note(invitation.incoming.ids.call_id, call_id)
        host = agent.host(source.host)
        try:
            ports = agent.engine.reserve(host)
        except TransportFailed:
            invitation.reject(503)
            raise
        contact = agent.contact("", source)
        timer = as_server(invite, agent.session_s if "timer" in supported(invite) else 0)
        final = _make_final(invite, invitation.tag, contact, timer)
        late, terms = invitation.terms is None, invitation.terms
        try:
            if terms is None:
                final.body = make_offer((host, ports.number), 1, codecs=agent.codecs)
                terms = await self._late_terms(invitation, final)
                crypto = None
            else:
                crypto = new_crypto(terms.crypto.tag, terms.crypto.suite) if terms.crypto is not None else None
                final.body = make_answer((host, ports.number), 1, terms, crypto=crypto)
            stream = agent.open(ports, terms, call_id, crypto)
        except BaseException as error:
            agent.engine.release(ports)
            if invitation.incoming.answered and late:  # our 200 is out: there is a dialog, which nobody else would end
                self.drop(invitation)
                if invitation.cancelled.is_set():  # but the caller, who has
                    raise
                agent.outgoing.send(dialog.request("BYE"), hop, lambda _: None, dialog=dialog)
            elif isinstance(error, CallFailed):
                invitation.reject(error.status)
            raise
        call = Call(
            call_id=call_id, direction="inbound", number=invitation.number, dialog=dialog, hop=hop,
            endpoint=agent.endpoint, outgoing=agent.outgoing, engine=agent.engine, stream=stream, contact=contact,
            forget=agent.forget, locate=agent.hop_of, media_host=host,
            peer_allows=allows(invite),
        )  # fmt: skip
        agent.add(call)
        self.drop(invitation)
        if not late:
            invitation.incoming.respond(final)
            call.negotiation.confirm_with(final, invitation.incoming)
        call.keep_alive(timer)
        return call

    async def _late_terms(self, invitation: Invitation, final: SipResponse) -> MediaTerms:
        """Send *final* with our offer and wait for the answer in the ACK. Raises CallFailed."""
        try:
            body = await invitation.answer_to(final)
            return read_description(body, self._agent.codecs, secure=False, answer=True)
        except TimeoutError as error:
            raise CallFailed(408, "the 200 OK was never acknowledged") from error
        except (BadMessage, NoCommonCodec) as error:
            raise CallFailed(488, f"the ACK answers no offer of ours: {error}") from error

    def _take_within(self, incoming: Incoming) -> None:
        call = self._call_of(incoming.ids)
        if call is not None:
            call.take(incoming)
            if incoming.request.method in ("INVITE", "UPDATE"):
                self._agent.tasks.spawn(self._follow(call, incoming.source))
            return
        invitation = self._invitation_of(incoming.request)
        if invitation is not None:
            invitation.take(incoming)
        else:
            incoming.reply(481)

    async def _follow(self, call: Call, source: Hop) -> None:
        """Send to where the far end is now: a re-INVITE may have moved it (RFC 3261 §12.2.1.2)."""
        call.hop = await call.locate(call.dialog, source)

    def _take_invite(self, incoming: Incoming) -> None:
        request, tag = incoming.request, new_tag()
        if self.draining or self.on_invite is None:
            incoming.reply(503, to_tag=tag, headers={"Retry-After": "30"})
            return
        trusted = self._trusted(incoming.source)
        verdict = self._admission.call(incoming.source.host, len(self._agent.calls) + len(self), peer=trusted)
        if verdict != "admit":
            if verdict == "busy":
                incoming.reply(503, to_tag=tag, headers={"Retry-After": str(self._admission.retry_after_s)})
            else:
                incoming.drop()
            return
        number = self._who(incoming, trusted=trusted)
        if number is None:
            return
        try:
            if not request.contact:
                raise BadMessage("INVITE has no Contact")
            as_server(request, 0)
            terms = read_description(request.body, self._agent.codecs) if request.body else None
        except TooBrief:
            incoming.reply(422, to_tag=tag, headers={"Min-SE": str(MIN_SE)})
            return
        except NoCommonCodec as error:
            warning = f'304 {self._agent.host(incoming.source.host)} "{error}"'
            incoming.reply(488, to_tag=tag, headers={"Warning": warning})
            return
        except BadMessage as error:
            incoming.reply(400, to_tag=tag, reason=str(error)[:80])
            return
        incoming.reply(100)
        invitation = Invitation(self, incoming, number, terms, tag, self._agent.contact("", incoming.source))
        self._invitations[(incoming.ids.call_id, incoming.ids.branch)] = invitation
        self._agent.tasks.spawn(self._invite_task(invitation))

    async def _invite_task(self, invitation: Invitation) -> None:
        assert self.on_invite is not None
        try:
            await self.on_invite(invitation)
        finally:
            if not invitation.incoming.answered:
                invitation.reject(500)

    def _take_cancel(self, incoming: Incoming) -> None:
        ids = incoming.ids
        invitation = self._invitations.get((ids.call_id, ids.branch))
        if invitation is None or invitation.incoming.answered:  # too late: it changes nothing (RFC 3261 §9.2)
            incoming.reply(200 if self.endpoint.pending_invite(incoming.request) else 481, to_tag=new_tag())
            return
        incoming.reply(200, to_tag=invitation.tag)
        invitation.cancelled.set()
        invitation.reject(487)

    def _take_options(self, incoming: Incoming) -> None:
        response = make_response(incoming.request, 503 if self.draining else 200, to_tag=new_tag())
        for name, value in (("Allow", ALLOW), ("Accept", "application/sdp"), ("Supported", SUPPORTED)):
            response.set_header(name, value)
        incoming.respond(response)

    def _take_message(self, incoming: Incoming) -> None:
        number = self._who(incoming, trusted=self._trusted(incoming.source))
        if number is None:
            return
        if not (incoming.request.content_type or "text/plain").lower().startswith("text/plain"):
            incoming.reply(415, to_tag=new_tag(), headers={"Accept": "text/plain"})
            return
        self._agent.tasks.spawn(self._message_task(incoming, number))

    async def _message_task(self, incoming: Incoming, number: str) -> None:
        """202 only when the message is kept: the sender's own retransmission makes good a failure in between."""
        try:
            if self.on_message is not None:
                name = f"{incoming.ids.call_id} {incoming.ids.cseq.seq}"
                await self.on_message(number, incoming.request.text[:MESSAGE_OCTETS], name)
        except Exception:
            incoming.reply(500, to_tag=new_tag())
            raise
        incoming.reply(202, to_tag=new_tag())

    def _who(self, incoming: Incoming, *, trusted: bool) -> str | None:
        """The number that a request comes from, as far as it is proven: a phone's own, where it has registered or knows its
        password; what a line asserts (RFC 3325), unless that number has a password here. None when it was answered with a
        challenge or turned away.
        """
        registrar, source = self._agent.registrar, incoming.source
        if registrar is not None:
            user = registrar.who(incoming)
            if user is not None:
                return user
        if trusted:
            uri = incoming.ids.from_.uri
            spoken = uri.host.partition(";")[0] if uri.scheme == "tel" else uri.user
            claimed = _asserted(incoming.request) or spoken or ""
            if registrar is None or not registrar.knows(claimed):
                return claimed
        if registrar is not None and registrar.challenge(incoming):
            return None
        log.info("sip.stranger", source=source.host, method=incoming.request.method)
        incoming.reply(403, to_tag=new_tag(), reason="register first, or send through a configured line")
        return None

    def _call_of(self, ids: Identity) -> Call | None:
        return self._agent.call_of(ids.call_id, ids.to.tag or "", ids.from_.tag or "")

    def _invitation_of(self, request: SipRequest) -> Invitation | None:
        ids = identity(request)
        return next((i for i in self._invitations.values() if i.belongs(ids)), None)


def _make_final(invite: SipRequest, tag: str, contact: str, timer: SessionTimer | None) -> SipResponse:
    """The 200 to *invite*, but for its session description."""
    final = make_response(invite, 200, to_tag=tag)
    for name, value in (
        ("Contact", contact), ("Allow", ALLOW), ("Supported", SUPPORTED), ("Content-Type", "application/sdp"),
    ):  # fmt: skip
        final.set_header(name, value)
    if timer is not None:
        announce(final, timer, requesting=False)
    return final


def _asserted(request: SipRequest) -> str:
    """The user of P-Asserted-Identity, which only a trusted line may speak for."""
    for value in request.get_header_values("P-Asserted-Identity"):
        user = value.partition("sip:")[2].partition("@")[0]
        if not user:
            user = value.partition("tel:")[2].partition(">")[0]
        if user:
            return user.split(";")[0]
    return ""
