"""The information model of AuthZEN (Authorization API 1.0, "Information Model"), read from JSON. Pure.

Unknown members are ignored, as its section on JSON serialization asks for; what is known has to be of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

Read = TypeVar("Read")
SEMANTICS = ("execute_all", "deny_on_first_deny", "permit_on_first_permit")
MAX_EVALUATIONS = 100
MAX_NAME = 500  # characters of a type, an id or the name of an action


@dataclass(frozen=True, slots=True)
class Entity:
    """A Subject or a Resource."""

    type: str
    id: str
    properties: JsonObject | None = None

    def data(self) -> JsonObject:
        return {"type": self.type, "id": self.id} | _properties(self.properties)


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    properties: JsonObject | None = None

    def data(self) -> JsonObject:
        return {"name": self.name} | _properties(self.properties)


@dataclass(frozen=True, slots=True)
class Question:
    """One Access Evaluation: may `subject` do `action` to `resource`?"""

    subject: Entity
    action: Action
    resource: Entity
    context: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Questions:
    """An Access Evaluations request. An item that cannot be read is the error to answer it with."""

    items: Sequence[Question | JitAccessError]
    semantic: str


def question(body: Mapping[str, Json]) -> Question:
    """Raises Invalid("authzen.malformed") where a required member is missing or one is of another type."""
    return Question(
        required(body, "subject", entity),
        required(body, "action", action),
        required(body, "resource", entity),
        optional(body, "context", an_object) or {},
    )


def questions(body: Mapping[str, Json]) -> Question | Questions:
    """One question when there is no list of them. Defaults are replaced whole, never merged. Raises Invalid."""
    asked = optional(body, "evaluations", a_list)
    if not asked:
        return question(body)
    if len(asked) > MAX_EVALUATIONS:
        raise Invalid("authzen.too_many", f"At most {MAX_EVALUATIONS} evaluations in one request, not {len(asked)}.")
    defaults = {name: body[name] for name in ("subject", "action", "resource", "context") if name in body}
    for name, read in (("subject", entity), ("action", action), ("resource", entity), ("context", an_object)):
        optional(defaults, name, read)
    options = optional(body, "options", an_object) or {}
    semantic = optional(options, "evaluations_semantic", text, "options.") or SEMANTICS[0]
    if semantic not in SEMANTICS:
        raise malformed("options.evaluations_semantic", f"one of {', '.join(SEMANTICS)}")
    return Questions([_item(one, defaults, f"evaluations[{number}]") for number, one in enumerate(asked)], semantic)


def _item(value: Json, defaults: JsonObject, where: str) -> Question | JitAccessError:
    try:
        return question(defaults | an_object(value, where))
    except Invalid as error:
        return error


def entity(value: Json, where: str) -> Entity:
    members = an_object(value, where)
    return Entity(
        required(members, "type", text, f"{where}."),
        required(members, "id", text, f"{where}."),
        optional(members, "properties", an_object, f"{where}."),
    )


def action(value: Json, where: str) -> Action:
    members = an_object(value, where)
    return Action(required(members, "name", text, f"{where}."), optional(members, "properties", an_object, f"{where}."))


def required(members: Mapping[str, Json], name: str, read: Callable[[Json, str], Read], path: str = "") -> Read:
    if name not in members:
        raise malformed(f"{path}{name}", "this member, which is missing")
    return read(members[name], f"{path}{name}")


def optional(members: Mapping[str, Json], name: str, read: Callable[[Json, str], Read], path: str = "") -> Read | None:
    return read(members[name], f"{path}{name}") if name in members else None


def an_object(value: Json, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise malformed(where, "an object")
    return value


def text(value: Json, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise malformed(where, f"a string of 1 to {MAX_NAME} characters")
    return value


def any_text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise malformed(where, "a string")
    return value


def a_list(value: Json, where: str) -> list[Json]:
    if not isinstance(value, list):
        raise malformed(where, "an array")
    return value


def same(one: Json, other: Json) -> bool:
    """Structural comparison (Access Request and Approval Profile, "Binding Token Integrity"): by RFC 8785 form."""
    return canonical(one) == canonical(other)


def malformed(where: str, expected: str) -> Invalid:
    where = visible(where, limit=200)
    return Invalid("authzen.malformed", f"{where}: expected {expected}.", where=where)


def _properties(value: JsonObject | None) -> JsonObject:
    return {} if value is None else {"properties": value}
