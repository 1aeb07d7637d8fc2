"""What a request asks for, item by item, from stored data; and why it cannot be approved where it is read, if so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jitaccess.catalog.models import Tool
from jitaccess.kernel.once import once
from jitaccess.kernel.text import visible
from jitaccess.kernel.yamldoc import MAX_DOCUMENT
from jitaccess.policy.models import RoleVersion
from requests_app.card.shown import LONGEST, Shown, shown
from requests_app.lifecycle import RequestKind, RequestStatus
from requests_app.selectors import AccessRequest, labels_of

SHORT_DESCRIPTION = 300
LONG_DESCRIPTION = 4000
# A whole document, were all of it escapes.
LONGEST_ROLE = MAX_DOCUMENT * len(r"\u{10ffff}")

History = Mapping[UUID, Counter[str]]


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing asked for: a tool, an object of a database, a role. `label` is its name in terms; `rest` is the whole
    description when it is longer than shown, `key` the id of the tool or role.
    """

    label: str
    name: str
    access: str = ""
    description: str = ""
    rest: str = ""
    history: str = ""
    obstacle: str = ""
    key: UUID | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One item. `kind` is tools, call, role or database; `where` the server, role or database; `arguments` those of an
    exact call or the schema of them; `version` and `document` (its rules, inert and whole) are a role's.
    """

    kind: str
    where: str
    things: tuple[Thing, ...]
    arguments: Shown | None = None
    privileges: str = ""
    version: int = 0
    document: str = ""

    @property
    def free(self) -> bool:
        """Whether it is tools that take any arguments, whose uses are counted together."""
        return self.kind == "tools" and self.arguments is None


def blocks_of(request: AccessRequest, history: History) -> list[Block]:
    """Every item with all that is known of it; two queries."""
    items = request.parsed_items
    tools = _tools(frozenset(UUID(tool["id"]) for tool in request.tools))
    roles = {UUID(item["role_id"]): item["version"] for item in items if item["kind"] == "role"}
    versions = RoleVersion.objects.filter(role__in=roles).select_related("role") if roles else ()
    documents = {row.role_id: row for row in versions if roles[row.role_id] == row.version}
    return [_block(request, item, tools, documents, history) for item in items]


@once  # those who are decided together ask for the same
def _tools(ids: frozenset[UUID]) -> dict[UUID, Tool]:
    return {tool.pk: tool for tool in Tool.objects.filter(pk__in=ids).select_related("server")}


def not_shown(request: AccessRequest, *, longest: int = LONGEST) -> str:
    """Why a person cannot have read all of what is asked for where a text has `longest` characters, as a sentence; ""
    when they can. Role documents are counted where less than a page fits.
    """
    for item in request.parsed_items:
        if item["kind"] not in {"tools", "call", "role", "database"}:
            return "This asks for something that cannot be shown here."
        told = _arguments(item)
        if told and not (told.whole and len(told.text) <= longest):
            return "The arguments are too long, or nested too deeply, to be read here whole."
    context = shown(json.loads(request.context))
    if not (context.whole and len(context.text) <= longest):
        return "What the agent sent along is too long, or nested too deeply, to be read here whole."
    return ""


def too_long(blocks: Iterable[Block], *, longest: int) -> str:
    """Why the rules of a role cannot be read where a text has `longest` characters; "" when they can."""
    if any(len(block.document) > longest for block in blocks):
        return "The rules of a role are too long to be read here whole."
    return ""


def chips_of(request: AccessRequest) -> list[dict[str, str]]:
    """What is asked for, for a list: a name and a class each."""
    return [chip for item in request.parsed_items for chip in _chips(item)]


def _chips(item: dict[str, Any]) -> Iterator[dict[str, str]]:
    if item["kind"] == "role":
        yield {"server": "", "name": f"role {item['role']}", "access": ""}
    elif item["kind"] == "database":
        for name in item["objects"]:
            yield {"server": item["database"], "name": name, "access": ", ".join(item["privileges"])}
    else:
        more = "one exact call" if item["kind"] == "call" else ""
        for tool in item["tools"]:
            yield {"server": item["server"], "name": tool["name"], "access": tool["access"], "more": more}


def _block(
    request: AccessRequest,
    item: dict[str, Any],
    tools: Mapping[UUID, Tool],
    documents: Mapping[UUID, RoleVersion],
    history: History,
) -> Block:
    labels = labels_of(item)
    if item["kind"] == "role":
        return _role(request, item, documents.get(UUID(item["role_id"])), labels[0], history)
    if item["kind"] == "database":
        things = tuple(
            Thing(label, visible(name, limit=300)) for label, name in zip(labels, item["objects"], strict=True)
        )
        privileges = visible(", ".join(item["privileges"]), limit=1000)
        return Block("database", visible(item["database"], limit=100), things, privileges=privileges)
    lines = tuple(_tool(label, tool, tools, history) for label, tool in zip(labels, item["tools"], strict=True))
    return Block(item["kind"], item["server"], lines, arguments=_arguments(item))


def _arguments(item: dict[str, Any]) -> Shown | None:
    arguments = item.get("arguments")
    if arguments is None:
        return None
    return shown(arguments["value"] if arguments["mode"] == "exact" else arguments.get("schema"))


def _role(request: AccessRequest, item: dict[str, Any], row: RoleVersion | None, label: str, history: History) -> Block:
    obstacle, document, key = "", "", UUID(item["role_id"])
    if row is None:
        obstacle = "This role is gone."
    else:
        document = visible(row.document, limit=LONGEST_ROLE, multiline=True)
        if request.pending and row.role.head != row.version and request.kind != RequestKind.EXTENSION:
            obstacle = f"This role is at version {row.role.head} now; approving what was asked for will be refused."
    return Block(
        "role",
        item["role"],
        (Thing(label, item["role"], history=counted(history[key]) or "first time", obstacle=obstacle, key=key),),
        version=item["version"],
        document=document,
    )


def _tool(label: str, asked: dict[str, str], known: Mapping[UUID, Tool], history: History) -> Thing:
    tool = known.get(UUID(asked["id"]))
    text, obstacle = "", ""
    if tool is None or not tool.present:
        obstacle = "The server no longer offers this tool."
    elif tool.digest != asked["pin"] or tool.quarantined:
        obstacle = "The server changed this tool after it was asked for; approving it will be refused."
    elif tool.access != asked["access"]:
        obstacle = f"This tool is classified {tool.access} now; approving what was asked for will be refused."
    elif not tool.server.enabled:
        obstacle = "The server is disabled; approving will be refused."
    if tool is not None and tool.digest == asked["pin"]:
        text = str(tool.parsed.get("description") or "")
    return Thing(
        label,
        asked["name"],
        access=asked["access"],
        description=visible(text, limit=SHORT_DESCRIPTION, multiline=True),
        rest=visible(text, limit=LONG_DESCRIPTION, multiline=True) if len(text) > SHORT_DESCRIPTION else "",
        history=counted(history[UUID(asked["id"])]) or "first time",
        obstacle=obstacle,
        key=UUID(asked["id"]),
    )


def unusual(history: History) -> str:
    """One sentence over all tools and roles; "" when none is asked for."""
    new = sum(1 for ended in history.values() if not sum(ended.values()))
    if not history:
        return ""
    if new == len(history):
        return (
            "This agent has never asked for this before."
            if new == 1
            else "This agent has never asked for any of this before."
        )
    if len(history) == 1:
        return f"This has been {counted(next(iter(history.values())))}."
    if new:
        return f"{new} of {len(history)} for the first time; the others have been asked for before."
    return "This agent has asked for all of this before."


def counted(ended: Counter[str]) -> str:
    """Such as "asked for 4 times before: 3 approved, 1 denied", or "" for never."""
    total = sum(ended.values())
    if not total:
        return ""
    parts = ", ".join(f"{count} {status}" for status in RequestStatus if (count := ended[status]))
    return f"asked for {'once' if total == 1 else f'{total} times'} before: {parts}"
