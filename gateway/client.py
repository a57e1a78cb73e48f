"""A small client of the gateway's own API, for the command line."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, Self

from gateway.settings_sections import split_host_port
from gateway.store.errors import StoreError


class ApiError(StoreError):
    """The API refused, or is not there."""


class Client:
    def __init__(self, bind: str, key: str) -> None:
        host, self._port = split_host_port(bind)
        self._host = "127.0.0.1" if host == "0.0.0.0" else host
        self._key = key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open between requests."""

    def create(self, order: dict[str, Any]) -> str:
        return str(self._ask("POST", "/v1/orders", order)["order_id"])

    def find(self, prefix: str) -> str:
        """The order whose id begins with *prefix*. Raises ApiError for none or several."""
        found = [
            row["order_id"] for row in self._ask("GET", "/v1/orders")["orders"] if row["order_id"].startswith(prefix)
        ]
        if len(found) != 1:
            raise ApiError(f"{len(found)} orders begin with {prefix!r}; list them with: consent-gateway record list")
        return str(found[0])

    def call(self, order_id: str, target: str) -> str:
        return str(self._ask("POST", f"/v1/orders/{order_id}/calls", {"to": target})["call_id"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = HTTPConnection(self._host, self._port, timeout=60)
        try:
            payload = json.dumps(body).encode() if body is not None else None
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            raise ApiError(
                f"no gateway answers at {self._host}:{self._port}; start one with: consent-gateway serve"
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            faults = "; ".join(f"{fault['path']}: {fault['message']}" for fault in answer.get("errors", []))
            raise ApiError(f"{answer.get('title', response.status)}{': ' + faults if faults else ''}")
        return answer
