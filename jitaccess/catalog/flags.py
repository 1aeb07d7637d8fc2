"""What a reviewer should look at twice in a definition. Flags are for people: no decision depends on one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

import re2  # type: ignore[import-untyped]  # it ships no types

from jitaccess.catalog.models import Server, Tool
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import FOREIGN, has_hidden, hidden_in, visible

_EXCERPT = 80
_PATH = 150  # characters of either end
_SHORT = 7  # names below this are too alike anyway
# Written for a model instead of for whoever uses the tool: the usual words of tool poisoning. RE2: linear time.
_INSTRUCTIONS = re2.compile(
    r"(?i)(ignore (all |any )?(previous|prior|above|earlier)|disregard (all |any |the )?(previous|prior|above)"
    r"|</?\s*(important|system|secret|instructions?|hidden|assistant)\s*>|system prompt"
    r"|do not (tell|mention|inform|reveal|show|say)|don'?t (tell|mention|inform|reveal)|without (telling|asking) "
    r"|never (tell|mention|reveal)|you must (first|always|never|also)|before (using|calling|you use) (this|any|the) "
    r"|instead of (using|calling) |always call |must be called (first|before)|\.ssh/|id_rsa|\.env\b|mcp\.json"
    r"|exfiltrat|act as )"
)
_ESCAPES = re2.compile("\x1b|\u009b")
# Foreign letters inside of Latin words, and Latin ones in disguise.
_CONFUSABLE = re2.compile(f"[A-Za-z][{FOREIGN}]|[{FOREIGN}][A-Za-z]|[\uff21-\uff5a\U0001d400-\U0001d7ff]")
_BODY = ("description", "inputSchema", "outputSchema")
_TELLING = 20  # characters: a shorter description says too little to be told by
_NAMES = re2.compile(r"[A-Za-z0-9_.-]{3,128}")
_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "_": "", "-": "", ".": ""})


@dataclass(frozen=True, slots=True)
class Flag:
    """`code` is hidden, escapes, confusable, instructions, same_name, look_alike, same_body or mentions; `text` is one
    inert sentence.
    """

    code: str
    text: str


class Neighbours:
    """The names of all offered tools, for finding those that could be mistaken for one another."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """`names` are pairs of server and tool."""
        self._exact: Mapping[str, set[str]] = defaultdict(set)
        self._alike: Mapping[str, set[tuple[str, str]]] = defaultdict(set)
        for server, tool in names:
            self._exact[tool].add(server)
            for key in _keys(tool):
                self._alike[key].add((server, tool))
        self._bodies: dict[UUID, Mapping[str, set[str]]] | None = None

    @classmethod
    def read(cls) -> Neighbours:
        """Those of the enabled servers, from the database."""
        rows = Tool.objects.filter(present=True, server__in=Server.objects.filter(enabled=True))
        found = cls(rows.values_list("server__slug", "name"))
        found._bodies = {}
        return found

    def same(self, server: str, tool: str) -> list[str]:
        """The other servers that offer a tool of this very name."""
        return sorted(self._exact.get(tool, set()) - {server})

    def alike(self, server: str, tool: str) -> list[str]:
        """Tools of other servers with a name that one could take for this one, as "server/tool"."""
        found = {pair for key in _keys(tool) for pair in self._alike.get(key, ())}
        return sorted(f"{there}/{name}" for there, name in found if there != server and name != tool)

    def same_body(self, tool: Tool) -> list[str]:
        """Other tools of its server, gone ones too, that say word for word what this one says under its name."""
        body = _body(tool.definition)
        if not body or self._bodies is None:
            return []
        if tool.server_id not in self._bodies:
            bodies: Mapping[str, set[str]] = defaultdict(set)
            for name, pinned, offered in Tool.objects.filter(server=tool.server_id).values_list(
                "name", "pinned_definition", "definition"
            ):
                for text in {pinned, offered}:
                    bodies[_body(text)].add(name)
            self._bodies[tool.server_id] = bodies
        return sorted(self._bodies[tool.server_id].get(body, set()) - {tool.name})

    def elsewhere(self, server: str, word: str) -> bool:
        """Whether this is the name of a tool of other servers only."""
        there = self._exact.get(word, set())
        return bool(there) and server not in there


def flags_of(tool: Tool, neighbours: Neighbours) -> list[Flag]:
    """What stands out in the definition that the server offers now."""
    known = set(_texts(_parsed(tool.pinned_definition))) if tool.pinned_definition else set()
    found: list[Flag] = []
    for member, text in _texts(_parsed(tool.definition)):
        new = "" if (member, text) in known or not known else " (new since its review)"
        found += (Flag(code, f"{said}{new}") for code, said in _in_text(member, text))
        found += _mentions(tool, member, text, neighbours)
    slug = tool.server.slug
    if others := neighbours.same(slug, tool.name):
        found.append(Flag("same_name", f"{_list(others)} offers a tool of the same name."))
    if alike := neighbours.alike(slug, tool.name):
        found.append(Flag("look_alike", f"Its name looks like {_list(alike)}."))
    if not tool.pin and (bodies := neighbours.same_body(tool)):
        found.append(Flag("same_body", f"It is word for word what {_list(bodies)} is or was: a tool under a new name?"))
    return list(dict.fromkeys(found))


def _in_text(member: str, text: str) -> Iterator[tuple[str, str]]:
    where = visible(member, limit=120)
    if _ESCAPES.search(text):
        yield "escapes", f"{where} holds terminal escape sequences (ANSI)"
    if has_hidden(text):
        points = hidden_in(text)
        more = ", …" if len(points) > 5 else ""
        yield "hidden", f"{where} holds characters that cannot be seen: {', '.join(points[:5])}{more}"
    if match := _CONFUSABLE.search(text):
        foreign = ", ".join(f"U+{ord(char):04X}" for char in text[match.start() : match.end()] if not char.isascii())
        yield "confusable", f"{where} has letters that look like others: {foreign}"
    if match := _INSTRUCTIONS.search(text):
        quoted = visible(" ".join(text[match.start() : match.start() + _EXCERPT].split()), limit=_EXCERPT + 40)
        yield "instructions", f"{where} reads like instructions to a model: “{quoted}”"


def _mentions(tool: Tool, member: str, text: str, neighbours: Neighbours) -> Iterator[Flag]:
    """Shadowing: a description that talks about the tools of another server steers how those are used."""
    if not member.endswith("description"):
        return
    slug = tool.server.slug
    words = {word for word in _NAMES.findall(text) if "_" in word and neighbours.elsewhere(slug, word)}
    if words:
        yield Flag(
            "mentions", f"{visible(member, limit=120)} speaks of tools of other servers: {_list(sorted(words))}."
        )


def _texts(value: Json, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a definition with where it stands; names of members are texts too."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, member in value.items():
            here = _clipped(f"{path}.{name}" if path else name)
            yield f"{path or 'the definition'} (a member's name)", name
            yield from _texts(member, here)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{path}[{number}]")


def _clipped(path: str) -> str:
    """Its beginning and its end: a long name with many members in it would be written out for each of them."""
    return path if len(path) <= 2 * _PATH else f"{path[:_PATH]}…{path[-_PATH:]}"


def _parsed(definition: str) -> Json:
    try:
        value: Json = json.loads(definition)
    except (ValueError, RecursionError):
        return definition
    return value


def _body(definition: str) -> str:
    """What a definition says apart from its name, "" when that is too little to tell it by."""
    value = _parsed(definition)
    description = value.get("description") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(description, str) or len(description) < _TELLING:
        return ""
    return json.dumps([value.get(member) for member in _BODY], sort_keys=True)


def _keys(name: str) -> set[str]:
    """Two names share one when they look alike, or when one character makes the difference."""
    plain = name.lower().translate(_ALIKE).replace("rn", "m")
    if len(plain) <= _SHORT:
        return {plain}
    return {plain, *(plain[:at] + plain[at + 1 :] for at in range(len(plain)))}


def _list(names: list[str]) -> str:
    shown = ", ".join(visible(name, limit=80) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
