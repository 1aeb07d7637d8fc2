"""What the arguments of a call must be: one exact value, a value of a schema, or any.

The schema language is a subset of JSON Schema (2020-12) that says what it seems to say: every keyword stands with the
`type` it is about, an object with `properties` says whether it may have others, and a `pattern` has both its anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import Pattern, compile_pattern
from jitaccess.kernel.strictjson import Json, JsonView

DOMAIN = "jitaccess-args-v1"
MAX_DEPTH, MAX_SCHEMAS, MAX_CHOICES = 10, 500, 100
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_ABOUT = {
    "properties": ("object",),
    "required": ("object",),
    "additionalProperties": ("object",),
    "items": ("array",),
    "maxItems": ("array",),
    "minItems": ("array",),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "minLength": ("string",),
    "maxLength": ("string",),
    "pattern": ("string",),
}
_KEYWORDS = ("type", "enum", "const", "title", "description", *_ABOUT)
_Where = tuple[str | int, ...]


class Mode(StrEnum):
    ANY = "any"
    SCHEMA = "schema"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Schema:
    """A value's schema, ready for use. None: no bound."""

    types: frozenset[str]
    choices: frozenset[bytes] | None = None
    properties: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    others: Schema | bool = True
    items: Schema | None = None
    least: float | None = None
    most: float | None = None
    shortest: int = 0
    longest: int | None = None
    pattern: Pattern | None = None

    def difference(self, value: JsonView, where: str = "") -> str | None:
        """Where and how `value` is not of this schema; None when it is. `where` is its JSON pointer (RFC 6901)."""
        if self.types and not self.types & _types_of(value):
            return f"{where or '/'} is not of type {' or '.join(sorted(self.types))}"
        if self.choices is not None and canonical(value) not in self.choices:
            return f"{where or '/'} is none of the values that are allowed"
        if isinstance(value, str):
            return self._of_text(value, where)
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            out = (self.least is not None and value < self.least) or (self.most is not None and value > self.most)
            return f"{where or '/'} is out of bounds" if out else None
        if isinstance(value, Mapping):
            return self._of_object(value, where)
        return self._of_list(value, where) if isinstance(value, Sequence) else None

    def _of_text(self, value: str, where: str) -> str | None:
        if len(value) < self.shortest or (self.longest is not None and len(value) > self.longest):
            return f"{where or '/'} is too short or too long"
        if self.pattern is not None:
            try:
                matches = self.pattern.matches(value)
            except Invalid:  # a lone surrogate
                matches = False
            return None if matches else f"{where or '/'} does not match {self.pattern.source}"
        return None

    def _of_object(self, value: Mapping[str, JsonView], where: str) -> str | None:
        for name in sorted(self.required - value.keys()):
            return f"{_below(where, name)} is missing"
        for name in sorted(value):
            schema = self.properties.get(name, self.others)
            if schema is False:
                return f"{_below(where, name)} is not allowed"
            if isinstance(schema, Schema) and (found := schema.difference(value[name], _below(where, name))):
                return found
        return None

    def _of_list(self, value: Sequence[JsonView], where: str) -> str | None:
        if len(value) < self.shortest or (self.longest is not None and len(value) > self.longest):
            return f"{where or '/'} has too few or too many items"
        for number, item in enumerate(value):
            if self.items and (found := self.items.difference(item, _below(where, number))):
                return found
        return None


@dataclass(frozen=True, slots=True)
class ArgumentConstraint:
    """What arguments must be. `digest` is of the exact ones, `value` the same where it is known, for people.

    `answers`: with the exact ones, what the client answers to questions of the server may be anything.
    """

    mode: Mode
    digest: str = ""
    value: Json = None
    schema: Schema | None = None
    answers: bool = False

    def difference(self, arguments: JsonView, digest_: str) -> str | None:
        """Where and how these arguments, with this digest, differ; None when they are allowed."""
        if self.mode is Mode.EXACT:
            if digest_ == self.digest:
                return None
            return "the arguments differ" + (f" at {_first(self.value, arguments)}" if self.value is not None else "")
        if self.schema is None:
            return None
        found = self.schema.difference(arguments)
        return None if found is None else f"the arguments differ: {found}"


