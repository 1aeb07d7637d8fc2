"""What comes in from Slack: whether it is from there, written down before it is acknowledged, done once."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.notify.deliver import backoff
from jitaccess.notify.slack.acting import answer, carry_out
from jitaccess.notify.slack.client import SlackFailed
from jitaccess.notify.slack.conf import is_on
from jitaccess.notify.slack.models import SlackInbox
from jitaccess.store.clock import JitNow, now
from jitaccess.store.sealing import ring

log = logging.getLogger("jitaccess.slack")

WINDOW = 300  # seconds that a signature may be old, of the documentation
_LEASE = timedelta(seconds=30)
_MOST_ATTEMPTS = 5
_KEPT = timedelta(days=2)  # far longer than any repetition may come late
_ID = re.compile(r"[A-Z][A-Z0-9]{1,31}")
_POOL = ThreadPoolExecutor(4, thread_name_prefix="slack")


def ensure_signed(*, body: bytes, timestamp: str, signature: str) -> None:
    """Raise Forbidden unless Slack signed these very bytes in the last five minutes (v0, HMAC-SHA256)."""
    key = settings.SLACK_SIGNING_SECRET
    fresh = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 12
    fresh = fresh and abs(time.time() - int(timestamp)) <= WINDOW
    made = hmac.new(key.encode(), b"v0:" + timestamp.encode("utf-8", "replace") + b":" + body, hashlib.sha256)
    same = hmac.compare_digest(f"v0={made.hexdigest()}".encode(), signature.encode("utf-8", "replace"))
    if not (key and fresh and same):
        raise Forbidden("slack.signature", "This is not signed by Slack, or too old.")


def ensure_ours(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The workspace and the user who did it. Raises Forbidden for what another app, workspace or organisation sends,
    and for guests from elsewhere in a shared channel: on every way in, a signature does not tell them apart.
    """
    team, user = _part(payload, "team"), _part(payload, "user")
    enterprise = _text(payload, "enterprise_id") or _text(_part(payload, "enterprise"), "id")
    enterprise = enterprise or _text(team, "enterprise_id")
    team_id = _text(team, "id") or _text(payload, "team_id")
    user_id = _text(user, "id") or _text(payload, "user_id")
    theirs = _text(user, "team_id") or _text(payload, "user_team") or team_id
    app = _text(payload, "api_app_id")
    fits = (
        is_on()
        and app == settings.SLACK_APP_ID
        and team_id == settings.SLACK_TEAM_ID
        # In an organisation Slack names that in place of the user's workspace.
        and theirs in {settings.SLACK_TEAM_ID, settings.SLACK_ENTERPRISE_ID} - {""}
        and enterprise in {"", settings.SLACK_ENTERPRISE_ID}
        and (enterprise or not settings.SLACK_ENTERPRISE_ID)
        and not payload.get("is_ext_shared_channel")
        and not _part(payload, "channel").get("is_ext_shared")
    )
    if not fits or not _ID.fullmatch(user_id):
        raise Forbidden("slack.not_ours", "This is from another app or workspace, or from a guest of this one.")
    return team_id, user_id


def take_in(kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What to acknowledge with; None: with nothing. What has an effect is on record by then, and done soon. Raises
    Forbidden for what is not ours, Invalid for what is none of Slack's payloads.
    """
    team, user = ensure_ours(payload)
    at_once = answer(kind, payload, team=team, slack_user=user)
    if at_once is not None:
        return at_once
    key = _key(kind, payload, team, user)
    if key is None:
        return None
    moment, sealed = now(), ring().seal(json.dumps(_plain(payload)).encode(), context=f"slack inbox {key}")
    with transaction.atomic():
        row, new = SlackInbox.objects.get_or_create(
            key=key,
            defaults={
                "kind": kind, "slack_user": user, "payload": sealed, "received_at": moment, "due_at": moment,
            },
        )  # fmt: skip
        if new:
            transaction.on_commit(lambda: _POOL.submit(_do_in_thread, row.pk) and None)
    return None


def do_waiting(*, limit: int = 50) -> int:
    """Do what was taken in and is not done: after a restart, or when something was away. Returns how many were."""
    due = SlackInbox.objects.filter(done_at=None, due_at__lte=JitNow()).order_by("due_at")
    return sum(do(pk) for pk in list(due.values_list("pk", flat=True)[:limit]))


def do(pk: UUID) -> bool:
    """Do one of them, unless somebody else is at it."""
    row = SlackInbox.objects.filter(pk=pk, done_at=None, due_at__lte=JitNow()).first()
    if row is None:
        return False
    mine = SlackInbox.objects.filter(pk=pk, done_at=None)
    if not mine.filter(attempts=row.attempts).update(attempts=F("attempts") + 1, due_at=now() + _LEASE):
        return False
    error, again = "", False
    try:
        payload = json.loads(ring().open(row.payload, context=f"slack inbox {row.key}"))
        carry_out(row.kind, payload, team=settings.SLACK_TEAM_ID, slack_user=row.slack_user)
    except SlackFailed as failed:
        error, again = failed.error, True
    except Exception as failed:
        log.exception("what came in from Slack could not be done")
        error, again = type(failed).__name__, True
    if again and row.attempts + 1 < _MOST_ATTEMPTS:
        mine.update(error=error, due_at=now() + backoff(row.attempts + 1))
        return False
    mine.update(done_at=now(), payload="", error=error[:200])
    return True


def forget_old() -> None:
    """Delete what was done long ago."""
    SlackInbox.objects.filter(done_at__isnull=False, received_at__lt=now() - _KEPT).delete()


def _do_in_thread(pk: UUID) -> None:
    try:
        do(pk)
    except Exception as error:  # noqa: BLE001 - the sweep does it
        log.warning("what came in from Slack will be tried again: %s", error)
    finally:
        connection.close()


def _key(kind: str, payload: Mapping[str, Any], team: str, user: str) -> str | None:
    """By which a repetition is known: of what was done, not of the delivery, whose ids are others each time."""
    match kind:
        case "block_actions":
            actions = payload.get("actions")
            first = actions[0] if isinstance(actions, list) and actions and isinstance(actions[0], dict) else {}
            if not first or first.get("action_id") == "open" or "value" not in first:
                return None  # a link, or a choice in a form that is not sent yet
            what = [first.get("action_id"), first.get("value"), first.get("action_ts")]
        case "view_submission":
            what = [_text(_part(payload, "view"), "id")]
        case "command":
            what = [_text(payload, "trigger_id")]
        case _:
            return None
    if not all(isinstance(one, str) and one for one in what):
        raise Invalid("slack.payload", "This is none of Slack's payloads.")
    return hashlib.sha256(json.dumps([kind, team, user, *what]).encode()).hexdigest()


def _part(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = payload.get(name)
    return found if isinstance(found, dict) else {}


def _text(payload: Mapping[str, Any], name: str) -> str:
    found = payload.get(name)
    return found if isinstance(found, str) else ""


def _plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is read again, so that neither response_url nor the verification token is kept."""
    names = ("type", "actions", "container", "channel", "trigger_id", "text", "channel_id")
    kept = {name: payload[name] for name in names if name in payload}
    view = _part(payload, "view")
    if view:
        kept["view"] = {name: view[name] for name in ("id", "callback_id", "private_metadata", "state") if name in view}
    return kept
