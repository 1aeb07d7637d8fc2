"""Kinds of targets. Ours are here; others come with installed packages, as entry points of "jitaccess.provisioners"."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import entry_points

from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.text import is_slug, visible

from .protocol import Provisioner, TargetFacts

Make = Callable[[TargetFacts], Provisioner]
GROUP = "jitaccess.provisioners"

_kinds: dict[str, Make] = {}
_lock = threading.Lock()
_complete = False


def register(kind: str, make: Make) -> None:
    """Targets of `kind` are worked by what `make` returns. A kind is registered once: ValueError."""
    if not is_slug(kind, limit=32):
        raise ValueError(f"{kind!r} is no name of a kind: small letters, digits and inner hyphens, at most 32.")
    if kind in _kinds:
        raise ValueError(f"The kind {kind} is registered already.")
    _kinds[kind] = make


def kinds() -> list[str]:
    """All there are, in the order of the alphabet."""
    _complete_once()
    return sorted(_kinds)


def make_provisioner(kind: str, facts: TargetFacts) -> Provisioner:
    """The provisioner of one target. Raises NotFound("provisioning.kind")."""
    _complete_once()
    if kind not in _kinds:
        shown = visible(kind, limit=40)
        raise NotFound("provisioning.kind", f'No installed package brings provisioners of the kind "{shown}".')
    return _kinds[kind](facts)


def _complete_once() -> None:
    """Entry points are read when a kind is first asked for: importing them may take a while, and fail."""
    global _complete  # noqa: PLW0603 - once a process
    with _lock:
        if _complete:
            return
        from .example import Folder
        from .webhook import Webhook

        register("webhook", Webhook.of)
        register("folder", Folder.of)
        for point in entry_points(group=GROUP):
            register(point.name, point.load())
        _complete = True
