"""``consent-gateway keys``: the API keys of billing systems."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

import typer

from gateway.access import SCOPES, Scope, create_key
from gateway.cli_common import AsJson, Config, fail, out, print_rows, settings_of, with_engine
from gateway.engine import Engine
from gateway.store import access

app = typer.Typer(no_args_is_help=True, help="API keys of billing systems: make, list and revoke them.")
LONGEST_NAME = 80
LONGEST_REASON = 200
ALL = "all"


@app.command("create")
def create(
    tenant: Annotated[str, typer.Argument(help="billing system, as the settings name it")],
    scope: Annotated[list[str], typer.Option(help=f"what it may do, again for each; or all: {' '.join(SCOPES)}")],
    name: Annotated[str, typer.Option(help="what the key is for")],
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="how long it is good [default: for ever]")] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="requests a second [default: api.rate]")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="requests at once [default: api.burst]")] = None,
    config: Config = None,
) -> None:
    """Make a key. It is printed once, alone on standard output, and stored nowhere."""
    known = [tenant.id for tenant in settings_of(config).tenants]
    if tenant not in known:
        fail(f"there is no tenant {tenant!r} in the settings; there are {', '.join(known) or 'none'}")
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        fail(f"--name: give 1 to {LONGEST_NAME} printable characters")
    scopes = _scopes(scope)

    async def run(engine: Engine) -> str:
        valid = timedelta(days=days) if days is not None else None
        made = await create_key(
            engine.database, tenant, name.strip(), scopes, now=datetime.now(UTC), valid=valid, rate=rate, burst=burst
        )
        return made.token

    sys.stdout.write(with_engine(config, run) + "\n")


@app.command("list")
def show(
    tenant: Annotated[str | None, typer.Argument(help="only those of this billing system")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List keys, the newest first: what they may do, when they were last used. Never the keys themselves."""

    async def run(engine: Engine) -> list[dict[str, Any]]:
        return await access.list_keys(engine.database, tenant)

    rows = with_engine(config, run)
    if not as_json:
        rows = [{name: _shown(value) for name, value in row.items()} for row in rows]
    columns = ("key_id", "tenant", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
    print_rows(rows, columns, as_json)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="its id, the 12 digits after cg_")],
    reason: Annotated[str, typer.Option(help="why; kept with it")],
    config: Config = None,
) -> None:
    """Revoke a key, at once and for good, on every gateway of the database."""
    if not 2 <= len(reason.strip()) <= LONGEST_REASON or not reason.isprintable():
        fail(f"--reason: give 2 to {LONGEST_REASON} printable characters")

    key_id = key_id.removeprefix("cg_").partition("_")[0]  # the whole key may be given as well

    async def run(engine: Engine) -> bool:
        return await access.revoke_key(engine.database, key_id, reason.strip(), datetime.now(UTC))

    if not with_engine(config, run):
        fail(f"no key {key_id!r} that is not revoked; list them with: consent-gateway keys list")
    out.print(f"key {key_id} is revoked", highlight=False, markup=False)


def _shown(value: Any) -> Any:
    """A value of the list as people read it; times in UTC."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return " ".join(value) if isinstance(value, list) else value


def _scopes(given: list[str]) -> frozenset[Scope]:
    if given == [ALL]:
        return frozenset(SCOPES)
    strange = sorted(set(given) - set(get_args(Scope)))
    if strange:
        fail(f"--scope: there is no scope {strange[0]!r}; there are {', '.join(SCOPES)}, or all")
    return frozenset(scope for scope in SCOPES if scope in given)
