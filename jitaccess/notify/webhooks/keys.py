"""The secrets of endpoints, sealed at rest: two while one takes over from the other."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.credentials import Rotation
from jitaccess.egress.addresses import read_url
from jitaccess.egress.errors import EgressRefused
from jitaccess.kernel.discreet import hide
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.secretbox import KeyRing, key_id
from jitaccess.kernel.strictjson import Json
from jitaccess.notify.webhooks.models import Endpoint
from jitaccess.store.sealing import ring

# For so long after a rotation the secret before it signs too.
BOTH = timedelta(hours=24)


def seal(endpoint: Endpoint, secret: str) -> str:
    """As it is stored, for this row and the host it leads to."""
    return ring().seal(secret.encode(), context=_context(endpoint))


def secrets_of(endpoint: Endpoint, at: datetime) -> tuple[str, ...]:
    """Newest first: to sign with, never to be shown. Raises Unavailable("webhook.secret_unreadable")."""
    both = endpoint.rotated_at is not None and at < endpoint.rotated_at + BOTH
    sealed = (endpoint.sealed, endpoint.sealed_before) if both and endpoint.sealed_before else (endpoint.sealed,)
    keys = ring()
    try:
        found = tuple(keys.open(one, context=_context(endpoint)).decode() for one in sealed)
    except (Invalid, EgressRefused):
        detail = "Its secret cannot be opened: put its key back into the key ring, or rotate the secret."
        raise Unavailable("webhook.secret_unreadable", detail) from None
    hide(*found)
    return found


def reseal_endpoints(keys: KeyRing, *, operator: Actor) -> Rotation:
    """Seal with the newest key what is under an older one, as `reseal_targets` does. Counts endpoints."""
    resealed, current, unreadable = 0, 0, []
    with transaction.atomic():
        for row in Endpoint.objects.select_for_update().order_by("pk"):
            both = (row.sealed, row.sealed_before)
            if all(key_id(sealed) == keys.ids[0] for sealed in both if sealed):
                current += 1
                continue
            try:
                opened = [keys.open(sealed, context=_context(row)) if sealed else b"" for sealed in both]
            except (Invalid, EgressRefused):
                unreadable.append(_named(row))
                continue
            newest, before = (keys.seal(text, context=_context(row)) if text else "" for text in opened)
            Endpoint.objects.filter(pk=row.pk).update(sealed=newest, sealed_before=before)
            resealed += 1
        if resealed:
            data: dict[str, Json] = {"key": keys.ids[0], "webhooks": resealed, "unreadable": len(unreadable)}
            record(Facts(event=Event.CREDENTIALS_RESEALED, actor=operator, data=data))
    return Rotation(keys.ids[0], resealed, current, tuple(unreadable))


def sealed_with(key: str) -> list[str]:
    """Secrets that need this key, as people call them."""
    return [_named(row) for row in Endpoint.objects.all() if key in {key_id(row.sealed), _key_before(row)}]


def keys_in_use() -> Counter[str]:
    """How many secrets are sealed with each key."""
    rows = Endpoint.objects.values_list("sealed", "sealed_before")
    return Counter(key_id(sealed) for both in rows for sealed in both if sealed)


def _key_before(row: Endpoint) -> str:
    return key_id(row.sealed_before) if row.sealed_before else ""


def _named(row: Endpoint) -> str:
    return f"secret of the webhook {row.name}"


def _context(endpoint: Endpoint) -> str:
    # The host too: whoever may change the address must not thereby have messages signed for another receiver.
    read = read_url(endpoint.url)
    return f"webhook-endpoint-v1\n{endpoint.pk}\n{read.scheme}://{read.origin}"
