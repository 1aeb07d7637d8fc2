"""All of the workflow over the API: calls, roles, bundles, people who ask, narrowing, changes, more time, stand-ins."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY

from jitaccess.api import idempotency
from jitaccess.api.models import StoredAnswer
from jitaccess.identity.models import User
from jitaccess.identity.services import create_agent
from jitaccess.policy.models import Delegation, Requestable
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.provisioning.rows import Target
from tests.api.conftest import NOBODY, Api, ask, bearer, person, problem, token_of
from tests.cast import OPERATOR, Cast, policy_document
from tests.clocks import Clock

pytestmark = pytest.mark.django_db

COMMIT: dict[str, Any] = {"repo_path": ".", "message": "release 2.4", "deep": [{"a": None}, 1.5]}
WHY = {"reason": "Finish the release notes"}
WRITER = """\
kind: role
version: v1
metadata: {name: writer, owner: "team:reviewers"}
spec:
  allow:
    - servers: [git]
      tools: [git_commit]
  request: {max_duration: 2h, approval: review}
"""


def file(api: Api, **asked: Any) -> dict[str, Any]:
    answer = api.post("/requests", {**WHY, **asked})
    assert answer.status_code == 201, answer.content
    value: dict[str, Any] = answer.json()
    return value


def approve(api: Api, asked: dict[str, Any], **more: Any) -> Any:
    return api.post(f"/requests/{asked['request_id']}/approve", {"digest": asked["digest"], **more})


def two_policies(cast: Cast) -> None:
    """git_reset is decided by carl, everything else by the reviewers."""
    other = save_policy(document=policy_document("user:carl", name="careful"), operator=OPERATOR)
    cast.requestable.access = "write"
    cast.requestable.save()
    Requestable.objects.create(server=cast.server, access="destructive", max_minutes=60, policy=other)


def test_an_exact_call_is_asked_for_with_its_arguments_and_the_approver_reads_them(cast: Cast, agent: Api) -> None:
    asked = file(agent, calls=[{"tool": "git_commit", "arguments": COMMIT}], server="git", ticket="OPS-7")
    assert (asked["max_uses"], asked["ticket"], asked["kind"], asked["risk"]) == (1, "OPS-7", "access", "medium")
    seen = person(cast.anna).get(f"/requests/{asked['request_id']}").json()
    (item,) = seen["items"]
    assert (item["kind"], item["server"], item["tool"]) == ("call", "git", "git_commit")
    assert (item["arguments"]["mode"], item["arguments"]["value"]) == ("exact", COMMIT)
    assert agent.get(f"/requests/{asked['request_id']}").json()["items"] == seen["items"]
    other = bearer(token_of(create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)))
    problem(other.get(f"/requests/{asked['request_id']}"), 404, "request.unknown")
    assert approve(person(cast.anna), seen).json()["grant"]["calls_left"] == 1


def test_roles_schemas_privileges_and_a_later_start_are_asked_for(cast: Cast, agent: Api) -> None:
    save_role(document=WRITER, operator=OPERATOR)
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select", policy=cast.policy, max_minutes=60
    )
    start = (now() + timedelta(hours=1)).isoformat()
    asked = file(agent, roles=["writer"], starts_at=start, minutes=20)
    assert asked["items"] == [{"kind": "role", "role": "writer", "version": 1}]
    assert asked["starts_at"] == start
    assert agent.get("/requestable").json()["roles"] == [
        {"role": "writer", "max_minutes": 120, "decided_by": ["1 of reviewers"]}
    ]
    wanted = {"database": "shop", "objects": ["public.a"], "privileges": ["SELECT"]}
    assert file(agent, privileges=[wanted])["items"] == [{"kind": "database", **wanted, "privileges": ["select"]}]
    message = {"type": "string", "maxLength": 9}
    schema = {"type": "object", "properties": {"message": message}, "additionalProperties": False}
    limited = file(agent, tools=["git/git_commit"], arguments_schema=schema)
    assert limited["items"][0]["arguments"] == {"mode": "schema", "schema": schema}
    granted = approve(person(cast.anna), asked).json()
    assert granted["grant"]["state"] == "scheduled"
    assert agent.get(f"/grants/{granted['grant']['grant_id']}").json()["starts_at"] == start


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"calls": [{"tool": "git/git_commit"}, {"arguments": {}}]}, "/calls/1/tool"),
        ({"calls": [{"tool": "git/git_commit", "argument": {}}]}, "/calls/0/argument"),
        ({"roles": [1]}, "/roles/0"),
        ({"starts_at": "2026-01-31T09:00:00"}, "/starts_at"),
        ({"not_after": 0}, "/not_after"),
        ({"supersedes": 7}, "/supersedes"),
        ({"privileges": [{"database": "shop", "objects": [], "privileges": ["select"]}]}, "/privileges/0/objects"),
    ],
)
def test_what_does_not_fit_is_pointed_at(asked: dict[str, Any], pointer: str, agent: Api) -> None:
    wrong = problem(agent.post("/requests", {**WHY, **asked}), 400, "input.invalid")
    assert [one["pointer"] for one in wrong["errors"]] == [pointer]
    problem(agent.post("/requests", WHY), 400, "request.tools")
    assert not AccessRequest.objects.exists()


def test_what_different_people_decide_becomes_a_bundle_all_of_it_or_nothing(cast: Cast, agent: Api) -> None:
    two_policies(cast)
    tools = ["git/git_commit", "git/git_reset"]
    dry = agent.post("/requests", ask(*tools, dry_run=True)).json()
    assert [one["who_can_approve"] for one in dry["requests"]] == [["anna", "bert"], ["carl"]]
    assert not AccessRequest.objects.exists()
    problem(agent.post("/requests", ask(*tools, "git/nothing")), 400, "request.unknown_tool")
    problem(agent.post("/requests", ask(*tools, minutes=61)), 400, "request.duration")
    assert not AccessRequest.objects.exists()
    key = {"Idempotency-Key": "both"}
    both = agent.post("/requests", ask(*tools), headers=key).json()
    assert {one["bundle"] for one in both["requests"]} == {both["bundle"]}
    assert agent.post("/requests", ask(*tools), headers=key).json() == both
    again = agent.post("/requests", ask(*tools)).json()
    assert (again["bundle"], [one["coalesced"] for one in again["requests"]]) == (None, [True, True])
    assert AccessRequest.objects.count() == 2


def test_a_person_asks_for_an_agent_of_theirs_and_counts_as_the_requester(cast: Cast) -> None:
    cast.agent.users.add(cast.bert)
    bert = person(cast.bert)
    body = ask(agent="demo-agent", for_me=True)
    asked = file(bert, **body)
    assert (asked["filed_by"], asked["agent"], asked["on_behalf_of"]) == ("bert", "demo-agent", "bert")
    assert not asked["standing"]["may_decide"]
    problem(approve(bert, asked), 403, "decision.self")
    stored = AccessRequest.objects.get()
    assert (stored.user, stored.filed_by, stored.issued_by) == (cast.bert, cast.bert, None)
    items = bert.get("/requestable", agent="demo-agent").json()["items"]
    assert "git/git_reset" in [one["tool"] for one in items]
    granted = approve(person(cast.anna), asked).json()["grant"]["grant_id"]
    more = bert.post(f"/grants/{granted}/extend", {**WHY, "minutes": 5}).json()
    assert (more["filed_by"], more["on_behalf_of"], more["extends"]) == ("bert", "bert", granted)
    alone = file(bert, **ask("git/git_add", agent="demo-agent"))
    assert alone["on_behalf_of"] is None
    assert bert.post(f"/requests/{alone['request_id']}/cancel").json()["status"] == "cancelled"


def test_nobody_asks_for_an_agent_that_is_not_theirs_nor_for_somebody_else(cast: Cast, agent: Api) -> None:
    for api in (person(cast.anna), person(cast.admin)):
        there = problem(api.post("/requests", ask(agent="demo-agent")), 403, "request.not_your_agent")
        assert there == problem(api.post("/requests", ask(agent="nobody")), 403, "request.not_your_agent")
        problem(api.get("/requestable", agent="demo-agent"), 403, "request.not_your_agent")
    for more in ({"agent": "demo-agent"}, {"for_me": True}):
        problem(agent.post("/requests", ask(**more)), 400, "request.agent")
    wrong = person(cast.olga).post("/requests", ask(agent="demo-agent", user="anna"))
    assert problem(wrong, 400, "input.invalid")["errors"][0]["pointer"] == "/user"
    cast.agent.users.add(cast.bert)
    own = cast.grant(principal=cast.principal(user=cast.bert), seconds=600)
    problem(person(cast.olga).post(f"/grants/{own.pk}/extend", {**WHY, "minutes": 5}), 403, "request.not_your_agent")
    problem(person(cast.anna).post(f"/grants/{own.pk}/extend", {**WHY, "minutes": 5}), 403, "request.not_your_agent")
    assert AccessRequest.objects.count() == 1


def test_what_the_agent_asked_for_by_itself_is_not_shown_to_whoever_asks_for_the_same(cast: Cast, agent: Api) -> None:
    cast.agent.users.add(cast.carl)
    asked = file(agent, tools=["git/git_commit"])
    problem(person(cast.carl).post("/requests", ask(agent="demo-agent")), 409, "request.pending_already")
    problem(person(cast.carl).get(f"/requests/{asked['request_id']}"), 404, "request.unknown")
    instead = ask("git/git_add", agent="demo-agent", supersedes=asked["request_id"])
    problem(person(cast.carl).post("/requests", instead), 404, "request.unknown")
    assert AccessRequest.objects.get().pending


def test_an_approval_can_be_narrowed_and_the_grant_says_what_is_left(cast: Cast, agent: Api) -> None:
    asked = file(agent, tools=["git/git_commit", "git/git_add"], minutes=60)
    anna = person(cast.anna)
    problem(approve(anna, asked, narrow={"minutes": 61}), 400, "decision.terms")
    problem(approve(anna, asked, narrow={"labels": ["git/git_reset"]}), 400, "decision.terms")
    problem(approve(anna, asked, narrow={"seconds": 60}), 400, "input.invalid")
    assert not Decision.objects.exists()
    narrow = {"minutes": 10, "max_uses": 2, "labels": ["git/git_add"]}
    done = approve(anna, asked, narrow=narrow).json()
    assert done["decisions"][0]["terms"] == {"minutes": 10, "max_uses": 2, "tools": ["git/git_add"]}
    assert (done["decisions"][0]["stage"], done["decisions"][0]["channel"]) == (0, "api")
    grant = agent.get(f"/grants/{done['grant']['grant_id']}").json()
    assert (grant["tools"], grant["calls_left"]) == (["git/git_add"], 2)
    assert agent.get("/grants").json()["items"][0]["tools"] == ["git/git_add"]
    assert not cast.verdict("git_commit").allowed


def prove(api: Api, user: User, *, ago: float = 0, **more: Any) -> None:
    """As allauth's page does after somebody gave their password again."""
    session = api.client.session
    record = {"method": "password", "at": time.time() - ago, "reauthenticated": True, **more}
    session[AUTHENTICATION_METHODS_SESSION_KEY] = [record]
    session["account_authentication_methods_user"] = str(user.pk)
    session.save()


