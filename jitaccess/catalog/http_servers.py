"""Servers over HTTP: rows that an admin may add and change, checked before anything connects to them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.redact import looks_secret
from jitaccess.catalog.credentials import origin_of, remove_credential, set_credential
from jitaccess.catalog.models import Era, Server, Transport
from jitaccess.catalog.services import checked_slug
from jitaccess.egress.addresses import Allowance, check_url
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

LONGEST = 500


def add_http_server(
    *,
    slug: str,
    url: str,
    operator: Actor,
    headers: Mapping[str, str] | None = None,
    era: str = Era.AUTO,
    shared: bool = False,
    description: str = "",
    instructions: str = "",
) -> Server:
    """A new server with its credentials, by header. Raises Invalid, Conflict when the name is taken."""
    checked_slug(slug)
    url = checked_url(url)
    with transaction.atomic():
        if Server.objects.filter(slug=slug).exists():
            raise Conflict("server.exists", f'There is a server "{slug}" already.')
        server = Server.objects.create(
            slug=slug,
            transport=Transport.HTTP,
            url=url,
            era=Era(era),
            shared=shared,
            description=description,
            instructions=instructions,
        )
        data: dict[str, Json] = {"transport": "http", "url": url}
        record(Facts(event=Event.SERVER_REGISTERED, actor=operator, server=server.pk, server_name=slug, data=data))
        for header, value in (headers or {}).items():
            set_credential(server=server, header=header, value=value, operator=operator)
    return server


def change_http_server(
    *, server: Server, url: str, operator: Actor, era: str = Era.AUTO, shared: bool = False
) -> list[str]:
    """Reach a server by HTTP, here and so. Returns the headers whose credentials were removed, because they were given
    for another address. Raises Invalid.
    """
    url = checked_url(url)
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)
        wanted = {"transport": Transport.HTTP, "url": url, "era": Era(era), "shared": shared}
        changes: dict[str, Json] = {
            name: {"from": _plain(getattr(row, name)), "to": _plain(value)}
            for name, value in wanted.items()
            if getattr(row, name) != value
        }
        removed = forget_other_origins(server=row, url=url, operator=operator)
        if changes:
            Server.objects.filter(pk=row.pk).update(**wanted)
            _changed(row, changes, operator)
    server.refresh_from_db()
    return removed


def make_stdio(*, server: Server, operator: Actor) -> None:
    """A program from now on, which the operator's file describes: its address and credentials go."""
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)
        if row.transport == Transport.STDIO:
            return
        for header in list(row.credentials.values_list("header", flat=True)):
            remove_credential(server=row, header=header, operator=operator)
        Server.objects.filter(pk=row.pk).update(transport=Transport.STDIO, url="")
        changes: dict[str, Json] = {"transport": {"from": "http", "to": "stdio"}, "url": {"from": row.url, "to": ""}}
        _changed(row, changes, operator)
    server.refresh_from_db()


def forget_other_origins(*, server: Server, url: str, operator: Actor) -> list[str]:
    """Remove the credentials of a server that is about to move to `url`, if that is somebody else's address."""
    headers = list(server.credentials.values_list("header", flat=True))
    if not headers or origin_of(server.url) == origin_of(url):
        return []
    for header in headers:
        remove_credential(server=server, header=header, operator=operator)
    return headers


def checked_url(url: str) -> str:
    """The address of an MCP endpoint that this installation may connect to, in its one spelling.

    Raises Invalid, or EgressRefused with what the operator would have to allow.
    """
    target = check_url(url.strip(), Allowance.parse(settings.EGRESS_ALLOW))
    if len(target.url) > LONGEST:
        raise Invalid("server.url", f"The URL is longer than {LONGEST} characters.")
    for name, _ in parse_qsl(urlsplit(target.url).query, keep_blank_values=True):
        if looks_secret(name) or name.lower() in {"key", "auth", "sig", "signature"}:
            shown = visible(name, limit=40)
            raise Invalid(
                "server.url",
                f'"{shown}" looks like a secret in the URL, which is shown and recorded. Use a credential.',
            )
    return target.url


def _plain(value: object) -> Json:
    return value if isinstance(value, bool) else str(value)


def _changed(server: Server, changes: dict[str, Json], operator: Actor) -> None:
    record(
        Facts(
            event=Event.CONFIGURATION_CHANGED,
            actor=operator,
            server=server.pk,
            server_name=server.slug,
            data={"action": "changed", "changes": changes},
        )
    )
