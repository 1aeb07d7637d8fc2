"""Headers with secrets that the gateway sends to HTTP servers: sealed at rest, opened only to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.models import Server, ServerCredential, Transport
from jitaccess.egress.addresses import read_url
from jitaccess.egress.errors import EgressRefused
from jitaccess.egress.headers import NAME, OURS, VALUE
from jitaccess.kernel.discreet import hide
from jitaccess.kernel.errors import Invalid, NotFound, Unavailable
from jitaccess.kernel.secretbox import KeyRing, key_id
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow
from jitaccess.store.sealing import ring

# Such parts of a value never stand in the log; shorter ones, like "Bearer", are words.
SHORTEST_HIDDEN = 8


def checked_header(name: str) -> str:
    """The header's name in one spelling, as in X-Api-Key. Raises Invalid("credential.header")."""
    shown = visible(name, limit=60)
    if not NAME.fullmatch(name):
        raise Invalid("credential.header", f'"{shown}" is no name of an HTTP header.')
    if OURS.fullmatch(name):
        raise Invalid("credential.header", f'The header "{shown}" is not for credentials: jitaccess sends it itself.')
    return "-".join(part.capitalize() for part in name.split("-"))


def set_credential(*, server: Server, value: str, operator: Actor, header: str = "Authorization") -> ServerCredential:
    """Send `header` with `value` to this HTTP server from now on. Raises Invalid; no error quotes the value."""
    name = checked_header(header)
    if server.transport != Transport.HTTP:
        raise Invalid(
            "credential.stdio",
            f'"{server.slug}" is no HTTP server. What a program needs goes into "env" of the servers file.',
        )
    if not VALUE.fullmatch(value):
        raise Invalid(
            "credential.value", f"The value for {name} must be 1 to 8192 printable ASCII characters, on one line."
        )
    sealed = ring().seal(value.encode(), context=_context(server, name))
    with transaction.atomic():
        credential, _ = ServerCredential.objects.update_or_create(
            server=server, header=name, defaults={"sealed": sealed, "updated_at": JitNow()}
        )
        _note(Event.CREDENTIAL_SET, server, name, operator, key=key_id(sealed))
    return credential


def remove_credential(*, server: Server, operator: Actor, header: str = "Authorization") -> None:
    """Send it no longer. Raises NotFound."""
    name = checked_header(header)
    with transaction.atomic():
        if not ServerCredential.objects.filter(server=server, header=name).delete()[0]:
            raise NotFound("credential.unknown", f'"{server.slug}" has no credential {name}.')
        _note(Event.CREDENTIAL_REMOVED, server, name, operator)


def credentials_of(server: Server) -> dict[str, str]:
    """The headers of a server with their secrets: to be sent, never to be shown. Raises Unavailable when one cannot
    be opened; half of them are none.
    """
    found = {row.header: open_credential(server, row) for row in server.credentials.all()}
    hide(*(part for value in found.values() for part in value.split() if len(part) >= SHORTEST_HIDDEN))
    return found


def open_credential(server: Server, row: ServerCredential) -> str:
    """One secret. Raises Unavailable("credential.unreadable") with what to do."""
    keys = ring()
    try:
        return keys.open(row.sealed, context=_context(server, row.header)).decode()
    except (Invalid, EgressRefused):  # an address that cannot be read is another address, too
        key = visible(row.key, limit=32)
        why = (
            "it was moved here, was set for another address, or is damaged. Set it again"
            if row.key in keys.ids
            else f"it is sealed with the key {key}, which is not in the key ring. Put that key back, or set it again"
        )
    raise Unavailable(
        "credential.unreadable", f'The credential {row.header} of "{server.slug}" cannot be opened: {why}.'
    )


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: how many it sealed anew, how many were under `key` already, and which it could not open."""

    key: str
    resealed: int
    current: int
    unreadable: tuple[str, ...]


def rotate_credentials(keys: KeyRing, *, operator: Actor) -> Rotation:
    """Seal everything that is under an older key with the newest one. Nothing is unreadable at any moment, to whoever
    has all the keys; what cannot be opened stays as it is. Safe to run again.
    """
    newest = keys.ids[0]
    resealed, current, unreadable = 0, 0, []
    with transaction.atomic():
        for row in ServerCredential.objects.select_for_update(of=("self",)).select_related("server"):
            if row.key == newest:
                current += 1
                continue
            try:
                context = _context(row.server, row.header)
                value = keys.open(row.sealed, context=context)
            except (Invalid, EgressRefused):
                unreadable.append(str(row))
                continue
            ServerCredential.objects.filter(pk=row.pk).update(sealed=keys.seal(value, context=context))
            resealed += 1
        if resealed:
            data: dict[str, Json] = {"key": newest, "resealed": resealed, "unreadable": len(unreadable)}
            record(Facts(event=Event.CREDENTIALS_RESEALED, actor=operator, data=data))
    return Rotation(newest, resealed, current, tuple(unreadable))


def sealed_with(key: str) -> list[str]:
    """What is sealed with this key, as people call it."""
    rows = ServerCredential.objects.select_related("server")
    return [str(row) for row in rows if row.key == key]


def origin_of(url: str) -> str:
    """Scheme, host and port: whom a credential is sent to. Raises EgressRefused when it is no URL."""
    target = read_url(url)
    return f"{target.scheme}://{target.origin}"


def _context(server: Server, header: str) -> str:
    # The address too: whoever may change it, here or in the database, must not thereby get the secret sent to them.
    return f"server-credential-v1\n{server.pk}\n{header}\n{origin_of(server.url)}"


def _note(event: Event, server: Server, header: str, operator: Actor, **more: str) -> None:
    data = {"header": header, **more}
    record(Facts(event=event, actor=operator, server=server.pk, server_name=server.slug, data=data))
