"""An MCP server for tests, good and bad: the era comes from argv, what a call does from the name of the tool.

    python fake_server.py ERA [--option ...]

ERA: modern, legacy (answers the probe with an error), silent (legacy, ignores the probe), fragile (legacy, exits on
the probe), late (modern, answers the probe only when something else arrives), or a protocol version (legacy).
"""

import json
import os
import sys
import time

ERA, OPTIONS = sys.argv[1], sys.argv[2:]
LEGACY_VERSION = ERA if ERA[0] == "2" else "2025-11-25"
cancelled: list[object] = []
listening: list[object] = []
unanswered: list[dict] = []
SLEEPER = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]


def send(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def raw(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(request: dict, **result: object) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def text(request: dict, value: object) -> None:
    answer(request, resultType="complete", content=[{"type": "text", "text": json.dumps(value), "x-unknown": [1]}])


def refuse(request: dict, code: int, message: str, **data: object) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message, "data": data}})


def discovered(request: dict) -> None:
    version = request["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
    if "--future" in OPTIONS:
        refuse(request, -32022, "Unsupported protocol version", supported=["2027-01-01"], requested=version)
        return
    answer(
        request,
        resultType="complete",
        supportedVersions=["2026-07-28"],
        capabilities={"tools": {"listChanged": True}, "x-unknown": {"kept": True}},
        _meta={"io.modelcontextprotocol/serverInfo": {"name": "fake", "version": "1"}},
        instructions="be kind",
    )


def initialized(request: dict) -> None:
    answer(
        request,
        protocolVersion=LEGACY_VERSION,
        capabilities={"tools": {}},
        serverInfo={"name": "fake", "version": "1", "x-unknown": 1},
    )


def list_tools(request: dict) -> None:
    page = int(request["params"].get("cursor", "0"))
    many = next((int(option[8:]) for option in OPTIONS if option.startswith("--tools=")), 3)
    tools = [{"name": f"t{page}-{n}", "inputSchema": {}, "x-unknown": page} for n in range(many)]
    more = {} if page == 2 and "--endless" not in OPTIONS else {"nextCursor": str(page + 1)}
    if "--loop" in OPTIONS:
        more = {"nextCursor": "1"}
    answer(request, resultType="complete", tools=tools, **more)


def spawn(request: dict) -> None:
    import subprocess  # here, like others below: they take longer than all the rest, and most tests need none

    same_group = subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL)
    daemon = subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL, start_new_session=True)
    text(request, [os.getpid(), same_group.pid, daemon.pid])


def ask(request: dict) -> None:
    replies = []
    for number, method in enumerate(("sampling/createMessage", "elicitation/create", "roots/list", "ping")):
        send({"jsonrpc": "2.0", "id": f"s{number}", "method": method, "params": {}})
        replies.append(json.loads(sys.stdin.readline()))
    send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": replies}})
    text(request, replies)


def odd_ids(request: dict) -> None:
    for wrong in (request["id"] + 1000, str(request["id"]), float(request["id"]), True, None, [1], {}):
        send({"jsonrpc": "2.0", "id": wrong, "result": {"wrong": True}})
    text(request, "right")
    answer(request, wrong="a second answer")


def shape(request: dict, kind: str) -> None:
    head = f'{{"jsonrpc":"2.0","id":{request["id"]},'
    raw(
        {
            "list": head + '"result":[]}',
            "both": head + '"result":{},"error":{"code":1,"message":""}}',
            "neither": head + '"result":null}',
            "code": head + '"error":{"code":"1","message":""}}',
            "nan": head + '"result":{"a":NaN}}',
            "twice": head + '"result":{"a":1,"a":2}}',
            "id_last": f'{{"result":{{"a":1,"a":2}},"jsonrpc":"2.0","id":{request["id"]}}}',
            "unknown_type": head + '"result":{"resultType":"task"}}',
        }[kind]
        + "\n"
    )


