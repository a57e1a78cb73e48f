"""What must be told before anybody is asked (rule R5), and when it counts as heard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gateway.consent.events import PromptPlayed

Disclosure = Literal["price", "billing", "start", "term", "promotion", "trial", "function", "use", "ask", "cancel"]
MANDATORY: tuple[Disclosure, ...] = (
    "price", "billing", "start", "term", "promotion", "trial", "function", "use", "ask", "cancel",
)  # fmt: skip


def unheard(played: PromptPlayed, loss_allowed: float) -> str:
    """Why a prompt does not count as heard, in words; empty when it does.

    It does when every sample was sent, at no moment of it the call was on hold, and no report of the far end says that more than
    *loss_allowed* of it, 0 to 1, was lost. A far end that never reports is believed to hear.
    """
    if not played.samples_planned or played.samples_sent < played.samples_planned:
        return f"cut after {played.samples_sent} of {played.samples_planned} samples"
    if played.held_ms:
        return f"the call was on hold for {played.held_ms} ms of it"
    if played.far is not None and played.far.lost_fraction > loss_allowed:
        return (
            f"{100 * played.far.lost_fraction:.0f} % of it was lost on the line, more than {100 * loss_allowed:.0f} %"
        )
    return ""
