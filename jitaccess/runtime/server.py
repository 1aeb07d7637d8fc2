"""Serving: uvicorn around the switch, stopping fast and clean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import uvicorn
from django.conf import settings

from jitaccess.gateway.core import Gateway
from jitaccess.gateway.upstream.config import StdioServer, load_servers_file
from jitaccess.kernel.errors import Invalid
from jitaccess.runtime.asgi import Switch
from jitaccess.runtime.background import Background

STOP_SECONDS = 2


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, switch: Switch, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._switch, self._on_ready = switch, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            await asyncio.to_thread(self._on_ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Open event streams would hold the graceful stop until its timeout.
        self._switch.begin_shutdown()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Invalid("port.in_use") with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Invalid(
            "port.in_use",
            f"Cannot listen on {host}:{port} ({error.strerror}). "
            "Stop what is using it, or choose another port with PORT=8001.",
        ) from error
    return listener


def serve(
    *,
    listener: socket.socket,
    gateway: bool,
    web: bool,
    celery: bool = True,
    alone: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Run one process until a signal. `alone`: a file lock proves that no other process serves this database."""
    servers = configured_servers() if gateway else {}
    background = None
    if web:
        from jitaccess.runtime.celery import app

        background = Background(app if celery else None)
    core = Gateway(servers=servers.get, alone=alone) if gateway else None
    switch = Switch(gateway=core, web=web, background=background)
    config = uvicorn.Config(
        switch,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_keep_alive=30,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, switch, on_ready).run(sockets=[listener])


def configured_servers() -> dict[str, StdioServer]:
    """The stdio servers of the operator's file; none when there is no file."""
    return load_servers_file(settings.SERVERS_FILE) if settings.SERVERS_FILE.exists() else {}
