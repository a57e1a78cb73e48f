"""Where a request comes from, behind however many proxies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.web.remote import client_of

PROXIES = [ip_network("10.0.0.0/8"), ip_network("127.0.0.1"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("expected", "peer", "named"),
    [
        ("192.0.2.1", "192.0.2.1", []),
        ("192.0.2.1", "192.0.2.1", ["198.51.100.7"]),  # a stranger names whom it likes
        ("198.51.100.7", "127.0.0.1", ["198.51.100.7"]),
        ("198.51.100.7", "127.0.0.1", ["203.0.113.9", " 198.51.100.7"]),  # what the client itself wrote stands first
        ("198.51.100.7", "127.0.0.1", ["203.0.113.9", "198.51.100.7", "10.1.2.3"]),
        ("10.1.2.3", "127.0.0.1", ["10.1.2.3"]),
        ("127.0.0.1", "127.0.0.1", []),
        ("198.51.100.7", "127.0.0.1", ["198.51.100.7:5123"]),
        ("2001:db8::1", "fd00::2", ["[2001:db8::1]:443"]),
        ("2001:db8::1", "::ffff:127.0.0.1", ["2001:DB8:0::1"]),
        ("fe80::1", "fe80::1%eth0", []),
        ("unknown", "127.0.0.1", ["unknown"]),
        ("unknown", "127.0.0.1", ["203.0.113.9", ""]),
        ("unknown", "127.0.0.1", ["_hidden"]),
        ("unknown", "", []),
    ],
)
def test_the_nearest_that_is_no_proxy(expected: str, peer: str, named: list[str]) -> None:
    assert expected == client_of(peer, named, PROXIES)
