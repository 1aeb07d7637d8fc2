"""The request page for every kind of item and every way to decide: stages, stand-ins, less, changes, step-up."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.identity.models import Team
from jitaccess.identity.principal import Principal
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.delegations import delegate
from jitaccess.policy.models import BreakGlass, Requestable, RoleBinding
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from jitaccess.store.clock import now
from requests_app.card import rows as rows_
from requests_app.card import shown
from requests_app.card.effects import choices_of
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import Ask, ExactCall, Privileges, extend_grant, submit_bundle, submit_request
from requests_app.services.break_glass import break_glass
from requests_app.terms import narrowed, read_terms
from tests.cast import OPERATOR, Cast, policy_document
from tests.clocks import Clock

COMMIT: dict[str, Any] = {"repo_path": ".", "message": "release 2.4"}
WRITER = """\
kind: role
version: v1
metadata: {name: writer, owner: "team:reviewers"}
spec:
  allow:
    - servers: [git]
      tools: ["git_com*", git_log]
  request: {max_duration: 2h, approval: review}
"""
TWO_STAGES = """
- name: all
  stages:
    - groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
"""


def submit(cast: Cast, **ask: Any) -> AccessRequest:
    asked = Ask(**{"reason": "Finish the release notes", **ask})
    return submit_request(principal=cast.principal(), ask=asked, snapshot=cast.snapshot()).request


def exact(cast: Cast, arguments: dict[str, Any] | None = None, **ask: Any) -> AccessRequest:
    return submit(cast, calls=[ExactCall("git", "git_commit", arguments or COMMIT)], **ask)


def url(request: AccessRequest, verb: str = "request") -> str:
    return reverse(f"web:{verb}", args=[request.pk])


def html_of(client: Client, request: AccessRequest) -> str:
    response = client.get(url(request))
    assert response.status_code == 200
    return response.content.decode()


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def words(client: Client, request: AccessRequest) -> str:
    return words_of(html_of(client, request))


def approve(client: Client, request: AccessRequest, **form: Any) -> Any:
    return client.post(url(request, "approve"), {"digest": request.digest, **form})


def offered(html: str) -> set[str]:
    """What the forms of a page would do."""
    return set(re.findall(r'action="/requests/[^/]+/(\w+)/"', html))


def test_an_exact_call_is_shown_with_the_very_arguments_and_good_for_once(cast: Cast, browser) -> None:
    arguments = {**COMMIT, "message": "<b>x</b>\n\u202elive \\u{202e}", "z": [1, {"deep": 1e21}]}
    asked = exact(cast, arguments)
    client = browser(cast.anna)
    html = html_of(client, asked)
    told = re.search(r'<pre class="whole"[^>]*>(.*?)</pre>', html, re.DOTALL)
    assert told
    assert json.loads(unescape(told[1])) == arguments
    assert "<" not in told[1]
    assert "\u202e" not in html
    said = words_of(html)
    assert "Good for one call with exactly these arguments" in said
    assert "characters that cannot be seen, or look like others: U+202E" in said
    assert "With any arguments" not in said
    assert approve(client, asked).status_code == 302
    assert Grant.objects.get().request == asked
    assert "asked for one exact call of git/git_commit for 30 min and 1 call" in words(client, asked)


def test_arguments_that_cannot_be_shown_whole_cannot_be_approved_on_the_page(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "LONGEST", 100)
    asked = exact(cast, {"repo_path": "x" * 200})
    client = browser(cast.anna)
    html = html_of(client, asked)
    assert "to be read here whole. It cannot be approved on this page." in words_of(html)
    assert offered(html) == {"deny", "changes", "comment"}
    refused = approve(client, asked)
    assert refused.status_code == 403
    assert "cannot be approved on this page" in refused.content.decode()
    assert not Decision.objects.exists()
    assert approve(browser(cast.carl), asked).status_code == 404
    assert client.post(url(asked, "deny"), {"digest": asked.digest}).status_code == 302


def test_a_schema_is_shown_with_the_tools_it_is_about(cast: Cast, browser) -> None:
    schema = {"type": "object", "properties": {"repo_path": {"const": "."}}, "additionalProperties": False}
    html = html_of(browser(cast.anna), submit(cast, tools=[("git", "git_commit")], schema=schema))
    told = re.search(r'<pre class="whole"[^>]*>(.*?)</pre>', html, re.DOTALL)
    assert told
    assert json.loads(unescape(told[1])) == schema
    assert "Only with arguments that fit this schema" in html
    assert "With any arguments" not in html


def test_a_role_is_shown_with_its_rules_and_what_it_would_add_now(cast: Cast, browser) -> None:
    role = save_role(document=WRITER, operator=OPERATOR)
    asked = submit(cast, roles=["writer"])
    client = browser(cast.anna)
    html = html_of(client, asked)
    said = words_of(html)
    assert "The role writer , version 1" in said
    assert WRITER.strip() in unescape(html)
    added = " ".join(re.findall(r'<li class="new-reach">(.*?)</li>', html))
    assert "git/git_commit" in added
    assert "git_log" not in added, "it may use that already"
    save_role(document=WRITER.replace("git_log", "git_add"), operator=OPERATOR, role=role)
    said = words(client, asked)
    assert "This role is at version 2 now; approving what was asked for will be refused." in said
    assert "git_add" not in said


def test_privileges_on_a_database_are_shown(cast: Cast, browser) -> None:
    Requestable.objects.create(
        database="shop", database_objects="public.*", privileges="select, update", policy=cast.policy
    )
    asked = submit(cast, privileges=[Privileges("shop", ["public.b", "public.a"], ["select", "update"])])
    said = words(browser(cast.anna), asked)
    assert "select, update in the database shop" in said
    assert "public.a" in said
    assert "public.b" in said


def test_what_limits_a_request_is_said(cast: Cast, browser) -> None:
    start = now() + timedelta(hours=2)
    asked = submit(
        cast, tools=[("git", "git_commit")], starts_at=start, not_after=start + timedelta(hours=1), ticket="OPS-7"
    )
    client = browser(cast.anna)
    said = words(client, asked)
    assert f"Begins by itself on {start:%Y-%m-%d %H:%M} UTC" in said
    assert f"Over by {start + timedelta(hours=1):%Y-%m-%d %H:%M} UTC" in said
    assert "Ticket OPS-7" in said
    response = client.post(url(asked, "approve"), {"digest": asked.digest}, follow=True)
    assert f"Approved. Access begins on {start:%F at %H:%M} UTC." in response.content.decode()
    said = words_of(response.content.decode())
    assert f"Access was scheduled: it begins by itself on {start:%F %H:%M} UTC" in said
    assert "Scheduled" in said


def test_an_extension_says_from_when_to_when_and_both_pages_tell_it(cast: Cast, browser) -> None:
    Requestable.objects.update(max_total_minutes=600)
    grant = cast.grant(seconds=3600)
    before, then = f"{grant.expires_at:%H:%M}", f"{grant.expires_at + timedelta(minutes=20):%H:%M}"
    asked = extend_grant(
        grant_id=grant.pk, principal=cast.principal(), seconds=1200, reason="More", snapshot=cast.snapshot()
    ).request
    client = browser(cast.anna)
    said = words(client, asked)
    assert "asks for more time" in said
    assert f"from {before} UTC to {then} UTC" in said
    assert "More time for what was given by" in said
    assert "More time was asked for" in words(client, grant.request)
    approve(client, asked)
    for one in (asked, grant.request):
        assert re.search(
            rf"The end of the access moved from [\d-]+ {before} UTC to [\d-]+ {then} UTC", words(client, one)
        )
    assert "asked for 20 min more of git/git_commit" in words(client, asked)


def test_stages_say_whose_turn_it_is(cast: Cast, browser) -> None:
    cast.change_policy(rules=TWO_STAGES)
    asked = cast.submit()
    anna, carl = browser(cast.anna), browser(cast.carl)
    said = words(anna, asked)
    assert "Stage 1 of 2 being decided" in said
    assert "Stage 2 of 2 asked when stage 1 is met" in said
    assert "Can decide: anna , bert" in said
    assert "Will be asked: carl" in said
    html = html_of(carl, asked)
    assert "not at this stage" in words_of(html)
    assert offered(html) == {"comment"}
    approve(anna, asked)
    said = words(carl, asked)
    assert "Stage 1 of 2 met" in said
    assert "Stage 2 of 2 being decided" in said
    assert "anna approved stage 1" in said
    # Whoever approved an earlier stage may take that back.
    html = html_of(anna, asked)
    assert offered(html) == {"deny", "changes", "comment"}
    assert "You approved this at" in html
    assert approve(carl, asked).status_code == 302
    assert Grant.objects.get().request == asked


def test_a_stand_in_and_who_is_away_are_named(cast: Cast, browser) -> None:
    for person, to in ((cast.anna, cast.carl), (cast.bert, None)):
        delegate(person=person, to=to, ends_at=now() + timedelta(hours=8), operator=Principal.of_user(person).actor())
    asked = cast.submit()
    carl = browser(cast.carl)
    said = words(carl, asked)
    assert "Can decide: carl for anna" in said
    assert "Away: bert" in said
    assert "You decide in the place of anna ." in said
    approve(carl, asked)
    made = Decision.objects.get()
    assert (made.user, made.on_behalf_of) == (cast.carl, cast.anna)
    said = words(carl, asked)
    assert "Approved by carl for anna" in said
    assert "carl approved, in the place of anna" in said


def test_escalations_are_announced_and_told(cast: Cast, browser, clock: Clock) -> None:
    managers = {"name": "managers", "people": ["user:carl"], "quorum": 1}
    cast.change_policy(quorum=2, escalate=[{"after": "30m", "groups": [managers]}])
    asked = cast.submit()
    client = browser(cast.anna)
    assert re.search(
        r"If nobody has decided by \d\d:\d\d UTC , in \d+ min : managers will be asked", words(client, asked)
    )
    clock.shift(30 * 60)
    said = words(client, asked)
    assert "managers 0 of 1 asked as well, because nobody had decided" in said
    assert "If nobody has decided by" not in said
    assert approve(browser(cast.carl), asked).status_code == 302


def test_an_approval_of_less_gives_less_and_says_so(cast: Cast, browser) -> None:
    asked = cast.submit("git_commit", "git_add", "git_reset", seconds=3600)
    client = browser(cast.anna)
    html = html_of(client, asked)
    assert re.findall(r'name="keep" value="([^"]+)" checked', html) == [
        "git/git_add",
        "git/git_commit",
        "git/git_reset",
    ]
    form = {"less": "1", "seconds": "1800", "keep": ["git/git_add", "git/git_commit"]}
    assert approve(client, asked, **form).status_code == 302
    grant = Grant.objects.get()
    assert grant.expires_at - grant.starts_at == timedelta(seconds=1800)
    assert not cast.verdict("git_reset").allowed
    said = words(client, asked)
    assert "anna approved, but only 30 min, git/git_add, git/git_commit" in said


@pytest.mark.parametrize(
    "form",
    [
        {"seconds": "7200"},
        {"seconds": "30"},
        {"seconds": "x"},
        {"seconds": "٣٠٠"},
        {"uses": "0"},
        {"keep": []},
        {"keep": ["git/git_log"]},
        {"keep": ["git/git_commit", "git/git_add"], "seconds": "3600"},
    ],
)
def test_an_approval_of_more_or_of_nothing_is_refused(cast: Cast, browser, form: dict[str, Any]) -> None:
    asked = cast.submit("git_commit", "git_add", seconds=3600)
    keep = {"keep": ["git/git_commit", "git/git_add"]}
    assert approve(browser(cast.anna), asked, less="1", **{**keep, **form}).status_code == 400
    assert not Decision.objects.exists()


@pytest.mark.pure
def test_of_things_with_one_name_none_can_be_left_out() -> None:
    calls = [
        {
            "kind": "call",
            "server": "git",
            "server_id": "s",
            "tools": [{"id": "t", "name": "git_commit", "pin": "p", "access": "write"}],
            "arguments": {"mode": "exact", "digest": f"sha256:abcdef01{end}", "value": {"message": end}},
        }
        for end in ("good", "evil")
    ]
    request = AccessRequest(items=canonical(calls).decode(), seconds=600, max_uses=1)
    assert choices_of(request).labels == ()
    with pytest.raises(Invalid, match="have one name"):
        narrowed(request, labels=["git/git_commit#abcdef01"])
    shorter = narrowed(request, seconds=300)
    assert read_terms(shorter.text(), request) == shorter


def test_fields_of_less_do_nothing_without_its_button(cast: Cast, browser) -> None:
    asked = cast.submit("git_commit", "git_add", seconds=3600)
    approve(browser(cast.anna), asked, seconds="60", keep=["git/git_add"])
    grant = Grant.objects.get()
    assert grant.expires_at - grant.starts_at == timedelta(seconds=3600)
    assert RoleBinding.objects.filter(origin="grant").count() == 1


def test_changes_are_asked_for_and_the_new_request_and_the_old_one_name_each_other(cast: Cast, browser) -> None:
    asked = cast.submit("git_commit", "git_reset")
    client = browser(cast.anna)
    assert client.post(url(asked, "changes"), {"note": " "}).status_code == 400
    assert client.post(url(asked, "changes"), {"note": "Without <i>reset</i>."}).status_code == 302
    html = html_of(client, asked)
    said = words_of(html)
    assert "<i>" not in html
    assert "anna asked for changes" in said
    assert "Without <i>reset</i>." in said
    new = submit(cast, tools=[("git", "git_commit")], supersedes=asked.pk)
    said = words(client, asked)
    assert "Another request took the place of this one." in said
    assert "demo-agent put another request in the place of this one" in said
    assert "Replaced by git/git_commit" in said
    assert url(new) in html_of(client, asked)
    assert "Takes the place of" in words(client, new)
    assert approve(client, asked).status_code == 409
    assert client.post(url(new, "changes"), {"note": "No"}).status_code == 302
    assert browser(cast.carl).post(url(new, "changes"), {"note": "No"}).status_code == 404
    assert browser(cast.olga).post(url(new, "changes"), {"note": "No"}).status_code == 403


def test_what_the_web_may_not_approve_says_where(cast: Cast, browser) -> None:
    cast.change_policy(channels=["slack", "cli"])
    asked = cast.submit()
    client = browser(cast.anna)
    html = html_of(client, asked)
    assert "This may be approved by cli or slack only." in words_of(html)
    assert offered(html) == {"deny", "changes", "comment"}
    assert approve(client, asked).status_code == 403
    assert not Decision.objects.exists()


def test_step_up_takes_the_password_again_and_comes_back_to_the_page(cast: Cast, browser) -> None:
    cast.change_policy(step_up=True)
    asked = cast.submit()
    client = browser(cast.anna)
    html = html_of(client, asked)
    again = f"{reverse('account_reauthenticate')}?next={url(asked)}"
    assert f'href="{again}"' in html
    assert offered(html) == {"deny", "changes", "comment"}
    assert approve(client, asked).status_code == 403
    assert client.get(again).status_code == 200
    assert client.post(again, {"password": "wrong"}).status_code == 200
    assert approve(client, asked).status_code == 403
    answer = client.post(again, {"password": "correct horse battery"})
    assert (answer.status_code, answer.url) == (302, url(asked))
    assert not Decision.objects.exists(), "looking decides nothing"
    assert "approve" in offered(html_of(client, asked))
    assert approve(client, asked).status_code == 302
    assert Grant.objects.get().request == asked
    assert approve(browser(cast.bert), cast.submit("git_add")).status_code == 403, "another session proved nothing"


def test_a_proof_grows_old(cast: Cast, browser, monkeypatch: pytest.MonkeyPatch) -> None:
    cast.change_policy(step_up=True)
    asked = cast.submit()
    client = browser(cast.anna)
    client.post(reverse("account_reauthenticate"), {"password": "correct horse battery"})
    later = time.time() + 301
    monkeypatch.setattr("jitaccess.identity.proof.time.time", lambda: later)
    assert "approve" not in offered(html_of(client, asked))
    assert approve(client, asked).status_code == 403


def test_who_has_no_password_cannot_step_up_and_is_told(cast: Cast, browser) -> None:
    cast.change_policy(step_up=True)
    asked = cast.submit()
    cast.anna.set_unusable_password()
    cast.anna.save()
    client = browser(cast.anna)
    html = html_of(client, asked)
    assert "you have nothing to prove it by" in words_of(html)
    assert reverse("account_reauthenticate") not in html
    assert approve(client, asked).status_code == 403
    assert not Decision.objects.exists()


def test_what_a_rule_approved_says_so(cast: Cast, browser) -> None:
    cast.change_policy(
        rules="""
