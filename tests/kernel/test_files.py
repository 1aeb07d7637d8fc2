"""Small private files: whole, for their owner only, and his for good."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from jitaccess.kernel.files import replace_file

pytestmark = pytest.mark.pure


def test_a_file_that_root_changes_still_belongs_to_whom_it_belonged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    path = tmp_path / "keys"
    replace_file(path, b"one")
    assert given == [], "a new one is its maker's"
    path.chmod(0o644)
    replace_file(path, b"two")
    assert given == [(path.stat().st_uid, path.stat().st_gid)]
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path], "no draft is left"


def test_an_owner_that_cannot_be_kept_keeps_nothing_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    path = tmp_path / "keys"
    path.write_bytes(b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