def test_step_up_needs_a_session_that_proved_who_it_is_just_now(cast: Cast, agent: Api) -> None:
    cast.change_policy(step_up=True, channels=["api"])
    asked = file(agent, tools=["git/git_commit"])
    assert (asked["plan"]["step_up"], asked["plan"]["channels"]) == (True, ["api"])
    anna = person(cast.anna)
    problem(approve(anna, asked), 403, "decision.step_up")
    for ago, more in ((301, {}), (-10, {}), (0, {"reauthenticated": False})):
        prove(anna, cast.anna, ago=ago, **more)
        problem(approve(anna, asked), 403, "decision.step_up")
    prove(anna, cast.bert)
    problem(approve(anna, asked), 403, "decision.step_up")
    assert not Grant.objects.exists()
    prove(anna, cast.anna, ago=10)
    assert approve(anna, asked).json()["status"] == "approved"


def test_a_policy_may_keep_approvals_out_of_the_api_but_not_denials(cast: Cast, agent: Api) -> None:
    cast.change_policy(channels=["web"])
    asked = file(agent, tools=["git/git_commit"])
    problem(approve(person(cast.anna), asked), 403, "decision.channel")
    denied = person(cast.anna).post(f"/requests/{asked['request_id']}/deny", {"digest": asked["digest"]})
    assert denied.json()["status"] == "denied"


