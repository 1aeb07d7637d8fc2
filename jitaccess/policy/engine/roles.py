"""Role documents: YAML read strictly; every mistake names its line, the path of its key and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import is_slug, visible
from jitaccess.policy.engine.rules import RoleFacts, RoleRule

ACCESS_CLASSES = ("read", "write", "destructive", "unclassified")
MAX_DOCUMENT = 64 * 1024
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
    root = _compose(text)
    if root is None:
        raise _mistake(1, "", "a document with kind, version, metadata and spec")
    top = _members(root, "", ("kind", "version", "metadata", "spec"), required=("kind", "version", "metadata", "spec"))
    _exactly(top["kind"], "kind", "role")
    _exactly(top["version"], "version", "v1")
    metadata = _members(top["metadata"], "metadata", ("name", "description", "owner"), required=("name",))
    spec = _members(top["spec"], "spec", ("allow", "deny"), required=())
    name = _text(metadata["name"], "metadata.name")
    if not is_slug(name, limit=40):
        expected = "small letters, digits and hyphens, at most 40, starting and ending with a letter or digit"
        raise _mistake(_line(metadata["name"]), "metadata.name", expected)
    description = _text(metadata["description"], "metadata.description") if "description" in metadata else ""
    if "owner" in metadata:
        _text(metadata["owner"], "metadata.owner")
    allow = _rules(spec.get("allow"), "spec.allow")
    deny = _rules(spec.get("deny"), "spec.deny")
    return RoleDocument(name, description, RoleFacts(name, version, allow, deny))


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a small document that refers to its parts many times over is a big one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # its stubs leave it out
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write it out", mark)
        return super().compose_node(parent, index)


def _compose(text: str) -> yaml.Node | None:
    if len(text) > MAX_DOCUMENT:
        raise _mistake(1, "", f"at most {MAX_DOCUMENT} characters, not {len(text)}")
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _mistake(mark.line + 1 if mark else 1, "", f"well-formed YAML ({error.problem})") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _mistake(line, "", f"well-formed YAML (the character U+{error.character:04X} is not allowed)") from error
    except RecursionError as error:
        raise _mistake(1, "", "well-formed YAML (it is nested too deeply)") from error
    except (ValueError, OverflowError) as error:  # PyYAML lets these out for an escape such as "\UFFFFFFFF"
        raise _mistake(1, "", f"well-formed YAML ({error})") from error


def _rules(node: yaml.Node | None, path: str) -> tuple[RoleRule, ...]:
    if node is None or _is_null(node):
        return ()
    if not _is_list(node):
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
    if not _is_list(node):
        raise _mistake(_line(node), path, 'a list, as in ["a", "b*"] or one item a line, each with its dash')
    return [check(item, f"{path}[{number}]") for number, item in enumerate(node.value, start=1)]


def _pattern(node: yaml.Node, path: str) -> str:
    text = _text(node, path)
    if not text.startswith("^") and not _NAME_OR_GLOB.fullmatch(text):
        expected = "a name or a glob of letters, digits and _ . - *, or ^regex$; one in each list item"
        raise _mistake(_line(node), path, f"{expected}, not {visible(text, limit=80)!r}")
    try:
        PatternSet([text])
    except Invalid as error:
        raise _mistake(_line(node), path, f"a name, a glob or ^regex$ ({error.detail})") from error
    return text


def _access_class(node: yaml.Node, path: str) -> str:
    text = _text(node, path)
    if text not in ACCESS_CLASSES:
        raise _mistake(_line(node), path, f"one of {', '.join(ACCESS_CLASSES)}, not {visible(text, limit=80)!r}")
    return text


def _members(
    node: yaml.Node, path: str, known: tuple[str, ...], *, required: tuple[str, ...], expected: str = ""
) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        raise _mistake(_line(node), path, expected or f"a mapping with {', '.join(known)}")
    members: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = visible(key.value, limit=80) if isinstance(key, yaml.ScalarNode) else "?"
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


def _is_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mistake(line: int, path: str, expected: str) -> Invalid:
    where = f"line {line}, {path}" if path else f"line {line}"
    return Invalid("role.invalid", f"{where}: expected {expected}.", line=line, path=path, expected=expected)
