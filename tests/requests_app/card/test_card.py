from __future__ import annotations

from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from jitaccess.kernel.canonical import canonical
from jitaccess.policy.locks import lock
from jitaccess.policy.models import Requestable
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from requests_app.card.card import Card, card_of
from requests_app.card.data import card_data
from requests_app.card.effects import without_approval
from requests_app.card.lines import card_lines
from requests_app.card.rows import cards_of_rows
from requests_app.models import AccessRequest
from requests_app.services import Ask, ExactCall, Privileges, approve_request, submit_request
from requests_app.standing import look, look_at
from tests.cast import OPERATOR, Cast, policy_document

pytestmark = pytest.mark.pure
HOSTILE = "Ship it\n\u202eevil\u200b <!channel> <script>"
WRITER = """\
kind: role
version: v1
metadata: {name: writer, description: Write}
spec:
  allow:
    - servers: [git]
      tools: [git_log, git_commit]
    - servers: [git]
      tools: [git_add]
      where: 'args.repo_path == "."'
  request: {max_duration: 1h, approval: review}
"""


def submit(cast: Cast, **ask: Any) -> AccessRequest:
    given = {"seconds": 1800, "reason": "Because"} | ask
    return submit_request(principal=cast.principal(), snapshot=cast.snapshot(), ask=Ask(**given)).request


def card(cast: Cast, asked: AccessRequest, who: Any = None, channel: str = "web", **more: Any) -> Card:
    reader = who or cast.anna
    return card_of(look_at(reader, asked.pk), reader, channel=channel, **more)


def names(reaches: Any) -> list[tuple[str, str]]:
    return [(one.tool, one.how) for one in reaches]


def test_a_tool_that_is_asked_for_is_new_with_any_arguments(cast: Cast) -> None:
    adds = card(cast, cast.submit("git_commit", "git_add")).adds
    assert adds
    assert names(adds.new) == [("git_add", "with any arguments"), ("git_commit", "with any arguments")]
    assert (adds.already, adds.blocked, adds.conditional, adds.unknown) == ((), (), False, "")
    assert [one.label for one in adds.of("git/git_add").new] == ["git/git_add"]


def test_what_a_grant_gives_already_adds_nothing_and_says_until_when(cast: Cast) -> None:
    asked = submit(cast, tools=[("git", "git_commit"), ("git", "git_add")])
    grant = cast.grant("git_commit", seconds=1200)
    adds = card(cast, asked).adds
    assert adds
    assert names(adds.new) == [("git_add", "with any arguments")]
    assert [(one.tool, one.until) for one in adds.already] == [("git_commit", grant.expires_at)]


def test_calls_that_are_counted_are_not_what_is_there_already(cast: Cast) -> None:
    asked = submit(cast, tools=[("git", "git_commit")])
    cast.approve(submit(cast, tools=[("git", "git_commit")], max_uses=1))
    adds = card(cast, asked).adds
    assert adds
    assert names(adds.new) == [("git_commit", "with any arguments")]


def test_one_exact_call_adds_that_call_and_not_the_tool(cast: Cast) -> None:
    first = submit(cast, calls=[ExactCall("git", "git_commit", {"message": "a"})])
    adds = card(cast, first).adds
    assert adds
    assert names(adds.new) == [("git_commit", "with exactly these arguments")]
    approve_request(request_id=first.pk, approver=cast.anna, channel="web", digest=first.digest)
    again = card(cast, submit(cast, tools=[("git", "git_commit")])).adds
    assert again
    assert names(again.new) == [("git_commit", "with any arguments")], "one call is not the tool"


def test_a_role_adds_what_its_rules_allow_beyond_what_there_is(cast: Cast) -> None:
    save_role(document=WRITER, operator=OPERATOR)
    adds = card(cast, submit(cast, roles=["writer"])).adds
    assert adds
    assert names(adds.new) == [("git_add", "with some arguments"), ("git_commit", "with any arguments")]
    assert names(adds.already) == [("git_log", "with any arguments")]
    assert adds.conditional
    assert {one.label for one in (*adds.new, *adds.already)} == {"role:writer"}


def test_privileges_on_a_database_are_new_until_they_are_held(cast: Cast) -> None:
    Requestable.objects.create(database="shop", database_objects="public.*", privileges="select", policy=cast.policy)
    first = submit(cast, privileges=[Privileges("shop", ["public.a"], ["select"])])
    adds = card(cast, first).adds
    assert adds
    assert [(one.server, one.tool, one.access) for one in adds.new] == [("shop", "public.a", "select")]


