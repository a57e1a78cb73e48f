"""What `make-secrets.sh` makes, and that the composed gateway starts with it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from gateway.checks import static_faults
from gateway.settings import load_settings

DOCKER = Path(__file__).parents[2] / "docker"


def _make(folder: Path, **environment: str) -> dict[str, str]:
    """Run the script; the secrets by name."""
    subprocess.run(
        ["sh", DOCKER / "make-secrets.sh", folder],
        env={"PATH": os.environ["PATH"]} | environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_no_two_runs_make_the_same(tmp_path: Path) -> None:
    first, second = _make(tmp_path / "a"), _make(tmp_path / "b")
    assert first.keys() == second.keys()
    assert [] == [name for name in first if first[name] == second[name]]


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "gateway-db-password").write_text("chosen-by-the-operator")
    first = _make(tmp_path)
    assert "postgresql://consent_gateway:chosen-by-the-operator@" in first["CONSENT_GATEWAY__DATABASE__DSN"]
    assert first == _make(tmp_path)


def test_only_the_owner_looks_into_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    _make(folder)
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert {0o444} == {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_the_composed_gateway_starts_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _make(tmp_path, CONSENT_NET="10.9.8")
    for name, value in made.items():
        if name.startswith("CONSENT_GATEWAY__"):
            monkeypatch.setenv(name, value.strip())
    settings = load_settings(DOCKER / "gateway.toml")
    assert [] == static_faults(settings)
    assert "10.9.8.20" == settings.lines[0].host
    assert f"password = {made['gateway-calls-asterisk']}\n" in made["site_pjsip.conf"]
    assert made["gateway-calls-asterisk"] == settings.lines[0].password.get_secret_value()
    assert made["asterisk-calls-gateway"] == settings.softphones[0].password.get_secret_value()
