"""Where the package's own data lies: in the wheel under ``gateway/data``, in a checkout beside ``gateway``."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """The folder ``prompts`` or ``dialplans``. Raises FileNotFoundError for a broken installation."""
    for folder in (_PACKAGE / "data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}: not found beside the package; install consent-gateway again")
