"""What files change and no service has an event for, in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import models

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.audit.redact import redact
from jitaccess.runtime.access_files.plan import Action, Change


def note(change: Change, row: models.Model, operator: Actor, *, action: str = "", only: Sequence[str] = ()) -> None:
    """One `configuration.changed` entry, as a page of the admin leaves it; `only` these members, or all."""
    words = {Action.CREATE: "added", Action.REMOVE: "removed"}
    record(
        Facts(
            event=Event.CONFIGURATION_CHANGED,
            actor=operator,
            data={
                "action": action or words.get(change.action, "changed"),
                "kind": str(row._meta.verbose_name),
                "id": str(row.pk),
                "name": change.key.name,
                "changes": redact(
                    {
                        path: {"from": before, "to": after}
                        for path, before, after in change.fields()
                        if not only or path.partition(".")[0] in only
                    }
                ),
            },
        )
    )
