"""A head that was learnt never outlives what it stood for: each call is decided anew, as on the long way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from jitaccess.catalog.services import import_tools, set_options
from jitaccess.gateway.limits import MAX_IN_FLIGHT, Limits
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.identity.models import AccessToken, Agent, User
from jitaccess.identity.services import revoke_token, set_agent_enabled
from jitaccess.kernel.ids import token_hash
from jitaccess.policy.models import RoleBinding, ServerAccess
from jitaccess.policy.services import bind_role, save_role
from jitaccess.store import metrics
from tests.cast import OPERATOR, Cast, definition
from tests.clocks import Clock
from tests.gateway.harness import DENY, Served, database_away, eventually, ledger, settled, told
from tests.gateway.shortly import GIT, Answer, Held, Line, World, call, short, world
from tests.gateway.upstream.web_server import WebServer, threaded

__all__ = ["short"]
pytestmark = pytest.mark.django_db(transaction=True)
CALL = call(path="x")


@pytest.fixture
def line(short: World) -> Line:
    """A connection whose calls go the short way."""
    return known(short, short.line())


def known(world: World, line: Line) -> Line:
    world.ready(line)
    world.learn(line, CALL)
    world.short(line, line.request(CALL))
    eventually(settled)
    world.upstream.seen.clear()
    world.ways.taken.clear()
    return line


def reason(answer: Answer) -> str:
    return str(answer.result["_meta"][DENY]["reason_code"])


def as_on_the_long_way(world: World, line: Line) -> Answer:
    """The next call, with the head that is known and then with one that is not."""
    answer = line.ask(line.request(CALL))
    other = world.line(line.token)
    again = other.ask(other.request(CALL, x_long="1"))
    assert (answer.status, _without_ids(answer)) == (again.status, _without_ids(again))
    eventually(settled)
    assert world.upstream.calls() == []
    return answer


def _without_ids(answer: Answer) -> Any:
    """The id of the message too: of a token that was forgotten meanwhile no message is read."""
    said = answer.json | {"id": None}
    for part in (said.get("result", {}).get("_meta", {}).get(DENY, {}), said.get("error", {}).get("data") or {}):
        part.pop("call", None)
    return said


def test_a_token_that_was_revoked_is_answered_401_at_the_next_call(short: World, line: Line) -> None:
    revoke_token(token=AccessToken.objects.get(hash=token_hash(line.token)), operator=OPERATOR)
    assert as_on_the_long_way(short, line).status == 401
    assert len(short.ways.taken) <= 1, "it is not remembered any more"
    assert line.ask(line.request(CALL)).status == 401
    assert told("call.").count("call.authorized") == len(ledger("call.completed"))


def test_a_token_that_has_expired_is_answered_401(short: World, line: Line, clock: Clock) -> None:
    clock.shift(7200)
    assert as_on_the_long_way(short, line).status == 401


def test_an_agent_that_was_disabled_is_refused_and_served_when_it_is_enabled(short: World, line: Line) -> None:
    set_agent_enabled(agent=short.cast.agent, enabled=False, operator=OPERATOR)
    assert reason(as_on_the_long_way(short, line)) == "locked_down"
    set_agent_enabled(agent=short.cast.agent, enabled=True, operator=OPERATOR)
    assert line.ask(line.request(CALL)).result["params"]["arguments"] == {"path": "x"}


def test_a_user_who_is_gone_is_refused(short: World) -> None:
    short.cast.agent.users.add(short.cast.anna)
    line = known(short, short.line(short.token_of(user=short.cast.anna)))
    User.objects.filter(pk=short.cast.anna.pk).update(is_active=False)
    assert reason(as_on_the_long_way(short, line)) == "locked_down"
    short.cast.anna.delete()
    assert as_on_the_long_way(short, line).status == 401


def test_an_agent_that_was_deleted_is_answered_401(short: World, line: Line) -> None:
    Agent.objects.filter(pk=short.cast.agent.pk).delete()
    assert as_on_the_long_way(short, line).status == 401


def test_a_server_that_was_closed_is_not_there(short: World, line: Line) -> None:
    ServerAccess.objects.all().delete()
    assert as_on_the_long_way(short, line).status == 404


def test_a_role_that_was_taken_away_allows_nothing(short: World, line: Line) -> None:
    RoleBinding.objects.all().delete()
    assert "Unknown tool" in as_on_the_long_way(short, line).json["error"]["message"]


def test_a_role_that_allows_other_arguments_only_refuses(short: World, line: Line) -> None:
    RoleBinding.objects.all().delete()
    role = save_role(
        document="kind: role\nversion: v1\nmetadata: {name: some}\nspec:\n  allow: [{servers: [git], tools: [git_log], arguments: {mode: exact, value: {path: y}}}]\n",
        operator=OPERATOR,
    )
    bind_role(role=role, agent=short.cast.agent, origin=RoleBinding.Origin.STANDING, operator=OPERATOR)
    as_on_the_long_way(short, line)
    assert line.ask(line.request(call(path="y"))).result["params"]["arguments"] == {"path": "y"}


def test_a_tool_whose_definition_has_changed_is_not_called(short: World, line: Line) -> None:
    changed = [definition(name, description="other") for name in short.cast.tools]
    import_tools(server=short.cast.server, definitions=changed, operator=OPERATOR)
    assert reason(as_on_the_long_way(short, line)) == "quarantined"


def test_a_server_that_is_configured_anew_is_asked_where_it_is_now(short: World, line: Line) -> None:
    with threaded(WebServer()) as (other,):
        short.servers[GIT] = HttpServer(GIT, other.url, {})
        assert line.ask(line.request(CALL)).status == 200
        assert (len(short.upstream.calls()), len(other.calls())) == (0, 1)
        del short.servers[GIT]
        assert line.ask(line.request(CALL)).result["isError"]
        assert (len(short.upstream.calls()), len(other.calls())) == (0, 1)


def test_options_that_a_call_needs_the_long_way_for_are_heeded_at_once(short: World, line: Line) -> None:
    set_options(server=short.cast.server, changes={"repeat_limit": 1}, operator=OPERATOR)
    gateway = short.served.gateway
    eventually(lambda: gateway.store.current.servers[short.cast.server.pk].options.repeat_limit)
    assert reason(as_on_the_long_way(short, line)) == "repeated"
    assert short.ways.taken == []


def test_an_address_is_that_of_the_connection(short: World, line: Line) -> None:
    """Heads are known by their bytes; from where they came is on record anew."""
    other = Line(short.served.url, line.token, source="127.0.0.2")
    short.lines.append(other)
    short.short(other, line.request(CALL))
    eventually(settled)
    assert {entry.source for entry in ledger()[-2:]} == {"127.0.0.2"}
    short.short(line, line.request(CALL))
    eventually(settled)
    assert {entry.source for entry in ledger()[-2:]} == {"127.0.0.1"}


def test_one_who_asks_with_anothers_head_needs_the_others_token(short: World, line: Line) -> None:
    """There is nothing to a head but its bytes, and the token is among them."""
    request = line.request(CALL).replace(line.token.encode(), b"x" * len(line.token))
    assert line.ask(request).status == 401
    assert short.ways.left == 0


def test_more_at_once_than_are_served_are_answered_429_and_counted_once(short: World, line: Line) -> None:
    held, request = Held(short), line.request(CALL)
    lines = [short.line() for _ in range(MAX_IN_FLIGHT)]
    for one in lines:
        one.say(request)
    held.wait(MAX_IN_FLIGHT)
    limited = metrics.LIMITED.labels("at_once")
    before = limited._value.get()
    answer = line.ask(request)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert limited._value.get() == before + 1
    held.let_go()
    assert {one.hear().status for one in lines} == {200}
    assert line.ask(request).status == 200
    eventually(settled)


@pytest.fixture
def limited(cast: Cast, start: Callable[..., Served], settings: Any) -> Iterator[World]:
    with world(cast, start, settings, limits=Limits(per_minute=60, burst=9)) as found:
        yield found


def test_beyond_the_rate_a_call_is_answered_429_and_short_calls_count_as_others(limited: World) -> None:
    line = known(limited, limited.line())
    limited.served.gateway.limits.rate._empty_at.clear()
    answers = [line.ask(line.request(CALL)) for _ in range(12)]
    assert [answer.status for answer in answers[:9]] == [200] * 9
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert len(limited.upstream.calls()) == len([answer for answer in answers if answer.status == 200])
    assert not +limited.served.gateway.limits.busy
    eventually(settled)


def test_the_same_call_again_and_again_is_flagged(short: World, line: Line) -> None:
    for _ in range(10):
        short.short(line, line.request(CALL))
    eventually(lambda: "call.repeated" in told())


@pytest.fixture
def away(settings: Any, monkeypatch: pytest.MonkeyPatch, postgresql: bool) -> None:
    """A database that refuses refuses soon."""
    if not postgresql:
        monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.3)


def test_while_the_database_is_away_nothing_is_sent(away: None, short: World, line: Line) -> None:
    before = told().count("call.authorized")
    with database_away():
        answers = [line.ask(line.request(CALL)) for _ in range(3)]
    for answer in answers:
        assert answer.status == 503 or reason(answer) == "unavailable"
    assert short.ways.taken, "they began the short way"
    assert short.upstream.calls() == []
    eventually(lambda: short.line().ask(line.request(CALL)).json.get("result", {}).get("params"), within=20)
    eventually(settled)
    ended = told()
    assert ended.count("call.authorized") - before == len(short.upstream.calls()) + ended.count("call.not_sent")
