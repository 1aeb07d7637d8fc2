"""Who is who in Slack: only what a person said while signed in here and confirmed there. Never by address or name."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, NotFound
from jitaccess.kernel.text import visible
from jitaccess.notify.slack.models import LinkCode, SlackLink
from jitaccess.store.clock import JitNow, now

CODE_LIFE = timedelta(minutes=10)
_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # none that looks like another
_TRIES = 5


def link_of(team: str, slack_user: str) -> SlackLink | None:
    """The link of a Slack user, while the person is active."""
    rows = SlackLink.objects.select_related("user").filter(ended_at=None, user__is_active=True)
    return rows.filter(team=team, slack_user=slack_user).first()


def issue_code(*, team: str, team_name: str, slack_user: str, slack_name: str) -> str:
    """The address of the page where whoever is signed in becomes this Slack user. Earlier ones stop working."""
    value = secrets.token_urlsafe(32)
    with transaction.atomic():
        LinkCode.objects.filter(team=team, slack_user=slack_user).delete()
        LinkCode.objects.create(
            hash=_hash(value),
            team=team,
            team_name=visible(team_name, limit=100),
            slack_user=slack_user,
            slack_name=visible(slack_name, limit=100),
            expires_at=now() + CODE_LIFE,
        )
    return f"{settings.PUBLIC_URL}/slack/link/{value}/"


def open_code(value: str) -> LinkCode:
    """An unused code. Raises NotFound for unknown, used and expired ones alike."""
    found = LinkCode.objects.filter(hash=_hash(value), used_at=None, expires_at__gt=JitNow()).first()
    if found is None or found.team != settings.SLACK_TEAM_ID:
        raise NotFound("slack.code", "This link was used or is too old. Type /access link in Slack for another one.")
    return found


def claim(*, value: str, user: User) -> str:
    """That `user` says to be the Slack user of this code. Returns what has to be typed in Slack, by that Slack user:
    whoever is sent a link of somebody else's, and believes it, has linked nobody by that. Raises NotFound, Conflict.
    """
    code = open_code(value)
    _ensure_free(code, user)
    word = "".join(secrets.choice(_LETTERS) for _ in range(8))
    # The first who says so, and nobody else: somebody has the link whom it was not given to.
    mine = LinkCode.objects.filter(Q(user=None) | Q(user=user), pk=code.pk, used_at=None)
    if not mine.update(user=user, confirmation=_confirmation(word, user)):
        raise Conflict("slack.claimed", "Somebody else opened this link. Type /access link in Slack for another one.")
    return f"{word[:4]}-{word[4:]}"


def confirm(*, team: str, slack_user: str, word: str) -> SlackLink:
    """Link the Slack user, who typed this word, to whoever was told it; another Slack user of theirs is unlinked.
    Raises NotFound, Conflict.
    """
    waiting = LinkCode.objects.filter(team=team, slack_user=slack_user, used_at=None, expires_at__gt=JitNow())
    code = waiting.filter(user__is_active=True).select_related("user").first()
    # Counted before it is looked at, and not taken back with what follows.
    if code is None or not waiting.filter(pk=code.pk, tries__lt=_TRIES).update(tries=F("tries") + 1):
        raise NotFound("slack.word", "No link of yours waits for a code. Type /access link and open what you get.")
    assert code.user
    typed = _confirmation(word.replace("-", "").upper(), code.user)
    if not hmac.compare_digest(typed, code.confirmation):
        raise NotFound("slack.word", "That is not the code that the page shows.")
    return _link(code, code.user, f"slack {team}/{slack_user}")


def _link(code: LinkCode, user: User, source: str) -> SlackLink:
    try:
        with transaction.atomic():
            moment = now()
            # Of a word that was replaced meanwhile, or typed twice at once, nothing comes.
            if not LinkCode.objects.filter(pk=code.pk, used_at=None, confirmation=code.confirmation).update(
                used_at=moment
            ):
                raise NotFound("slack.code", "This code was used already.")
            _ensure_free(code, user)
            actor = Principal.of_user(user, source=source).actor()
            for old in SlackLink.objects.filter(user=user, team=code.team, ended_at=None):
                _end(old, actor)
            made = SlackLink.objects.create(
                user=user, team=code.team, slack_user=code.slack_user, slack_name=code.slack_name, linked_at=moment
            )
            record(Facts(event=Event.SLACK_LINKED, actor=actor, at=moment, data=_told(made)))
    except IntegrityError as error:
        raise Conflict("slack.linked", "Somebody was linked at the same moment. Look again.") from error
    return made


def _ensure_free(code: LinkCode, user: User) -> None:
    other = SlackLink.objects.filter(team=code.team, slack_user=code.slack_user, ended_at=None)
    if other.exclude(user=user).exists():
        raise Conflict("slack.linked", "This Slack user is linked to somebody else, who has to unlink first.")


def _confirmation(word: str, user: User) -> str:
    """Good for nothing once this person was signed out everywhere, or has another password."""
    return _hash(f"{word} {user.get_session_auth_hash()}")


def unlink(*, user: User, source: str) -> int:
    """End the links of this person; returns how many there were."""
    with transaction.atomic():
        rows = list(SlackLink.objects.filter(user=user, ended_at=None))
        return sum(_end(row, Principal.of_user(user, source=source).actor()) for row in rows)


def disown(*, team: str, slack_user: str) -> int:
    """End the link of whoever uses this Slack account: also one that they were talked into."""
    with transaction.atomic():
        rows = SlackLink.objects.filter(team=team, slack_user=slack_user, ended_at=None).select_related("user")
        return sum(_end(row, Principal.of_user(row.user, source=f"slack {team}/{slack_user}").actor()) for row in rows)


def unlink_inactive() -> int:
    """End the links of people who are no longer active: should they come back, they link again."""
    rows = SlackLink.objects.filter(ended_at=None, user__is_active=False).select_related("user")
    if not rows.exists():
        return 0
    with transaction.atomic():
        return sum(_end(row, Actor.system("slack")) for row in rows)


def _end(link: SlackLink, actor: Actor) -> int:
    ended = SlackLink.objects.filter(pk=link.pk, ended_at=None).update(ended_at=now())
    if ended:
        record(Facts(event=Event.SLACK_UNLINKED, actor=actor, data=_told(link)))
    return ended


def _told(link: SlackLink) -> dict[str, str]:
    return {"of_user": link.user.username, "team": link.team, "slack_user": link.slack_user}


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
