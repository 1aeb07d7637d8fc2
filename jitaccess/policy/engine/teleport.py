"""Teleport's role documents (`kind: role`, version v7 or v8), as far as they are about MCP servers.

Allowed there is a tool that `mcp.tools` (or the flat `mcp_tools`) names, on servers whose labels `app_labels` match.
Denying, the two stand for themselves there: `app_labels` deny such servers altogether, tools are denied everywhere.
What else such a document says would be lost here, so it is refused instead.
"""

from __future__ import annotations

import yaml

from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.yamldoc import Node, is_list, is_null, line_of
from jitaccess.policy.engine.reading import READ, labels, name_pattern, role_name
from jitaccess.policy.engine.rules import Labels, RoleRule

VERSIONS = ("v7", "v8")
_EVERY = PatternSet(("*",))
_NONE = PatternSet(())
_ONLY_MCP = ("app_labels", "mcp", "mcp_tools")


def is_one(root: Node) -> bool:
    """Whether this is a role of Teleport's, by its version."""
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        if key.value == "version" and value.value in VERSIONS:
            return True
    return False


def read(root: Node) -> tuple[str, str, tuple[RoleRule, ...], tuple[RoleRule, ...]]:
    """Name, description, allow and deny rules. Raises Invalid as parse_role."""
    top = READ.members(root, "", ("kind", "version", "metadata", "spec"), required=("kind", "metadata", "spec"))
    READ.exactly(top["kind"], "kind", "role")
    READ.one_of(top["version"], "version", VERSIONS)
    metadata = READ.members(top["metadata"], "metadata", ("name", "description"), required=("name",))
    spec = READ.members(top["spec"], "spec", ("allow", "deny"))
    description = READ.text(metadata["description"], "metadata.description") if "description" in metadata else ""
    allow = _allow(spec["allow"], "spec.allow") if "allow" in spec and not is_null(spec["allow"]) else ()
    deny = _deny(spec["deny"], "spec.deny") if "deny" in spec and not is_null(spec["deny"]) else ()
    return role_name(metadata["name"], "metadata.name"), description, allow, deny


def _allow(node: Node, path: str) -> tuple[RoleRule, ...]:
    members, tools = _section(node, path)
    if tools and "app_labels" not in members:
        expected = "this key, which is missing: without it the tools are allowed on no server; on all: {'*': '*'}"
        raise READ.mistake(line_of(node), f"{path}.app_labels", expected)
    if not members:
        return ()
    servers, found = _servers(members, path)
    return (RoleRule(1, servers, PatternSet(tools), frozenset(), found),)


def _deny(node: Node, path: str) -> tuple[RoleRule, ...]:
    members, tools = _section(node, path)
    rules = []
    if "app_labels" in members:
        servers, found = _servers(members, path)
        rules.append(RoleRule(1, servers, _NONE, frozenset(), found, every=True))
    if tools:
        rules.append(RoleRule(len(rules) + 1, _EVERY, PatternSet(tools), frozenset()))
    return tuple(rules)


def _section(node: Node, path: str) -> tuple[dict[str, Node], list[str]]:
    """Its members, and the tools that it names."""
    members = READ.members(
        node, path, _ONLY_MCP, expected=f"a mapping with {', '.join(_ONLY_MCP)}, as Teleport's roles have"
    )
    if "mcp" in members and "mcp_tools" in members:
        raise READ.mistake(line_of(members["mcp_tools"]), f"{path}.mcp_tools", "mcp.tools or mcp_tools, not both")
    if "mcp" in members:
        inner = READ.members(members["mcp"], f"{path}.mcp", ("tools",))
        return members, READ.items(inner.get("tools"), f"{path}.mcp.tools", _tool)
    return members, READ.items(members.get("mcp_tools"), f"{path}.mcp_tools", _tool)


def _tool(node: Node, path: str) -> str:
    text = READ.text(node, path)
    if "{{" in text:
        expected = "the names of tools: traits such as {{internal.mcp_tools}} are not known here"
        raise READ.mistake(line_of(node), path, expected)
    return name_pattern(node, path)


def _servers(members: dict[str, Node], path: str) -> tuple[PatternSet, tuple[Labels, ...]]:
    """By name (all of them, or none), and by labels."""
    node, where = members["app_labels"], f"{path}.app_labels"
    given = READ.members(node, where, (), expected="a mapping such as {env: staging}")
    if "*" not in given:
        return _NONE, (labels(node, where),)
    every = given["*"]
    values = READ.items(every, f"{where}.*", READ.text) if is_list(every) else [READ.text(every, f"{where}.*")]
    if len(given) > 1 or values != ["*"]:
        raise READ.mistake(line_of(every), f"{where}.*", "{'*': '*'} for every server, or the labels that they have")
    return _EVERY, ()
