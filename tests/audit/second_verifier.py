"""The ledger checked a second time, by nothing of ours: an export, a checkpoint and a public key in, a verdict out.

Written from RFC 6962 section 2.1, C2SP tlog-checkpoint and signed-note; JSON by the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def intact(export: str, note: str, key: str) -> bool:
    """Whether the export begins with exactly what the note signs, by the verifier key `key`."""
    text, signature_line = note.split("\n\n")
    _, name, signature = signature_line.strip().split(" ")
    public = base64.b64decode(key.strip().split("+", 2)[2])[1:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(signature)[4:], (text + "\n").encode())
    except InvalidSignature:
        return False
    _, size, root = text.split("\n")
    if not key.startswith(name + "+"):
        return False
    lines = [json.loads(line) for line in export.splitlines()]
    if [line["seq"] for line in lines] != list(range(1, len(lines) + 1)) or len(lines) < int(size):
        return False
    # Only texts, whole numbers and null in an entry: then this is RFC 8785's form.
    leaves = [
        hashlib.sha256(
            b"\0" + json.dumps(line["entry"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        ).digest()
        for line in lines[: int(size)]
    ]
    return base64.b64encode(_merkle(leaves)).decode() == root


def _merkle(hashes: list[bytes]) -> bytes:
    """Level by level: pairs are joined, an odd one moves up as it is. For whole trees the same as RFC 6962's recursion."""
    while len(hashes) > 1:
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(hashes[::2], hashes[1::2], strict=False)]
        hashes = pairs + ([hashes[-1]] if len(hashes) % 2 else [])
    return hashes[0] if hashes else hashlib.sha256(b"").digest()
