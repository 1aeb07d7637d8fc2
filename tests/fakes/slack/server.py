"""A Slack on loopback, written from its documentation: Web API with errors and 429, Socket Mode, signed callbacks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from aiohttp import WSMsgType, web

from tests.fakes.slack.limits import of_option, wrong_view, wrong_with

BOT, APP, SECRET = "xoxb-fake-bot-token", "xapp-fake-app-token", "fake-signing-secret"
APP_ID, TEAM, CHANNEL, BOT_USER = "A0JIT", "T0JIT", "C0OPS", "U0BOT"


@dataclass
class Fault:
    """How the next call of a method goes wrong. `done`: after it had its effect. `seconds`: no answer for so long."""

    error: str = ""
    status: int = 200
    retry_after: int = 0
    done: bool = False
    seconds: float = 0


@dataclass
class Message:
    channel: str
    ts: str
    body: dict[str, Any]
    updates: int = 0
    deleted: bool = False

    @property
    def text(self) -> str:
        """All that can be read in it."""
        return json.dumps([self.body.get("text"), self.body.get("blocks")], ensure_ascii=False)

    @property
    def buttons(self) -> dict[str, dict[str, Any]]:
        found = [one for block in self.body.get("blocks", ()) for one in block.get("elements", ())]
        return {one["action_id"]: one for one in found if one.get("type") == "button"}


@dataclass
class FakeSlack:
    port: int = 0
    messages: list[Message] = field(default_factory=list)
    ephemeral: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    triggers: dict[str, float] = field(default_factory=dict)
    channels: set[str] = field(default_factory=lambda: {CHANNEL})
    acks: dict[str, Any] = field(default_factory=dict)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    acked: threading.Event = field(default_factory=threading.Event)
    opened: int = 0

    def __post_init__(self) -> None:
        self._clock = itertools.count(1_700_000_000)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    # ——— for tests
    def start(self) -> FakeSlack:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        async def end() -> None:
            for socket in list(self.sockets):
                await socket.close()
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def forget(self) -> None:
        for one in (self.messages, self.ephemeral, self.views, self.calls, self.sockets):
            one.clear()
        self.faults.clear()
        self.acks.clear()
        self.triggers.clear()
        self.acked.clear()
        self.channels = {CHANNEL}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    def fail(self, method: str, *faults: Fault) -> None:
        self.faults[method] = list(faults)

    def called(self, method: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == method]

    def to(self, channel: str) -> list[Message]:
        """What stands in a channel, or in the conversation with a person (U…), without threads."""
        place = channel.replace("U", "D", 1) if channel.startswith("U") else channel
        return [one for one in self.messages if one.channel == place and not one.body.get("thread_ts")]

    def thread(self, of: Message) -> list[Message]:
        return [one for one in self.messages if one.body.get("thread_ts") == of.ts and one.channel == of.channel]

    def trigger(self, *, age: float = 0) -> str:
        made = uuid4().hex
        self.triggers[made] = time.monotonic() - age
        return made

    def press(self, message: Message, button: str, user: str, **changes: Any) -> dict[str, Any]:
        """The payload block_actions of a click."""
        pressed = message.buttons[button]
        payload = {
            "type": "block_actions",
            "api_app_id": APP_ID,
            "token": "deprecated",
            "team": {"id": TEAM, "domain": "jit"},
            "enterprise": None,
            "is_enterprise_install": False,
            "user": {"id": user, "username": user.lower(), "name": user.lower(), "team_id": TEAM},
            "channel": {"id": message.channel, "name": "ops"},
            "container": {"type": "message", "message_ts": message.ts, "channel_id": message.channel},
            "trigger_id": self.trigger(),
            "response_url": f"http://127.0.0.1:{self.port}/response",
            "actions": [
                {
                    "action_id": pressed["action_id"], "block_id": "b", "type": "button", "value": pressed["value"],
                    "action_ts": f"{next(self._clock)}.000100",
                }
            ],
        }  # fmt: skip
        return payload | changes

    def send(self, view: dict[str, Any], user: str, **values: Any) -> dict[str, Any]:
        """The payload view_submission of a form: text, an option's value, or a list of them, by block."""
        state = {block: {"value": _filled(value)} for block, value in values.items()}
        sent = {**view, "id": view.get("id") or f"V{uuid4().hex[:9]}", "state": {"values": state}, "hash": "h"}
        return {
            "type": "view_submission",
            "api_app_id": APP_ID,
            "team": {"id": TEAM, "domain": "jit"},
            "enterprise": None,
            "user": {"id": user, "username": user.lower(), "team_id": TEAM},
            "view": sent,
            "response_urls": [],
        }

    def command(self, user: str, text: str = "") -> dict[str, str]:
        return {
            "token": "deprecated", "team_id": TEAM, "team_domain": "jit", "channel_id": CHANNEL,
            "channel_name": "ops", "user_id": user, "user_name": user.lower(), "command": "/access", "text": text,
            "api_app_id": APP_ID, "is_enterprise_install": "false", "trigger_id": self.trigger(),
            "response_url": f"http://127.0.0.1:{self.port}/response",
        }  # fmt: skip

    @staticmethod
    def form(payload: dict[str, Any]) -> bytes:
        fields = payload if "command" in payload else {"payload": json.dumps(payload)}
        return urlencode(fields).encode()

    @staticmethod
    def signed(body: bytes, *, age: float = 0, secret: str = SECRET) -> dict[str, str]:
        stamp = str(int(time.time() - age))
        made = hmac.new(secret.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={made}"}

    def envelope(self, kind: str, payload: dict[str, Any]) -> str:
        """Send one over the newest Socket Mode connection; returns its id."""
        name = uuid4().hex
        frame = {"type": kind, "envelope_id": name, "payload": payload, "accepts_response_payload": True}
        asyncio.run_coroutine_threadsafe(self.sockets[-1].send_json(frame), self._loop).result(5)
        return name

    def disconnect(self) -> None:
        """As Slack does every few hours: a frame that says so, then the end."""

        async def end() -> None:
            socket = self.sockets[-1]
            await socket.send_json({"type": "disconnect", "reason": "refresh_requested"})
            await socket.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)

    # ——— the server
    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/api/{method}", self._api)
        app.router.add_get("/link", self._link)
        self._runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = self._runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()

    async def _api(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        if request.content_type == "application/json":
            arguments = json.loads(await request.text() or "{}")
        else:
            arguments = dict(await request.post())
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.calls.append((method, arguments))
        fault = self.faults[method].pop(0) if self.faults.get(method) else None
        if fault and fault.status == 429:
            headers = {"Retry-After": str(fault.retry_after)}
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
        if fault and not fault.done:
            return await self._faulty(fault)
        wanted = APP if method == "apps.connections.open" else BOT
        answer = self._answer(method, arguments) if token == wanted else {"ok": False, "error": "invalid_auth"}
        return await self._faulty(fault) if fault else web.json_response(answer)

    async def _faulty(self, fault: Fault) -> web.Response:
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
        if fault.status != 200:
            return web.Response(status=fault.status, text="<html>upstream error</html>", content_type="text/html")
        return web.json_response({"ok": False, "error": fault.error})

    def _answer(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        handler = getattr(self, "_" + method.replace(".", "_"), None)
        return handler(arguments) if handler else {"ok": False, "error": "unknown_method"}

    def _chat_postMessage(self, sent: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - named as Slack's methods
        channel = sent["channel"].replace("U", "D", 1) if sent["channel"].startswith("U") else sent["channel"]
        if not channel.startswith("D") and channel not in self.channels:
            return {"ok": False, "error": "channel_not_found"}
        if wrong := wrong_with(sent.get("blocks") or []):
            return {"ok": False, "error": "invalid_blocks", "response_metadata": {"messages": [wrong]}}
        message = Message(channel, f"{next(self._clock)}.000200", sent)
        self.messages.append(message)
        return {"ok": True, "channel": channel, "ts": message.ts, "message": {"text": sent.get("text")}}

    def _chat_update(self, sent: dict[str, Any]) -> dict[str, Any]:
        found = self._find(sent["channel"], sent["ts"])
        if found is None or found.deleted:
            return {"ok": False, "error": "message_not_found"}
        if wrong := wrong_with(sent.get("blocks") or []):
            return {"ok": False, "error": "invalid_blocks", "response_metadata": {"messages": [wrong]}}
        found.body = found.body | sent
        found.updates += 1
        return {"ok": True, "channel": found.channel, "ts": found.ts, "text": sent.get("text")}

    def _chat_postEphemeral(self, sent: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not sent["channel"].startswith("D") and sent["channel"] not in self.channels:
            return {"ok": False, "error": "channel_not_found"}
        self.ephemeral.append(sent)
        return {"ok": True, "message_ts": f"{next(self._clock)}.000300"}

    def _conversations_open(self, sent: dict[str, Any]) -> dict[str, Any]:
        if not sent["users"].startswith("U"):
            return {"ok": False, "error": "user_not_found"}
        return {"ok": True, "channel": {"id": sent["users"].replace("U", "D", 1)}}

    def _conversations_history(self, sent: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.messages if one.channel == sent["channel"] and not one.body.get("thread_ts")]
        return {"ok": True, "messages": [_listed(one) for one in reversed(found)]}

    def _conversations_replies(self, sent: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.messages if one.body.get("thread_ts") == sent["ts"]]
        return {"ok": True, "messages": [_listed(one) for one in found]}

    def _views_open(self, sent: dict[str, Any]) -> dict[str, Any]:
        at = self.triggers.pop(sent["trigger_id"], None)
        if at is None or time.monotonic() - at > 3:
            return {"ok": False, "error": "expired_trigger_id"}
        if wrong := wrong_view(sent["view"]):
            return {"ok": False, "error": "invalid_arguments", "response_metadata": {"messages": [wrong]}}
        view = {**sent["view"], "id": f"V{uuid4().hex[:9]}"}
        self.views.append(view)
        return {"ok": True, "view": view}

    def _apps_connections_open(self, _sent: dict[str, Any]) -> dict[str, Any]:
        self.opened += 1
        return {"ok": True, "url": f"ws://127.0.0.1:{self.port}/link?ticket={uuid4().hex}"}

    def _find(self, channel: str, ts: str) -> Message | None:
        return next((one for one in self.messages if (one.channel, one.ts) == (channel, ts)), None)

    async def _link(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": APP_ID}})
        self.sockets.append(socket)
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                answer = json.loads(frame.data)
                self.acks[answer["envelope_id"]] = answer.get("payload")
                self.acked.set()
        return socket


def ensure_options(answer: dict[str, Any]) -> None:
    """An external select's answer, as the documentation has it."""
    options = answer["options"]
    assert 1 <= len(options) <= 100
    assert not [wrong for option in options for wrong in of_option(option)]


def _listed(message: Message) -> dict[str, Any]:
    return {"ts": message.ts, "text": message.body.get("text"), "metadata": message.body.get("metadata")}


def _filled(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"type": "multi_static_select", "selected_options": [{"value": one} for one in value]}
    if isinstance(value, dict):
        return value
    return {"type": "plain_text_input", "value": value}
