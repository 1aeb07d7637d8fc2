"""`jitaccess servers doctor`: is a server described, reachable, reviewed and usable, and if not, what to do."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings

from jitaccess.catalog.credentials import open_credential
from jitaccess.catalog.flags import Neighbours, flags_of
from jitaccess.catalog.http_servers import checked_url
from jitaccess.catalog.models import Server, Tool
from jitaccess.gateway.seeing.catalogue import Offer, ask
from jitaccess.gateway.upstream.config import HttpServer, ServerConfig
from jitaccess.gateway.upstream.directory import Directory
from jitaccess.kernel.errors import JitAccessError, NotFound, Unavailable
from jitaccess.kernel.text import visible
from jitaccess.policy.models import Requestable, ServerAccess
from jitaccess.runtime.screen import Screen
from jitaccess.store.sealing import ring


class Mark(StrEnum):
    GOOD = "ok     "
    NOTE = "note   "
    TROUBLE = "TROUBLE"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line, and what to do about it. Nothing in it can act on a terminal."""

    mark: Mark
    text: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"\n            → {visible(self.advice, limit=500)}" if self.advice else ""
        return f"  {self.mark} {visible(self.text, limit=700)}{advice}"


def run(arguments: argparse.Namespace) -> int:
    """1 when there is trouble."""
    return told(servers(arguments.name), as_json=arguments.json, screen=Screen())


def servers(name: str | None = None) -> Iterator[tuple[str, Iterator[Finding]]]:
    """What there is to say of each server, or of one. Raises NotFound."""
    book = Directory(settings.SERVERS_FILE).follow()
    rows = {row.slug: row for row in Server.objects.select_related("health").prefetch_related("credentials")}
    names = sorted(rows.keys() | book.listing.configs.keys())
    if file_trouble := book.listing.troubles.get(""):
        yield "servers file", iter([Finding(Mark.TROUBLE, file_trouble, f"Put {settings.SERVERS_FILE} right.")])
    if name:
        if name not in names:
            raise NotFound("server.unknown", f"There is no server {visible(name, limit=60)}.")
        names = [name]
    neighbours = Neighbours.read()
    for one in names:
        yield one, examine(one, book, rows.get(one), neighbours)
    if not names:
        advice = "jitaccess servers add, or jitaccess servers import."
        yield "servers", iter([Finding(Mark.NOTE, "none yet", advice)])


def told(parts: Iterable[tuple[str, Iterator[Finding]]], *, as_json: bool, screen: Screen) -> int:
    """Say all of it, part by part; 1 when there is trouble."""
    troubled, document = False, []
    for name, findings in parts:
        if not as_json:
            screen.line(visible(name, limit=60))
        kept = []
        for finding in findings:
            troubled = troubled or finding.mark == Mark.TROUBLE
            kept.append({"mark": finding.mark.strip().lower(), "text": finding.text, "advice": finding.advice})
            if not as_json:
                screen.line(str(finding))
        document.append({"name": name, "findings": kept})
    if as_json:
        screen.json({"troubled": troubled, "parts": document})
    return int(troubled)


def examine(name: str, book: Directory, row: Server | None, neighbours: Neighbours) -> Iterator[Finding]:
    """Everything about one server."""
    if row is not None and not row.enabled:
        yield Finding(
            Mark.NOTE, "disabled: nobody can use it", f"If that is not meant: jitaccess servers enable {name}"
        )
        return
    yield from _described(name, book, row)
    if row is not None:
        yield from _credentials(row)
    config = book(name)
    if config is not None:
        yield from _reached(config, row)
    if row is None:
        yield Finding(Mark.TROUBLE, "not in the catalogue yet", f"jitaccess servers refresh {name}")
        return
    yield from _tools(row, neighbours)
    yield from _access(row)


def _described(name: str, book: Directory, row: Server | None) -> Iterator[Finding]:
    trouble = book.listing.troubles.get(name)
    if book.in_file(name):
        yield Finding(Mark.GOOD, f"described in {settings.SERVERS_FILE}")
        if trouble:
            yield Finding(
                Mark.TROUBLE, trouble, f"Take it out of the file, or disable and delete the server {name} in the admin."
            )
    elif row is None or not row.url:
        yield Finding(
            Mark.TROUBLE,
            "described nowhere, so it cannot be reached",
            f"jitaccess servers add {name} -- COMMAND, or --url URL; or jitaccess servers disable {name}",
        )
    else:
        yield Finding(Mark.GOOD, f"described in the database: {row.url}")
        try:
            checked_url(row.url)
        except JitAccessError as error:
            yield Finding(Mark.TROUBLE, f"the address may not be used: {error.detail}", _egress_advice(error))
        else:
            yield Finding(Mark.GOOD, "the address is allowed")


