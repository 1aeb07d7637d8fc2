"""What a server may ask of a client in the middle of a call: elicitation, sampling, roots; and who answers what.

A server is told of exactly those capabilities that the client declared, as far as the gateway can carry them. What it
asks is hostile text: passed on as it is, on behalf of the server, never as the gateway's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from jitaccess.gateway.upstream.errors import RemoteError
from jitaccess.kernel.strictjson import Json, JsonObject

ASK_SECONDS = 300.0
# Of one principal in one process. Beyond, one that nobody answered for so long is taken for abandoned and gives way:
# clients that leave must not take their principal's places with them.
MAX_OPEN = 16
ABANDONED_SECONDS = 60.0
MISSING_CAPABILITY = -32021

_CARRIED = {"elicitation": ("form", "url"), "sampling": ("tools", "context"), "roots": ()}
_NEEDS = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


def carried(declared: Json) -> JsonObject:
    """Of a client's capabilities those that can be announced to a server, with nothing else in them."""
    if not isinstance(declared, dict) or not declared:
        return {}
    found: JsonObject = {}
    for name, parts in _CARRIED.items():
        given = declared.get(name)
        if isinstance(given, dict):
            found[name] = {part: {} for part in parts if isinstance(given.get(part), dict)}
    return found


def lacking(method: str, params: JsonObject, capabilities: JsonObject) -> JsonObject:
    """The capabilities that this question needs and the client did not declare; {} when it may be asked.

    Raises RemoteError for what no client may be asked.
    """
    name = _NEEDS.get(method)
    if name is None:
        raise RemoteError(-32601, "Method not found")
    part = _part(method, params)
    given = capabilities.get(name)
    if isinstance(given, dict) and (not part or part in given or (part == "form" and not given)):
        return {}  # an empty elicitation capability means forms ("Elicitation", Capabilities)
    return {name: {part: {}} if part else {}}


def _part(method: str, params: JsonObject) -> str:
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        if mode == "url" and not _is_web(params.get("url")):
            raise RemoteError(-32602, "A URL for elicitation begins with http:// or https://.")
        if mode not in ("form", "url"):
            raise RemoteError(-32602, "Elicitation has the modes form and url.")
        return str(mode)
    return "tools" if method == "sampling/createMessage" and "tools" in params else ""


def _is_web(url: Json) -> bool:
    """Nothing that a client could be made to run, and nothing that is read in two ways."""
    if not isinstance(url, str) or not url.isprintable() or any(char in url for char in ' \\<>"'):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


@dataclass(frozen=True, slots=True)
class _Question:
    principal: str
    session: str
    answer: asyncio.Future[JsonObject]
    since: float


class Questions:
    """Those asked of clients of the older era by this process. An answer counts only from whom it was asked of."""

    def __init__(self) -> None:
        self._open: dict[str, _Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def one(self, instance: UUID, *, principal: str, session: str) -> Iterator[tuple[str, asyncio.Future[JsonObject]]]:
        """An id for a question, and its answer to come: a message with "result" or "error", or RemoteError when it gave
        way to another question.

        Raises RemoteError when the principal is asked too much at once.
        """
        self._make_room(principal)
        # With the process in it: the answer may come to another one.
        name = f"{instance.hex}-{uuid4().hex}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[JsonObject] = loop.create_future()
        self._open[name] = _Question(principal, session, answer, loop.time())
        try:
            yield name, answer
        finally:
            del self._open[name]
            answer.cancel()

    def _make_room(self, principal: str) -> None:
        mine = [one for one in self._open.values() if one.principal == principal and not one.answer.done()]
        if len(mine) < MAX_OPEN:
            return
        oldest = mine[0]
        if asyncio.get_running_loop().time() - oldest.since < ABANDONED_SECONDS:
            raise RemoteError(-32603, f"At most {MAX_OPEN} questions may be open at once.")
        oldest.answer.set_exception(RemoteError(-32603, "Nobody answered, and another question needed the place."))
        oldest.answer.exception()  # looked at: whoever waited for it may be cancelled at this very moment

    def take(self, message: JsonObject, *, principal: str, session: str) -> bool:
        """An answer has come. False when nobody waits for it here."""
        name = message.get("id")
        question = self._open.get(name) if isinstance(name, str) else None
        if question is None or (question.principal, question.session) != (principal, session):
            return False
        if not question.answer.done():
            question.answer.set_result(message)
        return True


def asker(name: Json) -> UUID | None:
    """Which process asked the question of this id; None when it is no id of ours."""
    first, _, _ = name.partition("-") if isinstance(name, str) else ("", "", "")
    try:
        return UUID(hex=first) if len(first) == 32 else None
    except ValueError:
        return None
