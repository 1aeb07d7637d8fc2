"""Which rule decides, and what it wants to read."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.choose import (
    HistoryFacts,
    ItemFacts,
    choose,
    context_of,
    ensure_well_said,
    explain,
    risk_of,
)
from tests.policy.approval.documents import facts, parse, rule

pytestmark = pytest.mark.pure

WRITE = ItemFacts(kind="tools", server="files", tool="write_file", access="write", labels={"data": "pii"})
READ = ItemFacts(kind="tools", server="files", tool="read_file", access="read")


def first(when: str, *items: ItemFacts, **values: Any) -> bool:
    document = parse(rule(f"when: {when!r}", name="first"), rule(name="rest"))
    chosen = choose(document, facts(*items, **values))
    assert chosen
    return chosen.name == "first"


def test_the_first_rule_that_holds_decides():
    document = parse(
        rule("when: request.minutes <= 5", name="short"),
        rule("when: request.minutes <= 60", name="hour"),
        rule(name="rest"),
    )
    chosen = [choose(document, facts(seconds=seconds)) for seconds in (300, 301, 3600, 3601)]
    assert [one.name if one else None for one in chosen] == ["short", "hour", "hour", "rest"]


def test_a_request_that_no_rule_is_for_gets_none():
    assert choose(parse(rule("when: request.minutes < 5")), facts()) is None


def test_a_condition_that_fails_says_why_and_no_rule_takes_the_request():
    document = parse(rule("when: items[0].labels.data == 'pii'", name="first"), rule(name="rest"))
    said = explain(document, facts(READ).context())
    assert [(one.rule, one.matched) for one in said] == [("first", False)]
    assert said[0].error
    assert choose(document, facts(READ)) is None


def test_a_request_that_makes_a_condition_fail_is_taken_by_no_later_rule():
    document = parse(
        rule("when: items[0].labels.data == 'pii'", name="pii"),
        "name: reads\nwhen: request.minutes <= 30\nauto_approve: true",
        rule(name="rest"),
    )
    labelled = ItemFacts(kind="tools", access="read", labels={"data": "public"})
    chosen = [choose(document, facts(item)) for item in (labelled, READ)]
    assert [one.name if one else None for one in chosen] == ["reads", None]


def test_a_large_request_cannot_get_past_a_condition_into_an_automatic_approval():
    document = parse(
        rule("when: items.exists(i, i.tool == 'drop')", name="strict"),
        "name: easy\nwhen: request.minutes <= 30\nauto_approve: true",
    )
    many = [ItemFacts(kind="tools", tool=f"t{n}", labels={f"l{m}": "x" for m in range(30)}) for n in range(50)]
    assert choose(document, facts(READ))
    assert choose(document, facts(*many, ItemFacts(kind="tools", tool="drop"))) is None


def test_a_condition_that_gives_no_truth_value_does_not_hold():
    document = parse(rule("when: request.minutes + 1", name="first"), rule(name="rest"))
    assert choose(document, facts()) is None


@pytest.mark.parametrize(
    ("when", "values", "holds"),
    [
        ('principal.agent == "bot" && principal.owner == "olga"', {}, True),
        ('principal.user == ""', {}, True),
        ('"finance" in principal.user_teams', {"user": "ute", "user_teams": ("finance",)}, True),
        ('principal.agent_labels.env == "prod"', {"agent_labels": {"env": "prod"}}, True),
        ('has(principal.agent_labels.env) && principal.agent_labels.env == "prod"', {}, False),
        ('principal.agent_team == "core"', {"agent_team": "core"}, True),
        ("request.max_uses <= 5", {}, False),
        ('request.ticket.startsWith("OPS-")', {"ticket": "OPS-1"}, True),
        ("request.extension", {"extension": True}, True),
        ('request.risk == "low"', {}, True),
        ("request.starts_in_minutes > 60", {"starts_in": timedelta(minutes=60, seconds=1)}, True),
        ("history.denied > 0", {"history": HistoryFacts(denied=1)}, True),
        ("history.approved >= 3 && history.denied == 0", {"history": HistoryFacts(approved=3)}, True),
        ('time < timestamp("2026-05-05T00:00:00Z")', {}, True),
        ("time.getHours() < 8", {}, False),
    ],
)
def test_a_condition_sees_the_request(when: str, values: dict[str, Any], holds: bool):
    assert first(when, **values) is holds


@pytest.mark.parametrize(
    ("when", "items", "holds"),
    [
        ('items.all(i, i.access == "read")', [READ], True),
        ('items.all(i, i.access == "read")', [READ, WRITE], False),
        ('items.exists(i, "data" in i.labels && i.labels.data == "pii")', [READ, WRITE], True),
        ('items.exists(i, i.server == "files" && i.tool == "write_file")', [WRITE], True),
        ("items.all(i, i.exact)", [ItemFacts(kind="call", exact=True)], True),
        ('items[0].kind == "role" && items[0].role == "admin"', [ItemFacts(kind="role", role="admin")], True),
        (
            'items.exists(i, i.database == "shop" && "select" in i.privileges && i.objects.size() == 1)',
            [ItemFacts(kind="database", database="shop", objects=("public.a",), privileges=("select",))],
            True,
        ),
    ],
)
def test_a_condition_sees_every_item(when: str, items: list[ItemFacts], holds: bool):
    assert first(when, *items) is holds


def test_what_lasts_a_second_longer_is_not_within_the_minutes():
    assert first("request.minutes <= 30", seconds=1800)
    assert not first("request.minutes <= 30", seconds=1801)


@pytest.mark.parametrize(
    ("items", "risk"),
    [
        ([READ], "low"),
        ([READ, WRITE], "medium"),
        ([READ, ItemFacts(kind="tools", access="destructive")], "high"),
        ([ItemFacts(kind="tools", access="unclassified")], "high"),
        ([ItemFacts(kind="role", role="admin")], "high"),
        ([READ, ItemFacts(kind="tools", access="read", labels={"risk": "critical"})], "critical"),
        ([ItemFacts(kind="tools", access="destructive", labels={"risk": "low"})], "high"),
        ([ItemFacts(kind="tools", access="read", labels={"risk": "whatever"})], "low"),
        ([], "high"),
    ],
)
def test_the_worst_item_is_the_risk(items: list[ItemFacts], risk: str):
    assert risk_of(items) == risk


def test_pinned_facts_give_the_same_answers_later():
    asked = facts(WRITE, READ, user="ute", history=HistoryFacts(denied=2), starts_in=timedelta(hours=1))
    assert context_of(json.loads(canonical(asked.pinned()))) == asked.context()


@pytest.mark.parametrize(
    ("more", "reason", "ticket", "code"),
    [
        ("", "", "", ""),
        ("reason: {min_length: 5}", "  abc  ", "", "request.reason"),
        ("reason: {min_length: 5}", "abcde", "", ""),
        ('reason: {pattern: "^.*because.*$"}', "so there", "", "request.reason"),
        ('reason: {pattern: "^.*because.*$"}', "just because", "", ""),
        ("ticket: {required: true}", "", "", "request.ticket"),
        ("ticket: {required: true}", "", "any", ""),
        ('ticket: {pattern: "^OPS-[0-9]+$"}', "", "", ""),
        ('ticket: {pattern: "^OPS-[0-9]+$"}', "", "OPS-", "request.ticket"),
        ('ticket: {pattern: "^OPS-[0-9]+$"}', "", "OPS-7", ""),
    ],
)
def test_a_rule_says_what_it_wants_to_read(more: str, reason: str, ticket: str, code: str):
    [only] = parse(rule(more)).rules
    if not code:
        ensure_well_said(only, reason=reason, ticket=ticket)
        return
    with pytest.raises(Invalid) as caught:
        ensure_well_said(only, reason=reason, ticket=ticket)
    assert caught.value.code == code
