"""What a server over HTTP says by itself: notifications, progress, log messages, questions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from jitaccess.kernel.strictjson import JsonObject

from . import headers as mcp_headers
from .asked import Asked, whose
from .bounds import Bounds
from .config import HttpServer
from .listener import concerns
from .messages import LOGGED, QUESTIONS, OnNotification, refusal
from .process import logger


class Hearing:
    """The part of a connection that listens; the rest of it is HttpConnection."""

    server: HttpServer
    modern: bool
    bounds: Bounds
    on_notification: OnNotification | None
    mirrors: dict[str, mcp_headers.Mirror] | None

    def aside(self, work: Coroutine[Any, Any, None], *, after: Callable[[], None] = lambda: None) -> None:
        """Do something that nobody waits for."""
        raise NotImplementedError

    async def tell(self, message: JsonObject) -> None:
        """Send a message nobody waits for."""
        raise NotImplementedError

    def hear(self, method: str, params: JsonObject) -> None:
        """Take a notification. What the listener does with it harms nobody else."""
        if method == "notifications/tools/list_changed":
            self.mirrors = None
        if self.on_notification is None or not concerns(method, params):
            return
        try:
            self.on_notification(method, params)
        except Exception:  # noqa: BLE001 - a callback of ours may fail, the call may not
            logger.exception("server %s: a notification could not be handled", self.server.slug)

    def question(self, method: str, params: JsonObject, call_id: str | int, asked: Asked | None) -> None:
        """Relay or refuse the server's own request, which only servers of the older era may send. `asked` None: it came
        on a stream that belongs to no call.
        """
        if self.modern:
            return
        if asked is None:
            asked = whose(self._open_calls())
        if asked is not None and asked.answers and method in QUESTIONS:
            asked.ask(method, params, call_id)
        else:
            self.aside(self.tell(refusal(method, call_id)))

    def withdrawn(self, call_id: object) -> None:
        """The server takes its question back."""
        any(asked.withdrawn(call_id) for asked in self._open_calls())

    def progress(self, params: JsonObject) -> None:
        token = params.get("progressToken")
        bound = self.bounds.calls.get(token) if type(token) is int else None
        if bound is not None:
            bound.asked.progress(params)

    def logged(self, params: JsonObject, asked: Asked | None) -> None:
        """A log message: for the call on whose stream it is, else as `question`."""
        if asked is None and not self.server.shared:  # of a shared one, who knows whose words they are?
            asked = next((one for one in self._open_calls() if one.listens), None)
        if asked is not None and asked.listens:
            asked.log(params)
        else:
            self.hear(LOGGED, params)

    def _open_calls(self) -> list[Asked]:
        """Those in progress, oldest first."""
        return [bound.asked for bound in self.bounds.calls.values()]
