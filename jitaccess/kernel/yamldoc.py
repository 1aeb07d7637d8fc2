"""YAML documents read strictly: every mistake names its line, the path of its key and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import yaml

from jitaccess.kernel.durations import parse_duration
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

Node = yaml.Node
Item = TypeVar("Item")
MAX_DOCUMENT = 64 * 1024


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a small document that refers to its parts many times over is a big one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # its stubs leave it out
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write it out", mark)
        return super().compose_node(parent, index)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one kind of document. Every method raises Invalid(`code`, params line, path, expected)."""

    code: str
    limit: int = MAX_DOCUMENT  # characters

    def compose(self, text: str) -> Node | None:
        """The root of the one document in `text`; None for an empty one."""
        if len(text) > self.limit:
            raise self.mistake(1, "", f"at most {self.limit} characters, not {len(text)}")
        try:
            return yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self.mistake(mark.line + 1 if mark else 1, "", f"well-formed YAML ({error.problem})") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            expected = f"well-formed YAML (the character U+{error.character:04X} is not allowed)"
            raise self.mistake(line, "", expected) from error
        except RecursionError as error:
            raise self.mistake(1, "", "well-formed YAML (it is nested too deeply)") from error
        except (ValueError, OverflowError) as error:  # PyYAML lets these out for an escape such as "\UFFFFFFFF"
            raise self.mistake(1, "", f"well-formed YAML ({error})") from error

    def members(
        self, node: Node, path: str, known: tuple[str, ...], *, required: tuple[str, ...] = (), expected: str = ""
    ) -> dict[str, Node]:
        """The members of a mapping by name, each once and known, none of `required` missing."""
        if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
            raise self.mistake(line_of(node), path, expected or f"a mapping with {', '.join(known)}")
        members: dict[str, Node] = {}
        for key, value in node.value:
            name = visible(key.value, limit=80) if isinstance(key, yaml.ScalarNode) else "?"
            where = f"{path}.{name}".lstrip(".")
            if known and name not in known:
                raise self.mistake(line_of(key), where, f"no such key here; known are {', '.join(known)}")
            if name in members:
                raise self.mistake(line_of(key), where, "each key once")
            members[name] = value
        for name in required:
            if name not in members:
                raise self.mistake(line_of(node), f"{path}.{name}".lstrip("."), "this key, which is missing")
        return members

    def items(self, node: Node | None, path: str, read: Callable[[Node, str], Item]) -> list[Item]:
        """What `read` makes of each item of a list; nothing of an absent one."""
        if node is None:
            return []
        if not is_list(node):
            raise self.mistake(line_of(node), path, 'a list, as in ["a", "b*"] or one item a line, each with its dash')
        return [read(item, f"{path}[{number}]") for number, item in enumerate(node.value, start=1)]

    def text(self, node: Node, path: str) -> str:
        """A text that is not blank."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str" or not node.value.strip():
            expected = "a text (in quotes if YAML would read it as a number, true or null)"
            raise self.mistake(line_of(node), path, expected)
        return str(node.value)

    def exactly(self, node: Node, path: str, value: str) -> None:
        """That very text."""
        if self.text(node, path) != value:
            raise self.mistake(line_of(node), path, f"`{value}`")

    def one_of(self, node: Node, path: str, values: tuple[str, ...]) -> str:
        """One of these texts."""
        text = self.text(node, path)
        if text not in values:
            raise self.mistake(line_of(node), path, f"one of {', '.join(values)}, not {visible(text, limit=80)!r}")
        return text

    def flag(self, node: Node, path: str) -> bool:
        """True or false."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
            raise self.mistake(line_of(node), path, "true or false")
        return bool(yaml.SafeLoader.bool_values[node.value.lower()])

    def whole(self, node: Node, path: str, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        expected = f"a whole number from {least} to {most}"
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:int":
            raise self.mistake(line_of(node), path, expected)
        try:
            number = int(node.value)
        except ValueError as error:
            raise self.mistake(line_of(node), path, f"{expected}, in decimal digits") from error
        if not least <= number <= most:
            raise self.mistake(line_of(node), path, f"{expected}, not {number}")
        return number

    def duration(self, node: Node, path: str, *, most: int) -> int:
        """Seconds, written as in 90s, 15m, 4h or 2d."""
        try:
            seconds = parse_duration(self.text(node, path))
        except Invalid as error:
            raise self.mistake(
                line_of(node), path, f"a duration such as 90s, 15m, 4h or 2d ({error.detail})"
            ) from error
        if not 1 <= seconds <= most:
            raise self.mistake(line_of(node), path, f"a duration from 1 s to {most} s, not {seconds} s")
        return seconds

    def mistake(self, line: int, path: str, expected: str) -> Invalid:
        """The error to raise for something that is not as expected."""
        where = f"line {line}, {path}" if path else f"line {line}"
        return Invalid(self.code, f"{where}: expected {expected}.", line=line, path=path, expected=expected)


def is_null(node: Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def is_list(node: Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq"


def line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1
