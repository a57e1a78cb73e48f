"""The far ends of the interop tests: SIPp, baresip and Kamailio, as processes on loopback.

Each is ended by its own id when its ``with`` block ends, whatever happened in it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import HERE, LOCALHOST, ROOT, STOP_S, WAIT_S, Process, bound, free_port, until

PEERS = Path(os.environ.get("INTEROP_PEERS", ROOT / ".interop" / "peers"))
"""Where setup-peers.sh has put them."""

_names = itertools.count(1)


def program(name: str) -> Path:
    """The peer *name*. Fails the test when it is not installed: a proof that was skipped is no proof."""
    path = PEERS / "bin" / name
    if not path.is_file():
        pytest.fail(f"{name} is not in {PEERS}: run `make interop`, which installs it", pytrace=False)
    return path


@dataclass
class Outcome:
    """How a run of SIPp ended. *code* is 0 when every call went as the scenario says."""

    code: int
    succeeded: int
    failed: int
    story: str = field(repr=False)
    """Errors and the last messages, for a reader of the failed test."""

    def require(self) -> Outcome:
        if self.code != 0:
            pytest.fail(f"SIPp: exit {self.code}, {self.succeeded} calls succeeded, {self.failed} failed\n{self.story}")
        return self


class Sipp(Process):
    """SIPp running one scenario of ``sipp/``: towards *to* as caller, or as callee when *to* is None."""

    def __init__(
        self,
        folder: Path,
        scenario: str,
        to: tuple[str, int] | None = None,
        *,
        host: str = LOCALHOST,
        port: int = 0,
        calls: int = 1,
        per_second: float = 50,
        most: int = 1000,
        pause_ms: int = 300,
        limit_s: float = 40,
        called: str = "15880000",
        keys: dict[str, str] | None = None,
        options: Sequence[str] = (),
        transport: str = "u1",
    ) -> None:
        self.port = port or free_port(host)
        self.host = host
        self._stem = folder / f"{Path(scenario).stem}-{next(_names)}"
        every = {
            "answer_port": str(self.port), "caller": "+821012345678", "user": "gateway", "password": "secret",
            "moved_port": "0", **(keys or {}),
        }  # fmt: skip
        command: list[str | Path] = [program("sipp")]
        if to is not None:
            command += [f"{to[0]}:{to[1]}"]
        command += ["-sf", HERE / "sipp" / f"{scenario}.xml", "-i", host, "-p", str(self.port)]
        command += ["-mi", host, "-mp", str(free_port(host)), "-rtp_echo", "-t", transport, "-s", called]
        command += ["-m", str(calls), "-r", str(per_second), "-l", str(most), "-d", str(pause_ms)]
        command += ["-timeout", f"{limit_s:.0f}s", "-timeout_error", "-nostdin", "-fd", "1", "-buff_size", "4000000"]
        command += [
            "-trace_err",
            "-error_file",
            self._file("errors"),
            "-trace_msg",
            "-message_file",
            self._file("messages"),
        ]
        command += ["-trace_stat", "-stf", self._file("stat")]
        for name, value in every.items():
            command += ["-key", name, value]
        self.limit_s = limit_s
        super().__init__([*command, *options], self._file("out"), cwd=folder, env={**os.environ, "TERM": "dumb"})
        if to is None:
            self.wait_until(lambda: bound(self.host, self.port), f"SIPp on port {self.port}")

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def messages(self) -> str:
        """Everything sent and received so far."""
        return _text(self._file("messages"))

    def counts(self) -> tuple[int, int]:
        """Calls that succeeded and that failed so far, as of SIPp's last statistics line."""
        lines = _text(self._file("stat")).splitlines()
        if len(lines) < 2:
            return 0, 0
        row = dict(zip(lines[0].split(";"), lines[-1].split(";"), strict=False))
        return int(row.get("SuccessfulCall(C)") or 0), int(row.get("FailedCall(C)") or 0)

    def finish(self) -> Outcome:
        """Wait for the end of the run."""
        try:
            code = self.child.wait(self.limit_s + STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -1
        succeeded, failed = self.counts()
        story = "\n".join([_text(self._file("errors"))[-3000:], self.said()[-1500:], self.messages()[-6000:]])
        return Outcome(code, succeeded, failed, story)

    def _file(self, kind: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}.{kind}")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


class Baresip(Process):
    """baresip without a sound card: it says a WAV file of *rate* and keeps what it hears in dump-*-dec.wav of :attr:`folder`.

    Commands and events go over its ctrl_tcp module, netstrings of JSON.
    """

    MODULES = ("uuid", "account", "g711", "g722", "aufile", "aubridge", "sndfile")

    def __init__(self, folder: Path, said: Path, account: str, options: str = "", host: str = LOCALHOST) -> None:
        self.folder = folder / f"baresip-{next(_names)}"
        self.folder.mkdir()
        self.port, control = free_port(host), free_port()
        if "regint" not in options:
            options += ";regint=0"
        (self.folder / "accounts").write_text(f"<sip:{account}>;ptime=20{options}\n")
        (self.folder / "contacts").write_text("")
        lines = [
            f"sip_listen {host}:{self.port}", f"net_interface {host}", f"audio_source aufile,{said}", "audio_player aubridge,heard",
            "audio_alert aubridge,alert", f"snd_path {self.folder}", f"ctrl_tcp_listen {LOCALHOST}:{control}",
            f"module_path {PEERS}/root/usr/lib/baresip/modules", "call_max_calls 4", "rtp_ports 20000-21000",
            *(f"module {name}.so" for name in self.MODULES[2:]), *(f"module_tmp {name}.so" for name in self.MODULES[:2]),
            "module_app ctrl_tcp.so", "module_app menu.so",
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(lines) + "\n")
        super().__init__(
            [program("baresip"), "-4", "-s", "-f", self.folder],
            self.folder / "out",
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
        )
        self._link = self.wait_until(lambda: _connected(control), "baresip's control port")
        self._waiting = b""
        self.past: list[dict[str, Any]] = []

    def do(self, command: str, params: str = "") -> None:
        text = json.dumps({"command": command, "params": params, "token": str(next(_names))})
        self._link.sendall(f"{len(text)}:{text},".encode())

    def event(self, kind: str, limit_s: float = WAIT_S) -> dict[str, Any]:
        """The next event of the type *kind*: CALL_RINGING, CALL_ESTABLISHED, CALL_CLOSED, CALL_DTMF_START ..."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            length, colon, rest = self._waiting.partition(b":")
            if colon and len(rest) > int(length):
                self._waiting = rest[int(length) + 1 :]
                told = json.loads(rest[: int(length)])
                self.past.append(told)
                if told.get("type") == kind:
                    return dict(told)
                continue
            self._link.settimeout(max(0.1, end - time.monotonic()))
            try:
                more = self._link.recv(65_536)
            except TimeoutError:
                break
            if not more:
                break
            self._waiting += more
        pytest.fail(f"baresip told no {kind}; before: {self.past[-6:]}\n{self.said()[-4000:]}", pytrace=False)

    def heard(self) -> Path:
        """The WAV file of what came from the far end."""
        return until(lambda: next(iter(self.folder.glob("dump-*-dec.wav")), None), "baresip's recording")  # type: ignore[no-any-return]

    def stop(self) -> None:
        if isinstance(self._link, socket.socket):
            self._link.close()
        super().stop()


def _connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection((LOCALHOST, port), 5)
    except OSError:
        return None


class Kamailio(Process):
    """Kamailio with the shipped configuration: only addresses and intervals are put in, as an operator does."""

    SHIPPED = ROOT / "dialplans" / "kamailio"

    def __init__(
        self, folder: Path, port: int, gateways: Sequence[int], carriers: Sequence[int], ping_s: int = 1
    ) -> None:
        self.port = port
        self._control = folder / "kamailio.sock"
        targets = (self.SHIPPED / "dispatcher.list").read_text()
        shipped = ("10.0.0.6:5060", "10.0.0.7:5060", "10.0.0.5:5060", "10.0.0.8:5060")
        for address, port in zip(shipped, (*gateways, *carriers), strict=True):
            assert address in targets
            targets = targets.replace(address, f"{LOCALHOST}:{port}")
        (folder / "dispatcher.list").write_text(targets)
        defines = {
            "LISTEN": f"udp:{LOCALHOST}:{self.port}", "DISPATCHER_LIST": f'"{folder}/dispatcher.list"',
            "CONTROL": f'"unix:{self._control}"', "PING_S": str(ping_s),
        }  # fmt: skip
        modules = next(PEERS.glob("root/usr/lib/*/kamailio/modules"), None)
        command: list[str | Path] = [
            program("kamailio"),
            "-f",
            self.SHIPPED / "kamailio.cfg",
            "-L",
            modules or "",
            "-DD",
            "-E",
        ]
        command += ["-m", "64", "-M", "8", "-Y", folder, "-P", folder / "kamailio.pid"]
        for name, value in defines.items():
            command += ["-A", f"{name}={value}"]
        super().__init__(command, folder / "kamailio.out")
        self.wait_until(self._control.exists, "Kamailio's control socket")

    @property
    def address(self) -> tuple[str, int]:
        return LOCALHOST, self.port

    def ask(self, *words: str) -> str:
        """The answer of ``kamcmd`` to *words*."""
        asked = subprocess.run(
            [program("kamcmd"), "-s", f"unix:{self._control}", *words],
            capture_output=True,
            text=True,
            timeout=STOP_S,
            check=False,
        )
        return asked.stdout + asked.stderr

    def alive(self) -> set[int]:
        """The ports of the targets that get calls (flag A: active)."""
        found = re.findall(r"URI: sip:[^:]+:(\d+)\S*\s+FLAGS: (\w+)", self.ask("dispatcher.list"))
        return {int(port) for port, flags in found if flags.startswith("A")}

    def calls(self) -> int:
        """How many answered calls it knows: state 4 is a confirmed dialog."""
        return len(re.findall(r"^\s*state: 4$", self.ask("dlg.list"), re.MULTILINE))
