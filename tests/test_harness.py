"""The harness itself: what every other test relies on."""

from __future__ import annotations

import re
import socket
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.policy.compiler import head
from jitaccess.store.clock import now
from tests import databases
from tests.cast import Cast, build_cast
from tests.cast_again import UUIDS, cast_again, rows_of_all
from tests.clocks import Clock
from tests.races import race


def test_nothing_reaches_beyond_loopback() -> None:
    with pytest.raises(AssertionError, match="network"):
        socket.create_connection(("192.0.2.1", 9), timeout=0.01)
    with pytest.raises(AssertionError, match="network"), socket.socket() as one:
        one.connect_ex(("192.0.2.1", 9))
    with pytest.raises(AssertionError, match="network"):
        socket.getaddrinfo("example.test", 443)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername() == server.getsockname()


def test_every_process_has_a_var_folder_of_its_own() -> None:
    assert "jitaccess-test-" in str(settings.VAR)
    assert settings.VAR.is_dir()


@pytest.mark.django_db(transaction=True)
def test_a_copy_of_the_cast_is_what_the_services_make() -> None:
    build_cast()
    made = shape()
    assert sum(map(len, made.values())) > 300
    for _ in range(3):  # at the latest the second is a copy
        databases.empty()
        cast = cast_again()
        assert shape() == made
        assert cast.verdict("git_log").allowed
        assert not cast.verdict("git_commit").allowed
        assert cast.agent.owner == cast.olga
        assert User.objects.get(username="olga") == cast.olga
        assert User.objects.get(username="olga").check_password("correct horse battery")
        assert Entry.objects.order_by("uid").last().at <= now()


def shape() -> dict[str, list[str]]:
    """All rows, by the statement that would write them: ids by the order of their making, without dates and passwords."""
    values = {statement: list(map(str, row)) for statement, row in rows_of_all()}
    ids = sorted({found.replace("-", "") for row in values.values() for value in row for found in UUIDS.findall(value)})

    def plain(value: str) -> str:
        value = UUIDS.sub(lambda found: f"#{ids.index(found[0].replace('-', ''))}", value)
        return re.sub(r"^md5\$.*|^\d{4}-\d\d-\d\d [\d:.+]+$", "…", value)

    return {statement: sorted(map(plain, row)) for statement, row in values.items()}


@pytest.mark.django_db
def test_the_cast_reads_and_may_ask_but_not_write(cast: Cast) -> None:
    assert cast.verdict("git_log").allowed
    assert not cast.verdict("git_commit").allowed
    assert cast.verdict("git_commit").requestable is not None
    assert cast.grant("git_commit").expires_at > now()
    assert cast.verdict("git_commit").allowed


@pytest.mark.django_db(transaction=True)
def test_a_shifted_clock_is_shifted_for_every_connection(clock: Clock) -> None:
    before = now()
    clock.shift(3600)
    others = race(now, now)
    assert all(timedelta(hours=1) <= moment - before < timedelta(hours=1, minutes=1) for moment in others)
    clock.at(before - timedelta(days=400))
    assert now() < before - timedelta(days=399)
    clock.restore()
    assert abs(now() - before) < timedelta(minutes=1)


@pytest.mark.django_db(transaction=True)
def test_emptying_removes_protected_rows_and_leaves_the_protection(cast: Cast) -> None:
    cast.grant("git_commit")
    version = head().version
    databases.empty()
    assert not Entry.objects.exists()
    assert not User.objects.exists()
    assert head().version > version
    User.objects.create_user(username="x")
    assert head().version == version + 2
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("SELECT count(*) FROM django_migrations")
        assert cursor.fetchone()[0] > 0
