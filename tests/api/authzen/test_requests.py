"""The Access Request and Approval Profile: denial, submission, task, re-evaluation. A denial stays a denial until then."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from jitaccess.api.authzen.approvals import KIND as APPROVAL
from jitaccess.api.authzen.binding import KIND, LIFETIME
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent
from jitaccess.identity.services import create_agent, issue_token, set_agent_enabled
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.secretbox import generate_key
from jitaccess.policy.models import Requestable
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from jitaccess.store import jose
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Grant
from requests_app.services import cancel_request, revoke_grant
from tests.api.authzen.conftest import HERE, Pdp, bearing, problem, question, signed_in, submission
from tests.api.conftest import token_of
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock

pytestmark = pytest.mark.django_db


def claims_of(token: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return value


def filed(pdp: Pdp, tool: str = "git/git_commit", **changes: Any) -> dict[str, Any]:
    """The task of a new request."""
    answer = pdp.submit(pdp.denied(tool), tool, **changes)
    assert answer.status_code == 202, answer.content
    value: dict[str, Any] = answer.json()
    return value


def row() -> AccessRequest:
    return AccessRequest.objects.get()


def approval_of(pdp: Pdp, task: dict[str, Any]) -> dict[str, Any]:
    answer = pdp.get(f"requests/{task['task']['id']}").json()
    assert answer["task"]["status"] == "approved"
    assert answer["result"]["mode"] == "reevaluate"
    value: dict[str, Any] = answer["result"]["approval"]
    return value


def test_a_requestable_denial_says_how_to_ask_and_stays_a_denial(pdp: Pdp):
    context = pdp.denied()
    asking = context["access_request"]
    assert context["reason"] == "approval_required"
    assert asking["endpoint"] == f"{HERE}/access/v1/requests"
    assert asking["request_schema_url"] == f"{HERE}/access/v1/request-schema.json"
    claims = claims_of(asking["binding_token"])
    assert (claims["iss"], claims["aud"]) == (HERE, HERE)
    assert claims["evaluation_id"] == context["evaluation_id"]
    assert claims["denial_expires_at"] == asking["expires_at"]
    assert claims["exp"] - claims["iat"] == LIFETIME.total_seconds()
    assert claims["binding_context_members"] == []
    assert claims["subject"] == question()["subject"]
    assert claims["resource"] == question()["resource"]
    assert claims["action"] == {"name": "call"}
    assert pdp.denied()["evaluation_id"] != context["evaluation_id"]
    assert pdp.decide()["decision"] is False


def test_only_what_may_be_asked_for_says_so(cast: Cast, pdp: Pdp):
    assert "access_request" not in pdp.denied("git/no_such_tool")
    Tool.objects.filter(pk=cast.tools["git_commit"].pk).update(digest="sha256:another")
    assert "access_request" not in pdp.denied()


def test_the_whole_way_from_a_denial_to_a_call(cast: Cast, pdp: Pdp):
    answer = pdp.submit(pdp.denied())
    assert answer.status_code == 202
    task = answer.json()["task"]
    assert answer.headers["Location"] == task["status_endpoint"] == f"{HERE}/access/v1/requests/{task['id']}"
    assert answer.headers["Retry-After"] == "5"
    assert task["status"] == "pending"
    assert task["links"]["cancel"] == f"{task['status_endpoint']}/cancel"
    assert task["links"]["ticket"].endswith(f"/requests/{row().pk}/")
    assert "review" not in task["links"]
    assert task["expires_at"] == row().pending_until.isoformat()
    pending = pdp.get(f"requests/{task['id']}")
    assert pending.json() == answer.json()
    assert pending.headers["Retry-After"] == "5"
    assert pdp.decide()["decision"] is False

    cast.approve(row())
    done = pdp.get(f"requests/{task['id']}")
    assert "Retry-After" not in done.headers
    approval = approval_of(pdp, answer.json())
    grant = Grant.objects.get()
    assert approval["approved_until"] == grant.expires_at.isoformat()
    assert "anna" not in done.content.decode()
    assert pdp.decide(context={"approval": approval}) == {
        "decision": True,
        "context": {"approval": {"id": approval["id"], "approved_until": approval["approved_until"]}},
    }
    assert pdp.decide(context={"approval": {"id": approval["id"]}})["decision"] is True


def test_what_was_asked_is_on_record_with_the_denial_it_is_for(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    until = (now() + timedelta(minutes=20)).isoformat()
    answer = pdp.submit(
        context,
        requested_access={"requested_until": until, "emergency": True, "unknown.example.com/x": 1},
        client={"id": "runner-7", "name": "Runner", "source": {"session_id": "s"}},
    )
    assert answer.status_code == 202
    asked = row()
    assert asked.agent == cast.agent
    assert asked.reason == "Finish the release notes"
    assert 19 * 60 <= asked.seconds <= 20 * 60
    bound = json.loads(asked.context)["authzen"]
    assert bound["evaluations"] == [context["evaluation_id"]]
    whole = {name: question()[name] for name in ("subject", "resource", "action")} | {"context": {}}
    assert bound["bindings"] == [jose._encode(hashlib.sha256(canonical(whole)).digest())]
    assert bound["filed_by"] == f"{cast.agent.pk}/-"
    assert bound["client"] == {"id": "runner-7", "name": "Runner"}
    assert bound["emergency"] is True


def test_what_a_request_has_to_say_is_published(pdp: Pdp):
    schema = pdp.get("request-schema.json").json()
    assert schema["properties"]["context"]["required"] == ["business_justification"]
    problem(pdp.submit(pdp.denied(), context={}), 400, "request.reason")
    assert not AccessRequest.objects.exists()


def test_a_changed_token_binds_nothing(pdp: Pdp):
    context = pdp.denied()
    token = context["access_request"]["binding_token"]
    for part in (0, 1, 2):
        parts = token.split(".")
        parts[part] = ("A" if parts[part][0] != "A" else "B") + parts[part][1:]
        context["access_request"]["binding_token"] = ".".join(parts)
        problem(pdp.submit(context), 400, "invalid_denial_binding")
    assert not AccessRequest.objects.exists()


def test_a_token_is_for_its_own_subject_resource_and_action(cast: Cast, pdp: Pdp):
    context = pdp.denied("git/git_commit")
    problem(pdp.submit(context, "git/git_add"), 400, "invalid_denial_binding")
    more = {"type": "tool", "id": "git/git_commit", "properties": {"note": None}}
    problem(pdp.submit(context, resource=more), 400, "invalid_denial_binding")
    problem(pdp.submit(context, action={"name": "paint"}), 400, "invalid_denial_binding")
    by_id = {"type": "agent", "id": str(cast.agent.pk)}
    problem(pdp.submit(context, subject=by_id), 400, "invalid_denial_binding")
    assert not AccessRequest.objects.exists()


def test_a_denial_without_a_token_or_with_another_deadline_binds_nothing(pdp: Pdp):
    context = pdp.denied()
    whole = submission(context)["denial"]
    later = (now() + timedelta(hours=1)).isoformat()
    for change in (
        {"binding_token": None},
        {"binding_token": 7},
        {"expires_at": None},
        {"expires_at": later},
        {"expires_at": "soon"},
        {"evaluation_id": "eval_other"},
    ):
        denial = {name: value for name, value in (whole | change).items() if value is not None}
        problem(pdp.submit(context, denial=denial), 400, "invalid_denial_binding")
    problem(pdp.submit(context, denial=None), 400, "invalid_denial_binding")
    assert not AccessRequest.objects.exists()


def test_tokens_of_other_issuers_kinds_and_audiences_bind_nothing(pdp: Pdp):
    context = pdp.denied()
    claims = claims_of(context["access_request"]["binding_token"])
    forged = [
        jose.sign(claims | {"aud": "https://elsewhere.example"}, kind=KIND),
        jose.sign({name: value for name, value in claims.items() if name != "aud"}, kind=KIND),
        jose.sign(claims | {"iss": "https://elsewhere.example"}, kind=KIND),
        jose.sign(claims, kind="something else"),
    ]
    for token in forged:
        context["access_request"]["binding_token"] = token
        problem(pdp.submit(context), 400, "invalid_denial_binding")
    context["access_request"]["binding_token"] = jose.sign(claims | {"aud": ["https://x.example", HERE]}, kind=KIND)
    assert pdp.submit(context).status_code == 202


def test_a_denial_is_good_for_ten_minutes(cast: Cast, pdp: Pdp, clock: Clock):
    context = pdp.denied()
    clock.shift(LIFETIME.total_seconds() + 1)
    problem(bearing(token_of(cast.agent)).submit(context), 410, "expired_denial")
    assert not AccessRequest.objects.exists()


def test_a_token_is_good_for_one_request(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    task = pdp.submit(context).json()["task"]
    cancel_request(request_id=row().pk, principal=cast.principal())
    problem(pdp.submit(context), 400, "invalid_denial_binding")
    assert pdp.get(f"requests/{task['id']}").json()["task"]["status"] == "cancelled"
    assert AccessRequest.objects.count() == 1


def test_what_may_no_longer_be_asked_for_is_not_requestable(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    cast.requestable.access = "destructive"
    cast.requestable.save()
    problem(pdp.submit(context), 400, "not_requestable")
    assert not AccessRequest.objects.exists()


def test_what_is_allowed_meanwhile_is_not_requestable(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    cast.grant("git_commit")
    problem(pdp.submit(context), 400, "not_requestable")


def test_another_rule_since_the_denial_is_another_denial(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    cast.requestable.delete()
    Requestable.objects.create(server=cast.server, access="write", max_minutes=240, policy=cast.policy)
    problem(pdp.submit(context), 400, "not_requestable")
    assert not AccessRequest.objects.exists()
    assert pdp.submit(pdp.denied()).status_code == 202


def test_nobody_asks_for_somebody_else(cast: Cast, pdp: Pdp):
    context = pdp.denied()
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=OPERATOR)
    problem(bearing(token_of(other)).submit(context), 403, "authzen.foreign_subject")
    problem(signed_in(cast.admin).submit(context), 403, "authzen.not_an_agent")
    problem(signed_in(cast.carl).submit(context), 403, "authzen.foreign_subject")
    assert not AccessRequest.objects.exists()


def test_an_actor_has_to_be_who_the_credential_says(cast: Cast):
    cast.agent.users.add(cast.bert)
    for_bert = bearing(token_of(cast.agent, cast.bert))
    subject = {"type": "user", "id": "bert"}
    context = for_bert.denied(subject=subject)
    wrong: list[dict[str, Any]] = [
        {"id": "somebody"},
        {"id": "demo-agent", "issuer": "https://elsewhere.example"},
        {"id": "demo-agent", "act": {"sub": "admin", "iss": HERE}},
        {"id": "demo-agent", "act": {"sub": "bert", "iss": "https://elsewhere.example"}},
        {"id": "demo-agent", "act": {"sub": "bert", "iss": HERE, "act": {"sub": "x", "iss": HERE}}},
        {"id": "demo-agent", "act": "bert"},
    ]
    for actor in wrong:
        problem(for_bert.submit(context, subject=subject, client={"actor": actor}), 403, "authzen.actor")
    assert not AccessRequest.objects.exists()
    told = {"id": "demo-agent", "issuer": HERE, "type": "ai_agent", "act": {"sub": "bert", "iss": HERE}}
    answer = for_bert.submit(context, subject=subject, client={"actor": told})
    assert answer.status_code == 202, answer.content
    assert row().user == cast.bert


def test_the_actor_may_move_from_the_subject_to_the_client(cast: Cast):
    cast.agent.users.add(cast.anna)
    for_anna = bearing(token_of(cast.agent, cast.anna))
    acting = {"type": "user", "id": "anna", "properties": {"act": {"sub": "demo-agent"}, "x": 1}}
    plain = {"type": "user", "id": "anna", "properties": {"x": 1}}
    context = for_anna.denied(subject=acting)
    answer = for_anna.submit(context, subject=plain, client={"actor": {"id": "demo-agent"}})
    assert answer.status_code == 202, answer.content


def test_a_callback_is_refused_because_none_is_allowed(pdp: Pdp):
    callback = {"endpoint": "https://pep.example/callback"}
    problem(pdp.submit(pdp.denied(), callback=callback), 400, "authzen.callback")
    assert not AccessRequest.objects.exists()


def test_an_idempotency_key_gets_the_same_task_again(pdp: Pdp):
    context = pdp.denied()
    key = {"Idempotency_Key": "one"}
    first, again = (pdp.submit(context, headers=key) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other = {"business_justification": "Something else"}
    problem(pdp.submit(context, headers=key, context=other), 409, "duplicate_request")
    assert AccessRequest.objects.count() == 1


def test_an_idempotency_key_belongs_to_who_used_it(cast: Cast, pdp: Pdp):
    key = {"Idempotency_Key": "one"}
    mine = pdp.submit(pdp.denied(), headers=key).json()["task"]["id"]
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=OPERATOR)
    theirs = bearing(token_of(other))
    subject = {"type": "agent", "id": "other"}
    answer = theirs.submit(theirs.denied(subject=subject), subject=subject, headers=key)
    assert answer.status_code == 202
    assert answer.json()["task"]["id"] != mine


def test_the_same_ask_while_one_is_pending_gets_its_task(pdp: Pdp):
    first, second = filed(pdp), filed(pdp)
    assert first["task"]["id"] == second["task"]["id"]
    assert AccessRequest.objects.count() == 1


def test_a_bundle_is_one_request_with_an_item_for_each(cast: Cast, pdp: Pdp):
    tools = ("git/git_commit", "git/git_add")
    items = [
        {
            "resource": {"type": "tool", "id": tool},
            "action": {"name": "call"},
            "denial": submission(pdp.denied(tool))["denial"],
        }
        for tool in tools
    ]
    body = {
        "subject": question()["subject"],
        "items": items,
        "context": {"business_justification": "Finish the release"},
    }
    answer = pdp.post("requests", body)
    assert answer.status_code == 202, answer.content
    told = answer.json()["task"]["items"]
    assert [one["resource"]["id"] for one in told] == list(tools)
    assert [one["status"] for one in told] == ["pending", "pending"]
    cast.approve(row())
    done = pdp.get(f"requests/{answer.json()['task']['id']}").json()
    assert done["task"]["status"] == "approved"
    for tool, item in zip(tools, done["task"]["items"], strict=True):
        assert item["status"] == "approved"
        assert pdp.decide(tool, context={"approval": item["result"]["approval"]})["decision"] is True


def test_a_bundle_whose_denials_do_not_cover_each_item_is_refused(pdp: Pdp):
    commit = submission(pdp.denied("git/git_commit"))
    one = {"resource": commit["resource"], "action": commit["action"], "denial": commit["denial"]}
    other = {"resource": {"type": "tool", "id": "git/git_add"}, "action": {"name": "call"}}
    base = {"subject": commit["subject"], "context": commit["context"], "denial": commit["denial"]}
    problem(pdp.post("requests", base | {"items": [one, other]}), 400, "invalid_denial_binding")
    swapped = other | {"denial": commit["denial"]}
    problem(pdp.post("requests", base | {"items": [one, swapped]}), 400, "invalid_denial_binding")
    problem(pdp.post("requests", base | {"items": []}), 400, "authzen.malformed")
    problem(pdp.post("requests", base | {"items": [one], "resource": one["resource"]}), 400, "authzen.malformed")
    assert not AccessRequest.objects.exists()


def test_a_task_is_for_its_principal_and_knowing_its_name_is_not_enough(cast: Cast, pdp: Pdp):
    task = filed(pdp)["task"]
    another_token = bearing(token_of(cast.agent))
    assert another_token.get(f"requests/{task['id']}").json()["task"] == task
    other = create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)
    cast.agent.users.add(cast.bert)
    strangers = [bearing(token_of(other)), bearing(token_of(cast.agent, cast.bert)), signed_in(cast.carl)]
    for one in strangers:
        foreign = problem(one.get(f"requests/{task['id']}"), 404, "unknown_task")
        absent = problem(one.get("requests/arq_00000000000070008000000000000000"), 404, "unknown_task")
        assert foreign | {"instance": ""} == absent | {"instance": ""}
        assert one.post(f"requests/{task['id']}/cancel", b"").status_code == 404
    problem(pdp.get("requests/nonsense"), 404, "unknown_task")
    problem(pdp.get(f"requests/{row().pk}"), 404, "unknown_task")
    assert row().status == "pending"


def test_the_people_concerned_may_look_but_not_withdraw(cast: Cast, pdp: Pdp):
    task = filed(pdp)["task"]
    seen = signed_in(cast.anna).get(f"requests/{task['id']}").json()["task"]
    assert seen["status"] == "pending"
    assert "cancel" not in seen["links"]
    problem(signed_in(cast.anna).post(f"requests/{task['id']}/cancel", b""), 403, "authzen.not_yours")
    assert row().status == "pending"


def test_a_pending_task_can_be_withdrawn_once(cast: Cast, pdp: Pdp):
    task = filed(pdp)["task"]
    cancelled = pdp.post(f"requests/{task['id']}/cancel", {"reason": "not_needed", "comment": "Done by hand"})
    assert cancelled.status_code == 200
    assert cancelled.json()["task"]["status"] == "cancelled"
    assert "result" not in cancelled.json()
    assert row().status == "cancelled"
    problem(pdp.post(f"requests/{task['id']}/cancel", b""), 409, "invalid_task_state")
    assert "cancel" not in pdp.get(f"requests/{task['id']}").json()["task"]["links"]


@pytest.mark.parametrize(
    ("status", "told"), [("denied", "denied"), ("invalidated", "cancelled"), ("superseded", "cancelled")]
)
def test_every_end_of_a_request_has_its_word_and_no_result(status: str, told: str, cast: Cast, pdp: Pdp):
    task = filed(pdp)["task"]
    AccessRequest.objects.filter(pk=row().pk).update(status=status, closed_at=now())
    answer = pdp.get(f"requests/{task['id']}").json()
    assert answer["task"]["status"] == told
    assert "result" not in answer
    problem(pdp.post(f"requests/{task['id']}/cancel", b""), 409, "invalid_task_state")


def test_what_nobody_decided_in_time_has_expired_by_the_clock(cast: Cast, pdp: Pdp, clock: Clock):
    task = filed(pdp)["task"]
    clock.shift((row().pending_until - row().created_at).total_seconds() + 1)
    late = bearing(token_of(cast.agent))
    assert late.get(f"requests/{task['id']}").json()["task"]["status"] == "expired"
    problem(late.post(f"requests/{task['id']}/cancel", b""), 409, "invalid_task_state")


def test_who_waits_is_told_to_come_back_ever_less_often(cast: Cast, pdp: Pdp, clock: Clock):
    path, waits = f"requests/{filed(pdp)['task']['id']}", []
    for pause in (0, 120, 1000):
        clock.shift(pause)
        waits.append(int(bearing(token_of(cast.agent)).get(path).headers["Retry-After"]))
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] <= 60


def test_an_approval_that_is_over_says_to_ask_again(cast: Cast, pdp: Pdp):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    revoke_grant(grant_id=Grant.objects.get().pk, user=cast.anna)
    context = pdp.denied(context={"approval": approval})
    assert (context["reason"], context["next_action"]) == ("approval_expired", "request")
    assert pdp.submit(context).status_code == 202


def test_time_that_is_up_needs_no_write(cast: Cast, pdp: Pdp, clock: Clock):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    clock.shift(row().seconds + 1)
    late = bearing(token_of(cast.agent))
    assert late.denied(context={"approval": approval})["reason"] == "approval_expired"


def test_a_proof_that_is_too_old_is_no_proof_though_the_access_goes_on(cast: Cast, pdp: Pdp):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    old = claims_of(approval["state"]) | {"exp": int(now().timestamp()) - 1}
    approval["state"] = jose.sign(old, kind=APPROVAL)
    assert pdp.decide(context={"approval": approval}) == {"decision": True}
    assert pdp.denied("git/git_add", context={"approval": approval})["reason"] == "approval_expired"


def test_an_approval_is_for_what_was_approved(cast: Cast, pdp: Pdp):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    context = pdp.denied("git/git_add", context={"approval": approval})
    assert (context["reason"], context["next_action"]) == ("out_of_scope", "request")
    assert "access_request" in context
    hidden = pdp.denied("git/no_such_tool", context={"approval": approval})
    assert (hidden["reason"], hidden["next_action"]) == ("out_of_scope", "none")
    assert "access_request" not in hidden


def test_an_approval_does_not_override_what_stands_against_it(cast: Cast, pdp: Pdp):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    Tool.objects.filter(pk=cast.tools["git_commit"].pk).update(digest="sha256:another")
    context = pdp.denied(context={"approval": approval})
    assert (context["reason"], context["next_action"]) == ("policy_denied", "none")
    assert "access_request" not in context
    set_agent_enabled(agent=Agent.objects.get(pk=cast.agent.pk), enabled=False, operator=OPERATOR)
    assert pdp.denied(context={"approval": approval})["next_action"] == "none"


def test_an_approval_that_has_not_begun_says_when_to_come_back(cast: Cast, pdp: Pdp, clock: Clock):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    clock.shift(-90)
    context = pdp.denied(context={"approval": approval})
    assert (context["reason"], context["next_action"]) == ("grant_pending", "retry")
    assert 80 <= context["retry_after"] <= 91
    assert "access_request" not in context


def test_references_that_cannot_be_verified_allow_nothing(cast: Cast, pdp: Pdp):
    task = filed(pdp)
    cast.approve(row())
    approval = approval_of(pdp, task)
    state = claims_of(approval["state"])
    other = create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)
    bad: list[Any] = [
        {"id": "apr_00000000000070008000000000000000"},
        {"id": "apr_nonsense"},
        {"id": approval["id"].removeprefix("apr_")},
        {"id": 7},
        "yes",
        {},
        {"id": approval["id"], "state": "x.y.z"},
        {"id": approval["id"], "state": {"approved": True}},
        {"id": approval["id"], "state": jose.sign(state | {"approval_id": "apr_other"}, kind=APPROVAL)},
        {"id": approval["id"], "state": jose.sign(state | {"aud": "https://other.example"}, kind=APPROVAL)},
        {"id": approval["id"], "state": jose.sign(state, kind=KIND)},
    ]
    for value in bad:
        context = pdp.denied(context={"approval": value})
        assert (context["reason"], context["next_action"]) == ("approval_unverifiable", "none"), value
        assert "access_request" not in context
    theirs, subject = bearing(token_of(other)), {"type": "agent", "id": "other"}
    assert theirs.denied(subject=subject, context={"approval": approval})["reason"] == "approval_unverifiable"
    assert pdp.decide(context={"approval": approval})["decision"] is True


def test_an_enforcement_point_asks_and_withdraws_for_its_subject(cast: Cast, enforcer: Pdp, pdp: Pdp):
    task = filed(enforcer)["task"]
    asked = row()
    assert (asked.agent, asked.client) == (cast.agent, "authzen by gate")
    assert asked.issued_by_id is None
    assert pdp.get(f"requests/{task['id']}").json()["task"]["id"] == task["id"]
    assert enforcer.post(f"requests/{task['id']}/cancel", b"").json()["task"]["status"] == "cancelled"
    mine = filed(pdp, "git/git_add")["task"]
    assert enforcer.get(f"requests/{mine['id']}").status_code == 200
    problem(enforcer.post(f"requests/{mine['id']}/cancel", b""), 403, "authzen.not_yours")
    cast.submit("git_reset")
    plain = AccessRequest.objects.get(items__contains="git_reset")
    problem(enforcer.get(f"requests/arq_{plain.pk.hex}"), 404, "unknown_task")


def test_keys_are_published_and_rotate_with_the_key_ring(settings: LazySettings, pdp: Pdp):
    old = settings.SEALING_KEYS
    settings.SEALING_KEYS_FILE, settings.SEALING_KEYS = None, old
    context = pdp.denied()
    published = pdp.get("jwks.json").json()["keys"]
    assert [key["use"] for key in published] == ["sig"] * len(published)
    assert all(not {"d", "k"} & key.keys() for key in published)
    settings.SEALING_KEYS = f"{generate_key('fresh')},{old}"
    rotated = pdp.get("jwks.json").json()["keys"]
    assert [key["kid"] for key in rotated[1:]] == [key["kid"] for key in published]
    assert pdp.submit(context).status_code == 202
    assert header_of(pdp.denied("git/git_add")["access_request"]["binding_token"])["kid"] == rotated[0]["kid"]
    gone = pdp.denied("git/git_add")
    settings.SEALING_KEYS = generate_key("other")
    problem(pdp.submit(gone, "git/git_add"), 400, "invalid_denial_binding")


def header_of(token: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".", maxsplit=1)[0] + "=="))
    return value


def test_a_long_question_is_bound_by_its_digest(cast: Cast, pdp: Pdp):
    long = {"type": "tool", "id": "git/git_commit", "properties": {"note": "x" * 5000}}
    context = pdp.denied(resource=long)
    claims = claims_of(context["access_request"]["binding_token"])
    assert "resource" not in claims
    assert len(claims["binding_hash"]) == 43
    problem(pdp.submit(context), 400, "invalid_denial_binding")


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "tool", "id": "git/git_commit", "properties": {"arguments": arguments}}


def test_a_question_with_arguments_asks_for_this_one_call(cast: Cast, pdp: Pdp):
    wanted = call(message="Fix", paths=["a"])
    answer = pdp.submit(pdp.denied(resource=wanted), resource=wanted)
    assert answer.status_code == 202, answer.content
    [item] = row().parsed_items
    assert item["kind"] == "call"
    assert item["arguments"]["value"] == {"message": "Fix", "paths": ["a"]}
    cast.approve(row())
    approval = approval_of(pdp, answer.json())
    assert pdp.decide(resource=call(paths=["a"], message="Fix"), context={"approval": approval})["decision"] is True
    for other in (call(message="Break", paths=["a"]), call(message="Fix"), call()):
        context = pdp.denied(resource=other, context={"approval": approval})
        assert context["reason"] == "out_of_scope", other
    without = question()["resource"]
    assert pdp.decide(resource=without)["decision"] is False


def test_one_exact_call_is_let_through_once_by_an_enforcement_point(cast: Cast, enforcer: Pdp):
    wanted = call(message="Fix")
    task = enforcer.submit(enforcer.denied(resource=wanted), resource=wanted)
    assert task.status_code == 202, task.content
    cast.approve(row())
    shown = {"approval": approval_of(enforcer, task.json())}
    assert enforcer.decide(resource=wanted)["decision"] is False
    assert enforcer.decide(resource=call(message="Break"), context=shown)["decision"] is False
    assert enforcer.decide(resource=wanted, context=shown)["decision"] is True
    assert enforcer.denied(resource=wanted, context=shown)["reason"] == "approval_expired"


def test_what_may_be_asked_for_as_an_exact_call_only_says_so_only_with_arguments(cast: Cast, pdp: Pdp):
    cast.requestable.arguments = "exact"
    cast.requestable.save()
    assert "access_request" not in pdp.denied()
    assert "access_request" in pdp.denied(resource=call(message="Fix"))


def test_where_only_a_role_would_do_the_role_is_asked_for(cast: Cast, pdp: Pdp):
    cast.requestable.delete()
    save_role(document=ROLE, operator=OPERATOR)
    context = pdp.denied()
    assert "committer" not in json.dumps(context)
    task = pdp.submit(context)
    assert task.status_code == 202, task.content
    assert [item["role"] for item in row().parsed_items] == ["committer"]
    cast.approve(row())
    assert pdp.decide(context={"approval": approval_of(pdp, task.json())})["decision"] is True
    for kind, name, action in (("resource", "file:///notes", "read"), ("prompt", "commit-message", "get")):
        offered = {"type": kind, "id": f"git/{name}"}
        assert pdp.decide(resource=offered, action={"name": action}) == {"decision": True}
        assert pdp.denied(resource=offered | {"id": "git/other"}, action={"name": action})["reason"] == "unknown"
        assert pdp.denied(resource=offered)["reason"] == "unknown_action"


def test_what_policy_approves_at_once_is_a_finished_task(cast: Cast, pdp: Pdp):
    save_policy(document=AT_ONCE, policy=cast.policy, operator=OPERATOR)
    answer = pdp.submit(pdp.denied())
    assert answer.status_code == 201, answer.content
    assert answer.json()["task"]["status"] == "approved"
    assert "Retry-After" not in answer.headers
    assert pdp.decide(context={"approval": answer.json()["result"]["approval"]})["decision"] is True


def test_nobody_who_counts_as_the_requester_approves_what_an_enforcement_point_asked(cast: Cast, words: Any):
    """Whoever issued the enforcement point's token asked, and does not decide."""
    gate = create_agent(name="gate", owner=cast.carl, team=cast.team, operator=OPERATOR)
    words("  enforcement_points: [gate]\n")
    issued_by_anna = Actor(user=cast.anna.pk, user_name="anna")
    filed(bearing(issue_token(agent=gate, ttl=600, operator=issued_by_anna)[0]))
    for person in (cast.anna, cast.olga, cast.carl):
        with pytest.raises(JitAccessError):
            cast.approve(row(), by=person)
    assert not Grant.objects.exists()
    cast.approve(row(), by=cast.bert)
    assert Grant.objects.exists()


def test_submissions_are_limited_like_every_change(settings: LazySettings, pdp: Pdp):
    settings.API_WRITES_PER_MINUTE = 2
    context = pdp.denied()
    statuses = [pdp.submit(context).status_code for _ in range(3)]
    assert statuses == [202, 400, 429]


AT_ONCE = """\
kind: approval-policy
version: v1
metadata: {name: review}
spec: {rules: [{name: at-once, auto_approve: true}]}
"""
ROLE = """\
kind: role
version: v1
metadata: {name: committer}
spec:
  allow:
    - {servers: [git], tools: [git_commit]}
    - {servers: [git], resources: ["file:///notes"]}
    - {servers: [git], prompts: [commit-message]}
  request: {max_duration: 1h, approval: review}
"""
