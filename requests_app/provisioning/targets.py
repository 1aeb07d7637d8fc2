"""Targets as provisioners: their secrets, sealed at rest, and what is made of a row."""

from __future__ import annotations

from collections import Counter

from django.conf import settings
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.credentials import Rotation
from jitaccess.egress.addresses import Allowance, check_url, read_url
from jitaccess.egress.errors import EgressRefused
from jitaccess.egress.headers import VALUE
from jitaccess.egress.webhooks import signing_key
from jitaccess.kernel.discreet import hide
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.secretbox import KeyRing, key_id
from jitaccess.kernel.strictjson import Json
from jitaccess.store.sealing import ring

from .protocol import Provisioner, TargetFacts
from .registry import make_provisioner
from .rows import Target


def provisioner_of(target: Target) -> Provisioner:
    """What works this target. Raises NotFound for a kind that nobody brings, Unavailable for secrets that stay shut."""
    facts = TargetFacts(id=target.pk, slug=target.slug, url=target.url, secrets=secrets_of(target))
    return make_provisioner(target.kind, facts)


def checked_url(url: str) -> str:
    """The canonical spelling of an address that may be reached. Raises EgressRefused."""
    return check_url(url.strip(), Allowance.parse(settings.EGRESS_ALLOW)).url


def set_secret(*, target: Target, secret: str, operator: Actor) -> None:
    """Sign with `secret` from now on, and with the one before it too until `drop_old_secret`. Raises Invalid."""
    if target.kind == "webhook":
        signing_key(secret)
    elif not VALUE.fullmatch(secret):
        raise Invalid("provisioning.secret", "A secret is 1 to 8192 printable ASCII characters, on one line.")
    sealed = ring().seal(secret.encode(), context=_context(target))
    with transaction.atomic():
        row = Target.objects.select_for_update().get(pk=target.pk)
        Target.objects.filter(pk=row.pk).update(sealed=sealed, sealed_before=row.sealed)
        data: dict[str, Json] = {"target": row.slug, "key": key_id(sealed), "older_kept": bool(row.sealed)}
        record(Facts(event=Event.CREDENTIAL_SET, actor=operator, data=data))
    target.refresh_from_db(fields=["sealed", "sealed_before"])


def drop_old_secret(*, target: Target, operator: Actor) -> bool:
    """Sign with the newest secret alone; returns whether there was another."""
    with transaction.atomic():
        if not Target.objects.filter(pk=target.pk).exclude(sealed_before="").update(sealed_before=""):
            return False
        data: dict[str, Json] = {"target": target.slug, "older": True}
        record(Facts(event=Event.CREDENTIAL_REMOVED, actor=operator, data=data))
    return True


def forget_secrets(*, target: Target, operator: Actor) -> None:
    """Of a target that moves to another address: they were given for the old one."""
    with transaction.atomic():
        if Target.objects.filter(pk=target.pk).exclude(sealed="").update(sealed="", sealed_before=""):
            record(Facts(event=Event.CREDENTIAL_REMOVED, actor=operator, data={"target": target.slug}))


def secrets_of(target: Target) -> tuple[str, ...]:
    """Newest first: to be used, never to be shown. Raises Unavailable("provisioning.secret_unreadable")."""
    keys = ring()
    try:
        found = tuple(
            keys.open(sealed, context=_context(target)).decode()
            for sealed in (target.sealed, target.sealed_before)
            if sealed
        )
    except (Invalid, EgressRefused):
        detail = (
            f'The secret of the target "{target.slug}" cannot be opened: it was set for another address, is damaged, '
            "or its key is not in the key ring. Put that key back, or set the secret again."
        )
        raise Unavailable("provisioning.secret_unreadable", detail) from None
    hide(*found)
    return found


def reseal_targets(keys: KeyRing, *, operator: Actor) -> Rotation:
    """Seal with the newest key what is under an older one, as `rotate_credentials` does for servers. Counts targets."""
    resealed, current, unreadable = 0, 0, []
    with transaction.atomic():
        for row in Target.objects.select_for_update().exclude(sealed=""):
            both = (row.sealed, row.sealed_before)
            if all(key_id(sealed) == keys.ids[0] for sealed in both if sealed):
                current += 1
                continue
            try:
                context = _context(row)
                opened = [keys.open(sealed, context=context) if sealed else b"" for sealed in both]
            except (Invalid, EgressRefused):
                unreadable.append(f"secret of the target {row.slug}")
                continue
            newest, before = (keys.seal(text, context=context) if text else "" for text in opened)
            Target.objects.filter(pk=row.pk).update(sealed=newest, sealed_before=before)
            resealed += 1
        if resealed:
            data: dict[str, Json] = {"key": keys.ids[0], "targets": resealed, "unreadable": len(unreadable)}
            record(Facts(event=Event.CREDENTIALS_RESEALED, actor=operator, data=data))
    return Rotation(keys.ids[0], resealed, current, tuple(unreadable))


def sealed_with(key: str) -> list[str]:
    """Secrets that need this key, as people call them."""
    return [f"secret of the target {slug}" for slug, used in _sealed() if used == key]


def keys_in_use() -> Counter[str]:
    """How many secrets are sealed with each key."""
    return Counter(used for _, used in _sealed())


def _sealed() -> list[tuple[str, str]]:
    return [
        (row.slug, key_id(sealed))
        for row in Target.objects.exclude(sealed="")
        for sealed in (row.sealed, row.sealed_before)
        if sealed
    ]


def origin_of(target: Target) -> str:
    """Whom its secrets are for. Raises EgressRefused when the address is none."""
    if not target.url:
        return target.kind
    read = read_url(target.url)
    return f"{target.kind} {read.scheme}://{read.origin}"


def _context(target: Target) -> str:
    # The address too: whoever may change it must not thereby have messages signed for another receiver.
    return f"provisioning-target-v1\n{target.pk}\n{origin_of(target)}"
