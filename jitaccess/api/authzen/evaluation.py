"""The Access Evaluation and Access Evaluations APIs (Authorization API 1.0)."""

from __future__ import annotations

from typing import ClassVar

from drf_spectacular.utils import OpenApiExample

from jitaccess.api.authzen import shapes
from jitaccess.api.authzen.asking import Asking, about, asking, heard
from jitaccess.api.authzen.deciding import decision
from jitaccess.api.authzen.endpoint import AuthZen, posted
from jitaccess.api.authzen.entities import Question, Questions, question, questions
from jitaccess.api.endpoint import Caller, Request, Response, caller_of
from jitaccess.api.schema import documented
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Who

_EXAMPLE = OpenApiExample(
    "May I call this tool?",
    value={
        "subject": {"type": "agent", "id": "demo-agent"},
        "action": {"name": "call"},
        "resource": {"type": "tool", "id": "git/git_commit", "properties": {"arguments": {"message": "Fix"}}},
    },
    request_only=True,
)


class EvaluationView(AuthZen):
    reads: ClassVar[bool] = True

    @documented(
        "authzen_evaluation",
        "One decision",
        "May this subject do this? Agents ask about themselves, staff who may read all bindings about anybody.",
        tag="authzen",
        takes=shapes.Evaluation,
        answer=shapes.AuthZenDecision,
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> Response:
        return Response(_one(caller_of(request), question(posted(request))))


class EvaluationsView(AuthZen):
    reads: ClassVar[bool] = True

    @documented(
        "authzen_evaluations",
        "Several decisions",
        "With defaults and the three evaluation semantics. An evaluation that cannot be read is denied by itself.",
        tag="authzen",
        takes=shapes.Evaluations,
        answer=shapes.Decisions,
    )
    def post(self, request: Request) -> Response:
        caller, asked = caller_of(request), questions(posted(request))
        if isinstance(asked, Question):
            return Response(_one(caller, asked))
        return Response({"evaluations": _several(caller, asked)})


def _one(caller: Caller, asked: Question) -> JsonObject:
    first = asking(caller)
    who = first.who(asked.subject)
    return decision(about(first, [who]), asked, who)


def _several(caller: Caller, asked: Questions) -> list[Json]:
    first = asking(caller)
    subjects = heard(first, asked.items)
    now = about(first, subjects)
    answers: list[Json] = []
    for item, who in zip(asked.items, subjects, strict=True):
        answer = _item(now, item, who)
        answers.append(answer)
        allowed = answer["decision"] is True
        if asked.semantic == ("permit_on_first_permit" if allowed else "deny_on_first_deny"):
            break
    return answers


def _item(asked: Asking, item: Question | JitAccessError, who: Who | None) -> JsonObject:
    if isinstance(item, Question):
        return decision(asked, item, who)
    return {"decision": False, "context": {"error": {"status": item.http_status, "message": item.detail}}}
