"""Where webhooks may be posted to: what is refused, however it is spelt, and what the settings let through (SSRF)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from gateway.provisioning.errors import TargetRefused
from gateway.provisioning.guard import Guard, GuardedResolver, RefusedError, read_url, special

PUBLIC = ("93.184.215.14", "1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0", "223.255.255.255",
          "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2a00::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e",
          "2002:5db8:d70e::1")  # fmt: skip
SPECIAL = {
    "0.0.0.0": "unspecified", "10.0.0.1": "private", "100.64.0.1": "private", "127.0.0.1": "loopback",
    "127.255.255.255": "loopback", "169.254.169.254": "link-local", "172.16.0.1": "private", "172.31.255.255": "private",
    "192.0.0.8": "reserved", "192.0.2.1": "reserved", "192.88.99.1": "reserved", "192.168.1.1": "private",
    "198.18.0.1": "reserved", "198.19.255.255": "reserved", "198.51.100.1": "reserved", "203.0.113.1": "reserved",
    "224.0.0.1": "multicast", "239.255.255.255": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "reserved",
    "::": "unspecified", "::1": "loopback", "::7f00:1": "reserved", "100::1": "reserved", "2001::1": "reserved",
    "2001:db8::1": "reserved", "3fff::1": "reserved", "4000::1": "reserved", "5f00::1": "reserved", "fc00::1": "private",
    "fd00:ec2::254": "private", "fe80::1": "link-local", "fec0::1": "private", "ff02::1": "multicast",
    "64:ff9b:1::a00:1": "reserved", "::ffff:127.0.0.1": "loopback", "::ffff:169.254.169.254": "link-local",
    "64:ff9b::10.0.0.1": "private", "64:ff9b::127.0.0.1": "loopback", "2002:7f00:1::": "loopback",
    "2002:a9fe:a9fe::1": "link-local", "2002:c0a8:101::1": "private",
}  # fmt: skip


class Names(AbstractResolver):
    """A resolver that knows what the test tells it; the name server is the seam, the guard is under test."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, proto=0, flags=0,
                          family=socket.AF_INET6 if ":" in address else socket.AF_INET)
            for address in given
        ]  # fmt: skip

    async def close(self) -> None:
        pass


