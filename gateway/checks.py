"""``consent-gateway check``: what is wrong with the configuration, each in one line with the mend."""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from gateway.house import NO_ORDER, House, load_house
from gateway.ledger.errors import BadTimestamp
from gateway.ledger.timestamping import read_roots
from gateway.provisioning.errors import BadSecret, TargetRefused
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import read_secret, read_signing_key
from gateway.settings import Settings
from gateway.settings_sections import split_host_port
from gateway.speech.errors import GrammarTooLarge, ModelMissing, SpeechError, UnknownWords
from gateway.speech.models import ModelSource, check_words, read_vocabulary
from gateway.store.database import address, reason_of
from gateway.store.postgres import PostgresError, default_directory, running_endpoint
from gateway.switchboard import destinations
from gateway.telephony.recorder import RecordingOffice


def static_faults(settings: Settings) -> list[str]:
    """What can be seen without binding, connecting or loading a model; `serve` refuses to start with any of it."""
    house, faults = load_house(settings)
    faults += _secrets(settings)
    faults += _webhooks(settings)
    faults += _time_stamps(settings)
    faults += _sip(settings)
    for language, spec in settings.speech.models.items():
        try:
            ModelSource(spec).folder()
        except SpeechError as error:
            faults.append(f"speech.models.{language}: {error}")
    if importlib.util.find_spec("espeakng_loader") is None:
        unspoken = _unrecorded(house)
        if unspoken:
            faults.append(
                f"voice: espeak-ng is not installed, and {unspoken[0]} with {len(unspoken) - 1} others is no recording; "
                "pip install 'consent-gateway[espeak]', or record every prompt"
            )
    for name, target in settings.transfer.items():
        if not target.startswith("sip:"):
            faults.append(f"transfer.{name}: {target!r} is not a SIP URI (sip:user@host)")
    return faults


