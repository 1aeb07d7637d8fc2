"""Every page of the registry in both themes and sizes, and a registry that no page is missing from."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest
from django.urls import reverse
from playwright.sync_api import Browser

from jitaccess.kernel.ids import uuid7
from tests.pages import registry
from tests.pages.looks import AXE, SIZES, THEMES, wrong_with
from tests.pages.people import World
from tests.pages.registry import FORMS, NO_PAGE, NO_PAGES, ROOMS, addresses, rows_of
from tests.pages.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.pure]
# A theme moves nothing, and a size colours nothing: without pictures these two show all that can be wrong.
IN_SHORT = (("light", "desktop"), ("dark", "phone"))
PICTURES = os.environ.get("JITACCESS_PICTURES")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("room", ROOMS)
def test_a_page_is_whole_in_both_themes_and_sizes(room: str, world: World, browser: Browser) -> None:
    context = browser.new_context(reduced_motion="reduce")
    context.add_init_script(path=AXE)
    site = Site(context)
    folder = Path(PICTURES) if PICTURES else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    wrong = []
    for number, row in enumerate(rows_of(room, world)):
        status = site.visit(row.path, world.people.get(row.who), prepare=row.prepare, made=row.made)
        if status != row.status:
            wrong.append(f"{row.name}: {row.path} is answered with {status}")
        # Of the admin's pages, which are many and alike, every second in either.
        short = IN_SHORT[number % 2 :: 2] if room.startswith("admin") else IN_SHORT
        for theme, size in product(THEMES, SIZES) if folder else short:
            wrong += wrong_with(site.page, theme, size, pictures=folder, name=row.name)
        wrong += [f"{row.name}: {one}" for one in site.complaints]
    context.close()
    assert not wrong, "\n".join(wrong)


def test_every_address_has_a_row_or_a_reason(world: World) -> None:
    rows = {row.url for room in ROOMS for row in rows_of(room, world)}
    missing, client = [], Site.client_of(world.people["admin"])
    for name, arguments in addresses():
        space = name.partition(":")[0]
        if name in rows or name in NO_PAGE or space in NO_PAGES or name.startswith("/"):
            continue
        if name in FORMS:
            filled = {one: uuid7() if "UUID" in type(kind).__name__ else "x" for one, kind in arguments.items()}
            answer = client.get(reverse(name, kwargs=filled))
            assert answer.status_code == 405, f"{name} is no mere form: it answers GET with {answer.status_code}"
        elif not (space == "admin" and name.endswith(registry.OF_EVERY_MODEL)):
            missing.append(name)
    assert not missing


def test_no_reason_is_left_over() -> None:
    there = {name for name, _ in addresses()}
    assert there >= NO_PAGE.keys() | FORMS
