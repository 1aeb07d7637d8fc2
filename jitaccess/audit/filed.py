"""Checkpoints where they are kept, in order and with their signatures read; a damaged one is a finding."""

from __future__ import annotations

import heapq
import os
import re
import stat
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


def text(path: Path) -> str:
    """A note or a file of keys. Raises Invalid("checkpoint.unreadable") with the reason alone, without the path.

    Whoever may write to the folder must not stop us: a FIFO waits for ever for its writer, a device may never end.
    """
    try:
        content = _content(path)
        if len(content) > checkpoint.MAX_NOTE:
            raise Invalid("checkpoint.unreadable", f"it is longer than {checkpoint.MAX_NOTE} bytes")
        return content.decode().replace("\r\n", "\n")  # a copy may have been through an editor
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("checkpoint.unreadable", str(error)) from error


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
    named = sorted((_file(path, None) for path in _others(where)), key=lambda one: one.place)
    return [(_file(where / f"{size:012d}", size) for size in sizes), named]


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Invalid("checkpoint.unreadable", "it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(checkpoint.MAX_NOTE + 1)
    finally:
        os.close(descriptor)


def any_at(where: Path) -> bool:
    """Whether `at` would find a checkpoint, good or not."""
    return where.is_file() or bool(numbered(where) or _others(where))


def _others(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob("[0-9l]*")
        if not _NUMBERED.fullmatch(path.name) and (path.name == "latest" or not path.is_dir())
    ]


def _file(path: Path, size: int | None) -> Filed | Finding:
    try:
        note = text(path)
        return Filed(checkpoint.claim(note).size if size is None else size, str(path), note)
    except Invalid as error:
        return Finding(size or 0, f"{path}: {error}")
