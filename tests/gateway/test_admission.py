"""Decided on the newest policy, recorded, and only then sent: under change, expiry, revokes, faults and dead processes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models import F

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording import batch, facts
from jitaccess.gateway.recording.admission import Admission
from jitaccess.gateway.recording.facts import Intent
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.identity.services import revoke_token
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.models import BindingUse, PolicyVersion
from jitaccess.policy.services import bind_role, end_binding, lock_uses, save_role, take_uses
from jitaccess.policy.snapshots import SnapshotStore
from requests_app.services import revoke_grant
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import ECHO, Client, Served, data, echo, eventually, ledger, refusals, settled, told
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
WRITE = """\
kind: role
version: v1
metadata: {name: write}
spec:
  allow:
    - servers: ["*"]
      access: [write]
"""


class Moving(SnapshotStore):
    """A store in whose hands policy changes: `changes` happen one at a time, each after the batch took its snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Callable[[], Any]] = []

    @property
    def current(self) -> Snapshot:
        snapshot = super().current
        if self.changes and threading.current_thread().name == "admission":
            self.changes.pop(0)()
        return snapshot


def bump() -> None:
    PolicyVersion.objects.update(version=F("version") + 1, stamp=uuid7().hex)


@pytest.fixture(autouse=True)
def by_the_batch_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are about its thread; the quick way has tests of its own."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Admission, "start_lane", nothing)


@pytest.fixture
def moving() -> Moving:
    return Moving()


@pytest.fixture
def moved(cast: Cast, start: Callable[..., Served], moving: Moving) -> Any:
    with start(store=moving).client(cast) as client:
        yield client


def transact(work: Callable[[], Any]) -> Any:
    with transaction.atomic():
        return work()


# -- policy that moves ------------------------------------------------------------------------------------------------


def test_a_change_between_decision_and_batch_is_decided_upon_again(
    cast: Cast, moving: Moving, moved: Client, sent: Sent
) -> None:
    grant = cast.grant()
    assert "content" in moved.call("git_commit")
    moving.changes = [lambda: revoke_grant(grant_id=grant.pk, user=cast.anna)]
    assert moved.refusal("git_commit") == "revoked"
    assert moving.changes == []
    moving.changes = [bump, bump]
    assert "content" in moved.call("git_log")
    assert len(sent()) == 2
    assert eventually(settled)
    assert ledger("call.authorized")[-1].policy_version == PolicyVersion.objects.get().version


def test_a_storm_of_changes_refuses_nobody(
    cast: Cast, moving: Moving, moved: Client, sent: Sent, postgresql: bool
) -> None:
    grant = cast.grant()
    moving.changes = [bump] * 10
    assert "content" in moved.call("git_log")
    moving.changes = [bump, bump] if postgresql else []  # on SQLite nothing comes between, and one try is enough
    moving.changes.append(lambda: revoke_grant(grant_id=grant.pk, user=cast.anna))
    assert moved.refusal("git_commit") == "revoked", "the last try sees what came before it"
    assert len(sent()) == 1


def test_a_batch_that_is_overtaken_in_its_last_try_is_refused_on_record(
    cast: Cast, moving: Moving, moved: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch, postgresql: bool
) -> None:
    binding = cast.limited(5)

    def overtaken(wanted: set[UUID]) -> dict[UUID, int] | None:
        race(lambda: transact(lambda: take_uses({binding.pk: 1})))  # another process, with its own connection
        return lock_uses(wanted)

    if postgresql:
        moving.changes = [bump, bump, bump]
        monkeypatch.setattr(batch, "lock_uses", overtaken)
        assert moved.refusal("git_commit") == "policy_busy"
        (entry,) = ledger()
        assert (entry.event, data(entry)["reason_code"], entry.bindings) == ("call.denied", "policy_busy", "[]")
        assert sent() == []
        monkeypatch.setattr(batch, "lock_uses", lock_uses)
        assert BindingUse.objects.get().left == 4
    assert "content" in moved.call("git_commit")