def arguments_digest(arguments: JsonView) -> str:
    """The digest by which exact arguments are known. Raises Invalid as kernel.canonical does."""
    return digest(arguments, domain=DOMAIN)


def parse_constraint(value: Json) -> ArgumentConstraint:
    """The constraint in {"mode": "any"}, {"mode": "schema", "schema": {…}} or {"mode": "exact"} with "value", "digest"
    or both, and "answers": true. Raises Invalid("arguments.invalid", params path as a list of keys, expected).
    """
    members = _object(value, (), ("mode", "schema", "value", "digest", "answers"))
    mode = members.get("mode")
    if not isinstance(mode, str) or mode not in set(Mode):
        _refuse(("mode",) if "mode" in members else (), "mode: one of exact, schema, any")
    own = {Mode.ANY: set(), Mode.SCHEMA: {"schema"}, Mode.EXACT: {"value", "digest", "answers"}}[Mode(mode)]
    for name in sorted(members.keys() - own - {"mode"}):
        _refuse((name,), f"no such key with mode {mode}")
    if mode == Mode.ANY:
        return ArgumentConstraint(Mode.ANY)
    if mode == Mode.EXACT:
        return _exact(members)
    if "schema" not in members:
        _refuse((), "schema, which is missing")
    schema = _Parser().schema(members["schema"], ("schema",))
    if schema.types != {"object"}:
        _refuse(("schema",), "a schema of type object: arguments are one")
    return ArgumentConstraint(Mode.SCHEMA, schema=schema)


def _exact(members: Mapping[str, Json]) -> ArgumentConstraint:
    value, given, answers = members.get("value"), members.get("digest"), members.get("answers", False)
    if not isinstance(answers, bool):
        _refuse(("answers",), "true or false")
    if "value" in members:
        if not isinstance(value, dict):
            _refuse(("value",), "an object with the arguments")
        found = arguments_digest(value)
        if given not in (None, found):
            _refuse(("digest",), "the digest of the value")
        return ArgumentConstraint(Mode.EXACT, found, value, answers=answers)
    if not isinstance(given, str) or not given.startswith("sha256:"):
        _refuse(("digest",) if "digest" in members else (), 'value: the exact arguments; or digest: "sha256:…"')
    return ArgumentConstraint(Mode.EXACT, given, answers=answers)


