"""Which messages there have to be, and which of them the latest entries of the ledger touch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Max, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor, Leaf
from jitaccess.identity.models import User
from jitaccess.notify.allowed import Wishes
from jitaccess.notify.notice import GRANT_EXPIRING
from jitaccess.notify.reading import Told, audience_of, reading
from jitaccess.notify.slack.message import CHANNEL, ending_key
from jitaccess.notify.slack.models import SlackCard, SlackLink
from jitaccess.store.clock import now
from requests_app import standing
from requests_app.selectors import AccessRequest
from requests_app.services.remind import grants_ending

Kind = SlackCard.Kind
CURSOR = "slack"
ENDING_LEAD = timedelta(minutes=5)
# Whoever asked for less knows when it ends.
WORTH_A_WORD = timedelta(minutes=15)
_BACK = timedelta(minutes=2)

# Those who can decide may be others than before.
_ASKING = frozenset({Event.REQUEST_SUBMITTED, Event.DECISION_RECORDED, Event.REQUEST_REMINDED, Event.REQUEST_ESCALATED})
_AGAIN = frozenset({Event.REQUEST_REMINDED, Event.REQUEST_ESCALATED})
_ENDS = frozenset(
    {
        Event.GRANT_EXPIRED, Event.GRANT_RELEASED, Event.GRANT_REVOKED, Event.GRANT_USED_UP,
        Event.GRANT_SUBJECT_DISABLED, Event.GRANT_TARGET_REMOVED, Event.GRANT_SUPERSEDED,
    }
)  # fmt: skip
_OUTCOMES = _ENDS | {
    Event.REQUEST_APPROVED, Event.REQUEST_DENIED, Event.REQUEST_EXPIRED, Event.REQUEST_INVALIDATED,
    Event.REQUEST_CHANGES_ASKED, Event.BREAK_GLASS_USED,
}  # fmt: skip
_LINES = _ENDS | {
    Event.DECISION_RECORDED, Event.REQUEST_CHANGES_ASKED, Event.REQUEST_COMMENTED, Event.REQUEST_REMINDED,
    Event.REQUEST_ESCALATED, Event.REQUEST_EXPIRED, Event.REQUEST_CANCELLED, Event.REQUEST_SUPERSEDED,
    Event.REQUEST_INVALIDATED, Event.GRANT_ACTIVATED, Event.GRANT_SCHEDULED, Event.GRANT_EXTENDED,
    Event.BREAK_GLASS_REVIEWED,
}  # fmt: skip


def note_cards(*, limit: int = 200) -> int:
    """Read on in the ledger: add the messages that are missing, mark those that are touched. Returns entries read.

    An installation that switches Slack on begins with the present: what is long over is told to nobody.
    """
    _begin_now()
    with reading(CURSOR, _touches, limit=limit) as batch:
        latest: dict[UUID, int] = {}
        for told in batch.told:
            if told.request is not None:
                _add(list(_missing(told, told.request)))
                latest[told.request.pk] = told.seq
                _touch_extended(told.request, told.seq)
        for request, seq in latest.items():
            touch(SlackCard.objects.filter(request=request).exclude(kind=Kind.LINE), seq)
    return batch.read


def touch(cards: QuerySet[SlackCard], seq: int) -> None:
    """These have to say what is so at `seq`. One that Slack refused for good gets another chance."""
    ids = list(cards.filter(wanted_seq__lt=seq).values_list("pk", flat=True))
    rows, moment = SlackCard.objects.filter(pk__in=ids), now()
    rows.update(wanted_seq=seq)
    rows.filter(due_at=None).update(due_at=moment)
    rows.filter(dead=True).update(dead=False, attempts=0, due_at=moment)


def warn_of_ends() -> None:
    """A message, with a way to more time, before access ends, to whom it is for: one for each end."""
    soon = now() + ENDING_LEAD
    for grant in grants_ending(after=soon - _BACK, until=soon)[:500]:
        if grant.expires_at - grant.starts_at > WORTH_A_WORD:
            about = ending_key(grant.expires_at.isoformat())
            links = _links([grant.user or grant.agent.owner], GRANT_EXPIRING)
            _add([_card(grant.request_id, Kind.ENDING, one.slack_user, 1, user=one.user, about=about) for one in links])


def tell_filer(request: AccessRequest, link: SlackLink) -> None:
    """A message about their own request, for whoever filed it in Slack; it says later what became of it."""
    _add([_card(request.pk, Kind.REQUESTER, link.slack_user, 1, user=link.user)])


def _touches(event: str) -> bool:
    return event != Event.GRANT_USED and event.startswith(("request.", "decision.", "grant.", "break_glass."))


def _begin_now() -> None:
    if not Cursor.objects.filter(name=CURSOR).exists():
        with transaction.atomic():
            latest = Leaf.objects.aggregate(seq=Max("seq"))["seq"] or 0
            Cursor.objects.get_or_create(name=CURSOR, defaults={"seq": latest})


def _touch_extended(request: AccessRequest, seq: int) -> None:
    """What is decided about more time concerns the messages of the request that the grant came from, too."""
    if request.extends:
        touch(SlackCard.objects.filter(request=request.extends.request_id).exclude(kind=Kind.LINE), seq)


def _missing(told: Told, request: AccessRequest) -> Iterator[SlackCard]:
    event, seq = told.event, told.seq
    if (event == Event.REQUEST_SUBMITTED and request.pending) or event == Event.BREAK_GLASS_USED:
        for channel in settings.SLACK_CHANNELS:
            yield _card(request.pk, Kind.CHANNEL, channel, seq)
    if event in _ASKING and request.pending:
        for link in _links(standing.approvers_of(request), Event.REQUEST_SUBMITTED):
            yield _card(request.pk, Kind.PERSON, link.slack_user, seq, user=link.user)
    if event in _OUTCOMES:
        people = audience_of(told)
        # The messages of approvers say it already.
        asked = set(SlackCard.objects.filter(request=request.pk, kind=Kind.PERSON).values_list("user", flat=True))
        for link in _links([one for one in people if one.pk not in asked], event):
            yield _card(request.pk, Kind.REQUESTER, link.slack_user, seq, user=link.user)
    if event in _LINES:
        yield from _lines(told, request)


def _lines(told: Told, request: AccessRequest) -> Iterator[SlackCard]:
    """Below each card in a channel; and a reminder below those of people, who would not notice a card that changes."""
    cards = SlackCard.objects.filter(request=request.pk, kind=Kind.CHANNEL)
    if told.event in _AGAIN:
        again = audience_of(told)
        cards = cards | SlackCard.objects.filter(request=request.pk, kind=Kind.PERSON, user__in=again)
    for parent in cards:
        yield _card(request.pk, Kind.LINE, parent.place, told.seq, parent=parent, about=str(told.entry.uid))


def _links(people: Iterable[User], event: str) -> list[SlackLink]:
    everybody = [person for person in people if person.is_active]
    wishes = Wishes(everybody)
    wanted = [person.pk for person in everybody if wishes.want(person, event, CHANNEL)]
    rows = SlackLink.objects.filter(user__in=wanted, team=settings.SLACK_TEAM_ID, ended_at=None)
    return list(rows.select_related("user"))


def _card(
    request: UUID,
    kind: SlackCard.Kind,
    place: str,
    seq: int,
    *,
    user: User | None = None,
    parent: SlackCard | None = None,
    about: str = "",
) -> SlackCard:
    return SlackCard(
        request=request, kind=kind, place=place, wanted_seq=seq, user=user, parent=parent, about=about, due_at=now()
    )


def _add(cards: list[SlackCard]) -> None:
    SlackCard.objects.bulk_create(cards, ignore_conflicts=True)
