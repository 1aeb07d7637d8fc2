"""How often what is asked for was used before stands on the card, the same in every channel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.template.loader import render_to_string
from pytest_django import DjangoAssertNumQueries

from jitaccess.audit import figures
from jitaccess.audit.events import Event
from jitaccess.audit.models import Cursor
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Agent
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from requests_app.card.card import Card, card_of
from requests_app.card.data import card_data
from requests_app.card.lines import card_lines, stamp
from requests_app.card.usage import NOT_COUNTED
from requests_app.models import AccessRequest
from requests_app.services import Ask, submit_request
from requests_app.standing import look_at
from tests.cast import OPERATOR, Cast
from tests.requests_app.card.test_card import WRITER

pytestmark = pytest.mark.pure


def called(cast: Cast, tool: str, times: int, agent: Agent | None = None) -> None:
    who, moment = agent or cast.agent, now() - timedelta(hours=1)
    with transaction.atomic():
        record_many(
            Facts(
                event=Event.CALL_AUTHORIZED, at=moment, actor=Actor(agent=who.pk, agent_name=who.name),
                server=cast.server.pk, server_name="git", tool=tool,
            )
            for _ in range(times)
        )  # fmt: skip


def counted() -> None:
    while sequence():
        pass
    figures.count()


def card(cast: Cast, asked: AccessRequest) -> Card:
    return card_of(look_at(cast.anna, asked.pk), cast.anna, channel="web")


def lines(one: Card, name: str) -> list[str]:
    return [text for line, text in card_lines(one) if line == name]


def test_a_tool_that_was_never_used_says_so_in_every_channel(cast: Cast) -> None:
    called(cast, "git_log", 3)
    counted()
    one = card(cast, cast.submit("git_commit"))
    assert one.unusual.use == "The agent has never used it before."
    assert lines(one, "used before") == ["The agent has never used it before."]
    page = render_to_string("parts/card/unusual.html", {"card": one})
    assert "never used it before" in page
    told: Any = card_data(one)["unusual"]
    assert told["used"] == [{"label": "git/git_commit", "calls": 0, "last": None, "tools_used": 0, "tools": 1}]


def test_uses_are_counted_for_each_thing_with_the_last_time(cast: Cast) -> None:
    called(cast, "git_commit", 12)
    called(cast, "git_reset", 5)
    counted()
    one = card(cast, cast.submit("git_commit", "git_add"))
    assert [(used.label, used.calls) for used in one.unusual.used] == [("git/git_add", 0), ("git/git_commit", 12)]
    last = one.unusual.last_used
    assert last
    first, *each = lines(one, "used before")
    assert first == f"The agent has used 1 of these 2 before. The last time was {stamp(last)}."
    assert each == ["git/git_add: never used before", f"git/git_commit: used 12 times before, last on {stamp(last)}"]
    things = render_to_string("parts/card/things.html", {"card": one})
    assert "first time; used 12 times before" in things
    assert "first time; never used before" in things


def test_what_another_agent_used_is_not_what_this_one_used(cast: Cast) -> None:
    other = Agent.objects.create(name="other", owner=cast.anna, team=cast.team)
    called(cast, "git_commit", 7, agent=other)
    counted()
    assert card(cast, cast.submit("git_commit")).unusual.use == "The agent has never used it before."


def test_a_role_counts_the_calls_of_the_tools_that_it_would_give_and_how_often_it_was_asked_for(cast: Cast) -> None:
    save_role(document=WRITER, operator=OPERATOR)
    called(cast, "git_commit", 2)
    called(cast, "git_reset", 9)  # no tool of the role
    counted()
    ask = Ask(roles=["writer"], seconds=1800, reason="Because")
    asked = submit_request(principal=cast.principal(), snapshot=cast.snapshot(), ask=ask).request
    one = card(cast, asked)
    assert one.unusual.use == "The agent has used 1 of its 3 tools 2 times before."
    assert one.unusual.first_time
    assert one.unusual.sentence == "This agent has never asked for this before."
    assert one.blocks[0].things[0].history == "first time"


def test_never_is_not_said_while_nobody_counts(cast: Cast) -> None:
    called(cast, "git_commit", 4)
    counted()
    Cursor.objects.filter(name=figures.CURSOR).delete()
    one = card(cast, cast.submit("git_add"))
    assert (one.unusual.use, one.unusual.used) == (NOT_COUNTED, ())
    assert card(cast, cast.submit("git_commit")).unusual.use == "The agent has used it 4 times before."


def test_what_is_decided_says_nothing_of_uses_that_may_be_its_own(cast: Cast) -> None:
    called(cast, "git_commit", 4)
    counted()
    asked = cast.submit("git_commit")
    cast.approve(asked)
    one = card(cast, asked)
    assert (one.unusual.use, one.unusual.used) == ("", ())
    assert not lines(one, "used before")


def test_uses_cost_the_same_queries_however_much_is_asked_for(
    cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    called(cast, "git_commit", 1)
    counted()
    few, many = cast.submit("git_commit"), cast.submit("git_commit", "git_add", "git_reset")
    card(cast, few)
    with django_assert_max_num_queries(20) as first:
        card(cast, few)
    with django_assert_max_num_queries(20) as second:
        card(cast, many)
    assert len(second) <= len(first) + 2  # whether what was not found has been counted
