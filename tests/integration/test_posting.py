"""One POST over real sockets: what an answer becomes, and billing systems that answer badly, for ever or not at all."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from billing_bench import FarEnd, Names, Raw, Reader, Writer, far_end, raw
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook

from gateway.provisioning.delivery import KEPT_OCTETS, LONGEST_ANSWER, Answer, Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import Signer, read_secret

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SIGNER = Signer(read_secret(SECRET))
LOOPBACK = Guard(["127.0.0.0/8"])
BODY = '{"type":"consent.confirmed","name":"요금"}'.encode()
PATIENCE_S = 60.0
HUNDRED_MB = 100_000_000
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def billing() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    async with Poster(LOOPBACK) as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Poster]:
    """With a time-out that a test can wait for."""
    async with Poster(LOOPBACK, timeout_s=0.5) as made:
        yield made


async def post(poster: Poster, url: str) -> Answer:
    async with asyncio.timeout(PATIENCE_S):
        return await poster.post(Endpoint(url, SIGNER), "11111111-2222", BODY)


class TestWhatIsPosted:
    async def test_it_is_a_standard_webhook(self, poster: Poster, billing: FarEnd) -> None:
        assert (await post(poster, billing.url)).accepted
        (received,) = billing.received
        assert (BODY, "application/json", "11111111-2222") == (
            received.body, received.headers["content-type"], received.headers["webhook-id"],
        )  # fmt: skip
        assert {"type": "consent.confirmed", "name": "요금"} == Webhook(SECRET).verify(received.body, received.headers)

    async def test_the_next_one_takes_the_same_connection(self, poster: Poster, billing: FarEnd) -> None:
        for _ in range(5):
            assert (await post(poster, billing.url)).accepted
        assert (5, 1) == (len(billing.received), len(billing.connections))

    async def test_a_cookie_is_not_kept(self, poster: Poster, billing: FarEnd) -> None:
        billing.answer(200, Set_Cookie="session=1")
        for _ in range(2):
            await post(poster, billing.url)
        assert "cookie" not in billing.received[1].headers

    async def test_a_proxy_of_the_environment_is_not_used(
        self, poster: Poster, billing: FarEnd, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
        assert (await post(poster, billing.url)).accepted


class TestWhatIsKept:
    async def test_status_some_headers_the_beginning_of_the_body_and_how_long_it_took(
        self, poster: Poster, billing: FarEnd
    ) -> None:
        billing.answer(503, b"x" * 10_000, X_Request_Id="r-1", Server="billing/2", X_Secret="hush", Retry_After="120")
        answer = await post(poster, billing.url)
        assert (503, "HTTP 503", 120.0, b"x" * KEPT_OCTETS) == (
            answer.status, answer.error, answer.retry_after_s, answer.body,
        )  # fmt: skip
        assert {"x-request-id": "r-1", "server": "billing/2", "retry-after": "120"}.items() <= answer.headers.items()
        assert "x-secret" not in answer.headers
        assert answer.duration_ms >= 0

    async def test_the_reference_may_come_late_in_the_body(self, poster: Poster, billing: FarEnd) -> None:
        billing.answer(200, [b'{"note": "', b"x" * 60_000, b'", "reference": ', b'"B-7"}'])
        answer = await post(poster, billing.url)
        assert ("B-7", KEPT_OCTETS) == (answer.reference, len(answer.body))

    async def test_no_reference_is_read_from_what_was_not_accepted(self, poster: Poster, billing: FarEnd) -> None:
        billing.answer(500, b'{"reference": "B-7"}')
        assert "" == (await post(poster, billing.url)).reference

    async def test_a_date_to_come_back_is_read(self, poster: Poster, billing: FarEnd) -> None:
        when = datetime.now(UTC) + timedelta(hours=1)
        billing.answer(429, Retry_After=when.strftime("%a, %d %b %Y %H:%M:%S GMT"))
        wait = (await post(poster, billing.url)).retry_after_s
        assert wait is not None
        assert 3600 - PATIENCE_S <= wait <= 3600

    async def test_what_is_kept_harms_no_terminal(self, poster: Poster) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            text = b'{"reference": "B\\u001b[31m\\u0000-7\\ud800"}'
            await server.give(writer, HEAD + b"Server: a\x80b\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

        async with raw(habit) as server:
            answer = await post(poster, server.url)
        assert "B[31m-7?" == answer.reference
        assert answer.headers["server"].encode()

    @pytest.mark.parametrize("status", [100, 101, 301, 302, 303, 304, 307, 308, 400, 401, 404, 410, 418, 500, 599])
    async def test_only_a_2xx_is_accepted_and_no_redirect_followed(self, poster: Poster, status: int) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            head = f"HTTP/1.1 {status} X\r\nLocation: {server.url}/elsewhere\r\nContent-Length: 0\r\n\r\n"
            await server.give(writer, head.encode())

        async with raw(habit) as server:
            answer = await post(poster, server.url)
        assert (False, 1) == (answer.accepted, len(server.requests))
        assert (status == 410) == answer.gone
        assert status in (100, 101) or answer.error == f"HTTP {status}"


class TestBadBillingSystems:
    async def test_a_hundred_megabytes_cost_neither_memory_nor_time(self, poster: Poster) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"Content-Length: %d\r\n\r\n" % HUNDRED_MB)
            for _ in range(HUNDRED_MB // 100_000):
                await server.give(writer, bytes(100_000))

        async with raw(habit) as server:
            await post(poster, server.url)  # what is imported and made once is not counted
            tracemalloc.start()
            answer = await post(poster, server.url)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert (200, True, bytes(KEPT_OCTETS)) == (answer.status, answer.accepted, answer.body)
        assert server.given < HUNDRED_MB / 2, "the connection was closed, not read to its end"
        assert peak < 10_000_000

    async def test_an_endless_body_is_cut(self, poster: Poster) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                await server.give(writer, b"1000\r\n" + bytes(0x1000) + b"\r\n")

        async with raw(habit) as server:
            answer = await post(poster, server.url)
            assert (200, True) == (answer.status, answer.accepted)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*server.tasks)  # its connection was closed: it can write no more

    async def test_a_body_that_is_a_bomb_is_not_unpacked(self, poster: Poster) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        assert len(bomb) < LONGEST_ANSWER

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)

        async with raw(habit) as server:
            answer = await post(poster, server.url)
        assert (200, bomb[:KEPT_OCTETS]) == (answer.status, answer.body)

    async def test_silence_is_waited_for_no_longer_than_the_time_out(self, hasty: Poster) -> None:
        async def habit(server: Raw, reader: Reader, _: Writer) -> None:
            await server.request(reader)
            await reader.read()

        async with raw(habit) as server:
            answer = await post(hasty, server.url)
        assert (None, "no answer within 0.5 s") == (answer.status, answer.error)

    async def test_nobody_takes_the_connection(self, hasty: Poster) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = listener.getsockname()
            with socket.socket() as first, socket.socket() as second:
                for filler in (first, second):  # the queue is full: a further SYN is not answered
                    filler.setblocking(False)
                    filler.connect_ex(address)
                answer = await post(hasty, f"http://127.0.0.1:{address[1]}/")
        assert (None, "no answer within 0.5 s") == (answer.status, answer.error)

    @pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"Content-Length: 1000\r\n\r\n"])
    async def test_a_slow_loris_is_waited_for_no_longer(self, hasty: Poster, head: bytes) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, head)
            while True:
                await server.give(writer, b"a")
                await asyncio.sleep(0.02)

        async with raw(habit) as server:
            answer = await post(hasty, server.url)
            assert answer.error.endswith("within 0.5 s")
            assert not answer.accepted
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*server.tasks)

    @pytest.mark.parametrize(
        "stream",
        [b"X-Filler: " + b"a" * 1000 + b"\r\n", b"a" * 1000],
        ids=["headers", "one header"],
    )
    async def test_an_endless_header_is_refused(self, poster: Poster, stream: bytes) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"X: ")
            while True:
                await server.give(writer, stream)

        async with raw(habit) as server:
            answer = await post(poster, server.url)
            assert not answer.accepted
            assert server.given < 10_000_000
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*server.tasks)

    async def test_endless_interim_answers_end_with_the_time_out(self, hasty: Poster) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            while True:
                await server.give(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
                await asyncio.sleep(0.001)

        async with raw(habit) as server:
            assert (None, "no answer within 0.5 s") == (
                (answer := await post(hasty, server.url)).status, answer.error,
            )  # fmt: skip

    @pytest.mark.parametrize(
        "octets",
        [b"", b"\x00" * 500, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"+PONG\r\n",
         HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
         HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", HEAD + b"Content-Length: 100\r\n\r\nshort"],
    )  # fmt: skip
    async def test_what_is_no_whole_http_is_a_failure(self, poster: Poster, octets: bytes) -> None:
        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, octets)

        async with raw(habit) as server:
            answer = await post(poster, f"{server.url}?key=hush")
        assert not answer.accepted
        assert answer.error
        assert "hush" not in answer.error

    async def test_nobody_there_is_a_failure(self, poster: Poster, unused_tcp_port: int) -> None:
        answer = await post(poster, f"http://127.0.0.1:{unused_tcp_port}/")
        assert (None, True) == (answer.status, "cannot connect" in answer.error)


class TestKeptConnections:
    async def test_one_that_the_far_end_closed_meanwhile_is_not_a_failure(self, poster: Poster) -> None:
        """It closes after the second request has begun to come: only then is it known that the connection is of no use."""

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"Content-Length: 0\r\n\r\n")
            await reader.readexactly(1)

        async with raw(habit) as server:
            assert (await post(poster, server.url)).accepted
            assert (await post(poster, server.url)).accepted
        assert 2 == server.connections

    async def test_on_a_new_one_it_is(self, poster: Poster) -> None:
        async def habit(_server: Raw, reader: Reader, _: Writer) -> None:
            await reader.readexactly(1)

        async with raw(habit) as server:
            answer = await post(poster, server.url)
        assert (None, 1) == (answer.status, server.connections)
        assert answer.error


class TestTheGuard:
    async def test_without_leave_nothing_is_posted_to_loopback(self, billing: FarEnd) -> None:
        async with Poster(Guard()) as poster:
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
                answer = await post(poster, billing.url.replace("127.0.0.1", host))
                assert answer.status is None
                assert "loopback" in answer.error or "odd spelling" in answer.error
        assert [] == billing.received

    async def test_a_name_that_leads_inside_is_not_posted_to(self, billing: FarEnd) -> None:
        async with Poster(Guard(), resolver=Names(billing_example="127.0.0.1")) as poster:
            answer = await post(poster, billing.url.replace("127.0.0.1", "billing.example"))
        assert (None, True) == (answer.status, "billing.example: 127.0.0.1 is loopback" in answer.error)
        assert [] == billing.received

    async def test_a_name_is_resolved_once_and_connected_to_there(self, billing: FarEnd) -> None:
        """The answer of the name server changes at once (DNS rebinding): nobody asks a second time."""

        class Rebinding(Names):
            async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):
                found = await super().resolve(host, port, family)
                self.known[host] = "10.0.0.1"
                return found

        names = Rebinding(billing_example="127.0.0.1")
        async with Poster(LOOPBACK, resolver=names) as poster:
            answer = await post(poster, billing.url.replace("127.0.0.1", "billing.example"))
        assert (True, ["billing.example"]) == (answer.accepted, names.asked)
        assert billing.received[0].headers["host"].startswith("billing.example:")

    async def test_a_name_that_nobody_knows_is_a_failure(self) -> None:
        async with Poster(LOOPBACK, resolver=Names()) as poster:
            answer = await post(poster, "https://billing.example/")
        assert (None, True) == (answer.status, "no such name" in answer.error)

    @pytest.mark.parametrize("url", ["nowhere", "ftp://billing.example/", "http://user:hush@127.0.0.1/", "http://[::1"])
    async def test_what_is_no_web_address_is_a_failure(self, poster: Poster, url: str) -> None:
        answer = await post(poster, url)
        assert answer.status is None
        assert answer.error
        assert "hush" not in answer.error

    async def test_the_redirect_target_is_never_asked(self, poster: Poster, billing: FarEnd) -> None:
        billing.answer(307)
        assert (307, False) == ((answer := await post(poster, billing.url)).status, answer.accepted)
        assert 1 == len(billing.received)


class TestTls:
    async def test_the_certificate_is_judged_by_the_name_though_the_connection_goes_to_the_address(
        self, tmp_path: Path
    ) -> None:
        server_side, ours = certified(tmp_path, "billing.example")
        asked: list[str | None] = []
        server_side.sni_callback = lambda _socket, name, _context: asked.append(name)

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await server.give(writer, HEAD + b"Content-Length: 0\r\n\r\n")

        async with raw(habit, ssl=server_side) as server:
            names = Names(billing_example="127.0.0.1", other_example="127.0.0.1")
            url = server.url.replace("http:", "https:")
            async with Poster(LOOPBACK, resolver=names, tls=ours) as poster:
                right = await post(poster, url.replace("127.0.0.1", "billing.example"))
                wrong = await post(poster, url.replace("127.0.0.1", "other.example"))
            async with Poster(LOOPBACK, resolver=names) as poster:
                unknown = await post(poster, url.replace("127.0.0.1", "billing.example"))
        assert (True, "") == (right.accepted, right.error)
        assert ["billing.example", "other.example", "billing.example"] == asked
        for refused in (wrong, unknown):
            assert (None, True) == (refused.status, "certificate" in refused.error.lower())


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS for *name*, and a client's that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())
