"""The lines out: a trunk by IP, or a registration to a PBX with digest credentials."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import structlog
from aiosipua.header_codec import parse_address, stringify_uri
from aiosipua.message import SipResponse

from gateway.telephony.agent import UserAgent
from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.errors import TelephonyError
from gateway.telephony.message import parse_sip_uri, uri_text

log = structlog.get_logger(__name__)
REGISTER_S = 300
_SECONDS = re.compile(r"[1-9][0-9]{0,8}")
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 120.0


@dataclass(frozen=True, slots=True)
class Line:
    """*from_user* is the number shown to the callee; *dial* makes the user part from ``{number}`` or ``{digits}``."""

    name: str
    host: str
    port: int = 5060
    from_user: str = "gateway"
    from_host: str = ""
    dial: str = "{number}"
    credentials: Credentials | None = None
    register: bool = False
    ring_s: float = 45.0

    def uri(self, number: str) -> str:
        """The SIP URI that reaches *number* (E.164) over this line."""
        return uri_text(self.dial.format(number=number, digits=number.lstrip("+")), self.host, self.port)

    async def call_uri(self, agent: UserAgent, target: str, call_id: str) -> Call:
        return await agent.dial(
            target, call_id, from_user=self.from_user, from_host=self.from_host,
            credentials=self.credentials, ring_s=self.ring_s,
        )  # fmt: skip


async def keep_registered(agent: UserAgent, line: Line) -> None:
    """Keep *line* registered until cancelled: refresh at four fifths of the granted time, back off on failure."""
    assert line.credentials is not None, "the settings let no registration without credentials pass"
    registrar = uri_text(None, line.host, line.port)
    address = uri_text(line.credentials.username, line.from_host or line.host)
    retry = FIRST_RETRY_S
    while True:
        try:
            contact = agent.contact(line.credentials.username, await agent.resolve(parse_sip_uri(registrar)))
            response = await agent.request(
                "REGISTER", registrar, from_user=line.credentials.username, from_host=line.from_host or line.host,
                to=address, credentials=line.credentials,
                headers={
                    "Contact": contact,
                    "Expires": str(REGISTER_S),
                },
            )  # fmt: skip
        except TelephonyError as error:
            log.warning("line.unregistered", line=line.name, error=str(error), retry_s=retry)
        else:
            if response.status_code == 200:
                log.info("line.registered", line=line.name)
                retry = FIRST_RETRY_S
                await asyncio.sleep(_granted(response, contact) * 0.8)
                continue
            log.warning("line.unregistered", line=line.name, status=response.status_code, retry_s=retry)
        await asyncio.sleep(retry)
        retry = min(2 * retry, LONGEST_RETRY_S)


def _granted(response: SipResponse, contact: str) -> int:
    """Seconds that *contact* is bound for: its own parameter before the Expires header (RFC 3261 §10.2.4)."""
    ours = stringify_uri(parse_address(contact).uri)
    own = [address.params.get("expires") for address in response.contact if stringify_uri(address.uri) == ours]
    for text in (*own, response.get_header("Expires")):
        if text is not None and _SECONDS.fullmatch(text):
            return int(text)
    return REGISTER_S
