"""The life of a request over the API: the same services, the same refusals."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps

from jitaccess.audit.models import Entry
from jitaccess.identity.services import create_agent
from requests_app.models import AccessRequest, Grant
from requests_app.services import comment
from tests.api.conftest import NOBODY, Api, ask, bearer, person, problem, token_of
from tests.cast import OPERATOR, Cast, definition

pytestmark = pytest.mark.django_db


def rows() -> dict[str, int]:
    """How many rows there are, in every table of ours."""
    return {model._meta.label: model._base_manager.count() for model in apps.get_models() if model._meta.managed}


def submit(agent: Api, *tools: str, **more: Any) -> dict[str, Any]:
    response = agent.post("/requests", ask(*tools, **more))
    assert response.status_code == 201, response.content
    value: dict[str, Any] = response.json()
    return value


def test_an_agent_asks_a_person_approves_and_the_agent_gives_it_back(cast: Cast, agent: Api):
    asked = submit(agent, minutes=10)
    assert (asked["status"], asked["tools"], asked["minutes"]) == ("pending", ["git/git_commit"], 10)
    assert asked["who_can_approve"] == ["anna", "bert"]
    anna = person(cast.anna)
    seen = anna.get(f"/requests/{asked['request_id']}").json()
    assert seen["standing"] == {
        "may_decide": True,
        "may_revoke": True,
        "self_because": "",
        "decided": None,
    }
    approved = anna.post(f"/requests/{asked['request_id']}/approve", {"digest": seen["digest"], "reason": "Go."})
    assert approved.status_code == 200
    assert approved.json()["status"] == "approved"
    assert cast.verdict("git_commit").allowed
    mine = agent.get(f"/requests/{asked['request_id']}").json()
    assert mine["grant"]["state"] == "active"
    assert "reason" not in mine["decisions"][0], "what is remarked beside a yes is for people"
    assert "standing" not in mine
    released = agent.post(f"/grants/{mine['grant']['grant_id']}/release")
    assert (released.status_code, released.json()["end_reason"]) == (200, "released")
    assert not cast.verdict("git_commit").allowed
    problem(agent.post(f"/grants/{mine['grant']['grant_id']}/release"), 409, "grant.ended")


def test_what_was_looked_at_is_what_is_approved(cast: Cast, agent: Api):
    asked = submit(agent)
    path = f"/requests/{asked['request_id']}/approve"
    problem(person(cast.anna).post(path, {"digest": "sha256:" + "0" * 64}), 409, "request.digest")
    problem(person(cast.anna).post(path, {}), 400, "input.invalid")
    problem(person(cast.olga).post(path, {"digest": asked["digest"]}), 403, "decision.self")
    assert not Grant.objects.exists()


def test_a_denied_agent_can_read_why(cast: Cast, agent: Api):
    asked = submit(agent)
    denied = person(cast.bert).post(
        f"/requests/{asked['request_id']}/deny", {"digest": asked["digest"], "reason": "Not today."}
    )
    assert denied.json()["status"] == "denied"
    seen = agent.get(f"/requests/{asked['request_id']}").json()
    assert (seen["decided_by"], seen["note"], seen["decisions"][0]["reason"]) == ("bert", "Not today.", "Not today.")


def test_an_agent_withdraws_what_it_asked(agent: Api):
    asked = submit(agent)
    assert agent.post(f"/requests/{asked['request_id']}/cancel").json()["status"] == "cancelled"
    problem(agent.post(f"/requests/{asked['request_id']}/cancel"), 409, "request.already_decided")


def test_the_same_ask_gets_the_request_that_is_pending(agent: Api):
    first, second = submit(agent), submit(agent)
    assert (first["coalesced"], second["coalesced"]) == (False, True)
    assert first["request_id"] == second["request_id"]


def test_tools_are_named_in_full_or_on_the_server_given(agent: Api):
    named = submit(agent, "git/git_commit", "git_add", server="git")
    assert named["tools"] == ["git/git_add", "git/git_commit"]
    problem(agent.post("/requests", ask("git_add")), 400, "request.tools")


def test_a_dry_run_says_what_would_come_of_it_and_leaves_nothing_behind(cast: Cast, agent: Api):
    agent.get("/me")
    before = rows()
    answer = agent.post("/requests", ask(dry_run=True, minutes=20), headers={"Idempotency-Key": "dry"})
    assert answer.status_code == 200
    assert answer.json() == {
        "dry_run": True,
        "coalesced": False,
        "kind": "access",
        "risk": "medium",
        "tools": ["git/git_commit"],
        "items": [
            {
                "kind": "tool",
                "server": "git",
                "tool": "git_commit",
                "access": "write",
                "pin": cast.tools["git_commit"].pin,
            }
        ],
        "minutes": 20,
        "max_uses": None,
        "policy": "review",
        "plan": {
            "rule": "all",
            "version": 1,
            "auto_approve": False,
            "stages": 1,
            "deny_threshold": 1,
            "channels": ["admin", "api", "cli", "slack", "web"],
            "step_up": False,
            "escalations": [],
            "fallback": None,
        },
        "who_can_approve": ["anna", "bert"],
        "approvals": [{"stage": 0, "group": "reviewers", "needed": 1, "given": 0}],
        "limits": {"max_minutes": 240, "max_uses": None},
    }
    assert rows() == before
    assert submit(agent)["coalesced"] is False
    before = rows()
    assert agent.post("/requests", ask(dry_run=True)).json()["coalesced"] is True
    assert rows() == before


def test_a_dry_run_tells_nothing_that_a_submission_would_not(cast: Cast, agent: Api):
    from jitaccess.catalog.services import import_tools, register_server

    hidden = register_server(slug="vault", operator=OPERATOR)
    import_tools(server=hidden, definitions=[definition("unseal")], operator=OPERATOR)
    before = rows()
    answers = []
    for tool in ("vault/unseal", "vault/nothing", "nowhere/nothing", "git/nothing"):
        answer = problem(agent.post("/requests", ask(tool, dry_run=True)), 400, "request.unknown_tool")
        assert answer == problem(agent.post("/requests", ask(tool)), 400, "request.unknown_tool")
        answers.append(answer["detail"].replace(tool, "…"))
    assert len(set(answers)) == 1
    assert rows() == before


def test_people_ask_for_nothing_here(cast: Cast):
    problem(person(cast.anna).post("/requests", ask()), 403, "request.not_an_agent")
    problem(person(cast.anna).get("/requestable"), 403, "request.not_an_agent")
    assert not AccessRequest.objects.exists()


def test_an_agent_reads_what_it_may_ask_for(agent: Api):
    items = agent.get("/requestable").json()["items"]
    assert [item["tool"] for item in items] == ["git/git_add", "git/git_commit", "git/git_reset"]
    assert items[0]["decided_by"] == ["1 of reviewers"]
    assert agent.get("/requestable", server="other").json()["items"] == []
    assert [item["tool"] for item in agent.get("/requestable", search="RESET").json()["items"]] == ["git/git_reset"]


def test_a_comment_is_on_record_and_people_read_it_but_the_agent_does_not(cast: Cast, agent: Api):
    asked = submit(agent)
    path = f"/requests/{asked['request_id']}"
    answer = person(cast.bert).post(f"{path}/comment", {"text": "Ask carl \u202efirst."})
    assert answer.status_code == 201
    entry = Entry.objects.get(pk=answer.json()["uid"])
    assert (entry.event, str(entry.request), entry.user_name) == ("request.commented", asked["request_id"], "bert")
    told = person(cast.anna).get(f"{path}/timeline").json()["items"]
    assert [(one["event"], one["user"]) for one in told] == [("request.submitted", ""), ("request.commented", "bert")]
    assert told[1]["data"] == {"text": "Ask carl \\u{202e}first."}
    assert [one["event"] for one in agent.get(f"{path}/timeline").json()["items"]] == ["request.submitted"]
    page = person(cast.anna).client.get(f"/requests/{asked['request_id']}/").content.decode()
    assert "Ask carl \\u{202e}first." in page
    assert AccessRequest.objects.get().pending


@pytest.mark.parametrize("text", ["", "  ", "\u200b", "x" * 2001, "\u202e" * 300])
def test_a_comment_has_a_text_that_can_be_read_whole(text: str, cast: Cast, agent: Api):
    asked = submit(agent)
    response = person(cast.anna).post(f"/requests/{asked['request_id']}/comment", {"text": text})
    assert response.json()["code"] in {"comment.text", "input.invalid"}
    assert response.status_code == 400
    assert not Entry.objects.filter(event="request.commented").exists()


def test_a_comment_is_written_on_the_page_too(cast: Cast, agent: Api):
    asked = submit(agent)
    browser, page = person(cast.anna).client, f"/requests/{asked['request_id']}/"
    assert browser.post(f"{page}comment/", {"text": "Looks fine."}).status_code == 302
    assert "Looks fine." in browser.get(page).content.decode()
    assert browser.post(f"{page}comment/", {"text": " "}).status_code == 400
    assert person(cast.carl).client.post(f"{page}comment/", {"text": "Me too."}).status_code == 404
    assert Entry.objects.filter(event="request.commented").count() == 1


def test_lists_are_filtered(cast: Cast, agent: Api):
    cast.agent.users.add(cast.carl)
    cast.team.members.add(cast.carl)
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=OPERATOR)
    asked = submit(agent)
    theirs = submit(bearer(token_of(cast.agent, cast.carl)))
    others = submit(bearer(token_of(other)), "git/git_add")
    cast.approve(AccessRequest.objects.get(pk=asked["request_id"]))
    anna = person(cast.anna)

    def found(**query: str) -> set[str]:
        return {item["request_id"] for item in anna.get("/requests", **query).json()["items"]}

    everything = {one["request_id"] for one in (asked, theirs, others)}
    assert found() == found(server="git") == found(created_after="2001-01-01T00:00:00Z") == everything
    assert found(state="active") == {asked["request_id"]}
    assert found(state="waiting") == {theirs["request_id"], others["request_id"]}
    assert found(agent="other") == {others["request_id"]}
    assert found(requester="carl") == {theirs["request_id"]}
    assert found(server="it") == found(server="other") == found(created_before="2001-01-01T00:00:00Z") == set()
    assert [one["agent"] for one in anna.get("/grants", state="live").json()["items"]] == ["demo-agent"]
    assert anna.get("/grants", state="ended").json()["items"] == []
    assert anna.get("/grants", agent="other").json()["items"] == []


def test_a_list_costs_as_many_queries_for_ten_as_for_one(cast: Cast, agent: Api):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def queries(api: Api, path: str) -> int:
        api.get(path)  # what is read once in a process
        with CaptureQueriesContext(connection) as seen:
            assert api.get(path).json()["items"]
        return len(seen)

    readers = [
        (person(cast.anna), "/requests"),
        (person(cast.anna), "/grants"),
        (agent, "/requests"),
        (agent, "/grants"),
    ]
    admin = person(cast.admin)
    readers += [(admin, path) for path in ("/agents", "/tools", "/bindings", "/ledger/entries")]
    cast.limited(5)
    before = [queries(*reader) for reader in readers]
    for request in [cast.submit("git_add", seconds=60 + number) for number in range(6)][::2]:
        cast.approve(request, by=cast.bert)
    create_agent(name="another", owner=cast.anna, team=cast.team, operator=OPERATOR)
    assert [queries(*reader) for reader in readers] == before


def test_no_list_counts_its_rows(cast: Cast, agent: Api):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    submit(agent)
    with CaptureQueriesContext(connection) as seen:
        person(cast.admin).get("/requests", limit=1)
        person(cast.admin).get("/ledger/entries", limit=1)
    assert not [one["sql"] for one in seen if "COUNT(" in one["sql"].upper()]


def test_ids_that_are_none_and_ids_of_nothing_answer_404(cast: Cast, agent: Api):
    problem(agent.get("/requests/42"), 404, "path.unknown")
    problem(agent.get("/requests/%00"), 404, "path.unknown")
    problem(agent.get(f"/requests/{NOBODY}"), 404, "request.unknown")
    problem(agent.post(f"/grants/{NOBODY}/release"), 404, "grant.unknown")


def test_nobody_buries_a_request_in_comments(cast: Cast, agent: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comment, "MAX_COMMENTS", 2)
    path = f"/requests/{submit(agent)['request_id']}/comment"
    for expected in (201, 201, 409):
        assert person(cast.anna).post(path, {"text": "Hm."}).status_code == expected
    assert person(cast.bert).post(path, {"text": "Hm?"}).status_code == 201, "another person is not kept from it"
    assert Entry.objects.filter(event="request.commented").count() == 3
