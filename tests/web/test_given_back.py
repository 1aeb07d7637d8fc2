"""Whoever is refused gets back what they wrote: in its form, in the next one, or to take along."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.identity.models import Team
from jitaccess.policy.models import BreakGlass
from requests_app.models import Decision, Grant
from tests.cast import Cast
from tests.web.test_every_field import Forms

WORDS = "Not <b>before</b> Monday\nat all"
Open = Callable[..., Client]


def texts(html: str, path: str) -> dict[str, str]:
    """What each form of a page holds in its field for words, by the end of its address."""
    forms = Forms(path)
    forms.feed(html)
    return {
        action.rstrip("/").rpartition("/")[2]: unescape(values[words[0]])
        for action, values, words in reversed(forms.found)  # of the two to approve, the first: that for all of it
        if words
    }


@pytest.mark.parametrize(("verb", "name"), [("approve", "reason"), ("deny", "reason"), ("changes", "note")])
def test_a_decision_on_what_was_not_shown_keeps_the_words_in_its_form(
    cast: Cast, browser: Open, verb: str, name: str
) -> None:
    asked = cast.submit()
    path = reverse(f"web:{verb}", args=[asked.pk])
    long = WORDS + "x" * 2000
    answer = browser(cast.anna).post(path, {"digest": "sha256:other", name: WORDS if verb != "changes" else long})
    assert answer.status_code in {400, 409}
    kept = texts(answer.content.decode(), path)
    assert kept.pop(verb).startswith(WORDS)
    assert not any(kept.values())
    assert not Decision.objects.exists()


def test_words_whose_form_is_gone_stand_ready_as_a_comment(cast: Cast, browser: Open) -> None:
    asked = cast.submit()
    cast.approve(asked, cast.bert)
    answer = browser(cast.anna).post(
        reverse("web:deny", args=[asked.pk]), {"digest": asked.digest, "reason": WORDS, "less": "1"}
    )
    html = answer.content.decode()
    assert answer.status_code == 409
    assert texts(html, "/") == {"comment": WORDS, "revoke": ""}
    assert "nobody has it yet" in html


def test_whoever_is_signed_out_meanwhile_takes_them_along(cast: Cast) -> None:
    asked = cast.submit()
    answer = Client().post(reverse("web:deny", args=[asked.pk]), {"digest": asked.digest, "reason": WORDS})
    html = answer.content.decode()
    assert answer.status_code == 403
    assert "Nothing was decided or changed" in html
    assert "Not &lt;b&gt;before&lt;/b&gt; Monday\nat all</textarea>" in html
    assert f'href="/accounts/login/?next={reverse("web:request", args=[asked.pk])}"' in html
    assert not Decision.objects.exists()


def test_so_does_whoever_is_told_no_on_a_page_of_its_own(cast: Cast, browser: Open) -> None:
    answer = browser(cast.anna).post("/requests/bulk/", {"verb": "approve", "one": "x", "reason": WORDS})
    assert answer.status_code == 400
    assert "Not &lt;b&gt;before&lt;/b&gt; Monday" in answer.content.decode()


def test_a_glass_that_does_not_break_keeps_the_reason(cast: Cast, browser: Open) -> None:
    watch = Team.objects.create(name="watch")
    watch.members.add(cast.anna)
    rights = [
        BreakGlass.objects.create(name=name, role=cast.read_only, max_minutes=30, reviewers=watch)
        for name in ("one", "two")
    ]
    for right in rights:
        right.users.add(cast.olga)
    path = reverse("web:use_break_glass", args=[rights[1].pk])
    said = {"agent": str(cast.agent.pk), "minutes": "9999", "reason": WORDS}
    answer = browser(cast.olga).post(path, said)
    assert answer.status_code in {400, 403, 409}
    html = answer.content.decode()
    assert html.count("Not &lt;b&gt;before") == 1
    assert html.index("Not &lt;b&gt;before") > html.index(str(rights[1].pk))
    assert not Grant.objects.exists()
