"""The server behind the gateway in these tests: a call it receives is in a file before anything else happens.

    python witness.py RECORD

One write() a call: what is in the file survives kill -9 of everybody. Standard library only: it is started often.
"""

import json
import os
import sys
import time

record = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def answer(request, **members):
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": request["id"], **members}).encode() + b"\n")


for line in sys.stdin.buffer:
    message = json.loads(line)
    if message["method"] == "tools/call":
        arguments = message["params"]["arguments"]
        seen = {"nonce": arguments["nonce"], "tool": message["params"]["name"], "at": time.time()}
        os.write(record, json.dumps(seen).encode() + b"\n")
        answer(message, result={"resultType": "complete", "content": [{"type": "text", "text": arguments["nonce"]}]})
    elif message["method"] == "server/discover":
        found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        answer(message, result={"resultType": "complete", **found})
    elif "id" in message:
        answer(message, error={"code": -32601, "message": "Method not found"})
