"""Bringing Slack to where the messages should be. State, not messages: whatever was missed, the next look sends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F

from jitaccess.notify.deliver import backoff
from jitaccess.notify.slack.client import SlackFailed, Trouble, call
from jitaccess.notify.slack.message import Message, message_of, page_url, short
from jitaccess.notify.slack.models import SlackCard
from jitaccess.store.clock import JitNow, now

log = logging.getLogger("jitaccess.slack")

EVENT_TYPE = "jitaccess_card"
# Longer than all calls of one attempt together, or another process would post it too.
_LEASE = timedelta(seconds=90)
_TOO_LONG = frozenset({"msg_too_long", "msg_blocks_too_long", "invalid_blocks", "invalid_blocks_format"})
# What somebody wrote is not looked up for them, and calls nobody.
_QUIET: dict[str, Any] = {"unfurl_links": False, "unfurl_media": False, "link_names": False}
# How long nothing is tried while the app itself is refused.
_APP_PAUSE = timedelta(minutes=1)
_MOST_ATTEMPTS = 30


def send_due(*, limit: int = 50) -> int:
    """Send what is due; returns how many messages are as they should be now. One that fails stops no other, but for a
    refusal of the whole app, or Slack asking to be left alone.
    """
    due = SlackCard.objects.filter(due_at__lte=JitNow(), dead=False).select_related("user", "parent")
    sent = 0
    for card in list(due.order_by("due_at", "pk")[:limit]):
        if card.parent and not card.parent.ts:
            _wait_for_parent(card)
            continue
        try:
            sent += _attempt(card)
        except SlackFailed as error:
            log.warning("Slack cannot be told of anything now: %s", error.error)
            break
    return sent


def _attempt(card: SlackCard) -> bool:
    """Raises SlackFailed for what concerns all messages alike."""
    mine = SlackCard.objects.filter(pk=card.pk)
    claimed = mine.filter(attempts=card.attempts, due_at=card.due_at, dead=False).update(
        attempts=F("attempts") + 1, due_at=now() + _LEASE
    )
    if claimed != 1:
        return False  # another process has it
    wanted = card.wanted_seq
    try:
        message = message_of(card)
        if message is not None:
            _send(card, message)
    except SlackFailed as error:
        _failed(card, error)
        if error.trouble in {Trouble.APP, Trouble.WAIT}:
            raise
        return False
    except Exception as error:  # noqa: BLE001 - a message that cannot be made stops no other
        log.warning("message %s in Slack failed: %s", card.pk, error)
        mine.update(error=type(error).__name__, due_at=now() + backoff(card.attempts + 1))
        return False
    mine.update(seen_seq=wanted, attempts=0, error="", unsure=False)
    if not mine.filter(wanted_seq=wanted).update(due_at=None):
        mine.update(due_at=now())  # touched while it was made: once more
    return True


def _send(card: SlackCard, message: Message) -> None:
    try:
        _put(card, message)
    except SlackFailed as error:
        if error.error not in _TOO_LONG:
            raise
        _put(card, short(message, page_url(card.request)))


def _put(card: SlackCard, message: Message) -> None:
    mine = SlackCard.objects.filter(pk=card.pk)
    content: dict[str, Any] = {"text": message.text, "blocks": list(message.blocks)}
    if not card.channel:
        card.channel = _channel_of(card)
        mine.update(channel=card.channel)
    if card.unsure and not card.ts:
        card.ts = _find(card)
        mine.update(ts=card.ts)
    if card.ts:
        call("chat.update", channel=card.channel, ts=card.ts, **content)
        return
    mine.update(unsure=True)
    thread = {"thread_ts": card.parent.ts} if card.parent else {}
    metadata = {"event_type": EVENT_TYPE, "event_payload": {"id": str(card.pk)}}
    answer = call("chat.postMessage", channel=card.channel, metadata=metadata, **_QUIET, **content, **thread)
    mine.update(ts=str(answer["ts"]))


def _channel_of(card: SlackCard) -> str:
    if card.parent:
        return card.parent.channel
    if not card.place.startswith(("U", "W")):
        return card.place
    answer: Mapping[str, Any] = call("conversations.open", users=card.place)
    return str(answer["channel"]["id"])


def _find(card: SlackCard) -> str:
    """A message that was posted, though nobody heard that it was; "" when there is none, or it may not be looked for.

    Posting has no key by which Slack would tell a repetition: without a look one request had two cards.
    """
    where: dict[str, Any] = {"channel": card.channel, "include_all_metadata": True, "limit": 100}
    where["oldest"] = f"{_first_try(card).timestamp():.6f}"
    try:
        if card.parent:
            found = call("conversations.replies", ts=card.parent.ts, **where)
        else:
            found = call("conversations.history", **where)
    except SlackFailed as error:
        if error.error in {"missing_scope", "not_in_channel"}:
            return ""  # twice is better than not at all
        raise
    for one in found.get("messages") or ():
        metadata = one.get("metadata") or {}
        if (metadata.get("event_payload") or {}).get("id") == str(card.pk):
            return str(one["ts"])
    return ""


def _first_try(card: SlackCard) -> datetime:
    """Not after it: a UUID of version 7 tells when the row was made. Clocks differ, so a day is added."""
    return datetime.fromtimestamp((card.pk.int >> 80) / 1000, tz=now().tzinfo) - timedelta(days=1)


def _wait_for_parent(card: SlackCard) -> None:
    assert card.parent
    rows = SlackCard.objects.filter(pk=card.pk, due_at=card.due_at)
    if card.parent.dead or (card.parent.due_at is None and not card.parent.ts):
        rows.update(due_at=None, error="not sent: there is no card above it")
    else:
        rows.update(due_at=now() + timedelta(seconds=2))


def _failed(card: SlackCard, error: SlackFailed) -> None:
    rows, attempts = SlackCard.objects.filter(pk=card.pk), card.attempts + 1
    if error.trouble is not Trouble.UNKNOWN:
        rows.filter(ts="").update(unsure=False)
    match error.trouble:
        case Trouble.WAIT:
            rows.update(attempts=card.attempts, error=error.error, due_at=now() + timedelta(seconds=error.seconds))
        case Trouble.APP:
            rows.update(attempts=card.attempts, error=error.error, due_at=now() + _APP_PAUSE)
        case Trouble.GONE if card.kind in {SlackCard.Kind.CHANNEL, SlackCard.Kind.PERSON} and attempts < 3:
            rows.update(ts="", error=error.error, due_at=now())  # somebody deleted it: people have to read it
        case Trouble.GONE:
            rows.update(due_at=None, error=error.error)
        case Trouble.THERE:
            _bury(card, error.error)
        case _ if attempts >= _MOST_ATTEMPTS:
            _bury(card, error.error)
        case _:
            rows.update(error=error.error, due_at=now() + backoff(attempts))


def _bury(card: SlackCard, error: str) -> None:
    log.error("Slack refuses the %s message in %s for good: %s", card.kind, card.place, error)
    SlackCard.objects.filter(pk=card.pk).update(dead=True, due_at=None, error=error)
