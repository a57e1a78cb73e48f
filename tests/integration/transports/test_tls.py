"""SIP over TLS on loopback: what certificates prove, and connections that are used again (RFC 5922, RFC 5923)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sip_peers import V4, Authority, Dial, Host, Stream, message, until

from gateway.telephony.errors import TransportFailed
from gateway.telephony.transport import Hop, TlsTerms, Transports


class TestTls:
    """RFC 5922: a certificate has to prove the domain that is asked for."""

    async def test_messages_go_both_ways_over_one_connection(self, authority: Authority) -> None:
        async with Host(tls=authority.terms(V4)) as us, Host(tls=authority.terms("pbx.example.com", V4)) as them:
            us.send(message("ask"), them.hop("tls", name=V4))
            data, source = await them.next()
            assert (message("ask"), "tls") == (data, source.transport)
            them.send(message("answer"), source)
            assert message("answer") == (await us.next())[0]
            assert (1, 1) == (len(us.transports), len(them.transports))

    async def test_the_domain_that_was_asked_for_is_proven(self, authority: Authority) -> None:
        async with Host(tls=authority.terms(V4)) as us, Host(tls=authority.terms("pbx.example.com")) as them:
            us.send(message(), them.hop("tls", name="pbx.example.com"))
            assert message() == (await them.next())[0]

    async def test_another_domain_is_refused(self, authority: Authority) -> None:
        async with Host(tls=authority.terms(V4)) as us, Host(tls=authority.terms("pbx.example.com")) as them:
            us.send(message(), them.hop("tls", name="bank.example.com"))
            await until(lambda: us.failed == 1)
            assert [] == them.got

    async def test_a_connection_proven_for_one_domain_is_not_used_for_another(self, authority: Authority) -> None:
        async with Host(tls=authority.terms(V4)) as us, Host(tls=authority.terms("pbx.example.com")) as them:
            us.send(message("one"), them.hop("tls", name="pbx.example.com"))
            await them.next()
            us.send(message("two"), them.hop("tls", name="bank.example.com"))
            await until(lambda: us.failed == 1)
            assert [] == them.got

    async def test_an_authority_that_we_do_not_believe_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        stranger = Authority(tmp_path, "theirs")
        async with Host(tls=authority.terms(V4)) as us, Host(tls=stranger.terms("pbx.example.com", V4)) as them:
            us.send(message(), them.hop("tls", name=V4))
            await until(lambda: us.failed == 1)

    async def test_plain_octets_to_the_port_of_tls_reach_nobody(self, authority: Authority, dial: Dial) -> None:
        async with Host(tls=authority.terms(V4)) as us:
            stream: Stream = await dial(us.hop("tls").address)
            stream.writer.write(message())
            assert await stream.closed()
            assert [] == us.got

    async def test_a_client_has_to_show_a_certificate_where_that_is_demanded(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        stranger = Authority(tmp_path, "theirs").terms("stranger.example.com", ca=authority.file)
        demanding = authority.terms("pbx.example.com", V4, verify_clients=True)
        async with Host(tls=demanding) as them, Host(tls=authority.terms(V4)) as us, Host(tls=stranger) as other:
            us.send(message("known"), them.hop("tls", name=V4))
            assert message("known") == (await them.next())[0]
            other.send(message("unknown"), them.hop("tls", name=V4))
            await until(lambda: other.failed > 0 or not len(other.transports))
            assert [] == them.got

    @pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
    async def test_a_file_that_is_missing_is_named(self, authority: Authority, tmp_path: Path, missing: str) -> None:
        terms = authority.terms(V4)
        files = {"certificate": terms.certificate, "key": terms.key, "ca": terms.ca}
        files[missing] = tmp_path / "missing.pem"
        broken = Transports(lambda *_: None, (V4, 0), TlsTerms((V4, 0), **files))  # type: ignore[arg-type]
        with pytest.raises(TransportFailed, match=r"sip\.tls_certificate"):
            await broken.start()
        broken.close()


class TestConnectionReuse:
    """RFC 5923: requests go over a connection that the far end opened, for the names that its certificate proves."""

    async def test_a_proven_peer_is_reached_over_its_own_connection(self, authority: Authority) -> None:
        async with (
            Host(tls=authority.terms("pbx.example.com", V4)) as us,
            Host(tls=authority.terms("trunk.example.com", V4)) as them,
        ):
            them.send(message("ask"), us.hop("tls", name=V4))
            _, source = await us.next()
            for name in ("trunk.example.com", V4):
                us.transports.alias(source, 5061)
                us.send(message(name), Hop(V4, 5061, "tls", name))
                assert message(name) == (await them.next())[0]
            assert 1 == len(us.transports)

    async def test_a_name_that_it_does_not_prove_is_not_reached_over_it(self, authority: Authority) -> None:
        async with (
            Host(tls=authority.terms("pbx.example.com", V4)) as us,
            Host(tls=authority.terms("trunk.example.com")) as them,
        ):
            them.send(message("ask"), us.hop("tls", name=V4))
            _, source = await us.next()
            us.transports.alias(source, them.transports.tls_port or 0)
            us.send(message(), them.hop("tls", name="bank.example.com"))
            await until(lambda: us.failed == 1)
            assert [] == them.got

    async def test_a_peer_over_tcp_proves_nothing(self, us: Host, them: Host) -> None:
        them.send(message("ask"), us.hop("tcp"))
        _, source = await us.next()
        us.transports.alias(source, 5060)
        assert not us.transports.connected(Hop(V4, 5060, "tcp"))

    async def test_when_it_is_gone_the_peer_is_dialled(self, authority: Authority) -> None:
        async with (
            Host(tls=authority.terms("pbx.example.com", V4)) as us,
            Host(tls=authority.terms("trunk.example.com", V4)) as them,
        ):
            them.send(message("ask"), us.hop("tls", name=V4))
            _, source = await us.next()
            us.transports.alias(source, them.transports.tls_port or 0)
            for connection in set(them.transports._connections.values()):
                connection.close()
            await until(lambda: not len(us.transports))
            us.send(message("again"), them.hop("tls", name=V4))
            assert message("again") == (await them.next())[0]
