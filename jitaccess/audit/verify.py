"""Checking the ledger in one pass: each entry against its leaf, the tree against its nodes and every checkpoint. Pure.

What cannot be read is a finding like any other, and the check goes on behind it. Memory does not grow with the ledger:
the tree is a frontier of O(log n) hashes, findings beyond the first are counted only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from jitaccess.audit import tree
from jitaccess.audit.checkpoint import Checkpoint
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import JsonView
from jitaccess.kernel.text import visible

LISTED = 100  # findings of a kind that are kept as sentences


@dataclass(frozen=True, slots=True)
class Row:
    """What stands at one place of the ledger.

    `entry` is None when it is not there or cannot be read; `leaf` is the stored hash in hex, None when the source has
    no leaves, as an export.
    """

    seq: int
    entry: Mapping[str, JsonView] | None
    leaf: object = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold, in a sentence. `place` is the entry it is about, 0 for none: the order to show."""

    place: int
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and what does not hold, in order; no findings means that all of it does.

    `entries` is the last place; the first `signed` of them are those that a checkpoint was signed over. `more` findings
    were found beyond those that are listed.
    """

    entries: int
    checkpoints: int
    findings: tuple[str, ...]
    more: int = 0
    signed: int = 0


# The stored hash, in hex, of a node (level, index) that the tree completes; asked in that order. None: not stored.
StoredNode = Callable[[int, int], object]


def check(
    rows: Iterable[Row | Finding], heads: Iterable[Checkpoint | Finding] = (), stored: StoredNode | None = None
) -> Report:
    """Check the rows of a ledger, in order of their seq, against checkpoints, in order of their size.

    Signatures were read by whoever made the checkpoints. The tree is made of the stored leaf hashes where there are
    any: an entry that does not fit its own is found by itself and does not make everything after it look wrong.
    """
    return _Check(heads, stored).run(rows)


def read_export(lines: Iterable[bytes]) -> Iterator[Row | Finding]:
    """The lines of `audit export`. A damaged line is a finding with its number, then its entry is missing."""
    for number, line in enumerate(lines, start=1):
        try:
            value = strictjson.decode(line)
            seq, entry = value["seq"], value["entry"]
        except (Invalid, KeyError) as error:
            yield Finding(0, f"line {number} of the export is damaged: {error}")
            continue
        if not isinstance(seq, int) or isinstance(seq, bool) or seq < 1 or not isinstance(entry, dict):
            yield Finding(0, f"line {number} of the export is not an entry")
            continue
        # Nothing beside what is checked: it would be read as if it were checked too.
        if unknown := sorted(value.keys() - {"seq", "entry"}):
            names = visible(", ".join(unknown), limit=120)
            yield Finding(seq, f"line {number} of the export has what no hash covers: {names}")
        yield Row(seq, entry)


class _Findings:
    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.more = 0

    def add(self, finding: Finding) -> None:
        if len(self.kept) < LISTED:
            self.kept.append(finding)
        else:
            self.more += 1


class _Check:
    def __init__(self, heads: Iterable[Checkpoint | Finding], stored: StoredNode | None) -> None:
        self._found, self._nodes = _Findings(), _Findings()
        self._stored = stored
        self._tree = tree.Frontier(self._node) if stored else tree.Frontier()
        self._heads = _Heads(heads)

    def run(self, rows: Iterable[Row | Finding]) -> Report:
        self._heads.pass_by(self._tree)
        for row in rows:
            if isinstance(row, Finding):
                self._found.add(row)
                continue
            if row.seq <= self._tree.size:
                self._found.add(Finding(row.seq, f"entry {row.seq} is there twice, or out of order"))
                continue
            if row.seq > self._tree.size + 1:
                self._pass_gap(row.seq - 1)
            self._tree.append(self._leaf(row))
            self._heads.pass_by(self._tree)
        self._heads.end(self._tree.size)
        parts = (self._found, self._nodes, self._heads.found)
        findings = sorted((one for part in parts for one in part.kept), key=lambda finding: finding.place)
        more = sum(part.more for part in parts)
        texts = tuple(finding.text for finding in findings)
        return Report(self._tree.size, self._heads.count, texts, more, self._heads.signed)

    def _pass_gap(self, end: int) -> None:
        start = self._tree.size + 1
        what = f"entry {end} is" if start == end else f"entries {start} to {end} are"
        self._found.add(Finding(start, f"{what} missing"))
        self._tree.skip(end - self._tree.size)
        self._heads.pass_by(self._tree)

    def _leaf(self, row: Row) -> bytes | None:
        content = stored = None
        if row.entry is not None:
            try:
                content = tree.leaf_hash(canonical(row.entry))
            except Invalid as error:
                self._found.add(Finding(row.seq, f"entry {row.seq} cannot be hashed: {error}"))
        if row.leaf is not None:
            stored = tree.parse_hash(row.leaf)
            if stored is None:
                self._found.add(Finding(row.seq, f"the leaf of entry {row.seq} is damaged: it holds no hash"))
        if content and stored and content != stored:
            text = f"entry {row.seq} was changed, or its leaf was: its content does not have the hash it was given"
            self._found.add(Finding(row.seq, text))
        return stored or content

    def _node(self, level: int, index: int, value: bytes | None) -> bytes | None:
        if level % tree.STEP or self._stored is None:
            return value
        stored = tree.parse_hash(self._stored(level, index))
        if stored is None or (value is not None and stored != value):
            text = f"node {level}/{index} of the tree is missing or was changed"
            self._nodes.add(Finding(self._tree.size, text))
            return value
        # Where a leaf is not known, the stored node stands in: later checkpoints still say whether it is the right one.
        return stored


class _Heads:
    """Checkpoints, judged as the tree passes their size; those that fail for one reason in a row are one finding."""

    def __init__(self, heads: Iterable[Checkpoint | Finding]) -> None:
        self.found, self.count = _Findings(), 0
        self._heads = iter(heads)
        self._last: Checkpoint | None = None
        self._next = self._read()
        self.signed = 0  # the last size that held
        self._reason, self._failed, self._failures = "", 0, 0  # the run: why, at which size first, how many
        self._size = 0  # of the ledger, once it is known

    def pass_by(self, frontier: tree.Frontier) -> None:
        while self._next is not None and self._next.size <= frontier.size:
            root = frontier.root() if self._next.size == frontier.size else None
            self._judge(self._next, "" if root == self._next.root else "unknown" if root is None else "broken")
            self._next = self._read()

    def end(self, size: int) -> None:
        self._size = size
        while self._next is not None:
            self._judge(self._next, "cut")
            self._next = self._read()
        self._flush()

    def _read(self) -> Checkpoint | None:
        for head in self._heads:
            if isinstance(head, Finding):
                self.found.add(head)
            elif head != self._last:  # the database and a file hold the same
                self.count += 1
                self._last = head
                return head
        return None

    def _judge(self, head: Checkpoint, reason: str) -> None:
        if reason == self._reason:
            self._failures += bool(reason)
        else:
            self._flush()
            self._reason, self._failed, self._failures = reason, head.size, int(bool(reason))
        if not reason:
            self.signed = head.size

    def _flush(self) -> None:
        if not self._reason:
            return
        if self._reason == "cut" and self._last:
            missing = self._last.size - self._size
            self.found.add(
                Finding(self._failed, f"{missing} entries are missing that were signed at {self._last.size}")
            )
            return
        text = f"the checkpoint at {self._failed} cannot be checked: of an entry before it nothing is known"
        if self._reason == "broken":
            text = f"the first {self._failed} entries are not those that were signed"
        if self._reason == "broken" and self.signed:
            text += f", though the first {self.signed} are"
        if self._failures > 1:
            text += f" (and {self._failures - 1} later checkpoints likewise)"
        self.found.add(Finding(self._failed, text))