def test_changes_are_asked_for_and_a_new_request_takes_its_place(cast: Cast, agent: Api) -> None:
    asked = file(agent, tools=["git/git_commit", "git/git_reset"])
    path = f"/requests/{asked['request_id']}/ask-for-changes"
    problem(person(cast.olga).post(path, {"note": "x"}), 403, "decision.self")
    told = person(cast.anna).post(path, {"note": "Without the reset."}).json()
    assert told["changes"] == {"asked_by": "anna", "note": "Without the reset."}
    assert agent.get(f"/requests/{asked['request_id']}").json()["changes"] == told["changes"]
    new = file(agent, tools=["git/git_commit"], supersedes=asked["request_id"])
    assert new["supersedes"] == asked["request_id"]
    old = agent.get(f"/requests/{asked['request_id']}").json()
    assert (old["status"], "changes" in old) == ("superseded", False)
    problem(agent.post("/requests", ask("git/git_add", supersedes=NOBODY)), 400, "request.supersedes")


def test_stages_escalations_and_stand_ins_are_shown(cast: Cast, agent: Api, clock: Clock) -> None:
    cast.change_policy(
        rules="""
- name: all
  stages:
    - groups: [{name: reviewers, people: ["user:anna"], quorum: 1}]
    - groups: [{name: security, people: ["user:bert"], quorum: 1}]
  escalate: [{after: 30m, groups: [{name: managers, people: ["user:admin"], quorum: 1}]}]
  deny_threshold: 2
"""
    )
    asked = file(agent, tools=["git/git_commit"])
    assert asked["approvals"] == [
        {"stage": 0, "group": "reviewers", "needed": 1, "given": 0},
        {"stage": 1, "group": "security", "needed": 1, "given": 0},
    ]
    assert (asked["plan"]["stages"], asked["plan"]["deny_threshold"]) == (2, 2)
    (later,) = asked["plan"]["escalations"]
    assert (later["due"], later["groups"]) == (False, ["managers"])
    ends = (now() + timedelta(hours=3)).isoformat()
    anna = person(cast.anna)
    made = anna.post("/delegations", {"delegate": "carl", "ends_at": ends, "note": "On leave."})
    assert made.status_code == 201
    carl = person(cast.carl)
    done = approve(carl, asked).json()
    assert (done["status"], done["decisions"][0]["by"], done["decisions"][0]["on_behalf_of"]) == (
        "pending",
        "carl",
        "anna",
    )
    assert done["standing"]["decided"] is None, "on the first stage he did, on the second he has no say"
    clock.shift(31 * 60)
    assert person(cast.bert).get(f"/requests/{asked['request_id']}").json()["plan"]["escalations"][0]["due"]


