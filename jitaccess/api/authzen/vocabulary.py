"""What words of other systems mean here, from the operator's file (JITACCESS_AUTHZEN_FILE); none is needed.

docs/authzen.md shows one: `enforcement_points`, `subjects`, `resources` and `locations`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from django.conf import settings

from jitaccess.api.authzen.entities import Question
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.yamldoc import Node, Reader, line_of

_READ = Reader("authzen.file")
_SOURCE = re.compile(r"(subject|resource|action)\.(?:id|type|name|properties\.[^.\s]+)")
_METHOD = re.compile(r"[A-Z]{1,20}")
_SEGMENT = re.compile(r"\{[a-z_][a-z0-9_]{0,39}\}|[^{}*%?#\s/\\]+")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked about: a tool of a server and the arguments of the call, or a resource or a prompt of it.

    `exact`: the question said which arguments, so that what is asked for is this one call.
    """

    server: str
    name: str
    arguments: JsonObject
    exact: bool = False
    kind: str = "tool"


@dataclass(frozen=True, slots=True)
class ResourceType:
    server: str
    actions: Mapping[str, str]
    arguments: Mapping[str, str]

    def target(self, question: Question, *, trusted: bool) -> Target | None:
        """The call a question is about; None for an action that is none.

        What the asker says of its subject becomes an argument only when the asker is `trusted`, an enforcement point.
        """
        tool = self.actions.get(question.action.name)
        if tool is None:
            return None
        facts: JsonObject = {
            "resource": question.resource.data(),
            "action": question.action.data(),
        }
        if trusted:
            facts["subject"] = question.subject.data()
        found = {name: _follow(facts, source) for name, source in self.arguments.items()}
        arguments: JsonObject = {name: value for name, value in found.items() if value is not None}
        return Target(self.server, tool, arguments, exact=True)


@dataclass(frozen=True, slots=True)
class Location:
    """Paths of a web server that stand for calls of a tool: `{name}` is one segment, which becomes an argument."""

    methods: frozenset[str]
    segments: tuple[str, ...]
    server: str
    tool: str

    def target(self, method: str, path: list[str]) -> Target | None:
        if method not in self.methods or len(path) != len(self.segments):
            return None
        arguments: JsonObject = {}
        for pattern, given in zip(self.segments, path, strict=True):
            if pattern.startswith("{"):
                arguments[pattern[1:-1]] = given
            elif pattern != given:
                return None
        return Target(self.server, self.tool, arguments, exact=bool(arguments))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    enforcement_points: frozenset[str] = frozenset()
    subjects: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, ResourceType] = field(default_factory=dict)
    locations: tuple[Location, ...] = ()

    def located(self, method: str, uri: str) -> Target | None:
        """The call that a request to a web server is; None for one that no location speaks of.

        A path that two programs could read differently (`..`, `//`, an encoded slash, `#`) is never one of them.
        """
        path = uri.partition("?")[0]
        # No client sends a fragment: nginx cuts it off for its locations, and hands it on all the same.
        if "#" in uri or not path.startswith("/") or "\\" in path or ";" in path:
            return None
        try:
            given = [unquote(part, errors="strict") for part in path[1:].split("/")]
        except UnicodeDecodeError:
            return None
        odd = ("", ".", "..")
        if any(part in odd or "/" in part or "%" in part or not part.isprintable() for part in given):
            return None
        return next((found for one in self.locations if (found := one.target(method, given))), None)


NOTHING = Vocabulary()


