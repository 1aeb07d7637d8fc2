"""A tool's schema as fields, and what was typed as arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest

from requests_app.inputs import Field, fields_of, filled, typed_of


def fields(**schema: Any) -> tuple[Field, ...] | None:
    return fields_of(json.dumps({"name": "t", "inputSchema": {"type": "object", **schema}}))


def one(schema: Any) -> Field:
    (field,) = fields(properties={"a": schema}) or ()
    return field


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "long"),
        ({"type": "string", "maxLength": 20}, "text"),
        ({"type": ["integer", "null"]}, "whole"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "choice"),
        ({"enum": ["x", 1, None]}, "choice"),
        ({"enum": ["1", 1]}, "json"),  # two choices that would look the same
        ({"enum": ["a\u202e"]}, "json"),
        ({"const": "x"}, "choice"),
        ({"type": "array", "items": {"type": "string"}}, "lines"),
        ({"type": "array"}, "json"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "json"),
        (True, "json"),
        ("hostile", "json"),
    ],
)
def test_each_kind_of_property_has_its_kind_of_field(schema: Any, kind: str) -> None:
    assert one(schema).kind == kind


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"a\u200b": {}}},
        {"properties": {"": {}}},
        {"properties": {str(number): {} for number in range(31)}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "required": [["a"]]},
        {"properties": {"a": {}}, "oneOf": []},
        {"properties": []},
    ],
)
def test_what_a_form_cannot_say_is_written_as_json(schema: Any) -> None:
    assert fields(**schema) is None


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, " 7 ", 7),
        ({"type": "integer"}, "-9007199254740991", -9007199254740991),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "boolean"}, "false", False),
        ({"enum": ["x", 1]}, "1", 1),
        ({"type": "object"}, '{"b": [1]}', {"b": [1]}),
        ({}, "null", None),
        ({"type": "string"}, " two\r\nlines", " two\nlines"),
    ],
)
def test_what_is_typed_becomes_the_very_value(schema: Any, text: str, value: Any) -> None:
    found = filled([one(schema)], {"a": text})
    assert (found.arguments, found.wrong) == ({"a": value}, {})
    assert type(found.arguments["a"]) is type(value)
    assert typed_of([one(schema)], {"a": value}) is not None


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "7.0"),
        ({"type": "integer", "minimum": 8}, "7"),
        ({"type": "integer"}, "\u0667"),
        ({"type": "integer"}, "9" * 40),
        ({"type": "integer"}, "9007199254740992"),
        ({"type": "number"}, "1e5"),
        ({"type": "boolean"}, "yes"),
        ({"type": "object"}, '1, "other": 2'),
        ({"type": "object"}, '1}, {"x": 2'),
        ({"type": "object"}, "{"),
        ({"type": "string", "maxLength": 2}, "abc"),
    ],
)
def test_what_does_not_fit_is_wrong_and_no_argument(schema: Any, text: str) -> None:
    found = filled([one(schema)], {"a": text})
    assert found.arguments == {}
    assert "a" in found.wrong


def test_nothing_typed_is_no_argument_and_wrong_only_where_it_is_needed() -> None:
    found = filled(fields(properties={"a": {}, "b": {}}, required=["b"]) or (), {"a": " ", "c": "x"})
    assert (found.arguments, found.wrong) == ({}, {"b": "This is needed."})


@pytest.mark.parametrize("value", ["", " ", "a\r\nb", 5, ["x"], None])
def test_arguments_that_the_fields_cannot_say_stay_json(value: Any) -> None:
    assert typed_of([one({"type": "string"})], {"a": value}) is None
    assert typed_of([one({"type": "string"})], {"b": "x"}) is None
