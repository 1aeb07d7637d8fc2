"""What the rows say becomes what the engine decides by: labels, constraints, approved versions, locks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.compiler import compile_snapshot, head
from jitaccess.policy.engine.decide import Code, Verdict, Who, decide
from jitaccess.policy.locks import lock, unlock
from jitaccess.policy.models import RoleBinding
from jitaccess.policy.services import bind_role, save_role
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock

pytestmark = pytest.mark.django_db(transaction=True)
WRITERS = """\
kind: role
version: v1
metadata: {name: writers}
spec:
  allow:
    - {servers: [git], tools: [git_commit, git_add]}
"""


def ask(store: SnapshotStore, cast: Cast, tool: str = "git_commit", arguments: Any = None) -> Verdict:
    now_ = head()
    who = Who(cast.agent.pk)
    return decide(store.catch_up(now_), who=who, server=cast.server.pk, tool=tool, at=now_.clock, arguments=arguments)


def granted(cast: Cast, **values: Any) -> RoleBinding:
    start = now() - timedelta(seconds=1)
    binding: RoleBinding = RoleBinding.objects.create(
        agent=cast.agent,
        origin="grant",
        origin_id=uuid7(),
        starts_at=start,
        expires_at=start + timedelta(hours=1),
        **values,
    )
    return binding


def test_labels_and_names_of_teams_are_read(cast: Cast) -> None:
    Agent.objects.update(labels='{"tier": "gold"}')
    Server.objects.update(labels='{"env": "prod"}')
    Tool.objects.filter(name="git_log").update(labels='{"data": "code"}')
    snapshot = compile_snapshot()
    assert snapshot.agents[cast.agent.pk].labels == {"tier": "gold"}
    assert snapshot.servers[cast.server.pk].labels == {"env": "prod"}
    assert snapshot.servers[cast.server.pk].tools["git_log"].labels == {"data": "code"}
    assert snapshot.servers[cast.server.pk].tools["git_add"].labels == {}
    assert snapshot.teams[cast.team.pk] == cast.team.name


@pytest.mark.parametrize("text", ["[]", '{"Env": "x"}', "{"])
def test_labels_that_cannot_be_read_stop_everything(cast: Cast, text: str) -> None:
    Server.objects.update(labels=text)
    with pytest.raises(Unavailable, match="labels of server git"):
        compile_snapshot()


def test_one_exact_call_is_allowed(cast: Cast) -> None:
    tool = cast.tools["git_commit"]
    constraint = canonical({"mode": "exact", "value": {"message": "x"}}).decode()
    granted(cast, tools=canonical({str(tool.pk): tool.pin}).decode(), arguments=constraint)
    store = SnapshotStore()
    assert ask(store, cast, arguments={"message": "x"}).allowed
    assert ask(store, cast, arguments={"message": "y"}).code is Code.OTHER_ARGUMENTS
    RoleBinding.objects.filter(origin="grant").update(arguments='{"mode": "none"}')
    with pytest.raises(Unavailable, match="arguments of a grant"):
        ask(store, cast)


def test_a_granted_role_gives_what_was_approved_and_is_still_in_it(cast: Cast) -> None:
    role = save_role(document=WRITERS, operator=OPERATOR)
    granted(cast, role=role, role_version=1)
    store = SnapshotStore()
    assert ask(store, cast).allowed
    assert ask(store, cast, "git_add").allowed
    save_role(document=WRITERS.replace("git_add", "git_reset"), operator=OPERATOR, role=role)
    assert ask(store, cast).allowed
    assert not ask(store, cast, "git_add").allowed, "it has gone from the role"
    assert not ask(store, cast, "git_reset").allowed, "it came after the approval"


def test_a_ceiling_binds(cast: Cast) -> None:
    store, role = SnapshotStore(), save_role(document=WRITERS, operator=OPERATOR)
    assert ask(store, cast, "git_log").allowed
    bind_role(role=role, agent=cast.agent, origin=RoleBinding.Origin.CEILING, operator=OPERATOR)
    assert not ask(store, cast, "git_log").allowed
    assert not ask(store, cast, "git_commit").allowed, "a ceiling gives nothing"


def test_a_lock_binds_at_the_next_call_and_ends_by_itself(cast: Cast, clock: Clock) -> None:
    store = SnapshotStore()
    made = lock(kind="agent", target=cast.agent.pk, reason="odd", operator=OPERATOR)
    assert ask(store, cast, "git_log").code is Code.LOCKED_DOWN
    assert ask(store, cast, "git_log").rule == f"the lock on agent {cast.agent.name}: odd"
    unlock(lock=made, operator=OPERATOR)
    assert ask(store, cast, "git_log").allowed
    lock(kind="everything", reason="odd", operator=OPERATOR, expires_at=now() + timedelta(minutes=5))
    assert not ask(store, cast, "git_log").allowed
    version = head().version
    clock.shift(301)
    assert ask(store, cast, "git_log").allowed
    assert head().version == version, "the clock alone ended it"


def test_a_locked_role_and_a_locked_grant_give_nothing(cast: Cast) -> None:
    store, role = SnapshotStore(), save_role(document=WRITERS, operator=OPERATOR)
    binding = granted(cast, role=role, role_version=1)
    assert ask(store, cast).allowed
    on_role = lock(kind="role", target=role.pk, reason="odd", operator=OPERATOR)
    assert ask(store, cast).code is Code.LOCKED_DOWN
    unlock(lock=on_role, operator=OPERATOR)
    assert ask(store, cast).allowed
    lock(kind="grant", target=UUID(str(binding.origin_id)), reason="odd", operator=OPERATOR)
    assert ask(store, cast).code is Code.LOCKED_DOWN
