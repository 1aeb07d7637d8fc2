"""One example for each thing that limits or adds to rights: conditions, arguments, ceilings, locks, pinned versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from jitaccess.policy.engine.arguments import arguments_digest, parse_constraint
from jitaccess.policy.engine.conditions import compile_condition
from jitaccess.policy.engine.decide import (
    END_OF_TIME,
    Code,
    Kind,
    Verdict,
    Visibility,
    Who,
    decide,
    next_edge,
    visibility,
)
from jitaccess.policy.engine.explain import Part, explain
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    VARIABLES,
    BindingFacts,
    LockFacts,
    LockKind,
    Origin,
    RoleFacts,
    Snapshot,
    Subject,
)
from tests.policy.engine.test_decide import (
    AGENT,
    ALONE,
    FOR_OLGA,
    GIT,
    HOUR,
    NOW,
    OLGA,
    READERS,
    TEAM,
    TOOLS,
    binding,
    grant,
    role,
    rule,
    world,
)

ROLE = UUID(int=300)
MINE = Subject(agent=AGENT)


def ask(snapshot: Snapshot, arguments: Any = None, *, tool: str = "git_commit", who: Who = ALONE) -> Verdict:
    return decide(snapshot, who=who, server=GIT, tool=tool, at=NOW, arguments=arguments)


def where(text: str, **changes: Any) -> Any:
    return replace(rule(tools=["git_*"], **changes), where=compile_condition(text, variables=VARIABLES))


def exact(value: dict[str, Any]) -> Any:
    return parse_constraint({"mode": "exact", "value": value})


def having(*bindings: BindingFacts, **changes: Any) -> Snapshot:
    return world({MINE: bindings}, **changes)


# -- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_is_asked_about_each_call_and_the_list_shows_what_some_call_may_do() -> None:
    snapshot = having(binding(1, role(where('args.message.startsWith("fix")'))))
    assert ask(snapshot).allowed
    assert ask(snapshot, {"message": "fix it"}).allowed
    refused = ask(snapshot, {"message": "break it"})
    assert refused.code is Code.OTHER_ARGUMENTS
    assert refused.rule == 'role some@3, allow rule 1: the condition args.message.startsWith("fix") is false'
    assert refused.requestable is not None
    assert ask(snapshot, {}).code is Code.OTHER_ARGUMENTS, "a condition without an answer is not satisfied"


def test_a_deny_rule_whose_condition_has_no_answer_denies() -> None:
    open_ = role(rule(tools=["git_*"]), deny=(where('args.message == "secret"'),))
    snapshot = having(binding(1, open_))
    assert ask(snapshot, {"message": "x"}).allowed
    assert ask(snapshot).allowed, "some arguments are not denied"
    for arguments in ({"message": "secret"}, {}, {"message": ["x"] * 101}):
        assert ask(snapshot, arguments).code is Code.OTHER_ARGUMENTS
    always = having(binding(1, replace(open_, deny=(where("1 / 0 == 1"),))))
    assert ask(always, {"message": "x"}).code is Code.NOT_REQUESTABLE
    assert visibility(ask(always)) is Visibility.HIDDEN


def test_a_condition_knows_the_principal_the_server_and_the_tool() -> None:
    text = (
        'principal.agent == "demo-agent" && principal.agent_labels.tier == "gold" && principal.agent_team == "core" && '
        'principal.owner == "olga" && principal.user == "olga" && "core" in principal.user_teams && '
        'server.name == "git" && server.labels.env == "prod" && tool.name == "git_commit" && '
        'tool.access == "write" && tool.labels.data == "code" && resource == "" && prompt == ""'
    )
    base = world()
    tools = TOOLS | {"git_commit": replace(TOOLS["git_commit"], labels={"data": "code"})}
    labelled: dict[str, Any] = {
        "agents": {AGENT: replace(base.agents[AGENT], labels={"tier": "gold"})},
        "servers": {GIT: replace(base.servers[GIT], labels={"env": "prod"}, tools=tools)},
        "teams": {TEAM: "core"},
    }
    held = role(where(text))
    both = {MINE: (binding(1, held),), Subject(user=OLGA): (binding(2, held),)}
    assert ask(world(both, **labelled), {}, who=FOR_OLGA).allowed
    assert not ask(world(both, **(labelled | {"teams": {TEAM: "other"}})), {}, who=FOR_OLGA).allowed
    assert not ask(world(both, **labelled), {}).allowed, "alone there is no user"


def test_a_condition_about_the_time_is_asked_again_after_a_second() -> None:
    snapshot = having(binding(1, role(where("time.getHours() == 12"))))
    verdict = ask(snapshot, {})
    assert verdict.allowed
    assert (verdict.since, verdict.until) == (NOW, NOW + timedelta(seconds=1))
    assert next_edge(snapshot, who=ALONE, at=NOW) == NOW + timedelta(seconds=10), "a list may be later"
    assert not decide(snapshot, who=ALONE, server=GIT, tool="git_commit", at=NOW + HOUR, arguments={}).allowed
    assert next_edge(having(), who=ALONE, at=NOW) == END_OF_TIME


# -- arguments --------------------------------------------------------------------------------------------------------


def test_one_exact_call_is_allowed_in_any_order_of_its_keys_and_no_other() -> None:
    given = {"message": "x", "amend": False}
    snapshot = having(grant(1, arguments=exact(given), max_uses=1))
    assert ask(snapshot, {"amend": False, "message": "x"}).allowed
    assert ask(snapshot, given).counted == UUID(int=1)
    other = ask(snapshot, {"message": "x", "amend": True})
    assert other.code is Code.OTHER_ARGUMENTS
    assert other.rule.endswith("the arguments differ at /amend")
    assert other.grant == UUID(int=501)
    assert other.requestable is not None, "it can be asked for"
    assert visibility(ask(snapshot)) is Visibility.VISIBLE


def test_a_second_use_is_used_up_and_another_call_never_was_granted() -> None:
    snapshot = having(grant(1, arguments=exact({"message": "x"}), max_uses=1), spent=frozenset({UUID(int=1)}))
    assert ask(snapshot, {"message": "x"}).code is Code.USED_UP
    assert ask(snapshot, {"message": "y"}).code is Code.NO_BINDING


def test_a_changed_tool_is_not_what_was_approved() -> None:
    tools = TOOLS | {"git_commit": replace(TOOLS["git_commit"], pin="another")}
    servers = {GIT: replace(world().servers[GIT], tools=tools)}
    assert ask(having(grant(1, arguments=exact({})), servers=servers), {}).code is Code.NO_BINDING


def test_what_is_good_for_nothing_else_is_used_first_and_what_costs_nothing_before_that() -> None:
    given = {"message": "x"}
    counted, narrow = grant(1, max_uses=5), grant(2, arguments=exact(given), max_uses=1)
    assert ask(having(counted, narrow), given).counted == UUID(int=2)
    assert ask(having(counted, narrow), {"message": "y"}).counted == UUID(int=1)
    assert ask(having(counted, narrow, grant(3)), given).counted is None


def test_the_digest_that_is_given_is_the_one_that_counts() -> None:
    snapshot, given = having(grant(1, arguments=exact({"a": 1}))), {"a": 1}
    answers = [
        decide(snapshot, who=ALONE, server=GIT, tool="git_commit", at=NOW, arguments=given, digest=digest).allowed
        for digest in (arguments_digest(given), "sha256:other")
    ]
    assert answers == [True, False]


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "tool", "allowed", "denied"),
    [
        ({}, {}, False, False),
        ({"data": "pii"}, {}, True, True),
        ({}, {"data": "pii"}, True, True),
        ({"data": "pii"}, {"data": "public"}, False, True),
        ({"data": "public"}, {"data": "pii"}, True, True),
    ],
)
def test_data_labels_are_the_tools_before_the_servers_and_deny_from_either(
    server: dict[str, str], tool: dict[str, str], allowed: bool, denied: bool
) -> None:
    tools = {"git_commit": replace(TOOLS["git_commit"], labels=tool)}
    servers = {GIT: replace(world().servers[GIT], labels=server, tools=tools)}
    text = "kind: role\nversion: v1\nmetadata: {name: pii}\nspec:\n  %s:\n    - {servers: ['*'], labels: {data: pii}}\n"
    allow, deny = (parse_role(text % kind).facts for kind in ("allow", "deny"))
    assert ask(having(binding(1, allow), servers=servers), {}).allowed is allowed
    both = having(binding(1, role(rule(tools=["*"]))), binding(2, deny), servers=servers)
    assert ask(both, {}).allowed is not denied


# -- ceilings ---------------------------------------------------------------------------------------------------------

CEILING = binding(50, role(rule(access=["read"]), name="readers-only"), origin=Origin.CEILING)


@pytest.mark.parametrize("place", [MINE, EVERY_AGENT, Subject(user=OLGA), Subject(team=TEAM), EVERY_USER])
def test_nothing_that_anybody_grants_is_beyond_a_ceiling(place: Subject) -> None:
    snapshot = world({Subject(agent=AGENT, user=OLGA): (grant(1),), place: (CEILING,)})
    verdict = ask(snapshot, {}, who=FOR_OLGA)
    assert verdict.code is Code.UNKNOWN
    assert verdict.rule == "it is beyond the ceiling role readers-only@3"
    assert verdict.requestable is None, "to ask for it would not help"


def test_a_ceiling_gives_nothing_and_every_one_counts() -> None:
    assert not ask(world({EVERY_AGENT: (CEILING,)}), {}, tool="git_log").allowed
    wide = binding(51, role(rule(tools=["*"])), origin=Origin.CEILING)
    assert ask(having(CEILING, wide), {}, tool="git_log").allowed
    assert not ask(having(CEILING, wide, grant(1)), {}).allowed
    assert ask(having(replace(CEILING, ended_at=NOW), wide, grant(1)), {}).allowed


def test_the_ceiling_of_a_user_does_not_bind_the_agent_alone() -> None:
    snapshot = world({MINE: (grant(1),), EVERY_USER: (CEILING,)})
    assert ask(snapshot, {}).allowed


# -- locks ------------------------------------------------------------------------------------------------------------


def lock(kind: LockKind, target: UUID | None = None, **changes: Any) -> Any:
    return replace(LockFacts(UUID(int=900), kind, target, "it", "because", None), **changes)


@pytest.mark.parametrize(
    ("kind", "target", "who", "stopped"),
    [
        (LockKind.EVERYTHING, None, ALONE, True),
        (LockKind.AGENT, AGENT, ALONE, True),
        (LockKind.AGENT, UUID(int=99), ALONE, False),
        (LockKind.USER, OLGA, FOR_OLGA, True),
        (LockKind.USER, OLGA, ALONE, True),  # she owns the agent
        (LockKind.USER, UUID(int=3), ALONE, False),
        (LockKind.SERVER, GIT, ALONE, True),
        (LockKind.SERVER, AGENT, ALONE, False),
        (LockKind.ROLE, ROLE, ALONE, True),
        (LockKind.ROLE, GIT, ALONE, False),
    ],
)
def test_a_lock_stops_what_it_is_on_until_its_end(kind: LockKind, target: UUID | None, who: Who, stopped: bool) -> None:
    bindings = {EVERY_AGENT: (binding(101, replace(READERS, id=ROLE)),), EVERY_USER: (binding(102, READERS),)}
    locked = world(bindings, locks=(lock(kind, target, expires_at=NOW + HOUR),))
    verdict = ask(locked, {}, tool="git_log", who=who)
    assert verdict.allowed is not stopped
    if stopped:
        assert verdict.code is Code.LOCKED_DOWN
        assert verdict.rule == f"the lock on {kind} it: because"
    assert next_edge(locked, who=who, at=NOW) == NOW + HOUR
    after = decide(locked, who=who, server=GIT, tool="git_log", at=NOW + HOUR, arguments={})
    assert after.allowed


def test_a_locked_grant_and_a_locked_role_stop_giving_and_go_on_denying() -> None:
    on_grant = having(grant(1), locks=(lock(LockKind.GRANT, UUID(int=501)),))
    assert ask(on_grant, {}).code is Code.LOCKED_DOWN
    assert ask(on_grant, {}, tool="git_log").allowed, "what it does not give is not its lock's business"
    denying = replace(role(rule(tools=["*"]), deny=(rule(tools=["git_log"]),)), id=ROLE)
    snapshot = having(binding(1, denying), locks=(lock(LockKind.ROLE, ROLE),))
    assert ask(snapshot, {}, tool="git_log").code is Code.NOT_REQUESTABLE
    ceiling = replace(CEILING, role=replace(READERS, id=ROLE))
    assert ask(having(ceiling, locks=(lock(LockKind.ROLE, ROLE),)), {}, tool="git_log").code is Code.LOCKED_DOWN


# -- granted roles ----------------------------------------------------------------------------------------------------

WRITERS = role(rule(tools=["git_commit"]), rule(tools=["git_log"]), name="writers")


@pytest.mark.parametrize("origin", [Origin.GRANT, Origin.BREAK_GLASS])
def test_a_granted_role_gives_what_was_approved_and_is_still_in_it(origin: Origin) -> None:
    def verdict(head: RoleFacts | None, pinned: RoleFacts | None) -> Verdict:
        return ask(having(grant(1, tools={}, role=head, pinned=pinned, origin=origin)), {})

    allowed = verdict(replace(WRITERS, version=4), WRITERS)
    assert allowed.allowed
    assert allowed.grant == UUID(int=501)
    assert allowed.rule == f"grant {UUID(int=501)}, role writers@4, allow rule 1"
    assert not verdict(WRITERS, READERS).allowed, "it came into the role later"
    assert not verdict(READERS, WRITERS).allowed, "it has gone from the role"
    assert not verdict(WRITERS, None).allowed, "nobody knows what was approved"
    assert not verdict(None, WRITERS).allowed
    denying = replace(WRITERS, deny=(rule(tools=["git_commit"]),))
    assert verdict(WRITERS, denying).code is Code.NOT_REQUESTABLE
    assert verdict(denying, WRITERS).code is Code.NOT_REQUESTABLE


def test_a_role_that_may_be_asked_for_shows_what_it_would_give() -> None:
    text = (
        "kind: role\nversion: v1\nmetadata: {name: writers}\nspec:\n  allow: [{servers: [git], tools: [git_commit]}]\n"
    )
    asked = parse_role(text + "  request: {max_duration: 1h, approval: x, teams: [core]}\n").facts
    for teams, roles in (({TEAM: "core"}, ("writers",)), ({TEAM: "other"}, ())):
        verdict = ask(having(roles={ROLE: asked}, teams=teams, requestables=()), {})
        assert verdict.roles == roles
        assert verdict.code is (Code.NO_BINDING if roles else Code.UNKNOWN)
        assert visibility(verdict) is (Visibility.LOCKED if roles else Visibility.HIDDEN)


# -- resources and prompts --------------------------------------------------------------------------------------------


def test_resources_and_prompts_are_decided_by_the_same_rules() -> None:
    text = """\
