"""The verbs of agents, over HTTP: against the product's own API, and against what is none."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from jitaccess.api import policy_now
from jitaccess.identity.services import issue_token
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.runtime import request_commands
from jitaccess.runtime.cli import main
from requests_app.models import AccessRequest, Grant
from tests.cast import OPERATOR, Cast
from tests.installation import eventually, free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb as its process would; returns its exit code, and what it said on both outputs."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(request_commands, "_PAUSES", (0.02,))
    for name in ("JITACCESS_URL", "JITACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def runner(*words: object, says: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(says)))
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = int(str(error.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


class Stub(BaseHTTPRequestHandler):
    """Answers everything in one way, and remembers what it was asked with."""

    answer: ClassVar[tuple[int, dict[str, str], bytes]] = (200, {}, b"{}")
    asked: ClassVar[list[tuple[str, str | None]]] = []
    sent: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        self.sent.append(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null"))
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - so it is looked for

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Callable[..., None]]:
    """Something at JITACCESS_URL that answers as told."""
    Stub.asked.clear()
    Stub.sent.clear()
    server = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("JITACCESS_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("JITACCESS_TOKEN", "jit_secret")

    def answer(status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        Stub.answer = (status, headers, raw)

    yield answer
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, run: Run, transactional_db: None, cast: Cast, live_server: Any
) -> Iterator[Cast]:
    """The product's API at JITACCESS_URL, with a token of the demo agent."""
    monkeypatch.setattr(policy_now, "STORE", SnapshotStore())
    monkeypatch.setenv("JITACCESS_URL", live_server.url)
    monkeypatch.setenv("JITACCESS_TOKEN", issue_token(agent=cast.agent, ttl=600, operator=OPERATOR)[0])
    return cast


ASK = ("request", "git/git_commit", "--reason", "Finish the release notes")


def test_an_agents_whole_way(run: Run, here: Cast) -> None:
    code, out, _ = run(*ASK, "--minutes", 20, "--dry-run")
    assert (code, "Nothing was filed" in out, "anna, bert" in out) == (0, True, True)
    assert not AccessRequest.objects.exists()
    code, out, _ = run(*ASK, "--minutes", 20, "--max-uses", 3, "--json")
    asked = AccessRequest.objects.get()
    assert (code, json.loads(out)["request_id"], asked.seconds, asked.max_uses) == (0, str(asked.pk), 1200, 3)
    assert "the same was pending already" in run(*ASK, "--minutes", 20, "--max-uses", 3)[2]
    assert [row["request_id"] for row in json.loads(run("requests", "--json")[1])["items"]] == [str(asked.pk)]
    here.approve(asked)
    grant = Grant.objects.get()
    code, out, _ = run("grants")
    assert (code, out.splitlines()[1].split()[:2]) == (0, [str(grant.pk)[:13], "active"])
    assert json.loads(run("requests", "show", str(asked.pk)[:13], "--json")[1])["timeline"]
    assert "grant activated" in run("requests", "show", asked.pk)[1]
    assert json.loads(run("release", str(grant.pk)[:13], "--json")[1])["end_reason"] == "released"
    assert run("release", grant.pk)[0] == 4
    assert run("cancel", asked.pk)[0] == 4
    assert run("cancel", "abcd")[0] == 3


def test_what_is_withdrawn_is_cancelled(run: Run, here: Cast) -> None:
    run(*ASK)
    asked = AccessRequest.objects.get()
    assert run("cancel", str(asked.pk)[:13])[1] == f"Request {asked.pk} is cancelled.\n"
    asked.refresh_from_db()
    assert asked.status == "cancelled"


@pytest.mark.parametrize(("verb", "code"), [("approve", 0), ("deny", 1)])
def test_who_waits_learns_the_outcome_by_the_exit_code(run: Run, here: Cast, verb: str, code: int) -> None:
    def decide() -> None:
        getattr(here, verb)(eventually(AccessRequest.objects.first, what="a request"))

    with Another(decide):
        ended, out, err = run(*ASK, "--wait", "--json")
    assert (ended, json.loads(out)["status"]) == (code, {"approve": "approved", "deny": "denied"}[verb])
    assert "waiting for anna, bert" in err


def test_who_waits_in_vain_is_told(run: Run, here: Cast) -> None:
    code, out, _ = run(*ASK, "--wait", "--timeout", "0s", "--json")
    assert (code, json.loads(out)["status"]) == (5, "pending")


