"""The key that is published is that of the ledger, or none."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from gateway.cli import app


def test_where_there_is_no_secret_none_is_made_and_no_key_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'operator = "X"\ndata_dir = "{tmp_path / "data"}"\n')
    done = CliRunner().invoke(app, ["ledger", "key", "--config", str(config)])
    assert 0 != done.exit_code
    assert "ledger-secret: there is none" in done.stderr.replace("\n", "")
    assert not (tmp_path / "data").exists()
