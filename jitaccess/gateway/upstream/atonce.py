"""A call over HTTP that nobody has to wait for: it goes out on a connection that is there, and is heard of when its
answer is. What turns out to be more than that is for `HttpConnection.request`, which goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jitaccess.egress.errors import EgressFailed
from jitaccess.egress.response import Response, Sent
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonObject

from .answers import LARGE_ANSWER, is_answer_to
from .headers import standard
from .identity import as_header
from .messages import JSON, MAX_PENDING, Permit, read_answer, request, with_meta

if TYPE_CHECKING:
    from .http import HttpConnection


MOST_KINDS = 1000


class Underway:
    """A call that has gone out, and its id. Counted among those of its connection until it is closed or left."""

    __slots__ = ("_began", "_connection", "_counted", "call_id", "sent")

    def __init__(self, connection: HttpConnection, call_id: int, sent: Sent) -> None:
        self._connection, self.call_id, self.sent = connection, call_id, sent
        self._began = connection.last_used
        connection.at_once += 1
        self._counted = True

    @property
    def age(self) -> float:
        """Seconds since it went out."""
        return self._connection.loop.time() - self._began

    def close(self) -> None:
        """Its answer was read. Idempotent."""
        self.sent.close()
        self.leave()
        self._connection.last_used = self._connection.loop.time()

    def leave(self) -> None:
        """Somebody else sees to its answer, and nobody is told any more."""
        self.sent.connection.hears = None
        if self._counted:
            self._connection.at_once -= 1
            self._counted = False


def ask(
    connection: HttpConnection, method: str, params: JsonObject, *, permit: Permit, hears: Callable[[], None]
) -> Underway | None:
    """As `HttpConnection.request`, of a server of the newer era: `hears` is called whenever something of the answer has
    come, or the server is gone. None: nothing was sent.
    """
    busy = len(connection.bounds.calls) + connection.at_once - connection.lasting >= MAX_PENDING
    if busy or not connection.alive or not connection.modern or connection.mirrors is None:
        return None
    call_id = connection.next_id()
    sent, who = as_header(with_meta(params, modern=True, progress_token=None))
    name = str(sent.get("name"))
    kind = connection.kinds.get((method, name))
    if kind is None or who or connection.mirrors:
        headers = {
            **connection.server.headers,
            **JSON,
            **standard(method, sent),
            **who,
            **connection.mirror(method, sent),
        }
        kind = connection.client.prepare("POST", connection.server.url, headers)
        if kind is None:
            return None
        if not who and not connection.mirrors:
            if len(connection.kinds) >= MOST_KINDS:
                connection.kinds.clear()
            connection.kinds[method, name] = kind
    connection.last_used = connection.loop.time()
    body = strictjson.encode_read(request(call_id, method, sent))
    asked = connection.client.ask(kind, body, permit=permit, hears=hears)
    return None if asked is None else Underway(connection, call_id, asked)


def answer(underway: Underway) -> JsonObject | None:
    """The result, if it is here as a whole and one like any other; None: it is not, and was not read."""
    body = underway.sent.body(LARGE_ANSWER)
    if body is None:
        return None
    try:
        message = strictjson.decode(body)
    except Invalid:
        return None
    if not is_answer_to(message, underway.call_id):
        return None
    result = read_answer(message, modern=True)
    return result if isinstance(result, dict) and result.get("resultType") != "input_required" else None


async def answered(connection: HttpConnection, underway: Underway) -> Response:
    """What it is, for who reads it after all. Raises UpstreamError."""
    try:
        return await underway.sent.answered()
    except EgressFailed as error:
        raise connection.failed(error) from error
