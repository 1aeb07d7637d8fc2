"""An example, and a real one: a folder with one file for each entitlement that somebody has right now.

Whatever can read a folder can act on it: a cron job that writes sudoers, `AuthorizedKeysCommand` of sshd, a service
that looks before it serves. The folders are under the installation's own; a row of the admin names none, because
whoever may edit rows must not thereby be able to write files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.conf import settings

from jitaccess.kernel.files import replace_file

from .protocol import Effect, Entitlement, Found, Permanent, Presence, Retryable, TargetFacts

MAX_NAME = 2000


@dataclass(frozen=True, slots=True)
class Folder:
    """The provisioner. `<root>/<id>.json` is there if and only if the entitlement is: the name is the mark."""

    root: Path

    @classmethod
    def of(cls, facts: TargetFacts) -> Folder:
        return cls(Path(settings.VAR) / "provisioned" / facts.slug)

    def describe(self) -> str:
        return f"files in {self.root}"

    def validate(self, entitlement: Entitlement) -> None:
        if len(entitlement.name) > MAX_NAME:
            raise Permanent(f"The entitlement's name is longer than {MAX_NAME} characters.")

    def grant(self, effect: Effect) -> None:
        self.validate(effect.entitlement)
        subject = effect.entitlement
        content = {"entitlement": subject.name, "agent": subject.agent_name, "user": subject.user_name}
        if not effect.in_time:
            raise Retryable("It came too late to begin.")
        try:
            replace_file(self._path(effect), json.dumps(content).encode())
        except OSError as error:
            raise Retryable(f"The file cannot be written: {error.strerror}.") from None

    def revoke(self, effect: Effect) -> None:
        if not effect.in_time:
            raise Retryable("It came too late to begin.")
        try:
            self._path(effect).unlink(missing_ok=True)
        except OSError as error:
            raise Retryable(f"The file cannot be removed: {error.strerror}.") from None

    def verify(self, effect: Effect) -> Presence:
        # Not Path.exists(), which takes a folder that cannot be read for an empty one.
        return Presence.PRESENT if self._path(effect).name in self._names() else Presence.ABSENT

    def list(self) -> Iterator[Found]:
        for name in self._names():
            if not name.startswith("."):  # a draft, about to be renamed
                yield Found(id=_id_of(name), name=name)

    def _names(self) -> set[str]:
        try:
            return {path.name for path in self.root.iterdir()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise Retryable(f"The folder cannot be read: {error.strerror}.") from None

    def _path(self, effect: Effect) -> Path:
        return self.root / f"{effect.id}.json"


def _id_of(name: str) -> UUID | None:
    try:
        found = UUID(name.removesuffix(".json"))
    except ValueError:
        return None
    return found if name == f"{found}.json" else None
