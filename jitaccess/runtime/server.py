"""Serving: uvicorn around the switch, stopping fast and clean."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from django.conf import settings

from jitaccess import env
from jitaccess.gateway import tracing
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.seeing.catalogue import Catalogue
from jitaccess.gateway.upstream.config import ServerConfig, load_servers_file
from jitaccess.gateway.upstream.directory import Directory
from jitaccess.kernel.errors import Invalid
from jitaccess.runtime.asgi import Switch
from jitaccess.runtime.background import Background
from jitaccess.runtime.front import Front
from jitaccess.runtime.protocol import SWEEP_SECONDS, Protocol, most_connections, raise_open_files, sweep

UP_STOP_SECONDS = 2
ANSWER_SECONDS = 1  # for the clients of calls that were cut
LEAVE_SECONDS = 2.0
# What a call leaves behind is hardly ever a cycle, and what is there to be looked through is the whole policy: with
# Python's own thresholds (700, 10, 10) looking takes a sixth of the time of every call.
COLLECT_AFTER = (20_000, 50, 100)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, switch: Switch, on_ready: Callable[[], None], *, stop_seconds: float
    ) -> None:
        super().__init__(config)
        self._switch, self._on_ready, self._stop_seconds = switch, on_ready, stop_seconds
        self._told = False
        self._swept = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            gc.freeze()
            gc.set_threshold(*COLLECT_AFTER)
            await asyncio.to_thread(self._on_ready)

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            sweep(self.server_state.connections, now)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal: fail /readyz, serve on for as long as balancers need to see it, stop. The second: end."""
        if self._told:
            os._exit(
                128 + sig
            )  # as after a kill: what was in flight is closed by another process, or at the next start
        self._told = True
        self._switch.drain()
        if settings.DRAIN_SECONDS:
            later = threading.Timer(settings.DRAIN_SECONDS, self._stop)
            later.daemon = True
            later.start()
        else:
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Open event streams would hold the graceful stop until its timeout.
        self._switch.begin_shutdown()
        # Before uvicorn cuts what is left: it would answer with a bare 500, and log each call as a crash.
        cut = asyncio.get_running_loop().call_later(self._stop_seconds, self._switch.cut)
        await super().shutdown(sockets)
        cut.cancel()


def leave(code: int = 0) -> None:
    """End this process within seconds, when all is written that could be: Python would first join every thread, and
    one that waits for a database that is gone without a word may wait for ever.
    """
    sys.stdout.flush()
    later = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
    later.daemon = True
    later.start()


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
    role: str,
    listener: socket.socket,
    gateway: bool,
    web: bool,
    celery: bool = True,
    alone: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Run one process until a signal. `alone`: a file lock proves that no other process serves this database."""
    tracing.set_up()
    _log_quickly()
    servers = directory() if gateway else None
    background = None
    # With Redis that is what `jitaccess worker` and `beat` are for; `up` is all in one whatever there is.
    if web and (role == "up" or not settings.REDIS_URL):
        from jitaccess.runtime.celery import make_app

        background = Background(make_app(redis_url="") if celery else None)
    core = Gateway(servers=servers, alone=alone, catalogue=Catalogue(servers)) if servers else None
    switch = Switch(role=role, gateway=core, web=web, background=background)
    up = role == "up"
    stop_seconds = UP_STOP_SECONDS if up and not env.text("JITACCESS_STOP_SECONDS") else settings.STOP_SECONDS
    config = uvicorn.Config(
        Front(switch, proxies=settings.TRUSTED_PROXIES, access_log=not up, short=switch.short),
        loop="uvloop",
        http=Protocol,
        limit_concurrency=most_connections(raise_open_files()),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(stop_seconds) + ANSWER_SECONDS,
        timeout_keep_alive=30,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, switch, on_ready, stop_seconds=stop_seconds).run(sockets=[listener])
    leave()


def _log_quickly() -> None:
    """No line of ours says by which thread or file it was written, and each request has one ("Logging HOWTO",
    Optimization).
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the HOWTO has it


def directory() -> Directory:
    """Where every server is, now. Raises Invalid: later a wrong file leaves the last good one, but a start has none."""
    configured_servers()
    return Directory(settings.SERVERS_FILE).follow()


def configured_servers() -> dict[str, ServerConfig]:
    """The servers of the operator's file; none when there is no file."""
    return load_servers_file(settings.SERVERS_FILE) if settings.SERVERS_FILE.exists() else {}
