"""The engine against the model in random worlds: some 100,000 decisions in the default profile."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jitaccess.policy.engine.decide import Code, Verdict, Visibility, Who, decide, next_edge, visibility
from jitaccess.policy.engine.listing import listed_tools
from jitaccess.policy.engine.rules import Snapshot
from tests.policy import model
from tests.policy.worlds import CALLS, HORIZON, NAMES, moment, random_world, seconds, snapshot_of

DECISIONS = {"total": 0, "allowed": 0, "for a user": 0, "by grant": 0, "other arguments": 0, "locked": 0, "stubs": 0}
PARTS = ("agents", "users", "servers", "bindings", "requestables", "spent", "locks", "teams", "roles")


@settings(max_examples=settings.default.max_examples)
@given(seed=st.integers(0, 2**48), size=st.integers(1, 3))
def test_the_engine_decides_as_the_model_does(seed: int, size: int) -> None:
    random = Random(seed)
    world = random_world(random, size)
    snapshot = snapshot_of(world, random)
    by_id = {UUID(int=binding.id): binding for binding in world.bindings}
    stranger = [size + 1] if random.random() < 0.2 else []
    for at in random.sample(range(-1, HORIZON + 2), 7):
        for agent in (*world.agents, *stranger):
            for user in (None, *world.users, *stranger):
                for server in (*world.servers, *stranger):
                    _check_server(world, snapshot, agent, user, server, at, by_id, random)


def _check_server(
    world: model.World,
    snapshot: Snapshot,
    agent: int,
    user: int | None,
    server: int,
    at: int,
    by_id: dict[UUID, model.Binding],
    random: Random,
) -> None:
    who = Who(UUID(int=agent), UUID(int=user) if user else None)
    listed = {}
    for name in NAMES:
        with_arguments = random.choice(CALLS)
        for arguments in (None, with_arguments):
            verdict = decide(snapshot, who=who, server=UUID(int=server), tool=name, at=moment(at), arguments=arguments)
            allowed = model.allowed(world, agent, user, server, name, at, arguments)
            assert verdict.allowed is allowed, (verdict, arguments, world)
            listed.setdefault(name, verdict)
        DECISIONS["total"] += 1
        DECISIONS["other arguments"] += verdict.code is Code.OTHER_ARGUMENTS
        DECISIONS["locked"] += verdict.code is Code.LOCKED_DOWN
        # What other arguments would do is in the list, and what is not in the list is never allowed.
        assert (verdict.code is Code.OTHER_ARGUMENTS) <= (visibility(listed[name]) is not Visibility.HIDDEN)
        assert verdict.allowed <= listed[name].allowed
        if verdict.allowed:
            DECISIONS["allowed"] += 1
            DECISIONS["for a user"] += user is not None
            DECISIONS["by grant"] += verdict.grant is not None
            _check_bindings(verdict, world.servers[server], name, agent, user, at, by_id, with_arguments)
        else:
            assert verdict.bindings == ()
        if verdict.tool and random.random() < 0.2:
            _check_interval(snapshot, verdict, who, server, name, at, random, with_arguments)
    facts = snapshot.servers.get(UUID(int=server))
    if facts:
        _check_list(snapshot, listed, who, facts, at)


def _check_bindings(
    verdict: Verdict,
    server: model.Server,
    name: str,
    agent: int,
    user: int | None,
    at: int,
    by_id: dict[UUID, model.Binding],
    arguments: model.Arguments | None,
) -> None:
    """An allowed call names the live bindings that allow it: the grant, or the agent's (and the user's) own."""
    tool = next(tool for tool in server.tools if tool.name == name)
    named = [by_id[binding] for binding in verdict.bindings]
    ask = model.Ask(user, server, tool, at, arguments)
    assert all(binding.live(at) and model.allows(binding, ask) for binding in named)
    if verdict.grant:
        (granted,) = named
        assert granted.whose == (("pair", agent, user) if user else ("agent", agent))
        return
    assert named[0].whose in {("agent", agent), ("agents",)}
    assert len(named) == (2 if user else 1)
    if user:
        assert named[1].whose[0] in {"user", "team", "users"}


def _check_interval(
    snapshot: Snapshot,
    verdict: Verdict,
    who: Who,
    server: int,
    name: str,
    at: int,
    random: Random,
    arguments: model.Arguments | None,
) -> None:
    """From `since` until just before `until` the answer is the same."""
    edge = next_edge(snapshot, who=who, at=moment(at))
    assert verdict.since <= moment(at) < verdict.until <= edge
    assert verdict.until in {edge, moment(at + 1)}
    first = max(seconds(verdict.since), -5.0) if verdict.since.year > 1 else -5.0
    last = seconds(verdict.until) - 0.000001 if verdict.until.year < 9999 else HORIZON + 5.0
    for point in (first, last, random.uniform(first, last)):
        again = decide(snapshot, who=who, server=UUID(int=server), tool=name, at=moment(point), arguments=arguments)
        assert (again.allowed, again.bindings) == (verdict.allowed, verdict.bindings), (point, verdict, again)


def _check_list(snapshot: Snapshot, verdicts: dict[str, Verdict], who: Who, server, at: int) -> None:
    """The list says of each tool what a call would be told: callable, to be asked for, or not there."""
    listed = listed_tools(snapshot, who=who, server=server, at=moment(at))
    told = {name: visibility(verdict) for name, verdict in verdicts.items()}
    DECISIONS["stubs"] += sum(one.visibility is Visibility.LOCKED for one in listed)
    assert {one.tool.name: one.visibility for one in listed} == {
        name: seen for name, seen in told.items() if seen is not Visibility.HIDDEN
    }
    assert [one.tool.name for one in listed] == sorted(one.tool.name for one in listed)
    assert all(one.requestable == verdicts[one.tool.name].requestable for one in listed)


@settings(max_examples=max(settings.default.max_examples // 2, 1))
@given(seed=st.integers(0, 2**48), size=st.integers(1, 3))
@example(seed=800548903, size=1)  # a grant that was revoked before it started
def test_what_is_kept_from_one_version_to_the_next_decides_nothing_otherwise(seed: int, size: int) -> None:
    """Versions that differ in any part, asked in any order, against the same ones that remember nothing."""
    random = Random(seed)
    versions = [snapshot_of(random_world(random, size), random) for _ in range(2)]
    memo: dict[object, object] = {}
    for _ in range(4):
        one, other = random.sample(versions, 2)
        changed = {name: getattr(other, name) for name in random.sample(PARTS, random.randint(1, 2))}
        if "spent" in changed:
            changed["spent"] = frozenset(UUID(int=number) for number in range(1, 5 * size) if random.random() < 0.5)
        versions.append(replace(one, **changed))
    whose = [Who(UUID(int=agent), user) for agent in range(1, size + 1) for user in (None, UUID(int=size))]
    instants = random.sample(range(HORIZON), 3)
    for _ in range(100):
        remembers = replace(random.choice(versions), memo=memo)
        forgets = replace(remembers, memo={})
        who, server, at = random.choice(whose), UUID(int=random.randint(1, 2)), moment(random.choice(instants))
        asked = {
            "who": who,
            "server": server,
            "at": at,
            "tool": random.choice(NAMES),
            "arguments": random.choice(CALLS),
        }
        for _ in range(2):
            assert decide(remembers, **asked) == decide(forgets, **asked)
        assert next_edge(remembers, who=who, at=at) == next_edge(forgets, who=who, at=at)
        if facts := remembers.servers.get(server):
            lists = [listed_tools(one, who=who, server=facts, at=at) for one in (remembers, forgets)]
            assert lists[0] == lists[1]


def test_the_worlds_hold_every_kind_of_case() -> None:
    """Guards the property above against worlds in which nothing is ever allowed."""
    before = dict(DECISIONS)
    for seed in range(40):
        test_the_engine_decides_as_the_model_does.hypothesis.inner_test(seed=seed, size=1 + seed % 3)
    found = {kind: DECISIONS[kind] - before[kind] for kind in DECISIONS}
    assert found["total"] > 5_000
    assert found["allowed"] > found["total"] / 40
    assert found["for a user"] > 50
    assert found["by grant"] > 25
    assert found["other arguments"] > 15
    assert found["locked"] > 50
    assert found["stubs"] > 100
