"""Ends of calls and new calls share a commit, and neither pays for the other's fault."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import OperationalError, connections

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording import batch, instances
from jitaccess.gateway.recording.admission import Admission
from jitaccess.gateway.recording.batch import admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.facts import Admitted, Ending, Intent, Waiting
from jitaccess.identity.services import authenticate, issue_token
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store import byhand
from jitaccess.store.host_clock import steady
from tests.cast import Cast
from tests.gateway.harness import told

pytestmark = pytest.mark.django_db(transaction=True)


class Desk:
    """An admission whose thread does not run: the test is the thread."""

    def __init__(self, cast: Cast) -> None:
        value, _ = issue_token(agent=cast.agent, ttl=600, operator=cast.operator)
        self.cast, self.principal = cast, authenticate(value)
        self.store, self.guard = SnapshotStore(), ClockGuard()
        self.admission = Admission(self.store, instances.register_instance(), self.guard)
        self.answers: list[Admitted | BaseException] = []

    def intent(self, tool: str = "git_log") -> Intent:
        return Intent(self.principal, self.cast.server.pk, "git", tool, "sha256:x", {})

    def begun(self, tool: str = "git_log") -> Admitted:
        instance = self.admission.instance
        (one,) = admit_batch(
            [self.intent(tool)],
            store=self.store,
            instance=instance,
            guard=self.guard,
            lease_until=lambda: steady() + 60,
        )
        assert one.allowed
        return one

    def together(self, *endings: Ending) -> bool:
        loop = asyncio.new_event_loop()
        try:
            future: asyncio.Future[Admitted] = loop.create_future()
            written = self.admission._write_together(list(endings), [Waiting(self.intent(), future)])
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()
        if future.done():
            self.answers.append(future.exception() or future.result())
        return written


def ended(one: Admitted, event: Event = Event.CALL_COMPLETED, **data: Any) -> Ending:
    return Ending(one, event, Outcome.ALLOWED, data)


@pytest.fixture
def desk(cast: Cast) -> Desk:
    return Desk(cast)


def test_an_end_and_a_call_are_one_commit_the_end_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk.begun()
    commits: list[int] = []
    wrapper = type(connections["default"])
    commit = wrapper.commit

    def counted(self: Any) -> None:
        commits.append(1)
        commit(self)

    monkeypatch.setattr(wrapper, "commit", counted)
    assert desk.together(ended(one))
    assert commits == [1]
    (answer,) = desk.answers
    assert isinstance(answer, Admitted)
    assert answer.allowed
    assert told() == ["call.authorized", "call.completed", "call.authorized"]
    assert [row.call for row in OpenCall.objects.all()] == [answer.intent.call]


def test_an_end_that_cannot_be_written_takes_no_call_with_it(desk: Desk) -> None:
    one = desk.begun()
    assert not desk.together(ended(one, why=object()))
    assert desk.answers == []
    assert told() == ["call.authorized"]
    assert OpenCall.objects.count() == 1


def test_ends_that_give_uses_back_go_alone(desk: Desk) -> None:
    desk.cast.limited(2)
    one = desk.begun("git_commit")
    assert not desk.together(ended(one, Event.CALL_NOT_SENT, why="late"))
    assert desk.answers == []
    assert told() == ["call.authorized"]


def test_while_the_database_is_away_the_call_is_refused_and_the_end_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = desk.begun()

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(byhand, "execute", away)
    assert desk.together(ended(one))
    (answer,) = desk.answers
    assert isinstance(answer, Exception)
    assert [kept.admitted for kept in desk.admission._endings] == [one]
    assert told() == ["call.authorized"]


def test_an_end_whose_commit_nobody_heard_is_written_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk.begun()
    real = batch.step

    def deaf(label: str) -> None:
        real(label)
        if label == "admit.committed":
            raise OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(batch, "step", deaf)
    assert desk.together(ended(one))
    assert isinstance(desk.answers[0], Exception)
    monkeypatch.setattr(batch, "step", real)
    kept = [ending for ending in desk.admission._endings if ending.admitted is one]
    assert desk.admission._write_endings(kept)
    assert told().count("call.completed") == 1
