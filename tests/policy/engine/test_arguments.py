"""Constraints of arguments: the exact ones, a schema that means what it says, or any."""

from __future__ import annotations

from typing import Any

import pytest

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.engine.arguments import ArgumentConstraint, Mode, arguments_digest, parse_constraint

TEXT = {"type": "string"}


def schema(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "additionalProperties": False}


def of(document: dict[str, Any]) -> ArgumentConstraint:
    return parse_constraint({"mode": "schema", "schema": document})


def differs(constraint: ArgumentConstraint, arguments: Any) -> str | None:
    return constraint.difference(arguments, arguments_digest(arguments))


def test_exact_arguments_are_known_by_their_digest_whatever_the_order_of_keys() -> None:
    constraint = parse_constraint({"mode": "exact", "value": {"a": 1, "b": [1.0, {"c": "é"}]}})
    assert differs(constraint, {"b": [1, {"c": "é"}], "a": 1.0}) is None
    assert differs(constraint, {"a": 1, "b": [1, {"c": "e"}]}) == "the arguments differ at /b/1/c"
    assert differs(constraint, {"a": 1}) == "the arguments differ at /b"
    assert differs(constraint, {"a": 1, "b": [1, {"c": "é"}], "x/~": 0}) == "the arguments differ at /x~1~0"
    by_digest = parse_constraint({"mode": "exact", "digest": constraint.digest})
    assert differs(by_digest, {"a": 1, "b": [1, {"c": "é"}]}) is None
    assert differs(by_digest, {}) == "the arguments differ"


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [
        (TEXT, ["", "a"], [1, None, [], {}, True]),
        ({"type": "integer"}, [0, -1, 1.0], [1.5, True, "1"]),
        ({"type": "number", "minimum": 0, "maximum": 10}, [0, 10, 9.5], [-1, 11, True, "5"]),
        ({"type": "boolean"}, [True], [0, "true"]),
        ({"type": ["string", "null"], "maxLength": 2}, [None, "ab"], ["abc", 0]),
        ({"type": "string", "minLength": 1}, ["a"], [""]),
        ({"type": "string", "pattern": "^/srv/[a-z]+$"}, ["/srv/a"], ["/srv/a\n", "x/srv/a", "/srv/", "\ud800"]),
        ({"type": "string", "pattern": "^a|b$"}, ["a", "b"], ["ax", "xb"]),
        ({"enum": [1, "a", None]}, [1, 1.0, "a", None], [True, "1", 2]),
        ({"const": {"x": [1]}}, [{"x": [1.0]}], [{"x": [1, 2]}, {"x": [1], "y": 1}]),
        ({"type": "array", "items": TEXT, "maxItems": 2, "minItems": 1}, [["a"], ["a", "b"]], [[], ["a"] * 3, [1]]),
        (schema(a=TEXT) | {"required": ["a"]}, [{"a": ""}], [{}, {"a": "", "b": 1}, []]),
        ({"type": "object", "additionalProperties": TEXT}, [{}, {"a": "b"}], [{"a": 1}]),
    ],
)
def test_a_schema_means_what_it_says(member: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    constraint = of(schema(x=member))
    for value in good:
        assert constraint.difference({"x": value}, "") is None, value
    for value in bad:
        assert "/x" in str(constraint.difference({"x": value}, "")), value
    assert "/y is not allowed" in str(constraint.difference({"y": 1}, ""))


def test_any_is_any() -> None:
    constraint = parse_constraint({"mode": "any"})
    assert constraint.mode is Mode.ANY
    assert differs(constraint, {"x": 1}) is None


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        ([], [], "an object with mode"),
        ({}, [], "mode: one of"),
        ({"mode": []}, ["mode"], "one of exact, schema, any"),
        ({"mode": "some"}, ["mode"], "one of exact, schema, any"),
        ({"mode": "any", "value": {}}, ["value"], "no such key"),
        ({"mode": "exact"}, [], "value: the exact arguments"),
        ({"mode": "exact", "value": [1]}, ["value"], "an object"),
        ({"mode": "exact", "value": {}, "digest": "sha256:0"}, ["digest"], "the digest of the value"),
        ({"mode": "exact", "digest": 5}, ["digest"], "sha256:"),
        ({"mode": "schema"}, [], "schema, which is missing"),
    ],
)
def test_a_constraint_that_is_none_is_refused(value: Any, path: list[str], expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_constraint(value)
    assert caught.value.code == "arguments.invalid"
    assert caught.value.params["path"] == path
    assert expected in str(caught.value.params["expected"])


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ({}, [], "type, enum or const"),
        ({"type": "string"}, [], "of type object"),
        ({"type": ["object", "null"]}, [], "of type object"),
        ({"type": "object", "patternProperties": {}}, ["patternProperties"], "no such key"),
        ({"type": "object", "$ref": "#"}, ["$ref"], "no such key"),
        ({"type": "object", "properties": {}}, [], "additionalProperties: false"),
        (schema(x={"pattern": "^a$"}), ["properties", "x", "pattern"], "type: string beside it"),
        (schema(x={"type": "array", "minimum": 1}), ["properties", "x", "minimum"], "type: integer or number"),
        (schema(x={}), ["properties", "x"], "allows anything"),
        (schema(x={"type": "text"}), ["properties", "x", "type"], "one of array"),
        (schema(x={"type": "string", "pattern": "/srv/"}), ["properties", "x", "pattern"], "from ^ to $"),
        (schema(x={"type": "string", "pattern": "^(a$"}), ["properties", "x", "pattern"], "from ^ to $"),
        (schema(x={"type": "string", "maxLength": -1}), ["properties", "x", "maxLength"], "a whole number"),
        (schema(x={"type": "string", "maxLength": True}), ["properties", "x", "maxLength"], "a whole number"),
        (schema(x={"enum": []}), ["properties", "x", "enum"], "1 to 100"),
        (schema(x={"type": "array", "items": True}), ["properties", "x", "items"], "an object with type"),
        (schema(x=5), ["properties", "x"], "an object with type"),
        (schema(x=TEXT) | {"required": "x"}, ["required"], "a list of names"),
    ],
)
def test_a_schema_that_would_say_less_than_it_seems_is_refused(
    document: dict[str, Any], path: list[str], expected: str
) -> None:
    with pytest.raises(Invalid) as caught:
        of(document)
    assert caught.value.params["path"] == ["schema", *path]
    assert expected in str(caught.value.params["expected"])


def test_a_schema_is_of_bounded_size() -> None:
    deep: dict[str, Any] = TEXT
    for _ in range(25):
        deep = {"type": "array", "items": deep}
    with pytest.raises(Invalid, match="smaller"):
        of(schema(x=deep))
    with pytest.raises(Invalid, match="smaller"):
        of(schema(**{f"x{number}": TEXT for number in range(600)}))