def test_delegations_are_seen_by_those_they_are_about_and_made_by_nobody_for_others(cast: Cast, agent: Api) -> None:
    ends = (now() + timedelta(hours=3)).isoformat()
    anna, bert = person(cast.anna), person(cast.bert)
    for path, body in (("/delegations", {"ends_at": ends}), (f"/delegations/{NOBODY}/end", {})):
        problem(agent.post(path, body), 403, "agents_never_decide")
    problem(agent.get("/delegations"), 403, "agents_never_decide")
    problem(anna.post("/delegations", {"delegate": "nobody", "ends_at": ends}), 404, "user.unknown")
    problem(anna.post("/delegations", {"person": "bert", "ends_at": ends}), 400, "input.invalid")
    key = {"Idempotency-Key": "leave"}
    made = anna.post("/delegations", {"delegate": "bert", "ends_at": ends}, headers=key).json()
    assert (made["person"], made["delegate"], made["in_force"], made["made_by"]) == ("anna", "bert", True, "anna")
    assert anna.post("/delegations", {"delegate": "bert", "ends_at": ends}, headers=key).json() == made
    problem(anna.post("/delegations", {"ends_at": ends}), 409, "delegation.overlaps")
    path = f"/delegations/{made['delegation_id']}/end"
    problem(person(cast.carl).post(path), 404, "delegation.unknown")
    assert person(cast.carl).get("/delegations").json()["items"] == []
    for api in (anna, bert, person(cast.admin)):
        assert [one["delegation_id"] for one in api.get("/delegations", over="false").json()["items"]] == [
            made["delegation_id"]
        ]
    assert bert.post(path).json()["in_force"] is False
    problem(anna.post(path), 409, "delegation.ended")
    assert anna.get("/delegations", over="false").json()["items"] == []
    assert len(anna.get("/delegations", over="true").json()["items"]) == Delegation.objects.count() == 1


