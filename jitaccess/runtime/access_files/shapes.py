"""What stands in a document, declared once: a shape reads its part of it, and says it as JSON Schema for editors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import yaml

from jitaccess.kernel.durations import parse_duration
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.labels import MAX_LABELS, checked_labels
from jitaccess.kernel.text import visible
from jitaccess.kernel.yamldoc import Node, Reader, is_list, line_of

# A server may have thousands of tools, each with its pin.
READ = Reader("files.invalid", limit=1 << 20)
MINUTE, DAY = 60, 86_400
_NULL = "tag:yaml.org,2002:null"
_MAP = "tag:yaml.org,2002:map"
_TIMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp")
_DURATION = r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?$"


@dataclass(frozen=True, slots=True)
class Mention:
    """Something that has to exist: a person, a team, … by its name, and where it is mentioned."""

    kind: str
    name: str
    path: str
    line: int


class Shape(Protocol):
    def read(self, node: Node, path: str, mentions: list[Mention]) -> Any:
        """The value in its one spelling, as JSON. Raises Invalid("files.invalid", params line, path, expected)."""

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema 2020-12."""


@dataclass(frozen=True, slots=True)
class Text:
    """`mentions` is the kind of thing that it names; `blank` that it may be empty. Surrounding space is not kept."""

    what: str
    limit: int = 300
    pattern: str = ""
    mentions: str = ""
    blank: bool = False

    def read(self, node: Node, path: str, mentions: list[Mention]) -> str:
        text = "" if self.blank and getattr(node, "value", None) == "" and node.tag != _NULL else READ.text(node, path)
        text = text.strip()
        if len(text) > self.limit or (text and self.pattern and not re.fullmatch(self.pattern, text)):
            expected = f"{self.what} (at most {self.limit} characters), not {visible(text, limit=80)!r}"
            raise READ.mistake(line_of(node), path, expected)
        if self.mentions and text:
            mentions.append(Mention(self.mentions, text, path, line_of(node)))
        return text

    def schema(self) -> dict[str, Any]:
        pattern = f"^({self.pattern})?$" if self.blank else f"^{self.pattern}$"
        extra: dict[str, Any] = {"pattern": pattern} if self.pattern else {}
        if not self.blank:
            extra["minLength"] = 1
        return {"type": "string", "maxLength": self.limit, "description": self.what} | extra


def name(what: str, *, limit: int = 40, mentions: str = "", blank: bool = False) -> Text:
    """A name as teams, agents, roles and servers have."""
    said = f"{what}: small letters, digits and inner hyphens"
    return Text(said, limit, "[a-z0-9]([a-z0-9-]*[a-z0-9])?", mentions, blank)


@dataclass(frozen=True, slots=True)
class Flag:
    what: str

    def read(self, node: Node, path: str, mentions: list[Mention]) -> bool:  # noqa: ARG002
        return READ.flag(node, path)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean", "description": self.what}


@dataclass(frozen=True, slots=True)
class Whole:
    what: str
    least: int
    most: int

    def read(self, node: Node, path: str, mentions: list[Mention]) -> int:  # noqa: ARG002
        return READ.whole(node, path, least=self.least, most=self.most)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most, "description": self.what}


@dataclass(frozen=True, slots=True)
class Duration:
    """Whole minutes, spelled as `spell_minutes` does. `most` in minutes."""

    what: str
    least: int
    most: int

    def read(self, node: Node, path: str, mentions: list[Mention]) -> str:  # noqa: ARG002
        expected = f"whole minutes from {spell_minutes(self.least)} to {spell_minutes(self.most)}, as in 30m, 4h or 2d"
        try:
            seconds = parse_duration(READ.text(node, path))
        except Invalid as error:
            found = error.params.get("expected") or error.detail
            raise READ.mistake(line_of(node), path, f"{expected} ({found})") from error
        minutes, rest = divmod(seconds, MINUTE)
        if rest or not self.least <= minutes <= self.most:
            raise READ.mistake(line_of(node), path, f"{expected}, not {seconds} s")
        return spell_minutes(minutes)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": _DURATION, "description": f"{self.what}, as in 30m, 4h or 2d"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment with its offset from UTC, spelled as `spell_moment` does."""

    what: str

    def read(self, node: Node, path: str, mentions: list[Mention]) -> str:  # noqa: ARG002
        text = node.value if getattr(node, "tag", "") in _TIMES and isinstance(node.value, str) else ""
        try:
            moment = datetime.fromisoformat(text.strip())
            if moment.tzinfo is None:
                raise ValueError("no offset")  # noqa: TRY301 - one way out
            return spell_moment(moment)
        except (ValueError, OverflowError) as error:
            expected = "a moment with its offset, as in 2026-12-31T18:00:00Z"
            raise READ.mistake(line_of(node), path, expected) from error

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date-time", "description": self.what}


