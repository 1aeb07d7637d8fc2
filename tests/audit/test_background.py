"""The sequencer at work: an entry has its place within a second of its commit, whatever becomes of the signing."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from jitaccess.audit.events import Event
from jitaccess.audit.models import Leaf
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.kernel.errors import Conflict
from jitaccess.runtime import background
from jitaccess.runtime.background import Background
from tests.installation import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def leader() -> Iterator[Background]:
    leader = Background(None)
    yield leader
    leader.stop(timeout=10)


def seconds_to_its_place() -> float:
    with transaction.atomic():
        uid = record(Facts(event=Event.CONFIGURATION_CHANGED, actor=Actor.system("test")))
    committed = time.monotonic()
    eventually(lambda: Leaf.objects.filter(entry_id=uid).exists(), what="it has its place")
    return time.monotonic() - committed


def usual() -> float:
    """The usual of a few: one can be late on a busy machine."""
    return statistics.median(seconds_to_its_place() for _ in range(3))


def test_an_entry_has_its_place_within_a_second(leader: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[int] = []
    monkeypatch.setattr(background, "sign_head", lambda: signed.append(Leaf.objects.count()))
    leader.start()
    assert usual() < 1
    eventually(lambda: signed, what="the leader signs")
    assert len(signed) == 1, "once a minute"


@pytest.mark.parametrize("problem", [Conflict("x", "rolled back"), OSError("no space"), RuntimeError("a bug")], ids=str)
def test_a_leader_that_cannot_sign_goes_on_sequencing_and_tries_again(
    leader: Background, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    tried: list[float] = []

    def refuse() -> None:
        tried.append(time.monotonic())
        raise problem

    monkeypatch.setattr(background, "sign_head", refuse)
    monkeypatch.setattr(background, "CHECKPOINT_SECONDS", 0.1)
    leader.start()
    eventually(lambda: tried, what="it tries to sign")
    assert usual() < 1
    eventually(lambda: len(tried) > 1, what="it tries again")


def test_a_folder_that_hangs_keeps_no_entry_from_its_place(leader: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, free = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        free.wait(60)

    monkeypatch.setattr(background, "sign_head", hang)
    leader.start()
    try:
        assert hanging.wait(20)
        assert usual() < 1
        assert not free.is_set()
    finally:
        free.set()


def cut_off_who_leads() -> bool:
    """Whether somebody did, by the lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        found = cursor.fetchall()
    assert found in ([], [(True,)])
    return bool(found)


def test_another_leads_soon_after_the_leader_is_cut_off(leader: Background, postgresql: bool) -> None:
    """On SQLite there is one process, and it always leads."""
    other = Background(None)
    leader.start()
    try:
        seconds_to_its_place()
        other.start()
        if postgresql:
            for _ in range(3):
                eventually(cut_off_who_leads, what="somebody leads")
                assert seconds_to_its_place() < 3
        leader.stop(timeout=10)
        assert usual() < 1
    finally:
        other.stop(timeout=10)
    seqs = list(Leaf.objects.order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))
