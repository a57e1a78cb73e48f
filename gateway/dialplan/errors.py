"""The exceptions of the dialplan room.

DialplanError
├── BadDialplan     the YAML does not fit the model; names file and path
└── UnsafeDialplan  the linter found a way to consent that the rules forbid; carries the findings
"""

from __future__ import annotations


class DialplanError(Exception):
    """Base of everything this room raises."""


class BadDialplan(DialplanError):
    """The file is not a dialplan."""


class UnsafeDialplan(DialplanError):
    """The dialplan is well formed and must not be used."""

    def __init__(self, name: str, findings: tuple[str, ...]) -> None:
        super().__init__(f"dialplan {name}: " + "; ".join(findings))
        self.findings = findings
