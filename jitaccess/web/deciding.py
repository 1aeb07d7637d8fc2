"""What a person may do about a request on its page: approve all or less, deny, ask for changes; and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.http import QueryDict

from jitaccess.identity.models import User
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.web.items import not_shown
from requests_app.lifecycle import DecisionVerdict
from requests_app.selectors import AccessRequest, Decision
from requests_app.services import Narrow
from requests_app.standing import Seen

CHANNEL = "web"
SHORTER = tuple(minutes * 60 for minutes in (5, 10, 15, 30, 60, 120, 240, 480, 1440, 4320, 10080))


@dataclass(frozen=True, slots=True)
class Choices:
    """What an approval may be narrowed to: durations in seconds, how many calls at most, and the things by label.

    None, and no things, where there is nothing to choose.
    """

    seconds: tuple[int, ...]
    most_uses: int | None
    labels: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.seconds or self.most_uses or self.labels)


@dataclass(frozen=True, slots=True)
class Deciding:
    """`why_not` says why this person decides nothing at all, `no_approval` why they cannot approve here. `step_up`:
    they have to prove who they are first. `seat` names in whose place they decide.
    """

    why_not: str = ""
    no_approval: str = ""
    may_deny: bool = False
    may_approve: bool = False
    step_up: bool = False
    seat: str = ""


def deciding(seen: Seen, user: User, *, recently: bool) -> Deciding:
    """What is offered to `user` now; the service has the last word."""
    request, where = seen.request, seen.standing
    if not request.pending:
        return Deciding()
    if request.pending_until <= seen.at:
        return Deciding(f"Nobody decided before {request.pending_until:%H:%M} UTC, so this request has expired.")
    if where.self_because:
        return Deciding(f"{where.self_because[0].upper()}{where.self_because[1:]}, so somebody else has to decide.")
    mine = [one for one in seen.decisions if one.user_id == user.pk and one.live]
    if not where.eligible and not mine:
        return Deciding(_no_seat(seen, user))
    seat = _holder(seen, user)
    no_approval = _no_approval(seen, mine)
    if no_approval:
        return Deciding(no_approval=no_approval, may_deny=_denies_still(mine), seat=seat)
    step_up = seen.plan is not None and seen.plan.step_up and not recently
    may_deny = _denies_still(mine)
    if step_up and not user.has_usable_password():
        why = "Approving this needs your password once more, and you have none. Ask an admin for one."
        return Deciding(no_approval=why, may_deny=may_deny, seat=seat)
    return Deciding(may_deny=may_deny, may_approve=not step_up, step_up=step_up, seat=seat)


def ensure_shown(request: AccessRequest) -> None:
    """Raise Forbidden for what a page cannot show: nobody approves what they cannot have read."""
    why = not_shown(request)
    if why:
        raise Forbidden("decision.not_shown", f"{why} It cannot be approved on this page.")


def choices_of(request: AccessRequest) -> Choices:
    """What the form for approving less offers."""
    shorter = tuple(one for one in SHORTER if one < request.seconds)
    if request.extends_id:  # a grant is extended as it is
        return Choices(seconds=shorter, most_uses=None, labels=())
    labels = request.tool_labels
    # Two things with one name could only be kept or left out together: then there is no choice between them.
    distinct = len(labels) > 1 and len(set(labels)) == len(labels)
    return Choices(
        seconds=shorter,
        most_uses=request.max_uses if request.max_uses and request.max_uses > 1 else None,
        labels=tuple(labels) if distinct else (),
    )


def narrow_of(form: QueryDict, request: AccessRequest) -> Narrow | None:
    """What the form for approving less says; None for the other form. Raises Invalid for what it cannot mean."""
    if "less" not in form:
        return None
    seconds, uses = _number(form.get("seconds", "")), _number(form.get("uses", ""))
    choices = choices_of(request)
    labels: Sequence[str] | None = form.getlist("keep") if choices.labels else None
    narrow = Narrow(
        seconds=seconds if seconds != request.seconds else None,
        max_uses=uses if uses != request.max_uses else None,
        labels=labels if labels is not None and set(labels) != set(choices.labels) else None,
    )
    if narrow == Narrow():
        raise Invalid("decision.terms", "That is all of it: choose a shorter time, fewer calls or fewer things.")
    return narrow


def _number(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdecimal() or len(text.strip()) > 9:
        raise Invalid("decision.terms", "Write how many as a whole number.")
    return int(text)


def _no_approval(seen: Seen, mine: Sequence[Decision]) -> str:
    plan, where = seen.plan, seen.standing
    if plan is None:
        return "This request was filed under an older release and cannot be approved; it has to be asked for again."
    yes = [one for one in mine if one.verdict == DecisionVerdict.APPROVE]
    if yes and (where.decided is DecisionVerdict.APPROVE or not where.eligible):
        return f"You approved this at {yes[-1].at:%H:%M} UTC; others are still needed."
    if not where.eligible:
        return "You denied this; others decide now."
    if CHANNEL not in plan.channels:
        return f"This may be approved by {' or '.join(sorted(plan.channels))} only."
    unseen = not_shown(seen.request)
    return f"{unseen} It cannot be approved on this page." if unseen else ""


def _denies_still(mine: Sequence[Decision]) -> bool:
    return not any(one.verdict == DecisionVerdict.DENY for one in mine)


def _no_seat(seen: Seen, user: User) -> str:
    plan = seen.plan
    asked = plan and any(user.pk in seen.people.members.get(ref, ()) for ref in plan.refs())
    if asked:
        return "You are among those who may be asked, but not at this stage."
    return "You can see this request, but you are not one of its approvers."


def _holder(seen: Seen, user: User) -> str:
    seat = seen.standing.seat
    if seat is None or seat == user.pk:
        return ""
    return User.objects.values_list("username", flat=True).get(pk=seat)
