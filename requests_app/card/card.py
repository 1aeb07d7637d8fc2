"""The card itself: plain values in the order in which an approver asks, made by one selector for every channel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.rules import Subject
from jitaccess.policy.services import uses_left
from jitaccess.policy.snapshots import SnapshotStore
from requests_app import earlier
from requests_app.card.adds import Adds, adds_of
from requests_app.card.effects import NONE, Effects, counted_each, effects_of, new_end_of
from requests_app.card.items import Block, History, blocks_of, counted, not_shown, too_long, unusual
from requests_app.card.progress import (
    DecisionLine,
    Later,
    StageLine,
    decisions_of,
    escalations_of,
    stages_of,
    tally_of,
)
from requests_app.card.rows import Relative, relatives_of
from requests_app.card.shown import LONGEST, Shown, shown
from requests_app.card.status import Status, ending_of, grant_of, status_of
from requests_app.card.usage import Used, last_of, said_of_use, used_of, uses_of
from requests_app.lifecycle import RequestKind, RequestStatus
from requests_app.selectors import AccessRequest
from requests_app.standing import Seen

# The longest text of JSON or of rules, in characters, that each channel shows whole; what is longer is for the page.
# Slack: a text object has 3,000 at most, after its escapes.
WHOLE = {"slack": 2800}
# Of the policy in force, as this process knows it: for what would be added.
SNAPSHOTS = SnapshotStore()


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoLine:
    """Who asks. Names; "" where there is nobody. `filed_by`: a person who filed it for the agent."""

    agent: str
    agent_id: UUID
    on_behalf_of: str
    owner: str
    team: str
    client: str
    issued_by: str
    filed_by: str
    description: str
    enabled: bool

    def __str__(self) -> str:
        return f"{self.agent} for {self.on_behalf_of}" if self.on_behalf_of else self.agent


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLine:
    """What it was given: moments, and the calls that are left (None: not counted)."""

    id: UUID
    starts_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    calls_left: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthLine:
    """For how long and how often. `each`: the calls are counted for each thing apart; `free`: with any arguments.

    Of an extension `old_end` and `new_end`: from where to where approving it in full moves the end of its grant.
    """

    seconds: int
    max_uses: int | None
    each: bool
    free: bool
    starts_at: datetime | None
    not_after: datetime | None
    old_end: datetime | None
    new_end: datetime | None
    grant: GrantLine | None


@dataclass(frozen=True, slots=True)
class Before:
    """How often one thing was asked for before, by how that ended (RequestStatus values); `said` in words."""

    label: str
    asked: int
    ended: Mapping[str, int]
    said: str


@dataclass(frozen=True, slots=True)
class UnusualLine:
    """`sentence` is over all tools and roles, "" when none is asked for; `first_time`: none of it was asked for before.
    `used` and `use` (a sentence, and when last): how often they were used, while it is pending; `used` is empty where
    that is not known.
    """

    sentence: str
    first_time: bool
    before: tuple[Before, ...]
    used: tuple[Used, ...] = ()
    use: str = ""
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What an approver wants asked for instead."""

    by: str
    at: datetime
    note: str


