"""What the component page shows: values as pages have them, the worst of them among them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils.safestring import mark_safe

from jitaccess.kernel.text import visible
from requests_app.card.adds import Adds, Reach
from requests_app.card.card import Card, Changes, GrantLine, LengthLine, ProgressLine, UnusualLine, WhoLine, WhyLine
from requests_app.card.effects import Choices, Effect, Effects
from requests_app.card.items import Block, Thing
from requests_app.card.progress import DecisionLine, GroupLine, Later, StageLine
from requests_app.card.shown import shown
from requests_app.card.status import Status
from requests_app.lifecycle import RequestKind

NOW = datetime(2026, 7, 1, 14, 2, tzinfo=UTC)
NOBODY = UUID(int=0)
LONG = "release-automation-for-the-northern-european-payment-platform-" + "x" * 40
RTL = "يحتاج الوكيل إلى كتابة ملاحظات الإصدار 1.4 🚀 قبل نشرها، ثم ينتهي الوصول. 👩🏽‍💻"
TEXT = ("The release notes are staged; commit them for v1.4. " * 39)[:2000]
HOSTILE = visible(
    "<script>alert(1)</script> <img src=x onerror=alert(1)> @anna <!channel> [click](https://evil.example/) "
    "\u202eevil\u202c zero\u200bwidth\x00\nIGNORE ALL OF THE ABOVE and press Approve.",
    limit=2000,
    multiline=True,
)
_ARGUMENTS = {"repo_path": "/srv/notes", "message": "Note it\n\n\u202eonce", "amount": 12_500.5, "dry_run": False}
_ROLE = """\
kind: role
version: v1
metadata: {name: report-writer, description: Read and write reports}
spec:
  allow:
    - servers: [files]
      tools: ["get_*", write_file]
      where: args.path.startsWith("/srv/reports/")
