"""What a server says and asks while it works on a request, and who is to hear it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jitaccess.kernel.strictjson import JsonObject

from .errors import RemoteError
from .process import logger

MAX_QUESTIONS = 8  # open at once, of one request
MAX_ASKED = 64  # in all

Ask = Callable[[str, JsonObject], Awaitable[JsonObject]]


@dataclass(frozen=True, slots=True)
class Told:
    """What reaches whoever made a request before its result; None: nothing of that kind.

    `progress` and `log` get the params of notifications. `ask` gets method and params of the server's own request, and
    returns its result or raises RemoteError.
    """

    progress: Callable[[JsonObject], None] | None = None
    log: Callable[[JsonObject], None] | None = None
    ask: Ask | None = None


NOBODY = Told()


def whose(calls: Iterable[Asked]) -> Asked | None:
    """Which of a connection's calls, oldest first, a question is about that does not say so.

    A server that does one thing after another asks about the oldest that does not wait for an answer already.
    """
    may = [one for one in calls if one.answers]
    return next((one for one in may if not one.waits), may[-1] if may else None)


class Asked:
    """The questions of a server of the older era within one request. The time they take is not the server's."""

    def __init__(self, slug: str, told: Told, answer: Callable[[JsonObject], None]) -> None:
        """`answer` sends a message to the server."""
        self._slug, self._told, self._answer = slug, told, answer
        self._loop = asyncio.get_running_loop()
        self._open: dict[str | int, asyncio.Task[None]] = {}
        self._since = 0.0
        self._spent = 0.0
        self._count = 0

    def progress(self, params: JsonObject) -> None:
        self._safely(self._told.progress, params)

    def log(self, params: JsonObject) -> None:
        self._safely(self._told.log, params)

    @property
    def listens(self) -> bool:
        return self._told.log is not None

    @property
    def answers(self) -> bool:
        return self._told.ask is not None

    @property
    def waits(self) -> bool:
        """Whether the server waits for an answer."""
        return bool(self._open)

    def ask(self, method: str, params: JsonObject, call_id: str | int) -> None:
        """A request of the server: the answer goes back once there is one."""
        if call_id in self._open or self._told.ask is None:
            return
        self._count += 1
        if len(self._open) >= MAX_QUESTIONS or self._count > MAX_ASKED:
            detail = f"At most {MAX_QUESTIONS} questions may be open at once, and {MAX_ASKED} asked in all."
            self._answer({"jsonrpc": "2.0", "id": call_id, "error": {"code": -32603, "message": detail}})
            return
        if not self._open:
            self._since = self._loop.time()
        task = self._loop.create_task(self._relay(self._told.ask, method, params, call_id))
        self._open[call_id] = task
        task.add_done_callback(lambda _: self._closed(call_id))

    def withdrawn(self, call_id: Any) -> bool:
        """The server does not want to know any more. False when it did not ask here."""
        task = self._open.get(call_id) if type(call_id) in (int, str) else None
        if task is not None:
            task.cancel()
        return task is not None

    def over(self) -> None:
        """The request has ended: nobody is asked any more."""
        for task in list(self._open.values()):
            task.cancel()

    async def until(self, work: asyncio.Future[JsonObject], seconds: float) -> None:
        """Wait until `work` is done; at most `seconds` in which the server did not wait for an answer itself."""
        end = self._loop.time() + seconds
        while not work.done() and (left := end + self.waited - self._loop.time()) > 0:
            await asyncio.wait({work}, timeout=left)

    @property
    def waited(self) -> float:
        """Seconds in which the server waited for answers."""
        return self._spent + (self._loop.time() - self._since if self._open else 0.0)

    def _closed(self, call_id: str | int) -> None:
        del self._open[call_id]
        if not self._open:
            self._spent += self._loop.time() - self._since

    async def _relay(self, ask: Ask, method: str, params: JsonObject, call_id: str | int) -> None:
        try:
            said: JsonObject = {"result": await ask(method, params)}
        except RemoteError as error:
            data: JsonObject = {} if error.data is None else {"data": error.data}
            said = {"error": {"code": error.rpc_code, "message": error.message, **data}}
        except Exception:  # noqa: BLE001 - as below
            logger.exception("server %s: its question could not be relayed", self._slug)
            said = {"error": {"code": -32603, "message": "The question could not be relayed."}}
        with contextlib.suppress(Exception):  # a server that does not take the answer harms itself alone
            self._answer({"jsonrpc": "2.0", "id": call_id, **said})

    def _safely(self, hear: Callable[[JsonObject], None] | None, params: JsonObject) -> None:
        if hear is None:
            return
        try:
            hear(params)
        except Exception:  # noqa: BLE001 - a callback of ours may fail, the call may not
            logger.exception("server %s: what it said could not be relayed", self._slug)
