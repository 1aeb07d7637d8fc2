"""Changing a server and what hangs on it: its address, who may use it, its tools, what may be asked for."""

from __future__ import annotations

import json
from typing import Any

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.http_servers import add_http_server, change_http_server
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import classify_tool, register_server, set_options, set_server_enabled
from jitaccess.identity.models import Team
from jitaccess.policy.models import ApprovalPolicy, Requestable, ServerAccess
from jitaccess.runtime.access_files.kinds import EVERY_TEAM
from jitaccess.runtime.access_files.noting import note
from jitaccess.runtime.access_files.plan import Action, Change
from jitaccess.runtime.access_files.shapes import minutes_of
from jitaccess.runtime.access_files.state import requestable

_PLAIN = ("description", "instructions", "owner_team", "labels")


def apply(change: Change, operator: Actor) -> None:
    """Create, change, disable or remove the server of `change`, with its entries in the ledger."""
    if change.action is Action.CREATE:
        server = _create(change, operator)
    else:
        server = Server.objects.get(slug=change.key.name)
        if change.action is Action.REMOVE:
            note(change, server, operator)
            server.delete()
            return
        _reach(server, change, operator)
    set_options(server=server, changes=change.after["options"], operator=operator)
    _change(server, change, operator)
    _tools(server, change, operator)
    if server.enabled != change.after["enabled"]:
        set_server_enabled(server=server, enabled=change.after["enabled"], operator=operator)


def _create(change: Change, operator: Actor) -> Server:
    after = change.after
    said = {"slug": change.key.name, "description": after["description"], "instructions": after["instructions"]}
    if "url" not in after:
        return register_server(**said, operator=operator)
    return add_http_server(**said, url=after["url"], era=after["era"], shared=after["shared"], operator=operator)


def _reach(server: Server, change: Change, operator: Actor) -> None:
    how = {key: change.after[key] for key in ("url", "era", "shared") if key in change.after}
    if how != {key: change.before[key] for key in how}:
        change_http_server(server=server, **how, operator=operator)


def _change(server: Server, change: Change, operator: Actor) -> None:
    """The columns of its row, who may use it and what may be asked for: what no service has an event for."""
    before, after = change.before, change.after
    new = not before
    changed = [key for key in (*_PLAIN, "access", "requestables") if after[key] != before.get(key, "")]
    if new:  # registering said these, and nothing is nothing
        changed = [key for key in changed if key not in {"description", "instructions"} and after[key]]
    if not changed:
        return
    note(change, server, operator, action="changed", only=tuple(changed))
    values: dict[str, Any] = {key: after[key] for key in _PLAIN if key in changed}
    if "owner_team" in values:
        values["owner_team"] = Team.objects.get(name=after["owner_team"]) if after["owner_team"] else None
    if "labels" in values:
        values["labels"] = json.dumps(after["labels"])
    if values:
        Server.objects.filter(pk=server.pk).update(**values)
    if "access" in changed:
        _open(server, after["access"])
    if "requestables" in changed:
        _ask(server, after["requestables"])


def _open(server: Server, access: str | list[str]) -> None:
    door, _ = ServerAccess.objects.update_or_create(server=server, defaults={"every_team": access == EVERY_TEAM})
    door.teams.set(Team.objects.filter(name__in=[] if isinstance(access, str) else access))


def _ask(server: Server, wanted: list[dict[str, Any]]) -> None:
    missing = list(wanted)
    for row in Requestable.objects.filter(server=server).select_related("team", "policy"):
        if (one := requestable(row)) in missing:
            missing.remove(one)
        else:
            row.delete()
    for one in missing:
        Requestable.objects.create(
            server=server,
            tools=", ".join(one["tools"]),
            access=", ".join(one["access"]),
            team=Team.objects.get(name=one["team"]) if one["team"] else None,
            arguments=one["arguments"],
            max_minutes=minutes_of(one["max_duration"]),
            max_total_minutes=minutes_of(one["max_total"]) if one["max_total"] else None,
            max_advance_minutes=minutes_of(one["max_advance"]),
            max_uses=one["max_uses"] or None,
            policy=ApprovalPolicy.objects.get(name=one["approval"]),
        )


def _tools(server: Server, change: Change, operator: Actor) -> None:
    before = change.before.get("tools", {})
    told = {name: tool for name, tool in change.after["tools"].items() if tool != before.get(name)}
    labelled = [f"tools.{name}" for name, tool in told.items() if tool["labels"] != before[name]["labels"]]
    if labelled:
        note(change, server, operator, action="changed", only=("tools",))
    for name, tool in told.items():
        row = Tool.objects.select_related("server").get(server=server, name=name)
        if tool["labels"] != before[name]["labels"]:
            Tool.objects.filter(pk=row.pk).update(labels=json.dumps(tool["labels"]))
        if (tool["access"], tool["pin"]) != (before[name]["access"], before[name]["pin"]):
            # By its digest: should the server change it at this very moment, this is refused.
            classify_tool(tool=row, access=AccessClass(tool["access"]), digest=tool["pin"], operator=operator)
