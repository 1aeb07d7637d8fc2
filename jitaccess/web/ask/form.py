"""What the form of a new request says, and for whom it asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from django.http import QueryDict

from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Forbidden, Invalid, JitAccessError
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import is_blank
from requests_app.inputs import Field, filled, json_of, typed_of
from requests_app.services import Ask, ExactCall, Privileges

T = TypeVar("T")
MAX_MINUTES = 525_600
MAX_USES = 1_000_000
# For a dry run before anything was typed: who would be asked does not wait for the reason.
UNSAID = "Not said yet."
ARGUMENT = "arg:"  # before the name of a property
# Which field a refusal of the services is about.
_ABOUT = {
    "request.not_your_agent": "agent",
    "request.reason": "reason",
    "request.ticket": "ticket",
    "request.duration": "minutes",
    "request.uses": "uses",
    "request.starts_at": "starts_at",
    "request.not_after": "not_after",
    "request.schema": "schema",
    "request.schema_needed": "schema",
    "request.privileges": "objects",
    "request.unknown_database": "objects",
}


class Mistakes(Invalid):
    """What was typed cannot be read; `fields` says what is wrong with which."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        name, first = next(iter(fields.items()))
        if name.startswith(ARGUMENT):
            first = f"{name.removeprefix(ARGUMENT)}: {first}"
        more = f" And {len(fields) - 1} more to put right." if len(fields) > 1 else ""
        super().__init__("request.form", f"{first}{more}")
        self.fields = dict(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """As it was typed; it is shown again until it is filed. `tools` as server/tool, `roles` by name.

    `arguments` are those of the exact call by property, `call_arguments` the same as JSON: which of the two counts is
    told by `shown`, what the page had fields for ("form", "json" or ""). `as_json`: they are wanted as JSON.
    """

    agent: str
    for_me: bool
    search: str
    tools: tuple[str, ...]
    roles: tuple[str, ...]
    schema: str
    call_tool: str
    call_arguments: str
    arguments: Mapping[str, str]
    shown: str
    as_json: bool
    database: str
    objects: str
    privileges: tuple[str, ...]
    reason: str
    minutes: str
    uses: str
    starts_at: str
    not_after: str
    ticket: str

    @property
    def chosen(self) -> bool:
        """Whether anything is asked for yet."""
        return bool(self.tools or self.roles or self.call_tool.strip() or self.database)

    @property
    def by_fields(self) -> bool:
        """Whether the arguments stand in fields of their own."""
        return self.shown == "form" or not self.call_arguments.strip()


def form_of(sent: QueryDict) -> Form:
    """Of what a browser sent, or of the address that led to the page."""
    typed = {name.removeprefix(ARGUMENT): sent.get(name, "") for name in sent if name.startswith(ARGUMENT)}
    return Form(
        agent=sent.get("agent", ""),
        for_me="for_me" in sent,
        search=sent.get("search", "")[:100],
        tools=tuple(dict.fromkeys(sent.getlist("tool"))),
        roles=tuple(dict.fromkeys(sent.getlist("role"))),
        schema=sent.get("schema", ""),
        call_tool=sent.get("call_tool", ""),
        call_arguments=sent.get("call_arguments", ""),
        arguments=typed,
        shown=sent.get("call_shown", ""),
        as_json="call_as_json" in sent,
        database=sent.get("database", ""),
        objects=sent.get("objects", ""),
        privileges=tuple(dict.fromkeys(sent.getlist("privilege"))),
        reason=sent.get("reason", ""),
        minutes=sent.get("minutes", ""),
        uses=sent.get("uses", ""),
        starts_at=sent.get("starts_at", ""),
        not_after=sent.get("not_after", ""),
        ticket=sent.get("ticket", ""),
    )


def settled(form: Form, fields: Sequence[Field] | None) -> Form:
    """The same arguments as they are shown next: in `fields` (None: there are none), unless JSON is wanted or needed.
    Nothing that was typed is lost on the way.
    """
    if form.by_fields and fields is not None:
        found = filled(fields, form.arguments)
        unread = any(form.arguments.get(name, "").strip() for name in found.wrong)
        if not form.as_json or unread:
            return replace(form, shown="form", as_json=False, call_arguments="")
        text = canonical(found.arguments).decode() if found.arguments else ""
        return replace(form, shown="json", call_arguments=text)
    if form.by_fields:
        typed_still: JsonObject = {name: text for name, text in form.arguments.items() if text.strip()}
        text = canonical(typed_still).decode() if typed_still else ""
        return replace(form, shown="json", call_arguments=text)
    if not form.as_json and fields is not None:
        try:
            typed = typed_of(fields, json_of(form.call_arguments))
        except Invalid:
            typed = None
        if typed is not None:
            return replace(form, shown="form", arguments=typed, call_arguments="")
    return replace(form, shown="json")


def ask_of(form: Form, fields: Sequence[Field] | None, *, trying: bool = False) -> Ask:
    """As the service takes it. `fields` are those of the exact call's tool. Raises Mistakes with everything that cannot
    be read. `trying`: the reason may be missing yet.
    """
    wrong: dict[str, str] = {}

    def read(name: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Invalid as error:
            wrong.setdefault(name, error.detail)
            return None

    tools = read("tools", lambda: [_tool(name) for name in form.tools])
    call = read("call_tool", lambda: _tool(form.call_tool.strip())) if form.call_tool.strip() else None
    arguments: JsonObject | None = None
    if form.call_tool.strip() and form.by_fields and (fields is not None or form.shown == "form"):
        found = filled(fields or (), form.arguments)
        arguments = found.arguments
        wrong |= {f"{ARGUMENT}{name}": text for name, text in found.wrong.items()}
        if any(text.strip() for name, text in form.arguments.items() if name not in {one.name for one in fields or ()}):
            # What was typed for another tool, or before this one changed: nobody meant the rest of it alone.
            wrong["call_arguments"] = "These are the arguments of this tool now: look at them once more."
    elif form.call_tool.strip():
        arguments = read("call_arguments", lambda: json_of(form.call_arguments))
    minutes = read("minutes", lambda: whole(form.minutes, "The time", most=MAX_MINUTES))
    uses = read("uses", lambda: whole(form.uses, "The number of calls", most=MAX_USES))
    starts_at = read("starts_at", lambda: _moment(form.starts_at))
    not_after = read("not_after", lambda: _moment(form.not_after))
    schema = read("schema", lambda: json_of(form.schema, "The limits")) if form.schema.strip() else None
    if is_blank(form.reason) and not trying:
        wrong["reason"] = "Say why: it is what the approver decides on."
    if wrong:
        raise Mistakes(wrong)
    return Ask(
        reason=UNSAID if trying and is_blank(form.reason) else form.reason,
        tools=tools or (),
        calls=[ExactCall(*call, arguments=arguments or {})] if call else (),
        roles=form.roles,
        privileges=[Privileges(form.database, _objects(form.objects), form.privileges)] if form.database else (),
        schema=schema,
        seconds=None if minutes is None else minutes * 60,
        max_uses=uses,
        starts_at=starts_at,
        not_after=not_after,
        ticket=form.ticket.strip(),
    )


def mistakes_of(error: JitAccessError, form: Form) -> dict[str, str]:
    """What to say beside which field; nothing for a refusal that is about no field."""
    if isinstance(error, Mistakes):
        return error.fields
    name = _ABOUT.get(error.code, "")
    about = error.params.get("tool")
    if not name and about is not None:
        by_call = str(about) == form.call_tool.strip() and error.code != "request.exact_only"
        name = ("call_arguments" if error.code == "request.arguments" else "call_tool") if by_call else "tools"
    return {name: error.detail} if name else {}


def principal_of(user: User, agent: Agent, *, for_me: bool, source: str) -> Principal:
    """Who will hold it: an agent, alone or on behalf of the person who is signed in, whom no form can change."""
    return Principal(
        agent=agent.pk,
        agent_name=agent.name,
        user=user.pk if for_me else None,
        user_name=user.username if for_me else "",
        client="web",
        source=source,
    )


def agent_of(user: User, name: str) -> Agent:
    """An enabled agent of this person. Raises Forbidden for any other."""
    found = agents_for(user).filter(name=name).first()
    if found is None:
        raise Forbidden("request.not_your_agent", "You may ask for agents that you own or may use; this is none.")
    return found


def whole(text: str, what: str, *, most: int) -> int | None:
    """A whole number from 1 to `most`, None for nothing typed. Raises Invalid."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise Invalid("request.number", f"{what} is a whole number from 1 to {most:,}.")
    return int(text)


def _tool(name: str) -> tuple[str, str]:
    """Slugs of servers hold no slash, names of tools may."""
    slug, slash, tool = name.partition("/")
    if not (slug and slash and tool):
        raise Invalid("request.tools", "Name tools as server/tool.")
    return slug, tool


def _objects(text: str) -> list[str]:
    return [one for one in re.split(r"[\s,]+", text) if one]


def _moment(text: str) -> datetime | None:
    """As a browser's field of date and time gives it, in UTC; None for nothing typed."""
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid("request.moment", "Write the time as in 2026-05-31T14:00, in UTC.") from None
