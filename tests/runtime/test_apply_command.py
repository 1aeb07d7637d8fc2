"""`jitaccess apply` and `jitaccess export` as an operator runs them, and several at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent, Team
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.errors import Conflict, JitAccessError
from jitaccess.policy.models import Role
from jitaccess.policy.services import save_role
from jitaccess.runtime.access_files import applying
from jitaccess.runtime.cli import _parser
from jitaccess.runtime.exits import refused
from tests.cast import OPERATOR, Cast
from tests.races import race
from tests.runtime.access_files import document, people, reading, role

pytestmark = pytest.mark.django_db
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; returns its exit code and what it said on both outputs."""

    def runner(*words: object) -> tuple[int, str]:
        arguments = _parser().parse_args([str(word) for word in words])
        try:
            code = int(arguments.run(arguments))
        except JitAccessError as error:
            code = refused(error, arguments.verb)
        said = capsys.readouterr()
        return code, said.out + said.err

    return runner


class Answering(io.StringIO):
    """A terminal whose person gives one answer."""

    def isatty(self) -> bool:
        return True


def test_a_difference_is_shown_asked_for_and_done_once(run: Run, tmp_path: Path) -> None:
    people("anna", "bert")
    (tmp_path / "team.yaml").write_text(document("team", "finance", "{members: [anna, bert]}"))
    code, said = run("apply", "-f", tmp_path, "--dry-run")
    assert code == 6
    assert "+ team finance\n    members: anna\n    members: bert" in said
    code, said = run("apply", "-f", tmp_path)
    assert (code, Team.objects.count()) == (2, 0)
    assert "Nobody was asked, so nothing was done" in said
    assert run("apply", "-f", tmp_path, "--yes")[0] == 0
    assert Team.objects.get().members.count() == 2
    assert run("apply", "-f", tmp_path) == (0, "Nothing to do.\n")
    assert run("apply", "-f", tmp_path, "--dry-run")[0] == 0
    [entry] = Entry.objects.all()
    assert entry.client == "jitaccess command line"
    assert entry.user_name.startswith("operator:")


@pytest.mark.parametrize(("answer", "code", "made"), [("yes\n", 0, 1), ("y\n", 2, 0), ("\n", 2, 0)])
def test_on_a_terminal_only_yes_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, made: int
) -> None:
    (tmp_path / "team.yaml").write_text(document("team", "finance", "{members: []}"))
    monkeypatch.setattr("sys.stdin", Answering(answer))
    monkeypatch.setattr("sys.stdout", Answering())
    arguments = _parser().parse_args(["apply", "-f", str(tmp_path)])
    try:
        got = int(arguments.run(arguments))
    except JitAccessError as error:
        got = refused(error, "apply")
    assert (got, Team.objects.count()) == (code, made)


def test_changes_are_shown_from_old_to_new(run: Run, tmp_path: Path, cast: Cast) -> None:
    (tmp_path / "a.yaml").write_text(document("agent", "demo-agent", "{owner: anna, team: demo, users: [carl]}"))
    (tmp_path / "b.yaml").write_text(role("read-only", '[{servers: ["git"], access: [read]}]'))
    (tmp_path / "c.yaml").write_text(document("server", "git", "{tools: {git_log: write}}"))
    code, said = run("apply", "-f", tmp_path, "--dry-run")
    for wanted in (
        "~ agent demo-agent\n    owner: olga ",
        "    users: new carl",
        '    +spec: {allow: [{servers: ["git"]',
        "    tools.git_log.access: read ",
    ):
        assert wanted in said, said
    assert code == 6
    code, said = run("apply", "-f", tmp_path, "--dry-run", "--json")
    changes = {change["name"]: change for change in json.loads(said)["changes"]}
    assert changes["git"]["fields"] == {"tools.git_log.access": {"from": "read", "to": "write"}}
    assert Agent.objects.get().owner == cast.olga


def test_problems_are_said_with_their_lines_and_what_they_say_is_inert(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("team", "finance", '{members: ["\\e[2Jzoe"]}'))
    code, said = run("apply", "-f", tmp_path, "--yes")
    assert code == 2
    assert "a.yaml:4: spec.members[1]: there is no person named \\u{1b}[2Jzoe" in said
    assert "1 problem; nothing was changed." in said
    assert "\x1b" not in said
    assert run("apply", "-f", tmp_path / "missing")[0] == 2


def test_what_is_exported_to_standard_output_applies(run: Run, tmp_path: Path, cast: Cast) -> None:
    code, said = run("export")
    assert code == 0
    (tmp_path / "all.yaml").write_text(said)
    assert run("apply", "-f", tmp_path, "--prune", "--yes")[0] == 0
    documents = json.loads(run("export", "--json")[1])
    assert {one["kind"] for one in documents} == {"agent", "approval-policy", "binding", "role", "server", "team"}
    assert run("export", "-o", tmp_path / "out")[1].count("out/roles/read-only.yaml") == 1
    assert run("export")[1] == said


@pytest.mark.django_db(transaction=True)
def test_of_two_who_apply_at_once_one_does_it_and_the_other_is_told(tmp_path: Path) -> None:
    people("anna")
    files = reading(
        tmp_path,
        a=document("team", "finance", "{members: [anna]}"),
        b=document("agent", "a", "{owner: anna, team: finance}"),
        c=role("fine"),
    )
    plan = applying.look(files, prune=False)

    def carry_out() -> str:
        applying.carry_out(files, plan, prune=False, operator=OPERATOR)
        return "done"

    results = race(carry_out, carry_out, carry_out)
    assert results.count("done") == 1
    assert [result.code for result in results if result != "done"] == ["files.changed"] * 2
    assert Role.objects.get().head == 1
    assert not applying.look(files, prune=False).changes


@pytest.mark.django_db(transaction=True)
def test_an_admin_who_edits_at_the_same_time_is_never_overwritten_unseen(tmp_path: Path, cast: Cast) -> None:
    """Whoever is first: either the files win and the admin's change comes on top, or the files are refused."""
    files = reading(
        tmp_path,
        a=role("read-only", '[{servers: ["git"], access: [read]}]'),
        b=document("agent", "demo-agent", "{owner: anna, team: demo, enabled: true}"),
    )
    plan = applying.look(files, prune=False)
    theirs = role("read-only", "[]")

    def edit() -> Role:
        set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
        return save_role(document=theirs, operator=OPERATOR, role=cast.read_only)

    applied, edited = race(lambda: applying.carry_out(files, plan, prune=False, operator=OPERATOR), edit)
    assert isinstance(edited, Role)
    assert applied is None or (isinstance(applied, Conflict) and applied.code == "files.changed")
    cast.agent.refresh_from_db()
    assert Role.objects.get(name="read-only").document == theirs, "the admin's own change is never lost"
    assert not cast.agent.enabled
    assert Agent.objects.get().owner == (cast.olga if applied else cast.anna)
