"""The design system: the contrast it promises, and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.template import Context, Template
from django.test import Client

from jitaccess.web import specimens
from jitaccess.web.icons import ICONS
from jitaccess.web.tokens import DARK, LIGHT, PAIRS, contrast
from tests.cast import Cast

STATIC = Path(settings.BASE_DIR) / "jitaccess" / "web" / "static" / "jitaccess"
SHEETS = ("site.css", "parts.css", "admin-theme.css", "design.css", "desk.css", "seen.css")
PAGE = Path(settings.BASE_DIR) / "docs" / "design.md"


def table() -> str:
    """What docs/design.md says of contrast: the lowest of each text or mark, over all grounds it is drawn on."""
    lines = ["| text or mark | on | needed | lowest in light | lowest in dark |", "|---|---|---|---|---|"]
    for fore, least in dict.fromkeys((pair.fore, pair.least) for pair in PAIRS):
        backs = [pair.back for pair in PAIRS if (pair.fore, pair.least) == (fore, least)]
        light, dark = (min(contrast(of[fore], of[back]) for back in backs) for of in (LIGHT, DARK))
        names = ", ".join(f"`{back}`" for back in backs)
        lines.append(f"| `{fore}` | {names} | {least:g} | {light:.1f} | {dark:.1f} |")
    return "\n".join(lines)


def test_contrast_is_computed_as_the_guidelines_say() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#777777") == pytest.approx(4.478, abs=0.001)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("values", [LIGHT, DARK], ids=["light", "dark"])
def test_every_pair_has_the_contrast_it_needs(values: dict[str, str]) -> None:
    low = [(pair, contrast(values[pair.fore], values[pair.back])) for pair in PAIRS]
    assert [(pair, ratio) for pair, ratio in low if ratio < pair.least] == []


def test_the_page_of_the_docs_says_what_is_computed() -> None:
    assert f"<!-- contrast -->\n{table()}\n<!-- /contrast -->" in PAGE.read_text()


def test_colours_are_written_in_one_place_only() -> None:
    tokens = (STATIC / "tokens.css").read_text()
    assert set(LIGHT) == set(DARK) == set(re.findall(r"--([a-z0-9-]+):\s*light-dark\(", tokens))
    for sheet in SHEETS:
        text = (STATIC / sheet).read_text()
        assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[;,) ])", text) == [], sheet
        defined = set(re.findall(r"(--[a-z0-9-]+):", text + tokens))
        assert set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) <= defined, sheet
        assert "url(" not in text
        assert "@import" not in text
    assert re.findall(r'url\("([^"]+)"\)', tokens) == [
        f"fonts/{path}.woff2" for path in ("plex-sans", "plex-sans-ext", "plex-mono", "plex-mono-bold")
    ]


def test_a_colour_can_be_had_for_an_e_mail() -> None:
    text = Template("{% load jit %}{% colour 'ink' %} {% colour 'ink' dark=True %}").render(Context())
    assert text == f"{LIGHT['ink']} {DARK['ink']}"


def test_an_icon_says_nothing_to_a_screen_reader_and_an_unknown_one_is_not_there() -> None:
    text = Template("{% load jit %}{% icon 'inbox' %}{% icon other %}").render(Context({"other": "<script>"}))
    assert text.count("<svg") == 1
    assert 'aria-hidden="true"' in text
    assert "script" not in text
    assert all(re.fullmatch(r"[MmLlHhVvAaZzCcSs0-9 .\-]+", path) for path in ICONS.values())


class Read(HTMLParser):
    """What is on a page: elements, ids, what labels are for, and attributes that the policy would refuse."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.wanted: list[str] = []
        self.refused: list[str] = []
        self.sources: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"for", "aria-labelledby", "aria-describedby", "popovertarget"}:
                self.wanted += (value or "").split()
            if name == "src":
                self.sources.append(value or "")
            if name == "style" or name.startswith("on"):
                self.refused.append(f"{tag} {name}")


def test_every_component_is_on_the_page_and_nothing_hostile_becomes_an_element(cast: Cast, browser) -> None:
    html = browser(cast.admin).get("/design/").content.decode()
    page = Read(html)
    assert page.refused == []
    assert "alert(1)" in html
    assert "evil.example" not in "".join(re.findall(r'(?:href|src|action)="[^"]*"', html))
    assert not set(page.tags) & {"iframe", "object", "style"}
    # A script or a picture of somebody else's would have no source, or another.
    assert all(source.startswith("/static/") for source in page.sources)
    assert len(page.sources) == page.tags.count("script") + page.tags.count("img")
    assert html.count("csrfmiddlewaretoken") == html.count('method="post"')
    assert len(page.ids) == len(set(page.ids))
    assert set(page.wanted) <= set(page.ids)
    assert specimens.RTL in html
    assert "{#" not in html
    assert "{% " not in html


def test_a_visible_focus_is_never_taken_away_without_another() -> None:
    for sheet in SHEETS:
        for rule in re.findall(r"[^{}]+\{[^{}]*outline:\s*(?:none|0)[^{}]*\}", (STATIC / sheet).read_text()):
            # The row around it has the line then; the page itself has the focus only after "Skip to the content".
            assert re.search(r"\.row-who|\.stats dd a|main:focus", rule), rule


def test_the_component_page_is_for_staff(cast: Cast, browser) -> None:
    assert browser(cast.anna).get("/design/").status_code == 404
    assert Client().get("/design/").status_code == 404
    cast.anna.is_staff = True
    cast.anna.save()
    assert browser(cast.anna).get("/design/").status_code == 200


def test_the_admin_wears_the_same_values(cast: Cast, browser) -> None:
    html = browser(cast.admin).get("/admin/").content.decode()
    places = [html.index(name) for name in ("admin/css/base.css", "responsive.css", "tokens.css", "admin-theme.css")]
    assert places == sorted(places)


def test_a_page_without_navigation_of_its_own_still_has_one(cast: Cast, browser) -> None:
    html = browser(cast.anna).get("/nothing/").content.decode()
    assert 'aria-label="Main"' in html
    assert 'popovertarget="rail"' in html
    assert "There is nothing here" in html


def test_an_e_mail_is_whole_without_a_style_sheet_and_shows_foreign_text_as_text() -> None:
    page = (
        '{% extends "email/base.html" %}{% block title %}{{ name }}{% endblock %}'
        '{% block rows %}{% include "email/row.html" with name="Why" text=reason only %}{% endblock %}'
    )
    values = {"name": specimens.LONG, "reason": specimens.HOSTILE, "url": "https://desk.example/requests/1/"}
    html = Template(page).render(Context(values))
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["https://desk.example/requests/1/"]
    assert not re.search(r"<(?:script|img|link|form)", html)
    assert "&lt;script&gt;alert(1)" in html
    for name in ("ground", "surface", "ink", "fill"):
        assert LIGHT[name] in html
        assert DARK[name] in html
