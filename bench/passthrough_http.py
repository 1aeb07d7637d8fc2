"""What the gateway is compared with: raw ASGI on the same server, the same HTTP client, nothing decided or recorded.

python -m bench.passthrough_http UPSTREAM_URL [--port N]      prints its URL
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn
import uvloop

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client

# What belongs to one connection alone (RFC 9110, 7.6.1), or is the client's own.
_DROPPED = {b"host", b"connection", b"content-length", b"accept-encoding", b"user-agent", b"authorization"}
Event = MutableMapping[str, Any]


async def main(upstream: str, port: int) -> None:
    host = urlsplit(upstream).hostname
    assert host
    client = Client(Allowance.parse([host]))

    async def application(scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Any]) -> None:
        event = await receive()
        body = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name not in _DROPPED}
        response = await client.send(scope["method"], upstream, headers=headers, body=body or None)
        answer = await response.read()
        response.close()
        kind = response.content_type.encode()
        found = [(b"content-type", kind), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": response.status, "headers": found})
        await send({"type": "http.response.body", "body": answer})

    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    config = uvicorn.Config(
        application, http="httptools", lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.upstream, options.port))
