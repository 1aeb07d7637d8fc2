"""Signed heads of the ledger in the formats of C2SP: signed-note and tlog-checkpoint, Ed25519. Pure.

A checkpoint says: after `size` entries the tree's root was `root`. Whoever keeps one can later show that history
before it was changed, cut or replaced.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from jitaccess.kernel.errors import Invalid

ALGORITHM = b"\x01"  # Ed25519, in signed-note's registry
MAX_NOTE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with the name it signs under; `text` is signed-note's verifier key: name+hash+base64."""

    name: str
    key: bytes

    @property
    def hint(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ALGORITHM + self.key).digest()[:4]

    @property
    def text(self) -> str:
        return f"{self.name}+{self.hint.hex()}+{base64.b64encode(ALGORITHM + self.key).decode()}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Raises Invalid("checkpoint.key") for anything that is not a verifier key whose hash fits."""
        try:
            name, hint, encoded = text.strip().split("+", 2)
            raw = _base64(encoded)
        except ValueError:
            raise Invalid("checkpoint.key", "A public key looks like name+hash+base64, on one line.") from None
        verifier = cls(name, raw[1:])
        if raw[:1] != ALGORITHM or len(raw) != 33 or verifier.hint.hex() != hint:
            raise Invalid("checkpoint.key", f"The public key of {name!r} is damaged, or not an Ed25519 key.")
        return verifier

    def accepts(self, message: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with the name it signs under."""

    name: str
    seed: bytes

    @classmethod
    def generate(cls, name: str) -> Signer:
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was signed. `origin` names the log."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign(checkpoint: Checkpoint, signers: Sequence[Signer]) -> str:
    """The signed note: body, empty line, one signature line a key (two while keys are rotated)."""
    lines = []
    for signer in signers:
        signature = signer.verifier.hint + signer.sign(checkpoint.body.encode())
        lines.append(f"— {signer.name} {base64.b64encode(signature).decode()}\n")
    return f"{checkpoint.body}\n{''.join(lines)}"


def parse_keys(text: str) -> list[Verifier]:
    """Verifier keys, one a line. Raises Invalid("checkpoint.key")."""
    return [Verifier.parse(line) for line in text.splitlines() if line.strip()]


def read(note: str, verifiers: Iterable[Verifier]) -> Checkpoint:
    """The checkpoint of a note with at least one good signature by a known key, and none that is bad.

    Raises Invalid("checkpoint.invalid"). Signatures by unknown keys are ignored, as signed-note says.
    """
    body, signatures = _parts(note)
    good = 0
    for line in signatures.removesuffix("\n").split("\n"):
        name, raw = _signature(line)
        known = [one for one in verifiers if one.name == name and one.hint == raw[:4]]
        if any(not one.accepts(body.encode(), raw[4:]) for one in known):
            raise Invalid("checkpoint.invalid", f"The checkpoint's signature by {name!r} does not hold.")
        good += bool(known)
    if not good:
        raise Invalid("checkpoint.invalid", "The checkpoint is signed by none of the known keys.")
    return _parse(body)


def claim(note: str) -> Checkpoint:
    """What a note says, with its signatures unread: for whoever only passes it on. Raises Invalid."""
    return _parse(_parts(note)[0])


def _parts(note: str) -> tuple[str, str]:
    if len(note) > MAX_NOTE or "\n\n" not in note or not note.endswith("\n"):
        raise Invalid("checkpoint.invalid", "This is not a signed checkpoint.")
    body, _, signatures = note.rpartition("\n\n")
    return body + "\n", signatures


def _base64(text: str) -> bytes:
    """Its one spelling only: b64decode ignores bits after the last byte, so that a changed text could still pass."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not the base64 of anything")
    return raw


def _signature(line: str) -> tuple[str, bytes]:
    mark, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        raw = _base64(encoded)
    except ValueError:  # also binascii.Error
        raw = b""
    if mark != "—" or not name or len(raw) < 5:
        raise Invalid("checkpoint.invalid", "A signature line of the checkpoint is damaged.")
    return name, raw


def _parse(body: str) -> Checkpoint:
    lines = body.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), _base64(lines[2])
    except (IndexError, ValueError):
        raise Invalid("checkpoint.invalid", "The checkpoint's text is damaged.") from None
    if not origin or str(size) != lines[1] or size < 0 or len(root) != 32:
        raise Invalid("checkpoint.invalid", "The checkpoint's text is damaged.")
    return Checkpoint(origin, size, root)
