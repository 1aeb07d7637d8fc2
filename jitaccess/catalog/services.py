"""Changes to what is protected: servers, their imported tools, their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from django.db import transaction
from django.db.models import F

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog import options
from jitaccess.catalog.accepting import accept
from jitaccess.catalog.models import AccessClass, Server, ServerHealth, Tool
from jitaccess.catalog.options import ServerOptions
from jitaccess.catalog.pins import acceptable_name, misshapen, pin_of
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import is_slug, visible

MAX_DEFINITION = 512 * 1024  # bytes: a larger one nobody can review, and each process keeps it
_BAD_NAME = "name reserved, repeated or not acceptable"
_TOO_LARGE = f"definition larger than {MAX_DEFINITION} bytes"


def register_server(*, slug: str, operator: Actor, description: str = "", instructions: str = "") -> Server:
    """The server with this slug, made on first sight; an existing one is returned as it is. Raises Invalid."""
    checked_slug(slug)
    with transaction.atomic():
        server, made = Server.objects.get_or_create(
            slug=slug, defaults={"description": description, "instructions": instructions}
        )
        if made:
            record(Facts(event=Event.SERVER_REGISTERED, actor=operator, server=server.pk, server_name=slug))
    return server


def checked_slug(slug: str) -> str:
    """A name that a server may have. Raises Invalid("server.slug")."""
    if not is_slug(slug, limit=32):
        raise Invalid(
            "server.slug",
            f'"{visible(slug, limit=80)}" is no name for a server: use small letters, digits and hyphens, at most 32.',
        )
    return slug


def set_server_enabled(*, server: Server, enabled: bool, operator: Actor) -> None:
    """Disable (nobody may use it from the next call on) or enable a server."""
    with transaction.atomic():
        if Server.objects.filter(pk=server.pk, enabled=not enabled).update(enabled=enabled):
            record(
                Facts(
                    event=Event.CONFIGURATION_CHANGED,
                    actor=operator,
                    server=server.pk,
                    server_name=server.slug,
                    data={"action": "changed", "changes": {"enabled": {"from": not enabled, "to": enabled}}},
                )
            )
    server.enabled = enabled


def set_options(*, server: Server, changes: Mapping[str, object], operator: Actor) -> ServerOptions:
    """Change the options named in `changes`, in force for the next call; returns all of them as they are then.

    Raises Invalid("server.options").
    """
    wanted = options.checked(changes)
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)
        differ: dict[str, strictjson.Json] = {
            name: {"from": getattr(row, name), "to": value}
            for name, value in wanted.items()
            if getattr(row, name) != value
        }
        if differ:
            Server.objects.filter(pk=row.pk).update(**{name: wanted[name] for name in differ})
            record(
                Facts(
                    event=Event.CONFIGURATION_CHANGED,
                    actor=operator,
                    server=row.pk,
                    server_name=row.slug,
                    data={"action": "changed", "changes": differ},
                )
            )
    server.refresh_from_db()
    return server.options


def import_tools(*, server: Server, definitions: Iterable[JsonObject], operator: Actor) -> dict[str, int]:
    """Take over what the server offers now; returns counts of imported, changed, removed and refused tools.

    New tools arrive unreviewed (no pin) and changed ones quarantined: neither can be called. Names that are
    reserved, offered twice or not acceptable, misshapen definitions and those beyond MAX_DEFINITION are refused and
    recorded. On a server that accepts definitions, new and changed tools are pinned at once, except those that a
    reviewer would be warned about. Definitions must be canonicalisable JSON.
    """
    offered = list(definitions)
    names = Counter(str(definition.get("name")) for definition in offered)
    counts = dict.fromkeys(("imported", "changed", "removed", "refused"), 0)
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)  # two imports at once would both make the new tools
        known = {tool.name: tool for tool in Tool.objects.select_for_update().filter(server=server)}
        seen: set[str] = set()
        for definition in offered:
            name = str(definition.get("name"))
            if why := _unacceptable(definition, repeated=names[name] > 1):
                counts["refused"] += 1
                _refuse(server, name, operator, why)
                continue
            seen.add(name)
            _take_over(server, known.get(name), definition, operator, counts)
        for name, tool in known.items():
            if name not in seen and tool.present:
                Tool.objects.filter(pk=tool.pk).update(present=False)
                counts["removed"] += 1
                _note(Event.TOOL_REMOVED, server, name, operator, {})
        if row.accept_definitions:
            accept(row, operator)
    return counts


def _unacceptable(definition: JsonObject, *, repeated: bool) -> str:
    """Why a definition is not taken over, "" when it is."""
    if repeated or not acceptable_name(definition.get("name")):
        return _BAD_NAME
    if wrong := misshapen(definition):
        return f"{wrong} is not what MCP says it is"
    return _TOO_LARGE if len(canonical(definition)) > MAX_DEFINITION else ""


def _refuse(server: Server, name: str, operator: Actor, why: str) -> None:
    """On record once: a server is asked for ever, and offers it each time."""
    data: dict[str, strictjson.Json] = {"refused": why}
    same = Entry.objects.filter(event=Event.TOOL_CHANGED, server=server.pk, data=canonical(data).decode())
    if not same.filter(tool=visible(name, limit=128)).exists():
        _note(Event.TOOL_CHANGED, server, name, operator, data)


def _take_over(
    server: Server, tool: Tool | None, definition: JsonObject, operator: Actor, counts: dict[str, int]
) -> None:
    name, digest = str(definition["name"]), pin_of(definition)
    text = canonical(definition).decode()
    if tool is None:
        Tool.objects.create(server=server, name=name, definition=text, digest=digest)
        counts["imported"] += 1
        _note(Event.TOOL_IMPORTED, server, name, operator, {"digest": digest})
    elif tool.digest != digest or not tool.present:
        Tool.objects.filter(pk=tool.pk).update(definition=text, digest=digest, present=True)
        counts["changed"] += 1
        _note(Event.TOOL_CHANGED, server, name, operator, {"digest": digest, "pin": tool.pin})


def classify_tool(*, tool: Tool, access: AccessClass, operator: Actor, digest: str | None = None) -> None:
    """Review a tool: pin the definition with `digest` (the one that was looked at) and give it a class.

    Raises Conflict when the server changed the definition since it was looked at.
    """
    digest = digest or tool.digest
    with transaction.atomic():
        changed = Tool.objects.filter(pk=tool.pk, digest=digest).update(
            access=access, pin=digest, pinned_definition=F("definition")
        )
        if changed != 1:
            raise Conflict("tool.changed", f"{tool} changed while it was being reviewed. Look at it again.")
        _note(Event.TOOL_CLASSIFIED, tool.server, tool.name, operator, {"access": str(access), "pin": digest})


def _note(event: Event, server: Server, tool: str, operator: Actor, data: dict[str, strictjson.Json]) -> None:
    record(
        Facts(
            event=event,
            actor=operator,
            server=server.pk,
            server_name=server.slug,
            tool=visible(tool, limit=128),
            data=data,
        )
    )


def announced_by(slug: str) -> JsonObject | None:
    """The capabilities that a server announced when it was asked last, tools aside; None when it never was."""
    known = ServerHealth.objects.filter(server__slug=slug).values_list("announces", flat=True).first()
    return known if isinstance(known, dict) else None


def server_by_slug(slug: str) -> Server:
    """Raises NotFound."""
    server = Server.objects.filter(slug=slug).first()
    if server is None:
        raise NotFound("server.unknown", f"There is no server named {slug!r}.")
    return server