def test_a_token_that_ends_between_authentication_and_batch_is_refused(
    cast: Cast, moving: Moving, moved: Client, sent: Sent
) -> None:
    assert moved.row
    row = moved.row
    moving.changes = [lambda: revoke_token(token=row, operator=cast.operator)]
    assert moved.post(moved.message("tools/call", {"name": "git_log", "arguments": {}})).status_code == 401
    assert [(entry.event, data(entry)["reason_code"]) for entry in ledger()] == [("call.denied", "token_ended")]
    assert sent() == []


@pytest.mark.parametrize("tool", ["git_commit", "made_up"])
def test_what_is_refused_whatever_policy_says_is_told_alike_for_every_name(
    cast: Cast, moving: Moving, moved: Client, sent: Sent, tool: str
) -> None:
    assert moved.row
    row = moved.row
    moving.changes = [lambda: revoke_token(token=row, operator=cast.operator)]
    answer = moved.post(moved.message("tools/call", {"name": tool, "arguments": {}}))
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "The access token is unknown, expired or revoked."
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert sent() == []


def test_a_call_that_became_allowed_a_moment_ago_waits_for_its_server_and_is_admitted_again(
    cast: Cast, start: Callable[..., Served], moving: Moving, record: Path, sent: Sent
) -> None:
    command = f"sleep 1.1; exec {sys.executable} -I -S {ECHO} modern {record}"
    slow = StdioServer("git", "/bin/sh", ("-c", command), MappingProxyType({}), None, "modern")
    pending = cast.submit()
    with start({"git": slow}, store=moving).client(cast) as client:
        moving.changes = [lambda: cast.approve(pending)]
        assert "content" in client.call("git_commit", n=1)
    assert eventually(settled)
    assert told() == ["call.authorized", "call.not_sent", "call.authorized", "call.completed"]
    assert "second" in data(ledger()[1])["why"]
    assert len(sent()) == 1


def test_a_call_whose_grant_runs_out_while_its_server_starts_is_not_sent(
    cast: Cast, start: Callable[..., Served], moving: Moving, record: Path, clock: Clock, sent: Sent
) -> None:
    command = f"sleep 0.9; exec {sys.executable} -I -S {ECHO} modern {record}"
    slow = StdioServer("git", "/bin/sh", ("-c", command), MappingProxyType({}), None, "modern")
    pending = cast.submit(seconds=60)

    def approve_and_almost_expire() -> None:
        cast.approve(pending)
        clock.shift(59.2)

    with start({"git": slow}, store=moving).client(cast) as client:
        moving.changes = [approve_and_almost_expire]
        assert client.refusal("git_commit") == "expired"
    assert eventually(lambda: told() == ["call.authorized", "call.not_sent", "call.denied"])
    assert sent() == []


def test_a_call_that_can_never_start_in_time_is_given_up_after_three_tries(
    agent: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "FORWARD_WITHIN", 0.0)
    assert agent.refusal("git_log") == "policy_busy"
    assert eventually(settled)
    assert sorted(told()) == ["call.authorized"] * 3 + ["call.not_sent"] * 3
    assert len({entry.call for entry in ledger()}) == 3
    assert sent() == []


def test_a_call_is_decided_at_the_time_of_its_batch_and_not_when_it_came(
    cast: Cast, moving: Moving, moved: Client, clock: Clock, sent: Sent
) -> None:
    grant = cast.grant(seconds=600)
    moving.changes = [lambda: clock.at(grant.expires_at)]
    assert moved.refusal("git_commit") == "expired"
    moving.changes = [lambda: clock.at(grant.expires_at - timedelta(seconds=5))]
    assert "content" in moved.call("git_commit")
    assert len(sent()) == 1


def test_a_process_whose_lease_ends_while_it_catches_up_starts_nothing(
    moving: Moving, moved: Client, start: Callable[..., Served], sent: Sent, cast: Cast
) -> None:
    late = Moving()
    served = start(store=late)
    with served.client(cast) as client:
        late.changes = [lambda: setattr(served.gateway.admission, "lease_until", 0.0)]
        assert client.refusal("git_log") == "unavailable"
    assert sent() == []
    assert told() == []


