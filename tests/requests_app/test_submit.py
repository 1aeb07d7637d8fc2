from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from jitaccess.audit.models import Entry
from jitaccess.catalog.models import Tool
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import Agent
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.models import Requestable
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from requests_app.digests import request_digest
from requests_app.models import AccessRequest
from requests_app.services import Ask, cancel_request, submit_bundle, submit_request
from requests_app.services.filing import MAX_FILINGS_PER_HOUR, MAX_PENDING_PER_AGENT, MAX_REASON
from tests.cast import OPERATOR, READ_ONLY, Cast, policy_document
from tests.clocks import Clock
from tests.requests_app.ledger import gains, refused

pytestmark = pytest.mark.django_db


def test_a_request_pins_what_was_asked(cast: Cast) -> None:
    with gains("request.submitted"):
        request = cast.submit("git_commit", "git_add", "git_commit", reason="  Release\r\nnotes ", seconds=900)
    assert request.status == "pending"
    assert request.reason == "Release\nnotes"
    assert request.seconds == 900
    assert request.tool_labels == ["git/git_add", "git/git_commit"]
    pins = {tool["name"]: (tool["pin"], tool["access"]) for item in request.parsed_items for tool in item["tools"]}
    assert pins["git_add"] == (cast.tools["git_add"].pin, "write")
    people = [f"team:{cast.reviewers.pk}"]
    group = {"id": "0/reviewers", "name": "reviewers", "quorum": 1, "people": people}
    assert json.loads(request.plan)["stages"] == [{"groups": [group]}]
    assert request.pending_until - request.created_at == timedelta(minutes=60)
    assert request.issued_by == cast.admin
    entry = Entry.objects.get(event="request.submitted")
    assert (entry.request, entry.agent_name, entry.user) == (request.pk, "demo-agent", None)
    assert not cast.verdict("git_commit").allowed, "asking gives nothing"


