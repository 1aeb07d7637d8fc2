"""Role documents: read strictly, and every mistake told with its line, its path and what was expected."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.yamldoc import MAX_DOCUMENT
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import Labels, RoleRule, ServerFacts, ToolFacts

HEAD = "kind: role\nversion: v1\nmetadata: {name: some-role}\n"  # three lines
BOMB = HEAD + "spec:\n  allow:\n    - &a {servers: [x], tools: [y]}\n" + "    - *a\n" * 9


def mistake(text: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_role(text)
    assert caught.value.code == "role.invalid"
    assert set(caught.value.params) == {"line", "path", "expected"}
    assert f"line {caught.value.params['line']}" in caught.value.detail
    return caught.value


def tool(name: str, access: str = "read") -> ToolFacts:
    return ToolFacts(UUID(int=1), name, access, "", False, "{}")


def matches(rule: RoleRule, server: str, wanted: ToolFacts) -> bool:
    return rule.servers.matches(server) and rule.covers(wanted)


def test_a_document_becomes_rules() -> None:
    document = parse_role(
        """\
kind: role
version: v1
metadata: {name: report-writer, description: "Write reports", owner: "team:finance"}
spec:
  allow:
    - servers: [files]
      tools: ["get_*", search_files, "^list_[a-z]+$"]
    - servers: ["*"]
      access: [read]
  deny:
    - servers: ["secret-*"]
      tools: ["*"]