def _egress_advice(error: JitAccessError) -> str:
    entry = error.params.get("entry")
    if not entry:
        return "Give another URL."
    return f"If that is meant, start jitaccess with {error.params.get('setting')} holding {entry}."


def _credentials(row: Server) -> Iterator[Finding]:
    newest = ring().ids[0]
    for credential in row.credentials.all():
        try:
            open_credential(row, credential)
        except Unavailable as error:
            yield Finding(
                Mark.TROUBLE,
                error.detail,
                f"In the admin, or: jitaccess servers remove {row.slug}, then add it again with --header-from",
            )
            continue
        text = f"credential {credential.header}: opens, sealed with key {credential.key}"
        if credential.key == newest:
            yield Finding(Mark.GOOD, text)
        else:
            yield Finding(Mark.NOTE, f"{text}, which is not the newest", "jitaccess keys rotate")


def _reached(config: ServerConfig, row: Server | None) -> Iterator[Finding]:
    try:
        offer: Offer = asyncio.run(ask(config))
    except Unavailable as error:
        advice = (
            "Is the server up, is the URL right, and the credential still good?"
            if isinstance(config, HttpServer)
            else "Run its command by hand, as the user that jitaccess runs as: does it start?"
        )
        yield Finding(
            Mark.TROUBLE,
            f"not reachable: {error.detail}",
            _egress_advice(error) if error.params.get("entry") else advice,
        )
        return
    health = getattr(row, "health", None)
    if health is not None and not health.ok:
        text = f"a gateway could not use it at {health.checked_at:%Y-%m-%d %H:%M} UTC: {health.detail}"
        yield Finding(Mark.NOTE, text, "It is tried again by itself; see jitaccess_upstream_open in /metrics.")
    called = f"{offer.name} {offer.version}".strip() or "without a name"
    yield Finding(Mark.GOOD, f"reachable: speaks {offer.era}, calls itself {called}, offers {len(offer.tools)} tools")
    if row is not None and {str(tool.get("name")) for tool in offer.tools} != set(
        row.tools.filter(present=True).values_list("name", flat=True)
    ):
        yield Finding(
            Mark.NOTE, "what it offers differs from the catalogue", f"jitaccess servers refresh {config.slug}"
        )


def _tools(row: Server, neighbours: Neighbours) -> Iterator[Finding]:
    tools = list(row.tools.select_related("server"))
    here = [tool for tool in tools if tool.present]
    look = f"jitaccess servers classify {row.slug}"
    changed = [tool for tool in here if tool.pin and tool.quarantined]
    new = [tool for tool in here if not tool.pin]
    gone = len(tools) - len(here)
    text = f"tools: {len(here) - len(changed) - len(new)} reviewed"
    if not here:
        yield Finding(Mark.TROUBLE, "tools: none", f"jitaccess servers refresh {row.slug}")
    else:
        yield Finding(Mark.GOOD, f"{text}, {gone} no longer offered" if gone else text)
    if changed:
        yield Finding(
            Mark.TROUBLE, f"changed since their review, so nobody can call them: {_names(changed)}", f"Look: {look}"
        )
    if new:
        yield Finding(Mark.NOTE, f"not reviewed yet, so nobody can call them: {_names(new)}", f"Look: {look}")
    for tool in here:
        for flag in flags_of(tool, neighbours):
            advice = f"Look closely: {look}" if tool.quarantined else ""
            yield Finding(Mark.NOTE, f"warning about {tool.name}: {flag.text}", advice)


def _access(row: Server) -> Iterator[Finding]:
    door = ServerAccess.objects.filter(server=row).first()
    teams = [] if door is None else sorted(door.teams.values_list("name", flat=True))
    if door is not None and door.every_team:
        yield Finding(Mark.GOOD, "every team may use it")
    elif teams:
        yield Finding(Mark.GOOD, f"may be used by the teams {', '.join(teams[:10])}")
    else:
        yield Finding(
            Mark.TROUBLE, "no team may use it", f"Say who may: {settings.PUBLIC_URL}/admin/jit_policy/serveraccess/"
        )
    count = Requestable.objects.filter(server=row).count()
    if count:
        yield Finding(Mark.GOOD, f"what may be asked for: {count} rule{'s' * (count != 1)}")
    else:
        yield Finding(
            Mark.NOTE,
            "nothing may be asked for: what agents are not allowed is hidden from them",
            f"If they shall be able to ask: {settings.PUBLIC_URL}/admin/jit_policy/requestable/",
        )


def _names(tools: list[Tool]) -> str:
    shown = ", ".join(tool.name for tool in tools[:5])
    return f"{shown} and {len(tools) - 5} more" if len(tools) > 5 else shown
