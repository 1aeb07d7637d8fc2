"""Grants that are good for a number of calls: exactly so many, however many ask at once, in however many processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitaccess.gateway.recording import facts
from jitaccess.identity.services import revoke_token
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import BindingUse
from requests_app import tasks
from requests_app.models import AccessRequest, Grant
from requests_app.tasks import end_used_up_grants
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, echo, eventually, ledger, refusals, settled, told
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]


def test_a_grant_for_a_number_of_calls_is_over_after_the_last(cast: Cast, agent: Client, sent: Sent) -> None:
    cast.requestable.max_uses = 5
    cast.requestable.save()
    filed = agent.use("request_access", tools=["git_commit"], reason="three of them", max_uses=3)
    assert filed["max_uses"] == 3
    cast.approve(AccessRequest.objects.get())
    for left in (3, 2, 1):
        assert agent.use("check_request", request_id=filed["request_id"])["grant"]["calls_left"] == left
        assert not agent.tools()["git_commit"].startswith("[LOCKED")
        assert "content" in agent.call("git_commit")
    assert agent.tools()["git_commit"].startswith("[LOCKED"), "the list says what a call would be told"
    assert agent.refusal("git_commit") == "used_up"
    assert "content" in agent.call("git_log"), "what a role allows is not counted"
    assert len(sent()) == 4
    assert agent.use("request_access", tools=["git_commit"], reason="more")["max_uses"] == 5
    assert agent.call("request_access", tools=["git_add"], reason="x", max_uses=6)["isError"]


def test_another_grant_goes_on_where_one_is_used_up(cast: Cast, agent: Client, sent: Sent) -> None:
    first = cast.limited(1)
    BindingUse.objects.update(left=0)
    second = cast.limited(2)
    for number in range(2):
        assert "content" in agent.call("git_commit", n=number)
    assert agent.refusal("git_commit") == "used_up"
    assert [json.loads(entry.bindings) for entry in ledger("call.authorized")] == [[str(second.pk)]] * 2
    assert BindingUse.objects.get(binding=first).left == 0


def test_parallel_calls_in_two_processes_are_allowed_exactly_as_often_as_was_approved(
    cast: Cast, start: Callable[..., Served], sent: Sent
) -> None:
    first, second = start(), start()
    cast.limited(7)
    with first.client(cast) as one, second.client(cast) as other:
        answers = race(
            *(lambda client=client, n=n: client.call("git_commit", n=n) for n in range(12) for client in (one, other))
        )
    refused = [answer for answer in answers if answer.get("isError")]
    assert len(refused) == 17
    assert {answer["_meta"]["io.jitaccess/deny"]["reason_code"] for answer in refused} == {"used_up"}
    assert len(sent()) == len(ledger("call.authorized")) == 7
    assert refusals() == 17
    assert BindingUse.objects.get().left == 0


def test_a_call_that_was_not_sent_gives_its_use_back(
    cast: Cast, agent: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast.limited(1)
    monkeypatch.setattr(facts, "FORWARD_WITHIN", 0.0)
    assert agent.refusal("git_commit") == "policy_busy"
    assert told().count("call.authorized") == 3, "each try had the use that the one before gave back"
    monkeypatch.undo()
    assert eventually(settled)
    assert "content" in agent.call("git_commit")
    assert agent.refusal("git_commit") == "used_up"
    assert len(sent()) == 1


def test_a_refused_call_uses_nothing(cast: Cast, gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    cast.limited(1)
    with gateway.client(cast) as client:
        assert client.row
        admit, row = gateway.gateway.admission.admit, client.row

        async def revoked_meanwhile(intent: Any) -> Any:
            await asyncio.to_thread(race, lambda: revoke_token(token=row, operator=cast.operator))
            return await admit(intent)

        monkeypatch.setattr(gateway.gateway.admission, "admit", revoked_meanwhile)
        answer = client.post(client.message("tools/call", {"name": "git_commit", "arguments": {}}))
        assert answer.status_code == 401
    assert BindingUse.objects.get().left == 1


def test_a_used_up_grant_is_ended_on_record_once_no_use_can_come_back(cast: Cast, agent: Client, clock: Clock) -> None:
    cast.limited(1)
    agent.call("git_commit")
    assert end_used_up_grants() == 0
    clock.shift(31)
    assert end_used_up_grants() == 1
    assert Grant.objects.get().end_reason == "used_up"
    assert told("grant.used_up") == ["grant.used_up"]
    assert agent.refusal("git_commit") == "used_up", "still the true reason, now that it has ended"


def test_a_use_that_came_back_keeps_its_grant_from_being_ended(
    cast: Cast, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = cast.limited(1)
    BindingUse.objects.update(left=0, used_at=clock.now())
    clock.shift(31)
    assert binding.origin_id
    monkeypatch.setattr(tasks, "used_up_grants", lambda **_: [binding.origin_id])
    BindingUse.objects.update(left=1)
    end_used_up_grants()
    assert Grant.objects.get().ended_at is None


def test_a_call_of_a_server_that_does_not_start_uses_nothing(
    cast: Cast, start: Callable[..., Served], record: Path, sent: Sent
) -> None:
    cast.limited(1)
    broken = start({"git": echo(record, "--exit")})
    with broken.client(cast) as client:
        assert client.call("git_commit")["_meta"]["io.jitaccess/upstream_error"]["sent"] is False
    assert eventually(settled)
    assert told() == ["call.authorized", "call.failed"]
    assert BindingUse.objects.get().left == 1
    with start().client(cast) as client:
        assert "content" in client.call("git_commit")
        assert client.refusal("git_commit") == "used_up"
    assert len(sent()) == 1


def test_a_stricter_limit_of_calls_voids_what_was_asked_before(cast: Cast) -> None:
    request = cast.submit()
    cast.requestable.max_uses = 2
    cast.requestable.save()
    with pytest.raises(Conflict, match="so often"):
        cast.approve(request)
    assert AccessRequest.objects.get().status == "invalidated"
    assert not Grant.objects.exists()
