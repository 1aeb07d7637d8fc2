"""What an import will do to the operator's file and the rows, and doing it: all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import transaction

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.credentials import credentials_of
from jitaccess.catalog.http_servers import make_stdio
from jitaccess.catalog.models import Server, Transport
from jitaccess.kernel.errors import JitAccessError
from jitaccess.runtime import servers_file
from jitaccess.runtime.imports import Found
from jitaccess.runtime.server_commands import put_http_server


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one entry. `kept`: nothing has to be done. `problem`: nothing can be."""

    found: Found
    what: str = ""
    kept: bool = False
    problem: str = ""


def plan(found: Iterable[Found], *, replace: bool) -> list[Step]:
    """Look what is there already. Raises Invalid when the operator's file cannot be read."""
    there = servers_file.entries()
    rows = {row.slug: row for row in Server.objects.prefetch_related("credentials")}
    return [_step(one, there.get(one.slug), rows.get(one.slug), replace=replace) for one in found]


def _step(one: Found, entry: object, row: Server | None, *, replace: bool) -> Step:
    if one.problem:
        return Step(one, problem=one.problem)
    over_http = row is not None and row.transport == Transport.HTTP
    if one.stdio is not None and entry == one.stdio and not over_http:
        return Step(one, "there already", kept=True)
    if one.stdio is None and entry is None and row is not None and over_http and _same(one, row):
        return Step(one, "there already", kept=True)
    known = entry is not None or over_http
    if known and not replace:
        return Step(
            one, problem="a server of this name is described here differently; --replace puts this in its place"
        )
    where = "into the servers file" if one.stdio is not None else f"with {_count(one)} sealed"
    disabled = ", and stays disabled" if row is not None and not row.enabled else ""
    return Step(one, f"{'replaced' if known else 'added'} {where}{disabled}")


def _same(one: Found, row: Server) -> bool:
    try:
        headers = credentials_of(row)
    except JitAccessError:
        return False
    return (row.url, row.era, row.shared, headers) == (one.url, one.era, one.shared, dict(one.headers))


def _count(one: Found) -> str:
    return f"{len(one.headers)} header{'s' * (len(one.headers) != 1)}"


def carry_out(steps: Iterable[Step], *, who: Actor) -> None:
    """Do what was planned. File and rows change together: when one of them fails, neither has changed."""
    doing = [step.found for step in steps if not step.problem and not step.kept]

    def change(entries: servers_file.Entries) -> None:
        for one in doing:
            if one.stdio is not None:
                entries[one.slug] = dict(one.stdio)
            else:
                entries.pop(one.slug, None)

    def in_database() -> None:
        with transaction.atomic():
            for one in doing:
                if one.stdio is None:
                    put_http_server(one.slug, one.url, dict(one.headers), era=one.era, shared=one.shared, who=who)
                elif row := Server.objects.filter(slug=one.slug).first():
                    make_stdio(server=row, operator=who)

    if doing:
        servers_file.change_file(change, commit=in_database)
