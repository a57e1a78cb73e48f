"""UDP ports for media: even and odd, none leaked (RFC 3550 §11)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.errors import TransportFailed
from gateway.telephony.ports import PortPair, PortRange

HOST = "127.0.0.1"
RANGE = range(21_300, 21_308)


@pytest.fixture
def taken() -> Iterator[list[PortPair]]:
    """Pairs to be closed in the end."""
    pairs: list[PortPair] = []
    yield pairs
    for pair in pairs:
        pair.rtp.close()
        pair.rtcp.close()


def reserve(ports: PortRange, taken: list[PortPair], host: str = HOST) -> PortPair:
    pair = ports.reserve(host)
    taken.append(pair)
    return pair


class TestRange:
    @given(st.integers(1024, 60_000), st.integers(0, 40))
    def test_every_pair_is_even_and_odd_within_the_range(self, first: int, length: int) -> None:
        ports = range(first, first + length)
        pairs = len(PortRange(HOST, ports))
        whole = [number for number in ports if number % 2 == 0 and number + 1 in ports]
        assert len(whole) == pairs


class TestReserving:
    def test_audio_is_even_and_reports_are_the_port_above(self, taken: list[PortPair]) -> None:
        pair = reserve(PortRange(HOST, RANGE), taken)
        assert 0 == pair.number % 2
        assert [(HOST, pair.number), (HOST, pair.number + 1)] == [s.getsockname() for s in (pair.rtp, pair.rtcp)]

    def test_no_pair_is_lent_twice(self, taken: list[PortPair]) -> None:
        ports = PortRange(HOST, RANGE)
        assert [21_300, 21_302, 21_304, 21_306] == sorted(reserve(ports, taken).number for _ in range(4))
        assert 0 == len(ports)

    def test_when_all_are_lent_it_is_said_in_words(self, taken: list[PortPair]) -> None:
        ports = PortRange(HOST, range(21_300, 21_302))
        reserve(ports, taken)
        with pytest.raises(TransportFailed, match=r"no RTP port is free: widen media\.ports"):
            ports.reserve(HOST)

    @pytest.mark.parametrize("occupied", [21_300, 21_301])
    def test_a_pair_that_another_program_holds_is_passed_over_and_kept_for_later(
        self, taken: list[PortPair], occupied: int
    ) -> None:
        ports = PortRange(HOST, range(21_300, 21_304))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((HOST, occupied))
            assert 21_302 == reserve(ports, taken).number
            with pytest.raises(TransportFailed):
                ports.reserve(HOST)
        assert 21_300 == reserve(ports, taken).number

    def test_sockets_never_block(self, taken: list[PortPair]) -> None:
        pair = reserve(PortRange(HOST, RANGE), taken)
        with pytest.raises(BlockingIOError):
            pair.rtp.recv(100)
        with pytest.raises(BlockingIOError):
            pair.rtcp.recv(100)

    @pytest.mark.parametrize(
        ("bound", "host", "address"),
        [
            ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
            ("0.0.0.0", "::1", "::"),
            ("::", "127.0.0.1", "0.0.0.0"),
            ("::", "::1", "::"),
        ],
    )
    def test_the_family_is_that_of_the_address_that_the_far_end_sees(
        self, taken: list[PortPair], bound: str, host: str, address: str
    ) -> None:
        assert address == reserve(PortRange(bound, RANGE), taken, host).rtp.getsockname()[0]


class TestReleasing:
    def test_a_pair_comes_back_after_all_others(self, taken: list[PortPair]) -> None:
        """Late packets of a call find nobody."""
        ports = PortRange(HOST, RANGE)
        ports.release(ports.reserve(HOST))
        assert [21_302, 21_304, 21_306, 21_300] == [reserve(ports, taken).number for _ in range(4)]

    def test_its_sockets_are_closed(self) -> None:
        ports = PortRange(HOST, RANGE)
        pair = ports.reserve(HOST)
        ports.release(pair)
        assert (-1, -1) == (pair.rtp.fileno(), pair.rtcp.fileno())

    def test_giving_it_back_twice_lends_it_once(self) -> None:
        ports = PortRange(HOST, RANGE)
        pair = ports.reserve(HOST)
        for _ in range(2):
            ports.release(pair)
        assert 4 == len(ports)

    def test_thousands_of_calls_leak_none(self) -> None:
        ports = PortRange(HOST, RANGE)
        for _ in range(2000):
            ports.release(ports.reserve(HOST))
        assert 4 == len(ports)


def test_draining_throws_away_what_came_so_far(taken: list[PortPair]) -> None:
    pair = reserve(PortRange(HOST, RANGE), taken)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        for sock in (pair.rtp, pair.rtcp):
            for _ in range(20):
                far.sendto(b"early", sock.getsockname())
    pair.drain()
    for sock in (pair.rtp, pair.rtcp):
        with pytest.raises(BlockingIOError):
            sock.recv(100)
