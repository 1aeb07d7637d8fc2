"""Decisions (Authorization API 1.0): the gateway's own, for whoever may ask, and no oracle for whoever may not."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings

from jitaccess.audit.models import Entry
from jitaccess.catalog.models import Server
from jitaccess.catalog.services import register_server
from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import create_agent, set_agent_enabled
from jitaccess.policy.locks import lock, unlock
from jitaccess.policy.models import BindingUse, RoleBinding
from requests_app.models import AccessRequest
from tests.api.authzen.conftest import HERE, Pdp, bearing, problem, question, signed_in
from tests.api.conftest import token_of
from tests.cast import OPERATOR, Cast

pytestmark = pytest.mark.django_db


def without_ids(context: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in context.items() if name not in {"evaluation_id", "evaluated_at"}}


def test_an_agent_is_told_what_the_gateway_would_decide(cast: Cast, pdp: Pdp):
    assert pdp.decide("git/git_log") == {"decision": True}
    assert pdp.denied("git/git_commit")["reason"] == "approval_required"
    grant = cast.grant("git_commit")
    assert pdp.decide("git/git_commit") == {"decision": True}
    by_id = {"type": "agent", "id": str(cast.agent.pk)}
    assert pdp.decide("git/git_commit", subject=by_id) == {"decision": True}
    grant.refresh_from_db()
    assert not Entry.objects.filter(event="grant.used").exists()


def test_a_question_changes_nothing_and_has_the_same_answer_each_time(cast: Cast, pdp: Pdp):
    binding = cast.limited(1)
    before = Entry.objects.count()
    assert [pdp.decide()["decision"] for _ in range(3)] == [True, True, True]
    assert BindingUse.objects.get(binding=binding).left == 1
    assert Entry.objects.count() == before


def test_what_is_hidden_answers_like_what_does_not_exist(cast: Cast, pdp: Pdp):
    cast.requestable.delete()
    register_server(slug="secret", operator=OPERATOR)
    asked = ("git/git_commit", "git/no_such_tool", "secret/anything", "nowhere/anything", "no-slash")
    answers = [without_ids(pdp.denied(tool)) for tool in asked]
    assert answers == [{"reason": "unknown"}] * len(asked)
    servers = [
        pdp.decide(resource={"type": "server", "id": slug}, action={"name": "connect"})
        for slug in ("secret", "nowhere")
    ]
    assert [without_ids(one["context"]) for one in servers] == [{"reason": "unknown"}] * 2
    assert pdp.decide(resource={"type": "server", "id": "git"}, action={"name": "connect"}) == {"decision": True}


def test_types_and_actions_that_nobody_knows_are_denials_with_a_reason(pdp: Pdp):
    assert pdp.denied(subject={"type": "spaceship", "id": "x"})["reason"] == "unknown_subject_type"
    assert pdp.denied(resource={"type": "moon", "id": "x"})["reason"] == "unknown_resource_type"
    assert pdp.denied(action={"name": "paint"})["reason"] == "unknown_action"
    assert pdp.denied(resource={"type": "server", "id": "git"})["reason"] == "unknown_action"


def test_a_foreign_subject_is_refused_in_one_way_whether_it_is_here_or_not(cast: Cast, pdp: Pdp):
    create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)
    cast.agent.users.add(cast.anna)
    subjects = [
        {"type": "agent", "id": "other"},
        {"type": "agent", "id": "nobody-at-all"},
        {"type": "agent", "id": "demo-agent", "properties": {"on_behalf_of": "anna"}},
        {"type": "agent", "id": "demo-agent", "properties": {"on_behalf_of": "nobody"}},
        {"type": "user", "id": "anna"},
        {"type": "user", "id": "nobody"},
    ]
    answers = [
        problem(pdp.post("evaluation", question(subject=one)), 403, "authzen.foreign_subject") for one in subjects
    ]
    assert all(one == answers[0] for one in answers)
    batch = {"evaluations": [question("git/git_log"), question("git/git_log", subject=subjects[0])]}
    problem(pdp.post("evaluations", batch), 403, "authzen.foreign_subject")


def test_the_subject_in_the_body_gives_no_authority(cast: Cast):
    """An agent for anna is anna's agent and nobody else's, whatever the body claims."""
    cast.agent.users.add(cast.anna)
    for_anna = bearing(token_of(cast.agent, cast.anna))
    pair = {"type": "agent", "id": "demo-agent", "properties": {"on_behalf_of": "anna"}}
    assert for_anna.decide("git/git_log", subject=pair) == {"decision": True}
    for subject in ({"type": "user", "id": "anna"}, {"type": "user", "id": str(cast.anna.pk)}):
        assert for_anna.decide("git/git_log", subject=subject) == {"decision": True}
    acting = {"type": "user", "id": "anna", "properties": {"act": {"sub": "demo-agent"}}}
    assert for_anna.decide("git/git_log", subject=acting) == {"decision": True}
    for subject in ({"type": "agent", "id": "demo-agent"}, {"type": "user", "id": "admin"}):
        problem(for_anna.post("evaluation", question(subject=subject)), 403, "authzen.foreign_subject")


def test_somebody_named_like_the_id_of_somebody_else_is_not_taken_for_them(cast: Cast):
    twin = User.objects.create_user(username=str(cast.anna.pk))
    cast.agent.users.add(cast.anna, twin)
    for_twin = bearing(token_of(cast.agent, twin))
    subject = {"type": "user", "id": str(cast.anna.pk)}
    problem(for_twin.post("evaluation", question(subject=subject)), 403, "authzen.foreign_subject")


def test_staff_who_may_read_all_bindings_may_ask_about_anybody(cast: Cast):
    admin = signed_in(cast.admin)
    assert admin.decide("git/git_log") == {"decision": True}
    assert admin.denied(subject={"type": "agent", "id": "nobody"})["reason"] == "unknown_subject"
    assert admin.denied(subject={"type": "user", "id": "anna"})["reason"] == "unknown_subject"
    for person in (cast.anna, cast.olga, cast.carl):
        problem(signed_in(person).post("evaluation", question()), 403, "authzen.foreign_subject")


def test_an_enforcement_point_may_ask_about_anybody_while_it_is_enabled(cast: Cast, enforcer: Pdp):
    assert enforcer.decide("git/git_log") == {"decision": True}
    assert enforcer.denied("git/git_commit")["reason"] == "approval_required"
    set_agent_enabled(agent=Agent.objects.get(name="gate"), enabled=False, operator=OPERATOR)
    problem(enforcer.post("evaluation", question()), 403, "authzen.foreign_subject")


def test_locks_close_what_they_name_and_a_locked_enforcement_point_is_none(cast: Cast, enforcer: Pdp, pdp: Pdp):
    git = {"resource": {"type": "server", "id": "git"}, "action": {"name": "connect"}}
    gate = Agent.objects.get(name="gate")
    on_server = lock(kind="server", target=cast.server.pk, reason="Incident", operator=OPERATOR)
    assert pdp.denied("git/git_log")["reason"] == "locked_down"
    assert pdp.denied(**git)["reason"] == "locked_down"
    unlock(lock=on_server, operator=OPERATOR)
    assert pdp.decide(**git) == {"decision": True}
    everything = lock(kind="everything", reason="Incident", operator=OPERATOR)
    assert enforcer.denied("git/git_log")["reason"] == "locked_down"
    unlock(lock=everything, operator=OPERATOR)
    lock(kind="agent", target=gate.pk, reason="Stolen", operator=OPERATOR)
    problem(enforcer.post("evaluation", question()), 403, "authzen.foreign_subject")


def test_a_disabled_agent_is_denied_everything(cast: Cast, pdp: Pdp):
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    assert without_ids(pdp.denied("git/git_log")) == {"reason": "locked_down"}
    assert pdp.denied("git/git_commit")["reason"] == "locked_down"


BROKEN: list[dict[str, Any]] = [
    {"subject": None},
    {"action": None},
    {"resource": None},
    {"subject": "alice"},
    {"subject": {"id": "x"}},
    {"subject": {"type": "agent"}},
    {"subject": {"type": "agent", "id": ""}},
    {"subject": {"type": "agent", "id": 7}},
    {"subject": {"type": "agent", "id": "x", "properties": []}},
    {"action": {}},
    {"action": {"name": 123}},
    {"resource": {"id": "x"}},
    {"resource": {"type": "tool"}},
    {"context": "now"},
]


def test_a_question_that_is_not_whole_is_a_bad_request(pdp: Pdp):
    for change in BROKEN:
        asked = {name: value for name, value in (question() | change).items() if value is not None}
        for path in ("evaluation", "evaluations"):
            problem(pdp.post(path, asked), 400, "authzen.malformed")


def test_bodies_that_are_no_json_object_are_bad_requests(pdp: Pdp):
    for raw, code in ((b"{", "json.invalid"), (b"[]", "json.batch"), (b"", "authzen.malformed")):
        problem(pdp.post("evaluation", raw), 400, code)
    problem(pdp.post("evaluation", b"subject=alice", kind="text/plain"), 400, "body.media_type")
    problem(pdp.post("evaluation", b'{"subject": 1, "subject": 2}'), 400, "json.duplicate_member")
    problem(pdp.post("evaluation", b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}"), 400, "json.depth")
    problem(pdp.post("evaluation", b" " * 200_000 + b"{}"), 413, "body.too_large")


def test_unknown_members_and_unknown_properties_are_ignored(pdp: Pdp):
    asked = question("git/git_log") | {"foo": "bar", "future": {"nested": True}}
    asked["subject"]["properties"] = {"department": "Sales"}
    asked["subject"]["shoe_size"] = 44
    asked["context"] = {"time": "2025-06-27T18:03-07:00"}
    assert pdp.post("evaluation", asked).json() == {"decision": True}


def test_without_credentials_nothing_is_decided(cast: Cast):
    stranger = bearing("jit_nonsense")
    answer = stranger.post("evaluation", question())
    problem(answer, 401, "token.invalid")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="jitaccess"'
    stranger.headers.clear()
    assert stranger.post("evaluations", question()).status_code == 401
    assert stranger.post("requests", {}).status_code == 401
    assert stranger.get("forward-auth").status_code == 401


def test_the_name_of_a_request_is_given_back(pdp: Pdp):
    for path, asked in (("evaluation", question()), ("evaluations", {}), ("evaluation", b"{")):
        assert pdp.post(path, asked, X_Request_ID="the name/1").headers["X-Request-ID"] == "the name/1"
    assert "X-Request-ID" not in pdp.post("evaluation", question()).headers


def test_several_questions_are_answered_in_their_order_with_defaults(pdp: Pdp):
    defaults = {"subject": question()["subject"], "action": {"name": "call"}, "context": {"time": "now"}}
    read, write = {"type": "tool", "id": "git/git_log"}, {"type": "tool", "id": "git/git_commit"}
    body = defaults | {
        "resource": read,
        "evaluations": [{}, {"resource": write}, {"action": {"name": "paint"}}, {"context": {"time": "then"}}],
    }
    answer = pdp.post("evaluations", body).json()
    assert "decision" not in answer
    assert [one["decision"] for one in answer["evaluations"]] == [True, False, False, True]
    assert answer["evaluations"][2]["context"]["reason"] == "unknown_action"


def test_an_evaluation_that_cannot_be_read_is_denied_by_itself(pdp: Pdp):
    body = question("git/git_log") | {"evaluations": [{}, {"resource": {"type": "tool"}}, {"subject": 7}, "no", {}]}
    answers = pdp.post("evaluations", body).json()["evaluations"]
    assert [one["decision"] for one in answers] == [True, False, False, False, True]
    assert [one["context"]["error"]["status"] for one in answers[1:4]] == [400] * 3
    problem(pdp.post("evaluations", body | {"subject": 7}), 400, "authzen.malformed")
    del body["resource"]
    assert [one["decision"] for one in pdp.post("evaluations", body).json()["evaluations"]] == [False] * 5


def test_one_question_may_come_to_the_address_of_several(pdp: Pdp):
    assert pdp.post("evaluations", question("git/git_log")).json() == {"decision": True}
    assert pdp.post("evaluations", question("git/git_log") | {"evaluations": []}).json() == {"decision": True}


SEMANTICS = (
    ("execute_all", "rwr", [True, False, True]),
    ("deny_on_first_deny", "rwr", [True, False]),
    ("deny_on_first_deny", "rr", [True, True]),
    ("deny_on_first_deny", "r?r", [True, False]),
    ("permit_on_first_permit", "w?rw", [False, False, True]),
    ("permit_on_first_permit", "ww", [False, False]),
)


def test_the_three_semantics(pdp: Pdp):
    items: dict[str, Any] = {
        "r": question("git/git_log"),
        "w": question("git/git_commit"),
        "?": {"subject": "cannot be read"},
    }
    for semantic, tools, decisions in SEMANTICS:
        options = {"evaluations_semantic": semantic, "other": 1}
        answer = pdp.post("evaluations", {"evaluations": [items[one] for one in tools], "options": options}).json()
        assert [one["decision"] for one in answer["evaluations"]] == decisions, (semantic, tools)


def test_what_cannot_be_meant_is_refused_as_a_whole(pdp: Pdp):
    one = question("git/git_log")
    for bad in (
        {"evaluations": {}},
        {"evaluations": [one], "options": "fast"},
        {"evaluations": [one], "options": {"evaluations_semantic": "guess"}},
    ):
        problem(pdp.post("evaluations", one | bad), 400, "authzen.malformed")
    problem(pdp.post("evaluations", {"evaluations": [one] * 101}), 400, "authzen.too_many")


def test_discovery_says_what_there_is_and_nothing_else(client: Any, pdp: Pdp):
    answer = client.get("/.well-known/authzen-configuration")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert answer.json() == {
        "policy_decision_point": HERE,
        "access_evaluation_endpoint": f"{HERE}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{HERE}/access/v1/evaluations",
        "access_request_endpoint": f"{HERE}/access/v1/requests",
        "jwks_uri": f"{HERE}/access/v1/jwks.json",
        "capabilities": ["urn:openid:authzen:capability:access-request"],
    }
    for kind in ("subject", "resource", "action"):
        assert pdp.post(f"search/{kind}", question()).status_code == 404


def test_questions_are_counted_as_reads_and_no_more_than_so_many(settings: LazySettings, pdp: Pdp):
    settings.API_READS_PER_MINUTE, settings.API_WRITES_PER_MINUTE = 5, 1
    statuses = [pdp.post("evaluation", question("git/git_log")).status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]


def test_an_enforcement_point_lets_no_call_through_twice_on_one_approval(cast: Cast, enforcer: Pdp):
    """For it the question is the call: without naming the approval a grant for a number of calls allows nothing."""
    binding = cast.limited(1)
    reference = {"approval": {"id": f"apr_{binding.origin_id.hex}"}}  # type: ignore[union-attr]
    assert without_ids(enforcer.denied()) == {"reason": "approval_not_presented", "next_action": "none"}
    first = enforcer.decide(context=reference)
    assert first["decision"] is True
    assert first["context"]["approval"]["id"] == reference["approval"]["id"]
    again = enforcer.denied(context=reference)
    assert (again["reason"], again["next_action"]) == ("approval_expired", "request")
    assert BindingUse.objects.get(binding=binding).left == 0
    used = Entry.objects.get(event="grant.used")
    assert (used.agent_name, used.tool, used.grant) == ("demo-agent", "git_commit", binding.origin_id)
    assert '"enforced_by":"gate"' in used.data


def test_one_approval_takes_no_use_of_another(cast: Cast, enforcer: Pdp):
    """Two exact calls of one tool, two grants: each reference is good for its own."""
    calls = {
        text: {"type": "tool", "id": "git/git_commit", "properties": {"arguments": {"message": text}}} for text in "ab"
    }
    shown = {}
    for text, resource in calls.items():
        task = enforcer.submit(enforcer.denied(resource=resource), resource=resource).json()["task"]
        cast.approve(AccessRequest.objects.latest("created_at"))
        shown[text] = {"approval": enforcer.get(f"requests/{task['id']}").json()["result"]["approval"]}
    assert enforcer.denied(resource=calls["a"], context=shown["b"])["reason"] == "out_of_scope"
    assert enforcer.decide(resource=calls["b"], context=shown["b"])["decision"] is True
    assert enforcer.decide(resource=calls["a"], context=shown["a"])["decision"] is True
    assert Entry.objects.filter(event="grant.used").count() == 2


def test_server_and_access_changes_are_seen_at_once(cast: Cast, pdp: Pdp):
    assert pdp.decide("git/git_log")["decision"] is True
    Server.objects.filter(pk=cast.server.pk).update(enabled=False)
    assert pdp.denied("git/git_log")["reason"] == "unknown"
    Server.objects.filter(pk=cast.server.pk).update(enabled=True)
    RoleBinding.objects.filter(everyone="agents").delete()
    assert pdp.denied("git/git_log")["reason"] == "unknown"
