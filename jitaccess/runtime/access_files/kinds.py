"""The kinds of documents. Of roles and approval policies the readers are those of policy; here is what editors need."""

from __future__ import annotations

from typing import Any

from jitaccess.catalog.options import BOUNDS, MEANINGS
from jitaccess.policy.engine.roles import ACCESS_CLASSES
from jitaccess.runtime.access_files.shapes import (
    ByName,
    Choice,
    Duration,
    Either,
    Flag,
    Labels,
    Listing,
    Moment,
    Record,
    Shape,
    Text,
    Whole,
    name,
)

VERSION = "v1"
EVERY_TEAM = "every-team"
EVERY = {"every-agent": "agents", "every-user": "users"}
ORIGINS = ("default", "standing", "ceiling")
_DAYS = 24 * 60
# As the tables have them; said again, so that schemas are made without a database.
ERAS = ("auto", "modern", "legacy")
ARGUMENTS = ("any", "schema", "exact")
_REQUESTABLE_DEFAULTS = {
    "tools": [], "access": [], "team": "", "arguments": "any", "max_duration": "4h", "max_total": "",
    "max_advance": "7d", "max_uses": 0,
}  # fmt: skip

DESCRIPTION = Text("what it is for", 300, blank=True)
PERSON = Text("a username of somebody who has signed in", 150, mentions="person")


def _tool(access: str) -> dict[str, Any]:
    return {"access": access}


_ACCESS = Choice("what the tool does; this pins its definition as reviewed", ACCESS_CLASSES)
_PIN = Text("the digest of the definition that was reviewed", 80, "sha256:[0-9a-f]{64}")
TOOL = Either(_ACCESS, Record({"access": _ACCESS, "pin": _PIN, "labels": Labels()}), _tool)

REQUESTABLE = Record(
    {
        "tools": Listing(Text("a tool's name, a glob or ^regex$, without a comma", 200, "[^,]+")),
        "access": Listing(Choice("every tool of this class", ACCESS_CLASSES)),
        "team": name("a team whose agents may ask; left out: every team", mentions="team"),
        "arguments": Choice("with which arguments", ARGUMENTS),
        "max_duration": Duration("how long a grant may last", 1, 30 * _DAYS),
        "max_total": Duration("how long with all its extensions", 1, 90 * _DAYS),
        "max_advance": Duration("how far ahead it may start", 0, 90 * _DAYS),
        "max_uses": Whole("a grant is good for so many calls", 1, 1_000_000),
        "approval": name("the approval policy that decides", mentions="approval-policy"),
    },
    required=("approval",),
    defaults=_REQUESTABLE_DEFAULTS,
    one_of=("tools", "access"),
)
TEAM = Record({"members": Listing(PERSON)})
AGENT = Record(
    {
        "owner": Text("the person who answers for it", 150, mentions="person"),
        "team": name("the team it belongs to", mentions="team"),
        "users": Listing(PERSON),
        "labels": Labels(),
        "enabled": Flag("a disabled agent is refused at its next call, and its grants end"),
    },
    required=("owner", "team"),
)
OPTIONS = Record(
    {name: Whole(meaning, *BOUNDS[name]) if name in BOUNDS else Flag(meaning) for name, meaning in MEANINGS.items()},
    what="how the gateway treats it; what is left out stays as it is",
)
SERVER = Record(
    {
        "url": Text("the MCP endpoint, https://…/mcp; programs are described by the operator's file only", 500),
        "era": Choice("which protocol it speaks", ERAS),
        "shared": Flag("everybody may use one connection: it keeps no state and no identity"),
        "instructions": Text("told to agents with the gateway's own instructions", 100_000, blank=True),
        "enabled": Flag("a disabled server is closed to everybody"),
        "owner_team": name("whom approval policies mean by server-owners", mentions="team", blank=True),
        "labels": Labels(),
        "options": OPTIONS,
        "access": Either(
            Choice("every team may use it", (EVERY_TEAM,)), Listing(name("a team that may use it", mentions="team"))
        ),
        "tools": ByName("tools by their names, each with its access class", TOOL),
        "requestables": Listing(REQUESTABLE),
    }
)
_SUBJECT = r"every-agent|every-user|(agent|team):[a-z0-9]([a-z0-9-]*[a-z0-9])?|user:\S(.*\S)?"
BINDING = Record(
    {
        "role": name("the role", mentions="role"),
        "as": Choice("default and standing give it; a ceiling allows nothing beyond it", ORIGINS),
        "to": Listing(Text("every-agent, every-user, agent:NAME, team:NAME or user:NAME", 170, _SUBJECT), least=1),
        "until": Moment("when it ends by itself; left out: when somebody ends it"),
    },
    required=("role", "as", "to"),
    defaults={"until": ""},
)
# Kind to the shape of its spec and the longest name it may have. A binding has no name, and no metadata.
SPECS: dict[str, tuple[Record, int]] = {"team": (TEAM, 40), "agent": (AGENT, 40), "server": (SERVER, 32)}
DESCRIBED = ("agent", "server")
KINDS = ("team", "approval-policy", "role", "server", "agent", "binding")


def metadata_of(kind: str) -> Record:
    limit = SPECS[kind][1]
    members: dict[str, Shape] = {"name": name("its name, which is for life", limit=limit)}
    if kind in DESCRIBED:
        members["description"] = DESCRIPTION
    return Record(members, required=("name",))