def test_more_time_is_asked_for_and_moves_the_end_when_it_is_approved(cast: Cast, agent: Api) -> None:
    Requestable.objects.update(max_minutes=60, max_total_minutes=120)
    Target.objects.create(slug="shop", kind="example", match="server:git")
    first = file(agent, tools=["git/git_commit"], minutes=30)
    grant = approve(person(cast.anna), first).json()["grant"]["grant_id"]
    before = agent.get(f"/grants/{grant}").json()
    assert before["latest"] > before["expires_at"]
    path, body = f"/grants/{grant}/extend", {**WHY, "minutes": 20, "ticket": "OPS-7"}
    dry = agent.post(path, {**body, "dry_run": True})
    assert (dry.status_code, dry.json()["kind"], dry.json()["limits"]["max_minutes"]) == (200, "extension", 90)
    assert AccessRequest.objects.count() == 1
    problem(agent.post(path, {**body, "minutes": 91}), 400, "request.duration")
    key = {"Idempotency-Key": "more"}
    more = agent.post(path, body, headers=key).json()
    assert (more["kind"], more["extends"], more["ticket"]) == ("extension", grant, "OPS-7")
    assert agent.post(path, body, headers=key).json() == more
    shown = agent.get(f"/grants/{grant}").json()
    assert shown["extensions"] == [
        {"request_id": more["request_id"], "status": "pending", "minutes": 20, "decided_by": ""}
    ]
    assert "provisions" not in shown
    approve(person(cast.anna), more)
    after = person(cast.olga).get(f"/grants/{grant}").json()
    assert after["expires_at"] > before["expires_at"]
    assert [(one["target"], one["state"]) for one in after["provisions"]] == [("shop", "none")]
    by_owner = person(cast.olga).post(path, body).json()
    assert by_owner["filed_by"] == "olga"
    problem(bearer(token_of(cast.agent, cast.olga)).post(path, body), 404, "grant.unknown")


