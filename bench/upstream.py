"""The MCP server behind everything that is measured: answers with the nonce it got, and keeps when it got it.

    python -I -S upstream.py RECORD

RECORD gets a line for each call: the nonce and CLOCK_MONOTONIC, which is one clock for all processes of a machine.
Standard library only: it must never be what is measured.
"""

import json
import os
import sys
import time
from typing import Any


def arguments(record: str) -> tuple[str, ...]:
    """How an interpreter is told to be this server."""
    return ("-I", "-S", __file__, record)


def answer(request: dict[str, Any], result: dict[str, Any]) -> None:
    message = {"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", **result}}
    os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    record = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for line in sys.stdin.buffer:
        at = time.monotonic()
        message = json.loads(line)
        method = message["method"]
        if method == "tools/call":
            nonce = message["params"]["arguments"]["nonce"]
            os.write(record, f"{nonce} {at:.6f}\n".encode())
            answer(message, {"content": [{"type": "text", "text": nonce}]})
        elif method == "server/discover":
            answer(message, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        elif "id" in message:
            raise SystemExit(f"unexpected: {method}")


if __name__ == "__main__":
    main()
