"""DELETE ends a session of the older revisions, in every process; and what such a client's Accept names first it gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jitaccess.gateway import sessions
from jitaccess.gateway.sessions import EndedSessions
from jitaccess.identity.services import create_agent
from tests.cast import Cast
from tests.gateway.harness import Client, Served, eventually

pytestmark = pytest.mark.django_db(transaction=True)


def end(client: Client) -> int:
    headers = {name: value for name, value in client.headers().items() if name != "content-type"}
    return client.http.delete(client.endpoint, headers=headers).status_code


def status(client: Client) -> int:
    return client.post(client.message("ping")).status_code


def test_an_ended_session_is_unknown_in_every_process_and_its_stream_ends(
    cast: Cast, start: Callable[..., Served]
) -> None:
    first, second = start(), start()
    with first.client(cast) as client, second.client(cast) as same:
        client.initialize()
        same.session = client.session
        assert status(same) == 200
        with same.listen() as stream:
            assert end(client) == 200
            assert status(client) == 404
            assert end(client) == 404
            eventually(stream.ended.is_set, what="the other process hears of it")
        assert status(same) == 404
        client.session = None
        assert status(client.initialize()) == 200, "another one may begin"


def test_nobody_ends_the_session_of_somebody_else(cast: Cast, gateway: Served, legacy: Client) -> None:
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    with gateway.client(cast, agent=other) as stranger:
        stranger.session = legacy.session
        assert end(stranger) == 404
        assert legacy.http.delete(legacy.endpoint).status_code == 401
    assert status(legacy) == 200


def test_a_delete_without_a_session_ends_nothing(agent: Client) -> None:
    assert end(agent) == 400


def test_the_memory_of_ended_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_ENDED", 2)
    ended = EndedSessions()
    for name in ("one", "two", "three"):
        ended.add(name)
    assert [name in ended for name in ("one", "two", "three")] == [False, True, True]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream, application/json", "text/event-stream"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_an_older_client_gets_what_it_names_first(agent: Client, legacy: Client, accept: str, kind: str) -> None:
    for method in ("tools/list", "ping"):
        answer = legacy.post(legacy.message(method), accept=accept)
        assert answer.headers["content-type"].startswith(kind)
        assert answer.status_code == 200
        if kind == "text/event-stream":
            assert "\r\n\r\nevent: message\r\ndata: {" in answer.text
    newer = agent.post(agent.message("tools/list"), accept=accept)
    assert newer.headers["content-type"].startswith("application/json")
