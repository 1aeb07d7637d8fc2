"""On-call schedules that are kept elsewhere: asked of their URL each minute, and believed for ten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from django.conf import settings

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid, JitAccessError, Unavailable
from jitaccess.kernel.text import is_blank, visible
from jitaccess.policy.models import OnCallSchedule
from jitaccess.store.clock import JitNow

MAX_ANSWER = 64 * 1024
MAX_PEOPLE = 50
PATIENCE = 10.0  # seconds for one schedule
_AT_ONCE = 8

log = logging.getLogger(__name__)


def fetch_schedules() -> int:
    """Ask every schedule that has a URL who is on call; returns how many answered.

    What cannot be had or read leaves what was said before, which nobody believes for long. Nothing that happens to one
    schedule concerns another one.
    """
    rows = list(OnCallSchedule.objects.exclude(url="").values_list("pk", "name", "url"))
    if not rows:
        return 0
    answers = asyncio.run(_ask([url for _, _, url in rows]))
    done = 0
    for (pk, name, url), answer in zip(rows, answers, strict=True):
        if isinstance(answer, JitAccessError):
            log.warning("schedule %s cannot be read: %s", name, visible(answer.detail, limit=300))
            continue
        # Somebody may have changed the URL meanwhile: what the old one said is of no interest.
        same = OnCallSchedule.objects.filter(pk=pk, url=url)
        done += same.update(fetched=canonical(answer).decode(), fetched_at=JitNow())
    return done


def read_answer(body: bytes) -> list[str]:
    """The usernames in {"on_call": ["anna"]}. Raises Invalid for anything else."""
    value = strictjson.decode(body)
    people = value.get("on_call") if isinstance(value, dict) else None
    if not isinstance(people, list) or len(people) > MAX_PEOPLE:
        raise Invalid("schedule.answer", f'The answer is not {{"on_call": [at most {MAX_PEOPLE} usernames]}}.')
    if not all(isinstance(one, str) and len(one) <= 150 and not is_blank(one) for one in people):
        raise Invalid("schedule.answer", "Somebody on call has no name that a user could have.")
    return [str(one) for one in people]


async def _ask(urls: Iterable[str]) -> list[list[str] | JitAccessError]:
    client = Client(Allowance.parse(settings.EGRESS_ALLOW))
    turn = asyncio.Semaphore(_AT_ONCE)
    try:
        return await asyncio.gather(*(_ask_one(client, turn, url) for url in urls))
    finally:
        await client.close()


async def _ask_one(client: Client, turn: asyncio.Semaphore, url: str) -> list[str] | JitAccessError:
    try:
        async with turn, asyncio.timeout(PATIENCE):
            response = await client.send("GET", url, headers={"Accept": "application/json"})
            try:
                if response.status != 200:
                    raise Unavailable("schedule.status", f"It answered {response.status} instead of 200.")
                return read_answer(await response.read(MAX_ANSWER))
            finally:
                response.close()
    except TimeoutError:
        return Unavailable("schedule.timeout", f"It did not answer within {PATIENCE:g} s.")
    except JitAccessError as error:
        return error
