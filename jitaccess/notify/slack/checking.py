"""The form of `/access` before anything is filed: what would come of it, or what is wrong with which field.

It is answered at once and writes nothing. What is filed is what was checked: who changes the form after that, is shown
once more what would come of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings

from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.text import visible
from jitaccess.notify.slack import asking, modals
from jitaccess.notify.slack import blocks as kit
from jitaccess.notify.slack.blocks import Block
from jitaccess.notify.slack.modals import Filled
from requests_app import standing
from requests_app.card.card import card_of
from requests_app.card.lines import card_lines
from requests_app.inputs import fields_of
from requests_app.services import Ask, Submission

log = logging.getLogger("jitaccess.slack")

_MOST = 40  # blocks of what is told: 100 are all that a form has
_URL = 3000
# Of the card's lines, those that the person who asks does not know yet.
_TOLD = frozenset(
    {"would add", "allowed already", "stays refused", "note", "for", "starts", "over by", "how unusual", "used before"}
)
_WHO = ("approvals", "stage")
_ABOUT = {
    "request.reason": "reason",
    "request.ticket": "ticket",
    "request.duration": "seconds",
    "request.uses": "uses",
    "request.starts_at": "starts",
    "request.not_after": "over",
    "request.arguments": "arguments",
    "request.not_your_agent": "agent",
}


def check(payload: Mapping[str, Any], user: User, *, source: str) -> Mapping[str, Any] | None:
    """What Slack shows in place of the form that was sent; None for what is no form for access, and for what was
    checked just so: that is to be filed.
    """
    view = payload.get("view")
    if not isinstance(view, dict) or view.get("callback_id") != modals.ACCESS:
        return None
    filled, (origin, checked) = modals.filled_of(payload), modals.checked_of(payload)
    try:
        principal, ask = asking.meant(filled, user, source=source)
        said = _digest(principal, ask)
        if said == checked:
            return None
        filed = asking.tried(principal, ask, user)
    except JitAccessError as error:
        return {"response_action": "errors", "errors": {_block_of(error, filled): visible(error.detail, limit=500)}}
    agents = list(agents_for(user).order_by("name")[: kit.OPTIONS])
    form = modals.access_form(
        agents,
        origin,
        filled=filled,
        told=_cut(list(_told(filed))),
        checked=said,
        hint=_hint(ask),
        url=_url(principal.agent_name, ask),
    )
    return {"response_action": "update", "view": form}


def page_url(agent: Agent) -> str:
    """Where the same is asked for on the web."""
    return f"{settings.PUBLIC_URL}/requests/new/?{urlencode({'agent': agent.name})}"


def _told(filed: Sequence[Submission]) -> Iterator[Block]:
    if len(filed) > 1:
        yield from kit.sections(f"This becomes {len(filed)} requests, for different people decide them.")
    for one in filed:
        if one.coalesced:
            yield from kit.sections("The same is pending already: nothing would be filed for it.")
            continue
        card = card_of(standing.as_if(one.request), None, channel="slack")
        yield kit.header("What would be asked" if not card.progress.auto else "Approved at once, by rule")
        lines = []
        for name, text in card_lines(card):
            if name in _TOLD or (name.startswith(_WHO) and not card.progress.auto):
                lines.append(f"{name.capitalize()}: {text}")
        if card.progress.auto:
            how = card.progress
            lines.append(f"The rule {how.rule} of the policy {how.policy} would approve this: nobody would be asked.")
        yield from kit.sections("\n".join(lines))


def _cut(told: list[Block]) -> list[Block]:
    return (
        told if len(told) <= _MOST else [*told[:_MOST], *kit.sections("… There is more of it; on the web it is whole.")]
    )


def _hint(ask: Ask) -> str:
    """Which arguments the tool of the call has."""
    if not ask.calls:
        return ""
    slug, name = ask.calls[0].server, ask.calls[0].tool
    tool = Tool.objects.filter(server__slug=slug, name=name).first()
    fields = fields_of(tool.definition) if tool else None
    if not fields:
        return ""
    told = ", ".join(f"{one.name}{' (needed)' if one.required else ''}" for one in fields)
    return visible(f"It has: {told}", limit=1000)


def _url(agent: str, ask: Ask) -> str:
    """The form on the web as it is filled in here. Not the arguments: an address is kept in histories and logs."""
    sent = [("agent", agent), *(("tool", f"{slug}/{name}") for slug, name in ask.tools)]
    sent += [("role", name) for name in ask.roles] + [("call_tool", f"{one.server}/{one.tool}") for one in ask.calls]
    if ask.seconds:
        sent.append(("minutes", str(ask.seconds // 60)))
    if ask.ticket:
        sent.append(("ticket", ask.ticket))
    url = f"{settings.PUBLIC_URL}/requests/new/?{urlencode(sent)}"
    return url if len(url) <= _URL else f"{settings.PUBLIC_URL}/requests/new/"


def _digest(principal: Principal, ask: Ask) -> str:
    return hashlib.sha256(repr((principal.key, ask)).encode("utf-8", "backslashreplace")).hexdigest()


def _block_of(error: JitAccessError, filled: Filled) -> str:
    """The field that Slack shows it at."""
    found = _ABOUT.get(error.code, "")
    if found:
        return found
    return "call" if filled.chosen("call") and not filled.several("things") else "things"
