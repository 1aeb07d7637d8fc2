"""`jitaccess policies`: a policy in a file, checked and tried on the requests there were; nothing is ever written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import JitAccessError
from jitaccess.policy.models import ApprovalPolicy
from jitaccess.runtime.cli import _parser
from jitaccess.runtime.exits import refused
from requests_app.models import AccessRequest
from tests.cast import Cast, policy_document

pytestmark = pytest.mark.django_db
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `policies <action>` on a document; returns its exit code, and what it said on both outputs."""
    monkeypatch.setenv("COLUMNS", "200")

    def runner(action: str, document: str | bytes, *words: str) -> tuple[int, str, str]:
        path = tmp_path / "policy.yaml"
        path.write_bytes(document if isinstance(document, bytes) else document.encode())
        arguments = _parser().parse_args(["policies", action, str(path), *words])
        try:
            code = arguments.run(arguments)
        except JitAccessError as error:
            code = refused(error, arguments.verb)
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


def simulated(run: Run, document: str, *words: str) -> dict[str, Any]:
    code, out, err = run("simulate", document, "--json", *words)
    assert (code, err) == (0, "")
    data: dict[str, Any] = json.loads(out)
    return data


def differences(run: Run, document: str) -> dict[str, tuple[str, str]]:
    """Those of the one request there is."""
    [request] = simulated(run, document)["requests"]
    return {one["what"]: (one["before"], one["after"]) for one in request["differences"]}


def test_a_policy_that_could_be_saved_is_said_to_be(run: Run, cast: Cast) -> None:
    code, out, err = run("check", policy_document())
    assert (code, err) == (0, "")
    assert "review can be saved: all." in out
    assert not AccessRequest.objects.exists()
    assert ApprovalPolicy.objects.get().head == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (policy_document(quorum=0), "from 1 to 20"),
        (policy_document("team:gone"), "no team named gone"),
        ("kind: role\n", "expected"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_policy_with_a_mistake_is_refused_with_its_file(run: Run, cast: Cast, document: str, said: str) -> None:
    for action in ("check", "simulate"):
        code, out, err = run(action, document)
        assert (code, out) == (2, "")
        assert said in err


def test_what_could_get_stuck_is_a_warning(run: Run, cast: Cast) -> None:
    code, out, _ = run("check", policy_document("team:demo", quorum=9))
    assert code == 0
    assert "lower the quorum to 3" in out
    assert json.loads(run("check", policy_document("team:demo", quorum=9), "--json")[1])["warnings"]


def test_the_same_policy_changes_nothing(run: Run, cast: Cast) -> None:
    cast.submit()
    data = simulated(run, policy_document())
    assert (data["tried"], data["changed"]) == (1, 0)
    assert data["requests"][0]["before"] == data["requests"][0]["after"]
    assert "1 requests tried, 0 would have gone differently" in run("simulate", policy_document())[1]


def test_another_rule_and_other_people_are_shown_with_names(run: Run, cast: Cast) -> None:
    cast.submit()
    found = differences(run, policy_document("user:carl", "team:demo", quorum=2))
    assert set(found) == {"people"}
    assert found["people"][1] == "2 of reviewers (anna, bert, carl)"
    assert "olga" not in found["people"][0], "the owner of the agent is self"
    out = run("simulate", policy_document("user:carl", "team:demo", quorum=2))[1]
    assert "demo-agent: git/git_commit" in out
    assert "2 of reviewers (anna, bert, carl)" in out


RULES = """
- {name: short, when: request.minutes <= 10, auto_approve: true}
- {name: long, stages: [{groups: [{name: bosses, people: ["user:carl"]}]}]}
"""


def test_a_rule_that_would_approve_without_asking_is_shown(run: Run, cast: Cast) -> None:
    cast.submit(seconds=600)
    found = differences(run, policy_document(rules=RULES))
    assert found["outcome"] == ("people decide", "approved without asking anybody")
    assert found["rule"] == ("all", "short")


def test_a_rule_that_decided_nothing_is_seen(run: Run, cast: Cast) -> None:
    cast.submit("git_commit", seconds=600)
    cast.submit("git_add", seconds=300)
    assert simulated(run, policy_document(rules=RULES))["decided_by"] == {"short": 2, "long": 0}
    assert "decided by: short 2, long 0" in run("simulate", policy_document(rules=RULES))[1]


def test_facts_are_those_of_the_filing(run: Run, cast: Cast) -> None:
    cast.submit(seconds=601)
    type(cast.agent).objects.filter(pk=cast.agent.pk).update(name="another")
    rules = RULES.replace("request.minutes <= 10", 'principal.agent == "demo-agent"')
    assert differences(run, policy_document(rules=rules))["rule"] == ("all", "short")


def test_a_request_that_would_be_refused_says_why(run: Run, cast: Cast) -> None:
    cast.submit()
    only = RULES.splitlines()[1].replace("<= 10", "< 5")
    assert differences(run, policy_document(rules=only))["outcome"][1] == "refused: no rule takes it"
    wordy = policy_document(reason={"min_length": 500})
    assert "at least 500 characters" in differences(run, wordy)["outcome"][1]
    ticket = policy_document(ticket={"required": True})
    assert "Give a ticket" in differences(run, ticket)["outcome"][1]
    selfish = policy_document("user:olga")
    assert "nobody could approve" in differences(run, selfish)["outcome"][1]


def test_a_shorter_duration_is_shown(run: Run, cast: Cast) -> None:
    cast.submit(seconds=600)
    assert differences(run, policy_document(max_duration="5m"))["duration"] == ("10 min", "at most 5 min")


def test_a_condition_that_fails_is_shown(run: Run, cast: Cast) -> None:
    cast.submit()
    rules = RULES.replace("request.minutes <= 10", "'items[9].exact'")
    [request] = simulated(run, policy_document(rules=rules))["requests"]
    (first,) = request["rules"]
    assert first["error"]
    assert not first["matched"]
    assert "not decided by" in run("simulate", policy_document(rules=rules))[1]


def test_only_requests_of_the_policy_are_tried_unless_told(run: Run, cast: Cast) -> None:
    cast.submit()
    other = policy_document().replace("name: review\n", "name: other\n")
    assert "--all tries it" in run("simulate", other)[1]
    assert simulated(run, other)["tried"] == 0
    assert simulated(run, other, "--all")["tried"] == 1


def test_the_last_ones_are_tried_and_old_ones_without_facts_left_out(run: Run, cast: Cast) -> None:
    first = cast.submit("git_commit")
    for tool in ("git_add", "git_reset"):
        cast.submit(tool)
    data = simulated(run, policy_document(), "--last", "2")
    assert [one["asked_for"] for one in data["requests"]] == [["git/git_reset"], ["git/git_add"]]
    assert str(first.pk) not in json.dumps(data)


def test_nothing_is_written(run: Run, cast: Cast) -> None:
    cast.submit()
    entries = Entry.objects.count()
    with CaptureQueriesContext(connection) as captured:
        run("simulate", policy_document(rules=RULES))
    written = [one["sql"] for one in captured.captured_queries if not one["sql"].startswith("SELECT")]
    assert written == []
    assert Entry.objects.count() == entries
    assert ApprovalPolicy.objects.get().head == 1
