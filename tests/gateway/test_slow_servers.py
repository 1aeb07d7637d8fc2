"""A server that hangs harms its own calls, and nothing else: lists and greetings never wait for one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from jitaccess.catalog.models import AccessClass, ServerHealth, Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.policy.models import ServerAccess
from tests.cast import OPERATOR, Cast, definition
from tests.gateway.harness import Client, Served, echo, eventually

pytestmark = pytest.mark.django_db(transaction=True)
FAILED = "io.jitaccess/upstream_error"
QUICK = 5.0  # seconds; the servers hang for ever, and a start is given up after 20


@pytest.fixture
def hung(cast: Cast, start: Callable[..., Served], record: Path) -> Served:
    """A gateway before `git`, which works, and `stuck`, which never answers anything."""
    server = register_server(slug="stuck", operator=OPERATOR)
    ServerAccess.objects.create(server=server, every_team=True)
    import_tools(server=server, definitions=[definition("look")], operator=OPERATOR)
    classify_tool(tool=Tool.objects.get(name="look"), access=AccessClass.READ, operator=OPERATOR)
    stuck = StdioServer("stuck", sys.executable, ("-c", "import time; time.sleep(600)"), MappingProxyType({}), None)
    return start({"git": echo(record), "stuck": stuck})


@pytest.mark.parametrize("server", ["stuck", ""])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_lists_never_wait_for_a_server_that_hangs(cast: Cast, hung: Served, server: str, era: str) -> None:
    with hung.client(cast) as agent:
        agent.server = server
        if era == "legacy":
            agent.initialize()  # which asks what it offers besides tools, and not for long
        started = time.monotonic()
        assert {"stuck": "look", "": "stuck__look"}[server] in agent.tools()
        assert time.monotonic() - started < QUICK


def test_a_call_that_waits_for_a_hung_server_holds_up_no_other(cast: Cast, hung: Served) -> None:
    def stuck(client: Client) -> Client:
        client.server = "stuck"
        return client

    with hung.client(cast) as agent, stuck(hung.client(cast)).begin("look") as waiting:
        started = time.monotonic()
        result: dict[str, Any] = agent.call("git_log")
        assert "content" in result
        assert time.monotonic() - started < QUICK
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)


def test_a_server_that_fails_in_a_row_is_left_alone_for_a_while_and_tried_again(
    cast: Cast, start: Callable[..., Served]
) -> None:
    served = start(call_timeout=0.1)
    with served.client(cast) as agent:
        failures = [agent.call("git_log", do="never", number=number)["_meta"][FAILED] for number in range(6)]
        assert failures[4] == {"error": "upstream.timeout", "sent": True}
        assert failures[5] == {"error": "upstream.unavailable", "sent": False}
        result = agent.call("git_log")
        if result.get("isError"):  # a second may have passed on a busy machine
            text = result["content"][0]["text"]
            assert "is tried again in" in text
            assert "5 calls in a row failed, the last like this" in text
            assert "Nothing was sent to it." in text
        served.gateway.call_timeout = None
        eventually(lambda: not agent.call("git_log").get("isError"), what="it works again")
    eventually(lambda: ServerHealth.objects.filter(server=cast.server, ok=False).exists())
    assert "5 calls in a row failed" in ServerHealth.objects.get(server=cast.server).detail
