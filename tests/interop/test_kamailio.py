"""Two gateways behind Kamailio with the files of ``dialplans/kamailio/``: calls are spread, keep to their gateway, and survive its neighbour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateways import TRUSTED, Gateway
from peers import Kamailio, Sipp
from processes import free_port, until

pytestmark = pytest.mark.interop

LINE = """
[[lines]]
name = "kamailio"
host = "127.0.0.1"
port = {port}
keepalive_s = 0
"""
AS_IT_COMES = ("-default_behaviors", "all,-abortunexp")
"""Kamailio's workers may pass a 180 on after the 200 that followed it: no reason for SIPp to end the call."""

DEAD_S = 15.0
"""OPTIONS every second, given up after 2 s, on a busy machine."""
ENDED_S = 90.0
"""OPTIONS within a call every 30 s, given up after 2 s, and 10 s until the call is ended: about 42 s."""


@dataclass
class Site:
    """Kamailio before two gateways; calls may come from the *carriers*, two ports of SIPp."""

    folder: Path
    kamailio: Kamailio
    gateways: tuple[Gateway, Gateway]
    carriers: tuple[int, int]

    def call(self, scenario: str, carrier: int = 0, **options: object) -> Sipp:
        every = {"port": self.carriers[carrier], "options": AS_IT_COMES, **options}
        return Sipp(self.folder, scenario, self.kamailio.address, **every)  # type: ignore[arg-type]

    def answered(self) -> tuple[int, int]:
        """How many calls each gateway has answered."""
        one, two = (sum(event["event"] == "answered" for event in g.everything()) for g in self.gateways)
        return one, two


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port, carriers = free_port(), (free_port(), free_port())
    with (
        Gateway(tmp_path, "one", sip=TRUSTED, settings=LINE.format(port=port)) as one,
        Gateway(tmp_path, "two", sip=TRUSTED, settings=LINE.format(port=port)) as two,
        Kamailio(tmp_path, port, (one.port, two.port), carriers) as kamailio,
    ):
        opened = Site(tmp_path, kamailio, (one, two), carriers)
        until(lambda: {one.port, two.port} <= kamailio.alive(), "both gateways' answer to OPTIONS")
        yield opened


def test_calls_are_spread_and_what_belongs_to_a_call_keeps_to_its_gateway(site: Site) -> None:
    """A re-INVITE, an ACK or a BYE at the wrong gateway would be answered 481, or never."""
    with site.call("hold_in", calls=10, per_second=10) as sipp:
        sipp.finish().require()
        told = sipp.messages()
    assert (5, 5) == site.answered()
    assert 0 == told.count("SIP/2.0 481")
    assert re.search(rf"^Record-Route: <sip:127\.0\.0\.1:{site.kamailio.port};lr", told, re.MULTILINE)
    until(lambda: all(gateway.idle() for gateway in site.gateways), "the end of all calls")
    until(lambda: 0 == site.kamailio.calls(), "the end of all calls at Kamailio")


def test_a_call_of_a_gateway_goes_out_through_kamailio_to_the_carrier(site: Site) -> None:
    """The carrier is a third gateway: SIPp cannot answer Kamailio's OPTIONS beside its calls."""
    with Gateway(site.folder, "carrier", sip=TRUSTED, port=site.carriers[1]) as carrier:
        until(
            lambda: {carrier.port} == site.kamailio.alive() & set(site.carriers), "the marks on dead and living carrier"
        )
        site.gateways[0].do("call", name="out", line="kamailio", number="+821012345678")
        site.gateways[0].event("answered", name="out")
        assert "+821012345678" == carrier.event("invited")["user"]
        carrier.event("answered")
        until(lambda: 1 == site.kamailio.calls(), "the ACK at Kamailio")
        site.gateways[0].do("hangup", name="out")
        assert "hung up" == carrier.event("ended")["reason"]


def test_a_stranger_gets_nowhere(site: Site) -> None:
    with Sipp(site.folder, "refused_in", site.kamailio.address) as stranger:
        stranger.finish().require()
    assert (0, 0) == site.answered()


def test_a_gateway_is_killed_its_calls_end_and_new_ones_go_to_the_other(site: Site) -> None:
    killed, left = site.gateways
    with site.call("until_bye_in", calls=10, per_second=10, limit_s=ENDED_S) as standing:
        until(lambda: (5, 5) == site.answered(), "ten calls")
        killed.kill()
        with site.call("call_in", carrier=1, calls=20, per_second=10) as meanwhile:
            meanwhile.finish().require()
        assert 25 == site.answered()[1]
        until(lambda: killed.port not in site.kamailio.alive(), "the mark on the dead gateway", DEAD_S)
        assert left.port in site.kamailio.alive()
        until(lambda: 5 == standing.messages().count("\nBYE sip:"), "the end of the dead gateway's calls", ENDED_S)
        for event in left.everything():
            if event["event"] == "answered":
                left.do("hangup", name=event["name"])
        standing.finish().require()
    until(left.idle, "the end of all calls")
    until(lambda: 0 == site.kamailio.calls(), "the end of all calls at Kamailio")
