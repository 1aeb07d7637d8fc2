"""The README's pictures, of the same pages as the tests look at: `python -m tests.pages.pictures docs/pictures`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.pages.looks import THEMES
from tests.pages.palette import in_256_colours

# By the name of the picture: the row, and the size of the window.
OF_README = {
    "inbox": ("inbox", (1280, 860)),
    "request": ("request-waiting", (1280, 1150)),
    "overview": ("overview", (1280, 860)),
    "phone-request": ("request-waiting", (390, 844)),
}
LARGEST = 120_000  # bytes


def take(page: Page, name: str, folder: Path) -> None:
    """Of the page that is open, as much as a screen shows, in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = OF_README[name][1]
    page.set_viewport_size({"width": width, "height": height})
    for theme in THEMES:
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.screenshot(path=folder / f"{name}-{theme}.png")


def main(target: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JITACCESS_PICTURES"] = folder
        failed = pytest.main(["-n0", "-q", f"{Path(__file__).parent}/test_readme.py"])
        if not failed:
            target.mkdir(parents=True, exist_ok=True)
            for picture in sorted(Path(folder, "readme").iterdir()):
                content = in_256_colours(picture.read_bytes())
                assert len(content) < LARGEST, f"{picture.name} has {len(content)} bytes"
                (target / picture.name).write_bytes(content)
                print(f"{len(content) // 1000:4} kB  {target / picture.name}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")))
