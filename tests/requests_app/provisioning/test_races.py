"""Two workers at once, and workers that die: the target hears what it must, once where that is possible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection, transaction

from requests_app.models import Grant
from requests_app.provisioning.rows import Provision, Target
from requests_app.provisioning.wants import FREE
from requests_app.provisioning.work import LEASE, attempt, work_due
from tests.cast import Cast
from tests.clocks import Clock
from tests.races import race
from tests.requests_app.provisioning.play import granted, revoked, state, the_provision, told
from tests.requests_app.provisioning.shelf import Shelf

pytestmark = pytest.mark.django_db(transaction=True)

WORKER = """
import sys
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
import django
django.setup()
from requests_app.provisioning.work import work_due
work_due()
"""


def test_of_many_workers_one_touches_the_target(cast: Cast, target: Target, shelf: Shelf) -> None:
    granted(cast)
    pk = the_provision().pk
    results = race(*[lambda: attempt(pk)] * 4)
    assert sorted(results) == [False, False, False, True]
    assert ([what for what, _ in shelf.heard], told()) == (["grant"], ["granted"])


def test_of_two_grants_that_end_at_once_the_last_takes_it_away(
    cast: Cast, target: Target, shelf: Shelf, clock: Clock
) -> None:
    for _ in range(3):
        grants = [granted(cast), granted(cast)]
        pk = the_provision().pk
        attempt(pk)
        assert shelf.there

        def end(grant: Grant) -> None:
            revoked(grant)
            attempt(pk)

        race(lambda: end(grants[0]), lambda: end(grants[1]))
        work_due()  # finds what ended while somebody held the row
        if state() != "revoked":  # one of the two left it to be looked at a moment later
            clock.shift(60)
            work_due()
        assert (state(), shelf.there) == ("revoked", {})
    assert [what for what, _ in shelf.heard] == ["grant", "revoke"] * 3


def test_a_grant_that_begins_while_the_last_one_is_taken_away_is_given(
    cast: Cast, target: Target, shelf: Shelf
) -> None:
    first = granted(cast)
    pk = the_provision().pk
    attempt(pk)
    revoked(first)
    touched, begun = threading.Event(), threading.Event()

    def meanwhile() -> None:
        shelf.meanwhile = None
        touched.set()
        assert begun.wait(20)

    shelf.meanwhile = meanwhile

    def begin_another() -> None:
        assert touched.wait(20)
        granted(cast)
        begun.set()

    race(lambda: attempt(pk), begin_another)
    assert the_provision().next_try_at is not None
    attempt(pk)
    assert (state(), list(shelf.there)) == ("granted", [pk])


@pytest.mark.postgresql_only
def test_who_decides_never_waits_for_a_worker_that_is_frozen(cast: Cast, target: Target, shelf: Shelf) -> None:
    """It holds the row of the provision; what it misses meanwhile is found by the next sweep."""
    first = granted(cast)
    work_due()
    held, go_on = threading.Event(), threading.Event()

    def frozen() -> None:
        with transaction.atomic():
            Provision.objects.select_for_update(**FREE).get()
            held.set()
            assert go_on.wait(20)

    def people() -> None:
        assert held.wait(20)
        second = granted(cast)
        revoked(first)
        assert work_due() == 0
        revoked(second)
        assert state() == "granted"
        go_on.set()

    race(frozen, people)
    work_due()
    assert (state(), shelf.there) == ("revoked", {})


def test_kill_nine_between_intent_and_effect_and_between_effect_and_record(
    cast: Cast, clock: Clock, tmp_path: Path
) -> None:
    Target.objects.create(slug="folder", kind="folder", match="server:git")
    grant = granted(cast, seconds=3600)
    path = settings.VAR / "provisioned" / "folder" / f"{the_provision().pk}.json"

    _die_at("provision.intended", tmp_path)
    assert (state(), path.exists()) == ("granting", False), "on record, and nothing done yet"
    assert work_due() == 0, "nobody else before its lease is over"
    clock.shift(LEASE.total_seconds() + 1)
    assert work_due() == 1
    assert (state(), path.exists(), told()) == ("granted", True, ["granted"])

    revoked(grant)
    _die_at("provision.touched", tmp_path)
    assert (state(), path.exists()) == ("revoking", False), "done, and nobody knows"
    clock.shift(LEASE.total_seconds() + 1)
    assert work_due() == 1
    assert (state(), told()) == ("revoked", ["granted", "revoked"])


def _die_at(label: str, steps: Path) -> None:
    (steps / label).write_text("SIGKILL")
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, str(connection.settings_dict["NAME"])],
        env=os.environ | {"JITACCESS_TEST_STEPS": str(steps)},
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
