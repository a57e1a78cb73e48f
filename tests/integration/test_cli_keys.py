"""``consent-gateway keys``: a key is made, used, listed and revoked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.access import SCOPES
from gateway.cli import app

TOKEN = re.compile(r"cg_([0-9a-f]{12})_[0-9a-f]{64}\n")


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""data_dir = "{tmp_path}"
[database]
dsn = "{dsn}"
[[tenants]]
id = "billing"
api_key = "a-key-of-24-octets-at-least"
webhook_url = "https://billing.example/hook"
webhook_secret = "whsec_{"A" * 32}"
"""
    )
    return file


def run(config: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["keys", *arguments, "--config", str(config)])


def made(config: Path, *more: str) -> tuple[str, str]:
    """A new key: its id, and itself."""
    result = run(config, "create", "billing", "--name", "order intake", "--scope", "orders:read", *more)
    assert 0 == result.exit_code, result.output
    found = TOKEN.fullmatch(result.stdout)
    assert found is not None, result.stdout
    return found[1], found[0].strip()


def listed(config: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run(config, "list", "--json").stdout)
    return found


class TestKeys:
    def test_a_key_is_shown_once_and_never_again(self, config: Path) -> None:
        key_id, token = made(config, "--scope", "dnc:read", "--days", "30", "--rate", "5", "--burst", "10")
        (row,) = listed(config)
        assert (key_id, "billing", "order intake", ["orders:read", "dnc:read"], 5.0, 10, None) == tuple(
            row[name] for name in ("key_id", "tenant", "name", "scopes", "rate", "burst", "revoked_at")
        )
        assert str(row["expires_at"]) > str(row["created_at"])
        for output in (run(config, "list").output, json.dumps(listed(config))):
            assert key_id in output
            assert token.rpartition("_")[2] not in output
            assert "argon2" not in output

    def test_all_scopes_at_once(self, config: Path) -> None:
        assert 0 == run(config, "create", "billing", "--name", "all of it", "--scope", "all").exit_code
        assert [list(SCOPES)] == [row["scopes"] for row in listed(config)]

    def test_a_key_is_revoked_by_its_id_or_by_itself(self, config: Path) -> None:
        for number in range(2):
            made_now = made(config)
            result = run(config, "revoke", made_now[number], "--reason", "lost")
            assert (0, f"key {made_now[0]} is revoked\n") == (result.exit_code, result.stdout)
        assert ["lost", "lost"] == [row["revoked_because"] for row in listed(config)]

    def test_it_is_revoked_once(self, config: Path) -> None:
        key_id, _ = made(config)
        codes = [run(config, "revoke", key_id, "--reason", "lost").exit_code for _ in range(2)]
        assert [0, 1] == codes

    @pytest.mark.parametrize(
        "arguments",
        [
            ("create", "nobody", "--name", "a", "--scope", "all"),
            ("create", "billing", "--name", " ", "--scope", "all"),
            ("create", "billing", "--name", "a\nb", "--scope", "all"),
            ("create", "billing", "--name", "a", "--scope", "orders"),
            ("create", "billing", "--name", "a", "--scope", "all", "--scope", "orders:read"),
            ("create", "billing", "--name", "a", "--scope", "all", "--days", "0"),
            ("create", "billing", "--name", "a"),
            ("revoke", "0123456789ab", "--reason", "not there"),
            ("revoke", "0123456789ab", "--reason", " "),
        ],
    )
    def test_what_cannot_be_done_is_said(self, config: Path, arguments: tuple[str, ...]) -> None:
        result = run(config, *arguments)
        assert 0 != result.exit_code
        assert result.stderr
        assert not TOKEN.search(result.stdout)