class TestAddresses:
    @pytest.mark.parametrize("address", PUBLIC)
    def test_the_public_internet_is_let_through(self, address: str) -> None:
        assert "" == Guard().refusal(ipaddress.ip_address(address))

    @pytest.mark.parametrize(("address", "expected"), SPECIAL.items())
    def test_all_else_is_refused_with_its_kind(self, address: str, expected: str) -> None:
        why = Guard().refusal(ipaddress.ip_address(address))
        assert f" is {expected}" in why
        assert "provisioning.allowed_networks" in why

    @pytest.mark.parametrize("address", SPECIAL)
    def test_what_the_settings_allow_is_let_through(self, address: str) -> None:
        assert "" == Guard(["0.0.0.0/0", "::/0"]).refusal(ipaddress.ip_address(address))

    def test_one_network_is_not_another(self) -> None:
        guard = Guard(["10.1.0.0/16", "fd00:1::/32"])
        assert "" == guard.refusal(ipaddress.ip_address("10.1.2.3"))
        assert "" == guard.refusal(ipaddress.ip_address("fd00:1::9"))
        for other in ("10.2.2.3", "127.0.0.1", "fd00:2::9", "169.254.169.254"):
            assert guard.refusal(ipaddress.ip_address(other))

    def test_an_ipv4_network_is_allowed_however_ipv6_leads_there(self) -> None:
        guard = Guard(["10.1.0.0/16"])
        for address in ("::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1"):
            assert "" == guard.refusal(ipaddress.ip_address(address))
        assert guard.refusal(ipaddress.ip_address("::ffff:10.2.2.3"))

    @given(st.ip_addresses())
    def test_nothing_that_python_calls_local_is_let_through(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        """The standard library is the second opinion."""
        if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
            assert special(address)

    @given(st.ip_addresses(v=4))
    def test_hidden_in_ipv6_an_address_is_what_it_was(self, address: ipaddress.IPv4Address) -> None:
        number = int(address)
        for hidden in ((0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80)):
            assert special(address) == special(ipaddress.IPv6Address(hidden))


class TestAddressesInTheirUrl:
    @pytest.mark.parametrize(
        "host",
        ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "0", "127.0.0.1.", "10.0.0.0x1",
         "billing.example.1", "017700000001", "127.0.0.256"],
    )  # fmt: skip
    def test_odd_spellings_of_ipv4_are_refused_even_where_all_is_allowed(self, host: str) -> None:
        with pytest.raises(TargetRefused, match="odd spelling"):
            Guard(["0.0.0.0/0"]).check(f"http://{host}/hook")

    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1/", "http://127.0.0.1:8080/hook", "https://[::1]/", "http://[::ffff:127.0.0.1]/",
         "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:0:0:1]/", "http://１２７.0.0.1/", "http://127。0。0。1/",
         "http://①②⑦.0.0.1/", "http://[64:ff9b::7f00:1]/"],
    )  # fmt: skip
    def test_loopback_is_loopback_however_it_is_written(self, url: str) -> None:
        with pytest.raises(TargetRefused, match="loopback"):
            Guard().check(url)

    @pytest.mark.parametrize(
        "url", ["http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[2606:2800::1%251]/"]
    )
    def test_an_address_with_a_zone_is_refused(self, url: str) -> None:
        with pytest.raises(TargetRefused, match="zone"):
            Guard(["::/0"]).check(url)

    @pytest.mark.parametrize(
        "url",
        ["", "billing.example", "//billing.example/", "ftp://billing.example/", "file:///etc/passwd",
         "gopher://127.0.0.1/", "javascript:alert(1)", "http:///hook", "http://", "https://[::1", "http://host:99999/",
         "http://exa mple/", "http://127.0.0.1%00.example.com/", "http://ex%61mple.com/", "http://a..b/", "unix:/x"],
    )  # fmt: skip
    def test_what_is_no_web_address_is_refused(self, url: str) -> None:
        with pytest.raises(TargetRefused):
            Guard(["0.0.0.0/0", "::/0"]).check(url)

    def test_a_password_in_the_address_is_refused_and_not_repeated(self) -> None:
        with pytest.raises(TargetRefused) as refused:
            read_url("https://user:hush@billing.example/")
        assert "hush" not in str(refused.value)

    @pytest.mark.parametrize(
        "url",
        [
            "https://billing.example/hooks?a=b",
            "http://billing:8090/x",
            "https://요금.example/",
            "http://93.184.215.14/",
        ],
    )
    def test_a_usual_address_is_taken(self, url: str) -> None:
        assert url.partition("//")[0] == Guard().check(url).scheme + ":"

    @given(st.text())
    def test_whatever_is_written_is_taken_or_refused(self, text: str) -> None:
        for url in (text, f"http://{text}", f"http://[{text}]/"):
            with suppress(TargetRefused):
                assert Guard().check(url).host


class TestNames:
    async def test_a_name_of_the_public_internet_is_resolved(self) -> None:
        names = Names(PUBLIC[:2])
        found = await GuardedResolver(Guard(), names).resolve("billing.example", 443)
        assert list(PUBLIC[:2]) == [one["host"] for one in found]
        assert 1 == names.asked

    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fe80::1%eth0", "::ffff:10.0.0.1"]
    )
    async def test_a_name_that_leads_inside_is_refused(self, address: str) -> None:
        with pytest.raises(RefusedError, match=r"billing\.example: .* is "):
            await GuardedResolver(Guard(), Names([address])).resolve("billing.example", 443)

    async def test_one_address_inside_spoils_the_name(self) -> None:
        with pytest.raises(RefusedError, match=r"10\.0\.0\.1 is private"):
            await GuardedResolver(Guard(), Names(["93.184.215.14", "10.0.0.1"])).resolve("billing.example", 443)

    async def test_an_allowed_network_may_be_named(self) -> None:
        found = await GuardedResolver(Guard(["10.0.0.0/8"]), Names(["10.0.0.1"])).resolve("billing.internal", 443)
        assert ["10.0.0.1"] == [one["host"] for one in found]

    async def test_what_is_no_address_is_refused(self) -> None:
        with pytest.raises(RefusedError, match="no IP address"):
            await GuardedResolver(Guard(), Names(["localhost"])).resolve("billing.example", 443)


class TestTheSocket:
    def test_it_is_judged_whoever_chose_its_address(self) -> None:
        info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
        with pytest.raises(RefusedError, match="loopback"):
            Guard().socket(info)
        with Guard(["127.0.0.0/8"]).socket(info) as made:
            assert socket.AF_INET == made.family
