"""What is out of the ordinary: each rule a question to indexed rows or to the figures, each answer with its rows.

Nothing is decided by it. Somebody looks, and dismisses what is explained, with a reason, on record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Exists, F, Min, OuterRef, Sum

from jitaccess.audit.events import Event
from jitaccess.audit.models import Burst, Entry, ToolUse
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.text import is_blank, visible
from requests_app.figures import WEEK, Timed, latest_decisions, median_and_p90
from requests_app.models import AccessRequest, Grant
from requests_app.selectors import grants_live

ASKS, DAY = 20, timedelta(days=1)
SLOW = timedelta(hours=1)
REFUSALS, REPEATS = 10, 3
TEN_MINUTES = timedelta(minutes=10)
QUICK, FEWEST_DECISIONS = timedelta(seconds=3), 5
MOST = 100  # findings of a rule
_REASON = 500
_DISMISSED = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`key` names it among those of its rule. `number` is how many rows are behind it: entries of the ledger that
    `activity` finds (its filter, by field), or `requests`. Names are as stored: hostile.
    """

    key: str
    name: str
    text: str
    number: int
    at: datetime
    activity: dict[str, str] = field(default_factory=dict)
    requests: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """`unit`: what `number` counts. `about` is for people who have to judge it."""

    slug: str
    title: str
    about: str
    unit: str
    find: Callable[[datetime], list[Finding]]


def rule_of(slug: str) -> Rule:
    """Raises NotFound."""
    for rule in RULES:
        if rule.slug == slug:
            return rule
    raise NotFound("anomaly.unknown", "There is no such rule.")


def findings_of(rule: Rule, at: datetime) -> list[Finding]:
    """The first 100, the worst first."""
    return rule.find(at)[:MOST]


def dismissed(at: datetime) -> frozenset[tuple[str, str]]:
    """(rule, key) of what somebody has explained in the last thirty days."""
    rows = Entry.objects.filter(event=Event.ANOMALY_DISMISSED).order_by("-uid").values_list("at", "data")[:1000]
    told = (json.loads(data) for moment, data in rows if moment >= at - _DISMISSED)
    return frozenset((str(one["rule"]), str(one["key"])) for one in told)


def dismiss(*, rule: Rule, key: str, reason: str, operator: Actor, at: datetime) -> None:
    """Put on record why something is in order; it is not shown for thirty days. Raises Invalid, NotFound."""
    text = reason.strip()
    if is_blank(text) or len(text) > _REASON:
        raise Invalid("anomaly.reason", f"Say in at most {_REASON} characters why this is in order.")
    found = next((one for one in findings_of(rule, at) if one.key == key), None)
    if found is None:
        raise NotFound("anomaly.unknown", "That is not out of the ordinary any more.")
    data = {"rule": rule.slug, "key": key, "name": visible(found.name, limit=150), "reason": text}
    with transaction.atomic():
        record(Facts(event=Event.ANOMALY_DISMISSED, actor=operator, data=data))


def _unused(at: datetime) -> list[Finding]:
    """Grants for calls, for more than half of their life."""
    used = Entry.objects.filter(grant=OuterRef("pk"), event__in=(Event.CALL_AUTHORIZED, Event.GRANT_USED))
    rows = Grant.objects.filter(grants_live(live=True), ~Exists(used), starts_at__lt=at).select_related(
        "request", "agent", "user"
    )
    found = []
    for grant in rows.order_by("expires_at"):
        spent = (at - grant.starts_at) / (grant.expires_at - grant.starts_at)
        if spent <= 0.5 or _only_database(grant.request):
            continue
        left = format_duration(max(int((grant.expires_at - at).total_seconds()), 1))
        text = f"not used once in {spent:.0%} of its time; {left} left"
        activity = {"request": str(grant.request_id)}
        name = f"{grant.agent.name} for {grant.user.username}" if grant.user else grant.agent.name
        found.append(
            Finding(
                key=str(grant.pk),
                name=name,
                text=text,
                number=1,
                at=grant.starts_at,
                activity=activity,
                requests=(grant.request_id,),
            )
        )
    return found


def _only_database(request: AccessRequest) -> bool:
    """What is used in a database is not used here."""
    return all(item["kind"] == "database" for item in request.parsed_items)


def _askers(at: datetime) -> list[Finding]:
    since = _minute(at - DAY)
    rows = AccessRequest.objects.filter(created_at__gte=since).order_by()
    counts = rows.values("agent__name").annotate(n=Count("pk"), first=Min("created_at")).filter(n__gte=ASKS)
    return [
        Finding(
            key=f"{row['agent__name']} {since:%F}",
            name=row["agent__name"],
            text="requests within a day",
            number=row["n"],
            at=row["first"],
            activity={"what": Event.REQUEST_SUBMITTED, "agent": row["agent__name"], "since": _text(since)},
        )
        for row in counts.order_by("-n")[:MOST]
    ]


