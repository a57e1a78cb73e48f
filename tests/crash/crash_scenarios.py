"""What happens to the orders that the crash test kills gateways over: on the call, by SMS, through the API, at billing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import histories

from gateway.consent import events as ev
from gateway.consent.record import Record, State

Reply = Literal["right", "wrong", "stop"]
Call = Callable[[Record, str], Iterator[tuple[ev.Event, ...]]]


@dataclass(frozen=True)
class Scenario:
    """*call*: what comes to pass on a call, its start left out, transaction by transaction. *replies*: what the subscriber answers to the challenge, one message
    after the other. *end*: the state that the order comes to, unless a consent was lost with the call that held it. *told*: the webhook that billing
    gets. *late*: the replies come when the challenge has expired. *apart*: the boundary up to which the order is like any other; empty: none.
    """

    call: Call
    end: State
    told: tuple[ev.WebhookKind, ...]
    replies: tuple[Reply, ...] = ()
    withdrawn: bool = False
    late: bool = False
    apart: str = ""


def refusal(record: Record, call_id: str) -> Iterator[tuple[ev.Event, ...]]:
    """All is told, and the subscriber says no."""
    _, *told, affirmed, _ = histories.consented(record, call_id)
    yield from ((event,) for event in told)
    yield (affirmed.model_copy(update={"verdict": "deny", "reason": "a clear no"}),)
    yield (ev.ConsentDenied(call_id=call_id, denial="refused", step="consent"),)
    yield histories.kept(call_id), histories.ended(call_id)


def good(record: Record, call_id: str) -> Iterator[tuple[ev.Event, ...]]:
    _, *events = histories.consented(record, call_id)
    yield from ((event,) for event in events)
    yield histories.kept(call_id), histories.ended(call_id)


def unanswered(_record: Record, call_id: str) -> Iterator[tuple[ev.Event, ...]]:
    yield (ev.CallEnded(call_id=call_id, outcome="no_answer", reason="rang", duration_ms=0),)


TOLD = "after commit of prompt.played (10)"
CHALLENGED = "after send_sms (1)"
SCENARIOS = {
    "confirmed": Scenario(good, "provisioned", ("consent.confirmed", "order.provisioned"), replies=("right",)),
    "refused on the call": Scenario(refusal, "refused", ("consent.refused",), apart=TOLD),
    "stopped by SMS": Scenario(good, "withdrawn", ("consent.withdrawn",), replies=("stop",), apart=CHALLENGED),
    "a wrong code, then the right one": Scenario(
        good, "provisioned", ("consent.confirmed", "order.provisioned"), replies=("wrong", "right"), apart=CHALLENGED
    ),
    "three wrong codes": Scenario(good, "failed", ("consent.refused",), replies=("wrong",) * 3, apart=CHALLENGED),
    "expired": Scenario(good, "expired", ("consent.expired",), replies=("right",), late=True, apart=CHALLENGED),
    "withdrawn by billing": Scenario(good, "withdrawn", ("consent.withdrawn",), withdrawn=True, apart=CHALLENGED),
    "never answered": Scenario(unanswered, "unreachable", ("consent.expired",)),
}
