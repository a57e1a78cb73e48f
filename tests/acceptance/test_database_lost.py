"""PostgreSQL away: killed in the middle of a call and started again, and not to be had when the gateway starts."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import town as place
from town import PITCH, PROMPT_S, Phone, Town, changed, cli, descendants, heard_s, until

from gateway.demo.world import World, clip
from gateway.store.postgres import EmbeddedPostgres, Endpoint

pytestmark = pytest.mark.asyncio(loop_scope="session")
NUMBER = "+821090000501"
YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))
QUESTIONS = 4
"""The far end's turns: opening, owner, adult, and the disclosures with the consent question behind them."""


@dataclass
class Server:
    """A PostgreSQL of the test's own, that the gateway is only a client of."""

    embedded: EmbeddedPostgres
    endpoint: Endpoint

    def kill(self) -> None:
        """SIGKILL for the postmaster and everything below it: no process of it says goodbye."""
        assert self.embedded.pid is not None
        pids = [self.embedded.pid, *descendants(SimpleNamespace(pid=self.embedded.pid))]  # type: ignore[arg-type]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def start(self) -> None:
        """After a kill: its crash recovery runs."""
        self.embedded.stop()
        self.endpoint = self.embedded.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = place.open_folder()
    embedded = EmbeddedPostgres(folder / "server")
    made = Server(embedded, embedded.start())
    yield made
    embedded.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def village(server: Server) -> AsyncIterator[Town]:
    """A town whose gateway has its database elsewhere."""
    settings = place.settings

    def elsewhere(world: World, line_port: int, prompts: Path) -> str:
        text = settings(world, line_port, prompts)
        text = text.replace(f'directory = "{world.folder}/postgres/server"', f'dsn = "{server.endpoint.dsn()}"')
        text = text.replace("[sms]\n", f'[sms]\ncode_secret = "{secrets.token_urlsafe(32)}"\n')
        return f'{text}\n[ledger]\nsecret = "{secrets.token_urlsafe(32)}"\n'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "settings", elsewhere)
        async with place.open_town() as opened:
            yield opened


