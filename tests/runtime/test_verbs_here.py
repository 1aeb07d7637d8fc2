"""The verbs that act on the database: what is read, decided and ended there, by whom, and with which exit code."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import caches

from jitaccess.audit.models import Entry
from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent
from jitaccess.identity.services import authenticate
from jitaccess.kernel.errors import Forbidden, JitAccessError
from jitaccess.runtime import desk
from jitaccess.runtime.cli import _parser
from jitaccess.runtime.exits import refused
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import Ask, ExactCall, submit_request
from tests.cast import Cast

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"
Run = Callable[..., tuple[int, str, str]]


class Keyboard(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb, with `says` on standard input; returns its exit code, and what it said on both outputs."""
    monkeypatch.setenv("COLUMNS", "80")
    caches["default"].clear()

    def runner(*words: object, says: str = "", types: str | None = None) -> tuple[int, str, str]:
        arguments = _parser().parse_args([str(word) for word in words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(says) if types is None else Keyboard(types))
        try:
            code = arguments.run(arguments)
        except JitAccessError as error:
            code = refused(error, arguments.verb)
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


def decide(
    run: Run, verb: str, request: AccessRequest, *words: str, who: str = "anna", password: str = PASSWORD
) -> Any:
    return run(verb, request.pk, "--as", who, "--password-stdin", "--yes", *words, says=f"{password}\n")


def short(row: AccessRequest | Grant) -> str:
    return str(row.pk)[:13]


def test_a_person_approves_with_their_password_what_was_shown(run: Run, cast: Cast) -> None:
    request = cast.submit("git_commit", "git_add")
    code, out, err = run(
        "approve", short(request), "--as", "anna", "--password-stdin", "--yes", "--reason", "Go", says=f"{PASSWORD}\n"
    )
    assert (code, err) == (0, "")
    for words in ("demo-agent", "git/git_commit", "git/git_add", "write", "10 min", "Finish the release notes",
                  "first time", "The tool git_commit", request.digest, "Approved."):  # fmt: skip
        assert words in out, words
    decision = Decision.objects.get()
    assert (decision.user, decision.channel, decision.digest, decision.reason) == (
        cast.anna, "cli", request.digest, "Go",
    )  # fmt: skip
    entry = Entry.objects.get(event="decision.recorded")
    assert (entry.user, entry.user_name, entry.source) == (cast.anna.pk, "anna", desk.system_user()[:64])
    assert Grant.objects.get().request_id == request.pk


def test_a_password_that_does_not_fit_decides_nothing(run: Run, cast: Cast) -> None:
    request = cast.submit()
    assert decide(run, "approve", request, password="wrong")[0] == 1
    cast.bert.set_unusable_password()
    cast.bert.save()
    assert decide(run, "approve", request, who="bert", password="")[0] == 1
    cast.anna.is_active = False
    cast.anna.save()
    code, _, err = decide(run, "approve", request)
    assert code == 1
    assert "not among those who decide" in err
    assert not Decision.objects.exists()
    assert not Entry.objects.filter(event="user.signed_in").exists()


def test_who_guesses_on_is_stopped(run: Run, cast: Cast) -> None:
    request = cast.submit()
    codes = [decide(run, "approve", request, password="wrong")[0] for _ in range(6)]
    assert codes[0] == 1
    assert codes[-1] == 5
    code, _, err = decide(run, "approve", request)
    assert (code, "Too many" in err) == (5, True), "the right one does not help any more"
    assert not Decision.objects.exists()


def test_nobody_decides_for_themselves_and_strangers_do_not_decide(run: Run, cast: Cast) -> None:
    request = cast.submit()
    for who, words in (("olga", "you own the agent"), ("carl", "not among those who decide")):
        code, _, err = decide(run, "approve", request, who=who)
        assert (code, words in err) == (1, True)
    assert decide(run, "approve", request, who="nobody")[0] == 3
    assert not Decision.objects.exists()


def test_without_somebody_to_ask_it_must_be_said(run: Run, cast: Cast) -> None:
    request = cast.submit()
    assert run("approve", request.pk, "--as", "anna", "--password-stdin", says=f"{PASSWORD}\ny\n")[0] == 2
    assert run("approve", request.pk, "--as", "anna", "--yes", says=f"{PASSWORD}\n")[0] == 2
    assert not Decision.objects.exists()


def test_a_yes_to_less(run: Run, cast: Cast) -> None:
    request = cast.submit("git_commit", "git_add")
    words = ("--minutes", "5", "--only", "git/git_add", "--max-uses", "2")
    assert decide(run, "approve", request, "--minutes", "600")[0] == 2, "more is not less"
    code, out, _ = decide(run, "approve", request, *words, "--json")
    grant = Grant.objects.get()
    assert (code, (grant.expires_at - grant.starts_at).total_seconds()) == (0, 300), out
    assert cast.verdict("git_add").allowed
    assert not cast.verdict("git_commit").allowed


@pytest.mark.parametrize(
    ("answer", "approved"), [("y\n", True), ("\n", False), ("n\n", False), ("yes please\n", False)]
)
def test_at_a_terminal_one_is_asked(
    run: Run, cast: Cast, monkeypatch: pytest.MonkeyPatch, answer: str, approved: bool
) -> None:
    request = cast.submit()
    monkeypatch.setattr("getpass.getpass", lambda prompt: PASSWORD)
    code, out, _ = run("approve", request.pk, "--as", "anna", types=answer)
    assert "Approve this as anna (access for 10 min)? [y/N]" in out
    assert (code, Decision.objects.exists()) == ((0, True) if approved else (1, False))


def test_who_comes_second_gets_a_conflict(run: Run, cast: Cast) -> None:
    request = cast.submit()
    code, out, err = decide(run, "deny", request, "--reason", "Not now", "--json")
    assert (code, json.loads(out)["status"]) == (0, "denied")
    assert "Finish the release notes" in err, "the card is a message where a document is asked for"
    code, _, err = decide(run, "approve", request, who="bert")
    assert (code, "denied by anna" in err) == (4, True)
    assert not Grant.objects.exists()
    assert run("approve", "ffffffff", "--as", "anna", "--yes")[0] == 3
    assert run("approve", "no-id", "--as", "anna", "--yes")[0] == 2


def test_what_cannot_be_shown_is_not_approved_here_but_may_be_denied(run: Run, cast: Cast) -> None:
    request = cast.submit(context={"note": "all\u202efine \x1b[2J"})
    code, out, err = decide(run, "approve", request)
    assert (code, "in the browser" in err) == (4, True)
    assert "\\u202e" in out
    assert "\u202e" not in out
    assert "\x1b" not in out
    assert not Decision.objects.exists()
    assert decide(run, "deny", request)[0] == 0


def exact(cast: Cast, arguments: dict[str, Any]) -> AccessRequest:
    ask = Ask(calls=[ExactCall("git", "git_commit", arguments)], reason="Finish the release notes", ticket="REL-24")
    return submit_request(principal=cast.principal(), ask=ask, snapshot=cast.snapshot()).request


def test_of_an_exact_call_every_argument_is_shown(run: Run, cast: Cast) -> None:
    long = "word " * 300
    request = exact(cast, {"message": "Two\nlines", "deep": {"list": [1, None, long]}})
    code, out, _ = decide(run, "approve", request)
    flat = " ".join(out.split())
    assert code == 0
    for words in ('"message": "Two\\nlines"', "null", long.strip(), "REL-24", "1 call"):
        assert words in flat, words


def test_of_an_exact_call_nothing_may_hide(run: Run, cast: Cast) -> None:
    request = exact(cast, {"message": "all \u202e fine"})
    code, out, err = decide(run, "approve", request)
    assert (code, "in the browser" in err, "\u202e" in out) == (4, True, False)
    assert not Decision.objects.exists()


def test_a_changed_tool_is_said_so(run: Run, cast: Cast) -> None:
    request = cast.submit()
    Tool.objects.filter(name="git_commit").update(digest="sha256:" + "1" * 64)
    code, out, err = decide(run, "approve", request)
    assert (code, "changed this tool after it was asked for" in " ".join(out.split())) == (4, True), err
    assert not Grant.objects.exists()


def test_lists_and_one_of_them(run: Run, cast: Cast) -> None:
    request, grant = cast.submit("git_add"), cast.grant()
    code, out, _ = run("requests")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["ID", "STATE", "AGENT"], [short(grant.request), "active", "demo-agent"], [short(request), "pending", "demo-agent"],
    ]  # fmt: skip
    assert run("requests", "list", "--state", "waiting")[1].count("\n") == 2
    assert run("requests", "--agent", "nobody")[0] == 3
    rows = json.loads(run("requests", "--json")[1])
    assert [row["request_id"] for row in rows["items"]] == [str(grant.request_id), str(request.pk)]
    assert json.loads(run("requests", "--json", "--limit", 1)[1])["more"] is True
    shown = json.loads(run("requests", "show", short(request), "--json")[1])
    assert [(one["group"], one["needed"], one["given"]) for one in shown["approvals"]] == [("reviewers", 1, 0)]
    assert [one["event"] for one in shown["timeline"]] == ["request.submitted"]
    out = run("requests", "show", grant.request_id)[1]
    for words in ("approve by anna", "grant activated", "request submitted", str(grant.pk)):
        assert words in out, words
    held = json.loads(run("grants", "--json")[1])["items"]
    assert [one["grant_id"] for one in held] == [str(grant.pk)]
    assert run("grants", "show", short(grant))[0] == 0
    assert run("grants", "show", "abcd")[0] == 3


