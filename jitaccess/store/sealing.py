"""The key ring of this installation. Where it lies in a file it is followed while it changes, without a restart."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from django.conf import settings

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.secretbox import KeyRing

log = logging.getLogger("jitaccess.keys")

_lock = threading.Lock()
_seen: tuple[object, KeyRing] | None = None


def ring() -> KeyRing:
    """The ring as it is now. A file that cannot be read or understood leaves the last one in force, and says so once.

    Raises Invalid("keyring.invalid") when there never was a good one.
    """
    global _seen  # noqa: PLW0603 - one ring a process, as there is one settings module
    with _lock:
        mark = _mark()
        if _seen is None or _seen[0] != mark:
            try:
                _seen = mark, KeyRing.from_text(ring_text())
            except (OSError, UnicodeDecodeError, Invalid) as error:
                if _seen is None or isinstance(mark, str):
                    raise _unusable(error) from None
                log.error("the key ring %s cannot be used, the last one stays: %s", settings.SEALING_KEYS_FILE, error)  # noqa: TRY400
                _seen = mark, _seen[1]
        return _seen[1]


def ring_text() -> str:
    """The ring as it is written down now: a secret."""
    path = ring_file()
    return path.read_text(encoding="utf-8").strip() if path else str(settings.SEALING_KEYS)


def ring_file() -> Path | None:
    """Where the ring lies, or None when it comes from the environment."""
    path: Path | None = settings.SEALING_KEYS_FILE
    return path


def _unusable(error: Exception) -> Invalid:
    if isinstance(error, Invalid):
        return error
    why = error.strerror if isinstance(error, OSError) else "it is not text"
    return Invalid("keyring.invalid", f"The key ring {ring_file()} cannot be read: {why}.")


def _mark() -> object:
    """What tells one state of the ring from the next."""
    path = ring_file()
    if path is None:
        return str(settings.SEALING_KEYS)
    try:
        found = path.stat()
    except OSError as error:
        return path, error.errno
    return path, found.st_mtime_ns, found.st_size, found.st_ino
