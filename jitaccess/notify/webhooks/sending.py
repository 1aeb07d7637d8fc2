"""One round of HTTP to one endpoint: what is sent, and what was answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from django.conf import settings

from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import plain
from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.egress.errors import EgressFailed, EgressRefused
from jitaccess.egress.response import Response
from jitaccess.egress.webhooks import sign
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.text import visible
from jitaccess.notify.webhooks.models import message_id

SECONDS = 15.0  # for an answer: what Standard Webhooks 1.0 asks senders to allow at least
_HEAD = 1024  # bytes of an answer that are kept
_LONGEST = 3600  # seconds that a receiver may have us wait


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one message. `status` None: no answer; `wait`: seconds, when the receiver named them."""

    status: int | None
    error: str
    head: str = ""
    wait: int = 0

    @property
    def fine(self) -> bool:
        return not self.error


def body_of(entry: Entry) -> bytes:
    """{"type", "timestamp", "data"} as Standard Webhooks 1.0 has it, the same bytes at every try. `data` is the entry
    as the ledger's export has it: secrets were taken out before it was written.
    """
    told = plain(entry)
    parsed = {name: json.loads(str(told[name])) for name in ("data", "bindings")}
    return canonical({"type": entry.event, "timestamp": told["at"], "data": {**told, **parsed}})


def post_all(url: str, entries: Sequence[Entry], secrets: Sequence[str]) -> list[Answer]:
    """Send these, all at once, and say what was answered to each. Raises nothing that a receiver can cause."""
    return asyncio.run(_post_all(url, entries, secrets))


async def _post_all(url: str, entries: Sequence[Entry], secrets: Sequence[str]) -> list[Answer]:
    client = Client(Allowance.parse(settings.EGRESS_ALLOW))
    try:
        return await asyncio.gather(*(_post(client, url, entry, secrets) for entry in entries))
    finally:
        await client.close()


async def _post(client: Client, url: str, entry: Entry, secrets: Sequence[str]) -> Answer:
    timestamp = int(time.time())
    try:
        body = body_of(entry)
    except Exception as error:  # noqa: BLE001 - one message that cannot be made stops none of the others
        return Answer(None, visible(f"It cannot be put into a message: {error}", limit=500))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "jitaccess",
        "webhook-id": message_id(entry.uid),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id=message_id(entry.uid), timestamp=timestamp, body=body),
    }
    try:
        async with asyncio.timeout(SECONDS):
            response = await client.send("POST", url, headers=headers, body=body)
    except (EgressRefused, EgressFailed) as error:
        return Answer(None, visible(error.detail, limit=500))
    except TimeoutError:
        return Answer(None, f"There was no answer within {SECONDS:g} seconds.")
    try:
        return Answer(response.status, _problem(response.status), await _head(response), _wait(response))
    finally:
        response.close()


def _problem(status: int) -> str:
    if 200 <= status < 300:
        return ""
    more = " Redirects are not followed: set the address where it leads." if 300 <= status < 400 else ""
    return f"It answered {status}.{more}"


async def _head(response: Response) -> str:
    """How the body begins, if it comes soon: the status alone says whether the message was taken."""
    head = b""
    with contextlib.suppress(EgressFailed, TimeoutError):
        async with asyncio.timeout(2):
            async for chunk in response.chunks(None):
                head += chunk[:_HEAD]
                if len(head) >= _HEAD:
                    break
    return visible(head[:_HEAD].decode("utf-8", "replace"), limit=_HEAD, multiline=True)


def _wait(response: Response) -> int:
    """Retry-After (RFC 9110 section 10.2.3), of the answers that it says something in."""
    text = response.header("retry-after") if response.status in {429, 503} else None
    if not text:
        return 0
    try:
        seconds = int(text) if text.isdigit() else _until(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return 0
    return min(max(seconds, 0), _LONGEST)


def _until(moment: datetime) -> int:
    at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int((at - datetime.now(UTC)).total_seconds())
