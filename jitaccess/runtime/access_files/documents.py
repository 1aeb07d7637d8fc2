"""Files into documents: which ones, where each begins, and what it wants. Nothing here looks at the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible
from jitaccess.kernel.yamldoc import line_of
from jitaccess.policy.approval.document import PolicyDocument, parse_policy
from jitaccess.policy.engine.roles import RoleDocument, parse_role
from jitaccess.runtime.access_files.kinds import BINDING, KINDS, SPECS, VERSION, metadata_of
from jitaccess.runtime.access_files.shapes import READ, Mention

MAX_FILE = 4 << 20  # bytes
_SUFFIXES = (".yaml", ".yml")
_EDITORS = "# yaml-language-server:"
_REFERS = {"user": "person", "team": "team", "schedule": "schedule"}


class Key(NamedTuple):
    """What a thing is called in files. Of a binding: "ROLE ORIGIN SUBJECT"."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What keeps files from being applied, and where. `line` 0: not about a line."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        where = f"{visible(self.file, limit=500)}:{self.line}: " if self.line else f"{visible(self.file, limit=500)}: "
        return f"{where if self.file else ''}{visible(self.text, limit=1000)}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a document says that `key` should be: only members that it names (of a tool: only those it names)."""

    key: Key
    value: dict[str, Any]
    file: str = ""
    line: int = 0
    mentions: tuple[Mention, ...] = ()

    def problem(self, text: str, *, line: int = 0) -> Problem:
        return Problem(self.file, line or self.line, text)


@dataclass(slots=True)
class Reading:
    """All that the files want, and every problem with them."""

    wanted: dict[Key, Wanted] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, one: Wanted) -> None:
        if there := self.wanted.get(one.key):
            self.problems.append(one.problem(f"{one.key} is described twice; also at {there.file}:{there.line}."))
        else:
            self.wanted[one.key] = one


def read_files(sources: Iterable[Path]) -> Reading:
    """Every document in these files and folders. Raises Invalid when there is no file to read."""
    reading = Reading()
    for path in _files(sources):
        try:
            text = _text(path)
            documents = list(split(text))
        except (OSError, UnicodeDecodeError) as error:
            reading.problems.append(Problem(str(path), 0, f"cannot be read: {error}"))
            continue
        except Invalid as error:
            reading.problems.append(_problem(path, 0, error))
            continue
        empty = True
        for offset, document in documents:
            try:
                for one in read_document(document, file=str(path), offset=offset):
                    reading.add(one)
                    empty = False
            except Invalid as error:
                reading.problems.append(_problem(path, offset, error))
                empty = False
        if empty:  # cut off on its way here, it would otherwise look like "nothing to do"
            reading.problems.append(Problem(str(path), 0, "holds no document"))
    return reading


