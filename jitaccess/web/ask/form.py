"""What the form of a new request says, and for whom it asks."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import QueryDict

from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import is_blank
from requests_app.services import Ask, ExactCall

MAX_MINUTES = 525_600
MAX_USES = 1_000_000
# For a dry run before anything was typed: who would be asked does not wait for the reason.
UNSAID = "Not said yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """As it was typed; it is shown again until it is filed. `tools` as server/tool, `roles` by name."""

    agent: str
    for_me: bool
    search: str
    tools: tuple[str, ...]
    roles: tuple[str, ...]
    call_tool: str
    call_arguments: str
    reason: str
    minutes: str
    uses: str
    ticket: str

    @property
    def chosen(self) -> bool:
        """Whether anything is asked for yet."""
        return bool(self.tools or self.roles or self.call_tool.strip())


def form_of(sent: QueryDict) -> Form:
    """Of what a browser sent, or of the address that led to the page."""
    return Form(
        agent=sent.get("agent", ""),
        for_me="for_me" in sent,
        search=sent.get("search", "")[:100],
        tools=tuple(dict.fromkeys(sent.getlist("tool"))),
        roles=tuple(dict.fromkeys(sent.getlist("role"))),
        call_tool=sent.get("call_tool", ""),
        call_arguments=sent.get("call_arguments", ""),
        reason=sent.get("reason", ""),
        minutes=sent.get("minutes", ""),
        uses=sent.get("uses", ""),
        ticket=sent.get("ticket", ""),
    )


def ask_of(form: Form, *, trying: bool = False) -> Ask:
    """As the service takes it. Raises Invalid for what cannot be read. `trying`: the reason may be missing yet."""
    calls = []
    if form.call_tool.strip():
        calls.append(ExactCall(*_tool(form.call_tool.strip()), arguments=_arguments(form.call_arguments)))
    minutes = whole(form.minutes, "The time", most=MAX_MINUTES)
    return Ask(
        reason=UNSAID if trying and is_blank(form.reason) else form.reason,
        tools=[_tool(name) for name in form.tools],
        calls=calls,
        roles=form.roles,
        seconds=None if minutes is None else minutes * 60,
        max_uses=whole(form.uses, "The number of calls", most=MAX_USES),
        ticket=form.ticket.strip(),
    )


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


def _arguments(text: str) -> JsonObject:
    try:
        value = strictjson.decode(text.encode() if text.strip() else b"{}")
    except (Invalid, UnicodeEncodeError) as error:
        detail = error.detail if isinstance(error, Invalid) else "this is no text"
        raise Invalid("request.arguments", f"The arguments are not JSON: {detail}") from error
    if not isinstance(value, dict):
        raise Invalid("request.arguments", 'The arguments are one JSON object, such as {"path": "docs"}.')
    return value
