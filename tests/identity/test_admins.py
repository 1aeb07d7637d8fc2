"""There is always somebody who may do everything, and a way back from the machine itself."""

from __future__ import annotations

import json

import pytest
from django.db import transaction
from django.test import Client

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.services import ensure_admin_left, make_admin
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.runtime import cli
from tests.cast import OPERATOR, Cast, person
from tests.races import race


def records() -> list[dict[str, object]]:
    return [json.loads(data) for data in Entry.objects.filter(event="user.made_admin").values_list("data", flat=True)]


def powers(user: User) -> tuple[bool, bool, bool]:
    user.refresh_from_db()
    return user.is_active, user.is_staff, user.is_superuser


@pytest.mark.django_db
def test_a_new_admin_is_made_without_a_password() -> None:
    user = make_admin(username="root", operator=OPERATOR)
    assert powers(user) == (True, True, True)
    assert not user.has_usable_password()
    assert records() == [{"for_user": "root", "new": True}]
    assert Entry.objects.get(event="user.made_admin").user_name == "operator"


@pytest.mark.django_db
def test_a_person_there_is_becomes_one_and_keeps_the_password() -> None:
    anna = person("anna")
    User.objects.filter(pk=anna.pk).update(is_active=False)
    assert make_admin(username="anna", operator=OPERATOR) == anna
    assert powers(anna) == (True, True, True)
    assert anna.check_password("correct horse battery")
    assert records() == [{"for_user": "anna", "new": False}]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 151, "a\nb", "a\u202eb", "a\0b"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        make_admin(username=name, operator=OPERATOR)
    assert caught.value.code == "user.name"
    assert "\u202e" not in caught.value.detail
    assert not User.objects.exists()
    assert records() == []


@pytest.mark.django_db
def test_the_command_prints_a_link_that_leads_into_the_admin(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = cli._parser().parse_args(["people", "admin", "root"])
    assert arguments.run(arguments) == 0
    link = capsys.readouterr().out.strip()
    assert "/sign-in/in_" in link
    client = Client()
    assert client.post("/sign-in/" + link.split("/sign-in/")[1]).status_code == 302
    assert client.get("/admin/").status_code == 200
    assert records() == [{"for_user": "root", "new": True}]
    assert Entry.objects.filter(event="user.made_admin", user_name__startswith="operator:").count() == 1


@pytest.mark.django_db
def test_who_is_inactive_or_not_staff_is_no_admin_left(cast: Cast) -> None:
    User.objects.filter(pk=cast.bert.pk).update(is_superuser=True)
    User.objects.filter(pk=cast.carl.pk).update(is_superuser=True, is_staff=True, is_active=False)
    with transaction.atomic():
        ensure_admin_left(without=[cast.bert.pk, cast.carl.pk, cast.anna.pk])
        with pytest.raises(Conflict, match="last active superuser"):
            ensure_admin_left(without=[cast.admin.pk])


@pytest.mark.django_db(transaction=True)
def test_two_admins_who_remove_each_other_at_once_do_not_both_go() -> None:
    for trial in range(5):
        pair = [make_admin(username=f"{name}{trial}", operator=OPERATOR) for name in "ab"]

        def remove(user: User) -> None:
            with transaction.atomic():
                ensure_admin_left(without=[user.pk])
                User.objects.filter(pk=user.pk).update(is_superuser=False)

        results = race(*(lambda user=user: remove(user) for user in pair))
        assert [type(result) for result in results if result] == [Conflict], results
        assert User.objects.filter(is_superuser=True).count() == 1
        User.objects.update(is_superuser=False)
