"""docs/authzen.md names for every MUST and SHOULD the test that shows it, or says that it is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure
ROOT = Path(__file__).parents[3]
TABLE = re.compile(r"^\| (?!it says|---)(?P<says>.+?) \| (?P<shown>.+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "authzen.md").read_text(encoding="utf-8").partition("## Every MUST and SHOULD")[2]
    return [(found["says"], found["shown"]) for found in TABLE.finditer(text)]


def test_every_row_has_a_test_or_says_why_not():
    assert len(rows()) > 140
    for says, shown in rows():
        left = shown.startswith(("left out: ", "P: ", "P;", "in part: ")) or shown == "P"
        assert left or "`test_" in shown, says


def test_every_test_that_is_named_is_there():
    there: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there.update(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for _, shown in rows() for name in re.findall(r"`(test_\w+)`", shown)}
    assert named <= there, named - there
    own = set()
    for file in (ROOT / "tests" / "api" / "authzen").glob("test_requests.py"):
        own.update(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(own & named) > 30
