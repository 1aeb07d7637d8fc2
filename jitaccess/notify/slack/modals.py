"""Forms in Slack, and what was filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jitaccess.identity.models import Agent
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible
from jitaccess.notify.slack import blocks as kit
from jitaccess.notify.slack.blocks import Block
from jitaccess.notify.slack.values import Pressed, Verb
from requests_app.card.effects import SHORTER, Choices
from requests_app.selectors import AccessRequest
from requests_app.services import Narrow

ACCESS = "access"
_NOTE = 2000
_ALONE, _FOR_ME = "agent", "me"


def deny_form(pressed: Pressed, title: str) -> Block:
    note = kit.question(
        "reason", "Why not?", kit.long_text(_NOTE), optional=True, hint="The agent and its owner read it."
    )
    return _about(pressed, "Deny", [*kit.sections(title), note])


def changes_form(pressed: Pressed, title: str) -> Block:
    note = kit.question("reason", "What should be asked for instead?", kit.long_text(_NOTE))
    return _about(pressed, "Ask for changes", [*kit.sections(title), note])


def less_form(pressed: Pressed, title: str, choices: Choices, request: AccessRequest) -> Block:
    """Shorter, fewer calls, fewer things; what is left as it is stays as it was asked for."""
    parts = list(kit.sections(title))
    if choices.seconds:
        parts.append(kit.question("seconds", "For how long?", _durations(choices.seconds), optional=True))
    if choices.most_uses:
        number = {
            "type": "number_input", "is_decimal_allowed": False, "min_value": "1", "max_value": str(choices.most_uses),
        }  # fmt: skip
        parts.append(kit.question("uses", f"How many of the {choices.most_uses} calls?", number, optional=True))
    if choices.labels and len(choices.labels) <= kit.OPTIONS:
        options = [kit.option(visible(label, limit=200), str(at)) for at, label in enumerate(choices.labels)]
        select = {"type": "multi_static_select", "options": options, "initial_options": options}
        parts.append(kit.question("keep", "Which of it?", select))
    parts += kit.sections(f"Asked for: {format_duration(request.seconds)}.")
    return _about(pressed, "Approve less", parts)


def extend_form(pressed: Pressed, title: str, seconds: Sequence[int]) -> Block:
    parts = [
        *kit.sections(title),
        kit.question("seconds", "How much longer?", _durations(seconds)),
        kit.question("reason", "Why?", kit.long_text(_NOTE), hint="Whoever decides about it reads this."),
    ]
    return _about(pressed, "Ask for more time", parts)


def access_form(agents: Sequence[Agent], origin: str) -> Block:
    """For one of one's agents: what, for how long, why."""
    names = [kit.option(agent.name, str(agent.pk)) for agent in agents[: kit.OPTIONS]]
    hold = [kit.option("the agent itself", _ALONE), kit.option("the agent when it acts for me", _FOR_ME)]
    search = {
        "type": "multi_external_select",
        "min_query_length": 0,
        "max_selected_items": 20,
        "placeholder": kit.plain("Search tools and roles"),
    }
    parts = [
        kit.question("agent", "Agent", {"type": "static_select", "options": names, "initial_option": names[0]}),
        kit.question("holder", "Access for", {"type": "static_select", "options": hold, "initial_option": hold[0]}),
        kit.question("things", "What", search),
        kit.question("seconds", "For how long?", _durations(SHORTER), optional=True, hint="Empty: 30 minutes."),
        kit.question("reason", "Why?", kit.long_text(_NOTE), hint="Whoever decides reads this."),
        kit.question("ticket", "Ticket", {"type": "plain_text_input", "max_length": 100}, optional=True),
    ]
    return kit.modal(ACCESS, "Ask for access", "Ask", parts, json.dumps({"at": origin}))


@dataclass(frozen=True, slots=True)
class Filled:
    """What a form was filled in with. It comes from a browser: every value is looked at again where it is used."""

    values: Mapping[str, Any]

    def text(self, block: str) -> str:
        found = self._value(block).get("value")
        return found if isinstance(found, str) else ""

    def chosen(self, block: str) -> str:
        return self._option(self._value(block).get("selected_option"))

    def several(self, block: str) -> list[str] | None:
        """None where the form did not ask."""
        if block not in self.values:
            return None
        found = self._value(block).get("selected_options")
        return [self._option(one) for one in found] if isinstance(found, list) else []

    def number(self, block: str, chosen: str) -> int | None:
        text = chosen.strip()
        if not text:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise Invalid("slack.form", f"This is no number: {visible(block, limit=20)}.")
        return int(text)

    @property
    def for_me(self) -> bool:
        return self.chosen("holder") == _FOR_ME

    def narrow(self, request: AccessRequest, choices: Choices) -> Narrow:
        """What an approval leaves. Raises Invalid for nothing less."""
        seconds = self.number("seconds", self.chosen("seconds"))
        uses, kept = self.number("uses", self.text("uses")), self.several("keep")
        labels = None
        if kept is not None:
            known = {str(at): label for at, label in enumerate(choices.labels)}
            labels = [known[one] for one in kept if one in known]
        narrow = Narrow(
            seconds=seconds if seconds != request.seconds else None,
            max_uses=uses if uses != request.max_uses else None,
            labels=labels if labels is not None and set(labels) != set(choices.labels) else None,
        )
        if narrow == Narrow():
            raise Invalid("decision.terms", "That is all of it: choose a shorter time, fewer calls or fewer things.")
        return narrow

    def _value(self, block: str) -> Mapping[str, Any]:
        found = self.values.get(block)
        value = found.get("value") if isinstance(found, dict) else None
        return value if isinstance(value, dict) else {}

    def _option(self, option: Any) -> str:
        value = option.get("value") if isinstance(option, dict) else None
        return value if isinstance(value, str) else ""


def filled_of(payload: Mapping[str, Any]) -> Filled:
    """What a view_submission or block_suggestion says was filled in."""
    view = payload.get("view")
    state = view.get("state") if isinstance(view, dict) else None
    values = state.get("values") if isinstance(state, dict) else None
    return Filled(values if isinstance(values, dict) else {})


def _about(pressed: Pressed, submit: str, parts: list[Block]) -> Block:
    return kit.modal(pressed.verb.value, "Access request", submit, parts, str(pressed))


def _durations(seconds: Sequence[int]) -> Block:
    return {
        "type": "static_select",
        "options": [kit.option(format_duration(one), str(one)) for one in seconds[: kit.OPTIONS]],
    }


FORMS = frozenset({Verb.LESS.value, Verb.DENY.value, Verb.CHANGES.value, Verb.EXTEND.value, ACCESS})
