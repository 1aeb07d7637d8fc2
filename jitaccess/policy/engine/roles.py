"""Role documents: YAML read strictly; every mistake names its line, the path of its key and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import yaml

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.rules import RoleFacts, RoleRule

ACCESS_CLASSES = ("read", "write", "destructive", "unclassified")
MAX_DOCUMENT = 64 * 1024
_EXPECTED_RULE = "a rule: `servers:` with names or patterns, and `tools:` or `access:`"


@dataclass(frozen=True, slots=True)
class RoleDocument:
    name: str
    description: str
    facts: RoleFacts


def parse_role(text: str, *, version: int = 0) -> RoleDocument:
    """The role in a YAML document. Raises Invalid("role.invalid", params line, path, expected)."""
    if len(text) > MAX_DOCUMENT:
        raise Invalid("role.invalid", f"The document has {len(text)} characters; {MAX_DOCUMENT} are allowed.")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _mistake(line, "", f"well-formed YAML ({error.problem or error})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _mistake(1, "", f"well-formed YAML ({error})") from error
    if root is None:
        raise _mistake(1, "", "a document with kind, version, metadata and spec")
    top = _members(root, "", ("kind", "version", "metadata", "spec"), required=("kind", "version", "metadata", "spec"))
    _exactly(top["kind"], "kind", "role")
    _exactly(top["version"], "version", "v1")
    metadata = _members(top["metadata"], "metadata", ("name", "description", "owner"), required=("name",))
    spec = _members(top["spec"], "spec", ("allow", "deny"), required=())
    name = _text(metadata["name"], "metadata.name")
    description = _text(metadata["description"], "metadata.description") if "description" in metadata else ""
    if "owner" in metadata:
        _text(metadata["owner"], "metadata.owner")
    allow = _rules(spec.get("allow"), "spec.allow")
    deny = _rules(spec.get("deny"), "spec.deny")
    return RoleDocument(name, description, RoleFacts(name, version, allow, deny))


def _rules(node: yaml.Node | None, path: str) -> tuple[RoleRule, ...]:
    if node is None or _is_null(node):
        return ()
    if not isinstance(node, yaml.SequenceNode):
        raise _mistake(_line(node), path, f"a list, each item starting with a dash and holding {_EXPECTED_RULE}")
    return tuple(_rule(item, f"{path}[{number}]", number) for number, item in enumerate(node.value, start=1))


def _rule(node: yaml.Node, path: str, number: int) -> RoleRule:
    members = _members(node, path, ("servers", "tools", "access"), required=("servers",), expected=_EXPECTED_RULE)
    if ("tools" in members) == ("access" in members):
        both = "not both; write two rules" if "tools" in members else "one of them"
        raise _mistake(_line(node), path, f"`tools:` or `access:`, {both}")
    access = _list(members.get("access"), f"{path}.access", _access_class)
    return RoleRule(
        number,
        PatternSet(_list(members["servers"], f"{path}.servers", _pattern)),
        PatternSet(_list(members.get("tools"), f"{path}.tools", _pattern)),
        frozenset(access),
    )


def _list(node: yaml.Node | None, path: str, check: Callable[[yaml.Node, str], str]) -> list[str]:
    if node is None:
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise _mistake(_line(node), path, 'a list, as in ["a", "b*"] or one item a line, each with its dash')
    return [check(item, f"{path}[{number}]") for number, item in enumerate(node.value, start=1)]


def _pattern(node: yaml.Node, path: str) -> str:
    text = _text(node, path)
    try:
        PatternSet([text])
    except Invalid as error:
        raise _mistake(_line(node), path, f"a name, a glob or ^regex$ ({error.detail})") from error
    return text


def _access_class(node: yaml.Node, path: str) -> str:
    text = _text(node, path)
    if text not in ACCESS_CLASSES:
        raise _mistake(_line(node), path, f"one of {', '.join(ACCESS_CLASSES)}, not {text!r}")
    return text


def _members(
    node: yaml.Node, path: str, known: tuple[str, ...], *, required: tuple[str, ...], expected: str = ""
) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise _mistake(_line(node), path, expected or f"a mapping with {', '.join(known)}")
    members: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        where = f"{path}.{name}".lstrip(".")
        if name not in known:
            raise _mistake(_line(key), where, f"no such key here; known are {', '.join(known)}")
        if name in members:
            raise _mistake(_line(key), where, "each key once")
        members[name] = value
    for name in required:
        if name not in members:
            raise _mistake(_line(node), f"{path}.{name}".lstrip("."), "this key, which is missing")
    return members


def _text(node: yaml.Node, path: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str" or not node.value.strip():
        raise _mistake(_line(node), path, "a text (in quotes if YAML would read it as a number, true or null)")
    return str(node.value)


def _exactly(node: yaml.Node, path: str, value: str) -> None:
    if _text(node, path) != value:
        raise _mistake(_line(node), path, f"`{value}`")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mistake(line: int, path: str, expected: str) -> Invalid:
    where = f"line {line}, {path}" if path else f"line {line}"
    return Invalid("role.invalid", f"{where}: expected {expected}.", line=line, path=path, expected=expected)
