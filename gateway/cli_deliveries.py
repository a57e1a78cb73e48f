"""``consent-gateway deliveries`` and ``reconcile``: webhooks to billing systems, and whether their bills agree with the record."""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from gateway import deliveries, reconciliation
from gateway.billing_export import BadExport, read_bills
from gateway.cli_common import FAULT, AsJson, Config, complain, err, fail, out, print_rows, settings_of, with_engine
from gateway.consent.events import WebhookKind
from gateway.engine import Engine
from gateway.reconciliation import Reconciliation
from gateway.settings_sections import MAIN_ENDPOINT
from gateway.store import deliveries as rows

app = typer.Typer(no_args_is_help=True, help="Webhooks to billing systems: list them, look at them, post them again.")
KINDS: tuple[str, ...] = tuple(kind for part in get_args(WebhookKind) for kind in (get_args(part) or (part,)))
STATES = ("pending", "delivered", "dead", "cancelled")
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MOST_SHOWN = 1000
UNREADABLE = 2


def moment(text: str, now: datetime) -> datetime:
    """``24h``, ``30m``, ``7d`` ago, or ISO 8601 (UTC when it names no zone). Raises ValueError."""
    ago = _AGO.fullmatch(text)
    if ago:
        try:
            return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        except OverflowError as error:
            raise ValueError(text) from error
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        return moment(text, datetime.now(UTC))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: 24h, 7d (ago), 2026-11-22 or 2026-11-22T09:00+09:00 are"
        ) from None


def _one_of(known: tuple[str, ...]) -> Any:
    def check(text: str | None) -> str | None:
        if text is not None and text not in known:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(known)}")
        return text

    return check


Moment = Annotated[datetime | None, typer.Option(parser=_moment, metavar="TIME", help="24h, 7d (ago), or ISO 8601")]
Tenant = Annotated[str | None, typer.Option(help="only of this billing system")]
EndpointName = Annotated[str | None, typer.Option(help="only to this endpoint; main is webhook_url")]
Kind = Annotated[
    str | None, typer.Option(help="only of this event, such as consent.confirmed", callback=_one_of(KINDS))
]
Dead = Annotated[bool, typer.Option("--dead", help="only those that were given up")]


