"""Who may do what: agents never decide, nobody sees what is foreign, and nobody is two callers at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.catalog.models import Server
from jitaccess.identity.models import AccessToken, Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import create_agent, issue_token, revoke_token
from jitaccess.kernel.canonical import canonical
from jitaccess.policy.delegations import delegate
from jitaccess.policy.locks import lock
from jitaccess.policy.models import Delegation, Lock
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Decision, Grant
from tests.api.conftest import NOBODY, Api, bearer, person, problem, stranger, token_of
from tests.cast import OPERATOR, Cast
from tests.cast import person as new_person
from tests.clocks import Clock

pytestmark = pytest.mark.django_db


ENDS = "2100-01-01T00:00:00Z"


def delegated(cast: Cast) -> Delegation:
    """bert's approvals in anna's hands for a day."""
    operator = Principal.of_user(cast.bert).actor()
    return delegate(person=cast.bert, to=cast.anna, ends_at=now() + timedelta(days=1), operator=operator)


@pytest.fixture
def places(cast: Cast) -> dict[str, str]:
    """A pending request, a live grant, and other things there are, by the names that paths use."""
    pending, grant = cast.submit("git_add"), cast.grant("git_commit")
    return {
        "request": str(pending.pk),
        "digest": pending.digest,
        "grant": str(grant.pk),
        "agent": str(cast.agent.pk),
        "tool": str(cast.tools["git_log"].pk),
        "server": str(cast.server.pk),
        "role": str(cast.read_only.pk),
        "token": str(issue_token(agent=cast.agent, ttl=600, operator=OPERATOR)[1].pk),
        "lock": str(lock(kind="role", target=cast.read_only.pk, reason="x", operator=OPERATOR).pk),
        "delegation": str(delegated(cast).pk),
        "entry": str(Entry.objects.first().pk),  # type: ignore[union-attr]
    }


DECIDING = (
    ("/requests/{request}/approve", {"digest": "{digest}"}),
    ("/requests/{request}/deny", {"digest": "{digest}"}),
    ("/requests/{request}/ask-for-changes", {"note": "less"}),
    ("/requests/{request}/comment", {"text": "me too"}),
    ("/grants/{grant}/revoke", {}),
    ("/agents/{agent}/enable", {}),
    ("/agents/{agent}/disable", {}),
    ("/agents/{agent}/tokens", {"minutes": 5}),
    ("/agents/{agent}/tokens/{token}/revoke", {}),
    ("/tools/{tool}/classify", {"access": "read", "digest": "x"}),
    ("/servers/{server}/options", {"identity_header": True}),
    ("/locks", {"kind": "agent", "target": "{agent}", "reason": "x"}),
    ("/locks/{lock}/lift", {}),
    ("/delegations/{delegation}/end", {}),
)
ASKING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/requests/{request}/cancel", {}),
    ("/grants/{grant}/release", {}),
    ("/grants/{grant}/extend", {"minutes": 5, "reason": "It takes longer"}),
)
READING = (
    "/requests/{request}",
    "/requests/{request}/timeline",
    "/grants/{grant}",
    "/agents/{agent}",
    "/servers/{server}",
    "/tools/{tool}",
    "/roles/{role}",
    "/ledger/entries/{entry}",
    "/ledger/entries/{entry}/proof",
)
CONFIGURATION = ("/servers", "/tools", "/roles", "/bindings", "/ledger/entries", "/ledger/checkpoints")


def state() -> list[Any]:
    kinds = (AccessRequest, Decision, Grant, Lock, Delegation, Entry, Server)
    return [list(kind._base_manager.order_by("pk").values()) for kind in kinds] + [AccessToken.objects.count()]


@pytest.mark.parametrize("for_admin", [False, True])
def test_no_token_of_an_agent_decides_anything_whoever_issued_it(for_admin: bool, cast: Cast, places: dict[str, str]):
    if for_admin:
        cast.agent.users.add(cast.admin)
    api = bearer(token_of(cast.agent, cast.admin if for_admin else None))
    before = state()
    for path, body in DECIDING:
        sent = {name: value.format(**places) if isinstance(value, str) else value for name, value in body.items()}
        for target in (path.format(**places), path.format(**dict.fromkeys(places, NOBODY))):
            problem(api.post(target, sent), 403, "agents_never_decide")
            problem(api.post(target, b"not even read"), 403, "agents_never_decide")
    for path in (*CONFIGURATION, *READING[4:]):
        problem(api.get(path.format(**places)), 403, "not_permitted")
    assert state() == before


def test_strangers_see_nothing_and_change_nothing(cast: Cast, places: dict[str, str]):
    """carl, a member of staff without permissions, another agent, and the same agent for somebody else."""
    other = create_agent(name="other", owner=cast.carl, team=cast.team, operator=OPERATOR)
    cast.agent.users.add(cast.bert)
    clerk = new_person("clerk")
    User.objects.filter(pk=clerk.pk).update(is_staff=True)
    people = [person(cast.carl), person(User.objects.get(pk=clerk.pk))]
    agents = [bearer(token_of(other)), bearer(token_of(cast.agent, cast.bert))]
    before = state()
    for api in [*people, *agents]:
        for name in ("requests", "grants"):
            assert api.get(f"/{name}").json() == {"items": [], "next": None, "previous": None}
        for path in READING[:3]:
            real, absent = (api.get(path.format(**ids)) for ids in (places, dict.fromkeys(places, NOBODY)))
            assert real.status_code == absent.status_code == 404, path
            assert real.json() | {"instance": ""} == absent.json() | {"instance": ""}
        for path in (*CONFIGURATION, *READING[4:]):
            problem(api.get(path.format(**places)), 403, "not_permitted")
        for path, body in ASKING:
            assert api.post(path.format(**places), body).status_code == 404
    for api in people:
        problem(api.get(f"/agents/{places['agent']}"), 404, "agent.unknown")
        for path, body in DECIDING:
            sent = {name: value.format(**places) if isinstance(value, str) else value for name, value in body.items()}
            answer = api.post(path.format(**places), sent)
            assert answer.status_code == (
                403 if path.split("/")[1] in {"agents", "tools", "servers"} or path == "/locks" else 404
            ), path
    assert state() == before


def test_without_credentials_there_is_nothing_but_the_documentation(cast: Cast, places: dict[str, str]):
    api, before = stranger(), state()
    for path in ("/", "/me", "/requests", "/requestable", *CONFIGURATION, *READING):
        answer = api.get(path.format(**places))
        problem(answer, 401, "auth.missing")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="jitaccess"'
    for path, body in (*DECIDING, *ASKING, ("/requests", {}), ("/delegations", {}), ("/explain", {})):
        problem(api.post(path.format(**places), body), 401, "auth.missing")
    assert api.get("/openapi.json").status_code == 200
    assert state() == before


MORE = {"minutes": 5, "reason": "It takes longer"}
# What each address of the workflow answers: without credentials, to the agent that it is about, to another agent, to
# somebody, to staff without permissions, to a team-mate, to an approver, to the owner, to a superuser.
WORKFLOW: tuple[tuple[str, str, dict[str, Any], tuple[int, ...]], ...] = (
    ("get", "/requests/{request}", {}, (401, 200, 404, 404, 404, 200, 200, 200, 200)),
    ("post", "/requests/{request}/approve", {"digest": "x"}, (401, 403, 403, 404, 404, 403, 409, 403, 403)),
    ("post", "/requests/{request}/ask-for-changes", {"note": "x"}, (401, 403, 403, 404, 404, 403, 200, 403, 403)),
    ("post", "/grants/{grant}/extend", MORE, (401, 201, 404, 404, 404, 403, 403, 201, 403)),
    ("get", "/delegations", {}, (401, 403, 403, 200, 200, 200, 200, 200, 200)),
    ("post", "/delegations", {"ends_at": ENDS}, (401, 403, 403, 400, 400, 400, 400, 400, 400)),
    ("post", "/delegations/{delegation}/end", {}, (401, 403, 403, 404, 404, 404, 200, 404, 409)),
    ("post", "/explain", {"server": "git", "tool": "git_log"}, (401, 200, 200, 403, 403, 403, 403, 403, 400)),
    ("get", "/requestable", {"agent": "demo-agent"}, (401, 400, 400, 403, 403, 403, 403, 200, 403)),
)


def test_who_may_do_what_in_the_workflow(cast: Cast, places: dict[str, str]):
    other = create_agent(name="other", owner=cast.carl, team=Team.objects.create(name="far"), operator=OPERATOR)
    clerk, mate = new_person("clerk"), new_person("mate")
    User.objects.filter(pk=clerk.pk).update(is_staff=True)
    cast.team.members.add(mate)
    people = (cast.carl, User.objects.get(pk=clerk.pk), mate, cast.anna, cast.olga, cast.admin)
    callers = [stranger(), bearer(token_of(cast.agent)), bearer(token_of(other)), *map(person, people)]
    for method, path, body, expected in WORKFLOW:
        for number, api in enumerate(callers):
            where = path.format(**places)
            answer = api.get(where, **body) if method == "get" else api.post(where, body)
            assert answer.status_code == expected[number], (path, number, answer.content)


QUESTION = {
    "subject": {"type": "agent", "id": "demo-agent"},
    "action": {"name": "call"},
    "resource": {"type": "tool", "id": "git/git_log"},
}
# What each of AuthZEN's addresses answers: without credentials, to the agent that it is about, to another agent, to
# somebody, to staff without permissions, to a superuser.
AUTHZEN = (
    ("get", "/.well-known/authzen-configuration", (200, 200, 200, 200, 200, 200)),
    ("get", "/access/v1/jwks.json", (200, 200, 200, 200, 200, 200)),
    ("get", "/access/v1/request-schema.json", (200, 200, 200, 200, 200, 200)),
    ("post", "/access/v1/evaluation", (401, 200, 403, 403, 403, 200)),
    ("post", "/access/v1/evaluations", (401, 200, 403, 403, 403, 200)),
    ("post", "/access/v1/requests", (401, 400, 403, 403, 403, 403)),
    ("get", "/access/v1/requests/{task}", (401, 200, 404, 404, 404, 200)),
    ("post", "/access/v1/requests/{task}/cancel", (401, 200, 404, 404, 404, 403)),
    ("get", "/access/v1/forward-auth", (401, 200, 403, 403, 403, 403)),
    ("post", "/access/v1/search/subject", (404, 404, 404, 404, 404, 404)),
)


def test_who_may_ask_what_over_authzen(cast: Cast):
    other = create_agent(name="other", owner=cast.carl, team=Team.objects.create(name="far"), operator=OPERATOR)
    clerk = new_person("clerk")
    User.objects.filter(pk=clerk.pk).update(is_staff=True)
    task = f"arq_{cast.submit('git_add').pk.hex}"
    agents = [bearer(token_of(other)), bearer(token_of(cast.agent))]
    people = [person(cast.carl), person(User.objects.get(pk=clerk.pk)), person(cast.admin)]
    callers = [stranger(), agents[1], agents[0], *people]
    for method, path, expected in AUTHZEN:
        # Who may withdraw goes last: nobody could do so after it.
        for number in sorted(range(len(callers)), key=lambda number: expected[number] == 200):
            headers = {**callers[number].headers, "X-Jitaccess-Tool": "git/git_log"}
            send = getattr(callers[number].client, method)
            body = {"data": canonical(QUESTION), "content_type": "application/json"} if method == "post" else {}
            answer = send(path.format(task=task), headers=headers, **body)
            assert answer.status_code == expected[number], (path, number, answer.content)


def test_a_session_and_a_token_at_once_are_refused(cast: Cast):
    both = Api(person(cast.anna).client, {"Authorization": f"Bearer {token_of(cast.agent)}"})
    problem(both.get("/me"), 400, "auth.both")
    problem(both.post("/requests", {}), 400, "auth.both")


def test_tokens_that_are_not_good_now_are_refused_alike(cast: Cast, clock: Clock):
    value = token_of(cast.agent)
    assert bearer(value).get("/me").json()["agent"] == "demo-agent"
    problem(bearer("jit_nonsense").get("/me"), 401, "token.invalid")
    problem(Api(Client(), {"Authorization": f"Basic {value}"}).get("/me"), 401, "auth.scheme")
    problem(Api(Client(), {"Authorization": "Bearer"}).get("/me"), 401, "token.invalid")
    revoke_token(token=AccessToken.objects.latest("created_at"), operator=OPERATOR)
    problem(bearer(value).get("/me"), 401, "token.invalid")
    late = token_of(cast.agent)
    clock.shift(3601)
    problem(bearer(late).get("/me"), 401, "token.invalid")


def test_what_a_session_changes_needs_the_csrf_token(cast: Cast):
    asked = cast.submit()
    api = person(cast.anna, csrf=True)
    path, body = f"/requests/{asked.pk}/approve", {"digest": asked.digest}
    problem(api.post(path, body), 403, "auth.csrf")
    assert not Decision.objects.exists()
    api.client.get("/requests/")
    api.client.get(f"/requests/{asked.pk}/")
    token = api.client.cookies["csrftoken"].value
    assert api.get("/me").status_code == 200
    assert api.post(path, body, headers={"X-CSRFToken": token}).status_code == 200


def test_somebody_who_is_no_longer_active_is_nobody(cast: Cast):
    api = person(cast.anna)
    User.objects.filter(pk=cast.anna.pk).update(is_active=False)
    problem(api.get("/requests"), 401, "auth.missing")


def test_people_and_agents_are_told_who_they_are(cast: Cast):
    cast.agent.users.add(cast.anna)
    assert person(cast.anna).get("/me").json() == {
        "kind": "person",
        "label": "anna",
        "agent": None,
        "user": "anna",
        "token_expires_at": None,
    }
    me = bearer(token_of(cast.agent, cast.anna)).get("/me").json()
    assert (me["kind"], me["label"]) == ("agent", "demo-agent for anna")
    assert me["token_expires_at"]


def test_a_team_mate_sees_a_grant_but_may_not_revoke_it(cast: Cast):
    cast.team.members.add(cast.carl)
    grant = cast.grant()
    api = person(cast.carl)
    assert api.get(f"/grants/{grant.pk}").json()["state"] == "active"
    problem(api.post(f"/grants/{grant.pk}/revoke"), 403, "grant.not_yours")
    revoked = person(cast.olga).post(f"/grants/{grant.pk}/revoke", {"note": "Enough."}).json()
    assert (revoked["end_reason"], revoked["ended_by"], revoked["note"]) == ("revoked", "olga", "Enough.")
    assert not cast.verdict("git_commit").allowed