def test_an_id_that_begins_like_others_is_refused(run: Run, cast: Cast) -> None:
    first, second = cast.submit("git_add"), cast.submit("git_commit")
    code, _, err = run("requests", "show", str(first.pk)[:4])
    assert (code, str(first.pk) in err, str(second.pk) in err) == (2, True, True)


def test_the_operator_revokes(run: Run, cast: Cast) -> None:
    grant = cast.grant()
    code, out, _ = run("revoke", short(grant), "--reason", "The release is out", "--json")
    assert (code, json.loads(out)["end_reason"]) == (0, "revoked")
    grant.refresh_from_db()
    assert (grant.ended_by_name, grant.end_note) == (desk.system_user(), "The release is out")
    assert Entry.objects.get(event="grant.revoked").user_name == desk.system_user()
    assert not cast.verdict("git_commit").allowed
    assert run("revoke", short(grant))[0] == 4
    assert run("grants")[1] == "No grants.\n"
    assert run("grants", "--state", "ended")[1].splitlines()[1].split()[1] == "revoked"


def test_agents(run: Run, cast: Cast) -> None:
    cast.grant()
    cast.submit("git_add")
    assert run("agents", "list")[1].splitlines()[1].split()[:4] == ["demo-agent", "enabled", "olga", "demo"]
    shown = json.loads(run("agents", "show", "demo-agent", "--json")[1])
    assert (shown["name"], len(shown["grants"]), len(shown["requests"])) == ("demo-agent", 1, 1)
    assert "git/git_add" in run("agents", "show", "demo-agent")[1]
    assert json.loads(run("agents", "disable", "demo-agent", "--json")[1])["enabled"] is False
    assert not Agent.objects.get().enabled
    assert run("agents", "token", "demo-agent")[0] == 1
    assert run("agents", "enable", "demo-agent")[1] == "demo-agent is enabled\n"
    code, out, err = run("agents", "token", "demo-agent")
    assert (code, out.startswith("jit_"), "shown this once" in err) == (0, True, True)
    assert run("agents", "show", "nobody")[0] == 3


