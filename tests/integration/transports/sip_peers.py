"""Peers on loopback: transports that write down what reaches them, bare streams, and an authority of these tests alone."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.telephony.errors import TransportFailed
from gateway.telephony.message import HostPort
from gateway.telephony.transport import Hop, TlsTerms, Transports

V4, V6, DUAL = "127.0.0.1", "::1", "::"


def message(text: str = "hello", method: str = "MESSAGE") -> bytes:
    """Whole enough for a transport: it looks at the length alone."""
    return f"{method} sip:x SIP/2.0\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for lies in plain attributes
            await asyncio.sleep(0.005)


async def started(start: Callable[[], Awaitable[None]], close: Callable[[], None]) -> None:
    """Bind to a port that the kernel chooses for UDP; now and then somebody has it for TCP already."""
    for _ in range(10):
        try:
            return await start()
        except TransportFailed:
            close()
    return await start()


class Host:
    """Transports with what reached them, and how often something could not be sent."""

    def __init__(self, address: str = V4, tls: TlsTerms | None = None) -> None:
        self.address = address
        self.got: list[tuple[bytes, Hop]] = []
        self.failed = 0
        self.transports = Transports(lambda data, hop: self.got.append((data, hop)), (address, 0), tls)

    async def __aenter__(self) -> Self:
        await started(self.transports.start, self.transports.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transports.close()
        await until(lambda: not len(self.transports))

    def hop(self, transport: str = "udp", host: str = "", name: str = "") -> Hop:
        port = self.transports.tls_port if transport == "tls" else self.transports.port
        return Hop(host or (V4 if self.address == DUAL else self.address), port or 0, transport, name)  # type: ignore[arg-type]

    def send(self, data: bytes, hop: Hop) -> None:
        def failed() -> None:
            self.failed += 1

        self.transports.send(data, hop, failed)

    async def next(self) -> tuple[bytes, Hop]:
        await until(lambda: bool(self.got))
        return self.got.pop(0)


class Stream:
    """A peer that speaks in bare octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def hop(self) -> Hop:
        host, port, *_ = self.writer.get_extra_info("sockname")
        return Hop(host, port, "tcp")

    async def closed(self) -> bool:
        """Wait until the far end has closed."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1000):
                    pass
        return True


class Authority:
    """Whom we believe in these tests. Certificates are PEM files in *folder*."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.ca.pem"
        self.file.write_bytes(
            self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0)).public_bytes(_PEM)
        )

    def terms(self, *names: str, verify_clients: bool = False, ca: Path | None = None) -> TlsTerms:
        """TLS at a free port with a certificate for *names*, domains or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        entries = x509.SubjectAlternativeName([_entry(name) for name in names])
        stem = f"{x509.random_serial_number():x}"
        certificate, private = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        certificate.write_bytes(self._signed(subject, key, entries).public_bytes(_PEM))
        private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return TlsTerms((V4, 0), certificate, private, ca or self.file, verify_clients)

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


_PEM = serialization.Encoding.PEM


def _entry(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


Dial = Callable[[HostPort], Awaitable[Stream]]
"""Opens a bare stream, which is closed when the test is over."""
