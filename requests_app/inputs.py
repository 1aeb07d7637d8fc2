"""A tool's arguments as a form that people fill in: fields from its JSON Schema, and back to the very arguments.

Only what a field says exactly becomes one; a property of any other kind is written as JSON, and arguments that do not
come as properties at all are one JSON object. Schemas come from servers: everything in them is hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

MOST_FIELDS, LONGEST_NAME, MOST_CHOICES = 30, 80, 100
_LONGEST_CHOICE = 200
NEEDED = "This is needed."
_NUMBER = re.compile(r"-?\d{1,16}(\.\d{1,15})?")
_LARGEST = 2**53 - 1  # that every reader of JSON takes for the same
_YES_NO = ("true", "false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One property. `kind`: text, long (several lines), whole, number, choice, lines (a list of texts, one in each
    line) or json. `choices` are as they are sent; `hint` is inert; `least`, `most`: bounds of a number.
    """

    name: str
    kind: str
    required: bool
    hint: str = ""
    choices: tuple[str, ...] = ()
    values: tuple[Json, ...] = ()
    least: float | None = None
    most: float | None = None
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """The arguments, and what is wrong by the name of its property; with something wrong they are not whole."""

    arguments: JsonObject
    wrong: Mapping[str, str]


def fields_of(definition: str) -> tuple[Field, ...] | None:
    """The fields for a tool, those that are needed first; None where its arguments can only be written as JSON."""
    try:
        schema: Any = strictjson.decode(definition.encode()).get("inputSchema")
    except (Invalid, UnicodeEncodeError):
        return None
    if not isinstance(schema, dict) or {"anyOf", "oneOf", "allOf", "$ref", "if", "patternProperties"} & schema.keys():
        return None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or len(properties) > MOST_FIELDS:
        return None
    if any(len(name) > LONGEST_NAME or visible(name, limit=LONGEST_NAME) != name or not name for name in properties):
        return None
    if not all(isinstance(name, str) and name in properties for name in required):
        return None
    if not properties and schema.get("additionalProperties") is not False:
        return None
    found = [_field(name, one, required=name in required) for name, one in properties.items()]
    return tuple(sorted(found, key=lambda one: not one.required))


def filled(fields: Iterable[Field], given: Mapping[str, str]) -> Filled:
    """What was typed, by property; nothing typed is no argument."""
    arguments: JsonObject = {}
    wrong: dict[str, str] = {}
    for field in fields:
        text = given.get(field.name, "").replace("\r\n", "\n")
        if not text.strip():
            if field.required:
                wrong[field.name] = NEEDED
            continue
        try:
            arguments[field.name] = _value(field, text)
        except Invalid as error:
            wrong[field.name] = error.detail
    return Filled(arguments, wrong)


def typed_of(fields: Iterable[Field], arguments: JsonObject) -> dict[str, str] | None:
    """What would be typed for these very arguments; None when the form cannot say them."""
    found = {field.name: _text(field, arguments[field.name]) for field in fields if field.name in arguments}
    if found.keys() != arguments.keys():
        return None
    typed = {name: text for name, text in found.items() if text is not None}
    back = filled(fields, typed)
    return typed if not back.wrong and canonical(back.arguments) == canonical(arguments) else None


def json_of(text: str, what: str = "The arguments") -> JsonObject:
    """One JSON object; nothing typed is an empty one. Raises Invalid("request.arguments")."""
    try:
        value = strictjson.decode(text.encode() if text.strip() else b"{}")
    except (Invalid, UnicodeEncodeError) as error:
        detail = error.detail if isinstance(error, Invalid) else "this is no text"
        raise Invalid("request.arguments", f"{what} are not JSON: {detail}") from error
    if not isinstance(value, dict):
        raise Invalid("request.arguments", f'{what} are one JSON object, such as {{"path": "docs"}}.')
    return value