def test_the_digest_is_that_of_what_is_stored(cast: Cast) -> None:
    request = cast.submit(context={"task": "é\u2028", "n": 1.5})
    assert request_digest(AccessRequest.objects.get(pk=request.pk)) == request.digest


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"reason": " \n"}, "request.reason", "Say why"),
        ({"reason": "\u200b"}, "request.reason", "Say why"),
        ({"reason": " \u2060\u00a0\u3164\ufe0f\u202e\u2800\n"}, "request.reason", "Say why"),
        ({"reason": "x" * (MAX_REASON + 1)}, "request.reason", "2001 characters"),
        ({"seconds": 59}, "request.duration", "between 1 min and 4 h"),
        ({"seconds": 4 * 3600 + 1}, "request.duration", "between 1 min and 4 h"),
        ({"seconds": 0}, "request.duration", "between 1 min"),
        ({"seconds": -5}, "request.duration", "between 1 min"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_what_to_change(cast: Cast, changes: dict, code: str, says: str) -> None:
    with refused(code, says):
        cast.submit(**changes)


def test_the_number_of_tools_is_bounded(cast: Cast) -> None:
    for tools in ([], [("git", f"t{number}") for number in range(51)]):
        with refused("request.tools", "1 to 50"):
            submit_request(principal=cast.principal(), ask=Ask(tools=tools, reason="because"), snapshot=cast.snapshot())


def test_without_a_duration_half_an_hour_is_asked_for_or_what_is_allowed(cast: Cast) -> None:
    assert cast.submit("git_commit", seconds=None).seconds == 1800
    Requestable.objects.update(max_minutes=10)
    assert cast.submit("git_add", seconds=None).seconds == 600


def answer(cast: Cast, slug: str, name: str) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        submit_request(
            principal=cast.principal(), ask=Ask(tools=[(slug, name)], reason="because"), snapshot=cast.snapshot()
        )
    return caught.value.code, caught.value.detail.replace(f"{slug}/{name}", "<tool>")


def test_a_hidden_tool_answers_exactly_like_one_that_does_not_exist(cast: Cast) -> None:
    unknown = answer(cast, "git", "git_rebase")
    assert unknown == answer(cast, "gitt", "git_commit")
    Requestable.objects.update(access="write")
    assert answer(cast, "git", "git_reset") == unknown, "not requestable"
    deny = save_role(
        document=READ_ONLY.replace("read-only", "no-writing").replace("allow", "deny").replace("[read]", "[write]"),
        operator=OPERATOR,
    )
    bind_role(role=deny, agent=cast.agent, operator=OPERATOR)
    assert answer(cast, "git", "git_commit") == unknown, "denied"
    cast.access.teams.clear()
    assert answer(cast, "git", "git_commit") == unknown, "a server of others"
    assert answer(cast, "git", "git_log") == unknown
    assert not AccessRequest.objects.exists()


def test_hostile_names_come_back_inert(cast: Cast) -> None:
    code, detail = answer(cast, "a\u202eb", "x" * 5000)
    assert code == "request.unknown_tool"
    assert "\u202e" not in detail
    assert len(detail) < 300


def test_what_is_allowed_already_need_not_be_asked_for(cast: Cast) -> None:
    with refused("request.already_allowed", "just call it"):
        cast.submit("git_log")


def test_a_tool_awaiting_review_cannot_be_asked_for(cast: Cast) -> None:
    Tool.objects.filter(name="git_commit").update(digest="sha256:changed")
    with refused("tool.quarantined", "awaits review"):
        cast.submit("git_commit")


def test_a_disabled_agent_asks_for_nothing_even_with_an_older_snapshot(cast: Cast) -> None:
    old = cast.snapshot()
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    with refused("agent.disabled"):
        cast.submit()
    with refused("agent.disabled"):
        submit_request(
            principal=cast.principal(), ask=Ask(tools=[("git", "git_commit")], reason="because"), snapshot=old
        )


def test_only_agents_ask(cast: Cast) -> None:
    from jitaccess.identity.principal import Principal

    with refused("request.not_an_agent"):
        cast.submit(principal=Principal.of_user(cast.anna))


def test_tools_that_others_decide_on_are_asked_for_apart(cast: Cast) -> None:
    other = save_policy(document=policy_document(name="owners"), operator=OPERATOR)
    Requestable.objects.update(access="write")
    Requestable.objects.create(server=cast.server, access="destructive", policy=other)
    with refused("request.several_policies"):
        cast.submit("git_commit", "git_reset")
    ask = Ask(tools=[("git", "git_commit"), ("git", "git_reset")], reason="because")
    filed = submit_bundle(principal=cast.principal(), ask=ask, snapshot=cast.snapshot())
    bundles = {one.request.bundle for one in filed}
    assert len(filed) == 2
    assert len(bundles) == 1
    assert None not in bundles
    assert {one.request.policy_name for one in filed} == {"review", "owners"}


def test_the_shortest_limit_counts(cast: Cast) -> None:
    Requestable.objects.update(access="write")
    Requestable.objects.create(server=cast.server, access="destructive", policy=cast.policy, max_minutes=5)
    with refused("request.duration", "5 min"):
        cast.submit("git_commit", "git_reset", seconds=600)
    assert cast.submit("git_commit", "git_reset", seconds=300)


def test_the_same_ask_again_is_the_same_request(cast: Cast) -> None:
    first = cast.submission("git_commit", "git_add")
    with gains():
        again = cast.submission("git_add", "git_commit", reason="In other words")
    assert (first.coalesced, again.coalesced) == (False, True)
    assert again.request.pk == first.request.pk
    assert again.request.reason == "Finish the release notes"
    assert not cast.submission("git_add", "git_commit", seconds=601).coalesced
    assert not cast.submission("git_add").coalesced
    assert not cast.submission("git_add", "git_commit", principal=cast.principal(user=cast.olga)).coalesced


def test_a_closed_request_can_be_asked_for_anew(cast: Cast) -> None:
    first = cast.submit()
    cast.deny(first)
    assert cast.submit().pk != first.pk


def test_one_past_its_deadline_has_expired_though_no_sweep_came_by(cast: Cast, clock: Clock) -> None:
    first = cast.submit()
    clock.shift(3601)
    with gains("request.expired", "request.submitted"):
        second = cast.submit()
    assert second.pk != first.pk
    first.refresh_from_db()
    assert first.status == "expired"


def test_a_changed_pin_is_another_ask(cast: Cast) -> None:
    first = cast.submit()
    tool = cast.tools["git_commit"]
    Tool.objects.filter(pk=tool.pk).update(digest="sha256:new")
    tool.refresh_from_db()
    classify_tool(tool=tool, access="write", operator=OPERATOR)
    assert cast.submit().pk != first.pk


def test_pending_requests_are_capped_and_those_past_their_deadline_do_not_count(cast: Cast, clock: Clock) -> None:
    requests = [cast.submit(seconds=60 + number) for number in range(MAX_PENDING_PER_AGENT)]
    with refused("request.too_many_pending", "10 requests are pending"):
        cast.submit(seconds=999)
    assert cast.submission(seconds=60).coalesced, "the same again is no new one"
    cancel_request(request_id=requests[0].pk, principal=cast.principal())
    assert cast.submit(seconds=999)
    clock.shift(3601)
    assert cast.submit(seconds=1000)


def test_filings_in_an_hour_are_capped_whatever_became_of_them(cast: Cast, clock: Clock) -> None:
    for number in range(MAX_FILINGS_PER_HOUR):
        first = cast.submission(seconds=600)
        assert cast.submission(seconds=600).coalesced, "the same again is no new one"
        if number < MAX_FILINGS_PER_HOUR - 1:
            cancel_request(request_id=first.request.pk, principal=cast.principal())
    with refused("request.too_many_filings", r"the next one is possible in (1 h|59 min .* s), at \d\d:\d\d:\d\d UTC"):
        cast.submit(seconds=601)
    with refused("request.too_many_filings"):
        cast.submit(seconds=601, principal=cast.principal(user=cast.olga))
    other = Agent.objects.create(name="other", owner=cast.olga, team=cast.team)
    assert cast.submit(principal=cast.principal(agent=other)), "others are not held up"
    assert cast.submission(seconds=600).coalesced
    clock.at(AccessRequest.objects.filter(agent=cast.agent).earliest("created_at").created_at + timedelta(hours=1))
    assert cast.submit(seconds=602)


def test_the_database_holds_one_pending_request_per_ask(cast: Cast) -> None:
    request = cast.submit()
    values = AccessRequest.objects.filter(pk=request.pk).values().get()
    del values["id"]
    with pytest.raises(IntegrityError), transaction.atomic():
        AccessRequest.objects.create(**values)


def test_hostile_text_in_a_request_is_kept_inert(cast: Cast) -> None:
    nasty = "\0 \u202e <script>alert(1)</script> \x1b[2J"
    request = cast.submit(reason=nasty, context={"k\0": nasty}, principal=cast.principal(client=nasty * 20))
    request.refresh_from_db()
    assert request.reason.startswith("\\u{0} \\u{202e} <script>")
    assert json.loads(request.context) == {"k\0": nasty}
    assert len(request.client) == 200
    assert cast.grant(seconds=61, reason=nasty).request.status == "approved"
