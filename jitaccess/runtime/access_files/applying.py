"""Carrying a plan out: in one transaction, by the services, and only if it is still what was confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import DatabaseError, OperationalError, transaction
from django.db.models import ProtectedError

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import create_agent, set_agent_enabled
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import ApprovalPolicy, PolicyVersion, Role, RoleBinding
from jitaccess.policy.services import bind_role, end_binding, save_role
from jitaccess.runtime.access_files import server_changes
from jitaccess.runtime.access_files.documents import Reading
from jitaccess.runtime.access_files.kinds import EVERY
from jitaccess.runtime.access_files.noting import note
from jitaccess.runtime.access_files.plan import Action, Change, Plan, make_plan
from jitaccess.runtime.access_files.state import binding_key, live_bindings, read_now

_FIRST = ("team", "approval-policy", "role", "server", "agent", "binding")
_DEADLOCK = "40P01"


def look(reading: Reading, *, prune: bool) -> Plan:
    """What applying would do now. Writes nothing."""
    return make_plan(reading, read_now(), prune=prune)


def carry_out(reading: Reading, confirmed: Plan, *, prune: bool, operator: Actor) -> None:
    """Do what `confirmed` says, all of it or nothing.

    Raises Conflict("files.changed") when that is not the difference any more, and whatever a service refuses.
    """
    with _one_at_a_time():
        plan = look(reading, prune=prune)
        if plan.problems or plan.changes != confirmed.changes:
            raise Conflict(
                "files.changed",
                "Somebody changed access since this was worked out, so nothing was done. Look at the difference again.",
            )
        for change in in_order(plan.changes):
            _apply(change, operator)


def in_order(changes: Sequence[Change]) -> list[Change]:
    """What is named goes before what names it; removals the other way round, and bindings end before all else."""
    made = [change for change in changes if change.action is not Action.REMOVE]
    gone = [change for change in changes if change.action is Action.REMOVE]
    ends = sorted(gone, key=lambda change: (-_FIRST.index(change.key.kind), change.key))
    begins = sorted(made, key=lambda change: (_FIRST.index(change.key.kind), change.key))
    return [
        *(one for one in ends if one.key.kind == "binding"),
        *begins,
        *(one for one in ends if one.key.kind != "binding"),
    ]


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """A transaction in which nobody else changes policy, so that what was read stays true until the end.

    Every change of policy has to raise the version before it commits, and waits for its row; the other rows are for
    what is no policy, such as a description, and come first: who holds one of them can still finish. (On SQLite
    writers take turns anyway.)
    """
    try:
        with transaction.atomic():
            kept_still: tuple[Any, ...] = (Team, ApprovalPolicy, Role, Server, Agent)
            for model in kept_still:
                list(model.objects.select_for_update(no_key=True).order_by("pk").values_list("pk"))
            PolicyVersion.objects.select_for_update().get(pk=1)
            yield
    except ProtectedError as error:
        raise Conflict("files.in_use", f"Something to be removed is in use: {error}") from error
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != _DEADLOCK:
            raise
        raise Conflict("files.changed", "Somebody changed the same thing at this moment. Try again.") from error
    except DatabaseError as error:
        raise Conflict("files.refused", f"The database refused it, so nothing was done: {error}") from error


def _apply(change: Change, operator: Actor) -> None:
    {
        "team": _team,
        "approval-policy": _policy,
        "role": _role,
        "server": server_changes.apply,
        "agent": _agent,
        "binding": _binding,
    }[change.key.kind](change, operator)


def _team(change: Change, operator: Actor) -> None:
    if change.action is Action.CREATE:
        team = Team.objects.create(name=change.key.name)
    else:
        team = Team.objects.get(name=change.key.name)
    note(change, team, operator)
    if change.action is Action.REMOVE:
        team.delete()
    else:
        team.members.set(_people(change.after["members"]))


def _policy(change: Change, operator: Actor) -> None:
    from jitaccess.policy.policies import save_policy

    policy = ApprovalPolicy.objects.filter(name=change.key.name).first()
    save_policy(document=change.after["document"], operator=operator, policy=policy)


def _role(change: Change, operator: Actor) -> None:
    role = Role.objects.filter(name=change.key.name).first()
    if change.action is not Action.REMOVE:
        save_role(document=change.after["document"], operator=operator, role=role)
    elif role:
        note(change, role, operator)
        role.delete()


def _agent(change: Change, operator: Actor) -> None:
    name, after = change.key.name, change.after
    if change.action is Action.CREATE:
        agent = create_agent(
            name=name,
            owner=User.objects.get(username=after["owner"]),
            team=Team.objects.get(name=after["team"]),
            operator=operator,
            description=after["description"],
            users=_people(after["users"]),
        )
        if after["labels"]:
            Agent.objects.filter(pk=agent.pk).update(labels=json.dumps(after["labels"]))
            note(change, agent, operator, action="changed", only=("labels",))
    else:
        agent = Agent.objects.get(name=name)
        if change.action is Action.REMOVE:
            note(change, agent, operator)
            agent.delete()
            return
        _change_agent(agent, change, operator)
    if agent.enabled != after["enabled"]:
        set_agent_enabled(agent=agent, enabled=after["enabled"], operator=operator)


def _change_agent(agent: Agent, change: Change, operator: Actor) -> None:
    """All but `enabled`, which has events of its own."""
    changed = {name: change.after[name] for name in change.after if change.after[name] != change.before[name]}
    changed.pop("enabled", None)
    if not changed:
        return
    note(change, agent, operator, only=tuple(changed))
    if "users" in changed:
        agent.users.set(_people(changed.pop("users")))
    values: dict[str, Any] = dict(changed)
    if "owner" in values:
        values["owner"] = User.objects.get(username=values["owner"])
    if "team" in values:
        values["team"] = Team.objects.get(name=values["team"])
    if "labels" in values:
        values["labels"] = json.dumps(values["labels"])
    if values:
        Agent.objects.filter(pk=agent.pk).update(**values)


def _binding(change: Change, operator: Actor) -> None:
    """A binding is never edited: another end is another binding."""
    if change.before:
        for row in live_bindings():
            if binding_key(row) == change.key:
                end_binding(binding=row, operator=operator)
    if change.action is Action.REMOVE:
        return
    role, origin, subject = change.key.name.split(" ", 2)
    kind, _, name = subject.partition(":")
    until = change.after["until"]
    bind_role(
        role=Role.objects.get(name=role),
        origin=RoleBinding.Origin(origin),
        operator=operator,
        everyone=EVERY.get(subject, ""),
        agent=Agent.objects.get(name=name) if kind == "agent" else None,
        team=Team.objects.get(name=name) if kind == "team" else None,
        user=User.objects.get(username=name) if kind == "user" else None,
        expires_at=datetime.fromisoformat(until) if until else None,
    )


def _people(names: Sequence[str]) -> list[User]:
    return list(User.objects.filter(username__in=names))
