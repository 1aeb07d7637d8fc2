"""One request from a thread that has no event loop: libraries that would talk by themselves are led through here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.egress.errors import EgressFailed
from jitaccess.egress.response import MAX_BODY

# What whoever asks may have to know of an answer, besides its status.
_TOLD = ("content-type", "date", "location", "retry-after", "cache-control", "www-authenticate", "x-slack-req-id")


def fetch(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    seconds: float,
    allowance: Allowance,
    limit: int = MAX_BODY,
) -> tuple[int, dict[str, str], bytes]:
    """The status, some headers (names in lower case) and the body, of at most `limit` bytes. Redirects are answers.

    Raises EgressRefused for an address that may not be reached, EgressFailed for whatever else keeps an answer away:
    "egress.timeout" when it is not whole after `seconds`. On a connection of its own: this is for what is rare.
    """
    return asyncio.run(_fetch(method, url, headers, body, seconds, allowance, limit))


async def _fetch(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    seconds: float,
    allowance: Allowance,
    limit: int,
) -> tuple[int, dict[str, str], bytes]:
    client = Client(allowance)
    try:
        async with asyncio.timeout(seconds):
            response = await client.send(method, url, headers=headers, body=body)
            try:
                told = {name: value for name in _TOLD if (value := response.header(name)) is not None}
                return response.status, told, await response.read(limit)
            finally:
                response.close()
    except TimeoutError as error:
        raise EgressFailed("egress.timeout", f"There was no whole answer within {seconds:g} s.") from error
    finally:
        await client.close()
