"""Forms in Slack, and what was filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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


def access_form(
    agents: Sequence[Agent],
    origin: str,
    *,
    filled: Filled | None = None,
    told: Sequence[Block] = (),
    checked: str = "",
    hint: str = "",
    url: str = "",
) -> Block:
    """For one of one's agents: what, for how long, why. `told` is what would come of it as it was `filled` in and
    `checked`; until then it is only checked. `hint`: about the arguments; `url`: the same on the web.
    """
    given = filled or Filled({})
    names = [kit.option(agent.name, str(agent.pk)) for agent in agents[: kit.OPTIONS]]
    hold = [kit.option("the agent itself", _ALONE), kit.option("the agent when it acts for me", _FOR_ME)]
    several = {"type": "multi_external_select", "min_query_length": 0, "max_selected_items": 20}
    several |= {"placeholder": kit.plain("Search tools and roles")} | _initial(given.options("things"), several=True)
    one = {"type": "external_select", "min_query_length": 0, "placeholder": kit.plain("Search tools")}
    one |= _initial(given.options("call"))
    uses = {"type": "number_input", "is_decimal_allowed": False, "min_value": "1", "max_value": "1000000"}
    line = {"type": "plain_text_input", "max_length": 100}
    how_long = _durations(SHORTER)
    how_long |= _initial([one for one in how_long["options"] if one["value"] == given.chosen("seconds")])
    parts = [
        *told,
        kit.question("agent", "Agent", {"type": "static_select", "options": names} | _chosen_of(names, given, "agent")),
        kit.question(
            "holder", "Access for", {"type": "static_select", "options": hold} | _chosen_of(hold, given, "holder")
        ),
        kit.question("things", "What", several, optional=True, hint="Limits of arguments and databases: on the web."),
        kit.question("call", "Or one exact call of", one, optional=True),
        kit.question(
            "arguments", "With exactly these arguments, as JSON", kit.long_text(kit.TEXT) | _typed(given, "arguments"),
            optional=True, hint=hint or "Approvers read all of them.",
        ),
        kit.question("seconds", "For how long?", how_long, optional=True, hint="Empty: 30 minutes."),
        kit.question("uses", "Calls at most", uses | _typed(given, "uses"), optional=True),
        kit.question("starts", "Begins at", _clock(given, "starts"), optional=True, hint="Empty: with the approval."),
        kit.question("over", "Over by", _clock(given, "over"), optional=True),
        kit.question(
            "reason", "Why?", kit.long_text(_NOTE) | _typed(given, "reason"), hint="Whoever decides reads this."
        ),
        kit.question("ticket", "Ticket", line | _typed(given, "ticket"), optional=True),
        *([kit.actions([kit.link("Ask on the web instead", url)])] if url else []),
    ]  # fmt: skip
    private = json.dumps({"at": origin, "checked": checked})
    return kit.modal(ACCESS, "Ask for access", "Ask for it" if checked else "Check", parts, private)


def checked_of(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Of a form for access: the channel it was opened in, and what was checked already; "" for neither."""
    view = payload.get("view")
    try:
        private = json.loads(str(view.get("private_metadata"))) if isinstance(view, dict) else {}
    except ValueError:
        private = {}
    found = private if isinstance(private, dict) else {}
    return str(found.get("at") or ""), str(found.get("checked") or "")


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

    def moment(self, block: str) -> datetime | None:
        """As the picker gives it, in seconds since 1970."""
        found = self._value(block).get("selected_date_time")
        whole = isinstance(found, int) and not isinstance(found, bool) and 0 < found < 1 << 33
        return datetime.fromtimestamp(found, UTC) if whole and isinstance(found, int) else None

    def options(self, block: str) -> list[Block]:
        """What is chosen there, to be shown again."""
        value = self._value(block)
        found = value.get("selected_options") or [value.get("selected_option")]
        return [
            kit.option(visible(_label(one), limit=200), self._option(one))
            for one in (found if isinstance(found, list) else [])
            if 0 < len(self._option(one)) <= 150
        ]

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


def _label(option: Any) -> str:
    text = option.get("text") if isinstance(option, dict) else None
    found = text.get("text") if isinstance(text, dict) else None
    return found if isinstance(found, str) else ""


def _initial(options: Sequence[Block], *, several: bool = False) -> Block:
    if not options:
        return {}
    return {"initial_options": list(options)} if several else {"initial_option": options[0]}


def _chosen_of(options: Sequence[Block], given: Filled, block: str) -> Block:
    found = [one for one in options if one["value"] == given.chosen(block)]
    return _initial(found or options)


def _typed(given: Filled, block: str) -> Block:
    text = given.text(block)
    return {"initial_value": text} if text else {}


def _clock(given: Filled, block: str) -> Block:
    moment = given.moment(block)
    return {"type": "datetimepicker"} | ({"initial_date_time": int(moment.timestamp())} if moment else {})


def _durations(seconds: Sequence[int]) -> Block:
    return {
        "type": "static_select",
        "options": [kit.option(format_duration(one), str(one)) for one in seconds[: kit.OPTIONS]],
    }


FORMS = frozenset({Verb.LESS.value, Verb.DENY.value, Verb.CHANGES.value, Verb.EXTEND.value, ACCESS})