def _field(name: str, schema: Json, *, required: bool) -> Field:
    plain = Field(name=name, kind="json", required=required)
    if not isinstance(schema, dict):
        return plain
    told = schema.get("description")
    plain = replace(plain, hint=visible(told, limit=300) if isinstance(told, str) else "")
    schema = _without_null(schema)
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list):
        return _choice(plain, choices)
    match schema.get("type"):
        case "string":
            most = schema.get("maxLength")
            longest = most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else None
            short = (longest is not None and longest <= 200) or isinstance(schema.get("format"), str)
            return replace(plain, kind="text" if short else "long", longest=longest)
        case "boolean":
            return replace(plain, kind="choice", choices=_YES_NO, values=(True, False))
        case "integer" | "number" as kind:
            return replace(
                plain,
                kind="whole" if kind == "integer" else "number",
                least=_bound(schema.get("minimum")),
                most=_bound(schema.get("maximum")),
            )
        case "array" if isinstance(items := schema.get("items"), dict) and items.get("type") == "string":
            return replace(plain, kind="lines")
    return plain


def _without_null(schema: JsonObject) -> JsonObject:
    """What may be null may be left out: the other half of it."""
    both = schema.get("anyOf")
    if isinstance(both, list) and len(both) == 2:
        others = [one for one in both if isinstance(one, dict) and one.get("type") != "null"]
        if len(others) == 1:
            return others[0]
    kinds = schema.get("type")
    if isinstance(kinds, list) and len(kinds) == 2 and "null" in kinds:
        return {**schema, "type": next((kind for kind in kinds if kind != "null"), "null")}
    return schema


def _choice(plain: Field, choices: list[Json]) -> Field:
    texts = [one if isinstance(one, str) else canonical(one).decode() for one in choices]
    legible = all(text.strip() and visible(text, limit=_LONGEST_CHOICE) == text for text in texts)
    if not legible or len(set(texts)) < len(texts) or not 1 <= len(texts) <= MOST_CHOICES:
        return plain
    return replace(plain, kind="choice", choices=tuple(texts), values=tuple(choices))


def _bound(value: Json) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _value(field: Field, text: str) -> Json:
    match field.kind:
        case "choice":
            if text not in field.choices:
                raise Invalid("request.arguments", "Choose one of what is offered.")
            return field.values[field.choices.index(text)]
        case "whole" | "number":
            return _number(field, text.strip())
        case "lines":
            return [line for line in text.split("\n") if line.strip()]
        case "json":
            return _any_value(text)
    if field.longest is not None and len(text) > field.longest:
        raise Invalid("request.arguments", f"At most {field.longest} characters.")
    return text


def _any_value(text: str) -> Json:
    """Wrapped, for a value alone is no object; what closes the wrap and goes on is not one value."""
    try:
        found = strictjson.decode(f'{{"value":{text}}}'.encode())
    except (Invalid, UnicodeEncodeError):
        found = {}
    if found.keys() != {"value"}:
        raise Invalid("request.arguments", 'Write it as JSON: {"a": 1}, [1, 2], "text", 5 or true.')
    return found["value"]


def _number(field: Field, text: str) -> int | float:
    if not (text.isascii() and _NUMBER.fullmatch(text)) or (field.kind == "whole" and "." in text):
        raise Invalid("request.arguments", "A whole number." if field.kind == "whole" else "A number, such as 2.5.")
    value = int(text) if "." not in text else float(text)
    if abs(value) > _LARGEST:
        raise Invalid("request.arguments", f"At most {_LARGEST:,}, either way.")
    if (field.least is not None and value < field.least) or (field.most is not None and value > field.most):
        ends = (("at least", field.least), ("at most", field.most))
        bounds = [f"{word} {end:g}" for word, end in ends if end is not None]
        raise Invalid("request.arguments", f"{' and '.join(bounds).capitalize()}.")
    return value


def _text(field: Field, value: Json) -> str | None:
    match field.kind:
        case "choice":
            known = [one for one, known in zip(field.choices, field.values, strict=True) if _same(known, value)]
            return known[0] if known else None
        case "lines":
            whole = isinstance(value, list) and all(isinstance(one, str) for one in value)
            return "\n".join(map(str, value)) if whole and isinstance(value, list) else None
        case "json":
            return canonical(value).decode()
        case "whole" | "number":
            return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if isinstance(value, str) else None


def _same(one: Json, other: Json) -> bool:
    return canonical(one) == canonical(other)
