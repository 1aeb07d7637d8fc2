"""The operator's file: read strictly, every mistake with its line; and what questions become by it."""

from __future__ import annotations

import pytest

from jitaccess.api.authzen.entities import Action, Entity, Question
from jitaccess.api.authzen.vocabulary import NOTHING, Target, parse
from jitaccess.kernel.errors import Invalid

pytestmark = pytest.mark.pure
HEAD = "kind: authzen\nversion: v1\nspec:\n"
RECORDS = (
    HEAD
    + """\
  enforcement_points: [records-app]
  subjects: {user: {agent: records-app}}
  resources:
    record:
      server: records
      actions: {read: read_record}
      arguments:
        id: resource.id
        status: resource.properties.status
        role: subject.properties.role
        kind: action.properties.kind
"""
)
QUESTION = Question(
    Entity("user", "bob", {"role": "admin"}),
    Action("read", {"kind": "full"}),
    Entity("record", "record-1", {"status": None}),
    {"hour": 7},
)


def test_nothing_said_means_nothing():
    assert parse("") == NOTHING
    assert parse(HEAD + "  subjects: {}\n") == NOTHING


def test_a_type_of_the_operators_becomes_a_call_with_arguments():
    kind = parse(RECORDS).resources["record"]
    arguments = {"id": "record-1", "kind": "full"}
    assert kind.target(QUESTION, trusted=False) == Target("records", "read_record", arguments, exact=True)
    trusted = kind.target(QUESTION, trusted=True)
    assert trusted is not None
    assert trusted.arguments == arguments | {"role": "admin"}
    other = Question(QUESTION.subject, Action("paint"), QUESTION.resource)
    assert kind.target(other, trusted=True) is None


def test_a_segment_in_braces_becomes_an_argument():
    words = parse(HEAD + '  locations: [{path: "/records/{id}", methods: [GET], tool: records/read/it}]\n')
    assert words.located("GET", "/records/r%201?x=/..") == Target("records", "read/it", {"id": "r 1"}, exact=True)
    assert words.located("GET", "/records") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kind: other\nversion: v1\nspec: {}\n", "kind"),
        ("kind: authzen\nversion: v2\nspec: {}\n", "version"),
        (HEAD + "  enforcement_points: gate\n", "spec.enforcement_points"),
        (HEAD + "  subjects: {user: gate}\n", "spec.subjects.user"),
        (HEAD + "  resources: {tool: {server: a, actions: {}}}\n", "spec.resources.tool"),
        (HEAD + "  resources: {record: {actions: {}}}\n", "spec.resources.record.server"),
        (
            HEAD + "  resources: {record: {server: a, actions: {}, arguments: {x: context.hour}}}\n",
            "spec.resources.record.arguments.x",
        ),
        (HEAD + "  locations: [{path: x, methods: [GET], tool: a/b}]\n", "spec.locations[1].path"),
        (HEAD + '  locations: [{path: "/a/*", methods: [GET], tool: a/b}]\n', "spec.locations[1].path"),
        (HEAD + "  locations: [{path: /a, methods: [get], tool: a/b}]\n", "spec.locations[1].methods"),
        (HEAD + "  locations: [{path: /a, methods: [], tool: a/b}]\n", "spec.locations[1].methods"),
        (HEAD + "  locations: [{path: /a, methods: [GET], tool: b}]\n", "spec.locations[1].tool"),
        (HEAD + "  other: 1\n", "spec.other"),
    ],
)
def test_a_mistake_names_its_place(text: str, path: str):
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert caught.value.params["path"] == path
    assert caught.value.params["line"]
