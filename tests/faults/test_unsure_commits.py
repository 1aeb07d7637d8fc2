"""The database commits and is gone before it can say so: what was written counts once, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import InternalError, OperationalError

from jitaccess.gateway.recording import batch
from jitaccess.gateway.recording.admission import Admission
from tests.cast import Cast
from tests.gateway.harness import Client, Served, echo, eventually, serve, settled, told

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def served(cast: Cast, tmp_path: Path) -> Iterator[Served]:
    running = serve({"git": echo(tmp_path / "record")})
    yield running
    running.stop()


@pytest.fixture
def agent(cast: Cast, served: Served) -> Iterator[Client]:
    with served.client(cast) as client:
        assert "content" in client.call("git_log", nonce="first")
        eventually(settled)
        yield client


@pytest.fixture(autouse=True)
def by_the_batch_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps are what fails here; the quick way has tests of its own (tests/gateway/test_lane.py)."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Admission, "start_lane", nothing)


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Exception], None]:
    """Once, an error in place of what `label` says has happened."""

    def once(label: str, error: Exception) -> None:
        left = [error]

        def step(reached: str) -> None:
            if reached == label and left:
                raise left.pop()

        monkeypatch.setattr(batch, "step", step)

    return once


Lose = Callable[[str, Exception], Any]


def test_an_end_that_was_committed_unheard_is_on_record_once(agent: Client, lose: Lose) -> None:
    lose("complete.committed", OperationalError("server closed the connection unexpectedly"))
    assert "content" in agent.call("git_log", nonce="second")
    assert "content" in agent.call("git_log", nonce="third")
    eventually(lambda: told().count("call.authorized") == 3 and settled(), what=str(told()))
    assert sorted(told()) == ["call.authorized"] * 3 + ["call.completed"] * 3


def test_a_call_that_was_authorized_unheard_is_refused_and_does_not_stay_open(
    agent: Client, lose: Lose, tmp_path: Path
) -> None:
    lose("admit.committed", OperationalError("server closed the connection unexpectedly"))
    assert agent.refusal("git_log", nonce="second") == "unavailable"
    assert "content" in agent.call("git_log", nonce="third")
    eventually(settled, what=str(told()))
    assert sorted(told()) == ["call.authorized"] * 3 + ["call.completed"] * 2 + ["call.not_sent"]
    assert "second" not in (tmp_path / "record").read_text()


def test_an_end_is_kept_when_the_database_ends_the_session_of_a_process_that_was_frozen(
    agent: Client, lose: Lose
) -> None:
    # PostgreSQL's idle-in-transaction timeout is an InternalError to Django (SQLSTATE 25P03).
    lose("complete.written", InternalError("terminating connection due to idle-in-transaction timeout"))
    assert "content" in agent.call("git_log", nonce="second")
    eventually(settled, what=str(told()))
    assert sorted(told()) == ["call.authorized"] * 2 + ["call.completed"] * 2
