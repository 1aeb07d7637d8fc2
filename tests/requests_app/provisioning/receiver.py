"""A real receiver of webhooks on loopback, as a newcomer would write one, and what can be done to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()


class Receiver:
    """Keeps entitlements by the id in each message; answers a message it has had already as it did then.

    `answer` replaces what it says: a status, "lie" (says it is done and does nothing) or "silence" (never answers).
    """

    def __init__(self, *, secret: str = SECRET) -> None:
        self.secret = secret
        self.there: dict[str, str] = {}
        self.foreign = ["someone@example.test"]
        self.refused = "role:forbidden"
        self.heard: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.answer: int | str | None = None
        self.after: int | None = None
        self._answered: dict[str, int] = {}
        self._over = threading.Event()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        message_id = request.headers["webhook-id"]
        if not self._is_signed(request, message_id, body):
            return web.Response(status=401)
        message = json.loads(body)
        kind = message["type"].removeprefix("entitlement.")
        self.heard.append((kind, message_id))
        self.bodies.append(body)
        if self.answer == "silence":
            await self._end.wait()
        if self.answer == 302:
            return web.Response(status=302, headers={"Location": self.url})
        if isinstance(self.answer, int):
            return web.Response(status=self.answer)
        answer = self._answer(kind, message_id, message["data"])
        if self.after is not None and kind in {"grant", "revoke"}:  # done, and the answer got lost
            return web.Response(status=self.after)
        return answer

    def _answer(self, kind: str, message_id: str, data: dict[str, Any]) -> web.StreamResponse:
        if kind == "verify":
            return web.json_response({"id": data["id"], "state": "present" if data["id"] in self.there else "absent"})
        if kind == "list":
            ours = [{"id": uid, "name": name} for uid, name in self.there.items()]
            return web.json_response({"entitlements": [*ours, *({"id": None, "name": name} for name in self.foreign)]})
        if message_id in self._answered:
            return web.Response(status=self._answered[message_id])
        if kind == "grant" and data["entitlement"] == self.refused:
            return web.Response(status=422)
        if self.answer != "lie":
            if kind == "grant":
                self.there[data["id"]] = data["entitlement"]
            else:
                self.there.pop(data["id"], None)
        self._answered[message_id] = 204
        return web.Response(status=204)

    def _is_signed(self, request: web.BaseRequest, message_id: str, body: bytes) -> bool:
        """As Standard Webhooks 1.0 has it, from its text and not from our code."""
        stamp = request.headers["webhook-timestamp"]
        if abs(time.time() - int(stamp)) > 300:
            return False
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        made = hmac.new(key, message_id.encode() + b"." + stamp.encode() + b"." + body, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(made).decode()
        self.signatures.append(request.headers["webhook-signature"])
        return any(hmac.compare_digest(expected, one) for one in request.headers["webhook-signature"].split(" "))


@contextlib.contextmanager
def receiving(**options: Any) -> Iterator[Receiver]:
    receiver = Receiver(**options)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
