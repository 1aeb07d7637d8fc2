"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): whoever repeats a POST gets the first answer again.

The answer is stored in the transaction of the effect, so that neither is there without the other, and a process that
dies leaves no key behind that is in progress for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import connection, transaction
from rest_framework.exceptions import APIException
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from jitaccess.api.caller import Caller
from jitaccess.api.models import StoredAnswer
from jitaccess.api.problems import MEDIA_TYPE
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.errors import Conflict, Invalid, JitAccessError
from jitaccess.store.clock import JitNow

KEPT = timedelta(hours=24)
# Of one principal. Beyond that nothing is forgotten early, which would break a promise: the next key is refused.
MAX_KEPT = 2000
HEADER = "Idempotency-Key"
View = Callable[..., Response]


class KeyReused(Invalid):
    """The draft asks for 422 where a key comes with another request."""

    http_status = 422


def once(view: View) -> View:
    """Makes a POST handler honour the header. A dry run has no effect that could be repeated, so it is not stored."""

    @wraps(view)
    def guarded(self: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        self.prepare(request)
        key, sent = _key(request), dict(request.data)
        if key is None or sent.get("dry_run") is True:
            return view(self, request, *args, **kwargs)
        caller: Caller = request.user  # type: ignore[assignment]  # by caller.Authentication
        who = caller.principal.key
        what = digest({"path": request.path, "body": sent}, domain="jitaccess-api-v1")
        with transaction.atomic():
            _take_turn(who, key)
            stored = StoredAnswer.objects.filter(principal_key=who, key=key).first()
            if stored is not None and not _too_old(stored):
                answer = _again(stored, what)
                if stored.status not in {403, 404}:  # those tell nothing
                    self.still_theirs(caller, answer.data)
                return answer
            if stored is not None:
                stored.delete()
            _ensure_room(who)
            try:
                response = view(self, request, *args, **kwargs)
            except (JitAccessError, APIException) as error:
                # Inside, so that what a refusal writes (a request that became void) is kept with it.
                response = self.handle_exception(error)
            if response.status_code < 500:
                StoredAnswer.objects.create(
                    principal_key=who,
                    key=key,
                    digest=what,
                    status=response.status_code,
                    body=JSONRenderer().render(response.data).decode(),
                    created_at=JitNow(),
                )
        return response

    return guarded


def only_once(kind: str, name: str) -> bool:
    """Whether `name` is new among its kind, for a day. Inside the transaction of what must not happen twice."""
    _take_turn(kind, name)
    values = {"digest": "", "status": 0, "body": "", "created_at": JitNow()}
    return StoredAnswer.objects.get_or_create(principal_key=kind, key=name, defaults=values)[1]


def never(view: View) -> View:
    """For a POST whose answer is a secret: it is not stored, so a key is refused."""

    @wraps(view)
    def guarded(self: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        if HEADER in request.headers:
            raise Invalid("idempotency.not_here", "The answer is shown once and kept nowhere: no key can repeat it.")
        return view(self, request, *args, **kwargs)

    return guarded


def forget_old_answers() -> int:
    """Remove what is older than a day; returns how many rows."""
    return StoredAnswer.objects.filter(created_at__lt=JitNow() - KEPT).delete()[0]


def _key(request: Request) -> str | None:
    text = request.headers.get(HEADER)
    if text is None:
        return None
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not 1 <= len(key) <= 255 or not (key.isascii() and key.isprintable()):
        raise Invalid("idempotency.key", f"{HEADER} is 1 to 255 printable ASCII characters.")
    return key


def _take_turn(who: str, key: str) -> None:
    """Held until the end of the transaction. On SQLite the transaction itself is the turn."""
    if connection.vendor != "postgresql":
        return
    number = int.from_bytes(hashlib.sha256(f"jit-api/{who}/{key}".encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        if not cursor.fetchone()[0]:
            raise Conflict(
                "idempotency.in_progress", "A request with this key is being answered.", retry_after_seconds=1
            )


def _ensure_room(who: str) -> None:
    """Raise Conflict when so many answers of this principal are kept that one more would be too many."""
    own = StoredAnswer.objects.filter(principal_key=who)
    if own.count() >= MAX_KEPT and not own.filter(created_at__lt=JitNow() - KEPT).delete()[0]:
        raise Conflict(
            "idempotency.too_many_keys",
            f"{MAX_KEPT} answers to keys of yours are kept, each for a day; leave {HEADER} out, or come back later.",
            retry_after_seconds=3600,
        )


def _too_old(stored: StoredAnswer) -> bool:
    return StoredAnswer.objects.filter(pk=stored.pk, created_at__lt=JitNow() - KEPT).exists()


def _again(stored: StoredAnswer, what: str) -> Response:
    if stored.digest != what:
        raise KeyReused("idempotency.key_reused", f"This {HEADER} came with another request before.")
    kind = MEDIA_TYPE if stored.status >= 400 else None
    return Response(
        json.loads(stored.body),
        status=stored.status,
        headers={"Idempotency-Replayed": "true"},
        content_type=kind,
    )
