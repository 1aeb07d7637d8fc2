"""The endpoint of all servers: /mcp, tools as <slug>__<tool>, every rule as on the endpoint of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitaccess.catalog.models import AccessClass
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.policy.models import ServerAccess
from tests.cast import OPERATOR, Cast, definition
from tests.gateway import harness
from tests.gateway.harness import Client, Served, data, echo, ledger

pytestmark = pytest.mark.django_db(transaction=True)
ACCESS_TOOLS = {
    "call_tool",
    "cancel_request",
    "check_request",
    "list_requestable",
    "my_access",
    "release_access",
    "request_access",
}


@pytest.fixture
def notes(cast: Cast) -> Any:
    """A second server, with a tool of the same name as one of git's, open to the demo team."""
    server = register_server(slug="notes", operator=OPERATOR, instructions="Notes are in Latin.")
    import_tools(server=server, definitions=[definition("git_log"), definition("note__add")], operator=OPERATOR)
    for tool in server.tools.all():
        classify_tool(tool=tool, access=AccessClass.READ, operator=OPERATOR)
    ServerAccess.objects.create(server=server).teams.add(cast.team)
    return server


@pytest.fixture
def served(cast: Cast, notes: Any, tmp_path: Path) -> Iterator[Served]:
    configs = {slug: echo(tmp_path / slug, slug=slug) for slug in ("git", "notes")}
    served = harness.serve(configs)
    yield served
    served.stop()


@pytest.fixture
def client(served: Served, cast: Cast) -> Iterator[Client]:
    with served.client(cast) as client:
        client.server = ""
        yield client


def sent(tmp_path: Path, slug: str) -> str:
    path = tmp_path / slug
    return path.read_text() if path.exists() else ""


def test_lists_the_tools_of_every_server_under_its_slug_and_the_access_tools_once(client: Client) -> None:
    names = list(client.tools())
    assert {name for name in names if name.startswith("notes__")} == {"notes__git_log", "notes__note__add"}
    assert {"git__git_log", "git__git_status", "git__git_commit"} <= set(names)
    assert set(names[-7:]) == ACCESS_TOOLS
    assert len(names) == len(set(names))
    assert client.tools()["git__git_commit"].startswith("[LOCKED")


def test_a_call_reaches_the_server_of_its_prefix_under_its_true_name_and_no_other(
    client: Client, tmp_path: Path
) -> None:
    assert not client.call("notes__note__add").get("isError")
    assert '"note__add"' in sent(tmp_path, "notes")
    assert "note__add" not in sent(tmp_path, "git")
    entry = ledger("call.authorized")[-1]
    assert (entry.server_name, entry.tool) == ("notes", "note__add")


def test_a_refusal_names_the_tool_as_this_endpoint_does_and_the_ready_request_works(client: Client, cast: Cast) -> None:
    answer = client.call("git__git_commit")
    deny = answer["_meta"][harness.DENY]
    assert deny["tool"] == "git__git_commit"
    arguments = deny["request"]["arguments"] | {"reason": "Finish it"}
    assert arguments["tools"] == ["git__git_commit"]
    filed = client.call("request_access", **arguments)["structuredContent"]
    assert filed["tools"] == ["git/git_commit"]
    again = client.call("git__git_commit")["_meta"][harness.DENY]
    assert again["pending"]["request_id"] == filed["request_id"]
    # As the answer spells it, it may be asked for too: the same request comes back.
    same = client.call("request_access", **arguments | {"tools": ["git/git_commit"]})["structuredContent"]
    assert same["request_id"] == filed["request_id"]


@pytest.mark.parametrize("name", ["git_log", "nowhere__git_log", "__git_log", "git__", "git__nothing", "notes__git__x"])
def test_a_name_that_is_no_tool_of_any_server_is_unknown_and_on_record(
    client: Client, tmp_path: Path, name: str
) -> None:
    answer = client.ask("tools/call", {"name": name, "arguments": {}})
    assert answer["error"]["message"] == f"Unknown tool: {name}"
    assert harness.told("call.") == ["call.denied"]
    assert "tools/call" not in sent(tmp_path, "git") + sent(tmp_path, "notes")


def test_a_server_closed_to_the_team_is_not_there_and_its_tools_answer_like_unknown_ones(
    client: Client, cast: Cast, notes: Any, tmp_path: Path
) -> None:
    assert not client.call("notes__git_log").get("isError")
    ServerAccess.objects.filter(server=notes).delete()
    assert not [name for name in client.tools() if name.startswith("notes__")]
    answer = client.ask("tools/call", {"name": "notes__git_log", "arguments": {}})
    assert answer["error"]["message"] == "Unknown tool: notes__git_log"
    assert sent(tmp_path, "notes").count('"tools/call"') == 1
    assert ledger("call.denied")[-1].server == notes.pk
    assert "notes" not in client.call("my_access")["structuredContent"]["servers"]


def test_my_access_and_list_requestable_speak_of_all_servers(client: Client) -> None:
    mine = client.call("my_access")["structuredContent"]
    assert mine["servers"] == ["git", "notes"]
    assert "notes__git_log" in mine["allowed"]
    assert "git__git_commit" in mine["locked"]
    found = client.call("list_requestable", search="git__git_com")["structuredContent"]["tools"]
    assert [tool["tool"] for tool in found] == ["git__git_commit"]


def test_call_tool_takes_the_public_name(client: Client) -> None:
    assert not client.call("call_tool", name="notes__git_log", arguments={}).get("isError")
    assert ledger("call.authorized")[-1].tool == "git_log"


def test_instructions_name_the_servers_and_say_what_each_wants_said(client: Client) -> None:
    said = client.ask("server/discover")["result"]["instructions"]
    assert "Servers here: git, notes" in said
    assert "notes: Notes are in Latin." in said


def test_a_session_of_the_older_era_belongs_to_its_endpoint(client: Client) -> None:
    client.initialize()
    assert "git__git_log" in client.tools()
    client.server = "git"
    assert client.post(client.message("tools/list")).status_code == 404


def test_an_open_stream_hears_when_any_server_changes(client: Client, notes: Any) -> None:
    with client.listen() as stream:
        classify_tool(tool=notes.tools.get(name="git_log"), access=AccessClass.DESTRUCTIVE, operator=OPERATOR)
        stream.changed()
        assert "notes__git_log" not in client.tools()


def test_a_server_that_dies_harms_only_its_own_calls(client: Client) -> None:
    failed = client.call("notes__git_log", do="die")
    assert failed["isError"]
    assert "'notes__git_log' failed" in failed["content"][0]["text"]
    assert not client.call("git__git_log").get("isError")


def test_a_made_up_server_counts_as_one_kind_however_it_is_called(client: Client) -> None:
    for number in range(5):
        client.ask("tools/call", {"name": f"nowhere{number}__x", "arguments": {}})
    assert harness.told("call.") == ["call.denied"]
    assert harness.refusals() == 5
    assert data(ledger("call.denied")[0])["reason_code"] == "unknown"