# -- the two promises -------------------------------------------------------------------------------------------------


def test_no_call_is_authorized_or_sent_at_or_after_the_end_of_its_grant(
    cast: Cast, gateway: Served, clock: Clock, sent: Sent
) -> None:
    grant = cast.grant(seconds=60)
    with gateway.client(cast) as warm:
        warm.call("git_commit", n=-1)
    clock.at(grant.expires_at - timedelta(seconds=1))
    after: set[int] = set()
    answered: list[int] = []

    def hammer(first: int) -> None:
        try:
            with gateway.client(cast) as client:
                late = 0
                for number in range(first, first + 10_000):
                    over = clock.now() >= grant.expires_at
                    late += over
                    result = client.call("git_commit", n=number)
                    answered.append(number)
                    if over:
                        after.add(number)
                        assert result["_meta"]["io.jitaccess/deny"]["reason_code"] == "expired"
                    if late > 5:
                        return
        finally:
            connection.close()

    threads = [threading.Thread(target=hammer, args=(first,)) for first in (0, 100_000, 200_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(after) == 18
    reached = {params["arguments"]["n"] for params in sent()}
    assert not reached & after
    assert eventually(settled)
    authorized = ledger("call.authorized", tool="git_commit")
    assert authorized
    assert all(entry.at < grant.expires_at for entry in authorized)
    # One that runs at that moment is cut, whether or not its server has read it already.
    completed, cut = len(told("call.completed")), len(told("call.outcome_unknown"))
    assert completed <= len(reached) <= completed + cut
    assert len(answered) == len(authorized) + refusals() - 1 - told().count("call.not_sent")


def test_after_a_revoke_has_committed_no_process_lets_a_call_through(
    cast: Cast, start: Callable[..., Served], sent: Sent
) -> None:
    first, second = start(), start()
    write = save_role(document=WRITE, operator=cast.operator)
    trials = 100
    with first.client(cast) as one, second.client(cast) as other:
        for number in range(trials):
            binding = bind_role(role=write, agent=cast.agent, operator=cast.operator)
            assert "content" in one.call("git_add", n=number)
            if number % 10 == 0:
                assert "content" in other.call("git_add", n=number)
            end_binding(binding=binding, operator=cast.operator)
            assert other.refusal("git_add", late=number) == "no_binding"
            assert one.refusal("git_add", late=number) == "no_binding"
    assert not any("late" in params["arguments"] for params in sent())
    assert len(sent()) == trials + trials // 10
    assert refusals() == 2 * trials


def test_calls_that_race_a_revoke_go_either_way_but_never_after_it(
    cast: Cast, start: Callable[..., Served], sent: Sent
) -> None:
    first, second = start(), start()
    write = save_role(document=WRITE, operator=cast.operator)
    for trial in range(8):
        binding = bind_role(role=write, agent=cast.agent, operator=cast.operator)
        revoked = threading.Event()
        wrong: list[int] = []

        def call(served: Served, base: int, revoked: threading.Event = revoked, wrong: list[int] = wrong) -> None:
            try:
                with served.client(cast) as client:
                    for number in range(base, base + 1000):
                        committed = revoked.is_set()
                        result = client.call("git_add", n=number)
                        if committed:
                            if not result.get("isError"):
                                wrong.append(number)
                            return
            finally:
                connection.close()

        threads = [threading.Thread(target=call, args=(served, 1000 * at)) for at, served in enumerate((first, second))]
        for thread in threads:
            thread.start()
        aim = len(sent()) + 2 + trial % 3
        assert eventually(lambda aim=aim: len(sent()) >= aim)
        end_binding(binding=binding, operator=cast.operator)
        revoked.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert wrong == []
    assert eventually(settled)


# -- batches ----------------------------------------------------------------------------------------------------------


def intents(cast: Cast, client: Client, count: int) -> list[Intent]:
    assert client.row
    principal = cast.principal(token_hash=client.row.hash)
    return [Intent(principal, cast.server.pk, "git", "git_log", "sha256:x", {"n": number}) for number in range(count)]


def test_a_batch_with_one_poisoned_call_refuses_only_that_one(cast: Cast, gateway: Served, agent: Client) -> None:
    batch = intents(cast, agent, 40)
    poison = batch[17]
    OpenCall.objects.create(call=poison.call, instance=gateway.gateway.instance)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(gateway.gateway.admission.admit, batch), return_exceptions=True)

    answers = gateway.run(all_at_once())
    assert [number for number, answer in enumerate(answers) if isinstance(answer, Unavailable)] == [17]
    assert all(answer.allowed for number, answer in enumerate(answers) if number != 17)
    assert {json.dumps(data(entry)["arguments"]) for entry in ledger()} == {
        json.dumps({"n": number}) for number in range(40) if number != 17
    }  # fmt: skip
    for answer in answers[:17] + answers[18:]:
        gateway.gateway.admission.not_sent(answer, "a test")
    assert eventually(lambda: OpenCall.objects.count() == 1)
    assert "content" in agent.call("git_log")


def test_an_outcome_that_cannot_be_recorded_holds_up_no_other(cast: Cast, gateway: Served, agent: Client) -> None:
    async def admitted() -> list[Any]:
        return await asyncio.gather(*map(gateway.gateway.admission.admit, intents(cast, agent, 5)))

    answers = gateway.run(admitted())
    for number, answer in enumerate(answers):
        strange: Any = {"n": object()} if number == 2 else {"n": number}
        gateway.gateway.admission.finish(answer, Event.CALL_COMPLETED, Outcome.ALLOWED, strange)
    assert eventually(lambda: told().count("call.completed") == 4)
    assert list(OpenCall.objects.values_list("pk", flat=True)) == [answers[2].intent.call]
    assert "content" in agent.call("git_log")


def test_many_calls_at_once_each_have_their_entries(cast: Cast, gateway: Served, agent: Client) -> None:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(gateway.gateway.admission.admit, intents(cast, agent, 600)))

    answers = gateway.run(all_at_once())
    assert all(answer.allowed for answer in answers)
    assert [answer.intent.arguments["n"] for answer in answers] == list(range(600))
    for answer in answers:
        gateway.gateway.admission.finish(answer, Event.CALL_COMPLETED, Outcome.ALLOWED, {})
    assert eventually(settled)
    assert len(ledger("call.authorized")) == 600


