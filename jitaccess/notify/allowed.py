"""Whether somebody wants to be told of an event over a channel: as they say, else as their teams say, else yes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import models

from jitaccess.audit.events import Event
from jitaccess.identity.models import User
from jitaccess.notify.models import Preference
from jitaccess.notify.notice import ASKING, GRANT_EXPIRING
from jitaccess.notify.slack import conf
from jitaccess.notify.slack.models import SlackLink


@dataclass(frozen=True, slots=True)
class Group:
    """Events that are switched together. `needed`: of these everybody hears over one channel at least, whatever they
    switched off, because somebody waits for them.
    """

    name: str
    label: str
    about: str
    events: frozenset[str]
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """A channel that can be switched: whether this installation has it, and whether it reaches a person."""

    label: str
    offered: Callable[[], bool]
    reaches: Callable[[User], bool]


_OUTCOMES = frozenset({Event.REQUEST_APPROVED, Event.REQUEST_DENIED, Event.REQUEST_EXPIRED, Event.REQUEST_INVALIDATED})
_ENDS = frozenset(
    {
        Event.GRANT_EXPIRED,
        Event.GRANT_RELEASED,
        Event.GRANT_REVOKED,
        Event.GRANT_SUBJECT_DISABLED,
        Event.GRANT_TARGET_REMOVED,
    }
)
GROUPS: tuple[Group, ...] = (
    Group("asked", "Somebody asks me", "New requests, reminders and escalations.", ASKING, True),
    Group("break_glass", "Break-glass", "Access taken without asking, and its review.",
          frozenset({Event.BREAK_GLASS_USED, Event.BREAK_GLASS_REVIEWED}), True),
    Group("outcome", "What came of it", "Decisions on requests of my agents, or for me.", _OUTCOMES),
    Group("ending", "Access ends soon", "A word five minutes before.", frozenset({GRANT_EXPIRING})),
    Group("ended", "Access ended", "Time is up, given back or revoked.", _ENDS),
    Group("tools", "Tools changed", "What a server offers is not what was reviewed.", frozenset({Event.TOOL_CHANGED})),
    Group("webhooks", "Webhooks", "A webhook of mine is switched off as dead.",
          frozenset({Event.WEBHOOK_DISABLED})),
)  # fmt: skip
_GROUP_OF = {event: group for group in GROUPS for event in group.events}

# The log is nobody's to switch off.
WAYS: dict[str, Way] = {
    "email": Way("E-mail", lambda: "email" in settings.NOTIFY_CHANNELS, lambda user: bool(user.email)),
    "slack": Way("Slack", conf.is_on, lambda user: SlackLink.objects.filter(user=user, ended_at=None).exists()),
}


def offered() -> dict[str, Way]:
    """The channels that can be switched in this installation."""
    return {name: way for name, way in WAYS.items() if way.offered()}


class Wishes:
    """What these people want, read with two statements, however many they are."""

    def __init__(self, people: Iterable[User]) -> None:
        ids = {person.pk for person in people}
        self._own: dict[tuple[UUID, str, str], bool] = {}
        self._teams: dict[tuple[UUID, str, str], bool] = defaultdict(bool)
        if not ids:
            return
        for user, group, channel, on in _rows("user_id").filter(user__in=ids):
            self._own[user, group, channel] = on
        for user, group, channel, on in _rows("team__members").filter(team__members__in=ids):
            # Of several teams one that wants to be told is enough.
            self._teams[user, group, channel] |= on

    def want(self, user: User, event: str, channel: str) -> bool:
        group = _GROUP_OF.get(event)
        if group is None or channel not in WAYS or self.chosen(user, group.name, channel):
            return True
        if not group.needed:
            return False
        ways = [name for name, way in offered().items() if way.reaches(user)]
        return not any(self.chosen(user, group.name, name) for name in ways)

    def chosen(self, user: User, group: str, channel: str) -> bool:
        """As they said, or what they inherit."""
        own = self._own.get((user.pk, group, channel))
        return self.inherited(user, group, channel) if own is None else own

    def own(self, user: User, group: str, channel: str) -> bool | None:
        """None: they said nothing."""
        return self._own.get((user.pk, group, channel))

    def inherited(self, user: User, group: str, channel: str) -> bool:
        return self._teams.get((user.pk, group, channel), True)


def wants(user: User, event: str, channel: str) -> bool:
    """Whether to tell this person; for many people at once make one `Wishes`."""
    return Wishes([user]).want(user, event, channel)


def _rows(person: str) -> models.QuerySet[Preference, tuple[UUID, str, str, bool]]:
    return Preference.objects.values_list(person, "group", "channel", "on")