def split(text: str) -> Iterator[tuple[int, str]]:
    """The documents of a YAML stream: how many lines are before each, and its text in normal form.

    By lines: `---` and `...` at the start of a line are markers wherever they stand (YAML 1.2.2, 9.1.2). Each text is
    stored as it is here, so blank lines around it, directives and an editor's schema line do not count.
    Raises Invalid for content beside a marker.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    begin = 0
    for number, line in enumerate([*lines, "---"]):
        if line[:3] not in {"---", "..."} or line[3:4] not in {"", " ", "\t"}:
            continue
        if (rest := line[3:].strip()) and not rest.startswith("#"):
            raise READ.mistake(number + 1, "", f"`{line[:3]}` alone in its line")
        if found := _trimmed(lines[begin:number]):
            yield begin + found[0], found[1]
        begin = number + 1


def normal(document: str) -> str:
    """The text of a stored document as `split` would give it back."""
    try:
        parts = list(split(document))
    except Invalid:
        return document
    return parts[0][1] if len(parts) == 1 else document


def read_document(text: str, *, file: str = "", offset: int = 0) -> list[Wanted]:
    """What one document wants; several bindings may be in one. Raises Invalid with lines counted from its start."""
    root = READ.compose(text)
    if root is None:
        return []
    kinds = f"a document of a kind: {', '.join(KINDS)}"
    top = READ.members(root, "", ("kind", "version", "metadata", "spec"), required=("kind",), expected=kinds)
    kind = READ.one_of(top["kind"], "kind", KINDS)
    here: dict[str, Any] = {"file": file, "line": offset + line_of(root)}
    if kind == "role":
        role = parse_role(text)
        return [_with(Wanted(Key(kind, role.name), {"document": text}, **here), role_mentions(role, root), offset)]
    if kind == "approval-policy":
        policy = parse_policy(text)
        return [_with(Wanted(Key(kind, policy.name), {"document": text}, **here), policy_mentions(policy), offset)]
    keys = ("kind", "version", "spec") if kind == "binding" else ("kind", "version", "metadata", "spec")
    READ.members(root, "", keys, required=keys)
    READ.exactly(top["version"], "version", VERSION)
    mentions: list[Mention] = []
    if kind == "binding":
        spec = BINDING.read(top["spec"], "spec", mentions)
        mentions += _subjects(spec["to"], line_of(top["spec"]))
        found = [
            Wanted(Key(kind, f"{spec['role']} {spec['as']} {to}"), {"until": spec["until"]}, **here)
            for to in spec["to"]
        ]
        return [_with(one, mentions, offset) for one in found]
    metadata = metadata_of(kind).read(top["metadata"], "metadata", mentions)
    name = metadata.pop("name")
    value = {**metadata, **SPECS[kind][0].read(top["spec"], "spec", mentions)}
    return [_with(Wanted(Key(kind, name), value, **here), mentions, offset)]


def policy_mentions(policy: PolicyDocument) -> list[Mention]:
    """The people, teams and schedules that it names."""
    return [
        Mention(_REFERS[selector.kind], selector.name, f"rule {rule.name}, group {group.name}", selector.line)
        for rule in policy.rules
        for group in rule.groups()
        for selector in group.people
        if selector.kind in _REFERS
    ]


def role_mentions(role: RoleDocument, root: Any = None) -> list[Mention]:
    """The approval policy and the teams of its `spec.request`, and the team that owns it."""

    def mention(kind: str, name: str, *path: str) -> Mention:
        return Mention(kind, name, ".".join(path), _line_at(root, path))

    kind, _, owner = role.owner.partition(":")
    owners = [mention("team", owner, "metadata", "owner")] if kind == "team" else []
    if (request := role.facts.request) is None:
        return owners
    teams = [mention("team", team, "spec", "request", "teams") for team in request.teams or ()]
    return [mention("approval-policy", request.approval, "spec", "request", "approval"), *owners, *teams]


def _line_at(node: Any, path: Iterable[str]) -> int:
    for key in path if node is not None else ():
        node = next((value for name, value in node.value if name.value == key), node)
    return line_of(node) if node is not None else 1


def _subjects(subjects: list[str], line: int) -> list[Mention]:
    kinds = {"agent": "agent", "team": "team", "user": "person"}
    pairs = (subject.partition(":") for subject in subjects)
    return [Mention(kinds[kind], name, "spec.to", line) for kind, _, name in pairs if kind in kinds]


def _with(one: Wanted, mentions: Iterable[Mention], offset: int) -> Wanted:
    moved = tuple(Mention(m.kind, m.name, m.path, m.line + offset) for m in mentions)
    return Wanted(one.key, one.value, one.file, one.line, moved)


def _trimmed(lines: list[str]) -> tuple[int, str] | None:
    """What is left of a document's lines, and how many of them went before it; None of one that says nothing."""
    if all(not line.strip() or line.startswith(("#", "%")) for line in lines):
        return None
    begin = 0
    while not lines[begin].strip() or lines[begin].startswith((_EDITORS, "%")):
        begin += 1
    return begin, "\n".join(lines[begin:]).rstrip() + "\n"


def _files(sources: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += yaml_files(source)
        elif source.exists():
            found.append(source)
        else:
            raise Invalid("files.none", f"There is nothing at {source}.")
    if not found:
        raise Invalid("files.none", f"There are no *.yaml files in {', '.join(map(str, sources)) or 'nothing'}.")
    return list(dict.fromkeys(found))


def yaml_files(folder: Path) -> list[Path]:
    """In order, however deep, but none that is hidden: a mounted ConfigMap keeps its old versions so."""
    inside = (path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return sorted(path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise Invalid("files.invalid", f"it is larger than {MAX_FILE} bytes")
    return content.decode()


def _problem(path: Path, offset: int, error: Invalid) -> Problem:
    """A mistake of a document, with the line of its file instead of its own."""
    line, where, expected = (error.params.get(key) for key in ("line", "path", "expected"))
    if not isinstance(line, int):
        return Problem(str(path), 0, error.detail)
    if not expected:
        return Problem(str(path), offset + line, error.detail)
    return Problem(str(path), offset + line, f"{f'{where}: ' if where else ''}expected {expected}.")
