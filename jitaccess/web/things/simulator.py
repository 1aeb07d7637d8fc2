"""The simulator: may this principal call this tool with these arguments now, because of what, and if not, what to ask
for. Nothing is called and nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import agents_for, user_by_name
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.decide import END_OF_TIME, Code, Who
from jitaccess.policy.engine.explain import Explanation, explain
from jitaccess.policy.engine.rules import Subject
from jitaccess.store.clock import now
from jitaccess.web.things.sights import may_look, servers_seen_by
from requests_app.card.card import SNAPSHOTS
from requests_app.card.shown import Shown, shown
from requests_app.pages import page, person_of

MOST = 200  # names to choose from
_NAMES = ("agent", "user", "server", "tool", "arguments")
_SAID = {
    Code.ALLOWED: "Allowed",
    Code.UNKNOWN: "Refused: for this agent there is no such tool",
    Code.NO_BINDING: "Refused: nothing allows it now",
    Code.OTHER_ARGUMENTS: "Refused: not with these arguments",
    Code.EXPIRED: "Refused: the access has ended",
    Code.REVOKED: "Refused: the access was taken away",
    Code.USED_UP: "Refused: all its calls are used up",
    Code.QUARANTINED: "Refused: its definition waits for a review",
    Code.LOCKED_DOWN: "Refused: it is locked or disabled",
    Code.NOT_REQUESTABLE: "Refused: a rule denies it",
}
_HEAD = [{"label": "Looked at"}, {"label": "Whose"}, {"label": "Rule"}, {"label": "What it says"}]


@dataclass(frozen=True, slots=True)
class Answer:
    """`said` in words, and why; `arguments` as they were read, None when any would do."""

    found: Explanation
    said: str
    until: Any
    arguments: Shown | None
    ask: bool


@page(back="web:simulator")
@require_http_methods(["GET", "HEAD", "POST"])
def simulator(request: HttpRequest) -> HttpResponse:
    """Arguments come in the body only: an address is kept in histories and logs."""
    user, form = person_of(request), request.POST if request.method == "POST" else request.GET
    given = {name: form.get(name, "").replace("\0", "")[:60_000] for name in _NAMES}
    if request.method != "POST":
        given["arguments"] = ""
    foreign, answer, refusal = may_look(user, "jit_policy.rolebinding"), None, None
    try:
        if all(given[name].strip() for name in ("agent", "server", "tool")):
            answer = _answer(user, given, foreign=foreign)
        elif request.method == "POST":
            raise Invalid("simulator.question", "Name the agent, the server and the tool.")
    except JitAccessError as error:
        refusal = error
    agents = Agent.objects.filter(enabled=True) if foreign else agents_for(user)
    context = {
        "given": given,
        "answer": answer,
        "refusal": refusal,
        "foreign": foreign,
        "agents": agents.order_by("name").values_list("name", flat=True)[:MOST],
        "servers": servers_seen_by(user).order_by("slug").values_list("slug", flat=True)[:MOST],
        "head": _HEAD,
        "now": now(),
    }
    return render(request, "web/things/simulator.html", context, status=refusal.http_status if refusal else 200)


def _answer(user: User, given: dict[str, str], *, foreign: bool) -> Answer:
    who = _anybody(given) if foreign else _own(user, given)
    arguments = _arguments(given["arguments"])
    snapshot, at = SNAPSHOTS.look(Subject(agent=who.agent, user=who.user))
    server = snapshot.server_by_slug(given["server"].strip())
    found = explain(
        snapshot,
        who=who,
        server=server.id if server else None,
        tool=given["tool"].strip(),
        at=at,
        arguments=arguments,
        digest="" if arguments is None else arguments_digest(arguments),
    )
    if not foreign and found.verdict.code is Code.UNKNOWN:
        # Told like a tool that there is not: which of the two it is, is not theirs to know.
        nothing = "nothing that this agent may ask for would allow it"
        found = Explanation(replace(found.verdict, rule="no such tool for it", requestable=None), (), (nothing,))
    verdict = found.verdict
    until = verdict.until if verdict.allowed and verdict.until < END_OF_TIME else None
    ask = verdict.requestable is not None or bool(verdict.roles)
    return Answer(found, _SAID[verdict.code], until, None if arguments is None else shown(arguments), ask)


def _anybody(given: dict[str, str]) -> Who:
    agent = Agent.objects.filter(name=given["agent"].strip()).first()
    if agent is None:
        raise NotFound("agent.unknown", f"There is no agent named {visible(given['agent'].strip(), limit=60)}.")
    name = given["user"].strip()
    return Who(agent.pk, user_by_name(name).pk if name else None)


def _own(user: User, given: dict[str, str]) -> Who:
    """An agent of theirs: for them, or, if they own it, alone. Of any other they do not learn whether it is there."""
    agent = agents_for(user).filter(name=given["agent"].strip()).first()
    name = given["user"].strip()
    if agent is None or name not in {"", user.username} or (not name and agent.owner_id != user.pk):
        detail = "You may ask about agents of yours: on your behalf, and about those that you own also alone."
        raise NotFound("agent.unknown", detail)
    return Who(agent.pk, user.pk if name else None)


def _arguments(text: str) -> JsonObject | None:
    if not text.strip():
        return None
    try:
        return strictjson.decode(text.encode())
    except JitAccessError as error:
        raise Invalid("simulator.arguments", f"The arguments are not a JSON object: {error.detail}") from None
    except UnicodeEncodeError:
        raise Invalid("simulator.arguments", "The arguments are not text.") from None
