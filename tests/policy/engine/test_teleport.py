"""Teleport's role documents: what they say about MCP servers is understood, and nothing that they say is lost."""

from __future__ import annotations

from uuid import UUID

import pytest

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.engine.roles import RoleDocument, parse_role
from jitaccess.policy.engine.rules import RoleRule, ServerFacts, ToolFacts

HEAD = "kind: role\nversion: v8\nmetadata: {name: mcp-user}\n"  # three lines


def role(spec: str, version: str = "v8") -> RoleDocument:
    return parse_role(HEAD.replace("v8", version) + spec)


def server(slug: str = "files", **labels: str) -> ServerFacts:
    return ServerFacts(UUID(int=1), slug, True, "", None, {}, labels)


def tool(name: str) -> ToolFacts:
    return ToolFacts(UUID(int=2), name, "write", "", False, "{}")


def about(rules: tuple[RoleRule, ...], where: ServerFacts, name: str) -> bool:
    return any(rule.about(where) and rule.covers(tool(name)) for rule in rules)


@pytest.mark.parametrize("version", ["v7", "v8"])
@pytest.mark.parametrize("tools", ["mcp: {tools: [%s]}", "mcp_tools: [%s]"])
def test_both_ways_of_naming_tools_load(version: str, tools: str) -> None:
    named = tools % 'search-files, "slack_*", "^(get|list|read).*$"'
    found = role(f"spec:\n  allow:\n    app_labels: {{env: dev}}\n    {named}\n", version)
    allow = found.facts.allow
    assert found.name == "mcp-user"
    for name in ("search-files", "slack_x", "get_it"):
        assert about(allow, server(env="dev"), name)
    assert not about(allow, server(env="dev"), "search-file"), "a name is the whole name"
    assert not about(allow, server(env="dev"), "xget"), "a regex is anchored at both ends"
    assert not about(allow, server(env="prod"), "get_it")
    assert not about(allow, server(), "get_it")


def test_labels_have_alternatives_and_all_of_them_have_to_be_there() -> None:
    allow = role("spec: {allow: {app_labels: {env: [dev, 'stag*'], team: core}, mcp_tools: ['*']}}").facts.allow
    assert about(allow, server(env="staging", team="core"), "x")
    assert about(allow, server(env="dev", team="core"), "x")
    assert not about(allow, server(env="dev"), "x")
    assert not about(allow, server(env="prod", team="core"), "x")


def test_every_server_is_a_star() -> None:
    allow = role("spec: {allow: {app_labels: {'*': '*'}, mcp_tools: [x]}}").facts.allow
    assert about(allow, server(), "x")


@pytest.mark.parametrize(
    "spec",
    [
        "spec: {}",
        "spec: {allow: {}, deny: {}}",
        "spec: {allow: {app_labels: {env: dev}}}",
        "spec: {allow: {app_labels: {env: dev}, mcp: {}}}",
        "spec: {allow: {app_labels: {env: dev}, mcp_tools: []}}",
        "spec: {allow: {app_labels: {}, mcp_tools: ['*']}}",
    ],
)
def test_empty_means_nothing(spec: str) -> None:
    facts = role(spec).facts
    assert not about((*facts.allow, *facts.deny), server(env="dev"), "x")


def test_denied_tools_are_denied_everywhere_and_denied_labels_deny_everything_there() -> None:
    """There each stands for itself: deny rules are greedy."""
    deny = role("spec: {deny: {app_labels: {env: prod}, mcp: {tools: [slack_post]}}}").facts.deny
    assert about(deny, server(), "slack_post")
    assert about(deny, server(env="prod"), "anything")
    assert not about(deny, server(env="dev"), "anything")


@pytest.mark.parametrize(
    ("spec", "line", "path", "expected"),
    [
        ("spec:\n  options: {max_session_ttl: 8h}", 5, "spec.options", "no such key here"),
        ("spec:\n  allow:\n    logins: [root]", 6, "spec.allow.logins", "known are app_labels, mcp, mcp_tools"),
        ("spec:\n  allow:\n    app_labels_expression: x", 6, "spec.allow.app_labels_expression", "no such key"),
        ("spec:\n  allow:\n    request: {roles: [x]}", 6, "spec.allow.request", "no such key"),
        ("spec:\n  allow:\n    mcp_tools: [x]", 6, "spec.allow.app_labels", "on no server"),
        ("spec:\n  allow:\n    mcp: {tool: [x]}", 6, "spec.allow.mcp.tool", "known are tools"),
        ("spec:\n  allow:\n    mcp: [x]", 6, "spec.allow.mcp", "a mapping with tools"),
        ("spec:\n  allow:\n    mcp: {tools: x}", 6, "spec.allow.mcp.tools", "a list"),
        (
            "spec:\n  allow:\n    app_labels: {a: b}\n    mcp: {tools: [x]}\n    mcp_tools: [y]",
            8,
            "spec.allow.mcp_tools",
            "not both",
        ),
        ("spec:\n  deny:\n    mcp_tools:\n      - '{{internal.mcp_tools}}'", 7, "spec.deny.mcp_tools[1]", "traits"),
        ("spec:\n  deny:\n    mcp_tools: ['^db-(a|b)']", 6, "spec.deny.mcp_tools[1]", "ends with $"),
        ("spec:\n  deny:\n    app_labels: {'*': x}", 6, "spec.deny.app_labels.*", "for every server"),
        ("spec:\n  deny:\n    app_labels: {'*': '*', env: dev}", 6, "spec.deny.app_labels.*", "for every server"),
        (
            "spec:\n  deny:\n    app_labels: {teleport.dev/origin: x}",
            6,
            "spec.deny.app_labels.teleport.dev/origin",
            "la",
        ),
        ("spec:\n  deny:\n    app_labels: [env]", 6, "spec.deny.app_labels", "a mapping"),
        ("spec:\n  allow:\n    - servers: ['*']", 6, "spec.allow", "as Teleport's roles have"),
    ],
)
def test_what_would_be_lost_is_refused_with_its_place(spec: str, line: int, path: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        role(spec)
    assert (caught.value.params["line"], caught.value.params["path"]) == (line, path)
    assert expected in str(caught.value.params["expected"])


def test_another_version_of_theirs_is_refused() -> None:
    with pytest.raises(Invalid, match="v1"):
        role("spec: {}", "v5")
