"""The README's pictures can be taken, and made small enough to be fetched with it."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.pages.looks import THEMES
from tests.pages.palette import in_256_colours
from tests.pages.people import World
from tests.pages.pictures import OF_README, take
from tests.pages.registry import rows_of
from tests.pages.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.pure]


def test_the_pictures_of_the_readme(world: World, browser: Browser, tmp_path: Path) -> None:
    folder = Path(os.environ.get("JITACCESS_PICTURES") or tmp_path) / "readme"
    rows = {row.name: row for room in ("desk", "seen", "requests") for row in rows_of(room, world)}
    context = browser.new_context()
    site = Site(context)
    for name, (row, _) in OF_README.items():
        assert site.visit(rows[row].path, world.people[rows[row].who]) == 200
        take(site.page, name, folder)
    context.close()
    assert {one.name for one in folder.iterdir()} == {f"{name}-{theme}.png" for name in OF_README for theme in THEMES}


def test_a_picture_is_the_same_in_256_colours(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 40, "height": 20})
    page.set_content("<body style='margin:0;background:#123456'><p style='width:9px;height:9px;background:#fedcba'>")
    whole = page.screenshot()
    small = in_256_colours(whole)
    drawn = []
    for picture in (whole, small):
        page.set_content(f"<img src='data:image/png;base64,{b64encode(picture).decode()}'>")
        page.wait_for_function("document.images[0].complete && document.images[0].naturalWidth === 40")
        drawn.append(page.screenshot())
    page.close()
    assert len(small) < len(whole)
    assert drawn[0] == drawn[1]