def test_an_agent_is_told_why_about_itself_and_an_admin_about_anybody(cast: Cast, agent: Api) -> None:
    refused = agent.post("/explain", {"server": "git", "tool": "git_commit", "arguments": COMMIT}).json()
    assert (refused["allowed"], refused["code"], refused["requestable"]) == (False, "no_binding", True)
    assert any("ask for" in line for line in refused["advice"])
    allowed = agent.post("/explain", {"server": "git", "tool": "git_log"}).json()
    assert (allowed["allowed"], "read-only" in allowed["rule"]) == (True, True)
    assert any(one["decided"] for one in allowed["considered"])
    body = {"server": "git", "tool": "git_log", "agent": "demo-agent"}
    problem(agent.post("/explain", body), 403, "explain.foreign")
    problem(person(cast.olga).post("/explain", body), 403, "not_permitted")
    admin = person(cast.admin)
    assert admin.post("/explain", body).json()["considered"] == allowed["considered"]
    assert admin.post("/explain", {**body, "on_behalf_of": "carl"}).json()["code"] == "locked_down"
    problem(admin.post("/explain", {**body, "agent": "nobody"}), 404, "agent.unknown")
    problem(admin.post("/explain", {"server": "git", "tool": "git_log"}), 400, "explain.agent")


def test_an_agent_learns_nothing_about_tools_that_it_may_not_know(cast: Cast, agent: Api) -> None:
    cast.requestable.delete()
    save_role(document=WRITER.replace("  request: {max_duration: 2h, approval: review}\n", ""), operator=OPERATOR)
    asked = [{"server": "git", "tool": "git_commit"}, {"server": "git", "tool": "x"}, {"server": "x", "tool": "x"}]
    answers = [agent.post("/explain", one).json() for one in asked]
    assert answers[0] == answers[1] == answers[2]
    assert (answers[0]["code"], answers[0]["considered"]) == ("unknown", [])


def test_a_replayed_key_tells_nothing_to_who_lost_their_rights(cast: Cast, agent: Api) -> None:
    key = {"Idempotency-Key": "once"}
    asked = file(agent, tools=["git/git_commit"])
    bert, body = person(cast.bert), {"text": "For the release?"}
    cast.agent.users.add(cast.carl)
    carl, mine = person(cast.carl), ask("git/git_add", agent="demo-agent")
    assert carl.post("/requests", mine, headers=key).status_code == 201
    assert bert.post(f"/requests/{asked['request_id']}/comment", body, headers=key).status_code == 201
    cast.agent.users.remove(cast.carl)
    for team in (cast.team, cast.reviewers):
        team.members.remove(cast.bert)
    problem(bert.post(f"/requests/{asked['request_id']}/comment", body, headers=key), 404, "request.unknown")
    problem(carl.post("/requests", mine, headers=key), 403, "request.not_your_agent")
    admin, path = person(cast.admin), f"/agents/{cast.agent.pk}/disable"
    assert admin.post(path, headers=key).status_code == 200
    User.objects.filter(pk=cast.admin.pk).update(is_superuser=False)
    problem(admin.post(path, headers=key), 403, "not_permitted")
    assert StoredAnswer.objects.count() == 3


def test_no_more_answers_are_kept_for_one_principal_than_its_share(
    cast: Cast, agent: Api, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEPT", 2)
    for number, tool in enumerate(("git_commit", "git_add")):
        assert agent.post("/requests", ask(f"git/{tool}"), headers={"Idempotency-Key": f"k{number}"}).status_code == 201
    full = agent.post("/requests", ask("git/git_reset"), headers={"Idempotency-Key": "k2"})
    problem(full, 409, "idempotency.too_many_keys")
    assert full.headers["Retry-After"] == "3600"
    assert AccessRequest.objects.count() == 2
    again = agent.post("/requests", ask("git/git_commit"), headers={"Idempotency-Key": "k0"})
    assert again.headers["Idempotency-Replayed"] == "true"
    anna = person(cast.anna)
    path = f"/requests/{again.json()['request_id']}/comment"
    assert anna.post(path, {"text": "x"}, headers={"Idempotency-Key": "k2"}).status_code == 201
    clock.at(now() + idempotency.KEPT + timedelta(seconds=1))
    late = bearer(token_of(cast.agent)).post("/requests", ask("git/git_reset"), headers={"Idempotency-Key": "k2"})
    assert late.status_code == 201
