# ruff: noqa: INP001 - a program of the image, no package
"""Exit 0 when the gateway of this container answers ``GET /healthz`` with 200 within 4 s, else 1 with the reason.

Standard library only: it starts in some 50 ms, so that a check every few seconds costs the calls nothing. The port is read
from where the gateway reads it: the environment, else the settings file, else the default.
"""

import http.client
import os
import sys
import tomllib
from pathlib import Path

TIMEOUT_S = 4.0
DEFAULT_BIND = "127.0.0.1:8080"
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address() -> tuple[str, int]:
    """Host and port of ``api.bind``; raises OSError or ValueError for a settings file that cannot be read."""
    bind = os.environ.get("CONSENT_GATEWAY__API__BIND")
    file = Path(os.environ.get("CONSENT_GATEWAY_CONFIG", "gateway.toml"))
    if bind is None and file.exists():
        bind = tomllib.loads(file.read_text(encoding="utf-8")).get("api", {}).get("bind")
    host, _, port = (bind or DEFAULT_BIND).rpartition(":")
    host = host.strip("[]")
    return ANY.get(host, host), int(port)


def main() -> None:
    """Ask once."""
    try:
        connection = http.client.HTTPConnection(*address(), timeout=TIMEOUT_S)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        said = answer.read(500).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"GET /healthz: {error or type(error).__name__}")
    if answer.status != http.HTTPStatus.OK:
        sys.exit(f"GET /healthz: {answer.status} {said}")
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
