"""An MCP server (2025-11-25, stdio) that offers what a file says, and says so when the file changes.

python offering_server.py TOOLS.json
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

PATH = Path(sys.argv[1])


def send(message):
    os.write(1, json.dumps(message).encode() + b"\n")


def read():
    return PATH.read_text()


def watch():
    known = read()
    while True:
        time.sleep(0.02)
        if (now := read()) != known:
            known = now
            send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "initialize":
        answer["result"] = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "offering", "version": "7"},
        }
        threading.Thread(target=watch, daemon=True).start()
    elif message["method"] == "tools/list":
        said = json.loads(read())
        answer |= {"error": said} if "code" in said else {"result": {"tools": said["tools"]}}
    elif message["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": "done"}]}
    else:
        answer["error"] = {"code": -32601, "message": "Method not found"}
    send(answer)
