"""Small private files that are replaced as a whole: a reader sees the old content or the new one, never half."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at `path`, durably and for its owner only (mode 0600), who stays the same
    where we may see to it. Raises OSError.
    """
    path = path.resolve()  # through a link: it is the file that is meant, not its name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            # Whom the file belongs to must be able to read it still, also when root changes it.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """One holder at a time, among processes that ask: two who read, change and replace a file would lose a change."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