- name: short
  when: request.minutes <= 10
  auto_approve: true
- name: rest
  stages: [{groups: [{name: reviewers, people: ["team:reviewers"], quorum: 1}]}]
"""
    )
    said = words(browser(cast.olga), cast.submit(seconds=600))
    assert "Approved by the rule short of the policy review , version 2. Nobody was asked." in said
    assert "Approved by the rule short of the policy review; nobody was asked" in said


def test_break_glass_says_that_nobody_was_asked(cast: Cast, browser) -> None:
    watch = Team.objects.create(name="watch")
    right = BreakGlass.objects.create(name="look-inside", role=cast.read_only, max_minutes=30, reviewers=watch)
    right.users.add(cast.olga)
    grant = break_glass(user=cast.olga, agent=cast.agent, right=right.pk, reason="It is down", seconds=600)
    html = html_of(browser(cast.olga), grant.request)
    said = words_of(html)
    assert "olga broke the glass for demo-agent" in said
    assert "critical risk" in said
    assert "Nobody was asked: break-glass . By the break-glass right look-inside." in said
    assert "olga broke the glass: the role read-only for 10 min" in said
    assert offered(html) == {"comment"}
    assert "break-glass" in browser(cast.olga).get("/requests/").content.decode()


def test_a_bundle_is_shown_together(cast: Cast, browser) -> None:
    other = save_policy(document=policy_document(name="harm"), operator=OPERATOR)
    Requestable.objects.update(access="write")
    Requestable.objects.create(server=cast.server, access="destructive", max_minutes=60, policy=other)
    ask = Ask(reason="Both", tools=[("git", "git_commit"), ("git", "git_reset")], seconds=600)
    filed = submit_bundle(principal=cast.principal(), ask=ask, snapshot=cast.snapshot())
    first, second = sorted((one.request for one in filed), key=lambda one: one.created_at)
    between = cast.submit("git_add", seconds=1200)
    client = browser(cast.anna)
    rows = rows_.cards_of_rows([first, between, second], now())
    assert [row.request for row in rows] == [first, second, between]
    assert [row.together for row in rows] == [False, True, False]
    html = client.get("/").content.decode()
    assert html.count("Filed together with the one above") == 1
    assert {"medium risk", "high risk"} & set(re.findall(r">(\w+ risk)<", html))
    assert "Filed together with" in words(client, first)
    assert url(second) in html_of(client, first)


HEAVY = """
- name: all
  stages:
    - groups: [{name: all, people: ["team:reviewers", "user:bert", server-owners, manager], quorum: 2}]
    - groups: [{name: security, people: ["user:carl"], quorum: 1}]
"""


@pytest.mark.parametrize("kind", ["tools", "call", "role"])
def test_the_page_takes_at_most_20_queries(cast: Cast, browser, kind: str, django_assert_max_num_queries) -> None:
    cast.change_policy(rules=HEAVY)
    save_role(document=WRITER, operator=OPERATOR)
    asked = {
        "tools": lambda: cast.submit("git_commit", "git_add", "git_reset"),
        "call": lambda: exact(cast),
        "role": lambda: submit(cast, roles=["writer"]),
    }[kind]()
    client = browser(cast.anna)
    client.get(url(asked))  # the process looks at policy for the first time
    with django_assert_max_num_queries(20):
        client.get(url(asked))
    for person in (cast.anna, cast.bert, cast.carl):
        cast.approve(asked, by=person)
    with django_assert_max_num_queries(20):
        client.get(url(asked))
    for path in ("/", "/requests/", "/away/"):
        with django_assert_max_num_queries(20):
            client.get(path)
