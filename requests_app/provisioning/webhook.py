"""Targets that are told by webhook: one POST for each step, signed as Standard Webhooks 1.0 says.

The body is {"type": "entitlement.grant" | ".revoke" | ".verify" | ".list", "data": {…}}. What is answered, and what it
means, is in docs/guides/write-a-provisioner.md; statuses are read in `_refuse_unless_fine`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from django.conf import settings

from jitaccess.egress.addresses import Allowance, read_url
from jitaccess.egress.client import Client, Progress
from jitaccess.egress.errors import EgressFailed, EgressRefused
from jitaccess.egress.webhooks import sign
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject, decode
from jitaccess.kernel.text import visible

from .protocol import CALL_SECONDS, Effect, Entitlement, Found, Permanent, Presence, Retryable, TargetFacts

MAX_ANSWER = 64 << 10  # bytes, of one step
MAX_LIST = 8 << 20  # bytes, of a list
MAX_NAME = 1000  # characters: of what a target calls something of its own
# RFC 9110; 425 and 429 say "later", 408 that the request came too slowly.
_LATER = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """The provisioner. Stateless: each call is a connection of its own, through the product's one HTTP client."""

    url: str
    secrets: tuple[str, ...] = field(repr=False)
    allowance: Allowance
    seconds: float = CALL_SECONDS / 2

    @classmethod
    def of(cls, facts: TargetFacts) -> Webhook:
        """Made anew for every try: what the operator changed holds from the next one on."""
        return cls(url=facts.url, secrets=facts.secrets, allowance=Allowance.parse(settings.EGRESS_ALLOW))

    def describe(self) -> str:
        """Origin only: a path or query may hold a key."""
        try:
            return f"webhook to {read_url(self.url).origin}"
        except EgressRefused as error:
            return f"webhook: {error.detail}"

    def validate(self, entitlement: Entitlement) -> None:  # noqa: ARG002 - the receiver decides
        self._checked_secrets()

    def grant(self, effect: Effect) -> None:
        """2xx: done. 409: it is there already. 408, 425, 429, 5xx, no answer: later. Else: refused."""
        self._step("grant", effect, fine={409})

    def revoke(self, effect: Effect) -> None:
        """2xx: done. 404, 410: it is not there. Else as grant. Either way only `verify` is believed."""
        self._step("revoke", effect, fine={404, 410})

    def verify(self, effect: Effect) -> Presence:
        """Only 200 with {"id": the same, "state": "present" | "absent"} says something. A 404 does not: it is also
        what a receiver that was moved or switched off answers, while the access it gave is still there.
        """
        status, body = self._post("verify", _data(effect), message_id=f"look-{uuid4().hex}", limit=MAX_ANSWER)
        if status != 200:
            _refuse_unless_fine(status, set())
            return Presence.UNKNOWN
        answer = _object(body)
        if answer.get("id") != str(effect.id) or answer.get("state") not in {"present", "absent"}:
            return Presence.UNKNOWN
        return Presence(str(answer["state"]))

    def list(self) -> Iterator[Found]:
        """200 with {"entitlements": [{"id": ours or null, "name": …}]}; all of it in one answer of at most 8 MiB."""
        status, body = self._post("list", {}, message_id=f"look-{uuid4().hex}", limit=MAX_LIST)
        _refuse_unless_fine(status, set())
        rows = _object(body).get("entitlements")
        if not isinstance(rows, list):
            raise Retryable('The list has no member "entitlements".')
        for row in rows:
            if not isinstance(row, dict):
                raise Retryable("The list holds something that is no object.")
            yield Found(id=_uuid(row.get("id")), name=visible(str(row.get("name") or ""), limit=MAX_NAME))

    def _step(self, what: str, effect: Effect, *, fine: set[int]) -> None:
        # The same id while it is not known whether the receiver has heard: it may sort out repetitions by it.
        message_id = f"prov-{what}-{effect.attempt}"
        status, _ = self._post(what, _data(effect), message_id=message_id, limit=MAX_ANSWER, effect=effect)
        _refuse_unless_fine(status, fine)

    def _post(
        self, what: str, data: JsonObject, *, message_id: str, limit: int, effect: Effect | None = None
    ) -> tuple[int, bytes]:
        body = canonical({"type": f"entitlement.{what}", "data": data})
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._checked_secrets(), message_id=message_id, timestamp=timestamp, body=body),
        }
        progress = Progress(permit=(lambda: effect.in_time) if effect else None)
        try:
            return asyncio.run(self._send(body, headers, limit, progress))
        except EgressRefused as error:
            raise Permanent(error.detail) from None
        except EgressFailed as error:
            raise Retryable(error.detail) from None
        except TimeoutError:
            raise Retryable(f"No whole answer within {self.seconds:g} seconds.") from None

    async def _send(self, body: bytes, headers: dict[str, str], limit: int, progress: Progress) -> tuple[int, bytes]:
        client = Client(self.allowance)
        try:
            async with asyncio.timeout(self.seconds):
                response = await client.send("POST", self.url, headers=headers, body=body, progress=progress)
                try:
                    return response.status, await response.read(limit)
                finally:
                    response.close()
        finally:
            await client.close()

    def _checked_secrets(self) -> tuple[str, ...]:
        if not self.secrets:
            raise Permanent("It has no secret to sign with: set one in the admin.")
        return self.secrets


def _refuse_unless_fine(status: int, fine: set[int]) -> None:
    if 200 <= status < 300 or status in fine:
        return
    if status in _LATER or status >= 500:
        raise Retryable(f"It answered {status}.")
    more = " Redirects are not followed: set the address where it leads." if 300 <= status < 400 else ""
    raise Permanent(f"It answered {status}.{more}")


def _data(effect: Effect) -> JsonObject:
    subject = effect.entitlement
    user: Json = {"id": str(subject.user), "name": subject.user_name} if subject.user else None
    return {
        "id": str(effect.id),
        "entitlement": subject.name,
        "agent": {"id": str(subject.agent), "name": subject.agent_name},
        "user": user,
    }


def _object(body: bytes) -> JsonObject:
    try:
        return decode(body)
    except Invalid as error:
        raise Retryable(f"Its answer cannot be read: {error.detail}") from None


def _uuid(value: Json) -> UUID | None:
    """Anything that is no id of ours is somebody else's."""
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
