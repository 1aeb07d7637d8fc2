"""Checkpoints where they are kept, in order and with their signatures read; a damaged one is a finding."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jitaccess.audit import checkpoint
from jitaccess.audit.verify import Finding
from jitaccess.kernel.errors import Invalid

_NUMBERED = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True)
class Filed:
    """A note under the size it is kept by; `name` says where."""

    place: int
    name: str
    note: str


def read(
    sources: Sequence[Iterable[Filed | Finding]], verifiers: Sequence[checkpoint.Verifier]
) -> Iterator[checkpoint.Checkpoint | Finding]:
    """All checkpoints of `sources`, each of them in order of place, in that order. A text is read once: that costs."""
    last: tuple[int, str] | None = None
    for filed in heapq.merge(*sources, key=lambda one: one.place):
        if isinstance(filed, Finding):
            yield filed
            continue
        if (filed.place, filed.note) == last:
            continue
        try:
            head = checkpoint.read(filed.note, verifiers)
        except Invalid as error:
            yield Finding(filed.place, f"{filed.name}: {error}")
            continue
        if head.size != filed.place:
            yield Finding(filed.place, f"{filed.name} is signed over {head.size} entries, not {filed.place}")
            continue
        last = filed.place, filed.note
        yield head


def numbered(folder: Path) -> list[int]:
    """The sizes of the checkpoint files of a folder, in order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if _NUMBERED.fullmatch(path.name))


def at(where: Path) -> list[Iterable[Filed | Finding]]:
    """The sources of checkpoints that are at a file or in a folder now: of any name, but not its `keys`.

    Call it before the ledger is read: what is signed meanwhile is about entries that the reader does not see. Numbered
    files are read one by one, later: they never change. Raises Invalid when there is nothing.
    """
    if where.is_file():
        return [[_file(where, None)]]
    if not where.is_dir():
        raise Invalid("checkpoint.invalid", f"There is no checkpoint at {where}.")
    sizes = numbered(where)
    others = [path for path in where.glob("[0-9l]*") if path.is_file() and not _NUMBERED.fullmatch(path.name)]
    named = sorted((_file(path, None) for path in others), key=lambda one: one.place)
    return [(_file(where / f"{size:012d}", size) for size in sizes), named]


def _file(path: Path, size: int | None) -> Filed | Finding:
    try:
        note = path.read_text(encoding="utf-8")
        return Filed(checkpoint.claim(note).size if size is None else size, str(path), note)
    except (OSError, UnicodeDecodeError, Invalid) as error:
        return Finding(size or 0, f"{path}: {error}")
