"""Checkpoints of this installation: who signs them, where copies go, and what must hold before the next is signed."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from django.conf import settings
from django.db import transaction

from jitaccess.audit import checkpoint, filed, log
from jitaccess.audit.models import Checkpoint
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.steps import step
from jitaccess.kernel.text import visible
from jitaccess.store.clock import now


def folder() -> Path:
    """Where copies go: outside the database, whose owner could otherwise rewrite history unnoticed."""
    path: Path = settings.CHECKPOINTS
    return path


def signers() -> list[checkpoint.Signer]:
    """The signing keys, newest first; none on a host that never signed. Looking makes none. Raises Invalid."""
    path = _key_file()
    if not path.exists():
        return []
    keys = [_signer(line) for line in _read(path).splitlines() if line.strip()]
    if not keys:
        raise Invalid("checkpoint.key", f"{path} holds no key. Restore it, or remove it together with {folder()}.")
    return keys


def copies() -> list[Path]:
    """The checkpoint files of this installation, oldest first, then `latest`."""
    latest = folder() / "latest"
    return [folder() / f"{size:012d}" for size in filed.numbered(folder())] + [latest] * latest.exists()


def rotate() -> checkpoint.Verifier:
    """A new key in front of the old ones; the next checkpoints are signed by the new and the last one."""
    old = _own_signers() if copies() else signers()
    new = checkpoint.Signer.generate(old[0].name if old else _new_name())
    _add_key(new)
    return new.verifier


def verifiers() -> list[checkpoint.Verifier]:
    """The public keys that this installation ever signed with; on a host without the signing keys, the published ones.

    None where there is neither. Raises Invalid.
    """
    public = published()
    if _key_file().exists() or not public.exists():
        return [signer.verifier for signer in signers()]
    return checkpoint.parse_keys(_read(public))


def published() -> Path:
    """The file of public keys beside the checkpoints, for whoever verifies."""
    return folder() / "keys"


def unknown_published() -> list[str]:
    """Findings about the file of public keys: one who trusts it would trust these too."""
    if not _key_file().exists() or not published().exists():
        return []
    known = {signer.verifier.text for signer in signers()}
    try:
        lines = _read(published()).splitlines()
    except Invalid as error:
        return [error.detail]
    strange = [line for line in lines if line.strip() and line.strip() not in known]
    return [f"{published()} names a key that never signed here: {visible(line, limit=120)}" for line in strange]


def newest_copy() -> checkpoint.Checkpoint | None:
    """The newest checkpoint that left the database. Raises Invalid when it was tampered with.

    By number and by `latest`: whoever takes one away, or puts an older one there, has not gone back in time.
    """
    return max((read_copy(path) for path in copies()[-2:]), key=lambda head: head.size, default=None)


def read_copy(path: Path) -> checkpoint.Checkpoint:
    """One checkpoint file, its signature checked. Raises Invalid, naming the file."""
    known = verifiers()
    if not known:
        raise Invalid("checkpoint.key", f"{path} cannot be checked: there is no {_key_file()}, and no {published()}.")
    try:
        return checkpoint.read(_read(path), known)
    except Invalid as error:
        raise Invalid(error.code, f"{path}: {error.detail}") from error


def ensure_grown_from_newest() -> None:
    """Refuse a ledger that does not contain what was signed before: rolled back, or rewritten. Raises Conflict."""
    known = newest_copy()
    if known is None:
        return
    size = log.size()
    if size < known.size or not _holds(known):
        what = f"has {size} entries" if size < known.size else "differs from what was signed"
        raise Conflict(
            "ledger.rolled_back",
            f"The ledger {what}, but {folder() / 'latest'} was signed after {known.size} entries: it was rolled back "
            "or changed. Restore the newest backup, or move that folder away if you did this on purpose.",
        )


def _holds(known: checkpoint.Checkpoint) -> bool:
    try:
        return log.root(known.size) == known.root
    except (IndexError, ValueError):
        return False  # a leaf or a node of the tree is missing or damaged


def sign_head() -> int | None:
    """Sign what is there now and send copies out, unless nothing is new; returns the size. Raises Conflict.

    Never signs a head that does not contain the one signed before (C2SP tlog-checkpoint).
    """
    size = log.size()
    newest = Checkpoint.objects.first()
    if size == 0 or (newest is not None and newest.size == size):
        return None
    ensure_grown_from_newest()
    keys = _own_signers()
    head = checkpoint.Checkpoint(keys[-1].name + "/ledger", size, log.root(size))
    note = checkpoint.sign(head, keys[:2])
    # The copy first: what the database says it signed has then really left it.
    numbered = folder() / f"{size:012d}"
    if numbered.exists() and read_copy(numbered) != head:
        raise Conflict("ledger.forked", f"{numbered} was signed over another history; it is evidence and stays.")
    _write(numbered, note)
    _write(folder() / "latest", note)
    _write(published(), "".join(f"{key.verifier.text}\n" for key in keys))
    step("checkpoint.copied")
    with transaction.atomic():
        Checkpoint.objects.create(size=size, note=note, at=now())
    return size


def _own_signers() -> list[checkpoint.Signer]:
    """The keys to sign with; the first is made, for its owner only, where nothing was ever signed. Raises Invalid."""
    keys = signers()
    if not keys and (copies() or Checkpoint.objects.exists()):
        raise Invalid(
            "checkpoint.key",
            f"There are checkpoints, but {_key_file()}, the keys that signed them, is not there. Restore them from "
            f"where they are. If they are lost for good, move {folder()} away and run `jitaccess audit rotate-key`.",
        )
    if not keys:
        _add_key(checkpoint.Signer.generate(_new_name()))
    return keys or signers()


def _new_name() -> str:
    return f"jitaccess-{secrets.token_hex(4)}"


def _key_file() -> Path:
    path: Path = settings.CHECKPOINT_KEYS
    return path


def _add_key(signer: checkpoint.Signer) -> None:
    path = _key_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    old = _read(path) if path.exists() else ""
    _write(path, f"{signer.name} {base64.b64encode(signer.seed).decode()}\n{old}")


def _signer(line: str) -> checkpoint.Signer:
    name, _, seed = line.partition(" ")
    try:
        raw = base64.b64decode(seed, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise Invalid("checkpoint.key", f"{_key_file()} is damaged: each line is a name and 32 bytes in base64.")
    return checkpoint.Signer(name, raw)


def _read(path: Path) -> str:
    try:
        return filed.text(path)
    except Invalid as error:
        raise Invalid(error.code, f"{path} cannot be read ({error}). Restore it.") from error


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and for its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that died; or a FIFO, which would wait for its reader
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