def test_what_a_lock_stops_would_stay_refused(cast: Cast) -> None:
    asked = cast.submit()
    lock(kind="agent", target=cast.agent.pk, reason="Stop", operator=OPERATOR)
    adds = card(cast, asked).adds
    assert adds
    assert adds.new == ()
    assert "lock" in adds.blocked[0].how


def test_the_effects_differ_by_who_reads(cast: Cast) -> None:
    asked = cast.submit()
    mine = card(cast, asked).effects
    assert mine.approve
    assert mine.deny
    assert mine.approve.label == "Approve for 10 min"
    assert mine.approve.sentence.startswith("Approve and the agent can use this tool at once, for 10 min")
    assert mine.approve.digest == asked.digest
    assert mine.completes
    owner = card(cast, asked, cast.olga).effects
    assert (owner.approve, owner.deny) == (None, None)
    assert "somebody else has to decide" in owner.why_not
    assert card_of(look(asked.pk), None, channel="slack").effects.approve is None


def test_an_approval_that_is_not_the_last_one_says_so(cast: Cast) -> None:
    save_policy(document=policy_document(quorum=2), operator=OPERATOR, policy=cast.policy)
    asked = cast.submit()
    effects = card(cast, asked).effects
    assert effects.approve
    assert "others" not in effects.approve.sentence
    assert not effects.completes
    approve_request(request_id=asked.pk, approver=cast.anna, channel="web", digest=asked.digest)
    assert "You approved this" in card(cast, asked).effects.no_approval
    assert card(cast, asked, cast.bert).effects.completes


def test_slack_opens_the_page_for_what_it_may_not_or_cannot_decide(cast: Cast) -> None:
    asked = cast.submit()
    assert card(cast, asked, channel="slack").effects.approve
    late = without_approval(card(cast, asked, channel="slack").effects, "There is more of it than fits here.")
    assert (late.approve, late.open_instead) == (None, True)
    long = submit(cast, calls=[ExactCall("git", "git_commit", {"message": "x" * 3000})])
    told = card(cast, long, channel="slack")
    assert told.effects.approve is None
    assert told.effects.open_instead
    assert "too long" in told.incomplete
    assert not card(cast, long).incomplete
    save_policy(document=policy_document(step_up=True), operator=OPERATOR, policy=cast.policy)
    risky = submit(cast, tools=[("git", "git_add")])
    effects = card(cast, risky, channel="slack").effects
    assert (effects.approve, effects.open_instead) == (None, True)
    assert effects.deny


def test_the_card_is_the_same_everywhere_and_hides_nothing(cast: Cast) -> None:
    asked = submit(cast, tools=[("git", "git_commit")], reason=HOSTILE, context={"a": "\u202eb"})
    web, slack, cli = (card(cast, asked, channel=one) for one in ("web", "slack", "cli"))
    assert web.why == slack.why == cli.why
    assert web.adds == slack.adds == cli.adds
    assert web.why.text.startswith("Ship it\n\\u{202e}evil\\u{200b} <!channel>")
    assert web.why.context
    assert web.why.context.hidden == ("U+202E",)
    text = "\n".join(f"{name}: {text}" for name, text in card_lines(web))
    for words in (
        "demo-agent",
        "git/git_commit (write)",
        "would add: git/git_commit",
        "first time",
        "Ship it",
        asked.url,
    ):
        assert words in text
    assert "\u202e" not in text
    canonical(card_data(web))


def test_the_names_of_a_card_stand_in_the_order_in_which_an_approver_asks(cast: Cast) -> None:
    told = [name for name, _ in card_lines(card(cast, cast.submit()))]
    order = [
        told.index(name) for name in ("who", "risk", "asks for", "would add", "for", "how unusual", "why", "approvals")
    ]
    assert order == sorted(order)


def test_a_card_costs_a_bounded_number_of_queries(
    cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    asked = cast.submit("git_commit", "git_add", "git_reset")
    card(cast, asked)
    with django_assert_max_num_queries(20):
        card(cast, asked)


def test_rows_of_a_list_ask_nothing(cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    rows = [AccessRequest.objects.select_related("agent", "grant").get(pk=cast.submit().pk)]
    at = now()
    with django_assert_max_num_queries(0):
        assert cards_of_rows(rows, at)[0].status.label == "Waiting"
