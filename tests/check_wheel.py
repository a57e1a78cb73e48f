"""The wheel carries what the gateway needs at run time. ``python tests/check_wheel.py dist/*.whl``; exit code 1 names what is missing."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def missing(wheel: Path) -> list[str]:
    """Data files of the checkout that *wheel* lacks."""
    wanted = [
        f"gateway/data/{path.relative_to(ROOT)}" for folder in ("prompts", "dialplans") for path in _files(folder)
    ]
    wanted += [
        str(path.relative_to(ROOT)) for folder in ("store", "demo", "evidence") for path in _files(f"gateway/{folder}")
    ]
    carried = set(zipfile.ZipFile(wheel).namelist())
    return [name for name in wanted if name not in carried]


def _files(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


if __name__ == "__main__":
    lacking = missing(Path(sys.argv[1]))
    print("\n".join(f"missing: {name}" for name in lacking) or f"{sys.argv[1]} is complete")  # noqa: T201
    sys.exit(bool(lacking))
