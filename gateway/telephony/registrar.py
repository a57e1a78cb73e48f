"""Softphones register here (RFC 3261 §10.3), so that a bare phone can do the whole flow without a PBX."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from aiosipua.header_codec import parse_address, stringify_address, stringify_uri

from gateway.telephony.auth import DigestServer
from gateway.telephony.endpoint import Incoming
from gateway.telephony.message import make_response, new_tag
from gateway.telephony.transport import Hop

DEFAULT_EXPIRES_S = 3600
SHORTEST_EXPIRES_S = 30
_SECONDS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a registered user is reached. *source* is where the REGISTER came from."""

    user: str
    contact: str
    source: Hop
    expires_at: float

    @property
    def flow(self) -> Hop | None:
        """The connection that it keeps open to us, where it has one: the only way to a phone behind a router."""
        return self.source if self.source.reliable else None


class Registrar:
    """Keeps the bindings of the configured softphones, one per user."""

    def __init__(
        self, digest: DigestServer, now: Callable[[], float], normal: Callable[[str], str] = lambda user: user
    ) -> None:
        self._digest = digest
        self._normal = normal
        self._known = {normal(user) for user in digest.users}
        self._now = now
        self._bindings: dict[str, Binding] = {}

    def find(self, user: str) -> Binding | None:
        """The live binding of *user*."""
        binding = self._bindings.get(user)
        return binding if binding is not None and binding.expires_at > self._now() else None

    def at(self, source: Hop) -> Binding | None:
        """The live binding that registered from *source*."""
        return next((b for b in self._bindings.values() if b.source == source and b.expires_at > self._now()), None)

    def who(self, incoming: Incoming) -> str | None:
        """The phone that sent *incoming*: by its password, or because it registered over that very connection (an address of a
        datagram can be forged).
        """
        user = self._digest.check(incoming.request, incoming.source.host)
        if user is None and incoming.source.reliable and (binding := self.at(incoming.source)) is not None:
            user = binding.user
        return user

    def knows(self, user: str) -> bool:
        """Whether *user* has a password here: then nobody else speaks for him."""
        return self._normal(user) in self._known

    def challenge(self, incoming: Incoming) -> bool:
        """Ask for a password with a 401; False where no phone has one, and nobody could answer."""
        if not self._digest:
            return False
        request, source = incoming.request, incoming.source.host
        response = make_response(request, 401, to_tag=new_tag())
        for challenge in self._digest.challenges(source, stale=self._digest.stale(request, source)):
            response.add_header("WWW-Authenticate", challenge)
        incoming.respond(response)
        return True

    def take(self, incoming: Incoming) -> None:
        """Answer a REGISTER: 401 with a challenge, or the binding made, refreshed or removed."""
        request = incoming.request
        user = self._digest.check(request, incoming.source.host)
        if user is None or user != incoming.ids.to.uri.user:
            if not self.challenge(incoming):
                incoming.reply(403, to_tag=new_tag())
            return
        contacts = request.get_header_values("Contact")
        if contacts:
            address = parse_address(contacts[0]) if contacts[0].strip() != "*" else None
            seconds = self._expires(request.get_header("Expires"), address.params.get("expires") if address else "0")
            if seconds == 0 or address is None:
                self._bindings.pop(user, None)
            elif seconds < SHORTEST_EXPIRES_S:
                response = make_response(request, 423, to_tag=new_tag())
                response.set_header("Min-Expires", str(SHORTEST_EXPIRES_S))
                incoming.respond(response)
                return
            else:
                contact = stringify_uri(address.uri)
                self._bindings[user] = Binding(user, contact, incoming.source, self._now() + seconds)
        response = make_response(request, 200, to_tag=new_tag())
        binding = self.find(user)
        if binding is not None:
            bound = parse_address(f"<{binding.contact}>")
            bound.params["expires"] = str(int(binding.expires_at - self._now()))
            response.set_header("Contact", stringify_address(bound))
        incoming.respond(response)

    @staticmethod
    def _expires(header: str | None, parameter: str | None) -> int:
        for text in (parameter, header):
            if text is not None and _SECONDS.fullmatch(text):
                return min(int(text), DEFAULT_EXPIRES_S)
        return DEFAULT_EXPIRES_S
