"""The notary: what the ledger has come to is made leaves, signed, and dated by somebody else; and what happens when that fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
import structlog
from aiohttp import web
from authority import Authority, answer_to, make_authority, open_authority, reply
from commands import logs_as_they_were
from engines import KEYRING, START, Clock, challenged, confirmed, count, ordered
from structlog.testing import capture_logs

from gateway.checks import static_faults
from gateway.engine import Engine
from gateway.ledger import merkle, note
from gateway.ledger.errors import BadTimestamp
from gateway.ledger.timestamping import Question, check_token, read_roots
from gateway.notary import LARGEST_ANSWER, Notary
from gateway.settings import load_settings
from gateway.settings_sections import Ledger
from gateway.store import tree
from gateway.store.postgres import Endpoint

ORIGIN = "consent-gateway/ledger"
VERIFIER = note.verifier_of(KEYRING.signer, ORIGIN)
BOUND_S = 60.0


@pytest.fixture(autouse=True)
def _every_line_is_logged() -> Iterator[None]:
    """Whatever other tests have made of the log of this process."""
    with logs_as_they_were():
        structlog.reset_defaults()
        yield


def now() -> datetime:
    return datetime.now(UTC)


def notary_on(engine: Engine, clock: Callable[[], datetime] = now, **settings: object) -> Notary:
    return Notary(engine.database, KEYRING, Ledger.model_validate(settings), clock)


async def root_of(engine: Engine) -> tuple[int, bytes]:
    """The tree of all leaves, folded from the events themselves."""
    rows = await engine.database.pool.fetch(
        "SELECT hash FROM consent.leaves JOIN consent.events USING (order_id, seq) ORDER BY leaf"
    )
    leaves = [merkle.leaf_hash(bytes.fromhex(row["hash"])) for row in rows]
    return len(leaves), _fold(leaves)


def _fold(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    middle = 1
    while 2 * middle < len(leaves):
        middle *= 2
    return merkle.node_hash(_fold(leaves[:middle]), _fold(leaves[middle:]))


def said(signed: tree.Signed) -> note.Checkpoint:
    return note.parse_checkpoint(note.verify(signed.note, VERIFIER))


class Pauses:
    """Stands in for the time between two attempts: notes how long it would have been, and lets the world go on."""

    def __init__(self, most: int) -> None:
        self.seconds: list[float] = []
        self.over = asyncio.Event()
        self._most = most

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) >= self._most:
            self.over.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class TestSigning:
    async def test_an_empty_ledger_has_no_checkpoint(self, engine: Engine) -> None:
        assert await notary_on(engine).bring_up_to_date() is None

    async def test_what_is_pending_becomes_leaves_under_a_signed_checkpoint(self, engine: Engine) -> None:
        await confirmed(engine)
        signed = await notary_on(engine).bring_up_to_date()
        assert signed is not None
        checkpoint = said(signed)
        assert (ORIGIN, signed.size, 18) == (checkpoint.origin, checkpoint.size, signed.size)
        assert (18, checkpoint.root) == await root_of(engine)
        assert 0 == await count(engine, "pending_leaves")

    async def test_many_are_taken_batch_by_batch(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """The size of a batch is a default of tree.sequence, and what tells that there may be more."""
        for phone in range(5):
            await challenged(engine, f"+8210000000{phone:02d}")
        batches: list[int] = []
        whole = tree.sequence

        async def sequence(connection: asyncpg.Connection) -> int:
            batches.append(await whole(connection, 32))
            return batches[-1]

        monkeypatch.setattr(tree, "MOST_AT_ONCE", 32)
        monkeypatch.setattr(tree, "sequence", sequence)
        signed = await notary_on(engine).bring_up_to_date()
        assert signed is not None
        events = await count(engine, "events")
        assert ([32] * (events // 32) + [events % 32], events) == (batches, signed.size)
        assert (signed.size, said(signed).root) == await root_of(engine)
        assert 1 == await count(engine, "checkpoints")

    async def test_while_nothing_is_new_the_checkpoint_stays_as_it_is(self, engine: Engine, clock: Clock) -> None:
        await ordered(engine)
        notary = notary_on(engine, clock)
        first = await notary.bring_up_to_date()
        clock.forward(hours=1)
        assert first == await notary.bring_up_to_date()
        assert (1, START) == (await count(engine, "checkpoints"), first.at if first else None)

    async def test_two_at_once_make_one_tree(self, engine: Engine) -> None:
        first, second = notary_on(engine), notary_on(engine)
        sizes: set[int] = set()
        for phone in range(6):
            await challenged(engine, f"+8210000000{phone:02d}")
            one, other = await asyncio.gather(first.bring_up_to_date(), second.bring_up_to_date())
            assert one is not None
            assert one == other
            sizes.add(one.size)
        events = await count(engine, "events")
        assert (events, 6) == (max(sizes), len(sizes))
        assert 6 == await count(engine, "checkpoints")
        last = await notary_on(engine).bring_up_to_date()
        assert last is not None
        assert (last.size, said(last).root) == await root_of(engine)

    async def test_it_keeps_pace_with_those_who_write(self, engine: Engine) -> None:
        """Appends and signing at the same time: every checkpoint grows from the one before."""
        notary = notary_on(engine)
        writers = [asyncio.create_task(confirmed(engine, f"+8210000000{phone:02d}")) for phone in range(8)]
        while not all(writer.done() for writer in writers):
            await notary.bring_up_to_date()
        await asyncio.gather(*writers)
        await notary.bring_up_to_date()
        rows = await engine.database.pool.fetch("SELECT note FROM consent.checkpoints ORDER BY size")
        grown = [note.parse_checkpoint(note.verify(row["note"], VERIFIER)) for row in rows]
        async with engine.database.pool.acquire() as connection:
            for older, newer in pairwise(grown):
                proof = await tree.consistency_proof(connection, older.size, newer.size)
                merkle.verify_consistency(older.size, newer.size, older.root, newer.root, proof)
        assert (await count(engine, "events"), grown[-1].root) == await root_of(engine)


class TestOverTime:
    async def test_it_goes_on_as_often_as_the_settings_say(self, engine: Engine) -> None:
        await ordered(engine)
        pauses = Pauses(4)
        notary = Notary(engine.database, KEYRING, Ledger(checkpoint_s=7.0), now, sleep=pauses)
        await _run(notary, pauses.over)
        assert ([7.0] * 4, 1) == (pauses.seconds, await count(engine, "checkpoints"))

    async def test_it_outlives_a_lost_database(self, engine: Engine, postgres: Endpoint) -> None:
        """Nobody may connect, and whoever was connected is thrown out; then all is as before."""
        name = await engine.database.pool.fetchval("SELECT current_database()")
        admin = await asyncpg.connect(postgres.dsn())
        await ordered(engine)
        notary = Notary(engine.database, KEYRING, Ledger(checkpoint_s=0.1), now)
        with capture_logs() as logs:
            running = asyncio.create_task(notary.keep_current())
            try:
                await _until(engine, 1)
                await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
                async with asyncio.timeout(BOUND_S):
                    while not any("ledger.not_signed" == line["event"] for line in logs):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert not running.done()
                await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
                await _ordered_again(engine)
                await _until(engine, 2)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await admin.close()
        assert 0 == await count(engine, "pending_leaves")

    async def test_it_outlives_a_tree_that_somebody_has_damaged(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        await ordered(engine)
        await notary_on(engine).bring_up_to_date()
        await owner.execute("SET session_replication_role = replica")
        [node] = await owner.fetch("DELETE FROM consent.nodes RETURNING *")
        await ordered(engine, "+821000000001")
        pauses = Pauses(3)
        with capture_logs() as logs:
            await _run(Notary(engine.database, KEYRING, Ledger(checkpoint_s=0.1), now, sleep=pauses), pauses.over)
        assert ["ledger.not_signed"] * 3 == [line["event"] for line in logs if line["log_level"] == "error"]
        await owner.execute("INSERT INTO consent.nodes VALUES ($1, $2, $3)", *node)
        signed = await notary_on(engine).bring_up_to_date()
        assert 2 == (signed.size if signed else 0)


async def _ordered_again(engine: Engine) -> None:
    """An order, as soon as the pool has connections that live."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                await ordered(engine, "+821000000001")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.05)
            else:
                return


