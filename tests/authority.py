"""A time-stamping authority (RFC 3161): OpenSSL answers the questions, behind a small HTTP server on loopback that can also misbehave."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONFIG = """
[tsa]
default_tsa = this
[this]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = {digests}
accuracy = secs:1
"""
Misbehave = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
Key = ec.EllipticCurvePrivateKey


def _certificate(
    name: str, key: Key, issuer: str, issuer_key: Key, *, usage: x509.ExtendedKeyUsage | None, over: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=-1 if over else 1))
    )
    if usage is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    else:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, SHA256())


def make_authority(folder: Path, *, name: str = "An authority", over: bool = False, digests: str = "sha256") -> Path:
    """Keys and certificates of an authority in *folder*; the PEM file of who vouches for it. *over*: its certificate has run out.

    Skips the test where there is no OpenSSL.
    """
    if shutil.which("openssl") is None:
        pytest.skip("nobody dates anything here: the command openssl is missing (apt-get install openssl)")
    folder.mkdir()
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    root = _certificate(name, root_key, name, root_key, usage=None, over=False)
    signer = _certificate(f"{name}: its clock", key, name, root_key, usage=usage, over=over)
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "serial").write_text("01\n")
    (folder / "ts.cnf").write_text(CONFIG.format(folder=folder, digests=digests))
    vouches = folder / "ca.pem"
    vouches.write_bytes(root.public_bytes(Encoding.PEM))
    return vouches


async def answer_to(folder: Path, query: bytes) -> bytes:
    """What the authority in *folder* answers to *query* (DER)."""
    (folder / "query.tsq").write_bytes(query)
    process = await asyncio.create_subprocess_exec(
        "openssl", "ts", "-reply", "-queryfile", str(folder / "query.tsq"), "-config", str(folder / "ts.cnf"),
        "-section", "this", "-inkey", str(folder / "key.pem"), "-signer", str(folder / "signer.pem"),
        "-out", str(folder / "reply.tsr"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    assert 0 == process.returncode, said.decode()
    return (folder / "reply.tsr").read_bytes()


@dataclass
class Authority:
    """Listens at *url*. *misbehave*, when set, answers in its stead; *asked* holds every question so far."""

    folder: Path
    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    misbehave: Misbehave | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = await request.read()
        assert "application/timestamp-query" == request.content_type
        self.asked.append(query)
        if self.misbehave is not None:
            return await self.misbehave(request, query)
        return reply(await answer_to(self.folder, query))


def reply(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/timestamp-reply")


@asynccontextmanager
async def open_authority(folder: Path) -> AsyncIterator[Authority]:
    authority = Authority(folder)
    application = web.Application()
    application.router.add_post("/", authority.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        authority.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield authority
    finally:
        await runner.cleanup()
