"""What is asked of a page, whatever it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = Path(__file__).parents[1] / "node/node_modules/axe-core/axe.min.js"
THEMES, SIZES = ("light", "dark"), {"desktop": (1280, 860), "phone": (390, 844)}
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# The other theme has the same elements in other colours, at the other size in another order.
_AGAIN = ["color-contrast", "target-size", "scrollable-region-focusable"]
# Swagger UI draws what is in #api, and Django the sign beside the search of a list to choose from: they are not ours.
# What still moves or fades is at its end first. With `preload`, axe would make style sheets of its own, against the CSP.
_SCRIPT = """async (run) => {
    document.getAnimations().forEach(one => one.finish());
    const found = run ? await axe.run({exclude: ["#api", ".search-label-icon"]}, {...run, resultTypes: ["violations"], elementRef: false, preload: false}) : {violations: []};
    return {
        violations: found.violations.map(one => one.id + ": " + one.nodes.slice(0, 3).map(
            node => node.target.join(" ") + " " + (node.any[0] || node.all[0] || node.none[0] || {}).message).join(" | ")),
        headings: [...document.querySelectorAll("h1")].filter(one => one.checkVisibility()).length,
        title: document.title,
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        focus: document.activeElement.tagName,
    };
}"""


def asked_of(name: str, theme: str, size: str) -> dict[str, Any] | None:
    """What axe looks for there; all of it once, and once more what may differ in the other theme and size."""
    if (theme, size) == ("light", "desktop"):
        rules = {"target-size": {"enabled": True}} | {one: {"enabled": False} for one in _not_for(name)}
        return {"runOnly": {"type": "tag", "values": _TAGS}, "rules": rules}
    return {"runOnly": {"type": "rule", "values": _AGAIN}} if (theme, size) == ("dark", "phone") else None


def _not_for(name: str) -> tuple[str, ...]:
    if name.startswith("admin"):  # Django's own search field and tables of related rows
        return ("label-title-only", "empty-table-header")
    if name == "api-docs":
        return ("landmark-one-main", "page-has-heading-one")
    if name.startswith("mail-"):  # shown inside the page of somebody's mail program
        return ("landmark-one-main", "region")
    return ("landmark-unique",) if name == "design" else ()  # several decisions, one below the other


def wrong_with(page: Page, theme: str, size: str, *, pictures: Path | None, name: str) -> list[str]:
    """What is wrong with the page that is open, in this theme and size."""
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    seen = page.evaluate(_SCRIPT, asked_of(name, theme, size))
    if pictures:
        page.screenshot(path=pictures / f"{name}-{theme}-{size}.png", full_page=True)
    wrong = [f"axe: {one}" for one in seen["violations"]]
    if seen["headings"] != 1:
        wrong.append(f"{seen['headings']} h1")
    if not seen["title"].strip(" ·"):
        wrong.append("no title")
    if seen["wide"] > 0:
        wrong.append(f"scrolls sideways by {seen['wide']} px")
    if seen["focus"] == "BUTTON":
        wrong.append("a button has the focus")
    return [f"{name} ({theme}, {size}): {json.dumps(one, ensure_ascii=False)}" for one in wrong]