async def _until(engine: Engine, checkpoints: int) -> None:
    """Wait for so many."""
    async with asyncio.timeout(BOUND_S):
        while await count(engine, "checkpoints") < checkpoints:  # noqa: ASYNC110 - another task writes them
            await asyncio.sleep(0.05)


async def _run(notary: Notary, over: asyncio.Event) -> None:
    """Let it work until *over* is set."""
    running = asyncio.create_task(notary.keep_current())
    try:
        async with asyncio.timeout(BOUND_S):
            await over.wait()
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def vouches(tmp_path: Path) -> Path:
    return make_authority(tmp_path / "authority")


@pytest.fixture
async def authority(vouches: Path) -> AsyncIterator[Authority]:
    async with open_authority(vouches.parent) as opened:
        yield opened


@pytest.fixture
def dated(engine: Engine, authority: Authority, vouches: Path) -> Callable[..., Notary]:
    """A notary whose checkpoints *authority* dates."""

    def made(clock: Callable[[], datetime] = now, **settings: object) -> Notary:
        return notary_on(
            engine, clock, **{"timestamp_url": authority.url, "timestamp_ca": str(vouches), "timestamp_s": 3600} | settings
        )  # fmt: skip

    return made


async def stamps(engine: Engine) -> list[asyncpg.Record]:
    return await engine.database.pool.fetch(
        "SELECT size, token, timestamps.at, note FROM consent.timestamps JOIN consent.checkpoints USING (size) ORDER BY size"
    )