def test_who_is_interrupted_leaves_the_request_pending(run: Run, here: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    code, _, err = run(*ASK, "--wait")
    asked = AccessRequest.objects.get()
    assert (code, asked.status, f"jitaccess cancel {asked.pk}" in err) == (130, "pending", True)


def test_refusals_have_their_exit_codes(run: Run, here: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("request", "git/git_commit", "--reason", "x", "--minutes", 100000)[0] == 2
    code, _, err = run("request", "git/git_log", "--reason", "x")
    assert (code, "allowed already" in err) == (4, True)
    code, _, err = run("requests", "--state", "waiting", "--agent", "x" * 60)
    assert (code, "agent: " in err) == (2, True), "which parameter it is"
    monkeypatch.setenv("JITACCESS_TOKEN", "jit_of_nobody")
    code, _, err = run("requests")
    assert (code, "does not accept the token" in err, "jit_of_nobody" in err) == (1, True, False)


def test_what_is_said_wrongly_reaches_nobody(run: Run, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("request", "git_commit", "--reason", "x")[0] == 2
    assert run("request", "git/git_commit")[0] == 2
    assert run(*ASK, "--args", "[1]")[0] == 2
    assert run(*ASK, "--args", '{"a": 1, "a": 2}')[0] == 2
    assert run(*ASK, "git/git_add", "--args", "{}")[0] == 2
    assert run("request", "role:ops", "--reason", "x", "--args", "{}")[0] == 2
    assert run(*ASK, "--timeout", "soon")[0] == 2
    assert run("release", "g")[0] == 2
    monkeypatch.setenv("JITACCESS_URL", "http://127.0.0.1:1/path")
    assert run("requests")[0] == 2
    monkeypatch.delenv("JITACCESS_URL")
    code, _, err = run("requests")
    assert (code, "Set JITACCESS_URL" in err) == (2, True)
    monkeypatch.delenv("JITACCESS_TOKEN")
    code, _, err = run(*ASK)
    assert (code, "Set JITACCESS_TOKEN" in err) == (2, True)
    assert not Stub.asked


def test_what_goes_out(run: Run, stub: Any) -> None:
    grant = "01a20078-f08f-722d-8f8b-ddcf1f416def"
    stub(403, {"detail": "No."})
    assert run(*ASK, "--args", "-", says='{"message": "naïve"}'.encode())[0] == 1
    run(*ASK, "--args", '{"n": [1, null]}', "--ticket", "REL-24")
    run("request", "role:ops", "git/git_add", "--reason", "x", "--minutes", 5, "--max-uses", 2)
    run("extend", grant, "--minutes", 30, "--reason", "It takes longer")
    run("cancel", grant)
    assert Stub.sent == [
        {"reason": "Finish the release notes", "calls": [{"tool": "git/git_commit", "arguments": {"message": "naïve"}}]},
        {"reason": "Finish the release notes", "ticket": "REL-24",
         "calls": [{"tool": "git/git_commit", "arguments": {"n": [1, None]}}]},
        {"reason": "x", "tools": ["git/git_add"], "roles": ["ops"], "minutes": 5, "max_uses": 2},
        {"extends": grant, "minutes": 30, "reason": "It takes longer"},
        {},
    ]  # fmt: skip
    assert {who for _, who in Stub.asked} == {"Bearer jit_secret"}
    assert Stub.asked[-1][0] == f"/api/v1/requests/{grant}/cancel"


def test_nobody_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITACCESS_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("JITACCESS_TOKEN", "jit_secret")
    code, out, err = run(*ASK)
    assert (code, out) == (5, "")
    assert "cannot be reached: connection refused" in err
    assert "jit_secret" not in err


def test_the_token_follows_no_redirect(run: Run, stub: Any) -> None:
    stub(302, b"", Location="/elsewhere")
    code, _, err = run("requests")
    assert (code, "no jitaccess" in err or "redirect" in err) == (5, True)
    assert [path for path, _ in Stub.asked] == ["/api/v1/requests?limit=20"]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"<html>Welcome</html>", 5), (200, b"", 5), (200, {"items": [{"request_id": 7}]}, 5),
        (200, {"items": [{}]}, 5), (502, b"<html>", 5), (503, {"detail": "Busy."}, 5), (429, {"detail": "Slow."}, 5),
        (404, {"detail": "Gone."}, 3), (409, {"detail": "Late."}, 4), (403, {"detail": "No."}, 1), (500, {}, 1),
        (401, b"who?", 1), (422, {"detail": "Hm."}, 2),
    ],
)  # fmt: skip
def test_every_answer_has_an_exit_code_and_no_traceback(run: Run, stub: Any, status: int, body: Any, code: int) -> None:
    stub(status, body)
    ended, out, err = run("requests")
    assert (ended, out) == (code, "")
    assert err.startswith("jitaccess: ")
    assert err.count("\n") == 1


def test_hostile_answers_cannot_act_on_the_terminal(run: Run, stub: Any) -> None:
    evil = "\x1b[2J\u202e\x07"
    stub(400, {"detail": f"No{evil}", "errors": [{"pointer": f"/a{evil}", "detail": evil}]})
    _, _, err = run("requests")
    stub(200, {"items": [{"request_id": "01a20078-f08f-722d-8f8b-ddcf1f416def", "status": evil, "agent": evil,
                          "tools": [evil], "minutes": 5, "created_at": None}]})  # fmt: skip
    code, out, _ = run("requests")
    assert code == 0
    stub(200, {"request_id": evil, "status": evil, "agent": evil, "reason": evil, "url": evil, "items": [{evil: evil}],
               "tools": [], "minutes": 1, "digest": evil, "items_": [], "coalesced": False})  # fmt: skip
    shown = run(*ASK)[1]
    as_json = run(*ASK, "--json")[1]
    for text in (err, out, shown, as_json):
        assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "\\u{202e}" in out + shown
    assert json.loads(as_json)["reason"] == evil


class Another:
    """Somebody else who does something meanwhile; what goes wrong there is raised here."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        from django.db import connection

        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the test
            self._error = error
        finally:
            connection.close()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        if self._error:
            raise self._error