def test_tokens_of_an_agent_are_listed_and_revoked(run: Run, cast: Cast) -> None:
    values = [run("agents", "token", "demo-agent")[1].strip() for _ in range(3)]
    rows = json.loads(run("agents", "tokens", "demo-agent", "--json")[1])["items"]
    assert [row["live"] for row in rows] == [True] * 3
    listed = run("agents", "tokens", "demo-agent")[1]
    assert len(listed.splitlines()) == 4
    assert not any(value in listed for value in values)
    assert run("agents", "revoke", "demo-agent", "--token", rows[1]["token_id"])[1] == "1 token of demo-agent revoked\n"
    authenticate(values[0])
    with pytest.raises(Forbidden):
        authenticate(values[1])
    assert run("agents", "revoke", "demo-agent", "--token", rows[1]["token_id"])[0] == 3
    assert run("agents", "revoke", "demo-agent")[1] == "2 tokens of demo-agent revoked\n"
    assert Entry.objects.filter(event="token.revoked").count() == 3
    assert "No tokens" in run("agents", "tokens", "demo-agent")[1]
    assert run("agents", "revoke", "nobody")[0] == 3


def test_names_for_the_shell(run: Run, cast: Cast) -> None:
    assert run("completion", "agents")[1] == "demo-agent\n"
    assert run("completion", "servers")[1] == "git\n"
    assert "anna" in run("completion", "people")[1].split()
    assert run("completion", "roles")[1] == "read-only\n"