class TestDating:
    async def test_the_newest_checkpoint_is_dated(
        self, engine: Engine, dated: Callable[..., Notary], vouches: Path, tmp_path: Path
    ) -> None:
        await confirmed(engine)
        notary, before = dated(), now()
        signed = await notary.bring_up_to_date()
        assert signed is not None
        assert await notary.stamp() is True
        [row] = await stamps(engine)
        assert (18, signed.note) == (row["size"], row["note"])
        assert abs(row["at"] - before) < timedelta(minutes=5)
        assert row["at"] == check_token(row["token"], signed.note.encode(), read_roots(vouches)).at
        assert await _openssl_agrees(tmp_path, row["token"], signed.note, vouches)
        assert not await _openssl_agrees(tmp_path, row["token"], signed.note + " ", vouches)

    async def test_an_empty_ledger_asks_nobody(self, dated: Callable[..., Notary], authority: Authority) -> None:
        assert (False, []) == (await dated().stamp(), authority.asked)

    async def test_it_is_done_once_for_a_checkpoint(
        self, engine: Engine, dated: Callable[..., Notary], authority: Authority
    ) -> None:
        await ordered(engine)
        notary = dated(timestamp_s=1)
        await notary.bring_up_to_date()
        assert [True, False] == [await notary.stamp(), await notary.stamp()]
        assert 1 == len(authority.asked)

    async def test_the_next_one_is_dated_when_the_last_is_old_enough(
        self, engine: Engine, dated: Callable[..., Notary]
    ) -> None:
        clock = _clock_at(now())
        notary = dated(clock)
        for hours, phone, expected in ((0, 0, True), (0.5, 1, False), (0.6, 2, True)):
            clock.forward(hours=hours)
            await ordered(engine, f"+8210000000{phone:02d}")
            await notary.bring_up_to_date()
            assert expected is await notary.stamp()
        assert [1, 3] == [row["size"] for row in await stamps(engine)]

    async def test_what_another_gateway_had_dated_counts(
        self, engine: Engine, dated: Callable[..., Notary], authority: Authority
    ) -> None:
        await ordered(engine)
        await dated().bring_up_to_date()
        assert await dated().stamp() is True
        await ordered(engine, "+821000000001")
        await dated().bring_up_to_date()
        assert (False, 1) == (await dated().stamp(), len(authority.asked))

    async def test_two_at_once_keep_one(
        self, engine: Engine, dated: Callable[..., Notary], authority: Authority
    ) -> None:
        meeting = asyncio.Barrier(2)

        async def both(request: web.Request, query: bytes) -> web.Response:
            async with asyncio.timeout(BOUND_S):
                await meeting.wait()
            async with turn:
                return reply(await answer_to(authority.folder, query))

        turn, authority.misbehave = asyncio.Lock(), both
        await ordered(engine)
        first, second = dated(), dated()
        await first.bring_up_to_date()
        assert [True, True] == await asyncio.gather(first.stamp(), second.stamp())
        assert 1 == len(await stamps(engine))

    async def test_a_clock_that_is_not_ours_is_told_of_and_asked_no_more_than_otherwise(
        self, engine: Engine, dated: Callable[..., Notary], authority: Authority, clock: Clock
    ) -> None:
        """Ours is years behind: what the authority says stands, and it is not asked at every checkpoint because of that."""
        notary = dated(clock)
        with capture_logs() as logs:
            for phone in range(3):
                await ordered(engine, f"+8210000000{phone:02d}")
                await notary.bring_up_to_date()
                await notary.stamp()
                clock.forward(seconds=10)
        assert (1, 1) == (len(authority.asked), len(await stamps(engine)))
        [line] = [line for line in logs if "ledger.clocks_apart" == line["event"]]
        assert START.isoformat() == line["ours"]

    async def test_a_clock_of_ours_that_jumped_back_holds_nothing_up(
        self, engine: Engine, dated: Callable[..., Notary]
    ) -> None:
        clock = _clock_at(now() + timedelta(days=700))
        notary = dated(clock)
        await ordered(engine)
        await notary.bring_up_to_date()
        assert await notary.stamp() is True
        clock.forward(days=-690)
        await ordered(engine, "+821000000001")
        await notary.bring_up_to_date()
        assert await notary.stamp() is True


