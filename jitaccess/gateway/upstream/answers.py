"""What an HTTP server answers to one request, read with suspicion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from jitaccess.egress.errors import EgressFailed
from jitaccess.egress.response import Response
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible

from .errors import RemoteError, UpstreamError
from .messages import LOGGED, nonsense, read_answer
from .sse import MAX_EVENT, EventParser, TooLargeError

if TYPE_CHECKING:
    from .asked import Asked
    from .http import HttpConnection

MAX_ANSWER = 8 << 20  # bytes of a JSON body
MAX_ERROR = 1 << 20
MAX_STREAM = 32 << 20  # bytes of a stream up to its answer
LARGE_ANSWER = 256 << 10
TAIL_SECONDS = 1.0  # for the end of a stream whose answer is here

_METHOD_NOT_FOUND = -32601
# Few, or servers that all say much at once would leave nobody else the interpreter.
readers = ThreadPoolExecutor(2, thread_name_prefix="large-answers")


class SessionLost(Exception):
    """The server does not know our session: it did not take the request (2025-11-25, "Session Management")."""


class Exchange:
    """One request and its answer. `call_id` is the id of the request, and its progress token. `asked` None: a stream
    that belongs to no request.
    """

    def __init__(self, connection: HttpConnection, call_id: int, asked: Asked | None) -> None:
        self._connection = connection
        self._slug = connection.server.slug
        self._call_id = call_id
        self._asked = asked

    async def answer(self, response: Response, *, in_session: bool = False) -> JsonObject:
        """Return the result, and close `response`.

        Raises RemoteError, UpstreamError, or SessionLost when the request was sent `in_session`.
        """
        try:
            result = await self._result(response, in_session=in_session)
        except EgressFailed as error:
            response.close()
            raise self._connection.failed(error) from error
        except BaseException:
            response.close()
            raise
        if response.at_end:
            response.close()
        else:  # the end of the stream follows as a rule, and then the connection can be used again
            self._connection.aside(response.skip(TAIL_SECONDS), after=response.close)
        return result

    def take(self, message: JsonObject) -> JsonObject | None:
        """Take one message of a stream: return the result if it is the answer. Raises as `answer`."""
        if "method" not in message:
            return self._read(message)
        method, params, call_id = message["method"], message.get("params", {}), message.get("id")
        if message.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, dict):
            raise nonsense(self._slug, "its stream holds something that is no JSON-RPC message")
        if "id" in message:
            if type(call_id) is int or isinstance(call_id, str):
                self._connection.question(method, params, call_id, self._asked)
        elif method == "notifications/progress":
            # Also a server's stream for everything may tell of any call.
            self._connection.progress(params)
        elif method == LOGGED:
            self._connection.logged(params, self._asked)
        elif method == "notifications/cancelled":
            self._connection.withdrawn(params.get("requestId"))
        else:
            self._connection.hear(method, params)
        return None

    async def _result(self, response: Response, *, in_session: bool) -> JsonObject:
        if not 200 <= response.status < 300:
            raise await self._refusal(response, in_session=in_session)
        if response.status in (202, 204):
            raise nonsense(self._slug, f"it takes a request without answering it (HTTP {response.status})")
        kind = response.content_type
        if kind == "text/event-stream":
            return await self._from_stream(response)
        if kind == "application/json":
            return self._read(await decode(await response.read(MAX_ANSWER), self._slug))
        kind = visible(kind, limit=60) or "nothing"
        raise nonsense(self._slug, f"it answers with {kind} instead of JSON or an event stream")

    async def _from_stream(self, response: Response) -> JsonObject:
        async with contextlib.aclosing(messages(response, self._slug)) as found:
            async for message in found:
                result = self.take(message)
                if result is not None:
                    return result
        detail = f'The server "{self._slug}" ended its stream without an answer.'
        raise UpstreamError("upstream.died", detail, sent=True, server=self._slug)

    def _read(self, message: JsonObject) -> JsonObject:
        # An error without id is about a request that the server could not read; only one was sent here.
        unread = message.get("id") is None and "error" in message
        if not is_answer_to(message, None if unread else self._call_id):
            raise nonsense(self._slug, "its answer has the id of another request, or is no JSON-RPC message")
        answer = read_answer(message, modern=self._connection.modern)
        if isinstance(answer, dict):
            return answer
        raise answer or nonsense(self._slug, "its answer is neither a JSON-RPC result nor an error")

    async def _refusal(self, response: Response, *, in_session: bool) -> Exception:
        status, slug = response.status, self._slug
        if status in (401, 403):
            detail = f'The server "{slug}" refuses the gateway\'s credential (HTTP {status}).'
            # RFC 9110, 15.5.2: after 401 nothing was done; it had the call all the same, and may not be honest.
            return UpstreamError("upstream.unavailable", detail, sent=True, server=slug, status=status)
        error = await self._error_of(response)
        if in_session and _session_lost(status, error):
            return SessionLost()
        if error is not None:
            return error
        if 300 <= status < 400:
            return nonsense(slug, f"it redirects (HTTP {status}), which is not followed: its final URL is needed")
        if status in (404, 405, 410):
            return nonsense(slug, f"there is no MCP endpoint at its URL (HTTP {status})")
        if status == 429 or status >= 500:
            code = "upstream.busy" if status == 429 else "upstream.unavailable"
            return UpstreamError(code, f'The server "{slug}" failed with HTTP {status}.', sent=True, server=slug)
        return nonsense(slug, f"it answers with HTTP {status}")

    async def _error_of(self, response: Response) -> RemoteError | None:
        """The JSON-RPC error in the body, if there is one; its id is of no importance here."""
        if response.content_type != "application/json":
            return None
        try:
            message = strictjson.decode(await response.read(MAX_ERROR))
        except (EgressFailed, Invalid):
            return None
        answer = read_answer(message, modern=False) if message.get("jsonrpc") == "2.0" else None
        return answer if isinstance(answer, RemoteError) else None


def is_answer_to(message: JsonObject, call_id: int | None) -> bool:
    """Whether it is an answer to the request of this id; None: to one that could not be read."""
    ours = message.get("id")
    if ours != call_id or isinstance(ours, bool | float):  # true and 1.0 are equal to 1
        return False
    return message.get("jsonrpc") == "2.0" and "method" not in message


async def messages(
    response: Response, slug: str, *, limit: int | None = MAX_STREAM
) -> AsyncGenerator[JsonObject, None]:
    """The JSON-RPC messages of a stream. Raises EgressFailed, or UpstreamError for what cannot be read."""
    parser = EventParser()
    async with contextlib.aclosing(response.chunks(limit)) as chunks:
        async for chunk in chunks:
            try:
                events = parser.feed(chunk)
            except TooLargeError:
                raise nonsense(slug, f"an event of its stream is larger than {MAX_EVENT} bytes") from None
            for event in events:
                yield await decode(event, slug)


async def decode(body: bytes, slug: str) -> JsonObject:
    """A large one in a thread: megabytes of small objects take seconds, in which nobody else would be served."""
    try:
        if len(body) <= LARGE_ANSWER:
            return strictjson.decode(body)
        return await asyncio.get_running_loop().run_in_executor(readers, strictjson.decode, body)
    except Invalid as error:
        raise nonsense(slug, f"its answer cannot be read: {error.detail.rstrip('.')}") from error


def _session_lost(status: int, error: RemoteError | None) -> bool:
    if status == 404:
        return error is None or error.rpc_code != _METHOD_NOT_FOUND
    # Common servers say 400 after a restart, in the words of their SDK's example.
    return status == 400 and error is not None and error.rpc_code == -32000 and "session" in error.message.lower()
