"""`jitaccess worker` and `jitaccess beat`: processes of their own, on Redis. Nothing in a request waits for them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from celery import Celery
from celery import beat as celery_beat
from celery.worker import state as worker_state
from django.conf import settings
from django.db import close_old_connections, connection

from jitaccess.gateway.http import Receive, Scope, Send, send_empty
from jitaccess.runtime.background import ELECTION_SECONDS, Background
from jitaccess.runtime.celery import Scheduler
from jitaccess.runtime.front import Front
from jitaccess.runtime.gauges import Gauges, of_installation
from jitaccess.runtime.server import bind, leave
from jitaccess.runtime.vitals import PATHS, Vitals
from jitaccess.store.leader import Leadership

log = logging.getLogger(__name__)


class Health:
    """/healthz, /readyz and /metrics of a process without pages, in a thread; `port` 0: nowhere."""

    def __init__(self, role: str, checks: dict[str, Callable[[], bool]], gauges: Gauges, *, port: int) -> None:
        self._role, self._checks, self._gauges, self._port = role, checks, gauges, port
        self._vitals: Vitals | None = None
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Raises Invalid("port.in_use")."""
        if self._port:
            self._listener = bind("0.0.0.0", self._port)  # noqa: S104 - a container's orchestrator asks from outside
            self._listener.listen()  # now: who asks as soon as we say where is not turned away
            self._thread.start()

    def drain(self) -> None:
        if self._vitals is not None:
            self._vitals.draining = True

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join(2)

    def _run(self) -> None:
        self._vitals = Vitals(self._role, self._checks, self._gauges)
        front = Front(self._answer, proxies=(), access_log=False)
        config = uvicorn.Config(
            front, lifespan="off", log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._server.run(sockets=[self._listener])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        assert self._vitals is not None
        if scope["path"] in PATHS:
            await self._vitals(scope, send)
        else:
            await send_empty(send, 404)


def run_worker(app: Celery, *, concurrency: int, health_port: int, on_ready: Callable[[], None]) -> int:
    """Celery's worker, the sequencer and the signer until a signal; what was taken is done first (warm shutdown).

    Returns the exit code: 1 when the worker has ended by itself, which Celery's log explains.
    """
    background = Background(None)
    worker: Any = app.WorkController(
        pool_cls="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
    )
    checks = {
        "background": lambda: background.alive,
        "broker": lambda: getattr(worker.consumer, "connection", None) is not None,
    }
    health = Health("worker", checks, Gauges([of_installation]), port=health_port)

    told = threading.Event()

    def stop() -> None:
        told.set()
        health.drain()
        worker_state.should_stop = 0  # type: ignore[assignment]  # an exit code; the stubs know only None

    _on_signal(stop)
    background.start()
    health.start()
    on_ready()
    try:
        worker.start()
    except SystemExit as error:  # Celery's way to say that it has stopped
        log.debug("Celery's worker has ended: %s", error)
    finally:
        health.drain()
        background.stop()
        health.stop()
    leave(code := 0 if told.is_set() else 1)
    return code


def run_beat(app: Celery, *, health_port: int, on_ready: Callable[[], None]) -> None:
    """Celery's beat until a signal. Of several, one is at work, and another follows when it is gone."""
    stopping = threading.Event()
    leadership = Leadership("celery")
    service: _Beat | None = None
    health = Health("beat", {"beat": lambda: service is None or service.alive}, Gauges([]), port=health_port)

    def stop() -> None:
        health.drain()
        stopping.set()

    _on_signal(stop)
    health.start()
    on_ready()
    while not stopping.is_set():
        close_old_connections()
        leads = leadership.held()
        if service is not None and not (leads and service.alive):
            service.stop()
            service = None
        if leads and service is None:
            log.info("this beat is at work")
            service = _Beat(app)
        stopping.wait(ELECTION_SECONDS)
    if service is not None:
        service.stop()
    leadership.give_up()
    connection.close()
    health.stop()
    leave()


class _Beat:
    """Beat in a thread, so that a Redis that hangs cannot keep us from looking whether we still lead."""

    def __init__(self, app: Celery) -> None:
        self._service: Any = celery_beat.Service(app, max_interval=1, scheduler_cls=Scheduler)
        self._thread = threading.Thread(target=self._service.start, name="beat", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._service.stop(wait=False)
        self._thread.join(1.5)


def _on_signal(stop: Callable[[], None]) -> None:
    told = False

    def handle(sig: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(128 + sig)
        told = True
        stop()

    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, handle)


def health_port(given: int | None) -> int:
    """The port asked for on the command line, else by JITACCESS_HEALTH_PORT; 0 is none."""
    return settings.HEALTH_PORT if given is None else given
