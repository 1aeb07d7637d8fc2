"""`jitaccess roles`: what a role would do for a call, and what a file would change; nothing is ever written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.models import RoleBinding
from jitaccess.policy.services import save_role
from jitaccess.runtime.cli import _parser
from jitaccess.runtime.exits import Exit, refused
from tests.cast import OPERATOR, READ_ONLY, Cast

pytestmark = pytest.mark.django_db
Run = Callable[..., tuple[int, str, str]]
CAREFUL = """\
kind: role
version: v1
metadata: {name: careful}
spec:
  allow:
    - servers: [git]
      tools: [git_commit]
      where: args.message.startsWith("fix")
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `roles …`; returns its exit code, and what it said on both outputs."""
    monkeypatch.setenv("COLUMNS", "200")

    def runner(*words: object) -> tuple[int, str, str]:
        arguments = _parser().parse_args(["roles", *map(str, words)])
        try:
            code = arguments.run(arguments)
        except JitAccessError as error:
            code = refused(error, arguments.verb)
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


def question(cast: Cast, role: object, tool: str = "git_commit") -> list[object]:
    return ["test", role, "--agent", cast.agent.name, "--server", "git", "--tool", tool]


def test_what_a_role_would_allow_is_told_with_the_rule_and_what_was_missing(run: Run, cast: Cast) -> None:
    save_role(document=CAREFUL, operator=OPERATOR)
    bindings, entries = RoleBinding.objects.count(), Entry.objects.count()
    code, out, _ = run(*question(cast, "careful"), "--args", '{"message": "fix it"}')
    assert (code, out.splitlines()[0]) == (0, "Allowed: role careful@1, allow rule 1.")
    code, out, _ = run(*question(cast, "careful"), "--args", '{"message": "break it"}')
    assert code == 1
    assert out.startswith("Refused (other_arguments): role careful@1, allow rule 1: the condition")
    assert "What would help: ask for git_commit" in out
    code, out, _ = run(*question(cast, "careful"))
    assert (code, out.splitlines()[0]) == (0, "Allowed with some arguments: role careful@1, allow rule 1.")
    assert (RoleBinding.objects.count(), Entry.objects.count()) == (bindings, entries)


def test_for_a_person_both_would_have_the_role(run: Run, cast: Cast) -> None:
    save_role(document=CAREFUL, operator=OPERATOR)
    code, out, _ = run(*question(cast, "careful"), "--user", "olga", "--args", '{"message": "fix"}', "--json")
    data = json.loads(out)
    assert (code, data["allowed"], data["code"]) == (0, True, "allowed")
    decided = [one for one in data["considered"] if one["decided"]]
    assert [(one["part"], one["binding"]) for one in decided] == [("agent's rights", None), ("user's rights", None)]


def test_a_file_says_what_the_role_of_its_name_would(run: Run, cast: Cast, tmp_path: Path) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(READ_ONLY.replace("access: [read]", "access: [write]"))
    assert run(*question(cast, path, "git_commit"))[0] == 0
    assert run(*question(cast, path, "git_log"))[0] == 1, "wherever the role is bound, it is the one in the file"
    assert run(*question(cast, "read-only", "git_log"))[0] == 0


def test_a_condition_about_the_time_is_asked_at_that_time(run: Run, cast: Cast, tmp_path: Path) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(CAREFUL.replace('args.message.startsWith("fix")', "time.getHours() >= 22"))
    asked = question(cast, path)
    # The demo's bindings do not depend on the time; the role tried here is there at any.
    assert run(*asked, "--at", "2026-07-01T23:00Z")[0] == 0
    assert run(*asked, "--at", "2026-07-01T23:00+02:00")[0] == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--agent", "nobody"], Exit.NOT_FOUND, "no agent"),
        (["--server", "none"], Exit.NOT_FOUND, "no server"),
        (["--user", "nobody"], Exit.NOT_FOUND, "no person"),
        (["--args", "[1]"], Exit.USAGE, "one JSON object"),
        (["--args", '{"a": 1, "a": 2}'], Exit.USAGE, "two members"),
        (["--at", "noon"], Exit.USAGE, "with its offset"),
        (["--at", "2026-07-01T12:00"], Exit.USAGE, "with its offset"),
    ],
)
def test_what_cannot_be_asked_is_said(run: Run, cast: Cast, words: list[str], code: int, said: str) -> None:
    found, out, err = run(*question(cast, "read-only"), *words)
    assert (found, out) == (code, "")
    assert said in err


def test_a_role_that_is_none_is_told_with_its_place(run: Run, cast: Cast, tmp_path: Path) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(CAREFUL.replace("args.message", "argz.message"))
    code, _, err = run(*question(cast, path))
    assert code == Exit.USAGE
    assert "line 8, spec.allow[1].where: expected a known name, not 'argz'" in err
    assert run(*question(cast, "no-such-role"))[0] == Exit.NOT_FOUND


def test_a_diff_tells_lines_and_tools(run: Run, cast: Cast, tmp_path: Path) -> None:
    path = tmp_path / "role.yaml"
    path.write_text(READ_ONLY)
    code, out, _ = run("diff", path)
    assert code == 0
    assert "It says the same of every tool that there is." in out
    path.write_text(
        READ_ONLY.replace("access: [read]", "access: [write]") + "  deny: [{servers: [git], tools: [git_add]}]\n"
    )
    code, out, _ = run("diff", path, "--json")
    data = json.loads(out)
    changed = {one["tool"]: (one["before"], one["after"]) for one in data["tools"]}
    assert (code, data["role"], data["version"]) == (1, "read-only", 1)
    assert changed["git_log"] == ("allowed", "nothing")
    assert changed["git_commit"] == ("nothing", "allowed")
    assert changed["git_add"] == ("nothing", "denied")
    assert any(line.startswith("+  deny:") for line in data["lines"])
    path.write_text(CAREFUL)
    code, out, _ = run("diff", path)
    assert code == 1
    assert "allowed under conditions (rule 1)" in out
