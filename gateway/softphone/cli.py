"""Command line of the test softphone: ``call``, ``answer`` and ``message``."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from gateway.softphone import script
from gateway.softphone.audio import AudioFileError
from gateway.softphone.conversation import converse
from gateway.softphone.ending import CallSettings
from gateway.softphone.events import Events
from gateway.softphone.g711 import STATIC_PAYLOADS
from gateway.softphone.message import Uri
from gateway.softphone.phone import PhoneSettings, Softphone
from gateway.softphone.rtp import RtpError
from gateway.softphone.script import Item, ScriptError, parse_script, say_script
from gateway.softphone.transaction import Address
from gateway.softphone.wire import PHRASES, SipError

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes."""
MAX_SECONDS = 86400.0
ANY_ADDRESS = "0.0.0.0"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"outside 0..{MAX_SECONDS:g} seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 10000:
        raise argparse.ArgumentTypeError("outside 0..10000")
    return value


def _listen(text: str) -> Address:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "0")
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{host}: {error}") from error
    if address == ANY_ADDRESS or not port.isdigit() or int(port) > 65535:
        # The address is written into Contact and SDP, so it must be a real one.
        raise argparse.ArgumentTypeError(f"{text}: name one local address, HOST:PORT")
    return address, int(port)


def _server(text: str) -> Uri:
    return _uri(text if text.lower().startswith("sip:") else f"sip:{text}")


def _uri(text: str) -> Uri:
    try:
        return Uri.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _codecs(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().upper() for name in text.split(","))
    if not names or any(name not in STATIC_PAYLOADS for name in names):
        raise argparse.ArgumentTypeError(f"{text}: choose from {','.join(STATIC_PAYLOADS)}")
    return names


def _reject_code(text: str) -> int:
    value = int(text)
    if value < 400 or value not in PHRASES:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(str(code) for code in PHRASES if code >= 400)}")
    return value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--listen", type=_listen, default=("127.0.0.1", 0), metavar="HOST:PORT")
    add("--user", default="softphone", help="user part of our address, e.g. +821012345678")
    add("--password", default="", help="for digest authentication (401/407)")
    add("--auth-user", default="", help="digest user name, if not --user")
    add("--server", type=_server, metavar="HOST:PORT", help="registrar and outbound proxy")
    add("--register", action="store_true", help="register at --server first, unregister after")
    add("--max-seconds", type=_seconds, default=180.0, help="limit of the whole run (180)")
    add("--json", action="store_true", help="one JSON object per event")

    calling = argparse.ArgumentParser(add_help=False)
    add = calling.add_argument
    add("--say", action="append", default=[], metavar="FILE.wav", help="one file per turn")
    add("--script", metavar="ITEMS", help="the general form, see below")
    add("--record", type=Path, metavar="FILE.wav", help="what was heard, 16 bit 8 kHz mono")
    add("--turn-silence", type=float, default=1000.0, metavar="MS", help="ends a turn (1000)")
    add("--threshold", type=float, default=150.0, help="RMS of a loud 20 ms frame (150)")
    add("--codecs", type=_codecs, default=("PCMA", "PCMU"), help="in order (pcma,pcmu)")
    add("--sms", action="store_true", help="accept MESSAGE and print it")
    add("--messages", type=_count, default=0, help="stay until N MESSAGEs came; implies --sms")

    parser = argparse.ArgumentParser(prog="consent-gateway softphone", description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    text = argparse.RawDescriptionHelpFormatter
    grammar = script.__doc__
    call = modes.add_parser(
        "call", parents=[common, calling], help="place a call", epilog=grammar, formatter_class=text
    )
    call.add_argument("target", type=_uri, metavar="sip:USER@HOST:PORT")
    call.add_argument("--cancel-after", type=_seconds, metavar="S", help="CANCEL if unanswered")
    answer = modes.add_parser(
        "answer", parents=[common, calling], help="answer calls", epilog=grammar, formatter_class=text
    )
    answer.add_argument("--calls", type=_count, default=1, help="exit after N calls (1)")
    answer.add_argument("--ring-seconds", type=_seconds, default=0.0)
    answer.add_argument("--reject", type=_reject_code, metavar="CODE", help="refuse, e.g. 486")
    message = modes.add_parser("message", parents=[common], help="send one SIP MESSAGE")
    message.add_argument("target", type=_uri, metavar="sip:USER@HOST:PORT")
    message.add_argument("--text", required=True)
    return parser


def _script(options: argparse.Namespace) -> tuple[Item, ...]:
    if options.script is not None and options.say:
        raise ScriptError("--say and --script exclude each other")
    if options.script is not None:
        return tuple(parse_script(options.script))
    return tuple(say_script(options.say))


def _call_settings(options: argparse.Namespace) -> CallSettings:
    if options.mode == "message":
        return CallSettings()
    return CallSettings(
        script=_script(options),
        record=options.record,
        turn_silence=options.turn_silence / 1000,
        threshold=options.threshold,
        codecs=options.codecs,
        ring_seconds=getattr(options, "ring_seconds", 0.0),
        reject=getattr(options, "reject", None),
        cancel_after=getattr(options, "cancel_after", None),
    )


def _phone_settings(options: argparse.Namespace) -> PhoneSettings:
    if options.register and options.server is None:
        raise ScriptError("--register needs --server")
    return PhoneSettings(
        listen=options.listen,
        user=options.user,
        deadline=time.monotonic() + options.max_seconds,
        password=options.password,
        auth_user=options.auth_user,
        server=options.server,
        accept_calls=getattr(options, "calls", 0),
        accept_messages=getattr(options, "sms", False) or getattr(options, "messages", 0) > 0,
    )


def _work(phone: Softphone, options: argparse.Namespace) -> int:
    """What the mode is for, on a started phone; the exit code."""
    if options.register:
        phone.register()
    if options.mode == "message":
        phone.message(options.target.text, options.text)
        return OK
    if options.mode == "call":
        phone.call(options.target.text).run(converse)
    wanted = options.calls if options.mode == "answer" else 1
    limit = phone.run_until(wanted, options.messages)
    if limit is not None:
        missing = f"{len(phone.outcomes)} of {wanted} calls, {phone.messages} messages"
        phone.events.emit("failed", by=limit.by, reason=f"{limit.reason}: {missing}", code=None)
        return FAILED
    return FAILED if any(outcome.failed for outcome in phone.outcomes) else OK


def _run(phone: Softphone, options: argparse.Namespace) -> int:
    try:
        phone.start()
    except OSError as error:
        phone.events.emit("failed", by="local", reason=f"cannot listen: {error}", code=None)
        return FAILED
    try:
        code = _work(phone, options)
        if phone.registered:
            phone.register(0)
    except SipError as error:
        phone.events.emit("failed", by="remote", reason=error.reason, code=error.code)
        code = FAILED
    except (RtpError, OSError) as error:
        phone.events.emit("failed", by="local", reason=str(error), code=None)
        code = FAILED
    finally:
        phone.stop()
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the softphone. Returns 0: in order; 1: the call or message failed; 2: usage."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:
        # argparse exits by itself; as a function, main returns the code instead.
        return int(stop.code or 0)
    try:
        call, settings = _call_settings(options), _phone_settings(options)
    except (ScriptError, AudioFileError) as error:
        sys.stderr.write(f"consent-gateway softphone: {error}\n")
        return USAGE
    phone = Softphone(settings, call, Events(options.json))

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # Only a flag: every wait of the phone looks at it, no lock is taken here.
        phone.stop_signal = signal.Signals(number).name

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        return _run(phone, options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