def test_the_doctor_looks_at_everything(run: Run, cast: Cast, settings: Any, tmp_path: Any) -> None:
    settings.SERVERS_FILE = tmp_path / "servers.json"
    code, out, _ = run("doctor", "--json")
    told = json.loads(out)
    assert (code, told["troubled"]) == (1, True), "nobody says how git is reached"
    assert [part["name"] for part in told["parts"]] == ["settings", "ledger", "people", "git"]
    cast.olga.is_active = False
    cast.olga.save()
    assert "the owner of demo-agent, olga, is no longer active" in run("doctor")[1]


def test_a_verified_ledger_as_json(run: Run, cast: Cast) -> None:
    code, out, err = run("audit", "verify", "--json")
    told = json.loads(out)
    assert told["intact"] is (code == 0)
    assert told["findings"] == [] or code == 1
    assert err == "", "no progress where there is no terminal"


def test_the_operator_locks_and_unlocks(run: Run, cast: Cast) -> None:
    grant = cast.grant()
    code, out, _ = run("lock", "agent", "demo-agent", "--reason", "It does odd things", "--for", "2h")
    assert (code, out.startswith("agent demo-agent is locked until ")) == (0, True)
    assert not cast.verdict("git_commit").allowed
    assert run("lock", "agent", "demo-agent", "--reason", "Again")[0] == 4
    assert json.loads(run("lock", "grant", short(grant), "--reason", "Odd", "--json")[1])["target"] == str(grant.pk)
    rows = json.loads(run("locks", "--json")[1])["items"]
    assert [(row["kind"], row["created_by"]) for row in rows] == [
        ("grant", desk.system_user()), ("agent", desk.system_user()),
    ]  # fmt: skip
    assert "It does odd" in run("locks")[1]
    assert run("unlock", "agent", "demo-agent")[1] == "agent demo-agent is no longer locked.\n"
    assert run("unlock", rows[0]["lock_id"][:13])[0] == 0
    assert run("unlock", rows[0]["lock_id"])[0] == 4
    assert run("unlock", "agent", "demo-agent")[0] == run("lock", "agent", "nobody", "--reason", "x")[0] == 3
    assert run("lock", "everything", "x", "--reason", "x")[0] == run("lock", "everything", "--reason", " ")[0] == 2
    assert run("locks")[1] == "Nothing is locked.\n"
    assert run("locks", "--all")[1].count("lifted") == 2
    assert cast.verdict("git_commit").allowed
    assert [entry.event for entry in Entry.objects.filter(event__startswith="lock").order_by("uid")] == [
        "lock.created", "lock.created", "lock.lifted", "lock.lifted",
    ]  # fmt: skip