@app.command("list")
def list_(
    dead: Dead = False,
    state: Annotated[
        str | None, typer.Option(help="pending, delivered, dead or cancelled", callback=_one_of(STATES))
    ] = None,
    tenant: Tenant = None,
    endpoint: EndpointName = None,
    kind: Kind = None,
    since: Moment = None,
    until: Moment = None,
    most: Annotated[int, typer.Option(min=1, max=MOST_SHOWN)] = 100,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks, the newest first."""
    wanted = "dead" if dead else state

    async def run(engine: Engine) -> list[dict[str, Any]]:
        async with engine.database.pool.acquire() as connection:
            return await rows.list_deliveries(
                connection,
                tenant=tenant,
                state=wanted,
                kind=kind,
                endpoint=endpoint,
                since=since,
                until=until,
                most=most,
            )

    columns = (
        "webhook_id", "kind", "tenant", "endpoint", "order_id", "state", "attempts", "last_status", "last_error", "next_at",
    )  # fmt: skip
    print_rows(with_engine(config, run), columns, as_json)


@app.command()
def show(
    webhook: Annotated[str, typer.Argument(help="webhook id, or its beginning")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one webhook: what is posted, every attempt, and what was answered."""

    async def run(engine: Engine) -> dict[str, Any]:
        async with engine.database.pool.acquire() as connection:
            webhook_id = await rows.resolve_delivery(connection, webhook)
        return await deliveries.shown(engine, webhook_id)

    row = with_engine(config, run)
    if as_json:
        sys.stdout.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
        return
    out.print(f"webhook {row['webhook_id']}  {row['kind']}  to {row['tenant']}/{row['endpoint']}", highlight=False)
    next_at = f", next attempt {row['next_at']:%Y-%m-%d %H:%M:%S} UTC" if row["next_at"] else ""
    why = f" ({row['last_error']})" if row["last_error"] else ""
    _say(f"order   {row['order_id']} ({row['order_state']})")
    _say(f"state   {row['state']} after {row['attempts']} attempts{why}{next_at}")
    if row["body"] is None:
        _say("body    gone with the key of its person, who was erased")
    else:
        out.print_json(row["body"])
    for attempt in row["all_attempts"]:
        _say(
            f"{attempt['attempt']:>3}. {attempt['at']:%Y-%m-%d %H:%M:%S} UTC by {attempt['gateway']}: "
            f"{attempt['status'] or 'no answer'} in {attempt['duration_ms']} ms {attempt['error']}"
        )
        answer = attempt["answer"] or {"headers": {}, "body": ""}
        for name, value in answer["headers"].items():
            _say(f"       {name}: {value}")
        text = base64.b64decode(answer["body"]).decode(errors="replace")
        for line in text.splitlines():
            _say("       | " + "".join(char if char.isprintable() else "·" for char in line))


def _say(text: str) -> None:
    out.print(escape(text), highlight=False, soft_wrap=True)


@app.command()
def replay(
    webhook: Annotated[str | None, typer.Argument(help="webhook id, or its beginning")] = None,
    since: Moment = None,
    until: Moment = None,
    dead: Dead = False,
    tenant: Tenant = None,
    endpoint: EndpointName = None,
    kind: Kind = None,
    config: Config = None,
) -> None:
    """Post a webhook again, or all of a time window, delivered ones too: the old webhook-id, the whole schedule anew."""
    if webhook is None and since is None and until is None and not dead:
        fail("say which: a webhook id, --dead, or --since and --until")
    if webhook is not None and (since or until or dead or tenant or endpoint or kind):
        fail("a webhook id or a window, not both")

    async def run(engine: Engine) -> tuple[int, str]:
        now = datetime.now(UTC)
        async with engine.database.transaction() as connection:
            if webhook is not None:
                why = await deliveries.replay(connection, await rows.resolve_delivery(connection, webhook), now)
                return int(not why), why
            window = deliveries.Window(since, until, "dead" if dead else None, tenant, endpoint, kind)
            return await deliveries.replay_window(connection, window, now), ""

    count, why = with_engine(config, run)
    if why:
        fail(why)
    out.print(f"{count} enqueued; the running gateway posts {'it' if count == 1 else 'them'}", highlight=False)


@app.command()
def endpoints(config: Config = None, as_json: AsJson = False) -> None:
    """List where webhooks are posted to, what waits there, and which endpoints are disabled."""
    settings = settings_of(config)

    async def run(engine: Engine) -> list[dict[str, Any]]:
        async with engine.database.pool.acquire() as connection:
            changes = await rows.endpoint_states(connection)
            waiting = await rows.waiting_by_endpoint(connection)
        configured = {
            (tenant.id, name): (url, events)
            for tenant in settings.tenants
            for name, url, events in (
                (MAIN_ENDPOINT, tenant.webhook_url, ("consent.confirmed", *tenant.webhook_notices)),
                *((one.name, one.url, one.events) for one in tenant.endpoints),
            )
        }
        found = []
        for where in sorted({*configured, *changes, *waiting}):
            url, events = configured.get(where, ("", ()))
            change, counts = changes.get(where), waiting.get(where, {})
            disabled = change is not None and change["disabled"]
            state = "disabled" if disabled else "enabled" if where in configured else "not in these settings"
            found.append({
                "tenant": where[0], "endpoint": where[1], "url": url, "events": ", ".join(events), "state": state,
                "reason": change["reason"] if change and disabled else "",
                "pending": counts.get("pending", 0), "dead": counts.get("dead", 0),
            })  # fmt: skip
        return found

    columns = ("tenant", "endpoint", "url", "events", "state", "reason", "pending", "dead")
    print_rows(with_engine(config, run), columns, as_json)


@app.command()
def enable(
    tenant: Annotated[str, typer.Argument(help="billing system")],
    endpoint: Annotated[str, typer.Argument(help="its endpoint; main is webhook_url")] = MAIN_ENDPOINT,
    config: Config = None,
) -> None:
    """Post to an endpoint again that was disabled because it answered 410."""

    async def run(engine: Engine) -> bool:
        async with engine.database.transaction() as connection:
            state = (await rows.endpoint_states(connection)).get((tenant, endpoint))
            if state is None or not state["disabled"]:
                return False
            await deliveries.change_endpoint(
                connection, tenant, endpoint, datetime.now(UTC), disabled=False, reason="enabled by the operator"
            )
            return True

    if not with_engine(config, run):
        fail(f"{tenant}/{endpoint} is not disabled; see: consent-gateway deliveries endpoints")
    out.print(
        f"enabled; post what died meanwhile with: consent-gateway deliveries replay --dead --tenant {tenant} --endpoint {endpoint}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command()
def disable(
    tenant: Annotated[str, typer.Argument(help="billing system")],
    endpoint: Annotated[str, typer.Argument(help="its endpoint; main is webhook_url")] = MAIN_ENDPOINT,
    reason: Annotated[str, typer.Option(help="kept, and shown with what dies of it")] = "disabled by the operator",
    config: Config = None,
) -> None:
    """Post nothing more to an endpoint: what waits for it dies, to be replayed when it is enabled again."""

    async def run(engine: Engine) -> None:
        async with engine.database.transaction() as connection:
            await deliveries.change_endpoint(
                connection, tenant, endpoint, datetime.now(UTC), disabled=True, reason=reason
            )

    with_engine(config, run)
    out.print("disabled", highlight=False)


def reconcile(
    file: Annotated[Path, typer.Argument(help="what billing exports: order_id[,reference][,billed_at], with a header")],
    tenant: Tenant = None,
    since: Moment = None,
    until: Moment = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Name what was billed without consent, and what was consented to and not billed.

    Exit code 0: they agree; 1: something is named; 2: the file cannot be read. --since and --until bound the consents by the time of
    their confirmation; every line of the file is judged.
    """

    async def run(engine: Engine) -> Reconciliation:
        with Progress(
            TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=err, transient=True,
            disable=not err.is_terminal,
        ) as progress:  # fmt: skip
            task = progress.add_task("", total=file.stat().st_size)
            bills = read_bills(file, lambda octets: progress.advance(task, octets))
            return await reconciliation.reconcile(engine.database, bills, tenant=tenant, since=since, until=until)

    try:
        found = with_engine(config, run)
    except BadExport as error:
        for fault in error.faults:
            complain(fault)
        raise typer.Exit(UNREADABLE) from error
    except OSError as error:
        complain(f"{file}: {error.strerror}")
        raise typer.Exit(UNREADABLE) from error
    if as_json:
        sys.stdout.write(json.dumps(found.as_json(), default=_json, ensure_ascii=False) + "\n")
    else:
        _print_reconciliation(found)
    raise typer.Exit(0 if found.agrees else FAULT)


def _print_reconciliation(found: Reconciliation) -> None:
    unfounded = [asdict(one) for one in found.billed_without_consent]
    unbilled = [
        asdict(one) | {"confirmed_at": f"{one.confirmed_at:%Y-%m-%d %H:%M:%S}"} for one in found.consent_without_billing
    ]
    for title, named, columns in (
        ("billed without consent", unfounded, ("line", "order_id", "reference", "reason")),
        ("consent without billing", unbilled, ("order_id", "tenant", "confirmed_at", "reference", "reason")),
    ):
        out.print(f"{title}: {len(named)}", style="bold red" if named else "green", highlight=False)
        if named:
            print_rows(named, columns, as_json=False)
    out.print(f"{found.lines} lines were read", highlight=False)


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
