"""One example for each code of a verdict, and for each part of the rule that a reader could get wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.decide import (
    END_OF_TIME,
    START_OF_TIME,
    Code,
    Verdict,
    Visibility,
    Who,
    decide,
    visibility,
)
from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    AgentFacts,
    BindingFacts,
    GrantedTool,
    Origin,
    RequestableFacts,
    RoleFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
    UserFacts,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AGENT, OLGA, ANNA, TEAM, OTHERS, GIT, POLICY = (UUID(int=number) for number in range(1, 8))
ALONE, FOR_OLGA, FOR_ANNA = Who(AGENT), Who(AGENT, OLGA), Who(AGENT, ANNA)


def rule(*, servers=("*",), tools=(), access=()) -> RoleRule:
    return RoleRule(1, PatternSet(servers), PatternSet(tools), frozenset(access))


def role(*allow: RoleRule, deny: tuple[RoleRule, ...] = (), name: str = "some") -> RoleFacts:
    return RoleFacts(name, 3, allow, deny)


def binding(number: int, facts: RoleFacts | None = None, **changes) -> BindingFacts:
    base = BindingFacts(UUID(int=number), Origin.STANDING, facts, {}, NOW - HOUR, None, None)
    return replace(base, **changes)


def grant(number: int, **changes) -> BindingFacts:
    tools = {TOOLS["git_commit"].id: GrantedTool(TOOLS["git_commit"].id, "pin")}
    values = {"origin": Origin.GRANT, "tools": tools, "expires_at": NOW + HOUR, "grant": UUID(int=number + 500)}
    return binding(number, **(values | changes))


TOOLS = {
    name: ToolFacts(UUID(int=20 + number), name, access, "pin", quarantined, "{}")
    for number, (name, access, quarantined) in enumerate(
        [
            ("git_log", "read", False),
            ("git_commit", "write", False),
            ("git_new", "read", True),
            ("git_odd", "other", True),
        ]
    )
}
REQUESTABLE = RequestableFacts(UUID(int=9), GIT, None, PatternSet([]), frozenset({"write"}), 3600, POLICY)
READERS = role(rule(access=["read"]), name="read-only")


def world(bindings=None, **changes) -> Snapshot:
    standard = {EVERY_AGENT: (binding(101, READERS),), EVERY_USER: (binding(102, READERS),)}
    values = {
        "version": 7,
        "agents": {AGENT: AgentFacts(AGENT, "demo-agent", True, OLGA, TEAM, frozenset())},
        "users": {
            OLGA: UserFacts(OLGA, "olga", True, frozenset({TEAM})),
            ANNA: UserFacts(ANNA, "anna", True, frozenset({TEAM})),
        },
        "servers": {GIT: ServerFacts(GIT, "git", True, "", frozenset({TEAM}), TOOLS)},
        "bindings": standard | (bindings or {}),
        "requestables": (REQUESTABLE,),
    }
    return Snapshot(**(values | changes))


def ask(snapshot: Snapshot, tool: str = "git_commit", *, who: Who = ALONE, at: datetime = NOW) -> Verdict:
    return decide(snapshot, who=who, server=GIT, tool=tool, at=at)


def test_allowed_names_the_binding_and_the_rule() -> None:
    verdict = ask(world(), "git_log")
    assert verdict.code is Code.ALLOWED
    assert verdict.bindings == (UUID(int=101),)
    assert verdict.rule == "role read-only@3, allow rule 1"
    assert (verdict.since, verdict.until) == (NOW - HOUR, END_OF_TIME)
    assert visibility(verdict) is Visibility.VISIBLE


def test_for_a_user_both_bindings_of_the_intersection_are_named() -> None:
    assert ask(world(), "git_log", who=FOR_OLGA).bindings == (UUID(int=101), UUID(int=102))


def test_an_agent_never_reads_what_its_user_cannot() -> None:
    snapshot = world({EVERY_USER: ()})
    assert ask(snapshot, "git_log").allowed
    assert ask(snapshot, "git_log", who=FOR_OLGA).code is Code.UNKNOWN


def test_no_binding_says_what_could_be_asked_for() -> None:
    verdict = ask(world())
    assert verdict.code is Code.NO_BINDING
    assert verdict.requestable is REQUESTABLE
    assert verdict.bindings == ()
    assert visibility(verdict) is Visibility.LOCKED


@pytest.mark.parametrize("tool", ["git_log", "git_none"])
def test_what_is_neither_allowed_nor_requestable_is_unknown_like_what_does_not_exist(tool: str) -> None:
    verdict = ask(world({EVERY_AGENT: ()}), tool)
    assert verdict.code is Code.UNKNOWN
    assert visibility(verdict) is Visibility.HIDDEN


def test_a_grant_ends_at_its_instant_and_the_refusal_says_expired() -> None:
    snapshot = world({Subject(agent=AGENT): (grant(1),)})
    before, at_end = ask(snapshot, at=NOW + HOUR - timedelta(microseconds=1)), ask(snapshot, at=NOW + HOUR)
    assert before.allowed
    assert before.grant == UUID(int=501)
    assert before.until == NOW + HOUR
    assert at_end.code is Code.EXPIRED
    assert at_end.grant == UUID(int=501)
    assert at_end.since == NOW + HOUR


def test_a_grant_does_not_count_before_it_starts() -> None:
    snapshot = world({Subject(agent=AGENT): (grant(1, starts_at=NOW + timedelta(minutes=1)),)})
    assert ask(snapshot).code is Code.NO_BINDING
    assert ask(snapshot).until == NOW + timedelta(minutes=1)
    assert ask(snapshot, at=NOW + timedelta(minutes=1)).allowed


def test_an_early_end_says_revoked_and_the_latest_end_counts() -> None:
    early = grant(1, ended_at=NOW - timedelta(minutes=5))
    older = grant(2, starts_at=NOW - 3 * HOUR, expires_at=NOW - 2 * HOUR)
    snapshot = world({Subject(agent=AGENT): (early, older)})
    assert ask(snapshot).code is Code.REVOKED
    assert ask(snapshot).grant == UUID(int=501)


@pytest.mark.parametrize("tool", ["git_new"])
def test_a_tool_awaiting_review_is_refused_and_told_to_those_who_know_it(tool: str) -> None:
    assert ask(world(), tool).code is Code.QUARANTINED
    assert ask(world(), tool).requestable is None
    assert ask(world(), "git_odd").code is Code.UNKNOWN, "to anybody else it does not exist"


def test_a_grant_holds_for_the_pin_that_was_approved_only() -> None:
    stale = {TOOLS["git_commit"].id: GrantedTool(TOOLS["git_commit"].id, "an older pin")}
    assert not ask(world({Subject(agent=AGENT): (grant(1, tools=stale),)})).allowed


@pytest.mark.parametrize(
    "subject", [Subject(agent=AGENT), Subject(user=OLGA), Subject(team=TEAM), EVERY_AGENT, EVERY_USER]
)
def test_a_deny_rule_of_either_beats_every_allow_and_every_grant(subject: Subject) -> None:
    deny = binding(9, role(rule(access=["write", "read"]), deny=(rule(tools=["git_*"]),), name="no"))
    snapshot = world({Subject(agent=AGENT, user=OLGA): (grant(1),), subject: (deny,)})
    verdict = ask(snapshot, who=FOR_OLGA)
    assert verdict.code is Code.NOT_REQUESTABLE
    assert verdict.rule == "role no@3, deny rule 1"
    assert verdict.requestable is None
    assert visibility(verdict) is Visibility.HIDDEN


def test_an_ended_deny_rule_denies_nothing() -> None:
    deny = binding(9, role(deny=(rule(tools=["*"]),)), ended_at=NOW - HOUR)
    assert ask(world({Subject(agent=AGENT): (deny,)}), "git_log").allowed


@pytest.mark.parametrize(("who", "allowed"), [(ALONE, False), (FOR_OLGA, True), (FOR_ANNA, False)])
def test_a_grant_lifts_exactly_its_pair(who: Who, allowed: bool) -> None:
    agents = {AGENT: AgentFacts(AGENT, "demo-agent", True, OLGA, TEAM, frozenset({ANNA}))}
    snapshot = world({Subject(agent=AGENT, user=OLGA): (grant(1),)}, agents=agents)
    assert ask(snapshot, who=who).allowed is allowed


def test_a_grant_to_the_agent_alone_does_not_count_when_it_acts_for_a_user() -> None:
    snapshot = world({Subject(agent=AGENT): (grant(1),)})
    assert ask(snapshot).allowed
    assert not ask(snapshot, who=FOR_OLGA).allowed


def test_locked_down_agents_and_users_are_told_so() -> None:
    disabled = world(agents={AGENT: AgentFacts(AGENT, "demo-agent", False, OLGA, TEAM, frozenset())})
    assert ask(disabled, "git_log").code is Code.LOCKED_DOWN
    assert ask(world(), "git_log", who=FOR_ANNA).code is Code.LOCKED_DOWN, "anna may not use this agent"
    assert ask(world(), "git_log", who=Who(AGENT, UUID(int=99))).code is Code.LOCKED_DOWN
    assert ask(world(), "git_log", who=Who(UUID(int=99))).code is Code.LOCKED_DOWN
    inactive = world(users={OLGA: UserFacts(OLGA, "olga", False, frozenset({TEAM}))})
    assert ask(inactive, "git_log", who=FOR_OLGA).code is Code.LOCKED_DOWN
    assert ask(inactive, "git_log").code is Code.LOCKED_DOWN, "its owner answers for it"


@pytest.mark.parametrize(
    "server",
    [
        ServerFacts(GIT, "git", False, "", None, TOOLS),
        ServerFacts(GIT, "git", True, "", frozenset(), TOOLS),
        ServerFacts(GIT, "git", True, "", frozenset({OTHERS}), TOOLS),
    ],
)
def test_a_server_that_is_off_or_another_teams_does_not_exist(server: ServerFacts) -> None:
    snapshot = world({Subject(agent=AGENT): (grant(1),)}, servers={GIT: server})
    assert ask(snapshot, "git_log").code is Code.UNKNOWN
    assert ask(snapshot, "git_commit").code is Code.UNKNOWN, "no grant reaches beyond the ceiling"


def test_the_ceiling_holds_for_the_user_too() -> None:
    outside = world(users={OLGA: UserFacts(OLGA, "olga", True, frozenset({OTHERS}))})
    assert ask(outside, "git_log", who=FOR_OLGA).code is Code.UNKNOWN
    assert ask(outside, "git_log").allowed


def test_a_requestable_of_another_team_is_none() -> None:
    assert ask(world(requestables=(replace(REQUESTABLE, team=OTHERS),))).code is Code.UNKNOWN
    assert ask(world(requestables=(replace(REQUESTABLE, team=TEAM),))).code is Code.NO_BINDING


def test_every_process_names_the_same_binding() -> None:
    twins = (binding(7, READERS), binding(5, READERS), binding(6, READERS, starts_at=NOW - 2 * HOUR))
    for order in (twins, twins[::-1]):
        assert ask(world({EVERY_AGENT: order}), "git_log").bindings == (UUID(int=6),)


def test_without_any_binding_the_answer_holds_for_ever() -> None:
    verdict = ask(world({EVERY_AGENT: (), EVERY_USER: ()}))
    assert (verdict.since, verdict.until) == (START_OF_TIME, END_OF_TIME)
