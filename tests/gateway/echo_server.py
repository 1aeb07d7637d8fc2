"""An instrumented MCP server: everything it receives goes into a file, what a call does is told by its arguments.

    python echo_server.py ERA RECORD [--exit]

ERA is modern or legacy. Standard library only, and little of it: it is started hundreds of times.
"""

import json
import os
import sys
import time

ERA, RECORD = sys.argv[1:3]
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
answered = {}
asked = {}
announced = {}


def send(message):
    os.write(1, json.dumps(message).encode() + b"\n")


def answer(request, result):
    send({"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", **result}})


def text(value, **members):
    return {"content": [{"type": "text", "text": value}], **members}


def ask(request):
    """The older era: ask the client, and answer with what it says."""
    arguments = request["params"]["arguments"]
    for number in range(arguments.get("times", 1)):
        name = f"question {request['id']} {number}"
        asked[name] = request
        send({"jsonrpc": "2.0", "id": name, "method": arguments["method"], "params": arguments.get("params", {})})


def take(message):
    request = asked.pop(message["id"], None)
    if request is not None and request not in asked.values():
        answer(request, text(json.dumps({key: message.get(key) for key in ("result", "error")})))


def rounds(request):
    """The newer era: ask until there are answers, or so many times."""
    params, arguments = request["params"], request["params"]["arguments"]
    number = int(params.get("requestState", "round 0").split()[1])
    if "inputResponses" in params or number >= arguments.get("rounds", 99):
        answer(request, text(json.dumps({key: params.get(key) for key in ("inputResponses", "requestState")})))
        return
    wanted = {"inputRequests": arguments["ask"]} if "ask" in arguments else {}
    answer(request, {"resultType": "input_required", "requestState": f"round {number + 1}", **wanted})


def url(request):
    error = {"code": -32042, "message": "Sign in", "data": {"elicitations": [request["params"]["arguments"]["params"]]}}
    send({"jsonrpc": "2.0", "id": request["id"], "error": error})


def log(request):
    for level in ("debug", "warning"):
        note = {"level": level, "data": level, "_meta": {"io.jitaccess/deny": 1}}
        send({"jsonrpc": "2.0", "method": "notifications/message", "params": note})
    answer(request, text("logged"))


def flood(request):
    """Progress without end, in lines of a kilobyte."""
    token = request["params"]["_meta"]["progressToken"]
    for number in range(request["params"]["arguments"]["times"]):
        params = {"progressToken": token, "progress": number, "message": "x" * 1000}
        send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


MORE = {"ask": ask, "rounds": rounds, "url": url, "log": log, "flood": flood}


def call(request):
    params = request["params"]
    what = params["arguments"].get("do")
    if what in MORE:
        MORE[what](request)
        return
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
        "announced": text(json.dumps(params.get("_meta", {}).get(CAPABILITIES, announced))),
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
    if "method" not in message:
        take(message)
        return
    method = message["method"]
    if method == "server/discover" and ERA == "modern":
        answer(message, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
    elif method == "initialize" and ERA == "legacy":
        announced.update(message["params"]["capabilities"])
        version = message["params"]["protocolVersion"]
        info = {"name": "echo", "version": "1"}
        can = {"tools": {}, "logging": {}} if "--logging" in sys.argv else {"tools": {}}
        answer(message, {"protocolVersion": version, "capabilities": can, "serverInfo": info})
    elif method == "logging/setLevel":
        answer(message, {})
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