@dataclass(frozen=True, slots=True)
class WhyLine:
    """`text` is whole and inert; `written_by` "the agent" or a username; `context`: what the agent sent along."""

    text: str
    written_by: str
    ticket: str
    context: Shown | None
    changes: Changes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressLine:
    """How far approval is. `policy`, `version` and `rule` are those pinned at filing; `auto`: a rule approves by
    itself, and nobody was asked. `closing`: what was noted when it was closed. `ending` is a sentence, "" while open.
    """

    stages: tuple[StageLine, ...]
    escalations: tuple[Later, ...]
    decisions: tuple[DecisionLine, ...]
    open_until: datetime
    ending: str
    policy: str
    version: int
    rule: str
    auto: bool
    closing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A request as one reader sees it in one channel at one moment; fields in the order in which an approver asks.

    Foreign text is inert already. `adds` None: it is decided, so it adds nothing any more. `incomplete`: why it cannot
    be read whole here, "" when it can. `extends`: the request whose access it is about to lengthen.
    """

    request: UUID
    digest: str
    url: str
    kind: str
    pending: bool
    at: datetime
    asked_at: datetime
    title: str
    status: Status
    who: WhoLine
    risk: str
    blocks: tuple[Block, ...]
    adds: Adds | None
    length: LengthLine
    unusual: UnusualLine
    why: WhyLine
    progress: ProgressLine
    relatives: tuple[Relative, ...]
    effects: Effects
    incomplete: str

    @property
    def things(self) -> list[tuple[str, str]]:
        """Everything asked for: (label, as terms name it; name, as people read it)."""
        return [(thing.label, thing.name) for block in self.blocks for thing in block.things]


def card_of(seen: Seen, reader: User | None, *, channel: str, recently: bool = False) -> Card:
    """The card of a request for one reader, or for a copy that anybody in a channel reads (None: no effects).

    `seen` is of standing.look_at for that reader, or of standing.look for None. `recently`: they have just proved who
    they are. Not inside a transaction that writes: it looks at the policy in force.
    """
    request, at = seen.request, seen.at
    history = earlier.history_of(request)
    adds, used = _adds(request)
    blocks, status, longest = blocks_of(request, history), status_of(request, at), WHOLE.get(channel, LONGEST)
    incomplete = not_shown(request, longest=longest)
    if not incomplete and channel in WHOLE:
        incomplete = too_long(blocks, longest=longest)
    effects = NONE
    if reader is not None:
        effects = effects_of(
            seen, reader, channel=channel, status=status, blocks=blocks, incomplete=incomplete, recently=recently
        )
    return Card(
        request=request.pk,
        digest=request.digest,
        url=request.url,
        kind=request.kind,
        pending=request.pending,
        at=at,
        asked_at=request.created_at,
        title=title_of(request),
        status=status,
        who=_who(request),
        risk=request.risk,
        blocks=tuple(blocks),
        adds=adds,
        length=_length(request, blocks),
        unusual=_unusual(blocks, history, used),
        why=_why(request),
        progress=_progress(seen),
        relatives=tuple(relatives_of(seen)),
        effects=effects,
        incomplete=incomplete,
    )


def cards_of(seen: Sequence[Seen], reader: User) -> list[Card]:
    """The cards of several on one page: what each of them asks the database is asked about all of them at once."""
    requests = [one.request for one in seen]
    earlier.earlier_of(requests)
    items = ((one.agent_id, item) for one in requests for item in one.parsed_items)
    uses_of((agent, UUID(item["server_id"])) for agent, item in items if "server_id" in item)
    return [card_of(one, reader, channel="web") for one in seen]


def title_of(request: AccessRequest) -> str:
    """Such as "demo-agent for olga asks for access": names only, nothing that an agent wrote."""
    who = f"{request.agent.name} for {request.user.username}" if request.user else request.agent.name
    if request.kind == RequestKind.BREAK_GLASS:
        return f"{request.user.username if request.user else 'Somebody'} broke the glass for {request.agent.name}"
    asks = "asks" if request.pending else "asked"
    return f"{who} {asks} for {'more time' if request.extends_id else 'access'}"


def _adds(request: AccessRequest) -> tuple[Adds | None, tuple[Used, ...] | None]:
    """What it would add, and how much of that was used before; of what is decided neither."""
    if not request.pending:
        return None, ()
    snapshot, at = SNAPSHOTS.look(Subject(agent=request.agent_id, user=request.user_id))
    adds = adds_of(request, snapshot, at)
    return adds, used_of(request, adds, snapshot)


def _who(request: AccessRequest) -> WhoLine:
    agent = request.agent
    return WhoLine(
        agent=agent.name,
        agent_id=agent.pk,
        on_behalf_of=request.user.username if request.user else "",
        owner=agent.owner.username,
        team=agent.team.name,
        client=visible(request.client, limit=200),
        issued_by=request.issued_by.username if request.issued_by else "",
        filed_by=request.filed_by.username if request.filed_by else "",
        description=visible(agent.description, limit=300),
        enabled=agent.enabled,
    )


def _length(request: AccessRequest, blocks: Sequence[Block]) -> LengthLine:
    return LengthLine(
        seconds=request.seconds,
        max_uses=request.max_uses,
        each=counted_each(blocks),
        free=any(one.free for one in blocks),
        starts_at=request.starts_at,
        not_after=request.not_after,
        old_end=request.extends.expires_at if request.extends else None,
        new_end=new_end_of(request),
        grant=_grant(request),
    )


def _grant(request: AccessRequest) -> GrantLine | None:
    grant = grant_of(request)
    if grant is None:
        return None
    return GrantLine(
        id=grant.pk,
        starts_at=grant.starts_at,
        expires_at=grant.expires_at,
        ended_at=grant.ended_at,
        calls_left=uses_left(grant.pk),
    )


def _unusual(blocks: Sequence[Block], history: History, used: tuple[Used, ...] | None) -> UnusualLine:
    labels = {thing.key: thing.label for block in blocks for thing in block.things if thing.key}
    before = tuple(
        Before(labels[key], sum(ended.values()), dict(ended), counted(ended) or "first time")
        for key, ended in history.items()
        if key in labels
    )
    first_time = bool(before) and not any(one.asked for one in before)
    return UnusualLine(unusual(history), first_time, before, used or (), said_of_use(used), last_of(used or ()))


def _why(request: AccessRequest) -> WhyLine:
    context = json.loads(request.context)
    changes = None
    if request.pending and request.changes_at:
        note = visible(request.changes_note, limit=2000, multiline=True)
        changes = Changes(request.changes_by_name, request.changes_at, note)
    return WhyLine(
        text=visible(request.reason, limit=2000, multiline=True),
        written_by=request.filed_by.username if request.filed_by else "the agent",
        ticket=visible(request.ticket, limit=200),
        context=shown(context) if context else None,
        changes=changes,
    )


def _progress(seen: Seen) -> ProgressLine:
    request, plan = seen.request, seen.plan
    return ProgressLine(
        stages=tuple(stages_of(seen, tally_of(seen))),
        escalations=tuple(escalations_of(seen)),
        decisions=tuple(decisions_of(seen)),
        open_until=request.pending_until,
        ending=ending_of(request, seen.at),
        policy=plan.policy if plan else request.policy_name,
        version=plan.version if plan else 0,
        rule=plan.rule if plan else "",
        auto=bool(plan and plan.auto_approve),
        closing="" if request.status == RequestStatus.PENDING else visible(request.closing_note, limit=2000),
    )
