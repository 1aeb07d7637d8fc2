"""The client of one request, as far as a server may speak to it before the result."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import msgspec

from jitaccess.gateway import wire
from jitaccess.gateway.talking.asking import ASK_SECONDS, Questions, lacking
from jitaccess.gateway.talking.relay import Reply
from jitaccess.gateway.upstream.errors import RemoteError
from jitaccess.gateway.upstream.messages import read_answer
from jitaccess.gateway.wire import INTERNAL_ERROR, Message
from jitaccess.kernel.strictjson import Json, JsonObject

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
# Sessions whose level is remembered by one process; beyond, the oldest are forgotten.
MAX_LEVELS = 10_000


class Caller(msgspec.Struct, frozen=True):
    """`capabilities` are those it declared, as far as they are carried. `level` is the least of the log messages it
    wants; None: a modern client wants none, an older one what the server thinks fit.
    """

    message: Message
    principal: str
    session: str
    reply: Reply | None
    capabilities: JsonObject = msgspec.field(default_factory=dict)
    level: str | None = None

    @property
    def modern(self) -> bool:
        return self.message.modern

    @property
    def wants_progress(self) -> bool:
        token = self.message.meta.get("progressToken")
        return token is not None and self.reply is not None and type(token) in (str, int)

    @property
    def wants_logs(self) -> bool:
        return self.reply is not None and (not self.modern or self.level is not None)

    def progress(self, params: JsonObject) -> None:
        if self.wants_progress:
            token = self.message.meta["progressToken"]
            self._tell(wire.notification("notifications/progress", {**params, "progressToken": token}))

    def log(self, params: JsonObject) -> None:
        """Tell it, unless it asked for graver ones only."""
        level = params.get("level")
        if not isinstance(level, str) or level not in LEVELS or not self.wants_logs:
            return
        if self.level is None or LEVELS.index(level) >= LEVELS.index(self.level):
            self._tell(wire.notification("notifications/message", params))

    async def ask(self, method: str, params: JsonObject, *, questions: Questions, instance: UUID) -> JsonObject:
        """Ask a client of the older era on the open stream, and wait for its answer. Raises RemoteError: its own, or
        that it cannot be asked, or that nobody answered.
        """
        if lacking(method, params, self.capabilities):
            raise RemoteError(wire.METHOD_NOT_FOUND, "The client did not declare that it can be asked this.")
        if params.get("mode") == "url" and "elicitationId" not in params:
            params = {**params, "elicitationId": uuid4().hex}
        with questions.one(instance, principal=self.principal, session=self.session) as (name, answer):
            if not self._tell({"jsonrpc": "2.0", "id": name, "method": method, "params": params}):
                raise RemoteError(INTERNAL_ERROR, "The client cannot be asked: it reads no event stream.")
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    message = await answer
            except BaseException as error:
                self._tell(wire.notification("notifications/cancelled", {"requestId": name}))
                if not isinstance(error, TimeoutError):
                    raise
                raise RemoteError(INTERNAL_ERROR, f"Nobody answered within {ASK_SECONDS:.0f} seconds.") from None
        said = read_answer(message, modern=False)
        if isinstance(said, dict):
            return said
        raise said or RemoteError(INTERNAL_ERROR, "The client's answer is neither a result nor an error.")

    def _tell(self, message: JsonObject) -> bool:
        return self.reply is not None and self.reply.tell(message)


class Levels:
    """The log levels that sessions of the older era have set, in this process."""

    def __init__(self) -> None:
        self._levels: dict[tuple[str, str], str] = {}

    def get(self, principal: str, session: str) -> str | None:
        return self._levels.get((principal, session))

    def set(self, principal: str, session: str, level: str) -> None:
        self._levels.pop((principal, session), None)
        self._levels[(principal, session)] = level
        if len(self._levels) > MAX_LEVELS:
            del self._levels[next(iter(self._levels))]


def level_of(value: Json) -> str:
    """Raises RpcError(-32602) for what is no level (2026-07-28 and 2025-11-25, "Logging", Error Handling)."""
    if isinstance(value, str) and value in LEVELS:
        return value
    raise wire.RpcError(wire.INVALID_PARAMS, f"The level must be one of {', '.join(LEVELS)}.", status=400)
