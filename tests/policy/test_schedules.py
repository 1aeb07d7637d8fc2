"""Schedules kept elsewhere: fetched, believed for a while, and never a reason to fall over."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jitaccess.kernel.errors import Invalid
from jitaccess.policy import schedules
from jitaccess.policy.models import OnCallSchedule
from jitaccess.policy.people import members_of
from jitaccess.policy.schedules import read_answer
from jitaccess.policy.tasks import fetch_schedules
from tests.cast import Cast

Serve = Callable[[bytes], str]


@pytest.fixture
def serve(settings: Any) -> Iterator[Serve]:
    """Start a server on loopback whose path /n gives the n-th body; returns its URL. A body b"" is an error 500."""
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[int(self.path.strip("/"))]
            self.send_response(200 if body else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def add(body: bytes) -> str:
        bodies.append(body)
        return f"http://127.0.0.1:{server.server_port}/{len(bodies) - 1}"

    yield add
    server.shutdown()
    server.server_close()
    thread.join()


def kept(name: str, url: str) -> OnCallSchedule:
    return OnCallSchedule.objects.create(name=name, url=url)


@pytest.mark.django_db
def test_whoever_the_url_names_is_on_call(cast: Cast, serve: Serve):
    schedule = kept("ops", serve(b'{"on_call": ["anna", "not-here"], "until": "noon"}'))
    assert fetch_schedules() == 1
    schedule.refresh_from_db()
    assert json.loads(schedule.fetched) == ["anna", "not-here"]
    ref = f"schedule:{schedule.pk}"
    assert members_of([ref])[ref] == {cast.anna.pk}


@pytest.mark.django_db
def test_one_that_fails_leaves_the_others_and_what_it_said_before(cast: Cast, serve: Serve, settings: Any):
    broken, good = kept("broken", serve(b"")), kept("good", serve(b'{"on_call": ["bert"]}'))
    refused, empty = kept("refused", "http://169.254.169.254/"), kept("empty", serve(b'{"on_call": []}'))
    OnCallSchedule.objects.update(fetched='["carl"]')
    assert fetch_schedules() == 2
    said = dict(OnCallSchedule.objects.values_list("name", "fetched"))
    assert said == {"broken": '["carl"]', "refused": '["carl"]', "good": '["bert"]', "empty": "[]"}
    for row in (broken, refused):
        row.refresh_from_db()
        assert row.fetched_at is None, "what was not fetched is not fresh"
    for row in (good, empty):
        row.refresh_from_db()
        assert row.fetched_at is not None


@pytest.mark.django_db
def test_an_answer_that_comes_too_late_is_none(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    class Slow:
        def __init__(self, *_: object) -> None: ...

        async def send(self, *_: object, **__: object) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None: ...

    monkeypatch.setattr(schedules, "Client", Slow)
    monkeypatch.setattr(schedules, "PATIENCE", 0.01)
    kept("slow", "https://calls.example/")
    assert fetch_schedules() == 0


@pytest.mark.django_db
def test_an_answer_of_a_url_that_was_changed_meanwhile_is_dropped(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    row = kept("ops", "https://old.example/")

    async def ask(urls: list[str]) -> list[Any]:
        return [["carl"] for _ in urls]

    def run(work: Any) -> Any:
        OnCallSchedule.objects.filter(pk=row.pk).update(url="https://new.example/")
        with asyncio.Runner() as runner:
            return runner.run(work)

    monkeypatch.setattr(schedules, "_ask", ask)
    monkeypatch.setattr("jitaccess.policy.schedules.asyncio.run", run)
    assert fetch_schedules() == 0
    row.refresh_from_db()
    assert row.fetched == "[]"


@pytest.mark.django_db
def test_without_such_schedules_nothing_is_asked(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedules, "_ask", None)
    assert fetch_schedules() == 0


@pytest.mark.pure
@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'"anna"', b'{"on_call": "anna"}', b'{"on_call": [1]}', b'{"on_call": [""]}',
        b'{"on_call": ["a"], "on_call": ["b"]}', b'{"on_call": [["a"]]}', b'{"on_call": ["' + b"a" * 151 + b'"]}',
        json.dumps({"on_call": ["a"] * 51}).encode(), b'{"on_call": ["\\u200b"]}', b"\xff",
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(body: bytes):
    with pytest.raises(Invalid):
        read_answer(body)
