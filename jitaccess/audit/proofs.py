"""Proof documents: that an entry is in the ledger, or that the ledger only grew, checked with public keys alone. Pure.

JSON, hashes in lower-case hex, checkpoints as signed notes:

    {"proof": "jitaccess-inclusion-v1", "seq", "entry", "checkpoint", "path"}            RFC 9162 section 2.1.3
    {"proof": "jitaccess-consistency-v1", "old": {"size", "root", "checkpoint" or null},
     "checkpoint", "path"}                                                               RFC 9162 section 2.1.4

`seq` counts from 1; the leaf hash is SHA-256(0x00 || RFC 8785 form of `entry`), its index `seq` - 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from jitaccess.audit import checkpoint, tree
from jitaccess.audit.checkpoint import Checkpoint, Verifier
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject, JsonView
from jitaccess.kernel.text import visible

INCLUSION = "jitaccess-inclusion-v1"
CONSISTENCY = "jitaccess-consistency-v1"


def inclusion(seq: int, entry: Mapping[str, JsonView], note: str, path: Sequence[bytes]) -> dict[str, JsonView]:
    """The document for entry `seq` of the tree that `note` signs."""
    return {"proof": INCLUSION, "seq": seq, "entry": entry, "checkpoint": note, "path": [one.hex() for one in path]}


def consistency(old: Checkpoint, old_note: str | None, note: str, path: Sequence[bytes]) -> dict[str, JsonView]:
    """The document for the growth from `old`, which `old_note` signs if anything does, to what `note` signs."""
    start: JsonView = {"size": old.size, "root": old.root.hex(), "checkpoint": old_note}
    return {"proof": CONSISTENCY, "old": start, "checkpoint": note, "path": [one.hex() for one in path]}


def check(document: bytes, verifiers: Collection[Verifier], held: Sequence[Checkpoint] = ()) -> str:
    """What the document proves, in a sentence. Raises Invalid with the check that failed.

    With `held`, checkpoints that the caller got on another way, it must be about one of them and contradict none.
    Codes: proof.document, checkpoint.invalid, proof.path, proof.held.
    """
    value = _decoded(document)
    note = _text(value, "checkpoint")
    head = checkpoint.read(note, verifiers)
    path = _path(value)
    if value["proof"] == INCLUSION:
        _insist([head], held)
        return _check_inclusion(value, head, path)
    return _check_consistency(value, head, path, verifiers, held)


def _check_inclusion(value: JsonObject, head: Checkpoint, path: list[bytes]) -> str:
    seq, entry = value["seq"], value["entry"]
    if not _whole(seq) or not isinstance(entry, dict):
        raise _damaged("`seq` or `entry` is not what it should be")
    assert isinstance(seq, int)
    try:
        leaf = tree.leaf_hash(canonical(entry))
    except Invalid as error:
        raise _damaged(f"the entry cannot be hashed: {error}") from error
    if not tree.verify_inclusion(leaf, seq - 1, head.size, path, head.root):
        raise Invalid(
            "proof.path", f"the path does not lead from this entry at place {seq} to the root signed at {head.size}"
        )
    what = " ".join(visible(str(entry.get(name, "")), limit=80) for name in ("event", "at", "uid"))
    return f"entry {seq} ({what}) is in the ledger {_name(head)} as it was signed after {head.size} entries."


def _check_consistency(
    value: JsonObject, head: Checkpoint, path: list[bytes], verifiers: Collection[Verifier], held: Sequence[Checkpoint]
) -> str:
    start = value["old"]
    if not isinstance(start, dict) or start.keys() != {"size", "root", "checkpoint"} or not _whole(start["size"]):
        raise _damaged("`old` is not what it should be")
    size, note = start["size"], start["checkpoint"]
    assert isinstance(size, int)
    old = Checkpoint(head.origin, size, _hash(start["root"]))
    if note is not None and checkpoint.read(_text(start, "checkpoint"), verifiers) != old:
        raise Invalid("proof.document", "the older checkpoint signs something else than `old` says")
    _insist([old, head], held)
    if not tree.verify_consistency(size, head.size, old.root, head.root, path):
        raise Invalid(
            "proof.path", f"the path does not lead from the root after {size} entries to the root signed at {head.size}"
        )
    signed = "which were signed as well" if note is not None or old in held else f"whose root is {old.root.hex()}"
    return (
        f"the ledger {_name(head)}, as it was signed after {head.size} entries, begins with the same {size} entries, "
        f"{signed}: of those, none was edited, deleted, moved or inserted since."
    )


def _insist(heads: list[Checkpoint], held: Sequence[Checkpoint]) -> None:
    if not held:
        return
    for own in held:
        for head in heads:
            if head.size == own.size and head != own:
                raise Invalid("proof.held", f"a checkpoint that you hold signs another root after {own.size} entries")
    if not any(head in held for head in heads):
        sizes = " or ".join(str(head.size) for head in heads)
        raise Invalid("proof.held", f"you hold no checkpoint after {sizes} entries; ask for a proof --from yours")


def _decoded(document: bytes) -> JsonObject:
    try:
        value = strictjson.decode(document)
    except Invalid as error:
        raise _damaged(str(error)) from error
    members = {INCLUSION: {"seq", "entry"}, CONSISTENCY: {"old"}}.get(str(value.get("proof")))
    # Nothing beside what is checked: it would be read as if it were proven too.
    if members is None or value.keys() != members | {"proof", "checkpoint", "path"}:
        raise _damaged("it is not a proof document of a kind known here")
    return value


def _text(value: JsonObject, name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise _damaged(f"`{name}` is not a text")
    return text


def _path(value: JsonObject) -> list[bytes]:
    path = value["path"]
    if not isinstance(path, list) or len(path) > 64:
        raise _damaged("`path` is not a list of hashes")
    return [_hash(one) for one in path]


def _hash(text: Json) -> bytes:
    raw = tree.parse_hash(text)
    if raw is None:
        raise _damaged("a hash is not 32 bytes of lower-case hex")
    return raw


def _whole(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _name(head: Checkpoint) -> str:
    return visible(head.origin, limit=80)


def _damaged(why: str) -> Invalid:
    return Invalid("proof.document", f"the document is damaged: {why}")
