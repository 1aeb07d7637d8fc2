"""A process is told to stop while it works: nobody is left without an answer, and nothing holds it."""

from __future__ import annotations

import json
import signal

import psutil

from tests.gateway.harness import Client
from tests.installation import Installation, eventually


def test_a_call_that_is_cut_by_a_stop_is_answered_and_on_record_and_is_no_crash(cold: Installation) -> None:
    installation = cold  # whose server is a process among its own
    installation.environment |= {"JITACCESS_STOP_SECONDS": "0"}
    process = installation.up()
    with Client(process.url, installation.ready_token) as agent:
        agent.call("git_status", repo_path=".")
        children = psutil.Process(process.popen.pid).children(recursive=True)
        servers = [child for child in children if "mcp_server_git" in " ".join(child.cmdline())]
        for server in servers:
            server.suspend()
        with agent.listen() as stream, agent.begin("git_log", repo_path=".") as plain:
            eventually(lambda: len(installation.ledger("call.authorized")) == 2, what="the call is under way")
            process.popen.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: plain.recv(65536), b""))
            assert stream.ended.wait(10)
        for server in servers:
            server.resume()
    process.popen.wait(20)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert "is being stopped" in json.loads(body)["error"]["message"]
    assert installation.ledger("call.outcome_unknown")[-1]["data"]["why"] == "the gateway was stopped"
    assert process.popen.returncode == 0
    assert "Traceback" not in process.output
    assert psutil.wait_procs(children, timeout=5)[1] == []
