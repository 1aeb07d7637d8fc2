"""Deciding several at once: only the very same, at low risk, shown whole; or nothing at all."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import Agent
from jitaccess.policy.models import Requestable
from requests_app.models import AccessRequest, Decision, Grant
from tests.cast import OPERATOR, Cast
from tests.web.test_pages import HOSTILE

BULK = "/requests/bulk/"


@pytest.fixture
def low(cast: Cast) -> Cast:
    """Reading may be asked for, which is of low risk."""
    Requestable.objects.create(server=cast.server, access="read", max_minutes=240, policy=cast.policy)
    cast.read_only.bindings.all().delete()
    return cast


def ask(cast: Cast, name: str, *tools: str, **options: object) -> AccessRequest:
    agent = Agent.objects.create(name=name, owner=cast.olga, team=cast.team)
    return cast.submit(*(tools or ("git_log",)), principal=cast.principal(agent=agent), **options)


def values(*requests: AccessRequest) -> list[str]:
    return [f"{one.pk} {one.digest}" for one in requests]


def nothing_decided() -> bool:
    return not Decision.objects.exists() and not Grant.objects.exists()


def test_the_same_at_low_risk_is_offered_with_everything_about_each(low: Cast, browser) -> None:
    one, two = ask(low, "one", reason=HOSTILE), ask(low, "two", reason="Another reason")
    assert {one.risk, two.risk} == {"low"}
    client = browser(low.anna)
    link = re.search(r'href="(/requests/bulk/\?like=[^"]+)"', client.get("/").content.decode())
    assert link
    html = client.get(link[1]).content.decode()
    assert "Decide 2 together" in html
    for shown in ("Another reason", "one asks for access", "two asks for access", *values(one, two)):
        assert shown in html
    assert "<script>alert" not in html
    assert not re.search("autofocus", html)
    assert nothing_decided()


def test_each_is_decided_by_itself_and_told_by_itself(low: Cast, browser) -> None:
    one, two, three = (ask(low, name) for name in ("one", "two", "three"))
    client = browser(low.anna)
    answer = client.post(BULK, {"one": values(one, two), "verb": "approve", "reason": "Both fine"}, follow=True)
    told = [str(message) for message in answer.context["messages"]]
    assert told == ["one: your approval is on record.", "two: your approval is on record."]
    assert Grant.objects.count() == 2
    assert set(Decision.objects.values_list("reason", flat=True)) == {"Both fine"}
    three.refresh_from_db()
    assert three.pending  # it was not chosen


def test_somebody_was_first_with_one_of_them(low: Cast, browser, monkeypatch: pytest.MonkeyPatch) -> None:
    from jitaccess.web.desk import bulk

    one, two = ask(low, "one"), ask(low, "two")
    real = bulk._chosen

    def late(*said):
        found = real(*said)
        low.approve(one, low.bert)  # between the look and the decision
        return found

    monkeypatch.setattr(bulk, "_chosen", late)
    answer = browser(low.anna).post(BULK, {"one": values(one, two), "verb": "deny"}, follow=True)
    told = [str(message) for message in answer.context["messages"]]
    assert told[0].startswith("one: Already approved by bert")
    assert told[1] == "two: your denial is on record."
    assert Decision.objects.get(request=one).user == low.bert


@pytest.mark.parametrize("other", ["riskier", "longer", "changed", "owner's", "stranger's"])
def test_one_that_differs_and_nothing_is_decided(low: Cast, browser, other: str) -> None:
    one, person = ask(low, "one"), low.anna
    match other:
        case "riskier":
            sent = values(one, ask(low, "two", "git_commit"))
        case "longer":
            sent = values(one, ask(low, "two", seconds=700))
        case "changed":
            sent = [*values(one), f"{ask(low, 'two').pk} sha256:other"]
        case "owner's":
            sent, person = values(one, ask(low, "two")), low.olga
        case _:
            sent, person = values(one, ask(low, "two")), low.carl
    response = browser(person).post(BULK, {"one": sent, "verb": "approve"})
    assert response.status_code in {400, 403, 404, 409}
    assert nothing_decided()


def test_what_is_no_decision_decides_nothing(low: Cast, browser) -> None:
    one, two = ask(low, "one"), ask(low, "two")
    client, sent = browser(low.anna), values(one, two)
    for form in ({"one": sent}, {"one": sent, "verb": "revoke"}, {"verb": "approve"}, {"one": ["x"], "verb": "deny"},
                 {"one": [*sent, sent[0]], "verb": "approve"}):  # fmt: skip
        assert client.post(BULK, form).status_code == 400
    assert browser(low.anna, csrf=True).post(BULK, {"one": sent, "verb": "approve"}).status_code == 403
    signed_out = Client().post(BULK, {"one": sent, "verb": "approve"})
    assert (signed_out.status_code, signed_out.url) == (302, "/accounts/login/?next=/")
    assert client.get(BULK).status_code == 400
    assert client.get(f"{BULK}?like={Agent.objects.first().pk}").status_code == 409
    assert nothing_decided()


def test_what_is_not_of_low_risk_is_never_offered_together(cast: Cast, browser) -> None:
    ask(cast, "one", "git_commit")
    ask(cast, "two", "git_commit")
    assert BULK not in browser(cast.anna).get("/").content.decode()


def test_a_step_up_is_for_one_at_a_time(low: Cast, browser) -> None:
    low.change_policy(step_up=True)
    one, two = ask(low, "one"), ask(low, "two")
    client = browser(low.anna)
    assert BULK not in client.get("/").content.decode()
    assert client.post(BULK, {"one": values(one, two), "verb": "approve"}).status_code == 403
    assert nothing_decided()


def test_the_riskiest_come_first_and_then_the_oldest(low: Cast, browser) -> None:
    classify_tool(tool=low.tools["git_reset"], access="destructive", operator=OPERATOR)
    first, second = ask(low, "one"), ask(low, "two", seconds=700)
    risky = ask(low, "three", "git_reset")
    waiting = browser(low.anna).get("/").context["waiting"]
    assert [row.request.pk for row in waiting] == [risky.pk, first.pk, second.pk]
