"""The pages of what one is told of: one's own, and those of teams."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from jitaccess.identity.models import Team, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Forbidden, JitAccessError, NotFound
from jitaccess.notify.allowed import GROUPS, Wishes, offered
from jitaccess.notify.models import Preference
from jitaccess.notify.preferences import Choices, set_preferences
from jitaccess.notify.webhooks.seen import endpoints_for
from requests_app.pages import page, person_of, source_of

_SAID = {"": None, "on": True, "off": False}


@page(back="notify:preferences")
@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    """One's own."""
    user = person_of(request)
    wishes = Wishes([user])
    said = {key: wishes.own(user, *key) for key in _keys()}
    inherited = {key: wishes.inherited(user, *key) for key in _keys()}
    return _answer(request, of=user, said=said, inherited=inherited, may_change=True)


@page(back="notify:team_preferences")
@require_http_methods(["GET", "HEAD", "POST"])
def team_preferences(request: HttpRequest, team_id: UUID) -> HttpResponse:
    """A team's: its members look, who may change teams changes. To others there is no such team."""
    user = person_of(request)
    team, may_change = Team.objects.filter(pk=team_id).first(), user.has_perm("jit_identity.change_team")
    if team is None or not (may_change or team.members.filter(pk=user.pk).exists()):
        raise NotFound("team.unknown", "There is no such team, or you are not in it.")
    rows = Preference.objects.filter(team=team).values_list("group", "channel", "on")
    said: dict[tuple[str, str], bool | None] = dict.fromkeys(_keys())
    said |= {(group, channel): on for group, channel, on in rows}
    return _answer(request, of=team, said=said, inherited=dict.fromkeys(_keys(), True), may_change=may_change)


def _answer(
    request: HttpRequest, *, of: User | Team, said: Choices, inherited: dict[tuple[str, str], bool], may_change: bool
) -> HttpResponse:
    user, refused = person_of(request), None
    if request.method == "POST":
        if not may_change:
            raise Forbidden("preference.forbidden", "Only who may change teams changes this.")
        given = {key: request.POST.get(_field(key), "-") for key in _keys()}
        choices = {key: _SAID[word] for key, word in given.items() if word in _SAID}
        try:
            operator = Principal.of_user(user, source=source_of(request), client="web").actor()
            changed = set_preferences(of=of, choices=choices, operator=operator)
        except JitAccessError as error:
            refused, said = error, {**said, **choices}
        else:
            messages.success(request, "Saved." if changed else "Nothing was changed.")
            return redirect(request.path)
    teams = list(user.teams.order_by("name"))
    context: dict[str, Any] = {
        "team": of if isinstance(of, Team) else None,
        "person": of if isinstance(of, User) else None,
        "ways": [(way.label, isinstance(of, Team) or way.reaches(of)) for way in offered().values()],
        "rows": [(group, _cells(group.name, said, inherited, isinstance(of, Team))) for group in GROUPS],
        "may_change": may_change,
        "refused": refused,
        "teams": [(team.name, reverse("notify:team_preferences", args=[team.pk])) for team in teams],
        "webhooks": endpoints_for(user).exists(),
    }
    return render(request, "notify/preferences.html", context, status=refused.http_status if refused else 200)


def _cells(group: str, said: Choices, inherited: dict[tuple[str, str], bool], of_team: bool) -> list[dict[str, Any]]:
    cells = []
    for channel, way in offered().items():
        key = group, channel
        default = "on" if inherited[key] else "off"
        words = [("", f"{'Default' if of_team else 'My teams'}: {default}"), ("on", "On"), ("off", "Off")]
        value = next(word for word, on in _SAID.items() if on is said.get(key))
        cells.append({"name": _field(key), "label": way.label, "value": value, "choices": words})
    return cells


def _keys() -> list[tuple[str, str]]:
    return [(group.name, channel) for group in GROUPS for channel in offered()]


def _field(key: tuple[str, str]) -> str:
    return "-".join(key)
