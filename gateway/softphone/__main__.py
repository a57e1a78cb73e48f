"""``python -m gateway.softphone``."""

from __future__ import annotations

import sys

from gateway.softphone.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