def _clock_at(time: datetime) -> Clock:
    clock = Clock()
    clock.time = time
    return clock


async def _openssl_agrees(folder: Path, token: bytes, text: str, vouches: Path) -> bool:
    """As anybody would verify it, whom nobody told of this project."""
    (folder / "token.tsr").write_bytes(token)
    (folder / "checkpoint").write_text(text)
    process = await asyncio.create_subprocess_exec(
        "openssl", "ts", "-verify", "-data", str(folder / "checkpoint"), "-in", str(folder / "token.tsr"),
        "-CAfile", str(vouches), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await process.communicate()
    return process.returncode == 0


def answering(body: bytes, status: int = 200) -> Callable[..., Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request, _query: bytes) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return answer


async def endless(request: web.Request, _query: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(1000):
            await response.write(bytes(LARGEST_ANSWER))
    except (ConnectionError, OSError):
        pass  # the notary has heard enough
    return response


def _another_imprint(query: bytes) -> bytes:
    """The same question about something else: imprint and nonce stand in it as they are."""
    imprint = query.index(bytes.fromhex("0420")) + 2
    return query[:imprint] + bytes(32) + query[imprint + 32 :]


class TestBadAnswers:
    async def refused(self, engine: Engine, notary: Notary, words: str) -> None:
        """Not kept, and the next good answer is."""
        await ordered(engine)
        await notary.bring_up_to_date()
        with pytest.raises(BadTimestamp, match=words):
            await notary.stamp()
        assert [] == await stamps(engine)

    @pytest.mark.parametrize(
        ("misbehave", "words"),
        [
            pytest.param(answering(b""), "no proof", id="nothing"),
            pytest.param(answering(b"<html>please pay</html>"), "no proof", id="a page"),
            pytest.param(answering(bytes(3000)), "no proof", id="zeros"),
            pytest.param(answering(bytes.fromhex("30053003020102")), "refuses with status 2", id="a refusal"),
            pytest.param(answering(b"down", 500), "HTTP 500", id="HTTP 500"),
            pytest.param(answering(b"", 204), "HTTP 204", id="HTTP 204"),
            pytest.param(answering(bytes(LARGEST_ANSWER + 1)), "longer than 65536 octets", id="too long"),
            pytest.param(endless, "longer than 65536 octets", id="endless"),
        ],
    )
    async def test_what_is_no_time_stamp(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary], misbehave: object, words: str
    ) -> None:
        notary = dated()
        authority.misbehave = misbehave  # type: ignore[assignment]
        await self.refused(engine, notary, words)
        authority.misbehave = None
        assert await notary.stamp() is True

    async def test_a_redirect_is_not_followed(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary]
    ) -> None:
        async def elsewhere(request: web.Request, _query: bytes) -> web.Response:
            return web.Response(status=307, headers={"Location": str(request.url)})

        authority.misbehave = elsewhere
        await self.refused(engine, dated(), "HTTP 307")
        assert 1 == len(authority.asked)

    async def test_an_answer_about_something_else(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary]
    ) -> None:
        async def mistaken(_request: web.Request, query: bytes) -> web.Response:
            return reply(await answer_to(authority.folder, _another_imprint(query)))

        authority.misbehave = mistaken
        await self.refused(engine, dated(), "Mismatch between messages")

    async def test_an_answer_to_an_older_question(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary]
    ) -> None:
        """Of the same checkpoint, so that only the nonce tells them apart: it may be of any time since."""

        async def replayed(_request: web.Request, _query: bytes) -> web.Response:
            async with engine.database.pool.acquire() as connection:
                last = await tree.last_checkpoint(connection)
            assert last is not None
            return reply(await answer_to(authority.folder, Question(last.note.encode()).query))

        authority.misbehave = replayed
        await self.refused(engine, dated(), "Nonce mismatch")

    async def test_an_answer_of_another_authority(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary], tmp_path: Path
    ) -> None:
        stranger = make_authority(tmp_path / "stranger", name="A stranger").parent

        async def forged(_request: web.Request, query: bytes) -> web.Response:
            return reply(await answer_to(stranger, query))

        authority.misbehave = forged
        await self.refused(engine, dated(), "no proof: Error while verifying certificates")

    async def test_a_namesake_of_the_authority(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary], tmp_path: Path
    ) -> None:
        namesake = make_authority(tmp_path / "namesake").parent

        async def forged(_request: web.Request, query: bytes) -> web.Response:
            return reply(await answer_to(namesake, query))

        authority.misbehave = forged
        await self.refused(engine, dated(), "no proof: Error while verifying certificates")

    async def test_an_authority_whose_certificate_has_run_out(self, engine: Engine, tmp_path: Path) -> None:
        vouches = make_authority(tmp_path / "old", over=True)
        async with open_authority(vouches.parent) as old:
            notary = notary_on(engine, timestamp_url=old.url, timestamp_ca=str(vouches))
            await self.refused(engine, notary, "no proof: Error while verifying certificates")

    async def test_a_refusal_in_words(self, engine: Engine, tmp_path: Path) -> None:
        """OpenSSL's own: it will not have SHA-256."""
        vouches = make_authority(tmp_path / "picky", digests="sha512")
        async with open_authority(vouches.parent) as picky:
            notary = notary_on(engine, timestamp_url=picky.url, timestamp_ca=str(vouches))
            await self.refused(engine, notary, "refuses with status 2: .*not supported")

    async def test_any_flipped_bit_of_the_signed_part(self, vouches: Path) -> None:
        """What is not refused then still says the same."""
        question, roots = Question(b"a checkpoint"), read_roots(vouches)
        answer = await answer_to(vouches.parent, question.query)
        true = question.check(answer, roots).at
        refused = 0
        for place in range(len(answer)):
            changed = answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :]
            try:
                assert true == question.check(changed, roots).at
            except BadTimestamp:
                refused += 1
        assert refused > len(answer) * 0.9

    async def test_one_that_is_kept_is_checked_without_the_question(self, vouches: Path) -> None:
        question, roots = Question(b"a checkpoint"), read_roots(vouches)
        stamp = question.check(await answer_to(vouches.parent, question.query), roots)
        assert stamp == check_token(stamp.token, b"a checkpoint", roots)
        with pytest.raises(BadTimestamp, match="Mismatch between messages"):
            check_token(stamp.token, b"another", roots)


