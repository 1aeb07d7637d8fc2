"""Calls of processes that died, or were believed dead: closed once, and what they say later is late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Bundle
from jitaccess.audit.recorder import Facts, record
from jitaccess.gateway import core
from jitaccess.gateway.models import GatewayInstance, OpenCall
from jitaccess.gateway.recording.instances import close_abandoned_calls, end_lease, register_instance
from jitaccess.kernel.ids import uuid7
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, data, eventually, ledger, told
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gateway that starts looks after its lease soon again."""
    monkeypatch.setattr(core, "HOUSEKEEPING_SECONDS", 0.1)


def open_call(cast: Cast, instance: Any, tool: str = "git_log") -> OpenCall:
    call, actor = uuid7(), cast.principal().actor()
    with transaction.atomic():
        begun = Facts(
            event=Event.CALL_AUTHORIZED, actor=actor, call=call, server=cast.server.pk, server_name="git", tool=tool
        )
        record(begun)
        return OpenCall.objects.create(call=call, instance=instance)


def test_calls_of_a_process_that_died_are_closed_once_and_those_of_a_live_one_are_not(cast: Cast, clock: Clock) -> None:
    dead, gone, live = register_instance(), register_instance(), register_instance()
    end_lease(dead)
    GatewayInstance.objects.filter(pk=gone).delete()
    lost, orphan, running = open_call(cast, dead), open_call(cast, gone), open_call(cast, live)
    assert close_abandoned_calls() == 2
    assert close_abandoned_calls() == 0
    entries = ledger("call.outcome_unknown")
    assert {entry.call for entry in entries} == {lost.call, orphan.call}
    assert {(entry.tool, entry.agent_name, entry.server_name, entry.outcome) for entry in entries} == {
        ("git_log", "demo-agent", "git", "error"),
    }  # fmt: skip
    assert list(OpenCall.objects.all()) == [running]
    clock.shift(16)
    assert close_abandoned_calls() == 1


def test_two_processes_close_a_dead_ones_calls_once_between_them(cast: Cast) -> None:
    dead = register_instance()
    end_lease(dead)
    calls = {open_call(cast, dead).call for _ in range(20)}
    counts = race(close_abandoned_calls, close_abandoned_calls)
    close_abandoned_calls()
    assert sum(counts) <= 20
    entries = ledger("call.outcome_unknown")
    assert {entry.call for entry in entries} == calls
    assert len(entries) == 20


def test_a_gateway_closes_what_another_left_open_and_leaves_with_its_lease(
    cast: Cast, start: Callable[..., Served], gateway: Served, agent: Client
) -> None:
    dead = register_instance()
    end_lease(dead)
    left = open_call(cast, dead)
    served = start()
    assert eventually(lambda: told() == ["call.authorized", "call.outcome_unknown"])
    assert ledger()[-1].call == left.call
    mine = GatewayInstance.objects.get(pk=served.gateway.instance)
    assert mine.lease_until > mine.started_at
    served.stop()
    mine.refresh_from_db()
    assert mine.lease_until <= GatewayInstance.objects.get(pk=gateway.gateway.instance).lease_until
    assert agent.call("git_log")


def test_a_process_that_was_believed_dead_says_that_its_word_comes_late(
    cast: Cast, gateway: Served, agent: Client, sent: Sent, tmp_path: Path, postgresql: bool
) -> None:
    go = tmp_path / "go"
    with agent.begin("git_log", **{"do": "wait", "for": str(go)}) as plain:
        assert eventually(sent)
        end_lease(gateway.gateway.instance)
        assert Bundle.objects.exists() == postgresql, "who closes it needs what authorized it, wherever that is"
        assert close_abandoned_calls() == 1
        go.touch()
        assert b" 200 " in plain.recv(100)
    assert eventually(lambda: told() == ["call.authorized", "call.outcome_unknown", "call.completed_late"])
    assert data(ledger()[-1])["ended_as"] == "call.completed"
    assert not OpenCall.objects.exists()


@pytest.mark.usefixtures("often")
def test_a_gateway_that_lost_its_lease_enters_again(cast: Cast, gateway: Served, agent: Client, clock: Clock) -> None:
    first = gateway.gateway.instance
    clock.shift(20)
    assert eventually(lambda: gateway.gateway.instance != first, within=12)
    assert "content" in agent.call("git_log")
    assert ledger("call.authorized")[-1].instance == gateway.gateway.instance


@pytest.mark.usefixtures("often")
def test_a_gateway_that_enters_again_still_ends_the_calls_it_has_open(
    cast: Cast, gateway: Served, agent: Client, sent: Sent, clock: Clock, tmp_path: Path
) -> None:
    first, go = gateway.gateway.instance, tmp_path / "go"
    with agent.begin("git_log", **{"do": "wait", "for": str(go)}) as plain:
        assert eventually(sent)
        clock.shift(20)
        # Its own housekeeping does that, too, and perhaps before it enters again.
        assert close_abandoned_calls(own=first) == 0
        assert eventually(lambda: gateway.gateway.instance != first, within=12)
        assert close_abandoned_calls() == 0
        go.touch()
        assert b" 200 " in plain.recv(100)
    assert eventually(lambda: told() == ["call.authorized", "call.completed"])
    assert not OpenCall.objects.exists()


def test_one_process_alone_ends_the_leases_of_the_dead(cast: Cast, start: Callable[..., Served]) -> None:
    dead = register_instance()
    left = open_call(cast, dead)
    served = start(alone=True)
    assert eventually(lambda: [entry.call for entry in ledger("call.outcome_unknown")] == [left.call])
    assert served.gateway.instance != dead