@dataclass
class Robbed:
    """A call whose database was killed as the subscriber began to say the phrase of consent; and what was made of it later.

    *meanwhile*: the status of a request to the API before the database was back.
    """

    order_id: str
    phone: Phone
    heard: Path
    meanwhile: int
    events: list[dict[str, Any]]
    state: str

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def robbed(village: Town, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Robbed:
    heard = tmp_path_factory.mktemp("robbed") / "heard.wav"
    order_id = await village.order(NUMBER)
    phone = await village.call_in(NUMBER, "--script", YES, "--record", str(heard))

    def questions() -> int:
        assert phone.first("ended") is None, phone.events
        return sum(event["event"] == "turn" for event in phone.events)

    await until(lambda: questions() == QUESTIONS, "the consent question")
    server.kill()
    await phone.done()
    meanwhile = await asked(village, f"/v1/orders/{order_id}")
    server.start()
    await until(lambda: over(village, order_id), "the end of the call in its record")
    return Robbed(order_id, phone, heard, meanwhile, await village.events(order_id), await village.state(order_id))


async def asked(village: Town, path: str) -> int:
    """The status of a GET."""
    key = {"Authorization": f"Bearer {village.world.api_key}"}
    async with (
        asyncio.timeout(place.WAIT_S),
        village.world.session.get(village.world.api + path, headers=key) as answer,
    ):
        return answer.status


async def over(village: Town, order_id: str) -> bool:
    """Whether the record tells the end of the call; not to be known while the gateway finds its database again."""
    return await asked(village, f"/v1/orders/{order_id}/events") == 200 and bool(
        await village.events(order_id, "call.ended")
    )


async def test_a_call_whose_database_dies_ends_politely(robbed: Robbed) -> None:
    assert "remote" == (await robbed.phone.told("ended"))["by"]
    assert PROMPT_S == pytest.approx(heard_s(robbed.heard, PITCH["goodbye_trouble"]), abs=0.15)


async def test_the_phrase_that_was_said_then_is_no_consent(robbed: Robbed) -> None:
    assert QUESTIONS == sum(event["event"] == "said" for event in robbed.phone.events)
    assert ([], [], "ordered") == (robbed.all("consent.spoken"), robbed.all("challenge.issued"), robbed.state)


async def test_the_record_tells_of_it_when_the_database_is_back(robbed: Robbed) -> None:
    [ended] = robbed.all("call.ended")
    assert ("failed", True) == (ended["outcome"], ended["reason"].startswith("the gateway failed")), ended
    assert 1 == len(robbed.all("recording.kept"))


async def test_the_api_fails_at_once_while_the_database_is_away(robbed: Robbed) -> None:
    assert robbed.meanwhile in (500, 503)


async def test_the_gateway_takes_the_next_call_and_hears_the_consent_in_it(village: Town, robbed: Robbed) -> None:
    process = village.process
    phone = await village.call_in(NUMBER, "--script", YES)
    await phone.done()
    summary = await village.reaches(robbed.order_id, "challenged", "failed", "unclear")
    assert ("challenged", 2, None) == (summary["state"], summary["calls"], process.returncode)


@dataclass
class Refused:
    """How `consent-gateway serve` ended without its database."""

    code: int
    err: str


async def served(town: Town, dsn: str) -> Refused:
    with changed(town, *dsn_of(town, dsn)) as file:
        code, _, err = await cli("serve", "--config", str(file))
        return Refused(code, err)


def dsn_of(town: Town, dsn: str) -> Iterator[tuple[str, str]]:
    """The change of the settings that makes *dsn* the address of the database."""
    found = re.search(r'^dsn = ".*"$', town.world.config.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    yield found[0], f'dsn = "{dsn}"'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def user(server: Server) -> Endpoint:
    """Of a user who needs a password."""
    admin = await asyncpg.connect(server.endpoint.dsn())
    try:
        await admin.execute("CREATE ROLE billing_gateway LOGIN PASSWORD 'right'")
        require_password(Path(await admin.fetchval("SHOW hba_file")), "billing_gateway")
        await admin.execute("SELECT pg_reload_conf()")
    finally:
        await admin.close()
    return replace(server.endpoint, user="billing_gateway")


def require_password(rules: Path, name: str) -> None:
    """The first line that fits decides, of those in pg_hba.conf."""
    rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}")


def assert_told(refused: Refused, why: str) -> None:
    """One line that says *why* and what to mend, no secret in it, exit code 1. That it is soon, :func:`town.cli` sees to."""
    assert 1 == refused.code
    assert re.fullmatch(rf"✗ database: .*({why}).*; check .*database\.dsn.*\n", refused.err), refused.err
    assert "guessed" not in refused.err


async def test_a_database_that_nobody_answers_for_is_named_at_the_start(village: Town) -> None:
    port = place.free_port()
    assert_told(await served(village, f"postgresql://gateway:guessed@127.0.0.1:{port}/consent"), "refused|failed")


async def test_a_server_that_never_says_a_word_is_given_up_at_the_start(village: Town) -> None:
    async def silence(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.close()

    stop = asyncio.Event()
    listener = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        assert_told(await served(village, f"postgresql://gateway:guessed@127.0.0.1:{port}/consent"), "no answer within")
    finally:
        stop.set()
        listener.close()
        await listener.wait_closed()


async def test_a_wrong_password_is_told_at_the_start(village: Town, user: Endpoint) -> None:
    dsn = user.dsn().replace("billing_gateway@", "billing_gateway:guessed@")
    assert_told(await served(village, dsn), 'password authentication failed for user "billing_gateway"')


async def test_a_database_that_is_not_there_is_told_at_the_start(village: Town, server: Server) -> None:
    dsn = replace(server.endpoint, database="none").dsn()
    assert_told(await served(village, dsn), 'database "none" does not exist')
