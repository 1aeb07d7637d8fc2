"""What the gateway is compared with: the same stack and the same upstream, and nothing decided or recorded.

python -m bench.passthrough RECORD      prints its URL
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from types import MappingProxyType

import uvicorn
import uvloop

from bench.upstream import arguments
from jitaccess.gateway.http import Receive, Scope, Send, read_body, send_json
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.stdio import StdioConnection
from jitaccess.gateway.wire import result
from jitaccess.kernel import strictjson


async def main(record: str) -> None:
    server = StdioServer("bench", sys.executable, arguments(record), MappingProxyType({}), None, "modern")
    upstream = await StdioConnection.open(server)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
        message = strictjson.decode(await read_body(receive))
        params = message["params"]
        assert isinstance(params, dict)
        wanted = {"name": params["name"], "arguments": params["arguments"]}
        value = await upstream.request("tools/call", wanted, timeout=60)
        await send_json(send, 200, result(message["id"], value))

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http="httptools", lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        await upstream.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
