"""/healthz, /readyz and /metrics of any process: answered before Django and the gateway, whatever state they are in."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.db import close_old_connections, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

import jitaccess
from jitaccess.gateway.http import Scope, Send
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.runtime.gauges import Gauges
from jitaccess.store.metrics import REGISTRY

log = logging.getLogger(__name__)

PATHS = ("/healthz", "/readyz", "/metrics")
DATABASE_SECONDS = 1.0
# Anybody may ask /readyz: however often, the database is asked once a second.
KEPT_SECONDS = 1.0
SCRAPE_SECONDS = 5.0


class Vitals:
    """`checks` by name ask nobody and do not wait; the database's two are added here. Belongs to one event loop."""

    def __init__(self, role: str, checks: Mapping[str, Callable[[], bool]], gauges: Gauges) -> None:
        self.draining = False
        self._checks, self._gauges = checks, gauges
        self._database = _DatabaseChecks()
        self._scraper = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._own = CollectorRegistry()
        build = Gauge("jitaccess_build_info", "What runs here.", ["version", "role"], registry=self._own)
        build.labels(jitaccess.__version__, role).set(1)
        self._own.register(gauges)

    async def __call__(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            await _answer(scope, send, 405, b"", "text/plain", allow="GET, HEAD")
        elif scope["path"] == "/healthz":
            await _answer(scope, send, 200, b"ok\n", "text/plain")
        elif scope["path"] == "/readyz":
            checks = await self.readiness()
            ready = all(checks.values())
            found: JsonObject = {"ready": ready, "checks": [{"name": name, "ok": ok} for name, ok in checks.items()]}
            await _answer(scope, send, 200 if ready else 503, strictjson.encode(found) + b"\n", "application/json")
        elif not _may_scrape(scope):
            await _answer(scope, send, 401, b"", "text/plain", www_authenticate='Bearer realm="metrics"')
        else:
            try:
                await _answer(scope, send, 200, await self._scrape(), CONTENT_TYPE_LATEST)
            except TimeoutError:
                await _answer(scope, send, 503, b"", "text/plain")

    async def readiness(self) -> dict[str, bool]:
        """Every check by name."""
        own = {name: check() for name, check in self._checks.items()}
        return {"serving": not self.draining} | await self._database.ask() | own

    async def _scrape(self) -> bytes:
        """In a thread: the database may let it wait."""

        def scrape() -> bytes:
            close_old_connections()
            return generate_latest(REGISTRY) + generate_latest(self._own)

        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(self._scraper, scrape), SCRAPE_SECONDS)

    async def close(self) -> None:
        for executor in (self._scraper, self._database.executor):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(executor, _close), 1)
            executor.shutdown(wait=False, cancel_futures=True)


class _DatabaseChecks:
    """`database` and `schema`: asked in one thread, one question at a time; no answer within a second is a no."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._asking: asyncio.Future[dict[str, bool]] | None = None
        self._needed: set[tuple[str, str]] = set()
        self._known: dict[str, bool] = {}
        self._until = 0.0

    async def ask(self) -> dict[str, bool]:
        if time.monotonic() < self._until:
            return self._known
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().run_in_executor(self.executor, self._read)
        done, _ = await asyncio.wait({self._asking}, timeout=DATABASE_SECONDS)
        self._known = self._asking.result() if done else {"database": False, "schema": False}
        self._until = time.monotonic() + KEPT_SECONDS
        return self._known

    def _read(self) -> dict[str, bool]:
        try:
            close_old_connections()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            # More than we need is fine: an upgrade migrates before it restarts the processes.
            self._needed = self._needed or set(MigrationLoader(None).disk_migrations)
            applied = set(MigrationRecorder(connection).applied_migrations())
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is no
            log.debug("not ready: %s", error)
            connection.close()
            return {"database": False, "schema": False}
        return {"database": True, "schema": self._needed <= applied}


def _close() -> None:
    connection.close()  # of the thread that runs this


def _may_scrape(scope: Scope) -> bool:
    given = dict(scope["headers"]).get(b"authorization", b"")
    return hmac.compare_digest(given, f"Bearer {settings.METRICS_TOKEN}".encode())


async def _answer(scope: Scope, send: Send, status: int, body: bytes, kind: str, **headers: str) -> None:
    found = {
        "content-type": kind,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    } | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in found.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
