"""Why a call would be allowed or refused: to an agent about itself, to whoever may know all rights about anybody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import policy_now, shapes
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.parsing import Input, Moment, Text, body
from jitaccess.api.schema import documented
from jitaccess.identity.services import user_by_name
from jitaccess.kernel.errors import Forbidden, Invalid, NotFound
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.decide import END_OF_TIME, Code, Who
from jitaccess.policy.engine.explain import Considered, Explanation, explain
from jitaccess.policy.engine.rules import Snapshot, Subject

_EXAMPLE = OpenApiExample(
    "One call", value={"server": "git", "tool": "git_commit", "arguments": {"message": "x"}}, request_only=True
)


class NewQuestion(Input):
    server = Text(max_length=32, help_text="A server's slug.")
    tool = Text(max_length=200)
    arguments = serializers.DictField(required=False, help_text="Absent: whether any would do.")
    at = Moment(required=False, help_text="By the rules and rights as they are now. Absent: now.")
    agent = Text(required=False, max_length=40, help_text="People: whom it is about.")
    on_behalf_of = Text(required=False, max_length=150, help_text="People: for whom that agent would act.")


class Explain(Endpoint):
    reads: ClassVar[bool] = True

    @documented(
        "explain",
        "Why a call would be allowed or refused",
        "Every rule and right that was looked at, what was missing, and what to ask for. Nothing is called. An "
        "agent's token asks about itself; staff with the permission jit_policy.view_rolebinding about anybody.",
        tag="policy",
        takes=NewQuestion,
        answer=shapes.Explanation,
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> Response:
        asked, caller = body(request, NewQuestion), caller_of(request)
        who = _who(caller, asked)
        snapshot, at = policy_now.STORE.look(Subject(agent=who.agent, user=who.user))
        server, arguments = snapshot.server_by_slug(asked["server"]), asked.get("arguments")
        found = explain(
            snapshot,
            who=who,
            server=server.id if server else None,
            tool=asked["tool"],
            at=asked.get("at", at),
            arguments=arguments,
            digest="" if arguments is None else arguments_digest(arguments),
        )
        return Response(_data(found if caller.person else _for_agents(found)))


def _who(caller: Caller, asked: dict[str, Any]) -> Who:
    """Raises Forbidden for a foreign one, whether or not there is such an agent."""
    own = caller.principal
    if own.agent is not None:
        if asked.keys() & {"agent", "on_behalf_of"}:
            raise Forbidden("explain.foreign", "You may ask about yourself: leave `agent` and `on_behalf_of` out.")
        return Who(own.agent, own.user)
    caller.insist_on_reading("jit_policy.rolebinding")
    if "agent" not in asked:
        raise Invalid("explain.agent", "Name the agent that it is about.")
    snapshot, _ = policy_now.STORE.look()
    user = user_by_name(asked["on_behalf_of"]).pk if "on_behalf_of" in asked else None
    return Who(_agent(snapshot, asked["agent"]), user)


def _agent(snapshot: Snapshot, name: str) -> UUID:
    found = next((one.id for one in snapshot.agents.values() if one.name == name), None)
    if found is None:
        raise NotFound("agent.unknown", "There is no such agent.")
    return found


def _for_agents(found: Explanation) -> Explanation:
    """A tool that an agent may not know about is explained like one that there is not."""
    if found.verdict.code is not Code.UNKNOWN:
        return found
    nothing = "nothing that you may ask for would allow it"
    return Explanation(replace(found.verdict, rule="no such tool for you", requestable=None), (), (nothing,))


def _data(found: Explanation) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "allowed": verdict.allowed,
        "code": verdict.code,
        "rule": verdict.rule,
        "requestable": verdict.requestable is not None or bool(verdict.roles),
        "grant_id": str(verdict.grant) if verdict.grant else None,
        "until": verdict.until.isoformat() if verdict.allowed and verdict.until < END_OF_TIME else None,
        "considered": [_considered(one) for one in found.considered],
        "advice": list(found.advice),
    }


def _considered(one: Considered) -> dict[str, Any]:
    return {
        "part": one.part,
        "whose": one.whose,
        "rule": one.rule,
        "applies": one.applies,
        "decided": one.decided,
        "missing": one.missing,
    }
