"""The ledger checked a second time, by nothing of ours: an export or a proof, a checkpoint and a public key in, a verdict out.

Written from RFC 6962 section 2.1, C2SP tlog-checkpoint and signed-note; JSON by the standard library. Proofs are not
followed upwards as RFC 9162 does in 2.1.3.2 and 2.1.4.2, but taken apart from the top, as 2.1.3.1 and 2.1.4.1 put them together.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def intact(export: str, note: str, key: str) -> bool:
    """Whether the export begins with exactly what the note signs, by the verifier key `key`."""
    head = _signed(note, key)
    if head is None:
        return False
    size, root = head
    lines = [_line(line) for line in export.splitlines()]
    if [seq for seq, _ in lines] != list(range(1, len(lines) + 1)) or len(lines) < size:
        return False
    return merkle([leaf for _, leaf in lines[:size]]) == root


def proves(document: str, key: str) -> bool:
    """Whether a proof document holds, by the verifier key `key`."""
    try:
        value = json.loads(document)
        head = _signed(value["checkpoint"], key)
        path = [_hash(text) for text in value["path"]]
        if head is None:
            return False
        if value.keys() == {"proof", "seq", "entry", "checkpoint", "path"}:
            known = value["proof"] == "jitaccess-inclusion-v1" and type(value["seq"]) is int
            index = value["seq"] - 1
            return known and 0 <= index < head[0] and _up(index, head[0], _leaf(value["entry"]), path) == head[1]
        old = value["old"]
        root, signed = _hash(old["root"]), old["checkpoint"]
        if value.keys() != {"proof", "old", "checkpoint", "path"} or old.keys() != {"size", "root", "checkpoint"}:
            return False
        if value["proof"] != "jitaccess-consistency-v1" or type(old["size"]) is not int:
            return False
        if not 0 < old["size"] <= head[0]:
            return False
        if signed is not None and _signed(signed, key) != (old["size"], root):
            return False
        return _both(old["size"], head[0], root, path, whole=True) == (root, head[1])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


def _signed(note: str, key: str) -> tuple[int, bytes] | None:
    """Size and root of a note with one signature, if that is good."""
    text, signature_line = note.split("\n\n")
    mark, name, signature = signature_line.removesuffix("\n").split(" ")
    public = base64.b64decode(key.strip().split("+", 2)[2])[1:]
    raw = base64.b64decode(signature, validate=True)
    hint = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    if mark != "—" or raw[:4] != hint or not key.startswith(f"{name}+{hint.hex()}+"):
        return None
    if not signature_line.endswith("\n") or base64.b64encode(raw).decode() != signature:
        return None
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], (text + "\n").encode())
    except InvalidSignature:
        return None
    _, size, root = text.split("\n")
    return int(size), base64.b64decode(root)


@lru_cache(maxsize=10_000)  # tests ask for nearly the same thousand lines again and again
def _line(line: str) -> tuple[int, bytes]:
    value = json.loads(line)
    if value.keys() != {"seq", "entry"}:
        return 0, b""
    return value["seq"], _leaf(value["entry"])


def _leaf(entry: dict[str, str | int | None]) -> bytes:
    # Only texts, whole numbers and null in an entry: then this is RFC 8785's form.
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\0" + text.encode()).digest()


def merkle(hashes: list[bytes]) -> bytes:
    """Level by level: pairs are joined, an odd one moves up as it is. For whole trees the same as RFC 6962's recursion."""
    while len(hashes) > 1:
        pairs = [_node(a, b) for a, b in zip(hashes[::2], hashes[1::2], strict=False)]
        hashes = pairs + ([hashes[-1]] if len(hashes) % 2 else [])
    return hashes[0] if hashes else hashlib.sha256(b"").digest()


def _up(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root that a leaf at `index` of `size` has with this path; the path's last hash is the root's other half."""
    if size == 1:
        if path:
            raise ValueError("too long a path")
        return leaf
    *rest, half = path  # a ValueError when it is too short
    left = _left(size)
    if index < left:
        return _node(_up(index, left, leaf, rest), half)
    return _node(half, _up(index - left, size - left, leaf, rest))


def _both(old: int, new: int, old_root: bytes, path: list[bytes], *, whole: bool) -> tuple[bytes, bytes]:
    """The roots of `old` and of `new` leaves that this path leads to. `whole`: the old root is what this part has."""
    if old == new:
        if len(path) != (not whole):
            raise ValueError("a path of another length")
        return (old_root, old_root) if whole else (path[0], path[0])
    *rest, half = path
    left = _left(new)
    if old <= left:
        first, second = _both(old, left, old_root, rest, whole=whole)
        return first, _node(second, half)
    first, second = _both(old - left, new - left, old_root, rest, whole=False)
    return _node(half, first), _node(half, second)


def _left(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _hash(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != 32 or raw.hex() != text:
        raise ValueError("not a hash")
    return raw