@dataclass(frozen=True, slots=True)
class Choice:
    what: str
    values: tuple[str, ...]

    def read(self, node: Node, path: str, mentions: list[Mention]) -> str:  # noqa: ARG002
        return READ.one_of(node, path, self.values)

    def schema(self) -> dict[str, Any]:
        return {"enum": [*self.values], "description": self.what}


@dataclass(frozen=True, slots=True)
class Listing:
    """Each item once; their order says nothing."""

    item: Shape
    least: int = 0
    order: Callable[[Any], Any] = str

    def read(self, node: Node, path: str, mentions: list[Mention]) -> list[Any]:
        found: list[Any] = []

        def one(item: Node, where: str) -> None:
            value = self.item.read(item, where, mentions)
            if value in found:
                raise READ.mistake(line_of(item), where, "each item once")
            found.append(value)

        READ.items(node, path, one)
        if len(found) < self.least:
            raise READ.mistake(line_of(node), path, f"at least {self.least}")
        return sorted(found, key=self.order)

    def schema(self) -> dict[str, Any]:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), "uniqueItems": True} | least


@dataclass(frozen=True, slots=True)
class Labels:
    what: str = "labels for roles and approval policies to look at, such as {env: prod}"

    def read(self, node: Node, path: str, mentions: list[Mention]) -> dict[str, str]:  # noqa: ARG002
        members = READ.members(node, path, (), expected="labels, as in {env: prod}")
        try:
            return dict(
                sorted(checked_labels({key: READ.text(at, f"{path}.{key}") for key, at in members.items()}).items())
            )
        except Invalid as error:
            if error.code == READ.code:
                raise
            raise READ.mistake(line_of(node), path, f"labels, as in {{env: prod}} ({error.detail})") from error

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": {"pattern": "^[a-z][a-z0-9_.-]{0,39}$"},
            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9_.:@/-]{1,80}$"},
            "description": self.what,
        }


@dataclass(frozen=True, slots=True)
class ByName:
    """A mapping of any names to one shape."""

    what: str
    value: Shape

    def read(self, node: Node, path: str, mentions: list[Mention]) -> dict[str, Any]:
        """Not by Reader.members, which shortens what it cannot know."""
        if not isinstance(node, yaml.MappingNode) or node.tag != _MAP:
            raise READ.mistake(line_of(node), path, self.what)
        found: dict[str, Any] = {}
        for key, at in node.value:
            named = key.value if isinstance(key, yaml.ScalarNode) else ""
            where = f"{path}.{visible(named, limit=128)}"
            if not named or named in found:
                raise READ.mistake(line_of(key), where, "each name once")
            found[named] = self.value.read(at, where, mentions)
            mentions.append(Mention("tool", named, where, line_of(key)))
        return dict(sorted(found.items()))

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema(), "description": self.what}


@dataclass(frozen=True, slots=True)
class Record:
    """Named members. `defaults` stand in for those that are left out (others then stay left out); `one_of` are members
    of which at least one is needed.
    """

    members: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    what: str = ""

    def read(self, node: Node, path: str, mentions: list[Mention]) -> dict[str, Any]:
        found = READ.members(node, path, tuple(self.members), required=self.required)
        if self.one_of and not any(key in found for key in self.one_of):
            wanted = " or ".join(f"`{key}:`" for key in self.one_of)
            raise READ.mistake(line_of(node), path, f"{wanted}; as it is, nothing is named")
        values = {key: self.members[key].read(at, f"{path}.{key}".lstrip("."), mentions) for key, at in found.items()}
        return {**self.defaults, **values}

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {key: shape.schema() for key, shape in self.members.items()},
            "additionalProperties": False,
        }
        if self.required:
            schema["required"] = [*self.required]
        if self.one_of:
            schema["anyOf"] = [{"required": [key]} for key in self.one_of]
        return schema | ({"description": self.what} if self.what else {})


@dataclass(frozen=True, slots=True)
class Either:
    """One word in short, or something longer; `long` says the word in the longer form."""

    word: Shape
    more: Shape
    long: Callable[[Any], Any] = lambda value: value

    def read(self, node: Node, path: str, mentions: list[Mention]) -> Any:
        if is_list(node) or getattr(node, "id", "") == "mapping":
            return self.more.read(node, path, mentions)
        return self.long(self.word.read(node, path, mentions))

    def schema(self) -> dict[str, Any]:
        return {"oneOf": [self.word.schema(), self.more.schema()]}


def spell_minutes(minutes: int) -> str:
    """In the form that files have: 90 is 1h30m."""
    parts = [f"{count}{unit}" for count, unit in _parts(minutes) if count]
    return "".join(parts) or "0m"


def minutes_of(text: str) -> int:
    """The minutes of what `spell_minutes` spelled."""
    return parse_duration(text) // MINUTE


def spell_moment(moment: datetime) -> str:
    """In the form that files have, in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _parts(minutes: int) -> tuple[tuple[int, str], ...]:
    days, rest = divmod(minutes, 24 * 60)
    hours, left = divmod(rest, 60)
    return (days, "d"), (hours, "h"), (left, "m")
