"""Role documents: YAML read strictly; every mistake names its line, the path of its key and what was expected."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import is_slug, visible
from jitaccess.kernel.yamldoc import Node, Reader, is_list, is_null, line_of
from jitaccess.policy.engine.rules import RoleFacts, RoleRule

ACCESS_CLASSES = ("read", "write", "destructive", "unclassified")
_READ = Reader("role.invalid")
_TOP = ("kind", "version", "metadata", "spec")
# All that names of servers and tools consist of. Anything else could never match, and a deny rule that never matches
# is an open door: `- a` above a more indented `- b` is one text, "a - b", to YAML; so is "a, b".
_NAME_OR_GLOB = re.compile(r"[A-Za-z0-9_.*-]+")
_EXPECTED_RULE = "a rule: `servers:` with names or patterns, and `tools:` or `access:`"


@dataclass(frozen=True, slots=True)
class RoleDocument:
    name: str
    description: str
    facts: RoleFacts


def parse_role(text: str, *, version: int = 0) -> RoleDocument:
    """The role in a YAML document. Raises Invalid("role.invalid", params line, path, expected)."""
    root = _READ.compose(text)
    if root is None:
        raise _READ.mistake(1, "", "a document with kind, version, metadata and spec")
    top = _READ.members(
        root, "", ("kind", "version", "metadata", "spec"), required=("kind", "version", "metadata", "spec")
    )
    _READ.exactly(top["kind"], "kind", "role")
    _READ.exactly(top["version"], "version", "v1")
    metadata = _READ.members(top["metadata"], "metadata", ("name", "description", "owner"), required=("name",))
    spec = _READ.members(top["spec"], "spec", ("allow", "deny"), required=())
    name = _READ.text(metadata["name"], "metadata.name")
    if not is_slug(name, limit=40):
        expected = "small letters, digits and hyphens, at most 40, starting and ending with a letter or digit"
        raise _READ.mistake(line_of(metadata["name"]), "metadata.name", expected)
    description = _READ.text(metadata["description"], "metadata.description") if "description" in metadata else ""
    if "owner" in metadata:
        _READ.text(metadata["owner"], "metadata.owner")
    allow = _rules(spec.get("allow"), "spec.allow")
    deny = _rules(spec.get("deny"), "spec.deny")
    return RoleDocument(name, description, RoleFacts(name, version, allow, deny))


def _rules(node: Node | None, path: str) -> tuple[RoleRule, ...]:
    if node is None or is_null(node):
        return ()
    if not is_list(node):
        expected = f"a list, each item starting with a dash and holding {_EXPECTED_RULE}"
        raise _READ.mistake(line_of(node), path, expected)
    return tuple(_rule(item, f"{path}[{number}]", number) for number, item in enumerate(node.value, start=1))


def _rule(node: Node, path: str, number: int) -> RoleRule:
    members = _READ.members(node, path, ("servers", "tools", "access"), required=("servers",), expected=_EXPECTED_RULE)
    if ("tools" in members) == ("access" in members):
        both = "not both; write two rules" if "tools" in members else "one of them"
        raise _READ.mistake(line_of(node), path, f"`tools:` or `access:`, {both}")
    access = _READ.items(members.get("access"), f"{path}.access", _access_class)
    return RoleRule(
        number,
        PatternSet(_READ.items(members["servers"], f"{path}.servers", _pattern)),
        PatternSet(_READ.items(members.get("tools"), f"{path}.tools", _pattern)),
        frozenset(access),
    )


def _pattern(node: Node, path: str) -> str:
    text = _READ.text(node, path)
    if not text.startswith("^") and not _NAME_OR_GLOB.fullmatch(text):
        expected = "a name or a glob of letters, digits and _ . - *, or ^regex$; one in each list item"
        raise _READ.mistake(line_of(node), path, f"{expected}, not {visible(text, limit=80)!r}")
    try:
        PatternSet([text])
    except Invalid as error:
        raise _READ.mistake(line_of(node), path, f"a name, a glob or ^regex$ ({error.detail})") from error
    return text


def _access_class(node: Node, path: str) -> str:
    return _READ.one_of(node, path, ACCESS_CLASSES)
