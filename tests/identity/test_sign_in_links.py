from __future__ import annotations

import pytest

from jitaccess.audit.models import Entry
from jitaccess.identity.models import SignInLink, User
from jitaccess.identity.services import issue_sign_in_link, link_owner, use_sign_in_link
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.ids import token_hash
from tests.cast import OPERATOR, person
from tests.clocks import Clock
from tests.races import race


def sign_ins() -> int:
    return Entry.objects.filter(event="user.signed_in").count()


@pytest.mark.django_db
def test_a_link_signs_one_person_in_once_and_only_its_hash_is_kept() -> None:
    anna = person("anna")
    value = issue_sign_in_link(user=anna, ttl=60, operator=OPERATOR)
    assert SignInLink.objects.get().hash == token_hash(value)
    assert value not in str(list(Entry.objects.values()))
    assert link_owner(value) == anna, "looking does not use it up"
    assert use_sign_in_link(value, source="127.0.0.1") == anna
    for use in (use_sign_in_link, link_owner):
        with pytest.raises(NotFound, match="already used"):
            use(value)
    entry = Entry.objects.get(event="user.signed_in")
    assert (entry.user, entry.outcome, entry.source) == (anna.pk, "allowed", "127.0.0.1")


@pytest.mark.django_db
def test_unknown_expired_and_inactive_are_answered_alike(clock: Clock) -> None:
    anna, bert = person("anna"), person("bert")
    expired = issue_sign_in_link(user=anna, ttl=60, operator=OPERATOR)
    clock.shift(61)
    inactive = issue_sign_in_link(user=bert, ttl=60, operator=OPERATOR)
    User.objects.filter(pk=bert.pk).update(is_active=False)
    answers = set()
    for value in (expired, inactive, "in_unknown", ""):
        with pytest.raises(NotFound) as caught:
            use_sign_in_link(value)
        answers.add(str(caught.value))
    assert len(answers) == 1
    assert sign_ins() == 0


@pytest.mark.django_db(transaction=True)
def test_of_several_who_use_a_link_at_once_one_gets_in() -> None:
    anna = person("anna")
    for trial in range(1, 21):
        value = issue_sign_in_link(user=anna, ttl=60, operator=OPERATOR)
        results = race(*[lambda value=value: use_sign_in_link(value)] * 3)
        assert [result for result in results if result == anna] == [anna], results
        assert [type(result) for result in results].count(NotFound) == 2
        assert sign_ins() == trial