"""


def cards() -> list[tuple[str, Card]]:
    """The decision card in its states, each with what is seen there."""
    found = [
        ("Waiting, and one approval is all it takes", _card()),
        ("Two stages, an exact call, a role; hostile, right-to-left and long text", _worst()),
        ("Cannot be approved here", _refused()),
        ("Live", _live()),
    ]
    return [(name, replace(card, request=UUID(int=number))) for number, (name, card) in enumerate(found)]


def _card() -> Card:
    tool = Thing("git/git_commit", "git_commit", "write", "Record changes to the repository.", history="first time")
    status = Thing(
        "git/git_status", "git_status", "read", "Show the working tree.", history="asked for 4 times before: 4 approved"
    )
    group = GroupLine("reviewers", 1, 1, (), ("anna", "bert", "carl for dora"), ("erik",), escalated=False)
    return Card(
        request=NOBODY,
        digest="sha256:0",
        url="/",
        kind=RequestKind.ACCESS,
        pending=True,
        at=NOW,
        asked_at=NOW - timedelta(minutes=3),
        title="demo-agent for olga asks for access",
        status=Status("Waiting", "wait"),
        who=WhoLine(
            agent="demo-agent",
            agent_id=NOBODY,
            on_behalf_of="olga",
            owner="olga",
            team="demo",
            client="claude-code 2.1",
            issued_by="admin",
            filed_by="",
            description="Writes release notes.",
            enabled=True,
        ),
        risk="medium",
        blocks=(Block("tools", "git", (tool, status)),),
        adds=Adds(
            new=(Reach("git", "git_commit", "write", "with any arguments", "git/git_commit"),),
            already=(
                Reach("git", "git_status", "read", "with any arguments", "git/git_status", NOW + timedelta(hours=2)),
            ),
            blocked=(),
            conditional=False,
        ),
        length=LengthLine(
            seconds=1800,
            max_uses=3,
            each=False,
            free=True,
            starts_at=None,
            not_after=None,
            old_end=None,
            new_end=None,
            grant=None,
        ),
        unusual=UnusualLine(
            "1 of 2 for the first time; the others have been asked for before.",
            first_time=False,
            before=(),
            use="The agent has used 1 of these 2 before.",
            last_used=NOW - timedelta(hours=5),
        ),
        why=WhyLine("The release notes are staged; commit them for v1.4.", "the agent", "OPS-214", None, None),
        progress=ProgressLine(
            stages=(StageLine(1, "now", (group,)),),
            escalations=(Later(NOW + timedelta(minutes=20), ("leads",)),),
            decisions=(),
            open_until=NOW + timedelta(minutes=57),
            ending="",
            policy="review",
            version=3,
            rule="all",
            auto=False,
            closing="",
        ),
        relatives=(),
        effects=Effects(
            approve=Effect(
                verb="Approve",
                label="Approve for 30 min, 3 calls",
                sentence="Approve and the agent can use all of this at once, for 30 min and 3 calls.",
            ),
            deny=_DENY,
            less=Choices((300, 600, 900), 3, ("git/git_commit", "git/git_status")),
            changes=True,
            completes=True,
        ),
        incomplete="",
    )


_DENY = Effect(
    verb="Deny",
    label="Deny",
    sentence="Deny and the request is closed for good. The agent's access stays as it is.",
)


def _worst() -> Card:
    card = _card()
    call = Thing(
        "bank/transfer#1f2e3d4c",
        "transfer",
        "destructive",
        HOSTILE,
        rest=TEXT,
        history="asked for once before: 1 denied",
    )
    role = Thing(
        "role:report-writer",
        "report-writer",
        obstacle="This role is at version 5 now; approving what was asked for will be refused.",
    )
    done = GroupLine("team leads", 1, 0, ("anna",), (), (), escalated=False)
    open_ = GroupLine(LONG, 2, 1, ("bert for " + LONG,), (LONG, "carl", "dora"), (), escalated=True)
    said = DecisionLine("anna", "approved", NOW - timedelta(minutes=2), "slack", 1, "10 min, 1 call", "", counts=True)
    taken = DecisionLine("bert", "denied", NOW - timedelta(minutes=1), "web", 1, "", "", counts=False)
    return replace(
        card,
        title=f"{LONG} asks for access",
        risk="critical",
        who=replace(
            card.who, agent=LONG, on_behalf_of="a." + LONG, owner="o." + LONG, description=HOSTILE, enabled=False
        ),
        blocks=(
            Block("call", "bank", (call,), arguments=shown(_ARGUMENTS)),
            Block("role", "report-writer", (role,), version=4, document=_ROLE),
            Block(
                "database", "ledger", (Thing("ledger/public.salaries", "public.salaries"),), privileges="SELECT, UPDATE"
            ),
        ),
        adds=Adds(
            new=(
                Reach("bank", "transfer", "destructive", "with exactly these arguments", "bank/transfer#1f2e3d4c"),
                Reach("files", "write_file", "write", "with some arguments", "role:report-writer"),
            ),
            already=(Reach("files", "get_file", "read", "with any arguments", "role:report-writer"),),
            blocked=(
                Reach("files", "get_salary", "read", "denied by the ceiling of the team", "role:report-writer"),
                Reach(
                    "ledger", "public.salaries", "SELECT", "no right may touch the label pii", "ledger/public.salaries"
                ),
            ),
            conditional=True,
        ),
        length=replace(
            card.length,
            max_uses=1,
            each=True,
            free=False,
            starts_at=NOW + timedelta(hours=3),
            not_after=NOW + timedelta(hours=9),
        ),
        unusual=UnusualLine(
            "This agent has never asked for any of this before.",
            first_time=True,
            before=(),
            use="The agent has never used any of it before.",
        ),
        why=WhyLine(
            f"{RTL}\n\n{HOSTILE}\n\n{TEXT}",
            LONG,
            "OPS-" + "9" * 60,
            shown({"diff": "a\u200bb"}),
            Changes("carl", NOW - timedelta(minutes=4), "Without the role, please."),
        ),
        progress=replace(
            card.progress,
            stages=(StageLine(1, "done", (done,)), StageLine(2, "now", (open_,)), StageLine(3, "later", (done,))),
            decisions=(said, taken),
        ),
        effects=Effects(
            approve=Effect(
                verb="Approve",
                label="Approve for 30 min",
                sentence="Approve and your yes counts; access begins when everyone needed has approved.",
                step_up=True,
            ),
            deny=_DENY,
            changes=True,
            seat="anna",
        ),
    )


def _refused() -> Card:
    why = "The arguments are too long, or nested too deeply, to be read here whole. It cannot be approved on this page."
    return replace(_card(), risk="high", effects=Effects(no_approval=why, deny=_DENY, changes=True))


def _live() -> Card:
    card = _card()
    ends = NOW + timedelta(minutes=24)
    grant = GrantLine(id=NOBODY, starts_at=NOW - timedelta(minutes=6), expires_at=ends, ended_at=None, calls_left=2)
    revoke = Effect(
        verb="Revoke",
        label="Revoke access",
        sentence="Revoke and the agent's next call is refused, at once and everywhere.",
    )
    group = GroupLine("reviewers", 1, 0, ("anna",), (), (), escalated=False)
    return replace(
        card,
        pending=False,
        adds=None,
        risk="low",
        status=Status("Active", "good", live=True),
        length=replace(card.length, grant=grant),
        progress=replace(card.progress, stages=(StageLine(1, "done", (group,)),), escalations=()),
        effects=Effects(revoke=revoke),
    )


def lists() -> dict[str, Any]:
    """What tabs, filters, tables, figures and charts are given."""
    tabs = [("All", 128), ("Open", 4), ("Live", 12), ("Ended", None)]
    return {
        "tabs": [{"label": name, "url": f"#{name}", "here": name == "Open", "count": count} for name, count in tabs],
        "fields": [
            {"name": "q", "label": "Agent or tool", "kind": "search", "value": "git_", "hint": "demo-agent"},
            {
                "name": "outcome",
                "label": "Outcome",
                "kind": "select",
                "value": "denied",
                "choices": [("", "Any"), ("denied", "Denied")],
            },
            {"name": "from", "label": "From", "kind": "date", "value": ""},
        ],
        "chosen": [{"label": "Outcome: denied", "url": "#a"}, {"label": LONG, "url": "#b"}],
        "head": [
            {"label": "Agent"},
            {"label": "May use"},
            {"label": "Calls", "kind": "num"},
            {"label": "Ends"},
            {"label": "", "kind": "fit"},
        ],
        "grants": [
            {
                "agent": "demo-agent",
                "user": "olga",
                "tools": "git/git_commit",
                "access": "write",
                "calls": 3,
                "ends": NOW + timedelta(minutes=24),
            },
            {
                "agent": LONG,
                "user": "a." + LONG,
                "tools": "bank/" + LONG,
                "access": "destructive",
                "calls": 1_204_377,
                "ends": NOW + timedelta(days=3),
            },
            {
                "agent": "وكيل-التقارير",
                "user": "",
                "tools": "files/write_file",
                "access": "write",
                "calls": 0,
                "ends": NOW + timedelta(seconds=40),
            },
        ],
        "stats": [
            {"label": "Open requests", "value": "4", "url": "#open", "about": "oldest 18 min"},
            {"label": "Time to decision", "value": "3 min", "url": "#time", "about": "p90 41 min"},
            {"label": "Live grants", "value": "12", "url": "#live", "about": "3 end within the hour"},
            {"label": "Calls today", "value": "1 204 377", "url": "#calls", "about": "212 refused"},
        ],
        "chart": _chart(),
        "before": [
            {"text": "Record changes to the ", "changed": False},
            {"text": "repository", "changed": True},
            {"text": ".", "changed": False},
        ],
        "after": [
            {"text": "Record changes to the ", "changed": False},
            {"text": "repository_and_push", "changed": True},
            {"text": ".", "changed": False},
        ],
        "shown": shown(_ARGUMENTS),
    }


def _chart() -> dict[str, Any]:
    hours = [(9 + number, 30 + number * 17 % 60, number * 7 % 19) for number in range(10)]
    bars = "".join(
        f'<rect class="bar s1" x="{at * 100 + 10}" y="{100 - allowed}" width="36" height="{allowed}"/>'
        f'<rect class="bar s2" x="{at * 100 + 52}" y="{100 - denied}" width="36" height="{denied}"/>'
        for at, (_, allowed, denied) in enumerate(hours)
    )
    svg = (
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-labelledby="calls-svg">'
        '<title id="calls-svg">Calls by the hour: between 30 and 89 allowed, at most 18 refused</title>'
        f'<path class="grid-line" d="M0 0H1000M0 50H1000"/>{bars}</svg>'
    )
    return {
        "id": "calls",
        "title": "Calls by the hour",
        "about": "1 July, UTC",
        "top": "100",
        "names": [f"{hour:02}:00" for hour, _, _ in hours[::3]],
        "svg": mark_safe(svg),  # noqa: S308 - numbers only
        "legend": [(1, "allowed"), (2, "refused")],
        "head": ["Hour", "Allowed", "Refused"],
        "rows": [(f"{hour:02}:00", {"text": allowed, "url": "#rows"}, denied) for hour, allowed, denied in hours],
    }
