from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import DatabaseError, transaction

from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.policy.models import RoleBinding, RoleVersion
from jitaccess.policy.services import bind_role, end_binding, save_role
from jitaccess.store.clock import now
from tests.cast import OPERATOR, READ_ONLY, Cast

pytestmark = pytest.mark.django_db

WRITERS = READ_ONLY.replace("read-only", "writers").replace("[read]", "[read, write]")


def events() -> list[str]:
    return list(Entry.objects.order_by("uid").values_list("event", flat=True))


def test_a_role_is_saved_in_versions_that_are_kept(cast: Cast) -> None:
    role = save_role(document=WRITERS, operator=OPERATOR)
    changed = WRITERS + "  deny: []\n"
    assert save_role(document=changed, operator=OPERATOR, role=role).head == 2
    assert list(RoleVersion.objects.filter(role=role).order_by("version").values_list("version", "document")) == [
        (1, WRITERS),
        (2, changed),
    ]
    assert events().count("role.saved") == 3, "read-only of the cast, and two here"


def test_saving_the_same_text_again_changes_nothing(cast: Cast) -> None:
    before = events()
    assert save_role(document=READ_ONLY, operator=OPERATOR, role=cast.read_only).head == 1
    assert events() == before


def test_a_role_keeps_its_name(cast: Cast) -> None:
    with pytest.raises(Conflict) as caught:
        save_role(document=WRITERS, operator=OPERATOR, role=cast.read_only)
    assert caught.value.code == "role.renamed"
    assert RoleVersion.objects.count() == 1


@pytest.mark.parametrize("name", ["x" * 41, "Read Only", "a\u202eb", "-a"])
def test_a_role_whose_name_no_column_or_page_could_hold_is_refused(cast: Cast, name: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        save_role(document=READ_ONLY.replace("read-only", f'"{name}"'), operator=OPERATOR)


def test_a_new_version_is_in_force_for_everyone_bound_to_the_role(cast: Cast) -> None:
    assert not cast.verdict("git_commit").allowed
    save_role(document=READ_ONLY.replace("[read]", "[read, write]"), operator=OPERATOR, role=cast.read_only)
    assert cast.verdict("git_commit").allowed
    assert "read-only@2" in cast.verdict("git_commit").rule


def test_a_binding_has_one_subject(cast: Cast) -> None:
    for subjects in ({}, {"agent": cast.agent, "user": cast.anna}, {"team": cast.team, "everyone": "agents"}):
        with pytest.raises(Invalid, match="one agent, one user, one team"):
            bind_role(role=cast.read_only, operator=OPERATOR, **subjects)
    assert RoleBinding.objects.count() == 2


def test_a_grant_cannot_be_bound_or_ended_by_hand(cast: Cast) -> None:
    with pytest.raises(Invalid, match="approved requests"):
        bind_role(role=cast.read_only, agent=cast.agent, operator=OPERATOR, origin=RoleBinding.Origin.GRANT)
    grant = cast.grant("git_commit")
    with pytest.raises(Invalid, match="Revoke the grant"):
        end_binding(binding=RoleBinding.objects.get(origin_id=grant.pk), operator=OPERATOR)
    assert cast.verdict("git_commit").allowed


def test_a_standing_binding_ends_once(cast: Cast) -> None:
    role = save_role(document=WRITERS, operator=OPERATOR)
    binding = bind_role(role=role, agent=cast.agent, operator=OPERATOR)
    assert cast.verdict("git_commit").allowed
    end_binding(binding=binding, operator=OPERATOR)
    assert not cast.verdict("git_commit").allowed
    with pytest.raises(Conflict, match="ended already"):
        end_binding(binding=binding, operator=OPERATOR)
    assert events().count("binding.ended") == 1


def test_the_database_refuses_bindings_that_no_code_should_make(cast: Cast) -> None:
    moment = now()
    good = {"role": cast.read_only, "agent": cast.agent, "origin": "standing", "starts_at": moment}
    hour = timedelta(hours=1)
    for wrong in (
        {"agent": None},
        {"team": cast.team},
        {"everyone": "agents"},
        {"expires_at": moment},
        {"role": None},
        {"tools": '{"x": "y"}'},
        {"origin": "grant", "role": None, "expires_at": moment + hour},
        {"origin": "grant", "role": None, "origin_id": cast.agent.pk},
        {"origin": "grant", "expires_at": moment + hour, "origin_id": cast.agent.pk},
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            RoleBinding.objects.create(**(good | wrong))
    assert RoleBinding.objects.create(**good).pk