def test_nothing_is_admitted_while_the_gateway_stops(cast: Cast, gateway: Served, agent: Client) -> None:
    intent = intents(cast, agent, 1)[0]
    gateway.gateway.admission.stop()
    with pytest.raises(Unavailable):
        gateway.run(gateway.gateway.admission.admit(intent))
    assert agent.refusal("git_log") == "unavailable"
    assert told() == []


def test_the_version_on_record_is_the_one_that_was_decided_on(cast: Cast, agent: Client) -> None:
    versions = []
    for tool in ("git_commit", "git_add", "git_reset"):
        versions.append(PolicyVersion.objects.get().version)
        agent.refusal(tool)
        agent.call("git_log")
        bump()
    recorded = [entry.policy_version for entry in ledger() if entry.event in {"call.denied", "call.authorized"}]
    assert recorded == [version for version in versions for _ in range(2)]


def test_two_gateways_serve_one_principal_and_its_session(
    cast: Cast, start: Callable[..., Served], record: Path
) -> None:
    first, second = start({"git": echo(record)}), start({"git": echo(record)})
    with first.client(cast) as client:
        client.initialize()
        client.call("git_log")
        client.url = second.url
        client.call("git_log")
    instances = {entry.instance for entry in ledger("call.authorized")}
    assert instances == {first.gateway.instance, second.gateway.instance}
