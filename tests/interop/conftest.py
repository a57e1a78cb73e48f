"""Real peers for the tests of this folder. A peer that is not installed fails its tests and names the mend: nothing is skipped."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "acceptance"))

from asterisk import CARRIER_HOST, GATEWAY_HOST, PHONE_HOST, Asterisk, NotInstalled, open_asterisk
from exchange import House, Houses, open_houses

FOLDER = Path(__file__).parents[2] / ".interop" / "asterisk"
_witnesses: dict[str, Callable[[], str]] = {}
"""What is to be shown when a test fails: by title, who tells."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interop: against a real peer; `make interop` installs the peers and runs these")


@pytest.fixture(scope="session")
def running_asterisk() -> Iterator[Asterisk]:
    """One Asterisk for all tests."""
    try:
        with open_asterisk(FOLDER) as opened, testifying("Asterisk's log", lambda: opened.said):
            yield opened
    except NotInstalled as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
async def asterisk(running_asterisk: Asterisk) -> AsyncIterator[Asterisk]:
    """The Asterisk, with the site as it was at first, and no call in it before and after."""
    before = running_asterisk.log
    running_asterisk.mark = len(before)
    await running_asterisk.reset_site()
    yield running_asterisk
    await running_asterisk.until(running_asterisk.is_idle, "all channels gone")


@pytest.fixture
async def houses(tmp_path: Path) -> AsyncIterator[Houses]:
    async with open_houses(tmp_path) as opened:
        yield opened


@pytest.fixture
async def gateway(asterisk: Asterisk, houses: Houses) -> House:
    """The gateway with Asterisk as its trunk, and known there as one."""
    house = await houses.open(GATEWAY_HOST, asterisk.line("consent", from_user="15880000"))
    await asterisk.set_site({"site-consent-aor": {"contact": house.uri}})
    return house


@pytest.fixture
async def subscriber(asterisk: Asterisk, houses: Houses) -> House:
    """The carrier with a subscriber behind it, whose number comes without the +."""
    house = await houses.open(CARRIER_HOST, asterisk.line(from_user="821090000001"))
    await asterisk.set_site({"site-carrier-aor": {"contact": house.uri}})
    return house


@pytest.fixture
async def agent(asterisk: Asterisk, houses: Houses) -> House:
    """A person's phone, registered at Asterisk as 7100."""
    house = await houses.open(PHONE_HOST, asterisk.line("7100", register=True))
    await asterisk.until(
        lambda: asterisk.shows("pjsip show aor 7100", house.uri.removeprefix("sip:")), "7100 registered"
    )
    return house


@contextmanager
def testifying(title: str, said: Callable[[], str]) -> Iterator[None]:
    """While this is open, tests that fail show the end of what *said* gives."""
    _witnesses[title] = said
    try:
        yield
    finally:
        del _witnesses[title]


@pytest.fixture(scope="session")
def testify() -> Callable[[str, Callable[[], str]], AbstractContextManager[None]]:
    """For tests with parties of their own, see :func:`testifying`."""
    return testifying


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that fails shows what its peers said meanwhile."""
    report = yield
    if report.failed:
        report.sections += [(title, said()[-20_000:]) for title, said in _witnesses.items()]
    return report
