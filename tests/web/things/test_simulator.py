"""The simulator says what a call would get, to those who may know, and leaves no trace."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.policy.engine.decide import Who, decide
from jitaccess.policy.locks import lock
from jitaccess.policy.models import PolicyVersion
from jitaccess.policy.services import bind_role, save_role
from jitaccess.store.clock import now
from tests.cast import OPERATOR, TOOLS, Cast

Browser = Callable[..., Client]
NOTES = """\
kind: role
version: v1
metadata: {name: notes}
spec:
  allow:
    - {servers: [git], tools: [git_commit], where: 'args.message == "notes"'}
"""


def ask(client: Client, **given: object) -> str:
    question = {"agent": "demo-agent", "server": "git", "tool": "git_log", "user": "", "arguments": ""} | given
    return client.post("/simulator/", question).content.decode()


def test_it_agrees_with_the_decision_of_a_call(cast: Cast, browser: Browser):
    bind_role(role=save_role(document=NOTES, operator=OPERATOR), agent=cast.agent, operator=OPERATOR)
    client, snapshot = browser(cast.admin), cast.snapshot()
    for tool, message, user in itertools.product([*TOOLS, "none"], ["notes", "x"], [None, cast.olga]):
        arguments = {"message": message}
        verdict = decide(
            snapshot,
            who=Who(cast.agent.pk, user.pk if user else None),
            server=cast.server.pk,
            tool=tool,
            at=now(),
            arguments=arguments,
        )
        said = ask(client, tool=tool, arguments=json.dumps(arguments), user=user.username if user else "")
        assert ("<h2>Allowed</h2>" in said) is verdict.allowed, (tool, message, user)
        assert ("<h2>Refused" in said) is not verdict.allowed


def test_it_names_the_rule_that_decides_and_what_would_help(cast: Cast, browser: Browser):
    allowed = ask(browser(cast.admin), tool="git_log")
    assert "read-only" in allowed
    assert "decides" in allowed
    refused = ask(browser(cast.admin), tool="git_commit")
    assert "ask for git_commit" in refused
    lock(kind="agent", target=cast.agent.pk, reason="It misbehaves", operator=OPERATOR)
    assert "Refused: it is locked or disabled" in ask(browser(cast.admin), tool="git_log")


def test_nothing_is_called_and_nothing_written(cast: Cast, browser: Browser):
    client = browser(cast.admin)
    entries, version = Entry.objects.count(), PolicyVersion.objects.get().version
    ask(client, arguments="{}")
    client.get("/simulator/?agent=demo-agent&server=git&tool=git_reset")
    assert (Entry.objects.count(), PolicyVersion.objects.get().version) == (entries, version)


def test_an_owner_asks_about_an_agent_of_theirs_and_nobody_about_a_foreign_one(cast: Cast, browser: Browser):
    assert "Allowed" in ask(browser(cast.olga))
    assert "Allowed" in ask(browser(cast.olga), user="olga")
    for client, given in (
        (browser(cast.anna), {}),
        (browser(cast.anna), {"user": "anna"}),
        (browser(cast.olga), {"user": "bert"}),
    ):
        known, unknown = ask(client, **given), ask(client, agent="no-such", **given)
        assert "You may ask about agents of yours" in known
        assert "You may ask about agents of yours" in unknown
        assert "Allowed" not in known


def test_a_tool_they_may_not_know_is_told_like_one_that_there_is_not(cast: Cast, browser: Browser):
    cast.requestable.delete()
    client = browser(cast.olga)
    hidden, missing = ask(client, tool="git_reset"), ask(client, tool="git_nosuch")
    assert "there is no such tool" in hidden
    assert "What was looked at" not in hidden
    assert hidden.replace("git_reset", "git_nosuch").count("nothing that this agent may ask for") == 1
    assert missing.count("nothing that this agent may ask for") == 1


@pytest.mark.parametrize("arguments", ["[1]", "{", '{"a": 1, "a": 2}', "1e999", "[" * 5000, "\ud800"])
def test_arguments_that_are_none_are_refused_on_the_page(arguments: str, cast: Cast, browser: Browser):
    answer = browser(cast.admin).post(
        "/simulator/",
        {
            "agent": "demo-agent",
            "server": "git",
            "tool": "git_log",
            "arguments": arguments.encode("utf-8", "replace").decode(),
        },
    )
    assert answer.status_code == 400
    assert "not a JSON object" in answer.content.decode()


def test_what_is_typed_is_shown_as_text(cast: Cast, browser: Browser):
    said = ask(browser(cast.admin), tool="<img src=x onerror=alert(1)>", arguments='{"a": "<b>\u202e"}')
    assert "<img src=x" not in said
    assert "<b>" not in said


def test_arguments_are_not_taken_from_an_address(cast: Cast, browser: Browser):
    page = browser(cast.admin).get('/simulator/?agent=demo-agent&server=git&tool=git_log&arguments={"secret":1}')
    assert "secret" not in page.content.decode()


def test_signed_out_or_without_the_token_of_the_form_nothing_is_answered(cast: Cast, browser: Browser):
    assert Client().post("/simulator/", {"agent": "demo-agent"}).url == "/accounts/login/?next=/simulator/"
    assert browser(cast.admin, csrf=True).post("/simulator/", {}).status_code == 403