def all_faults(settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """Each check's name with its faults, as it is made: (name, faults)."""
    yield "settings, dialplans, prompts, secrets", static_faults(settings)
    yield "SIP addresses", _sip_addresses(settings)
    yield "API address", _bindable("api.bind", settings.api.bind, socket.SOCK_STREAM)
    yield "RTP ports", _rtp(settings)
    yield "data folder", _writable(settings.data_dir)
    full = RecordingOffice(settings.recordings_folder).full
    yield "room for recordings", [full] if full else []
    yield "grammar words", _words(settings)


async def database_faults(settings: Settings) -> list[str]:
    """Whether the database answers; the embedded one is only looked for, not started."""
    dsn = settings.database.dsn.get_secret_value()
    if not dsn:
        directory = settings.database.directory or default_directory()
        try:
            running_endpoint(directory)
        except PostgresError as error:
            return [f"database.directory: {error}"]
        return _writable(directory)
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        why = reason_of(error) if isinstance(error, ValueError) else str(error) or "no answer within 5 s"
        return [f"database.dsn: {address(dsn)}: {why}; check address, user, password and database"]
    try:
        may_create = await connection.fetchval(
            "SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'consent_app')")
        may_act = may_create or (
            exists
            and await connection.fetchval("SELECT pg_has_role(current_user, 'consent_app', 'USAGE WITH ADMIN OPTION')")
        )
    finally:
        await connection.close()
    if not exists and not may_create:
        return [
            "database.dsn: its user cannot create the role consent_app; run as a superuser: CREATE ROLE consent_app NOLOGIN"
        ]
    if not may_act:
        grant = "GRANT consent_app TO that_user WITH ADMIN OPTION"
        return [f"database.dsn: its user may not act as consent_app; run as a superuser: {grant}"]
    return []


def _unrecorded(house: House) -> list[str]:
    """The prompts that only a voice can speak."""
    names = {
        (language, name)
        for plan in house.dialplans.values()
        for language in house.packs
        if language in plan.languages
        for name in (*plan.prompt_names(), NO_ORDER)
    }
    folder = house.prompts_folder
    files = sorted(f"{language}/audio/{name}.wav" for language, name in names)
    return [file for file in files if not (folder / file).exists()]


def _sip(settings: Settings) -> list[str]:
    """Faults of TLS files and of the lists of numbers."""
    sip, faults = settings.sip, []
    try:
        destinations(sip)
    except ValueError as error:
        faults.append(str(error))
    if sip.tls_bind and sip.tls_certificate is not None and sip.tls_key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(sip.tls_certificate, sip.tls_key)
            if sip.tls_ca is not None:
                context.load_verify_locations(sip.tls_ca)
        except OSError as error:  # ssl.SSLError is one
            faults.append(f"sip.tls_certificate, tls_key, tls_ca: {error}; PEM files are read, the key unencrypted")
    return faults


def _sip_addresses(settings: Settings) -> list[str]:
    sip = settings.sip
    faults = _bindable("sip.bind", sip.bind, socket.SOCK_DGRAM) + _bindable("sip.bind", sip.bind, socket.SOCK_STREAM)
    if sip.tls_bind:
        faults += _bindable("sip.tls_bind", sip.tls_bind, socket.SOCK_STREAM)
    return list(dict.fromkeys(faults))


def _secrets(settings: Settings) -> list[str]:
    faults = []
    secrets = []
    if settings.sms.inbound_secret.get_secret_value():
        secrets.append(("sms.inbound_secret", settings.sms.inbound_secret))
    elif settings.sms.channel == "http":
        faults.append("sms.inbound_secret: empty, so replies cannot be taken; make one with: consent-gateway secret")
    for name, secret in secrets:
        faults += _unreadable(name, secret, read_secret)
    shared = (("sms.code_secret", settings.sms.code_secret), ("ledger.secret", settings.ledger.secret))
    for name, secret in shared if settings.database.dsn.get_secret_value() else ():
        if not secret.get_secret_value():
            faults.append(
                f"{name}: empty beside database.dsn, where gateways must share one; set it to 24 characters or more"
            )
    if settings.sms.channel == "none":
        faults.append("sms.channel: none, so no order can ever be confirmed; set http or sip")
    if not settings.tenants:
        faults.append("tenants: none, so nobody can place an order; add [[tenants]]")
    return faults


def _webhooks(settings: Settings) -> list[str]:
    """Secrets that cannot sign, and addresses that nothing may be posted to; what a name points to is seen when it is posted to."""
    guard, faults = Guard(settings.provisioning.allowed_networks), []
    for tenant in settings.tenants:
        path = f"tenants.{tenant.id}"
        found = [
            (f"{path}.webhook_", tenant.webhook_url, tenant.webhook_secret, tenant.webhook_previous_secret, tenant.webhook_signing_key),
            *(
                (f"{path}.endpoints.{one.name}.", one.url, one.secret, one.previous_secret, one.signing_key)
                for one in tenant.endpoints
            ),
        ]  # fmt: skip
        for name, url, secret, previous, signing_key in found:
            faults += _unreadable(f"{name}secret", secret, read_secret)
            if previous.get_secret_value():
                faults += _unreadable(f"{name}previous_secret", previous, read_secret)
            if signing_key.get_secret_value():
                faults += _unreadable(f"{name}signing_key", signing_key, read_signing_key)
            try:
                guard.check(url)
            except TargetRefused as error:
                faults.append(f"{name}url: {error}")
    return faults


def _time_stamps(settings: Settings) -> list[str]:
    """Whether checkpoints can be dated, where they are to be; whether the authority answers is seen when it is asked."""
    ledger = settings.ledger
    if not ledger.timestamp_url or ledger.timestamp_ca is None:
        return []
    faults = []
    if importlib.util.find_spec("rfc3161_client") is None:
        faults.append(
            "ledger.timestamp_url: rfc3161-client is not installed; pip install 'consent-gateway[timestamps]', or leave it empty"
        )
    url = urlsplit(ledger.timestamp_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        faults.append(f"ledger.timestamp_url: {ledger.timestamp_url!r} is no http:// or https:// address")
    try:
        read_roots(ledger.timestamp_ca)
    except (OSError, BadTimestamp) as error:
        faults.append(f"ledger.timestamp_ca: {error}; name the PEM file that the authority publishes")
    return faults


def _unreadable(name: str, secret: SecretStr, read: Callable[[str], object]) -> list[str]:
    try:
        read(secret.get_secret_value())
    except BadSecret as error:
        return [f"{name}: {error}"]
    return []


def _bindable(name: str, address: str, kind: socket.SocketKind) -> list[str]:
    host, port = split_host_port(address)
    return _try(name, address, lambda sock: sock.bind((host, port)), host, kind)


def _rtp(settings: Settings) -> list[str]:
    ports = settings.media.port_range
    needed = 2 * settings.sip.most_calls
    faults = _try("media.address", settings.media.address, lambda s: s.bind((settings.media.address, 0)),
                  settings.media.address, socket.SOCK_DGRAM)  # fmt: skip
    if len(ports) < needed:
        faults.append(f"media.ports: {len(ports)} ports for {settings.sip.most_calls} calls; {needed} are needed")
    return faults


def _try(
    name: str, shown: str, action: Callable[[socket.socket], None], host: str, kind: socket.SocketKind
) -> list[str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            action(sock)
        except OSError as error:
            return [
                f"{name}: {shown}: {error.strerror}; is another gateway or PBX running there? Choose another address"
            ]
    return []


def _writable(folder: Path) -> list[str]:
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return [f"{folder}: {nearest} cannot be written to; choose another folder or mend its permissions"]
    return []


def _words(settings: Settings) -> list[str]:
    house, _ = load_house(settings)
    faults = []
    for language, pack in house.packs.items():
        try:
            folder = ModelSource(settings.speech.models[language]).folder()
        except SpeechError:
            continue  # named by static_faults
        try:
            check_words(pack.grammars.values(), read_vocabulary(folder).words)
        except ModelMissing as error:
            faults.append(f"speech.models.{language}: {error}")
        except GrammarTooLarge as error:
            faults.append(f"prompts/{language}/intents.yaml: {error}")
        except UnknownWords as error:
            faults += [f"prompts/{language}/intents.yaml: {fault}" for fault in error.faults]
    return faults