def call(request: dict) -> None:  # noqa: C901, PLR0912 - one branch per trick
    name = request["params"]["name"]
    arguments = request["params"].get("arguments", {})
    if name == "echo":
        text(request, request["params"])
    elif name == "environment":
        import resource
        import signal
        from pathlib import Path

        links = [link for link in list(Path("/proc/self/fd").iterdir()) if int(link.name) > 2 and link.is_symlink()]
        streams = [str(link.readlink()) for link in links]
        core = resource.getrlimit(resource.RLIMIT_CORE)
        pipe = signal.getsignal(signal.SIGPIPE).name
        text(request, [dict(os.environ), str(Path.cwd()), list(core), streams, pipe, os.getsid(0), os.getpgid(0)])
    elif name == "limits":
        import resource
        import signal
        from pathlib import Path

        kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
        text(request, [resource.getrlimit(kind) for kind in kinds])
    elif name == "die":
        os._exit(3)
    elif name == "answer_and_die":
        text(request, "last words")
        os._exit(0)
    elif name == "spin":
        while True:
            pass
    elif name == "never":
        pass
    elif name == "cancelled":
        text(request, cancelled)
    elif name == "refuse":
        refuse(request, -32602, "Unknown tool", reason="gone")
    elif name == "input":
        answer(request, resultType="input_required", inputRequests={"a": {}}, requestState="opaque")
    elif name == "garbage":
        raw('hello\n\n[1,2]\n"text"\n{"jsonrpc":"1.0"}\n{"jsonrpc":"2.0"}\n\xff\xfe{\n' + "{" * 90 + "\n")
        text(request, "after garbage")
    elif name == "flood":
        raw("garbage\n" * arguments["lines"])
        text(request, "after the flood")
    elif name == "huge":
        raw(f'{{"jsonrpc":"2.0","id":{request["id"]},"result":{{"a":"{"x" * arguments["bytes"]}"}}}}\n')
        if "die" in arguments:
            os._exit(0)
    elif name == "ids":
        odd_ids(request)
    elif name == "shape":
        shape(request, arguments["kind"])
    elif name == "ask":
        ask(request)
    elif name == "progress":
        token = request["params"]["_meta"]["progressToken"]
        for step in (1, 2):
            params = {"progressToken": token, "progress": step, "x-unknown": 1}
            send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        params = {"progressToken": "somebody else's", "progress": 9}
        send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        text(request, token)
    elif name == "change":
        meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": listening[0]}} if listening else {}
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": meta})
        text(request, len(listening))
    elif name == "spawn":
        spawn(request)
    elif name == "deaf":
        text(request, "no longer reading")
        time.sleep(600)
    elif name == "stderr":
        sys.stderr.write("noise \x1b[31m\n" * 200_000)
        text(request, "was not blocked")


def handle(message: dict) -> None:  # noqa: C901, PLR0912
    method = message["method"]
    if method == "server/discover":
        if ERA == "modern":
            discovered(message)
        elif ERA == "late":
            unanswered.append(message)
        elif ERA == "fragile":
            os._exit(1)
        elif ERA != "silent":
            refuse(message, -32602, "Invalid request parameters")
    elif method == "initialize":
        if ERA == "late":
            discovered(unanswered.pop())
        if ERA in ("modern", "late"):
            refuse(message, -32601, "Method not found")
        else:
            initialized(message)
    elif method == "subscriptions/listen":
        listening.append(message["id"])
        params = {"_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]}}
        send({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params})
    elif method == "tools/list":
        list_tools(message)
    elif method == "tools/call":
        call(message)
    elif method == "notifications/cancelled":
        cancelled.append(message["params"])


def main() -> None:
    if "--ignore-term" in OPTIONS:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--exit" in OPTIONS:
        sys.exit(7)
    if "--mute" in OPTIONS:
        time.sleep(600)
    for line in sys.stdin:
        handle(json.loads(line))
    if "--stay" in OPTIONS:  # does not care that its stdin closed
        time.sleep(600)


main()
