"""Proofs about this installation's ledger, made from its database. Call these inside `consistent_reads`."""

from __future__ import annotations

from uuid import UUID

from jitaccess.audit import checkpoint, heads, log, proofs, tree
from jitaccess.audit.models import Checkpoint, Entry, Leaf
from jitaccess.audit.sequencer import plain
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.strictjson import JsonView


def prove_entry(uid: UUID) -> dict[str, JsonView]:
    """That an entry is in what was signed last.

    Raises NotFound, Conflict("proof.unsigned") when no checkpoint holds it yet, Conflict("proof.damaged").
    """
    leaf = Leaf.objects.filter(entry_id=uid).select_related("entry").first()
    if leaf is None and not Entry.objects.filter(uid=uid).exists():
        raise NotFound("entry.unknown", f"There is no entry {uid}.")
    note, head = _newest()
    if leaf is None or leaf.seq > head.size:
        raise Conflict("proof.unsigned", f"No checkpoint holds entry {uid} yet; one is signed each minute.")
    entry = plain(leaf.entry)
    try:
        path = tree.inclusion_proof(log.nodes(), leaf.seq - 1, head.size)
    except (IndexError, ValueError) as error:
        raise _damaged(head) from error
    if not tree.verify_inclusion(tree.leaf_hash(canonical(entry)), leaf.seq - 1, head.size, path, head.root):
        raise _damaged(head)
    return proofs.inclusion(leaf.seq, entry, note, path)


def prove_growth(size: int) -> dict[str, JsonView]:
    """That the newest checkpoint's ledger begins with its first `size` entries, as they were signed if they were.

    Raises Invalid, Conflict("proof.unsigned") when nothing of that size is signed yet, Conflict("proof.damaged").
    """
    if size < 1:
        raise Invalid("proof.size", "A ledger grows from at least one entry.")
    note, head = _newest()
    if size > head.size:
        raise Conflict("proof.unsigned", f"The newest checkpoint was signed after {head.size} entries.")
    older = Checkpoint.objects.filter(size=size).first()
    nodes = log.nodes()
    try:
        root, path = tree.root(nodes, size), tree.consistency_proof(nodes, size, head.size)
    except (IndexError, ValueError) as error:
        raise _damaged(head) from error
    old = checkpoint.Checkpoint(head.origin, size, root)
    if older is not None and _read(older.note) != old:
        raise _damaged(old)
    if not tree.verify_consistency(size, head.size, root, head.root, path):
        raise _damaged(head)
    return proofs.consistency(old, older.note if older else None, note, path)


def _newest() -> tuple[str, checkpoint.Checkpoint]:
    newest = Checkpoint.objects.first()
    if newest is None:
        raise Conflict("proof.unsigned", "No checkpoint is signed yet; one is each minute.")
    return newest.note, _read(newest.note)


def _read(note: str) -> checkpoint.Checkpoint:
    # Where there are no keys whoever gets the proof has to read the signature, as they should anyway.
    known = heads.verifiers()
    return checkpoint.read(note, known) if known else checkpoint.claim(note)


def _damaged(head: checkpoint.Checkpoint) -> Conflict:
    text = f"The ledger does not lead to what was signed after {head.size} entries: run `jitaccess audit verify`."
    return Conflict("proof.damaged", text)