def parse(text: str) -> Vocabulary:
    """Raises Invalid("authzen.file", line, path, expected)."""
    root = _READ.compose(text)
    if root is None:
        return NOTHING
    top = _READ.members(root, "", ("kind", "version", "spec"), required=("kind", "version", "spec"))
    _READ.exactly(top["kind"], "kind", "authzen")
    _READ.exactly(top["version"], "version", "v1")
    spec = _READ.members(top["spec"], "spec", ("enforcement_points", "subjects", "resources", "locations"))
    return Vocabulary(
        frozenset(_READ.items(spec.get("enforcement_points"), "spec.enforcement_points", _READ.text)),
        {name: _agent(node, f"spec.subjects.{name}") for name, node in _members(spec.get("subjects"), "spec.subjects")},
        {
            name: _resource(node, f"spec.resources.{name}")
            for name, node in _members(spec.get("resources"), "spec.resources")
        },
        tuple(_READ.items(spec.get("locations"), "spec.locations", _location)),
    )


def _members(node: Node | None, path: str) -> list[tuple[str, Node]]:
    return list(_READ.members(node, path, ()).items()) if node is not None else []


def _agent(node: Node, path: str) -> str:
    members = _READ.members(node, path, ("agent",), required=("agent",))
    return _READ.text(members["agent"], f"{path}.agent")


def _resource(node: Node, path: str) -> ResourceType:
    if path.rpartition(".")[2] in OWN_TYPES:
        raise _READ.mistake(line_of(node), path, f"another type than {', '.join(OWN_TYPES)}, which are our own")
    members = _READ.members(node, path, ("server", "actions", "arguments"), required=("server", "actions"))
    actions = _members(members["actions"], f"{path}.actions")
    arguments = _members(members.get("arguments"), f"{path}.arguments")
    return ResourceType(
        _READ.text(members["server"], f"{path}.server"),
        {name: _READ.text(tool, f"{path}.actions.{name}") for name, tool in actions},
        {name: _source(where, f"{path}.arguments.{name}") for name, where in arguments},
    )


def _source(node: Node, path: str) -> str:
    text = _READ.text(node, path)
    if not _SOURCE.fullmatch(text):
        raise _READ.mistake(line_of(node), path, "such as resource.id or subject.properties.NAME")
    return text


def _location(node: Node, path: str) -> Location:
    members = _READ.members(node, path, ("path", "methods", "tool"), required=("path", "methods", "tool"))
    pattern = _READ.text(members["path"], f"{path}.path")
    segments = tuple(pattern[1:].split("/"))
    if not pattern.startswith("/") or not all(_SEGMENT.fullmatch(one) for one in segments):
        raise _READ.mistake(line_of(members["path"]), f"{path}.path", "a path such as /records/{id}")
    methods = _READ.items(members["methods"], f"{path}.methods", _READ.text)
    if not methods or not all(map(_METHOD.fullmatch, methods)):
        raise _READ.mistake(line_of(members["methods"]), f"{path}.methods", "a list of methods such as [GET, HEAD]")
    server, slash, tool = _READ.text(members["tool"], f"{path}.tool").partition("/")
    if not slash or not tool:
        raise _READ.mistake(line_of(members["tool"]), f"{path}.tool", "server/tool")
    return Location(frozenset(methods), segments, server, tool)


def _follow(facts: JsonObject, source: str) -> Json:
    value: Json = facts
    for name in source.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


OWN_TYPES = ("tool", "server", "resource", "prompt")
_lock = threading.Lock()
_seen: tuple[object, Vocabulary | Invalid] | None = None


def vocabulary() -> Vocabulary:
    """As the file says now. Raises Unavailable while it cannot be read: nothing is decided by half of it."""
    global _seen  # noqa: PLW0603 - one file a process, as there is one settings module
    path: Path = settings.AUTHZEN_FILE
    with _lock:
        try:
            found = path.stat()
        except FileNotFoundError:
            return NOTHING
        mark = path, found.st_mtime_ns, found.st_size, found.st_ino
        if _seen is None or _seen[0] != mark:
            try:
                _seen = mark, parse(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                _seen = mark, Invalid("authzen.file", str(error))
            except Invalid as error:
                _seen = mark, error
        if isinstance(_seen[1], Invalid):
            raise Unavailable("authzen.file", "The operator's file for AuthZEN cannot be read.") from _seen[1]
        return _seen[1]
