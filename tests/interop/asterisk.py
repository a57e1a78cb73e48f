"""A real Asterisk 22, run by chroot in the root that `setup-asterisk.sh` unpacked, with the files of `dialplans/asterisk/`.

It speaks on addresses of its own in 127.0.0.0/8 and on free ports. Only `site_pjsip.conf`, the file made for it, is written here.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certificates import Authority

from gateway.resources import data_folder

HOST = "127.0.0.2"
"""Where Asterisk is; the other parties have addresses of their own, because it tells them apart by address."""
CARRIER_HOST = "127.0.0.3"
GATEWAY_HOST = "127.0.0.4"
PHONE_HOST = "127.0.0.5"
CONSENT_NUMBER = "15880000"
US = "+8215880000"
"""How Asterisk is known to a gateway that has no line for it."""

ECHO, RECORD, READ_KEYS, SEND_KEYS, PLAY = "600", "601", "602", "603", "604"
"""The test numbers of extensions.conf."""

KEYS = "0123456789*#ABCD"
"""What they send."""

START_S, STOP_S, WAIT_S, POLL_S = 60.0, 20.0, 30.0, 0.05
BACKSLASH = "\\"
SITE = "site_pjsip.conf"
SECRETS = {
    "consent": "the gateway calls Asterisk",
    US: "Asterisk calls the gateway",
    "7000": "of the extension",
    "7100": "of the agent",
}
"""The digest passwords of this site, by user."""


class NotInstalled(Exception):
    """The peer is missing; the message names the mend."""


@dataclass
class Asterisk:
    """A running Asterisk. *site* holds what `site_pjsip.conf` says now: section, then key and value. *mark* is how long the log was when
    this test began.
    """

    root: Path
    udp_port: int
    tls_port: int
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None
    site: dict[str, dict[str, str]] = field(default_factory=dict)
    mark: int = 0
    authority: Authority = field(init=False)
    """Certifies Asterisk, and whom Asterisk is to believe."""

    @property
    def log(self) -> str:
        return (self.root / "var/log/asterisk/messages.log").read_text(errors="replace")

    @property
    def said(self) -> str:
        """The log of this test."""
        return self.log[self.mark :]

    @property
    def spool(self) -> Path:
        return self.root / "var/spool/asterisk"

    def start(self) -> None:
        """Write the settings and run it. Raises RuntimeError with what it said when it does not come up."""
        etc = self.root / "etc/asterisk"
        shutil.rmtree(etc, ignore_errors=True)
        shutil.copytree(data_folder("dialplans") / "asterisk", etc)
        for folder in ("var/log/asterisk", "var/spool/asterisk", "run/asterisk"):
            shutil.rmtree(self.root / folder, ignore_errors=True)
            (self.root / folder).mkdir(parents=True)
        (self.root / "var/lib/asterisk/astdb.sqlite3").unlink(missing_ok=True)
        self.authority = Authority(etc / "tls")
        self.authority.certify("asterisk", self.host)
        self.write_site()
        said = self.root / "var/log/asterisk/console.log"
        with said.open("wb") as sink:
            # It dies with the tests, however they end: setpriv asks the kernel for that.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "chroot", str(self.root), "/usr/sbin/asterisk", "-f"],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if "fully booted" in run_cli(self.root, "core waitfullybooted"):
                run_cli(self.root, "pjsip set logger on")
                return
            time.sleep(POLL_S)
        self.stop()
        raise RuntimeError(f"Asterisk did not come up:\n{said.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """End it by its pid: politely, then not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    async def cli(self, command: str) -> str:
        """What the console answers to *command*."""
        return await asyncio.to_thread(run_cli, self.root, command)

    async def set_site(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Change keys of sections of the site file, and have Asterisk read it."""
        for section, keys in changes.items():
            self.site[section] = self.site.get(section, {}) | dict(keys)
        self.write_site()
        await self.cli("module reload res_pjsip.so")

    async def reset_site(self) -> None:
        """As at the start."""
        first = first_site(self.udp_port, self.tls_port)
        if self.site != first:
            self.site = first
            await self.set_site({})

    def write_site(self) -> None:
        """The site file: every section that the shipped one has, with the values of this machine."""
        lines: list[str] = []
        for section, keys in self.site.items():
            template = "(!)" if section.startswith("site-") else ""
            lines += [
                f"[{section}]{template}",
                *(f"{key} = {value.replace(';', BACKSLASH + ';')}" for key, value in keys.items()),
                "",
            ]
        (self.root / "etc/asterisk" / SITE).write_text("\n".join(lines), encoding="utf-8")

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until *holds()* (perhaps an awaitable) is true; raises TimeoutError with *what* and the end of the log."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            result = holds()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"not within {WAIT_S:.0f} s: {what}\n{self.log[-3000:]}")

    async def logged(self, text: str) -> str:
        """What stands behind *text* in the first line of this test's log that holds it."""
        await self.until(lambda: text in self.said, f"{text!r} in Asterisk's log")
        return self.said.split(text, 1)[1].split("\n", 1)[0].strip()

    def recording(self) -> bytes:
        """What the one recording of 601 holds so far, as it came; empty before there is one."""
        files = list(self.spool.glob("consent-check-*"))
        assert len(files) < 2, files
        return files[0].read_bytes() if files else b""

    def take_recording(self) -> bytes:
        """That recording, and away with it."""
        octets = self.recording()
        for file in self.spool.glob("consent-check-*"):
            file.unlink()
        return octets

    def line(self, user: str = "", **keys: Any) -> dict[str, Any]:
        """A `[[lines]]` entry that leads here; *user* proves who it is."""
        account = {"username": user, "password": SECRETS[user]} if user else {}
        return {"host": self.host, "port": self.udp_port, **account, **keys}

    async def originate(self, channel: str, check: str) -> None:
        """Call *channel* and, when it answers, connect it with the test number *check*."""
        await self.cli(f"channel originate {channel} extension {check}@consent-check")

    def give_sound(self, name: str, octets: bytes) -> None:
        """Put a sound file where Playback finds it, the only one of its stem: Playback takes any that it can convert."""
        folder = self.root / "usr/share/asterisk/sounds/en"
        for other in folder.glob(f"{Path(name).stem}.*"):
            other.unlink()
        (folder / name).write_bytes(octets)

    async def shows(self, command: str, wanted: str) -> bool:
        return wanted in await self.cli(command)

    async def reaches_gateway(self) -> None:
        """Wait until the gateway has answered an OPTIONS."""
        await self.cli("pjsip qualify consent")
        await self.until(lambda: self.shows("pjsip show contacts", "Avail"), "the gateway reachable")

    async def is_idle(self) -> bool:
        return "0 active channels" in await self.cli("core show channels count")


def run_cli(root: Path, command: str) -> str:
    done = subprocess.run(
        ["chroot", str(root), "/usr/sbin/asterisk", "-nrx", command],
        capture_output=True, text=True, errors="replace", timeout=WAIT_S, check=False,
    )  # fmt: skip
    return done.stdout


def free_ports(host: str) -> int:
    """A port that is free on *host* for UDP and TCP alike."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((host, 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind((host, port))
            except OSError:
                continue
            return port


def first_site(udp_port: int, tls_port: int) -> dict[str, dict[str, str]]:
    """The site before any test has changed it: the gateway and the carrier are nowhere yet."""
    media = {"media_address": HOST, "bind_rtp_to_media_address": "yes"}
    return {
        "site-udp": {"bind": f"{HOST}:{udp_port}"},
        "site-tcp": {"bind": f"{HOST}:{udp_port}"},
        "site-tls": {
            "bind": f"{HOST}:{tls_port}", "ca_list_file": "/etc/asterisk/tls/ca.crt",
            "cert_file": "/etc/asterisk/tls/asterisk.crt", "priv_key_file": "/etc/asterisk/tls/asterisk.key",
        },
        "site-consent": {"allow": "!all,alaw", "dtmf_mode": "rfc4733", **media},
        "site-consent-aor": {"contact": f"sip:{GATEWAY_HOST}:9"},
        "site-consent-identify": {"match": GATEWAY_HOST},
        "site-consent-calls-us": {"username": "consent", "password": SECRETS["consent"]},
        "site-we-call-consent": {"username": US, "password": SECRETS[US]},
        "site-7000-auth": {"username": "7000", "password": SECRETS["7000"]},
        "site-7100-auth": {"username": "7100", "password": SECRETS["7100"]},
        "site-carrier": {"allow": "!all,alaw", **media},
        "site-carrier-aor": {"contact": f"sip:{CARRIER_HOST}:9"},
        "site-carrier-identify": {"match": CARRIER_HOST},
    }  # fmt: skip


@contextmanager
def open_asterisk(folder: Path) -> Iterator[Asterisk]:
    """The Asterisk of *folder* (`.interop/asterisk`), started; one at a time, since its files are in one place.

    Raises NotInstalled when it is not there or cannot be run.
    """
    root = folder / "root"
    if not (folder / ".installed").is_file():
        raise NotInstalled(f"there is no Asterisk in {folder}: run `make interop` (as root), which unpacks one")
    if os.geteuid() != 0:
        raise NotInstalled("Asterisk is run by chroot, which only root may do: run `make interop` as root")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        udp_port, tls_port = free_ports(HOST), free_ports(HOST)
        asterisk = Asterisk(root, udp_port, tls_port, site=first_site(udp_port, tls_port))
        try:
            asterisk.start()
            yield asterisk
        finally:
            asterisk.stop()