""",
        version=4,
    )
    assert (document.name, document.description, document.facts.version) == ("report-writer", "Write reports", 4)
    first, second = document.facts.allow
    assert (first.number, second.number) == (1, 2)
    assert matches(first, "files", tool("get_x", "write"))
    assert matches(first, "files", tool("list_all", "write"))
    assert not matches(first, "file", tool("get_x"))
    assert not matches(first, "files", tool("Get_x"))
    assert matches(second, "other", tool("anything", "read"))
    assert not matches(second, "other", tool("anything", "write"))
    assert matches(document.facts.deny[0], "secret-1", tool("anything"))


@pytest.mark.parametrize(
    "spec",
    [
        "spec: {}",
        "spec: {allow: [], deny: []}",
        "spec:\n  allow:\n  deny:",
        "spec: {allow: [{servers: [], access: [read]}]}",
        "spec: {allow: [{servers: ['*'], tools: []}]}",
        "spec: {allow: [{servers: ['*'], access: []}]}",
    ],
)
def test_empty_means_nothing(spec: str) -> None:
    facts = parse_role(HEAD + spec).facts
    assert not any(matches(one, "git", tool("git_log")) for one in (*facts.allow, *facts.deny))


RULE = "spec:\n  allow:\n    - "  # the rule stands in line 6


@pytest.mark.parametrize(
    ("text", "line", "path", "expected"),
    [
        pytest.param("", 1, "", "a document with kind", id="empty"),
        pytest.param("just text", 1, "", "a mapping with kind", id="no mapping"),
        pytest.param("[]", 1, "", "a mapping with kind", id="a list"),
        pytest.param("kind: role\nversion: v1\nspec: {}", 1, "metadata", "missing", id="no metadata"),
        pytest.param("kind: roll\n" + HEAD[11:] + "spec: {}", 1, "kind", "`role`", id="another kind"),
        pytest.param(HEAD.replace("v1", "1") + "spec: {}", 2, "version", "in quotes", id="version 1"),
        pytest.param(HEAD + "spec: {}\nspecs: {}", 5, "specs", "known are kind", id="unknown key at the top"),
        pytest.param(HEAD + "spec: {}\nspec: {}", 5, "spec", "each key once", id="repeated key"),
        pytest.param(HEAD + "spec:\n  alow: []", 5, "spec.alow", "known are allow, deny", id="unknown key in spec"),
        pytest.param(HEAD + "spec:\n  - allow", 5, "spec", "a mapping with allow", id="spec is a list"),
        pytest.param(HEAD, 1, "spec", "missing", id="no spec at all"),
        pytest.param(HEAD.replace("some-role", "7") + "spec: {}", 3, "metadata.name", "in quotes", id="number as name"),
        pytest.param(
            HEAD.replace("some-role", "true") + "spec: {}", 3, "metadata.name", "in quotes", id="true as name"
        ),
        pytest.param(
            HEAD.replace("some-role", "Some Role") + "spec: {}", 3, "metadata.name", "small letters", id="bad name"
        ),
        pytest.param(
            HEAD.replace("some-role", "x" * 41) + "spec: {}", 3, "metadata.name", "at most 40", id="long name"
        ),
        pytest.param(
            HEAD + "spec:\n  allow:\n    servers: [a]\n    tools: [b]", 6, "spec.allow", "dash", id="rule without dash"
        ),
        pytest.param(HEAD + "spec:\n  allow: everything", 5, "spec.allow", "dash", id="text in place of rules"),
        pytest.param(HEAD + RULE + "everything", 6, "spec.allow[1]", "`servers:`", id="text in place of a rule"),
        pytest.param(HEAD + RULE + "tools: [a]", 6, "spec.allow[1].servers", "missing", id="no servers"),
        pytest.param(HEAD + RULE + "servers: [a]", 6, "spec.allow[1]", "one of them", id="neither tools nor access"),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: [b]\n      access: [read]",
            6,
            "spec.allow[1]",
            "not both",
            id="both",
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tool: [b]",
            7,
            "spec.allow[1].tool",
            "known are servers",
            id="tool for tools",
        ),
        pytest.param(
            HEAD + RULE + "servers: git\n      tools: [b]", 6, "spec.allow[1].servers", "a list", id="no list"
        ),
        pytest.param(
            HEAD + RULE + "servers:\n      tools: [b]", 6, "spec.allow[1].servers", "a list", id="null servers"
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools:\n        git_log\n        git_add",
            8,
            "spec.allow[1].tools",
            "with its dash",
            id="items without dashes",
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools:\n        - git_log\n          - git_add",
            8,
            "spec.allow[1].tools[1]",
            "one in each list item",
            id="a second dash too far right",
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: ['git_log, git_add']",
            7,
            "spec.allow[1].tools[1]",
            "one in each",
            id="comma",
        ),
        pytest.param(HEAD + RULE + "servers: [a]\n     tools: [b]", 7, "", "well-formed", id="wrong indentation"),
        pytest.param(HEAD + RULE + "servers: [a]\n\ttools: [b]", 7, "", "well-formed", id="tab"),
        pytest.param(
            HEAD + RULE + "servers: [a, 5]\n      tools: [b]", 6, "spec.allow[1].servers[2]", "quotes", id="number"
        ),
        pytest.param(
            HEAD + RULE + "servers: [[a]]\n      tools: [b]", 6, "spec.allow[1].servers[1]", "text", id="list in list"
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: ['^a']",
            7,
            "spec.allow[1].tools[1]",
            "ends with $",
            id="open regex",
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: ['^(a$']", 7, "spec.allow[1].tools[1]", "regex", id="bad regex"
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: ['^(a)\\1$']",
            7,
            "spec.allow[1].tools[1]",
            "regex",
            id="back reference",
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      tools: ['']", 7, "spec.allow[1].tools[1]", "a text", id="empty text"
        ),
        pytest.param(
            HEAD + RULE + "servers: [a]\n      access: [reed]",
            7,
            "spec.allow[1].access[1]",
            "one of read, write",
            id="class",
        ),
        pytest.param(HEAD + RULE + "{servers: [a], tools: [b]\n", 7, "", "well-formed", id="not closed"),
        pytest.param(HEAD + "spec: {}\n---\n" + HEAD, 5, "", "well-formed", id="two documents"),
        pytest.param(HEAD + "spec: {}\n# \0", 5, "", "U+0000", id="NUL"),
        pytest.param(HEAD + "spec: {}\n# \ud800", 5, "", "U+D800", id="surrogate"),
        pytest.param(HEAD + 'spec: {allow: "\\UFFFFFFFF"}', 1, "", "well-formed", id="impossible escape"),
        pytest.param(HEAD + "spec: !!python/object:os.system {}", 4, "spec", "a mapping", id="tag on a mapping"),
        pytest.param(HEAD + "spec: {allow: !!set []}", 4, "spec.allow", "a list", id="tag on a list"),
        pytest.param(
            HEAD.replace("some-role", "!!binary aGk=") + "spec: {}", 3, "metadata.name", "a text", id="tag on a text"
        ),
        pytest.param(HEAD + "spec: {? [a] : b}", 4, "spec.?", "known are", id="list as key"),
        pytest.param(HEAD + "spec: {<<: {allow: []}}", 4, "spec.<<", "known are", id="merge key"),
        pytest.param(BOMB, 7, "", "aliases", id="alias"),
        pytest.param("&a [*a]", 1, "", "aliases", id="alias to itself"),
        pytest.param("[" * 5000, 1, "", "too deeply", id="deep"),
        pytest.param("#" * (MAX_DOCUMENT + 1), 1, "", "at most 65536", id="long"),
    ],
)
def test_a_mistake_names_its_line_its_path_and_what_was_expected(
    text: str, line: int, path: str, expected: str
) -> None:
    found = mistake(text)
    assert (found.params["line"], found.params["path"]) == (line, path)
    assert expected in found.params["expected"]


def test_a_mistake_shows_hostile_text_made_visible() -> None:
    found = mistake(HEAD + 'spec: {"al\\u202elow": []}')
    assert "\u202e" not in found.detail
    assert "\\u{202e}" in found.detail
    assert len(mistake(HEAD + f"spec: {{{'x' * 50_000}: []}}").detail) < 400


def test_an_anchor_without_an_alias_is_harmless() -> None:
    assert parse_role(HEAD + "spec: &unused {}").facts.allow == ()


@given(st.text(alphabet="kindrolevs:1 -[]{}*&!|>'\"\\#\n\tx\0U\ud800\u2028", max_size=60))
def test_no_text_gets_anything_but_a_role_or_a_mistake(text: str) -> None:
    for document in (text, HEAD + "spec:\n  allow:\n    - " + text, HEAD + "spec: {allow: [{servers: [" + text):
        try:
            parse_role(document)
        except Invalid as error:
            assert error.code == "role.invalid"
            assert error.params["line"] >= 1


# -- labels, conditions, arguments, resources, prompts, databases, requests --------------------------------------------

FULL = (
    HEAD
    + """\
