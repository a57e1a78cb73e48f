"""What pip installs only when asked for."""

from __future__ import annotations

import importlib.util


class ExtraMissing(Exception):
    """The message names the extra that brings what is missing."""


def need(extra: str, *modules: str) -> None:
    """Raises ExtraMissing unless every one of *modules* is installed; the extra *extra* of the package brings them."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ExtraMissing(f"{', '.join(missing)} not installed; pip install 'consent-gateway[{extra}]'")
