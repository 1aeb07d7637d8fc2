"""What one person may do about a request in one channel, what each button brings about; and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from jitaccess.identity.models import User
from jitaccess.identity.proof import ways_of
from jitaccess.kernel.durations import format_duration
from requests_app.approval import Vote
from requests_app.card.items import Block
from requests_app.card.progress import tally_of
from requests_app.card.status import Status
from requests_app.lifecycle import DecisionVerdict
from requests_app.selectors import AccessRequest, Decision
from requests_app.standing import Seen

SHORTER = tuple(minutes * 60 for minutes in (5, 10, 15, 30, 60, 120, 240, 480, 1440, 4320, 10080))
# Where a person who has just proved who they are is known to have.
PROVES = frozenset({"web", "api"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One button: `label` stands on it, `sentence` says what it does and begins with `verb`. `step_up`: the person has
    to prove who they are first. `digest` goes back with the decision: only what was shown is decided.
    """

    verb: str
    label: str
    sentence: str
    digest: str = ""
    needs_reason: bool = False
    step_up: bool = False

    @property
    def rest(self) -> str:
        """The sentence behind its verb."""
        return self.sentence.removeprefix(self.verb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What is offered; the services have the last word. `why_not`: why this person decides nothing at all,
    `no_approval`: why they cannot approve here, and `open_instead` that they can on the page. `seat` names in whose
    place they decide. `less`: what an approval may be narrowed to. `completes`: their approval is the last one needed.
    """

    approve: Effect | None = None
    deny: Effect | None = None
    less: Choices | None = None
    changes: bool = False
    revoke: Effect | None = None
    why_not: str = ""
    no_approval: str = ""
    seat: str = ""
    open_instead: bool = False
    completes: bool = False

    @property
    def any(self) -> bool:
        """Whether there is something to decide, or to be told about deciding."""
        return bool(self.approve or self.deny or self.no_approval)


NONE = Effects()


def effects_of(
    seen: Seen,
    reader: User,
    *,
    channel: str,
    status: Status,
    blocks: Sequence[Block],
    incomplete: str = "",
    recently: bool = False,
) -> Effects:
    """What is offered to `reader` now. `incomplete`: why what is asked for is not shown whole here.
    One query at most.
    """
    request, where = seen.request, seen.standing
    if not request.pending:
        may_revoke = status.live and where.may_revoke
        return Effects(revoke=_revoke() if may_revoke else None)
    if request.pending_until <= seen.at:
        return Effects(why_not=f"Nobody decided before {request.pending_until:%H:%M} UTC, so this request has expired.")
    if where.self_because:
        because = f"{where.self_because[0].upper()}{where.self_because[1:]}"
        return Effects(why_not=f"{because}, so somebody else has to decide.")
    mine = [one for one in seen.decisions if one.user_id == reader.pk and one.live]
    if not where.eligible and not mine:
        return Effects(why_not=_no_seat(seen, reader))
    told = Effects(deny=_deny(seen) if _denies_still(mine) else None, seat=_holder(seen, reader), changes=True)
    if no_approval := _decided_or_lost(seen, mine):
        return replace(told, no_approval=no_approval)
    assert seen.plan  # or it would be lost
    if channel not in seen.plan.channels:
        only = f"This may be approved by {' or '.join(sorted(seen.plan.channels))} only."
        return replace(told, no_approval=only, open_instead=channel != "web" and "web" in seen.plan.channels)
    if incomplete:
        here = "on this page" if channel == "web" else "here"
        return replace(told, no_approval=f"{incomplete} It cannot be approved {here}.", open_instead=channel != "web")
    return _approving(seen, reader, told, channel, blocks, step_up=seen.plan.step_up and not recently)


def without_approval(effects: Effects, why: str) -> Effects:
    """The same where a channel finds out late that it cannot show everything: approving is for the page."""
    if effects.approve is None:
        return effects
    return replace(
        effects, approve=None, less=None, no_approval=f"{why} It cannot be approved here.", open_instead=True
    )


def choices_of(request: AccessRequest) -> Choices:
    """What an approval of less may say."""
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


def new_end_of(request: AccessRequest) -> datetime | None:
    """Where approving an extension in full would move the end of its grant."""
    grant = request.extends
    if grant is None:
        return None
    moved = grant.expires_at + timedelta(seconds=request.seconds)
    return min(moved, grant.latest or moved)


def counted_each(blocks: Sequence[Block]) -> bool:
    """Whether uses are counted for several things apart: for each item, for all tools that take any arguments once."""
    return sum(not one.free for one in blocks) + any(one.free for one in blocks) > 1


def _approving(
    seen: Seen, reader: User, told: Effects, channel: str, blocks: Sequence[Block], *, step_up: bool
) -> Effects:
    if step_up and channel not in PROVES:
        why = "Approving this needs you to prove once more who you are."
        return replace(told, no_approval=why, open_instead=True)
    if step_up and not ways_of(reader):
        why = (
            "Approving this needs proof of who you are, and you have nothing to prove it by. "
            "Add a passkey or an authenticator app under Sign-in and sessions."
        )
        return replace(told, no_approval=why)
    request, completes = seen.request, _completes(seen)
    length = f"{format_duration(request.seconds)}{_uses(request, blocks, before=', ')}"
    approve = Effect(
        verb="Approve",
        label=f"Approve for {length}",
        sentence=f"Approve {_approval(seen, blocks, completes=completes)}",
        digest=request.digest,
        step_up=step_up,
    )
    less = None if step_up else choices_of(request)
    return replace(told, approve=approve, less=less or None, completes=completes)


def _approval(seen: Seen, blocks: Sequence[Block], *, completes: bool) -> str:
    request, long = seen.request, format_duration(seen.request.seconds)
    if not completes:
        return "and your yes counts; access begins when everyone needed has approved."
    if end := new_end_of(request):
        return f"and the access lasts until {end:%H:%M} UTC, {long} longer."
    if request.starts_at and request.starts_at > seen.at:
        return f"and the access begins by itself at {request.starts_at:%Y-%m-%d %H:%M} UTC, for {long}."
    return f"and the agent can {_using(blocks)} at once, for {long}{_uses(request, blocks, before=' and ')}."


def _using(blocks: Sequence[Block]) -> str:
    if len(blocks) == 1 and blocks[0].kind == "call":
        return "make this call"
    if sum(len(block.things) for block in blocks) != 1:
        return "use all of this"
    return f"use this {({'role': 'role', 'database': 'object'}).get(blocks[0].kind, 'tool')}"


def _uses(request: AccessRequest, blocks: Sequence[Block], *, before: str) -> str:
    if not request.max_uses:
        return ""
    each = " of each" if counted_each(blocks) else ""
    return f"{before}{request.max_uses} call{'' if request.max_uses == 1 else 's'}{each}"


def _deny(seen: Seen) -> Effect:
    needed = seen.plan.deny_threshold if seen.plan else 1
    closes = "and the request is closed for good. The agent's access stays as it is."
    counts = f"and your no counts; {needed} people close the request for good."
    sentence = f"Deny {counts if needed > 1 else closes}"
    return Effect(verb="Deny", label="Deny", sentence=sentence, digest=seen.request.digest)


def _revoke() -> Effect:
    sentence = "Revoke and the agent's next call is refused, at once and everywhere."
    return Effect(verb="Revoke", label="Revoke access", sentence=sentence)


def _completes(seen: Seen) -> bool:
    """Whether one more approval, from this person's seat, is all that is missing."""
    seat, tally = seen.standing.seat, tally_of(seen)
    if tally is None or seat is None:
        return False
    then = tally_of(seen, Vote(seat, None, tally.stage, DecisionVerdict.APPROVE))
    return bool(then and then.approved)


def _decided_or_lost(seen: Seen, mine: Sequence[Decision]) -> str:
    """Why nobody, or not this person any more, can approve it wherever they are."""
    if seen.plan is None:
        return "This request was filed under an older release and cannot be approved; it has to be asked for again."
    yes = [one for one in mine if one.verdict == DecisionVerdict.APPROVE]
    if yes and (seen.standing.decided is DecisionVerdict.APPROVE or not seen.standing.eligible):
        return f"You approved this at {yes[-1].at:%H:%M} UTC; others are still needed."
    return "" if seen.standing.eligible else "You denied this; others decide now."


def _denies_still(mine: Sequence[Decision]) -> bool:
    return not any(one.verdict == DecisionVerdict.DENY for one in mine)


def _no_seat(seen: Seen, reader: User) -> str:
    plan = seen.plan
    if plan and any(reader.pk in seen.people.members.get(ref, ()) for ref in plan.refs()):
        return "You are among those who may be asked, but not at this stage."
    return "You can see this request, but you are not one of its approvers."


def _holder(seen: Seen, reader: User) -> str:
    seat = seen.standing.seat
    if seat is None or seat == reader.pk:
        return ""
    return User.objects.values_list("username", flat=True).get(pk=seat)
