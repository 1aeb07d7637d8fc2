from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jitaccess.gateway.upstream.config import HttpServer, load_servers_file
from jitaccess.kernel.errors import Invalid


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "servers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_familiar_file_is_read(tmp_path: Path) -> None:
    entry = {
        "type": "stdio",
        "command": "uvx",
        "args": ["mcp-server-git", "-v"],
        "env": {"A": "1"},
        "cwd": "/srv",
        "era": "legacy",
        "shared": True,
    }
    servers = load_servers_file(write(tmp_path, {"mcpServers": {"git": entry, "x": {"command": "y"}}, "other": 1}))
    git, plain = servers["git"], servers["x"]
    assert (git.slug, git.command, git.args) == ("git", "uvx", ("mcp-server-git", "-v"))
    assert (dict(git.env), git.cwd, git.era, git.shared) == ({"A": "1"}, "/srv", "legacy", True)
    assert (plain.args, dict(plain.env), plain.cwd, plain.era, plain.shared) == ((), {}, None, "auto", False)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("text", "object"),
        ({}, '"command"'),
        ({"command": ""}, '"command"'),
        ({"command": ["a"]}, '"command"'),
        ({"command": "a\0"}, '"command"'),
        ({"command": "a", "args": "b"}, '"args"'),
        ({"command": "a", "args": [1]}, '"args"'),
        ({"command": "a", "args": None}, '"args"'),
        ({"command": "a", "env": {"A": 1}}, '"env"'),
        ({"command": "a", "env": {"A=B": "1"}}, '"env"'),
        ({"command": "a", "env": ["A=1"]}, '"env"'),
        ({"command": "a", "cwd": "relative"}, '"cwd"'),
        ({"command": "a", "cwd": 1}, '"cwd"'),
        ({"command": "a", "era": "2026"}, '"era"'),
        ({"command": "a", "era": ["auto"]}, '"era"'),
        ({"command": "a", "shared": "yes"}, '"shared"'),
        ({"command": "a", "comand": "b"}, '"comand"'),
        ({"command": "a", "disabled": True}, '"disabled"'),
        ({"type": "http", "command": "a"}, '"type"'),
        ({"type": ["stdio"], "command": "a"}, '"type"'),
        ({"type": "stdio", "url": "https://example.com/mcp"}, '"type"'),
        ({"type": "sse", "url": "https://example.com/sse"}, '"sse"'),
        ({"command": "a", "url": "https://example.com/mcp"}, "one or the other"),
        ({"command": "a", "limits": {"memory": 1}}, '"limits"'),
        ({"command": "a", "limits": {"memory_mb": 1}}, '"limits"'),
        ({"command": "a", "limits": {"open_files": True}}, '"limits"'),
        ({"url": "https://example.com/mcp", "limits": {}}, '"limits"'),
        ({"url": ""}, '"url"'),
        ({"url": 1}, '"url"'),
        ({"url": "https://me:word@example.com/mcp"}, "user name"),
        ({"url": "https://example.com/mcp#x"}, "fragment"),
        ({"url": "ftp://example.com/mcp"}, '"https://"'),
        ({"url": "https://example.com/mcp", "args": []}, '"args"'),
        ({"url": "https://example.com/mcp", "headers": ["a"]}, '"headers"'),
        ({"url": "https://example.com/mcp", "headers": {"a": 1}}, '"headers"'),
        ({"url": "https://example.com/mcp", "headers": {"a b": "x"}}, '"a b"'),
        ({"url": "https://example.com/mcp", "headers": {"X": "1", "x": "2"}}, "twice"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_server_and_key(tmp_path: Path, entry: Any, named: str) -> None:
    path = write(tmp_path, {"mcpServers": {"good": {"command": "a"}, "bad-one": entry}})
    with pytest.raises(Invalid) as caught:
        load_servers_file(path)
    error = caught.value
    assert error.code == "servers_file.invalid"
    assert all(part in error.detail for part in (str(path), '"bad-one"', named))
    assert "\n" not in error.detail


@pytest.mark.parametrize("slug", ["", "A", "a_b", "-a", "a-", "a" * 33, "a/b", "a\n", "é"])
def test_a_bad_name_is_refused(tmp_path: Path, slug: str) -> None:
    with pytest.raises(Invalid, match="the name must be"):
        load_servers_file(write(tmp_path, {"mcpServers": {slug: {"command": "a"}}}))


@pytest.mark.parametrize("slug", ["a", "a-b", "0", "a" * 32])
def test_a_good_name_is_taken(tmp_path: Path, slug: str) -> None:
    assert load_servers_file(write(tmp_path, {"mcpServers": {slug: {"command": "a"}}})).keys() == {slug}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "strict JSON"),
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "strict JSON"),
        ("[]", "strict JSON"),
        ("{}", "mcpServers"),
        ('{"mcpServers": []}', "mcpServers"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_a_file_that_is_not_the_familiar_form_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(Invalid, match=problem) as caught:
        load_servers_file(path)
    assert (caught.value.code, str(path) in caught.value.detail) == ("servers_file.invalid", True)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        load_servers_file(tmp_path / "nothing.json")


def test_a_server_over_http_is_read_and_shows_neither_key_nor_header(tmp_path: Path) -> None:
    entry = {
        "type": "streamable-http",
        "url": "https://example.com/mcp?key=hush",
        "headers": {"Authorization": "Bearer hush", "X-Team": "a b"},
        "era": "modern",
        "shared": True,
    }
    servers = load_servers_file(write(tmp_path, {"mcpServers": {"far": entry, "x": {"url": "http://mcp.internal"}}}))
    far, plain = servers["far"], servers["x"]
    assert isinstance(far, HttpServer)
    assert isinstance(plain, HttpServer)
    assert (far.slug, far.url, far.era, far.shared) == ("far", "https://example.com/mcp?key=hush", "modern", True)
    assert dict(far.headers) == entry["headers"]
    assert "hush" not in repr(servers)
    assert (dict(plain.headers), plain.era, plain.shared) == ({}, "auto", False)


@pytest.mark.parametrize("value", ["a\rb", "a\nX: y", "a\0", " a", "a ", "", "é", "\t"])
def test_a_value_that_could_end_a_header_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    entry = {"url": "https://example.com/mcp", "headers": {"X-Key": f"hush{value}" if value else ""}}
    if value == " a":
        entry["headers"] = {"X-Key": " hush"}
    with pytest.raises(Invalid, match='"X-Key"') as caught:
        load_servers_file(write(tmp_path, {"mcpServers": {"far": entry}}))
    assert "hush" not in caught.value.detail


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "Connection", "Mcp-Session-Id", "MCP-Protocol-Version", "mcp-name",
     "Accept", "Content-Type", "accept-encoding", "Content-Encoding", "Last-Event-ID", "Expect", "TE",
     "X-JitAccess-Identity"],
)  # fmt: skip
def test_a_header_that_is_the_gateways_is_refused(tmp_path: Path, name: str) -> None:
    entry = {"url": "https://example.com/mcp", "headers": {name: "x"}}
    with pytest.raises(Invalid, match="set by the gateway"):
        load_servers_file(write(tmp_path, {"mcpServers": {"far": entry}}))


def test_no_configuration_shows_what_a_server_is_given_in_confidence(tmp_path: Path) -> None:
    program = {"command": "x", "args": ["--key=hush-1"], "env": {"KEY": "hush-2"}}
    far = {"url": "https://far.example/mcp?key=hush-3", "headers": {"X-Key": "hush-4"}}
    servers = load_servers_file(write(tmp_path, {"mcpServers": {"near": program, "far": far}}))
    assert "hush" not in repr(servers)
    assert "command='x'" in repr(servers)