@dataclass(slots=True)
class _Parser:
    schemas: int = 0

    def schema(self, value: Json, at: _Where) -> Schema:
        self.schemas += 1
        if len(at) > 2 * MAX_DEPTH or self.schemas > MAX_SCHEMAS:
            _refuse(at, "a smaller schema")
        members = _object(value, at, _KEYWORDS)
        types = self._types(members, at)
        for name, about in _ABOUT.items():
            if name in members and not types & set(about):
                _refuse((*at, name), f"type: {' or '.join(about)} beside it")
        if not types and not {"enum", "const"} & members.keys():
            _refuse(at, "type, enum or const: a schema without them allows anything")
        properties = self._properties(members, at)
        shortest, longest = self._sizes(members, types, at)
        return Schema(
            types,
            _choices(members, at),
            properties,
            self._required(members, at),
            self._others(members, at),
            self.schema(members["items"], (*at, "items")) if "items" in members else None,
            _number(members, "minimum", at),
            _number(members, "maximum", at),
            shortest,
            longest,
            _pattern(members, at),
        )

    def _types(self, members: Mapping[str, Json], at: _Where) -> frozenset[str]:
        if "type" not in members:
            return frozenset()
        value = members["type"]
        found = value if isinstance(value, list) else [value]
        if not found or any(one not in _TYPES for one in found):
            _refuse((*at, "type"), f"one of {', '.join(_TYPES)}, or a list of them")
        return frozenset(map(str, found))

    def _properties(self, members: Mapping[str, Json], at: _Where) -> dict[str, Schema]:
        value = members.get("properties", {})
        if not isinstance(value, dict):
            _refuse((*at, "properties"), "an object with a schema for each name")
        if "properties" in members and "additionalProperties" not in members:
            _refuse(at, "additionalProperties: false (or true, or a schema) beside properties")
        return {name: self.schema(one, (*at, "properties", name)) for name, one in value.items()}

    def _required(self, members: Mapping[str, Json], at: _Where) -> frozenset[str]:
        value = members.get("required", [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            _refuse((*at, "required"), "a list of names")
        return frozenset(map(str, value))

    def _others(self, members: Mapping[str, Json], at: _Where) -> Schema | bool:
        value = members.get("additionalProperties", True)
        return value if isinstance(value, bool) else self.schema(value, (*at, "additionalProperties"))

    def _sizes(self, members: Mapping[str, Json], types: frozenset[str], at: _Where) -> tuple[int, int | None]:
        found = {name for name in ("minLength", "maxLength", "minItems", "maxItems") if name in members}
        if {name[3:] for name in found} == {"Length", "Items"}:
            _refuse(at, "the length of a text or the number of items, not both in one schema")
        if found and {"string", "array"} <= types:
            _refuse((*at, "type"), "string or array, not both, beside a length")
        sizes: dict[str, int] = {}
        for name in found:
            value = members[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                _refuse((*at, name), "a whole number, at least 0")
            sizes[name[:3]] = value
        return sizes.get("min", 0), sizes.get("max")


def _choices(members: Mapping[str, Json], at: _Where) -> frozenset[bytes] | None:
    choices = members.get("enum")
    if "enum" in members and (not isinstance(choices, list) or not 0 < len(choices) <= MAX_CHOICES):
        _refuse((*at, "enum"), f"a list of 1 to {MAX_CHOICES} values")
    listed = frozenset(map(canonical, choices)) if isinstance(choices, list) else None
    if "const" not in members:
        return listed
    only = frozenset({canonical(members["const"])})
    return only if listed is None else only & listed


def _number(members: Mapping[str, Json], name: str, at: _Where) -> float | None:
    value = members.get(name)
    if name in members and (isinstance(value, bool) or not isinstance(value, int | float)):
        _refuse((*at, name), "a number")
    return value if isinstance(value, int | float) else None


def _pattern(members: Mapping[str, Json], at: _Where) -> Pattern | None:
    if "pattern" not in members:
        return None
    value = members["pattern"]
    if not isinstance(value, str) or not (value.startswith("^") and value.endswith("$")):
        _refuse((*at, "pattern"), "a regex for the whole text, from ^ to $")
    try:
        return compile_pattern(value)
    except Invalid as error:
        _refuse((*at, "pattern"), f"a regex from ^ to $ ({error.detail})")


def _object(value: Json, at: _Where, known: Sequence[str]) -> dict[str, Json]:
    if not isinstance(value, dict):
        _refuse(at, f"an object with {', '.join(known)}")
    for name in value:
        if name not in known:
            _refuse((*at, name), f"no such key here; known are {', '.join(known)}")
    return value


def _types_of(value: JsonView) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, str):
        return frozenset({"string"})
    if isinstance(value, int | float):
        return frozenset({"integer", "number"} if value == int(value) else {"number"})
    return frozenset({"object" if isinstance(value, Mapping) else "array"})


def _first(expected: JsonView, found: JsonView, where: str = "") -> str:
    """The pointer of the first place where two values differ."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in sorted(expected.keys() | found.keys()):
            if name not in expected or name not in found:
                return _below(where, name)
            if canonical(expected[name]) != canonical(found[name]):
                return _first(expected[name], found[name], _below(where, name))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if canonical(one) != canonical(other):
                return _first(one, other, _below(where, number))
    return where or "/"


def _below(where: str, name: str | int) -> str:
    return f"{where}/{str(name).replace('~', '~0').replace('/', '~1')}"


def _refuse(at: _Where, expected: str) -> NoReturn:
    where = ".".join(map(str, at)) or "arguments"
    raise Invalid("arguments.invalid", f"{where}: expected {expected}.", path=list(at), expected=expected)