class TestAnAuthorityThatIsDown:
    async def test_it_is_asked_ever_more_rarely(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary], vouches: Path
    ) -> None:
        authority.misbehave = answering(b"down", 503)
        await ordered(engine)
        await dated().bring_up_to_date()
        settings = Ledger.model_validate(
            {"timestamp_url": authority.url, "timestamp_ca": str(vouches), "checkpoint_s": 10, "timestamp_s": 100}
        )
        pauses = Pauses(6)
        notary = Notary(engine.database, KEYRING, settings, now, sleep=pauses)
        with capture_logs() as logs:
            await _run_only_stamps(notary, pauses.over)
        assert [20.0, 40.0, 80.0, 100.0, 100.0, 100.0] == pauses.seconds
        told = [(line["error"], line["again_s"]) for line in logs if "ledger.not_stamped" == line["event"]]
        assert [("the time-stamping authority answers HTTP 503", pause) for pause in pauses.seconds] == told
        assert 6 == len(authority.asked)

    async def test_when_it_is_back_all_is_as_before(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary], vouches: Path
    ) -> None:
        async def twice_down(_request: web.Request, query: bytes) -> web.Response:
            if len(authority.asked) <= 2:
                return web.Response(status=502)
            return reply(await answer_to(authority.folder, query))

        authority.misbehave = twice_down
        await ordered(engine)
        await dated().bring_up_to_date()
        settings = Ledger.model_validate(
            {"timestamp_url": authority.url, "timestamp_ca": str(vouches), "checkpoint_s": 10, "timestamp_s": 100}
        )
        pauses = Pauses(4)
        await _run_only_stamps(Notary(engine.database, KEYRING, settings, now, sleep=pauses), pauses.over)
        assert ([20.0, 40.0, 10.0, 10.0], 1) == (pauses.seconds, len(await stamps(engine)))

    async def test_checkpoints_are_signed_while_it_takes_its_time(
        self, engine: Engine, authority: Authority, dated: Callable[..., Notary]
    ) -> None:
        asked, release = asyncio.Event(), asyncio.Event()

        async def slow(_request: web.Request, _query: bytes) -> web.Response:
            asked.set()
            async with asyncio.timeout(BOUND_S):
                await release.wait()
            return web.Response(status=500)

        authority.misbehave = slow
        await ordered(engine)
        notary = dated(checkpoint_s=0.1)
        running = asyncio.create_task(notary.keep_current())
        try:
            async with asyncio.timeout(BOUND_S):
                await asked.wait()
            for phone in (1, 2):
                await ordered(engine, f"+8210000000{phone:02d}")
                await _until(engine, phone + 1)
            assert 1 == len(authority.asked)
        finally:
            release.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def test_one_that_takes_too_long_is_given_up(
        self, engine: Engine, authority: Authority, vouches: Path
    ) -> None:
        release = asyncio.Event()

        async def never(_request: web.Request, _query: bytes) -> web.Response:
            async with asyncio.timeout(BOUND_S):
                await release.wait()
            return web.Response(status=500)

        authority.misbehave = never
        settings = Ledger.model_validate({"timestamp_url": authority.url, "timestamp_ca": str(vouches)})
        notary = Notary(engine.database, KEYRING, settings, now, timeout_s=0.3)
        await ordered(engine)
        await notary.bring_up_to_date()
        with pytest.raises(TimeoutError):
            await notary.stamp()
        release.set()
        assert [] == await stamps(engine)

    async def test_whoever_does_not_listen_is_named(self, engine: Engine, vouches: Path, unused_tcp_port: int) -> None:
        await ordered(engine)
        settings = Ledger.model_validate(
            {"timestamp_url": f"http://127.0.0.1:{unused_tcp_port}/", "timestamp_ca": str(vouches)}
        )
        await notary_on(engine).bring_up_to_date()
        pauses = Pauses(1)
        with capture_logs() as logs:
            await _run_only_stamps(Notary(engine.database, KEYRING, settings, now, sleep=pauses), pauses.over)
        [line] = [line for line in logs if "ledger.not_stamped" == line["event"]]
        assert f"127.0.0.1:{unused_tcp_port}" in line["error"]

    async def test_certificates_that_went_away_meanwhile_stop_nothing(
        self, engine: Engine, authority: Authority, vouches: Path
    ) -> None:
        settings = Ledger.model_validate({"timestamp_url": authority.url, "timestamp_ca": str(vouches)})
        vouches.unlink()  # noqa: ASYNC240
        await ordered(engine)
        await notary_on(engine).bring_up_to_date()
        pauses = Pauses(2)
        with capture_logs() as logs:
            await _run_only_stamps(Notary(engine.database, KEYRING, settings, now, sleep=pauses), pauses.over)
        told = [line["error"] for line in logs if "ledger.not_stamped" == line["event"]]
        assert (2, True, []) == (len(told), all(str(vouches) in text for text in told), authority.asked)


