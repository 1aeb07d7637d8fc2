from __future__ import annotations

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.models import AccessToken, Agent, User
from jitaccess.identity.services import (
    agent_by_name,
    authenticate,
    create_agent,
    issue_token,
    people,
    revoke_token,
    set_agent_enabled,
)
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.ids import token_hash
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock

pytestmark = pytest.mark.django_db


def events() -> list[str]:
    return list(Entry.objects.order_by("uid").values_list("event", flat=True))


def test_only_the_hash_of_a_token_is_kept(cast: Cast) -> None:
    value, token = issue_token(agent=cast.agent, ttl=60, operator=OPERATOR, client="cli")
    assert token.hash == token_hash(value)
    stored = str(list(AccessToken.objects.values())) + str(list(Entry.objects.values()))
    assert value not in stored
    assert value.removeprefix("jit_") not in stored
    assert token.hash not in str(list(Entry.objects.values()))


def test_a_token_says_who_acts_for_whom_and_who_issued_it(cast: Cast) -> None:
    operator = OPERATOR.__class__(user=cast.admin.pk, user_name="admin")
    value, token = issue_token(agent=cast.agent, ttl=60, operator=operator, user=cast.olga, client="cli")
    who = authenticate(value, source="127.0.0.1", client="something else")
    assert (who.agent, who.agent_name, who.user, who.user_name) == (cast.agent.pk, "demo-agent", cast.olga.pk, "olga")
    assert (who.issued_by, who.client, who.source) == (cast.admin.pk, "cli", "127.0.0.1")
    assert who.token_expires_at == token.expires_at
    assert who.key == f"{cast.agent.pk}/{cast.olga.pk}"
    assert who.label == "demo-agent for olga"


@pytest.mark.parametrize(("ttl", "good"), [(-1, False), (0, False), (1, True), (3600, True), (3601, False)])
def test_a_token_lives_between_a_second_and_an_hour(cast: Cast, ttl: int, good: bool) -> None:
    if good:
        _, token = issue_token(agent=cast.agent, ttl=ttl, operator=OPERATOR)
        assert (token.expires_at - token.created_at).total_seconds() == ttl
        return
    with pytest.raises(Invalid) as caught:
        issue_token(agent=cast.agent, ttl=ttl, operator=OPERATOR)
    assert caught.value.code == "token.ttl"
    assert not AccessToken.objects.exists()


def test_unknown_expired_and_revoked_tokens_are_answered_alike(cast: Cast, clock: Clock) -> None:
    revoked, row = issue_token(agent=cast.agent, ttl=3600, operator=OPERATOR)
    revoke_token(token=row, operator=OPERATOR)
    expired, _ = issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    live, token = issue_token(agent=cast.agent, ttl=3600, operator=OPERATOR)
    clock.shift(61)
    answers = set()
    for value in (revoked, expired, live + "x", token.hash, "", "jit_", "\0", "\ud800"):
        with pytest.raises(Forbidden) as caught:
            authenticate(value)
        answers.add((caught.value.code, caught.value.detail, str(caught.value.params)))
    assert len(answers) == 1
    assert authenticate(live).agent == cast.agent.pk


def test_a_token_ends_at_its_instant_by_the_clock_of_the_database(cast: Cast, clock: Clock) -> None:
    value, _ = issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    clock.shift(50)
    assert authenticate(value)
    clock.shift(10)
    with pytest.raises(Forbidden):
        authenticate(value)


def test_revoking_twice_is_recorded_once(cast: Cast) -> None:
    _, token = issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    revoke_token(token=token, operator=OPERATOR)
    token.refresh_from_db()
    first = token.revoked_at
    revoke_token(token=token, operator=OPERATOR)
    token.refresh_from_db()
    assert token.revoked_at == first
    assert events().count("token.revoked") == 1


def test_a_user_who_may_not_use_the_agent_gets_no_token(cast: Cast) -> None:
    with pytest.raises(Forbidden) as caught:
        issue_token(agent=cast.agent, ttl=60, operator=OPERATOR, user=cast.carl)
    assert caught.value.code == "agent.not_usable"
    cast.agent.users.add(cast.carl)
    User.objects.filter(pk=cast.carl.pk).update(is_active=False)
    cast.carl.refresh_from_db()
    with pytest.raises(Forbidden):
        issue_token(agent=cast.agent, ttl=60, operator=OPERATOR, user=cast.carl)
    assert not AccessToken.objects.exists()
    assert "token.issued" not in events()


def test_a_disabled_agent_gets_no_token(cast: Cast) -> None:
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    with pytest.raises(Forbidden) as caught:
        issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    assert caught.value.code == "agent.disabled"
    assert events().count("agent.disabled") == 1, "the second time changed nothing"
    set_agent_enabled(agent=cast.agent, enabled=True, operator=OPERATOR)
    assert issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    assert events()[-2:] == ["agent.enabled", "token.issued"]


def test_a_long_client_name_is_cut(cast: Cast) -> None:
    _, token = issue_token(agent=cast.agent, ttl=60, operator=OPERATOR, client="x\0" * 500)
    assert len(token.client) == 200
    assert "\0" not in token.client


def test_the_name_of_an_agent_is_taken_once(cast: Cast) -> None:
    with pytest.raises(Conflict) as caught:
        create_agent(name="demo-agent", owner=cast.anna, team=cast.team, operator=OPERATOR)
    assert caught.value.code == "agent.exists"
    assert agent_by_name("demo-agent").owner == cast.olga
    assert events().count("agent.created") == 1


@pytest.mark.parametrize("name", ["", "x" * 41, "Demo", "a b", "a/b", "-a", "a\u202eb", "a\n"])
def test_an_agent_has_a_name_that_can_be_told_apart(cast: Cast, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        create_agent(name=name, owner=cast.olga, team=cast.team, operator=OPERATOR)
    assert caught.value.code == "agent.name"
    assert Agent.objects.count() == 1


def test_an_unknown_agent_is_answered_with_the_names_there_are(cast: Cast) -> None:
    with pytest.raises(NotFound, match="demo-agent"):
        agent_by_name("demo")


def test_people_are_active_ones(cast: Cast) -> None:
    User.objects.filter(pk=cast.bert.pk).update(is_active=False)
    assert people({cast.anna.pk, cast.bert.pk}) == {cast.anna.pk: "anna"}
    assert now()