def _slow(at: datetime) -> list[Finding]:
    by_policy: dict[str, list[Timed]] = defaultdict(list)
    for one in latest_decisions(at):
        by_policy[one.policy].append(one)
    found = []
    for policy, some in by_policy.items():
        middle, most = median_and_p90([one.took for one in some])
        slow = tuple(dict.fromkeys(one.request for one in some if one.took > SLOW))
        if most <= SLOW:
            continue
        text = f"one in ten of {len(some)} decisions took {spoken(most)} or more; the median is {spoken(middle)}"
        found.append(Finding(key=policy, name=policy, text=text, number=len(slow), at=some[-1].at, requests=slow))
    return sorted(found, key=lambda one: -one.number)


def _quick(at: datetime) -> list[Finding]:
    by_person: dict[str, list[Timed]] = defaultdict(list)
    for one in latest_decisions(at):
        by_person[one.user_name].append(one)
    found = []
    for name, some in by_person.items():
        middle, _ = median_and_p90([one.took for one in some])
        if len(some) < FEWEST_DECISIONS or middle >= QUICK:
            continue
        text = f"half of these decisions came within {middle.total_seconds():.1f} s of the request"
        requests = tuple(dict.fromkeys(one.request for one in some))
        found.append(Finding(key=name, name=name, text=text, number=len(requests), at=some[-1].at, requests=requests))
    return sorted(found, key=lambda one: -one.number)


def _bursts(at: datetime) -> list[Finding]:
    return _troubles(at, (Event.CALL_DENIED, Event.CALL_DENIED_AGAIN), REFUSALS, "refused", "refusals in ten minutes")


def _repeats(at: datetime) -> list[Finding]:
    return _troubles(
        at, (Event.CALL_REPEATED,), REPEATS, Event.CALL_REPEATED, "times the same call again, in ten minutes"
    )


def _troubles(at: datetime, events: Sequence[Event], least: int, what: str, text: str) -> list[Finding]:
    rows = Burst.objects.filter(at__gte=at - WEEK, event__in=events).values("at", "agent", "agent_name")
    found = rows.annotate(all=Sum("n")).filter(all__gte=least).order_by("-all", "-at")[:MOST]
    return [
        Finding(
            key=f"{row['agent']} {_text(row['at'])}",
            name=row["agent_name"],
            text=text,
            number=row["all"],
            at=row["at"],
            activity={
                "what": what,
                "agent": row["agent_name"],
                "since": _text(row["at"]),
                "until": _text(row["at"] + TEN_MINUTES),
            },
        )
        for row in found
    ]


def _first(at: datetime) -> list[Finding]:
    """By agent and server: none of its tools was used before this week."""
    earlier = ToolUse.objects.filter(agent=OuterRef("agent"), server=OuterRef("server"), first__lt=at - WEEK)
    rows = ToolUse.objects.filter(~Exists(earlier), first__gte=at - WEEK).order_by()
    found = rows.values("agent", "agent_name", "server", "server_name").annotate(n=Sum("n"), begun=Min("first"))
    return [
        Finding(
            key=f"{row['agent']} {row['server']}",
            name=row["agent_name"],
            text=f"calls of {row['server_name']}, which it had never used before",
            number=row["n"],
            at=row["begun"],
            activity={"what": Event.CALL_AUTHORIZED, "agent": row["agent_name"], "server": row["server_name"]},
        )
        for row in found.order_by(F("begun").desc())[:MOST]
    ]


RULES = (
    Rule(
        "denial-bursts",
        "Bursts of refusals",
        f"An agent was refused {REFUSALS} times or more within ten minutes: it tries what it may not, or something "
        "that it needs was taken away.",
        "refusals",
        _bursts,
    ),
    Rule(
        "repeated-calls",
        "The same call again and again",
        "An agent makes the same call with the same arguments over and over: it goes round in circles.",
        "entries",
        _repeats,
    ),
    Rule(
        "unused-grants",
        "Grants that nobody uses",
        "Access that has not been used in more than half of its time. It can be revoked, or asked for shorter.",
        "request",
        _unused,
    ),
    Rule(
        "frequent-askers",
        "Frequent askers",
        f"An agent filed {ASKS} requests or more within a day: people who are asked too often stop reading. What it "
        "asks for every day may belong into a role.",
        "requests",
        _askers,
    ),
    Rule(
        "slow-approvals",
        "Slow approvals",
        "One in ten decisions under a policy took more than an hour: too few people are asked, or the wrong ones.",
        "requests",
        _slow,
    ),
    Rule(
        "quick-decisions",
        "Decisions without reading",
        "Somebody decides half of what they are asked within three seconds: too quick to have read it.",
        "requests",
        _quick,
    ),
    Rule(
        "first-use",
        "First use of a server",
        "In the last seven days an agent began to use a server that it had never used before.",
        "calls",
        _first,
    ),
)


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M}"


def spoken(took: timedelta) -> str:
    """Such as "4 s" or "1 h 30 min": no seconds beside minutes."""
    seconds = int(took.total_seconds())
    return format_duration(seconds - seconds % 60 if seconds > 60 else max(seconds, 1))


def unexplained(rule: Rule, findings: Sequence[Finding], gone: frozenset[tuple[str, str]]) -> list[Finding]:
    """Those that nobody has explained."""
    return [one for one in findings if (rule.slug, one.key) not in gone]