async def _run_only_stamps(notary: Notary, over: asyncio.Event) -> None:
    """The half of :meth:`Notary.keep_current` that has checkpoints dated: its pauses alone are looked at."""
    settings = notary._settings
    work = notary._for_ever(notary.stamp, "ledger.not_stamped", max(settings.checkpoint_s, settings.timestamp_s))
    running = asyncio.create_task(work)
    try:
        async with asyncio.timeout(BOUND_S):
            await over.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestTheCheck:
    """`consent-gateway check`, and `serve` before it starts."""

    def faults(self, folder: Path, **changes: str) -> list[str]:
        file = folder / "gateway.toml"
        ledger = {"timestamp_url": "http://tsa.example/", "timestamp_ca": str(folder / "ca.pem")} | changes
        file.write_text("[ledger]\n" + "".join(f'{name} = "{value}"\n' for name, value in ledger.items()))
        return [fault for fault in static_faults(load_settings(file)) if fault.startswith("ledger.")]

    def test_what_can_be_dated_is_no_fault(self, vouches: Path) -> None:
        assert [] == self.faults(vouches.parent)

    def test_without_the_extra_the_mend_is_named(self, vouches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "rfc3161_client", None)
        [fault] = self.faults(vouches.parent)
        assert "rfc3161-client is not installed; pip install 'consent-gateway[timestamps]'" in fault

    def test_certificates_that_are_not_there(self, tmp_path: Path) -> None:
        [fault] = self.faults(tmp_path)
        assert fault.startswith("ledger.timestamp_ca: ")
        assert str(tmp_path / "ca.pem") in fault

    @pytest.mark.parametrize(
        "content", ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    )
    def test_certificates_that_are_none(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "ca.pem").write_text(content)
        [fault] = self.faults(tmp_path)
        assert f"ledger.timestamp_ca: {tmp_path / 'ca.pem'}: no PEM file of certificates" in fault

    @pytest.mark.parametrize("url", ["tsa.example", "ftp://tsa.example/", "http://", "http:///tsr"])
    def test_an_address_that_is_none(self, vouches: Path, url: str) -> None:
        [fault] = self.faults(vouches.parent, timestamp_url=url)
        assert f"ledger.timestamp_url: {url!r} is no http:// or https:// address" == fault

    def test_a_certificate_that_stands_there_twice_counts_once(self, vouches: Path) -> None:
        twice = vouches.read_bytes() * 2
        vouches.write_bytes(twice)
        assert 1 == len(read_roots(vouches))