kind: role
version: v1
metadata: {name: docs}
spec:
  allow:
    - {servers: [git], resources: ["file:///srv/*"], prompts: [review]}
    - {servers: [git], tools: ["*"], labels: {data: pii}}
"""
    snapshot = having(binding(1, parse_role(text).facts))

    def resource(uri: str, given: Snapshot = snapshot) -> Verdict:
        return decide(given, who=ALONE, server=GIT, tool=uri, at=NOW, arguments={}, kind=Kind.RESOURCE)

    assert resource("file:///srv/a").allowed
    assert resource("file:///srv/a").bindings == (UUID(int=1),)
    assert resource("file:///etc").code is Code.UNKNOWN
    for spelling in (
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "FILE:///srv/a",
        "file:///srv/%61",
        "file:///srv/a#b",
    ):
        assert resource(spelling).code is Code.UNKNOWN, "a server could read another URI out of it"
    assert decide(snapshot, who=ALONE, server=GIT, tool="review", at=NOW, kind=Kind.PROMPT).allowed
    assert not decide(snapshot, who=ALONE, server=GIT, tool="git_log", at=NOW, kind=Kind.PROMPT).allowed
    assert not resource("x", having(binding(1, role(rule(tools=["*"]))))).allowed, "tools are not resources"
    deny = parse_role(
        text.split("spec:", maxsplit=1)[0] + "spec: {deny: [{servers: ['*'], labels: {data: pii}}]}"
    ).facts
    pii = {GIT: replace(snapshot.servers[GIT], labels={"data": "pii"})}
    assert not resource("file:///srv/a", having(*snapshot.bindings[MINE], binding(2, deny), servers=pii)).allowed
    locked = replace(snapshot, locks=(lock(LockKind.EVERYTHING),))
    assert resource("file:///srv/a", locked).code is Code.LOCKED_DOWN


# -- explanations -----------------------------------------------------------------------------------------------------


def test_an_explanation_names_what_decided_what_was_missing_and_what_to_ask_for() -> None:
    snapshot = having(
        binding(1, role(where('args.message == "x"'), name="careful")),
        grant(2, expires_at=NOW - timedelta(minutes=1)),
        binding(3, role(deny=(where("args.force == true"),), name="no-force")),
        replace(CEILING, role=role(rule(tools=["*"]), name="wide")),
    )
    found = explain(
        snapshot, who=ALONE, server=GIT, tool="git_commit", at=NOW, arguments={"message": "y", "force": False}
    )
    assert found.verdict == ask(snapshot, {"message": "y", "force": False})
    by_rule = {(one.part, one.rule.split(",")[0]): one for one in found.considered}
    assert by_rule[Part.DENY, "role no-force@3"].missing == "the condition args.force == true is false"
    assert by_rule[Part.CEILING, "role wide@3"].applies
    assert 'args.message == "x" is false' in by_rule[Part.AGENT, "role careful@3"].missing
    assert by_rule[Part.AGENT, "role read-only@3"].missing == "it is not about git_commit here"
    assert by_rule[Part.GRANT, f"grant {UUID(int=502)}"].missing == "it expired at 2026-07-01 11:59:00 UTC"
    assert not any(one.decided for one in found.considered)
    assert found.advice == ("ask for git_commit, for at most 1 h",)
    allowed = explain(
        snapshot, who=ALONE, server=GIT, tool="git_commit", at=NOW, arguments={"message": "x", "force": False}
    )
    assert [one.rule for one in allowed.considered if one.decided] == ["role careful@3, allow rule 1"]
    assert allowed.advice == ()
    denied = explain(
        snapshot, who=ALONE, server=GIT, tool="git_commit", at=NOW, arguments={"message": "x", "force": True}
    )
    assert [one.rule for one in denied.considered if one.decided] == ["role no-force@3, deny rule 1"]
    assert explain(snapshot, who=ALONE, server=GIT, tool="none", at=NOW).considered == ()
