"""What a model reads about the access tools, and the arguments they take, checked exactly."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from jitaccess.kernel.strictjson import JsonObject


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all argument sets: an unknown member is refused by name, never ignored."""


class AskedCall(Arguments, frozen=True):
    tool: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


class AskedPrivileges(Arguments, frozen=True):
    database: str
    objects: Annotated[list[str], msgspec.Meta(min_length=1, max_length=50)]
    privileges: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)]


class RequestAccess(Arguments, frozen=True):
    reason: str
    tools: Annotated[list[str], msgspec.Meta(max_length=50)] = []
    calls: Annotated[list[AskedCall], msgspec.Meta(max_length=10)] = []
    roles: Annotated[list[str], msgspec.Meta(max_length=10)] = []
    privileges: Annotated[list[AskedPrivileges], msgspec.Meta(max_length=10)] = []
    arguments_schema: dict[str, Any] | None = None
    minutes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    start: datetime | None = None
    not_after: datetime | None = None
    ticket: str = ""
    supersedes: str | None = None
    extends: str | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    dry_run: bool = False


class CheckRequest(Arguments, frozen=True):
    request_id: str
    wait_seconds: Annotated[int, msgspec.Meta(ge=0, le=25)] = 25


class ListRequestable(Arguments, frozen=True):
    search: str = ""


class MyAccess(Arguments, frozen=True):
    pass


class ReleaseAccess(Arguments, frozen=True):
    grant_id: str


class CancelRequest(Arguments, frozen=True):
    request_id: str


class CallTool(Arguments, frozen=True):
    name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


def _tool(name: str, description: str, properties: JsonObject, required: list[str], *, read_only: bool) -> JsonObject:
    return {
        "name": name,
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": read_only, "destructiveHint": False, "openWorldHint": False},
    }


_TEXT: JsonObject = {"type": "string"}

DEFINITIONS: tuple[JsonObject, ...] = (
    _tool(
        "call_tool",
        "Call any tool of this endpoint by name. For clients whose tool list does not refresh after an approval; "
        "the same rules apply as for a direct call.",
        {"name": _TEXT, "arguments": {"type": "object"}},
        ["name"],
        read_only=False,
    ),
    _tool(
        "cancel_request",
        "Withdraw a pending access request that you filed and no longer need.",
        {"request_id": _TEXT},
        ["request_id"],
        read_only=False,
    ),
    _tool(
        "check_request",
        "The state of an access request. While it is pending this waits up to wait_seconds (default 25) for a person "
        "to decide; `pending` afterwards means nobody has decided yet, not that it was denied: call it again.",
        {"request_id": _TEXT, "wait_seconds": {"type": "integer", "minimum": 0, "maximum": 25}},
        ["request_id"],
        read_only=True,
    ),
    _tool(
        "list_requestable",
        "Tools you cannot call now but may ask for, with the longest time you may have them and who decides.",
        {"search": {"type": "string", "description": "Part of a name or description"}},
        [],
        read_only=True,
    ),
    _tool(
        "my_access",
        "What you may call now, your live grants with the time left, and your pending requests.",
        {},
        [],
        read_only=True,
    ),
    _tool(
        "release_access",
        "Give a grant back before it expires, as soon as you no longer need it.",
        {"grant_id": _TEXT},
        ["grant_id"],
        read_only=False,
    ),
    _tool(
        "request_access",
        "Ask people for access you lack, for a limited time: to locked tools, to one exact call (`calls`: approved "
        "sooner, because people see the very arguments, and good for that call once), or to a role. Returns at once "
        "with a request id; a person has to approve it. Ask for as little as the task needs and say why: the reason is "
        "what they decide on.",
        {
            "tools": {"type": "array", "items": _TEXT, "maxItems": 50, "description": "Tool names"},
            "calls": {
                "type": "array",
                "maxItems": 10,
                "description": "Exact calls: the same call made again after the approval finds it",
                "items": {
                    "type": "object",
                    "properties": {"tool": _TEXT, "arguments": {"type": "object"}},
                    "required": ["tool"],
                    "additionalProperties": False,
                },
            },
            "roles": {"type": "array", "items": _TEXT, "maxItems": 10, "description": "Names of roles"},
            "privileges": {
                "type": "array",
                "maxItems": 10,
                "description": "Privileges on objects of databases",
                "items": {
                    "type": "object",
                    "properties": {
                        "database": _TEXT,
                        "objects": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 50},
                        "privileges": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 20},
                    },
                    "required": ["database", "objects", "privileges"],
                    "additionalProperties": False,
                },
            },
            "arguments_schema": {
                "type": "object",
                "description": "A JSON Schema that the arguments of `tools` keep to: the narrower, the better",
            },
            "reason": {"type": "string", "maxLength": 2000, "description": "Why, for the person who decides"},
            "minutes": {"type": "integer", "minimum": 1, "description": "For how long (default 30)"},
            "max_uses": {
                "type": "integer",
                "minimum": 1,
                "description": "For how many calls, if you know: few are approved sooner than any number",
            },
            "start": {"type": "string", "format": "date-time", "description": "Not before then (default: at approval)"},
            "not_after": {"type": "string", "format": "date-time", "description": "Useless after then"},
            "ticket": {"type": "string", "maxLength": 100, "description": "The ticket this is for"},
            "supersedes": {**_TEXT, "description": "Id of your pending request that this one replaces"},
            "extends": {**_TEXT, "description": "Id of your live grant that `minutes` more are asked for"},
            "context": {"type": "object", "description": "Anything that helps to decide: task, plan, conversation"},
            "dry_run": {"type": "boolean", "description": "Only say what would be asked, of whom, for how long"},
        },
        ["reason"],
        read_only=False,
    ),
)
NAMES = frozenset(str(definition["name"]) for definition in DEFINITIONS)

INSTRUCTIONS = """\
This server is behind jitaccess, which decides every call. You start with read access only.
Tools whose description starts with [LOCKED: needs approval] are refused until a person approves them for a while.
To unlock some: request_access with their names (or in `calls` the one call you need), your reason and the minutes; \
then check_request until it is decided.
After approval call the tool as usual; if your tool list does not refresh, use call_tool with its name and arguments.
my_access shows what you may do now and for how long; give back what you no longer need with release_access."""
