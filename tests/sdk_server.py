"""A server made with the official Python SDK, over streamable HTTP, in both eras at one address.

python -m tests.sdk_server PORT
"""

from __future__ import annotations

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("clock-tower")


@server.tool()
def ring(times: int) -> str:
    """Ring the bell."""
    return " ".join(["ding"] * times)


@server.tool()
def mend(part: str) -> str:
    """Mend a part of the clock."""
    return f"mended {part}"


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
