"""What can never work cannot be saved, and says where and what to change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitaccess.kernel.errors import Invalid
from jitaccess.policy.approval.document import CHANNELS, Kind, Selector, parse_policy
from tests.policy.approval.documents import ANNA, HEAD, parse, rule, text

pytestmark = pytest.mark.pure

FULL = """\
kind: approval-policy
version: v1
metadata: {name: two-person, description: Two people}
spec:
  rules:
    - name: small-reads
      when: request.minutes <= 30 && items.all(i, i.access == "read")
      auto_approve: true
    - name: everything-else
      stages:
        - groups:
            - {name: reviewers, people: ["team:demo", "user:anna"], quorum: 2}
            - {name: owners, people: [server-owners, role-owners]}
        - groups:
            - {name: on-call, people: ["schedule:ops"]}
      deny_threshold: 2
      reason: {min_length: 20, pattern: "^.*because.*$"}
      ticket: {required: true, pattern: "^[A-Z]+-[0-9]+$"}
      max_duration: 4h
      pending: 1h
      channels: [web, slack]
      step_up: true
      reminders: [45m, 15m]
      escalate: [{after: 30m, groups: [{name: managers, people: [manager]}]}]
      fallback: {name: admins, people: ["team:security"]}
      cool_down: 15m
"""


def refused(document: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_policy(document)
    assert caught.value.code == "policy.invalid"
    return caught.value


def test_a_whole_policy_is_read():
    policy = parse_policy(FULL, version=3)
    small, other = policy.rules
    assert (policy.name, policy.description, policy.version) == ("two-person", "Two people", 3)
    assert small.auto_approve
    assert small.stages == ()
    assert [[(g.name, g.quorum) for g in stage.groups] for stage in other.stages] == [
        [("reviewers", 2), ("owners", 1)],
        [("on-call", 1)],
    ]
    assert other.stages[0].groups[0].people == (Selector(Kind.TEAM, "demo"), Selector(Kind.USER, "anna"))
    assert (other.deny_threshold, other.max_seconds, other.pending_seconds) == (2, 14400, 3600)
    assert (other.channels, other.step_up, other.reminders) == (("web", "slack"), True, (900, 2700))
    assert [(one.after, one.groups[0].name) for one in other.escalations] == [(1800, "managers")]
    assert other.fallback
    assert (other.fallback.name, other.cool_down_seconds) == ("admins", 900)
    assert other.reason.min_length == 20
    assert other.ticket.required


def test_what_is_left_out_is_the_careful_default():
    [only] = parse(rule()).rules
    assert (only.deny_threshold, only.pending_seconds, only.max_seconds) == (1, 3600, None)
    assert (only.channels, only.step_up, only.auto_approve) == (CHANNELS, False, False)
    assert [group.quorum for group in only.groups()] == [1]


@pytest.mark.parametrize("quorum", ["0", "-1", "21", "'1'", "1.5", "true", "null"])
def test_a_quorum_that_is_no_number_of_people_is_refused(quorum: str):
    error = refused(text(f"name: a\nstages: [{{groups: [{{name: g, people: [team:ops], quorum: {quorum}}}]}}]"))
    assert error.params["path"] == "spec.rules[1].stages[1].groups[1].quorum"
    assert "from 1 to 20" in error.detail


def test_a_quorum_above_the_people_named_is_refused_with_what_to_change():
    said = refused(text("name: a\nstages: [{groups: [{name: g, people: [user:a, user:b], quorum: 3}]}]")).detail
    assert "a quorum of at most 2" in said
    assert "add people" in said


def test_a_quorum_above_the_people_named_may_be_met_by_a_team():
    [only] = parse("name: a\nstages: [{groups: [{name: g, people: [user:a, team:b], quorum: 3}]}]").rules
    assert [group.quorum for group in only.groups()] == [3]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("stages: [{groups: [{name: g, people: []}]}]", "an empty group could never approve"),
        ("stages: [{groups: []}]", "at least one group"),
        ("stages: []", "at least one stage"),
        ("stages: [{}]", "this key, which is missing"),
        ("stages: null", "a list"),
        ("step_up: true", "`stages:` with the people who decide, or `auto_approve: true`"),
        ("auto_approve: false", "`stages:` with the people who decide"),
        (f"{ANNA}\nfallback: {{name: f, people: []}}", "an empty group"),
        (f"{ANNA}\nescalate: [{{after: 5m, groups: []}}]", "at least one group"),
    ],
)
def test_a_rule_that_asks_nobody_is_refused(body: str, said: str):
    assert said in refused(text(f"name: a\n{body}")).detail


@pytest.mark.parametrize(
    "more",
    [
        ANNA,
        "escalate: [{after: 5m, groups: [{name: g, people: [team:a]}]}]",
        "fallback: {name: f, people: [team:a]}",
        "step_up: true",
        "deny_threshold: 2",
        "channels: [web]",
    ],
)
def test_what_would_be_ignored_beside_auto_approve_is_refused(more: str):
    error = refused(text(f"name: a\nauto_approve: true\n{more}"))
    assert "no such key beside `auto_approve: true`" in error.detail
    assert error.params["line"] == 8


def test_a_rule_after_one_without_a_condition_is_unreachable():
    error = refused(text(rule(name="first"), rule(name="second")))
    assert "no rule after 'first'" in error.detail
    assert error.params["line"] == 8


def test_a_rule_after_one_that_is_always_true_is_unreachable():
    said = refused(text(rule("when: 1 == 1 || request.minutes > 5", name="first"), rule(name="second"))).detail
    assert "no rule after 'first'" in said


@pytest.mark.parametrize("when", ["'false'", "1 > 2", "request.minutes > 5 && false"])
def test_a_condition_that_never_holds_is_refused(when: str):
    assert "false for every request" in refused(text(rule(f"when: {when}", name="first"), rule(name="second"))).detail


def test_the_condition_of_an_earlier_rule_is_refused_whatever_its_spaces():
    said = refused(
        text(
            rule("when: request.minutes<=30 && principal.agent == 'a b'", name="first"),
            rule("when: request.minutes <= 30 &&  principal.agent=='a b'", name="second"),
        )
    ).detail
    assert "another condition than that of 'first'" in said


def test_spaces_inside_a_text_of_a_condition_count():
    names = ("principal.agent == 'a b'", "principal.agent == 'ab'")
    assert len(parse(*(rule(f'when: "{when}"', name=f"r{n}") for n, when in enumerate(names))).rules) == 2


def test_a_condition_that_cannot_be_read_names_its_line():
    error = refused(text(rule("when: |\n  request.minutes <= 30 &&\n  ) nonsense")))
    assert "a condition over principal, request, items, history, time" in error.detail
    assert error.params["path"] == "spec.rules[1].when"
    line = error.params["line"]
    assert isinstance(line, int)
    assert line >= 9


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("reminders: [1h]", "less than the 3600 s after which a request expires"),
        ("escalate: [{after: 2h, groups: [{name: g, people: [team:a]}]}]", "less than the 3600 s"),
        ("pending: 10m\nreminders: [10m]", "less than the 600 s"),
        ("pending: 8d", "a duration from 1 s"),
        ("pending: 60", "in quotes"),
        ("max_duration: 0m", "a duration from 1 s"),
        ("channels: []", "or nobody could decide"),
        ("channels: [fax]", "one of web"),
        ("deny_threshold: 0", "from 1 to 20"),
        ("deny_threshold: 3", "at most 2, for no more people could deny"),
        ("reason: {min_length: -1}", "from 1 to 2000"),
        ("reason: {pattern: 'urgent*'}", "^regex$"),
        ("ticket: {pattern: '^(', required: true}", "^regex$"),
        ("ticket: {required: yes please}", "true or false"),
        ("escalation: []", "no such key here"),
        ("step_up: 1", "true or false"),
        ("name: again", "each key once"),
        ("fallback: {name: reviewers, people: [team:a]}", "reviewers is there twice"),
    ],
)
def test_what_would_never_happen_is_refused(more: str, said: str):
    assert said in refused(text(rule(more))).detail


@pytest.mark.parametrize(
    "selector",
    [
        "anna",
        "user:",
        "user:a b",
        "team:Ops",
        "team:",
        "manager:anna",
        "group:x",
        "server-owners:a",
        "schedule",
        "''",
        "7",
    ],
)
def test_people_must_be_named_as_people_are(selector: str):
    error = refused(text(f"name: a\nstages: [{{groups: [{{name: g, people: [{selector}]}}]}}]"))
    assert error.params["path"] == "spec.rules[1].stages[1].groups[1].people[1]"


def test_the_same_people_twice_are_refused():
    said = refused(text("name: a\nstages: [{groups: [{name: g, people: [team:a, team:a]}]}]")).detail
    assert "team:a once, not twice" in said


def test_two_rules_of_one_name_are_refused():
    assert "a is there twice" in refused(text(rule("when: request.extension", name="a"), rule(name="a"))).detail


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "a document with kind"),
        ("- a", "a mapping"),
        (HEAD.replace("approval-policy", "role"), "`approval-policy`"),
        (HEAD + "    []", "1 to 50 rules"),
        (HEAD, "a list"),
        (text(rule()).replace("two-person", "Two Person"), "small letters"),
        (text(*(rule(f"when: request.minutes > {n}", name=f"r{n}") for n in range(51))), "1 to 50 rules"),
    ],
)
def test_another_document_is_refused(document: str, said: str):
    assert said in refused(document).detail


@settings(max_examples=40)
@given(
    at=st.integers(0, len(FULL)),
    length=st.integers(0, 40),
    other=st.one_of(
        st.text(max_size=20),
        st.sampled_from(["[", "{}", "null", "0", "-1", ": ", "\n", "  ", "user:", "!!", "&a ", "*a"]),
    ),
)
def test_any_other_text_is_a_policy_that_somebody_has_to_approve_or_a_mistake(at: int, length: int, other: str):
    try:
        policy = parse_policy(FULL[:at] + other + FULL[at + length :])
    except Invalid as error:
        assert error.code == "policy.invalid"
        assert set(error.params) == {"line", "path", "expected"}
        return
    for one in policy.rules:
        assert one.auto_approve or one.stages
        assert all(group.quorum >= 1 and group.people for group in one.groups())
        assert one.deny_threshold >= 1
        assert all(moment < one.pending_seconds for moment in one.reminders)
