"""Performs the script in a call: whose turn it is, and what to do with it."""

from __future__ import annotations

import time

from gateway.softphone.call import ScriptedCall
from gateway.softphone.ending import CallOver
from gateway.softphone.rtp import RtpError
from gateway.softphone.script import Item


def converse(call: ScriptedCall) -> None:
    """Perform the script, then stay silent until the far end hangs up.

    Raises:
        CallOver: always, at the latest when the time limit is reached.

    """
    for item in call.settings.script:
        if item.kind == "hangup" and item.seconds is not None:
            _hang_up_in_speech(call, item.seconds)
        if item.kind == "into":
            _await_speech(call, item.seconds or 0.0)
        elif not item.immediate:
            _await_turn(call)
        if item.kind == "hangup":
            # It leaves by exception, so it is counted as done beforehand.
            call.script_left -= 1
        _perform(call, item)
        call.script_left -= 1
    call.wait(lambda: False)


def _await_turn(call: ScriptedCall) -> None:
    """Wait for the end of the far end's turn.

    One that ended while we were speaking counts: a person answers it afterwards.
    """
    with call.changed:
        call.wait(lambda: call.turn_waiting)
        call.turn_waiting = False


def _await_speech(call: ScriptedCall, seconds: float) -> None:
    """Wait until *seconds* after the far end began to speak."""
    call.wait(lambda: call.detector.onset is not None)
    onset = call.detector.onset or time.monotonic()
    call.wait(lambda: False, onset + seconds)


def _hang_up_in_speech(call: ScriptedCall, seconds: float) -> None:
    _await_speech(call, seconds)
    call.script_left -= 1
    raise CallOver("local", f"hung up {seconds:g} s after the far end began to speak")


def _perform(call: ScriptedCall, item: Item) -> None:
    turn = call.detector.turns
    if item.kind == "say":
        started = call.phone.events.since_start(time.monotonic())
        playback = call.rtp.play(item.audio)
        call.wait(playback.done.is_set)
        seconds = round(len(item.audio) / 8000, 3)
        call.emit("said", file=item.argument, started=started, seconds=seconds, turn=turn)
    elif item.kind == "dtmf":
        for digit in item.argument:
            _press(call, digit)
    elif item.kind == "wait":
        call.wait(lambda: False, time.monotonic() + (item.seconds or 0.0))
    elif item.kind == "silent":
        call.emit("silent", turn=turn)
    elif item.kind == "hangup":
        raise CallOver("local", "hung up by the script")
    elif item.kind == "echo":
        call.rtp.echo(item.seconds or 0.0)
    elif item.kind != "into":
        raise ValueError(f"unknown item {item.kind}")


def _press(call: ScriptedCall, digit: str) -> None:
    try:
        playback = call.rtp.send_digit(digit)
    except RtpError as error:
        raise CallOver("local", str(error), failed=True) from error
    call.wait(playback.done.is_set)
    call.emit("dtmf", direction="sent", digit=digit, duration=0.16)
