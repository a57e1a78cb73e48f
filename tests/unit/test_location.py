"""Where a SIP URI leads (RFC 3263, RFC 2782), with a resolver whose zones are written down here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from gateway.telephony import location
from gateway.telephony.errors import CallFailed
from gateway.telephony.location import MOST_HOPS, Naptr, Srv, locate
from gateway.telephony.message import parse_sip_uri
from gateway.telephony.transport import Hop
from gateway.telephony.transport import Protocol as Transport

ALL: tuple[Transport, ...] = ("udp", "tcp", "tls")


class Zone:
    """A resolver; what it was asked is kept in ``asked``. A name without addresses does not exist."""

    def __init__(
        self,
        *,
        naptr: dict[str, list[Naptr]] | None = None,
        srv: dict[str, list[Srv]] | None = None,
        addresses: dict[str, list[str]] | None = None,
    ) -> None:
        self._naptr, self._srv = naptr or {}, srv or {}
        self._addresses = addresses or {}
        self.asked: list[str] = []

    async def naptr(self, name: str) -> Sequence[Naptr]:
        self.asked.append(f"NAPTR {name}")
        return self._naptr.get(name, [])

    async def srv(self, name: str) -> Sequence[Srv]:
        self.asked.append(f"SRV {name}")
        return self._srv.get(name, [])

    async def addresses(self, name: str) -> Sequence[str]:
        self.asked.append(f"A {name}")
        if name not in self._addresses:
            raise OSError(f"{name}: Name or service not known")
        return self._addresses[name]


async def hops(uri: str, zone: Zone | None = None, own: Sequence[Transport] = ALL, seed: int = 1) -> list[Hop]:
    return await locate(parse_sip_uri(uri), zone or Zone(), Random(seed), own=own)


class TestNumericHosts:
    """RFC 3263 §4.1, §4.2: an address is used as it is, and nobody is asked."""

    @pytest.mark.parametrize(
        ("uri", "hop"),
        [
            ("sip:1@192.0.2.1", Hop("192.0.2.1", 5060)),
            ("sip:1@192.0.2.1:5080", Hop("192.0.2.1", 5080)),
            ("sip:1@192.0.2.1;transport=tcp", Hop("192.0.2.1", 5060, "tcp")),
            ("sip:1@192.0.2.1;transport=TLS", Hop("192.0.2.1", 5061, "tls", "192.0.2.1")),
            ("sips:1@192.0.2.1", Hop("192.0.2.1", 5061, "tls", "192.0.2.1")),
            ("sip:1@[2001:db8::1]", Hop("2001:db8::1", 5060)),
            ("sip:1@[2001:DB8:0::0:1]:5062", Hop("2001:db8::1", 5062)),
        ],
    )
    async def test_the_address_itself_is_the_hop(self, uri: str, hop: Hop) -> None:
        zone = Zone()
        assert [hop] == await hops(uri, zone)
        assert [] == zone.asked


class TestPorts:
    """RFC 3263 §4.2: with a port there is no SRV."""

    async def test_a_port_is_used_with_the_addresses_of_the_name(self) -> None:
        zone = Zone(addresses={"pbx.example.com": ["192.0.2.1", "2001:db8::1"]})
        assert [Hop("192.0.2.1", 5080), Hop("2001:db8::1", 5080)] == await hops("sip:1@pbx.example.com:5080", zone)
        assert ["A pbx.example.com"] == zone.asked

    async def test_tls_has_to_prove_the_name(self) -> None:
        """RFC 5922 §7.1."""
        zone = Zone(addresses={"pbx.example.com": ["192.0.2.1"]})
        assert [Hop("192.0.2.1", 5080, "tls", "pbx.example.com")] == await hops(
            "sip:1@pbx.example.com:5080;transport=tls", zone
        )


class TestNaptr:
    """RFC 3263 §4.1."""

    def zone(self, *records: Naptr) -> Zone:
        services = {name: [Srv(0, 0, port, "s")] for name, port in (("u", 1), ("t", 2), ("x", 3))}
        return Zone(naptr={"example.com": list(records)}, srv=services, addresses={"s": ["192.0.2.1"]})

    async def test_the_order_comes_before_the_preference(self) -> None:
        zone = self.zone(Naptr(20, 1, "SIP+D2U", "u"), Naptr(10, 50, "SIPS+D2T", "x"), Naptr(10, 40, "SIP+D2T", "t"))
        assert ["tcp", "tls", "udp"] == [hop.transport for hop in await hops("sip:example.com", zone)]

    async def test_the_replacement_is_what_srv_is_asked_for(self) -> None:
        zone = self.zone(Naptr(10, 10, "SIP+D2T", "t."))
        assert [Hop("192.0.2.1", 2, "tcp")] == await hops("sip:example.com", zone)
        assert ["NAPTR example.com", "SRV t", "A s"] == zone.asked

    async def test_a_transport_that_we_do_not_have_is_passed_over(self) -> None:
        zone = self.zone(Naptr(10, 10, "SIPS+D2T", "x"), Naptr(20, 10, "SIP+D2U", "u"))
        assert ["udp"] == [hop.transport for hop in await hops("sip:example.com", zone, own=("udp", "tcp"))]

    async def test_other_services_are_passed_over(self) -> None:
        zone = self.zone(Naptr(1, 1, "E2U+SIP", "e"), Naptr(2, 1, "SIP+D2S", "sctp"), Naptr(3, 1, "SIP+D2U", "u"))
        assert [Hop("192.0.2.1", 1)] == await hops("sip:example.com", zone)

    async def test_a_transport_in_the_uri_is_not_to_be_argued_with(self) -> None:
        zone = self.zone(Naptr(10, 10, "SIP+D2U", "u"))
        zone._srv["_sip._tcp.example.com"] = [Srv(0, 0, 9, "s")]
        assert [Hop("192.0.2.1", 9, "tcp")] == await hops("sip:example.com;transport=tcp", zone)
        assert "NAPTR example.com" not in zone.asked

    async def test_sips_is_tls_or_nothing(self) -> None:
        zone = Zone(srv={"_sips._tcp.example.com": [Srv(0, 0, 5071, "s")]}, addresses={"s": ["192.0.2.1"]})
        assert [Hop("192.0.2.1", 5071, "tls", "example.com")] == await hops("sips:example.com", zone)


class TestSrv:
    """RFC 2782."""

    def zone(self, *records: Srv) -> Zone:
        return Zone(
            srv={"_sip._udp.example.com": list(records)},
            addresses={
                record.target.rstrip("."): [f"192.0.2.{record.port}"] for record in records if record.port < 200
            },
        )

    async def test_without_naptr_every_transport_of_ours_is_asked_for(self) -> None:
        zone = Zone(
            srv={"_sip._tcp.example.com": [Srv(0, 0, 5070, "t")], "_sip._udp.example.com": [Srv(0, 0, 5080, "u")]},
            addresses={"t": ["192.0.2.1"], "u": ["192.0.2.2"]},
        )
        assert [Hop("192.0.2.2", 5080), Hop("192.0.2.1", 5070, "tcp")] == await hops("sip:example.com", zone)

    async def test_the_lower_priority_number_comes_first_whatever_the_weight(self) -> None:
        zone = self.zone(Srv(20, 65_535, 2, "b"), Srv(10, 0, 1, "a"))
        assert [1, 2] == [hop.port for hop in await hops("sip:example.com", zone)]

    async def test_calls_are_spread_by_weight(self) -> None:
        zone = self.zone(Srv(0, 10, 1, "light"), Srv(0, 30, 2, "heavy"))
        firsts = Counter([(await hops("sip:example.com", zone, seed=seed))[0].port for seed in range(2000)])
        assert 1500 == pytest.approx(firsts[2], rel=0.1)

    async def test_weight_0_is_chosen_seldom_but_every_target_is_in_the_list(self) -> None:
        zone = self.zone(Srv(0, 0, 1, "spare"), Srv(0, 50, 2, "main"))
        found = [[hop.port for hop in await hops("sip:example.com", zone, seed=seed)] for seed in range(200)]
        assert {(1, 2), (2, 1)} >= {tuple(ports) for ports in found}
        assert [2, 1] in found

    async def test_one_target_without_an_address_leaves_the_others(self) -> None:
        zone = self.zone(Srv(0, 0, 200, "gone.example.com"), Srv(10, 0, 7, "there.example.com"))
        assert [Hop("192.0.2.7", 7)] == await hops("sip:example.com", zone)

    async def test_a_target_that_is_an_address_is_not_asked_for(self) -> None:
        """Not allowed, but seen."""
        zone = Zone(srv={"_sip._udp.example.com": [Srv(0, 0, 5070, "192.0.2.9")]})
        assert [Hop("192.0.2.9", 5070)] == await hops("sip:example.com", zone)

    async def test_the_root_as_target_says_that_there_is_no_such_service(self) -> None:
        zone = Zone(
            srv={"_sip._udp.example.com": [Srv(0, 0, 0, ".")], "_sip._tcp.example.com": [Srv(0, 0, 5070, "t.")]},
            addresses={"t": ["192.0.2.1"]},
        )
        assert [Hop("192.0.2.1", 5070, "tcp")] == await hops("sip:example.com", zone)

    async def test_no_more_than_eight_hops_are_tried(self) -> None:
        zone = Zone(addresses={"example.com": [f"192.0.2.{n}" for n in range(1, 30)]})
        assert MOST_HOPS == len(await hops("sip:example.com", zone))


class TestAddresses:
    """RFC 3263 §4.2: without any SRV the name itself."""

    @pytest.mark.parametrize(
        ("uri", "hop"),
        [
            ("sip:example.com", Hop("192.0.2.1", 5060)),
            ("sip:example.com;transport=tcp", Hop("192.0.2.1", 5060, "tcp")),
            ("sips:example.com", Hop("192.0.2.1", 5061, "tls", "example.com")),
        ],
    )
    async def test_the_default_port_of_the_transport_is_used(self, uri: str, hop: Hop) -> None:
        assert [hop] == await hops(uri, Zone(addresses={"example.com": ["192.0.2.1"]}))


class TestFailures:
    """Each is the 503 of RFC 3263 §4.3, in words."""

    @pytest.mark.parametrize("uri", ["sip:1@nowhere.example.com", "sip:1@nowhere.example.com:5060"])
    async def test_a_name_without_an_address(self, uri: str) -> None:
        with pytest.raises(CallFailed, match=r"503 nowhere\.example\.com has no address: .*not known"):
            await hops(uri)

    @pytest.mark.parametrize("uri", ["sip:1@empty.example.com", "sip:1@empty.example.com:5060"])
    async def test_a_name_with_an_empty_answer(self, uri: str) -> None:
        with pytest.raises(CallFailed, match=r"503 empty\.example\.com has no address"):
            await hops(uri, Zone(addresses={"empty.example.com": []}))

    async def test_targets_none_of_which_has_an_address(self) -> None:
        zone = Zone(srv={"_sip._udp.example.com": [Srv(0, 0, 1, "a"), Srv(0, 0, 2, "b")]})
        with pytest.raises(CallFailed, match=r"503 example\.com has no address"):
            await hops("sip:example.com", zone)

    async def test_a_transport_that_is_not_spoken_here(self) -> None:
        with pytest.raises(CallFailed, match="503 transport=sctp is not spoken here"):
            await hops("sip:192.0.2.1;transport=sctp")

    async def test_a_name_server_that_knows_addresses_alone_costs_no_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of containers pass other questions on, to nobody where there is no network."""

        class Silent(Zone):
            async def naptr(self, name: str) -> Sequence[Naptr]:
                await asyncio.Event().wait()
                return []

        monkeypatch.setattr(location, "SERVICES_S", 0.01)
        assert [Hop("192.0.2.1", 5060)] == await hops("sip:asterisk", Silent(addresses={"asterisk": ["192.0.2.1"]}))

    async def test_one_that_says_nothing_at_all_is_no_way_to_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Silent(Zone):
            async def addresses(self, name: str) -> Sequence[str]:
                await asyncio.Event().wait()
                return []

        monkeypatch.setattr(location, "DNS_S", 0.01)
        for uri in ("sip:example.com", "sip:example.com:5060"):
            with pytest.raises(CallFailed, match=r"503 example\.com has no address: DNS does not answer"):
                await hops(uri, Silent())

    async def test_a_name_that_no_dns_can_hold(self) -> None:
        class Strict(Zone):
            async def addresses(self, name: str) -> Sequence[str]:
                return [name.encode("idna").decode()]

        with pytest.raises(CallFailed, match="503"):
            await hops(f"sip:{'a' * 70}.example.com:5060", Strict())
