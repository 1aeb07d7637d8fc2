"""Asking for one exact call in a real browser: its fields appear as the tool is chosen, and nothing typed is lost."""

from __future__ import annotations

import json
import os

import pytest

from requests_app.models import AccessRequest
from tests.cast import Cast, definition
from tests.flows.conftest import Site
from tests.installation import eventually

pytestmark = [pytest.mark.browser, pytest.mark.pure]
SCHEMA = {
    "type": "object",
    "required": ["mode"],
    "properties": {"mode": {"enum": ["soft", "hard"]}, "depth": {"type": "integer"}, "path": {"type": "string"}},
}


def test_the_fields_of_a_call_come_as_its_tool_is_chosen_and_are_filed(site: Site, cast: Cast) -> None:
    tool = cast.tools["git_reset"]
    tool.definition = json.dumps(definition("git_reset", inputSchema=SCHEMA))
    tool.save()
    page = site.visit(cast.olga, "/requests/new/")
    page.locator("#exact-call summary").click()
    page.fill("#call-tool", "git/git_reset")
    page.keyboard.press("Tab")
    page.select_option('[name="arg:mode"]', "soft")
    page.fill('[name="arg:path"]', "docs")
    page.locator("#outcome .would-be").wait_for()
    assert "Can decide" in page.inner_text("#outcome")
    page.check("#call-as-json")
    assert json.loads(page.input_value('[name="call_arguments"]')) == {"mode": "soft", "path": "docs"}
    page.uncheck("#call-as-json")
    page.locator('[name="arg:path"]').wait_for()
    assert page.input_value('[name="arg:mode"]') == "soft"
    page.fill('[name="arg:depth"]', "two")
    page.fill("#reason", "One reset")
    page.click("button:text-is('Ask for it')")
    page.locator(".errorlist:has-text('A whole number')").wait_for()
    assert page.input_value('[name="arg:path"]') == "docs"
    assert not AccessRequest.objects.exists()
    if folder := os.environ.get("JITACCESS_PICTURES"):
        page.screenshot(path=f"{folder}/asking.png", full_page=True)
    page.fill('[name="arg:depth"]', "2")
    page.click("button:text-is('Ask for it')")
    eventually(AccessRequest.objects.exists, within=10, what="it is filed")
    # A dry run that typing on has overtaken is given up, which htmx tells the console.
    site.complaints[:] = [one for one in site.complaints if not one.startswith(("htmx:afterRequest", "htmx:sendAbort"))]
    (item,) = AccessRequest.objects.get().parsed_items
    assert item["arguments"]["value"] == {"mode": "soft", "path": "docs", "depth": 2}
