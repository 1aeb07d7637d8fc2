"""Two at once: a code proves one of them, and recovery codes are shown to one."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from jitaccess.audit.models import Entry
from tests.cast import Cast
from tests.races import race
from tests.web.test_second_factors import codes_on, with_app

pytestmark = pytest.mark.django_db(transaction=True)


def copies(client: Client) -> list[Client]:
    """The same browser twice, as two tabs are."""
    two = [Client(), Client()]
    for one in two:
        one.cookies["sessionid"] = client.cookies["sessionid"].value
    return two


def test_a_recovery_code_typed_twice_at_once_proves_one_of_them(cast: Cast) -> None:
    cache.clear()
    client, _, codes = with_app(cast.anna)
    proofs = Entry.objects.filter(event="user.proved").count()

    def prove(tab: Client) -> Any:
        return lambda: tab.post("/accounts/reauthenticate/code/", {"code": codes[0], "next": "/requests/"}).status_code

    assert sorted(race(*map(prove, copies(client)))) == [200, 302]
    assert Entry.objects.filter(event="user.proved").count() == proofs + 1


def test_recovery_codes_are_shown_to_one_of_two_tabs(cast: Cast) -> None:
    cache.clear()
    client, _, _ = with_app(cast.anna)
    client.post("/accounts/recovery-codes/new/")

    def show(tab: Client) -> Any:
        return lambda: len(codes_on(tab.post("/accounts/recovery-codes/")))

    assert sorted(race(*map(show, copies(client)))) == [0, 10]
