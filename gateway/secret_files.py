"""Secrets that the operator may set, and that are otherwise made once and kept in ``data_dir``, mode 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from gateway.ledger.sealing import Keyring
from gateway.settings import Settings, SettingsError
from gateway.settings_sections import SHORTEST_SECRET

CODE_SECRET_FILE = "code-secret"  # noqa: S105 - file names
LEDGER_SECRET_FILE = "ledger-secret"  # noqa: S105


def code_secret(settings: Settings) -> bytes:
    """What SMS codes are derived from. Raises SettingsError."""
    given = settings.sms.code_secret.get_secret_value()
    return given.encode() if given else _kept(settings.data_dir / CODE_SECRET_FILE, "codes under way are lost with it")


def keyring(settings: Settings) -> Keyring:
    """What records are sealed with and checkpoints signed by. Raises SettingsError."""
    given = settings.ledger.secret.get_secret_value()
    lost = "no record that was sealed with the one before can be read without it"
    return Keyring(given.encode() if given else _kept(settings.data_dir / LEDGER_SECRET_FILE, lost))


def _kept(path: Path, lost: str) -> bytes:
    """The secret in *path*, made there when there is none. Raises SettingsError for a file that holds none, such as one left by
    a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another command was quicker: its secret is the one
            os.link(draft, path)
        draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)  # what is sealed with it must not outlive it
        os.fsync(folder)
        os.close(folder)
    secret = path.read_bytes()
    if len(secret) < SHORTEST_SECRET:
        raise SettingsError([f"{path}: holds {len(secret)} octets, no secret; put it back or remove it ({lost})"])
    return secret
