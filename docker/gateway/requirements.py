# ruff: noqa: INP001 - a program of the image, no package
"""Print the requirements of pyproject.toml, one a line: without arguments the gateway's own, else those of the extras named.

An image layer of dependencies then changes only when pyproject.toml does, not with every line of code.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Read ./pyproject.toml. An extra that is not there ends with its name on stderr and exit code 1."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    wanted = project["dependencies"] if len(sys.argv) == 1 else []
    for extra in " ".join(sys.argv[1:]).split():
        if extra not in extras:
            sys.exit(f"pyproject.toml has no extra {extra!r}; it has {', '.join(extras)}")
        wanted += extras[extra]
    sys.stdout.writelines(f"{line}\n" for line in wanted if not line.startswith(f"{project['name']}["))


if __name__ == "__main__":
    main()
