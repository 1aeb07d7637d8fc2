"""The published JSON Schemas: as generated, true of every example, and of what the readers take and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from jitaccess.catalog.models import AccessClass, Era
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.document import parse_policy
from jitaccess.policy.engine.roles import ACCESS_CLASSES, parse_role
from jitaccess.policy.models import GRANTED, Requestable, RoleBinding
from jitaccess.runtime.access_files.documents import read_document
from jitaccess.runtime.access_files.kinds import ARGUMENTS, ERAS, KINDS, ORIGINS
from jitaccess.runtime.access_files.policy_shapes import DATABASE_RULE, POLICY_RULE, REQUEST, RULE
from jitaccess.runtime.access_files.schemas import published, schema_of
from tests.runtime.access_files import binding, document

pytestmark = pytest.mark.pure
DOCS = Path(__file__).parents[2] / "docs"


class Loader(yaml.SafeLoader):
    """As editors read (YAML 1.2): a moment is a text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


EXAMPLES = sorted((DOCS / "examples" / "access").rglob("*.yaml"))


_RESOURCES = [(name, Resource.from_contents(json.loads(text))) for name, text in published().items()]
_WHOLE = jsonschema.Draft202012Validator(
    json.loads(published()["document.json"]), registry=Registry().with_resources(_RESOURCES)
)


def valid(value: Any) -> bool:
    """Whether the schema of its kind takes it; the one for all kinds must say the same."""
    answer = jsonschema.Draft202012Validator(schema_of(value["kind"])).is_valid(value)
    assert _WHOLE.is_valid(value) == answer
    return answer


def test_what_is_published_is_what_the_shapes_say() -> None:
    there = {path.name: path.read_text() for path in (DOCS / "schemas").glob("*.json")}
    assert there == published(), "run: python -m jitaccess.runtime.access_files.schemas docs/schemas"
    for kind in KINDS:
        jsonschema.Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_and_names_the_schema_of_its_kind(path: Path) -> None:
    text = path.read_text()
    for value in yaml.load_all(text, Loader):
        assert valid(value)
        [named] = re.findall(r"^# yaml-language-server: \$schema=(.*)$", text, re.MULTILINE)
        assert (path.parent / named).resolve() == DOCS / "schemas" / f"{value['kind']}.json"


@pytest.mark.parametrize("page", ["configuration-as-files.md", "write-a-role.md", "write-an-approval-policy.md"])
def test_every_document_in_the_guides_is_valid_and_reads(page: str) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "guides" / page).read_text(), re.MULTILINE | re.DOTALL)
    whole = [text for block in blocks for text in re.split(r"^---\n", block, flags=re.MULTILINE) if "kind:" in text]
    assert whole
    for text in whole:
        assert read_document(text)
        assert valid(yaml.load(text, Loader)), text


@pytest.mark.parametrize(
    "text",
    [
        document("team", "Big", "{members: []}"),
        document("team", "a", "{members: [anna, anna]}"),
        document("agent", "a", "{owner: olga}"),
        document("agent", "a", "{owner: olga, team: t, labels: {Env: x}}"),
        document("server", "a", "{command: npx}"),
        document("server", "a", "{access: somebody}"),
        document("server", "a", "{tools: {x: wild}}"),
        document("server", "a", "{requestables: [{approval: p}]}"),
        document("server", "a", "{requestables: [{approval: p, tools: [x], max_duration: 90s}]}"),
        document("role", "a", "{allow: [{tools: [x]}]}"),
        document("role", "a", "{request: {approval: x}}"),
        document("approval-policy", "a", "{rules: []}"),
        document("approval-policy", "a", "{rules: [{name: x}]}"),
        document("approval-policy", "a", "{rules: [{name: x, stages: [{groups: [{name: g, people: [anna]}]}]}]}"),
        binding("role: a, as: grant, to: [every-agent]"),
        binding("role: a, as: default, to: []"),
        binding("role: a, as: default, to: [everybody]"),
    ],
)
def test_what_the_readers_refuse_editors_refuse_too(text: str) -> None:
    """Not all of it: what takes looking at two members, or at the installation, only `apply` says."""
    with pytest.raises(Invalid):
        read_document(text)
    assert not valid(yaml.load(text, Loader))


def test_editors_know_the_keys_of_roles_and_policies_that_the_readers_know() -> None:
    """The readers name the keys they know when they meet another."""
    base = {"servers": ["a"], "tools": ["b"]}
    rule = keys(lambda: parse_role(as_yaml("role", {"allow": [base | {"?": 1}]})))
    assert rule == {*RULE.members, *DATABASE_RULE.members}
    request = keys(lambda: parse_role(as_yaml("role", {"request": {"?": 1}})))
    assert request == set(REQUEST.members)
    policy = keys(lambda: parse_policy(as_yaml("approval-policy", {"rules": [{"?": 1}]})))
    assert policy == set(POLICY_RULE.members)


def as_yaml(kind: str, spec: Any) -> str:
    return yaml.safe_dump({"kind": kind, "version": "v1", "metadata": {"name": "a"}, "spec": spec})


def keys(parse: Any) -> set[str]:
    with pytest.raises(Invalid) as error:
        parse()
    return set(str(error.value.params["expected"]).partition("known are ")[2].split(", "))


def test_the_words_of_files_are_those_of_the_tables() -> None:
    assert set(ERAS) == set(Era.values)
    assert set(ARGUMENTS) == set(Requestable.Arguments.values)
    assert set(ACCESS_CLASSES) == set(AccessClass.values)
    assert {str(origin) for origin in RoleBinding.Origin} == {*ORIGINS, *GRANTED}
