"""What editors know of roles and approval policies. They are read by jitaccess.policy; a test holds both together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jitaccess.kernel.yamldoc import Node
from jitaccess.policy.approval.document import CHANNELS, MAX_PEOPLE
from jitaccess.policy.engine.roles import ACCESS_CLASSES, PRIVILEGES
from jitaccess.runtime.access_files.kinds import DESCRIPTION
from jitaccess.runtime.access_files.shapes import (
    Choice,
    Flag,
    Listing,
    Mention,
    Record,
    Shape,
    Text,
    Whole,
    name,
)


@dataclass(frozen=True, slots=True)
class Said:
    """A schema alone, of what only its own reader reads."""

    said: dict[str, Any]

    def read(self, node: Node, path: str, mentions: list[Mention]) -> Any:
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        return self.said


def _any_of(*shapes: Shape) -> Said:
    return Said({"anyOf": [shape.schema() for shape in shapes]})


def _list(shape: Shape, what: str = "", *, least: int = 0) -> Said:
    schema = {"type": "array", "items": shape.schema()} | ({"minItems": least} if least else {})
    return Said(schema | ({"description": what} if what else {}))


def _span(what: str) -> Said:
    return Said({"type": "string", "pattern": r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "description": what})


_PATTERN = Text("a name, a glob with *, or ^regex$", 512)

_CEL = Text("a CEL condition", 10_000)
_ARGUMENTS = Said(
    {
        "type": "object",
        "properties": {"mode": {"enum": ["exact", "schema", "any"]}},
        "required": ["mode"],
        "description": "which arguments: exactly these, those of a JSON Schema, or any",
    }
)
_LABELS = Said(
    {
        "type": "object",
        "additionalProperties": _any_of(_PATTERN, _list(_PATTERN)).schema(),
        "description": "labels, each with a pattern or several for its value",
    }
)
RULE = Record(
    {
        "servers": _list(_any_of(_PATTERN, Record({"labels": _LABELS}, required=("labels",))), "by name, or by labels"),
        "tools": _list(_PATTERN, "tools by their names"),
        "access": _list(Choice("tools of this class", ACCESS_CLASSES)),
        "resources": _list(_PATTERN, "resources by their URIs"),
        "prompts": _list(_PATTERN, "prompts by their names"),
        "labels": _LABELS,
        "where": _CEL,
        "arguments": _ARGUMENTS,
    },
    required=("servers",),
    one_of=("tools", "access", "resources", "prompts", "labels"),
)
DATABASE_RULE = Record(
    {
        "databases": _list(_PATTERN, "databases by their names"),
        "objects": _list(_PATTERN, "their objects: public.products, shop.*"),
        "privileges": _list(Choice("a privilege", PRIVILEGES)),
    },
    required=("databases", "objects", "privileges"),
)
REQUEST = Record(
    {
        "max_duration": _span("how long a grant of this role may last"),
        "approval": name("the approval policy that decides"),
        "teams": _list(name("a team"), "the teams whose agents may ask; left out: every team"),
        "max_total": _span("how long with all its extensions"),
        "max_advance": _span("how far ahead it may start"),
    },
    required=("max_duration", "approval"),
    what="makes the role requestable",
)
ROLE_METADATA = Record(
    {"name": name("its name, which is for life"), "description": DESCRIPTION, "owner": Text("team:NAME", 150)},
    required=("name",),
)
_RULES = _any_of(_list(_any_of(RULE, DATABASE_RULE)), Said({"type": "null"}))
ROLE_SPEC = Record({"allow": _RULES, "deny": _RULES, "request": REQUEST})

_PEOPLE = _list(
    Text("user:NAME, team:NAME, schedule:NAME, server-owners, role-owners or manager", 170,
         r"(user|team|schedule):\S+|server-owners|role-owners|manager"),
    least=1,
)  # fmt: skip
GROUP = Record(
    {"name": name("its name"), "people": _PEOPLE, "quorum": Whole("how many of them must approve", 1, MAX_PEOPLE)},
    required=("name", "people"),
)
_GROUPS = _list(GROUP, "all of them must be met", least=1)
STAGE = Record({"groups": _GROUPS}, required=("groups",))
ESCALATION = Record({"after": _span("when it was pending so long"), "groups": _GROUPS}, required=("after", "groups"))
POLICY_RULE = Record(
    {
        "name": name("its name"),
        "when": _CEL,
        "auto_approve": Flag("nobody is asked"),
        "stages": _list(STAGE, "in order", least=1),
        "deny_threshold": Whole("how many must deny to end it", 1, MAX_PEOPLE),
        "reason": Record(
            {"min_length": Whole("characters", 1, 2000), "pattern": Text("^regex$", 512)}, what="what a reason must be"
        ),
        "ticket": Record(
            {"required": Flag("one is needed"), "pattern": Text("^regex$", 512)}, what="what a ticket must be"
        ),
        "max_duration": _span("how long a grant may last"),
        "pending": _span("how long it waits for a decision"),
        "channels": Listing(Choice("where it may be decided", CHANNELS), least=1),
        "step_up": Flag("who decides has to have signed in recently"),
        "reminders": _list(_span("when those who can decide are told again")),
        "escalate": _list(ESCALATION, "who is asked as well when nobody decides"),
        "fallback": GROUP,
        "cool_down": _span("how long the same cannot be asked for after a denial"),
    },
    required=("name",),
    one_of=("stages", "auto_approve"),
)
POLICY_METADATA = Record({"name": name("its name, which is for life"), "description": DESCRIPTION}, required=("name",))
POLICY_SPEC = Record(
    {"rules": _list(POLICY_RULE, "the first whose `when` holds decides", least=1)}, required=("rules",)
)
