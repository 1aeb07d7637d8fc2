"""Calls that wait in another gateway process: its client came here with the answers, and they are brought to it.

The process that holds the call decides, records and goes on; this one only carries words both ways.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from jitaccess.gateway.calling.call import Call
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.sessions import Session
from jitaccess.gateway.talking import mail
from jitaccess.gateway.talking.caller import Caller
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, MODERN, Message, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jitaccess.gateway.core import Gateway

log = logging.getLogger(__name__)

# How often it is asked whether the other process is still there.
LOOK_SECONDS = 5.0
MAIL_SECONDS = 30.0  # for words both ways, and for admission
_GONE = "The process that held this call is gone, and what became of it is not known; begin the call again."


class Elsewhere:
    """Both ends of it, in one process. `resume` goes on with a call that was brought here."""

    def __init__(self, gateway: Gateway, resume: Callable[[Gateway, Call], Awaitable[JsonObject]]) -> None:
        self._gateway, self._resume = gateway, resume
        self._waiting: dict[str, asyncio.Future[JsonObject]] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        gateway.mail.on("resume", self._serve)
        gateway.mail.on("result", self._result)
        gateway.mail.on("cancel", self._cancel)
        gateway.mail.on("cancelled", self._cancelled)
        gateway.mail.on("answer", self._answer)
        gateway.mail.on("level", self._level)
        gateway.mail.on("ended", self._ended)

    async def answer(self, holder: UUID, message: JsonObject, *, principal: str, session: str) -> None:
        """Bring an older client's answer to the process that asked. Raises RpcError, as all that is passed on."""
        self._gateway.limits.send(principal)
        content: JsonObject = {"kind": "answer", "message": message, "principal": principal, "session": session}
        await self._gateway.db(mail.send, holder, content)

    async def cancel(self, key: tuple[str, str, str]) -> None:
        """An older client cancels a call that another process may have: principal, session and id."""
        self._gateway.limits.send(key[0])
        content: JsonObject = {"kind": "cancelled", "key": list(key)}
        await self._gateway.db(mail.tell_others, self._gateway.instance, content)

    def _cancelled(self, content: JsonObject) -> None:
        key = content["key"]
        assert isinstance(key, list)
        principal, session, call = map(str, key)
        self._gateway.cancel((principal, session, call))

    async def end_session(self, session: Session, *, principal: str) -> None:
        """No process that runs now knows this session any more; the others within a second."""
        self._gateway.limits.send(principal)
        self._ended({"session": session.id})
        await self._gateway.db(mail.send_all, self._gateway.instance, {"kind": "ended", "session": session.id})

    def _ended(self, content: JsonObject) -> None:
        self._gateway.ended.add(str(content["session"]))
        self._gateway.streams.end_session(str(content["session"]))
        self._gateway.subscriptions.end_session(str(content["session"]))

    async def tell_level(self, principal: str, session: str, level: str) -> None:
        """Tell the other processes which log messages a session wants. One that begins later does not know it."""
        self._gateway.limits.send(principal)
        content: JsonObject = {"kind": "level", "principal": principal, "session": session, "level": level}
        await self._gateway.db(mail.tell_others, self._gateway.instance, content)

    async def carry(self, call: Call, holder: UUID) -> JsonObject:
        """The answer to a call that the process `holder` goes on with. A client that leaves cancels it there too.

        Raises RpcError.
        """
        self._gateway.limits.send(call.principal.key)
        ticket = uuid4().hex
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        content: JsonObject = {"kind": "resume", "ticket": ticket, "from": str(self._gateway.instance), **_packed(call)}
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._patience(call)
        try:
            sent = await self._gateway.db(mail.send, holder, content)
            while sent and not future.done() and loop.time() < ends:
                await asyncio.wait({future}, timeout=LOOK_SECONDS)
                sent = future.done() or await self._gateway.db(mail.is_alive, holder)
            if not future.done():
                if sent:  # the other process is there, but what one of us said was lost
                    await self._gateway.db(mail.send, holder, {"kind": "cancel", "ticket": ticket})
                raise RpcError(INVALID_PARAMS, _GONE, status=400)
            return _unpacked_result(future.result())
        except asyncio.CancelledError:
            await asyncio.shield(self._gateway.db(mail.send, holder, {"kind": "cancel", "ticket": ticket}))
            raise
        finally:
            del self._waiting[ticket]

    def _patience(self, call: Call) -> float:
        """How long a call that goes on elsewhere may take until it ends or asks again."""
        server = self._gateway.store.current.servers.get(call.target.server) if call.target.server else None
        return MAIL_SECONDS + (self._gateway.call_timeout or (server.options.call_seconds if server else 60.0))

    def _serve(self, content: JsonObject) -> None:
        ticket = str(content["ticket"])
        task = asyncio.create_task(self._go_on(content))
        key = ("", "mail", ticket)
        self._serving[ticket] = self._gateway.in_flight[key] = task
        task.add_done_callback(lambda _: (self._serving.pop(ticket), self._gateway.in_flight.pop(key)))

    async def _go_on(self, content: JsonObject) -> None:
        said: JsonObject
        try:
            said = {"result": await self._resume(self._gateway, await self._unpacked(content))}
        except RpcError as error:
            said = {"error": {"code": error.code, "message": error.message, "status": error.status, "data": error.data}}
        except Exception:
            log.exception("a call that another process brought failed")
            failed: JsonObject = {"code": INTERNAL_ERROR, "message": "The gateway failed.", "status": 500, "data": None}
            said = {"error": failed}
        back: JsonObject = {"kind": "result", "ticket": content["ticket"], **said}
        await self._gateway.db(mail.send, UUID(str(content["from"])), back)

    def _result(self, content: JsonObject) -> None:
        future = self._waiting.get(str(content["ticket"]))
        if future is not None and not future.done():
            future.set_result(content)

    def _cancel(self, content: JsonObject) -> None:
        task = self._serving.get(str(content["ticket"]))
        if task is not None:
            task.cancel()

    def _answer(self, content: JsonObject) -> None:
        message = content["message"]
        assert isinstance(message, dict)
        self._gateway.questions.take(message, principal=str(content["principal"]), session=str(content["session"]))

    def _level(self, content: JsonObject) -> None:
        self._gateway.levels.set(str(content["principal"]), str(content["session"]), str(content["level"]))

    async def _unpacked(self, content: JsonObject) -> Call:
        packed: Any = content
        given: dict[str, Any] = {name: _restored(name, value) for name, value in packed["principal"].items()}
        principal = Principal(**given)
        server, name, tool, public, kind = packed["target"]
        target = Target(UUID(server) if server else None, name, tool, public, Kind(kind))
        params = packed["message"]
        message = Message(packed["method"], params, 0, True, MODERN, principal.client, meta=params.get("_meta", {}))
        caller = Caller(message, principal.key, "", None, packed["capabilities"])
        _, clock = await self._gateway.look(principal)
        return Call(
            principal, target, packed["arguments"], clock, caller, packed["method"], packed["params"], carried=True
        )


def _packed(call: Call) -> JsonObject:
    assert call.caller is not None
    target = call.target
    given = (one.name for one in fields(call.principal) if one.init)
    principal: JsonObject = {name: _plain(getattr(call.principal, name)) for name in given}
    return {
        "principal": principal,
        "target": [
            str(target.server) if target.server else None,
            target.server_name,
            target.tool,
            target.public,
            str(target.kind),
        ],
        "method": call.method,
        "arguments": call.arguments,
        "params": call.params,
        "message": call.caller.message.params,
        "capabilities": call.caller.capabilities,
    }


def _plain(value: object) -> Json:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) or value is None else str(value)


def _restored(name: str, value: str | None) -> object:
    if value is None:
        return None
    if name in ("agent", "user", "issued_by"):
        return UUID(value)
    return datetime.fromisoformat(value) if name == "token_expires_at" else value


def _unpacked_result(content: Any) -> JsonObject:
    error = content.get("error")
    if error is not None:
        raise RpcError(error["code"], error["message"], status=error["status"], data=error["data"])
    result: JsonObject = content["result"]
    return result
