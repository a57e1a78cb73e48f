"""The telephony of a house, from its settings: one user agent, the media of its calls, its lines and its phones."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import phonenumbers

from gateway.consent.order import normalise_number
from gateway.settings import Settings
from gateway.settings_sections import LineSettings, Sip, split_host_port
from gateway.telephony.admission import Admission, Destinations
from gateway.telephony.agent import UserAgent
from gateway.telephony.auth import Credentials, DigestServer
from gateway.telephony.lines import Line, keep_registered
from gateway.telephony.media import MediaEngine
from gateway.telephony.registrar import Registrar
from gateway.telephony.routing import Peer
from gateway.telephony.trace import Tracer
from gateway.telephony.transport import Hop, TlsTerms

STOP_S = 3.0
GARBAGE = (20_000, 50, 1000)
"""The garbage collector's thresholds: it must not hold up the media clock. Collections of the youngest objects are short; those of
all objects are rare, and wait for a thousand of the middle ones.
"""

CALL_BURST_S = 1.0
"""How many seconds' worth of new calls may come at once."""


@dataclass(frozen=True, slots=True)
class Switchboard:
    """What :func:`open_switchboard` opened."""

    agent: UserAgent
    engine: MediaEngine
    lines: tuple[Line, ...]
    registrar: Registrar
    admission: Admission
    destinations: Destinations
    tracer: Tracer


@dataclass(eq=False)
class _Trust:
    """Whether a hop is a line of ours, or in a network that the settings name: by its IP address."""

    lines: tuple[Line, ...]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    _known: dict[str, bool] = field(default_factory=dict)

    def __call__(self, hop: Hop) -> bool:
        if any(hop.host in line.addresses for line in self.lines):
            return True
        if not self.networks:
            return False
        known = self._known.get(hop.host)
        if known is None:
            if len(self._known) > 10_000:
                self._known.clear()
            address = ipaddress.ip_address(hop.host)
            known = self._known[hop.host] = any(address in network for network in self.networks)
        return known


@asynccontextmanager
async def open_switchboard(settings: Settings) -> AsyncIterator[Switchboard]:
    """Open the telephony that *settings* describe; calls are hung up and all is closed at the end.

    Raises TransportFailed for an address that cannot be had.
    """
    sip, media = settings.sip, settings.media
    lines = tuple(make_line(line) for line in settings.lines)
    phones = {phone.number: phone.password.get_secret_value() for phone in settings.softphones}
    registrar = Registrar(
        DigestServer(sip.realm, phones, time.time, sip.digests),
        time.monotonic,
        lambda user: _normal(user, sip.default_region),
    )
    admission = Admission(
        sip.source_rate, sip.source_burst, sip.calls_per_second, max(1.0, sip.calls_per_second * CALL_BURST_S),
        sip.most_calls, time.monotonic,
    )  # fmt: skip
    tracer = Tracer(settings.data_dir / "traces", time.time)
    engine = MediaEngine(media.address, media.port_range, settings.recordings_folder, timeout_s=media.timeout_s)
    agent = UserAgent(
        engine, split_host_port(sip.bind), advertised=sip.advertised_address, tls=_tls(sip), registrar=registrar,
        admission=admission, trusted=_Trust(lines, tuple(ipaddress.ip_network(text) for text in sip.trusted)),
        codecs=media.codecs, session_s=sip.session_s, trace=tracer,
    )  # fmt: skip
    gc.set_threshold(*GARBAGE)
    engine.start()
    tasks: list[asyncio.Task[None]] = []
    try:
        await agent.start()
        for line in lines:
            await line.look_up(agent)
            tasks.append(asyncio.create_task(line.watch(agent)))
            if line.register:
                tasks.append(asyncio.create_task(keep_registered(agent, line)))
        yield Switchboard(agent, engine, lines, registrar, admission, destinations(sip), tracer)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await agent.tasks.wait(STOP_S)  # the last traces
        agent.stop()
        engine.stop()


def make_line(line: LineSettings) -> Line:
    first = Peer(line.host, line.port, line.transport)
    others = (Peer(p.host, p.port, p.transport, p.priority, p.weight) for p in line.peers)
    credentials = Credentials(line.username, line.password.get_secret_value()) if line.username else None
    return Line(
        line.name, (first, *others), line.from_user, line.from_host, line.dial, credentials,
        register=line.register_here, ring_s=line.ring_s,
        srtp=line.srtp if line.srtp is not None else line.transport == "tls", most_calls=line.most_calls,
        calls_per_second=line.calls_per_second, keepalive_s=line.keepalive_s, callers=line.callers,
    )  # fmt: skip


def destinations(sip: Sip) -> Destinations:
    """Whom the settings allow to be called: by default the numbers of the default region."""
    own = f"+{phonenumbers.country_code_for_region(sip.default_region)}"
    return Destinations(sip.destinations or (own,), sip.denied_destinations)


def _normal(user: str, region: str) -> str:
    """*user* as a number in E.164, however it is written; itself where it is none."""
    try:
        return normalise_number(unquote(user).partition(";")[0], region)
    except ValueError:
        return user


def _tls(sip: Sip) -> TlsTerms | None:
    if not sip.tls_bind or sip.tls_certificate is None or sip.tls_key is None:
        return None
    return TlsTerms(
        split_host_port(sip.tls_bind),
        sip.tls_certificate,
        sip.tls_key,
        sip.tls_ca,
        verify_clients=sip.tls_verify_clients,
    )
