"""What else can be asked for on the page: exact calls by fields, a later start, limits, databases; and mistakes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from jitaccess.policy.models import Requestable
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from tests.cast import Cast, definition
from tests.web.ask.test_new import CHECK, FILE, NEW, WANTED, part, words

CALL = {"agent": "demo-agent", "call_tool": "git/git_reset", "call_shown": "form", "reason": "The release notes"}
SCHEMA = {
    "type": "object",
    "required": ["mode"],
    "properties": {
        "path": {"type": "string", "description": "Where <b>\u202e"},
        "mode": {"enum": ["soft", "hard"]},
        "depth": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        "files": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object"},
        "force": {"type": "boolean"},
    },
}


@pytest.fixture
def described(cast: Cast) -> Cast:
    tool = cast.tools["git_reset"]
    tool.definition = json.dumps(definition("git_reset", inputSchema=SCHEMA))
    tool.save()
    return cast


def items(client: Client, sent: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post(FILE, sent)
    assert response.status_code == 302, words(response.content.decode())
    return AccessRequest.objects.latest("created_at").parsed_items


def test_the_arguments_of_a_call_have_fields_of_their_own(described: Cast, browser) -> None:
    html = browser(described.olga).get(NEW, {"call_tool": "git/git_reset"}).content.decode()
    for name in SCHEMA["properties"]:  # type: ignore[attr-defined]
        assert f'name="arg:{name}"' in html
    assert '<option value="soft">soft</option>' in html
    assert 'name="call_arguments"' not in html
    assert "<b>" not in html.partition('id="arguments"')[2].partition("</details>")[0]
    assert "\u202e" not in html


def test_a_call_is_filed_from_its_fields_with_the_types_of_its_schema(described: Cast, browser) -> None:
    sent = CALL | {
        "arg:mode": "hard", "arg:depth": "3", "arg:files": "a b\r\nc\r\n", "arg:force": "false", "arg:more": '{"x":1}',
        "arg:path": "docs",
    }  # fmt: skip
    (item,) = items(browser(described.olga), sent)
    assert item["arguments"]["value"] == {
        "mode": "hard", "depth": 3, "files": ["a b", "c"], "force": False, "more": {"x": 1}, "path": "docs",
    }  # fmt: skip


def test_every_mistake_stands_beside_its_field_and_nothing_typed_is_lost(described: Cast, browser) -> None:
    sent = CALL | {"arg:depth": "two", "arg:path": "kept", "minutes": "x", "uses": "0", "starts_at": "soon"}
    response = browser(described.olga).post(FILE, sent)
    html = response.content.decode()
    assert response.status_code == 400
    assert not AccessRequest.objects.exists()
    for identity, text in (("minutes", "whole number"), ("uses", "whole number"), ("starts-at", "Write the time")):
        assert text in html.partition(f'id="{identity}-wrong"')[2][:120]
        assert f'aria-describedby="{identity}-wrong"' in html
    assert html.count("This is needed.") == 2  # beside the field, and on top with how many more
    assert "mode: This is needed." in html
    assert "And 4 more to put right." in html
    assert "A whole number." in html
    for typed in ("two", "kept", 'value="x"', "soon", "The release notes"):
        assert typed in html


def test_a_refusal_of_the_desk_stands_beside_its_field(described: Cast, browser) -> None:
    html = browser(described.olga).post(FILE, WANTED | {"minutes": "999"}).content.decode()
    assert "Ask for between 1 min and 4 h" in html.partition('id="minutes-wrong"')[2][:120]
    html = browser(described.olga).post(CHECK, CALL | {"call_tool": "git/absent", "call_shown": ""}).content.decode()
    assert "is not something you can ask for" in html.partition('id="call-tool-wrong"')[2][:120]


def test_fields_become_json_and_back_without_loss(described: Cast, browser) -> None:
    client = browser(described.olga)
    typed = CALL | {"arg:mode": "soft", "arg:depth": "2"}
    html = part(client, "arguments", **typed, call_as_json="1")
    assert "{&quot;depth&quot;:2,&quot;mode&quot;:&quot;soft&quot;}" in html
    as_json = {key: value for key, value in CALL.items() if key != "call_shown"} | {"call_shown": "json"}
    html = part(client, "arguments", **as_json, call_arguments='{"depth":2,"mode":"soft"}')
    assert '<option value="soft" selected>' in html
    html = part(client, "arguments", **as_json, call_arguments='{"other": [1]}')  # no field says this
    assert "{&quot;other&quot;: [1]}" in html
    html = part(client, "arguments", **CALL | {"arg:depth": "two"}, call_as_json="1")  # not to be lost either
    assert 'value="two"' in html


def test_arguments_typed_for_another_tool_are_not_filed_for_this_one(described: Cast, browser) -> None:
    sent = CALL | {"call_tool": "git/git_commit", "arg:mode": "hard"}
    response = browser(described.olga).post(FILE, sent)
    assert response.status_code == 400
    assert "look at them once more" in response.content.decode()
    assert not AccessRequest.objects.exists()


def test_a_later_start_and_an_end_are_filed_in_utc(cast: Cast, browser) -> None:
    start = (now() + timedelta(days=1)).replace(second=0, microsecond=0)
    end = start + timedelta(hours=2)
    sent = WANTED | {"starts_at": f"{start:%Y-%m-%dT%H:%M}", "not_after": f"{end:%Y-%m-%dT%H:%M}"}
    said = words(part(browser(cast.olga), "outcome", **sent))
    assert f"Begins by itself on {start:%Y-%m-%d %H:%M} UTC" in said
    browser(cast.olga).post(FILE, sent)
    asked = AccessRequest.objects.get()
    assert (asked.starts_at, asked.not_after) == (start, end)
    html = browser(cast.olga).post(FILE, WANTED | {"starts_at": "2020-01-01T00:00"}).content.decode()
    assert "A start must lie ahead" in html.partition('id="starts-at-wrong"')[2][:120]


def test_privileges_on_a_database_are_offered_and_filed_as_the_api_does(cast: Cast, browser) -> None:
    client = browser(cast.olga)
    assert 'name="database"' not in client.get(NEW).content.decode()
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select,insert", policy=cast.policy
    )
    html = client.get(NEW).content.decode()
    assert "<option>shop</option>" in html
    assert 'name="privilege" value="insert"' in html
    sent = {"agent": "demo-agent", "reason": "Look", "database": "shop", "objects": "public.a\r\npublic.b, public.c"}
    sent["privilege"] = "select"
    (item,) = items(client, sent)
    assert item == {
        "kind": "database", "database": "shop", "objects": ["public.a", "public.b", "public.c"],
        "privileges": ["select"],
    }  # fmt: skip
    html = client.post(FILE, sent | {"privilege": "drop"}).content.decode()
    assert "is not something you can ask for with these privileges" in html.partition('id="objects-wrong"')[2][:200]
    assert "public.b, public.c" in html


def test_tools_can_be_asked_for_with_limits_of_their_arguments(cast: Cast, browser) -> None:
    Requestable.objects.update(arguments="schema")
    client = browser(cast.olga)
    html = client.post(FILE, WANTED).content.decode()
    assert "may only be asked for with a schema" in html.partition('id="schema-wrong"')[2][:200]
    schema = {"type": "object", "properties": {"message": {"type": "string"}}, "additionalProperties": False}
    (item,) = items(client, WANTED | {"schema": json.dumps(schema)})
    assert item["arguments"] == {"mode": "schema", "schema": schema}


def test_a_dry_run_says_when_a_rule_approves_by_itself(cast: Cast, browser) -> None:
    cast.change_policy(rules="[{name: small, auto_approve: true}]")
    said = words(part(browser(cast.olga), "outcome", **WANTED))
    assert "Approved at once, by rule: nobody would be asked." in said
    assert "The rule small of the policy review" in said
    assert not AccessRequest.objects.exists()


def test_hostile_text_in_the_new_fields_does_nothing(described: Cast, browser) -> None:
    names = (
        "arg:path",
        "arg:mode",
        "arg:depth",
        "schema",
        "database",
        "objects",
        "starts_at",
        "not_after",
        "call_shown",
    )
    sent = CALL | dict.fromkeys(names, '"><script>x</script>') | {'arg:"><script>y</script>': "z"}
    html = browser(described.olga).post(CHECK, sent).content.decode()
    assert "<script>x" not in html
    assert "<script>y" not in html
