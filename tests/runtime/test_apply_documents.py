"""Reading access files: what is a document, where it begins, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitaccess.kernel.errors import Invalid
from jitaccess.runtime.access_files.documents import Key, normal, read_document, read_files, split
from jitaccess.runtime.access_files.shapes import minutes_of, spell_minutes
from tests.runtime.access_files import POLICY, binding, document, reading, role

pytestmark = pytest.mark.pure
PIN = "sha256:" + "a" * 64


def test_documents_are_split_at_markers_and_keep_their_text() -> None:
    first, second = role("a"), role("b")
    text = f"# a header\n---\n{first}\n\n---  # the next\n{second}...\n---\n\n"
    assert [part for _, part in split(text)] == [first, second]
    assert [before for before, _ in split(text)] == [2, 9]


def test_what_an_editor_reads_is_no_part_of_a_document() -> None:
    assert normal(f"# yaml-language-server: $schema=x.json\n\n{role('a')}\n\n") == role("a")
    assert normal(role("a").replace("\n", "\r\n")) == role("a")


def test_a_comment_inside_is_kept() -> None:
    assert normal(f"# why there is this role\n{role('a')}").startswith("# why")


def test_content_beside_a_marker_is_refused() -> None:
    with pytest.raises(Invalid, match="alone in its line"):
        list(split("--- {kind: role}\n"))


def test_every_mistake_of_every_file_is_found_at_once_with_its_line(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        a=f"{role('a')}---\n{document('team', 'x', '{members: anna}')}",
        b=document("agent", "y", "{owner: olga}"),
        c="kind: castle\n",
        d=binding("role: a, as: default, to: [everybody]"),
        e=role("bad").replace("spec", "specs"),
        f="kind: [",
    )
    lines = [str(problem).replace(f"{tmp_path}/", "") for problem in found.problems]
    assert len(lines) == 6
    assert lines[0].startswith("a.yaml:9: spec.members: expected a list")
    assert lines[1] == "b.yaml:4: spec.team: expected this key, which is missing."
    assert lines[2].startswith("c.yaml:1: kind: expected one of team, approval-policy, role, server, agent, binding")
    assert lines[3].startswith("d.yaml:3: spec.to[1]: expected every-agent, every-user, agent:NAME")
    assert lines[4].startswith("e.yaml:4: specs: expected no such key here")
    assert lines[5].startswith("f.yaml:")
    assert list(found.wanted) == [Key("role", "a")]


def test_a_thing_that_is_described_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    found = reading(tmp_path, a=role("same"), b=f"\n{role('same')}")
    assert str(found.problems[0]) == f"{tmp_path}/b.yaml:2: role same is described twice; also at {tmp_path}/a.yaml:1."


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("server", "{command: npx}", "no such key here"),
        ("server", "{tools: {git_log: wild}}", "spec.tools.git_log: expected one of read"),
        ("server", f"{{tools: {{git_log: {{access: read, pin: {PIN[:-1]}}}}}}}", "the digest of the definition"),
        ("server", "{tools: {x: read, x: write}}", "each name once"),
        ("server", "{tools: [x]}", "tools by their names"),
        ("server", "{access: [a, a]}", "each item once"),
        ("server", "{requestables: [{approval: x}]}", "`tools:` or `access:`"),
        (
            "server",
            "{requestables: [{access: [read], approval: x, max_duration: 90s}]}",
            "whole minutes from 1m to 30d",
        ),
        ("server", "{requestables: [{access: [read], approval: x, max_duration: 60}]}", "whole minutes"),
        ("server", "{labels: {Env: prod}}", "small letters"),
        ("server", "{labels: {n: 5}}", "a text"),
        ("server", "{enabled: maybe}", "true or false"),
        ("agent", "{owner: '', team: x}", "a text"),
        ("team", "{members: [null]}", "a text"),
        ("team", "{members: &x [anna], more: *x}", "aliases"),
    ],
)
def test_what_could_not_be_meant_is_refused(kind: str, spec: str, said: str) -> None:
    with pytest.raises(Invalid, match=said.replace("(", r"\(")):
        read_document(document(kind, "thing", spec))


@pytest.mark.parametrize("until", ["2026-12-31", "2026-12-31T18:00:00", "tomorrow", "1"])
def test_an_end_without_an_offset_is_refused(until: str) -> None:
    with pytest.raises(Invalid, match="a moment with its offset"):
        read_document(binding(f"role: r, as: standing, to: ['agent:a'], until: {until}"))


def test_an_end_is_understood_in_any_offset() -> None:
    [wanted] = read_document(binding("role: r, as: standing, to: ['agent:a'], until: 2026-12-31T18:00:00+02:00"))
    assert wanted.value == {"until": "2026-12-31T16:00:00Z"}
    assert wanted.key == Key("binding", "r standing agent:a")


def test_what_a_server_says_has_one_spelling() -> None:
    [wanted] = read_document(
        document("server", "git", "{access: [b, a], tools: {x: read}, requestables: [{access: [write], approval: p}]}")
    )
    assert wanted.value["access"] == ["a", "b"]
    assert wanted.value["tools"] == {"x": {"access": "read"}}
    assert wanted.value["requestables"][0]["max_duration"] == "4h"
    assert "labels" not in wanted.value, "what is not said is left alone"


def test_mentions_of_a_policy_have_the_lines_of_the_file(tmp_path: Path) -> None:
    found = reading(tmp_path, a=f"{role('a')}---\n{POLICY}")
    [mention] = found.wanted[Key("approval-policy", "reviewed")].mentions
    assert (mention.kind, mention.name, mention.line) == ("team", "demo", 14)


def test_hidden_folders_and_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "old.yaml").write_text("kind: [")
    (tmp_path / "notes.txt").write_text("kind: [")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "role.yml").write_text(role("a"))
    found = read_files([tmp_path])
    assert list(found.wanted) == [Key("role", "a")]
    assert not found.problems


def test_a_folder_without_files_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(Invalid, match="There"):
            read_files([path])


def test_a_file_that_is_no_text_is_a_problem_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "b.yaml").write_text(role("b"))
    found = read_files([tmp_path])
    assert [problem.text[:14] for problem in found.problems] == ["cannot be read"]
    assert list(found.wanted) == [Key("role", "b")]


@pytest.mark.parametrize("minutes", [0, 1, 59, 60, 90, 1440, 1501, 43200])
def test_durations_come_back_from_their_spelling(minutes: int) -> None:
    assert minutes_of(spell_minutes(minutes)) == minutes


def test_a_server_may_have_many_tools_but_a_role_stays_small() -> None:
    tools = ", ".join(f"tool_{number}: {{access: read, pin: {PIN}}}" for number in range(1500))
    [wanted] = read_document(document("server", "big", f"{{tools: {{{tools}}}}}"))
    assert len(wanted.value["tools"]) == 1500
    with pytest.raises(Invalid, match="at most 65536 characters"):
        read_document(role("big") + "#" * 70_000)
