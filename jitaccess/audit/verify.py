"""Checking the ledger: every entry against its leaf, the tree against every checkpoint. On rows or on an export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jitaccess.audit import checkpoint, tree
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and everything that does not hold; no findings means that all of it does."""

    entries: int
    checkpoints: int
    findings: tuple[str, ...]


def check(entries: Iterable[tuple[int, dict[str, Json], str | None]], heads: Iterable[checkpoint.Checkpoint]) -> Report:
    """Check (seq, entry, stored leaf hash or None) in order against checkpoints whose signatures were read already."""
    findings: list[str] = []
    leaves: list[bytes] = []
    for seq, entry, stored in entries:
        if seq != len(leaves) + 1:
            findings.append(f"entry {len(leaves) + 1} is missing or out of place (found {seq})")
            break  # from here on every leaf would be off by one
        leaf = tree.leaf_hash(canonical(entry))
        if stored is not None and leaf.hex() != stored:
            findings.append(f"entry {seq} was changed: its content does not have the hash it was given")
        leaves.append(leaf)
    nodes, count = tree.nodes_of(leaves), 0
    for head in heads:
        count += 1
        if head.size > len(leaves):
            findings.append(f"{head.size - len(leaves)} entries are missing that were signed at {head.size}")
        elif tree.root(nodes, head.size) != head.root:
            findings.append(f"the first {head.size} entries are not those that were signed")
    return Report(len(leaves), count, tuple(findings))


def read_export(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Json], str | None]]:
    """The lines of `audit export`. Raises Invalid with the line's number."""
    for number, line in enumerate(lines, start=1):
        try:
            value = strictjson.decode(line.encode())
            seq, entry = value["seq"], value["entry"]
        except (Invalid, KeyError) as error:
            raise Invalid("export.invalid", f"line {number} of the export is damaged: {error}") from error
        if not isinstance(seq, int) or isinstance(seq, bool) or not isinstance(entry, dict):
            raise Invalid("export.invalid", f"line {number} of the export is not an entry")
        yield seq, entry, None
