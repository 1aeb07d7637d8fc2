"""Changing what people and teams are told of."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json
from jitaccess.notify.allowed import GROUPS, Wishes, offered
from jitaccess.notify.models import Preference

# By (group, channel); None takes back what was said.
Choices = Mapping[tuple[str, str], bool | None]


def set_preferences(*, of: User | Team, choices: Choices, operator: Actor) -> bool:
    """Keep what was chosen; returns whether anything changed. What `choices` does not name stays as it is.

    Raises Invalid for a group or channel that is not there, and when nothing would be left by which somebody hears
    of what waits for them.
    """
    known = {(group.name, channel) for group in GROUPS for channel in offered()}
    if not choices.keys() <= known:
        raise Invalid("preference.unknown", "There is no such event or channel.")
    whose = {"user": of} if isinstance(of, User) else {"team": of}
    with transaction.atomic():
        table = User if isinstance(of, User) else Team
        table.objects.select_for_update().get(pk=of.pk)  # two pages at once: one after the other
        rows = {(row.group, row.channel): row for row in Preference.objects.filter(**whose)}
        before = {key: row.on for key, row in rows.items()}
        _keep_a_way(of, {**before, **choices})
        changes: dict[str, Json] = {}
        for key, on in choices.items():
            if before.get(key) == on:
                continue
            changes["/".join(key)] = {"from": before.get(key), "to": on}
            if on is None:
                rows[key].delete()
            else:
                Preference.objects.update_or_create(**whose, group=key[0], channel=key[1], defaults={"on": on})
        if changes:
            data: dict[str, Json] = {"of": next(iter(whose)), "id": str(of.pk), "name": str(of), "changes": changes}
            record(Facts(event=Event.PREFERENCE_CHANGED, actor=operator, data=data))
    return bool(changes)


def _keep_a_way(of: User | Team, chosen: Choices) -> None:
    wishes = Wishes([of]) if isinstance(of, User) else None
    for group in GROUPS:
        if not group.needed:
            continue
        ways = []
        for channel in offered():
            on = chosen.get((group.name, channel))
            inherited = wishes.inherited(of, group.name, channel) if wishes and isinstance(of, User) else True
            ways.append(inherited if on is None else on)
        if ways and not any(ways):
            detail = f'Leave one way on for "{group.label}": somebody waits for an answer.'
            raise Invalid("preference.silent", detail)