spec:
  allow:
    - servers: [files, {labels: {env: [staging, "dev-*"]}}]
      tools: [write_file]
      where: args.path.startsWith("/srv/reports/")
    - servers: [files]
      resources: ["file:///srv/*"]
      prompts: [summary]
    - servers: ["*"]
      access: [write]
      arguments:
        mode: schema
        schema:
          type: object
          properties: {path: {type: string, maxLength: 10}}
          additionalProperties: false
    - databases: [shop]
      objects: ["public.products"]
      privileges: [select]
  deny:
    - servers: ["*"]
      labels: {data: pii}
  request: {max_duration: 4h, approval: two-person, teams: [demo], max_total: 8h, max_advance: 1d}
"""
)


def server(slug: str, **labels: str) -> ServerFacts:
    return ServerFacts(UUID(int=2), slug, True, "", None, {}, labels)


def test_a_whole_document_becomes_rules() -> None:
    facts = parse_role(FULL).facts
    by_labels, offered, by_class, database = facts.allow
    assert by_labels.about(server("files"))
    assert by_labels.about(server("other", env="dev-2"))
    assert not by_labels.about(server("other", env="prod"))
    assert not by_labels.about(server("other"))
    assert by_labels.where is not None
    assert by_labels.where.variables == {"args"}
    assert offered.resources.matches("file:///srv/a/b")
    assert offered.prompts.matches("summary")
    assert not offered.covers(tool("summary")), "a rule about resources and prompts is about no tool"
    assert by_class.arguments is not None
    assert by_class.arguments.difference({"path": "x" * 11}, "") is not None
    assert database.databases.matches("shop")
    assert not database.about(server("shop"))
    assert not database.covers(tool("public.products"))
    assert facts.deny[0].every
    assert facts.request is not None
    assert (facts.request.max_seconds, facts.request.approval) == (4 * 3600, "two-person")
    assert (facts.request.teams, facts.request.max_total) == (("demo",), 8 * 3600)
    assert not facts.timed


def test_labels_of_nothing_match_nothing() -> None:
    facts = parse_role(HEAD + "spec: {allow: [{servers: [{labels: {}}], access: [read]}]}").facts
    assert not facts.allow[0].about(server("git", env="prod"))
    assert parse_role(HEAD + "spec: {deny: [{servers: ['*'], labels: {}}]}").facts.deny[0].labels == Labels(())


@pytest.mark.parametrize(
    ("spec", "line", "path", "expected"),
    [
        (
            RULE + "servers: [{label: {a: b}}]\n      tools: [x]",
            6,
            "spec.allow[1].servers[1].label",
            "known are labels",
        ),
        (RULE + "servers: [{labels: [a]}]\n      tools: [x]", 6, "spec.allow[1].servers[1].labels", "{env: staging}"),
        (RULE + "servers: [a]\n      labels: {Env: x}", 7, "spec.allow[1].labels.Env", "the name of a label"),
        (RULE + "servers: [a]\n      labels: {env: 'a b'}", 7, "spec.allow[1].labels.env", "a name or a glob"),
        (RULE + "servers: [a]\n      labels: {env: 5}", 7, "spec.allow[1].labels.env", "a text"),
        (RULE + "servers: [a]\n      resources: ['a b']", 7, "spec.allow[1].resources[1]", "URIs"),
        (RULE + "servers: [a]\n      prompts: x", 7, "spec.allow[1].prompts", "a list"),
        (RULE + "servers: [a]\n      tools: [x]\n      where: args.x ==", 8, "spec.allow[1].where", "column 10"),
        (RULE + "servers: [a]\n      tools: [x]\n      where: argz.x == 1", 8, "spec.allow[1].where", "'argz'"),
        (
            RULE + "servers: [a]\n      tools: [x]\n      where: |\n        true &&\n        open(1)",
            10,
            "spec.allow[1].where",
            "line 2, column 1",
        ),
        (RULE + "servers: [a]\n      tools: [x]\n      where: 5", 8, "spec.allow[1].where", "a text"),
        (
            RULE + "servers: [a]\n      tools: [x]\n      arguments: {mode: no}",
            8,
            "spec.allow[1].arguments.mode",
            "exact",
        ),
        (
            RULE + "servers: [a]\n      tools: [x]\n      arguments:\n        mode: schema\n        schema:\n"
            "          type: object\n          additionalProperties: false\n          properties:\n"
            "            p: {pattern: ^a$}",
            14,
            "spec.allow[1].arguments.schema.properties.p.pattern",
            "type: string beside it",
        ),
        (
            RULE + "servers: [a]\n      tools: [x]\n      arguments: {mode: exact, value: {n: 0x10}}",
            8,
            "spec.allow[1].arguments.value.n",
            "a decimal number",
        ),
        (
            RULE + "servers: [a]\n      tools: [x]\n      arguments: {mode: exact, value: {n: .inf}}",
            8,
            "spec.allow[1].arguments.value.n",
            "a decimal number",
        ),
        (RULE + "databases: [a]\n      objects: [b]", 6, "spec.allow[1].privileges", "missing"),
        (
            RULE + "databases: [a]\n      objects: [b]\n      privileges: [all]",
            8,
            "spec.allow[1].privileges[1]",
            "one of select",
        ),
        (
            RULE + "databases: [a]\n      objects: [b]\n      privileges: [select]\n      servers: [x]",
            9,
            "spec.allow[1].servers",
            "write two rules",
        ),
        ("spec:\n  request: {approval: x}", 5, "spec.request.max_duration", "missing"),
        ("spec:\n  request: {max_duration: 4h}", 5, "spec.request.approval", "missing"),
        ("spec:\n  request: {max_duration: 240, approval: x}", 5, "spec.request.max_duration", "a text"),
        ("spec:\n  request: {max_duration: 31d, approval: x}", 5, "spec.request.max_duration", "2592000 s"),
        (
            "spec:\n  request: {max_duration: 4h, approval: x, max_total: 1h}",
            5,
            "spec.request.max_total",
            "no less than max_duration",
        ),
    ],
)
def test_a_mistake_in_these_names_its_line_its_path_and_what_was_expected(
    spec: str, line: int, path: str, expected: str
) -> None:
    found = mistake(HEAD + spec)
    assert (found.params["line"], found.params["path"]) == (line, path)
    assert expected in str(found.params["expected"])
