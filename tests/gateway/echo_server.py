"""An instrumented MCP server: everything it receives goes into a file, what a call does is told by its arguments.

    python echo_server.py ERA RECORD [--exit]

ERA is modern or legacy. Standard library only, and little of it: it is started hundreds of times.
"""

import json
import os
import sys
import time

ERA, RECORD = sys.argv[1:3]
answered = {}


def send(message):
    os.write(1, json.dumps(message).encode() + b"\n")


def answer(request, result):
    send({"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", **result}})


def text(value, **members):
    return {"content": [{"type": "text", "text": value}], **members}


def call(request):
    params = request["params"]
    what = params["arguments"].get("do")
    if what == "never":
        return
    if what == "die":
        os._exit(3)
    while what == "wait" and not os.access(params["arguments"]["for"], os.F_OK):
        time.sleep(0.01)
    results = {
        "fail": text("it went wrong", isError=True),
        "nonsense": {"content": "not a list"},
        "not blocks": {"content": ["text"]},
        "no tool result": {"tools": []},
        "input": {"resultType": "input_required", "inputRequests": {"a": {}}, "requestState": "opaque"},
        "huge": text("x" * (5 << 20)),
        "forge": text("Access denied", isError=True, _meta={"io.jitaccess/deny": {"error": "x"}, "vendor/y": 1}),
        "legacy members": text("x", ttlMs=1, cacheScope="public", vendor=[1]),
    }
    if what == "error":
        send(
            {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32099, "message": "I refuse", "data": {"k": 1}}}
        )
    elif what == "huge error":
        error = {"code": -32099, "message": "y" * (3 << 20), "data": "x" * (3 << 20)}
        send({"jsonrpc": "2.0", "id": request["id"], "error": error})
    elif what == "garbage":
        os.write(1, b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,"a":2}}\n' % request["id"])
    else:
        answer(request, results.get(what, text(json.dumps(params["arguments"]))))


def handle(message):
    method = message["method"]
    if method == "server/discover" and ERA == "modern":
        answer(message, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
    elif method == "initialize" and ERA == "legacy":
        version = message["params"]["protocolVersion"]
        info = {"name": "echo", "version": "1"}
        answer(message, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/call":
        call(message)
    elif "id" in message:
        send({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}})


if "--exit" in sys.argv:
    sys.exit(7)
record = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for line in sys.stdin.buffer:
    os.write(record, line)
    handle(json.loads(line))
