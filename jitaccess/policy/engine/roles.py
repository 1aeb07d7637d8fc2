"""Role documents: YAML read strictly; every mistake names its line, the path of its key and what was expected."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.yamldoc import Node, is_list, is_null, line_of
from jitaccess.policy.engine import reading, teleport
from jitaccess.policy.engine.arguments import ArgumentConstraint, parse_constraint
from jitaccess.policy.engine.conditions import Condition, compile_condition
from jitaccess.policy.engine.reading import READ
from jitaccess.policy.engine.rules import VARIABLES, Labels, RoleFacts, RoleRequest, RoleRule

ACCESS_CLASSES = ("read", "write", "destructive", "unclassified")
PRIVILEGES = ("select", "insert", "update", "delete", "truncate", "references", "trigger", "execute", "usage")
DAY = 24 * 3600
_TOP = ("kind", "version", "metadata", "spec")
_OF_SERVERS = ("servers", "tools", "access", "resources", "prompts", "labels", "where", "arguments")
_OF_DATABASES = ("databases", "objects", "privileges")
_URI_OR_GLOB = re.compile(r"[^\s,\x00-\x1f\x7f]+")
_OBJECT_OR_GLOB = re.compile(r"[A-Za-z0-9_.*$-]+")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_EXPECTED_RULE = "a rule: `servers:` with names or patterns, and `tools:` or `access:`"


@dataclass(frozen=True, slots=True)
class RoleDocument:
    name: str
    description: str
    facts: RoleFacts
    owner: str = ""


def parse_role(text: str, *, version: int = 0) -> RoleDocument:
    """The role in a YAML document, this product's or Teleport's. Raises Invalid("role.invalid", params line, path,
    expected).
    """
    root = READ.compose(text)
    if root is None:
        raise READ.mistake(1, "", "a document with kind, version, metadata and spec")
    if teleport.is_one(root):
        name, description, allow, deny = teleport.read(root)
        return RoleDocument(name, description, RoleFacts(name, version, allow, deny))
    top = READ.members(root, "", _TOP, required=_TOP)
    READ.exactly(top["kind"], "kind", "role")
    READ.exactly(top["version"], "version", "v1")
    metadata = READ.members(top["metadata"], "metadata", ("name", "description", "owner"), required=("name",))
    spec = READ.members(top["spec"], "spec", ("allow", "deny", "request"), required=())
    name = reading.role_name(metadata["name"], "metadata.name")
    description = READ.text(metadata["description"], "metadata.description") if "description" in metadata else ""
    owner = READ.text(metadata["owner"], "metadata.owner") if "owner" in metadata else ""
    facts = RoleFacts(
        name,
        version,
        _rules(spec.get("allow"), "spec.allow"),
        _rules(spec.get("deny"), "spec.deny"),
        _request(spec["request"], "spec.request") if "request" in spec else None,
    )
    return RoleDocument(name, description, facts, owner)


def _rules(node: Node | None, path: str) -> tuple[RoleRule, ...]:
    if node is None or is_null(node):
        return ()
    if not is_list(node):
        expected = f"a list, each item starting with a dash and holding {_EXPECTED_RULE}"
        raise READ.mistake(line_of(node), path, expected)
    return tuple(_rule(item, f"{path}[{number}]", number) for number, item in enumerate(node.value, start=1))


def _rule(node: Node, path: str, number: int) -> RoleRule:
    members = READ.members(node, path, (*_OF_SERVERS, *_OF_DATABASES), expected=_EXPECTED_RULE)
    if members.keys() & set(_OF_DATABASES):
        return _database_rule(node, members, path, number)
    if "servers" not in members:
        raise READ.mistake(line_of(node), f"{path}.servers", "this key, which is missing")
    if "tools" in members and "access" in members:
        raise READ.mistake(line_of(node), path, "`tools:` or `access:`, not both; write two rules")
    names = members.keys() & {"tools", "access", "resources", "prompts"}
    if not names and "labels" not in members:
        raise READ.mistake(line_of(node), path, "`tools:` or `access:`, one of them (or resources, prompts, labels)")
    servers, server_labels = _servers(members["servers"], f"{path}.servers")
    return RoleRule(
        number,
        servers,
        PatternSet(READ.items(members.get("tools"), f"{path}.tools", reading.name_pattern)),
        frozenset(READ.items(members.get("access"), f"{path}.access", _access_class)),
        server_labels,
        every=not names,
        resources=PatternSet(READ.items(members.get("resources"), f"{path}.resources", _uri)),
        prompts=PatternSet(READ.items(members.get("prompts"), f"{path}.prompts", reading.name_pattern)),
        labels=reading.labels(members["labels"], f"{path}.labels") if "labels" in members else None,
        where=_condition(members["where"], f"{path}.where") if "where" in members else None,
        arguments=_arguments(members["arguments"], f"{path}.arguments") if "arguments" in members else None,
    )


def _database_rule(node: Node, members: dict[str, Node], path: str, number: int) -> RoleRule:
    for name in members.keys() - set(_OF_DATABASES):
        expected = "databases, objects and privileges only; write two rules"
        raise READ.mistake(line_of(members[name]), f"{path}.{name}", expected)
    for name in _OF_DATABASES:
        if name not in members:
            raise READ.mistake(line_of(node), f"{path}.{name}", "this key, which is missing")
    privileges = READ.items(members["privileges"], f"{path}.privileges", _privilege)
    return RoleRule(
        number,
        PatternSet(()),
        PatternSet(()),
        frozenset(),
        databases=PatternSet(READ.items(members["databases"], f"{path}.databases", reading.name_pattern)),
        objects=PatternSet(READ.items(members["objects"], f"{path}.objects", _object)),
        privileges=frozenset(privileges),
    )


def _servers(node: Node, path: str) -> tuple[PatternSet, tuple[Labels, ...]]:
    """By name, and by labels."""
    names, found = [], []
    for item, where in READ.items(node, path, lambda item, where: (item, where)):
        if isinstance(item, yaml.MappingNode):
            selector = READ.members(item, where, ("labels",), required=("labels",))
            found.append(reading.labels(selector["labels"], f"{where}.labels"))
        else:
            names.append(reading.name_pattern(item, where))
    return PatternSet(names), tuple(found)


def _condition(node: Node, path: str) -> Condition:
    source = READ.text(node, path)
    try:
        return compile_condition(source, variables=VARIABLES)
    except Invalid as error:
        # The first line of a block (`|`, `>`) is the one below its sign.
        block = isinstance(node, yaml.ScalarNode) and node.style in {"|", ">"}
        line = line_of(node) + int(str(error.params["line"])) - 1 + block
        expected = f"{error.params['expected']} (line {error.params['line']}, column {error.params['column']} of it)"
        raise READ.mistake(line, path, expected) from error


def _arguments(node: Node, path: str) -> ArgumentConstraint:
    value = _json(node, path)
    try:
        return parse_constraint(value)
    except Invalid as error:
        keys = error.params.get("path")
        at, where = node, path
        for key in keys if isinstance(keys, list) else []:
            where = f"{where}.{key}"
            at = next((child for name, child in _children(at) if name == key), at)
        raise READ.mistake(line_of(at), where, str(error.params.get("expected", error.detail))) from error


def _children(node: Node) -> list[tuple[str, Node]]:
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _json(node: Node, path: str) -> Json:
    """A YAML value that is JSON too."""
    if isinstance(node, yaml.MappingNode):
        return {name: _json(value, f"{path}.{name}") for name, value in READ.members(node, path, ()).items()}
    if is_list(node):
        return READ.items(node, path, _json)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str":
        return str(node.value)
    if kind == "bool":
        return READ.flag(node, path)
    if kind == "null":
        return None
    if kind == "int" and _WHOLE.fullmatch(node.value):
        return int(node.value)
    if kind == "float" and (number := _float(node.value)) is not None:
        return number
    raise READ.mistake(line_of(node), path, "a text, a decimal number, true, false, null, a list or a mapping")


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _request(node: Node, path: str) -> RoleRequest:
    known = ("max_duration", "approval", "teams", "max_total", "max_advance")
    members = READ.members(node, path, known, required=("max_duration", "approval"))

    def seconds(name: str, most: int) -> int:
        return READ.duration(members[name], f"{path}.{name}", most=most)

    longest = seconds("max_duration", 30 * DAY)
    total = seconds("max_total", 90 * DAY) if "max_total" in members else None
    if total is not None and total < longest:
        raise READ.mistake(line_of(members["max_total"]), f"{path}.max_total", "no less than max_duration")
    return RoleRequest(
        longest,
        READ.text(members["approval"], f"{path}.approval"),
        tuple(READ.items(members["teams"], f"{path}.teams", READ.text)) if "teams" in members else None,
        total,
        seconds("max_advance", 90 * DAY) if "max_advance" in members else 7 * DAY,
    )


def _uri(node: Node, path: str) -> str:
    return reading.pattern(node, path, _URI_OR_GLOB, "what URIs have, and *")


def _object(node: Node, path: str) -> str:
    return reading.pattern(node, path, _OBJECT_OR_GLOB, "letters, digits and _ . - $ *")


def _access_class(node: Node, path: str) -> str:
    return READ.one_of(node, path, ACCESS_CLASSES)


def _privilege(node: Node, path: str) -> str:
    return READ.one_of(node, path, PRIVILEGES)
