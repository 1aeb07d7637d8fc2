"""The echo server of echo_http.py behind a pipe, for the peers whose business it is to put one on the network.

    python -I -S echo_stdio.py

Both eras. Standard library only: it must never be what is measured.
"""

import json
import os
import sys
from typing import Any

SCHEMA = {"type": "object", "properties": {"nonce": {"type": "string", "description": "given back as it is"}}}
TOOLS = [{"name": "echo", "description": "Gives its argument back", "inputSchema": SCHEMA}]


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """The result; None for a method that is not known."""
    method, params = message["method"], message.get("params", {})
    if method == "tools/call":
        return {"resultType": "complete", "content": [{"type": "text", "text": params["arguments"]["nonce"]}]}
    if method == "tools/list":
        return {"resultType": "complete", "tools": TOOLS, "ttlMs": 60_000, "cacheScope": "public"}
    if method == "initialize":
        info, version = {"name": "echo", "version": "1"}, params["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "server/discover":
        return {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    return {} if method == "ping" else None


def main() -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = answer(message)
        said = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
        os.write(1, json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}).encode() + b"\n")


if __name__ == "__main__":
    main()
