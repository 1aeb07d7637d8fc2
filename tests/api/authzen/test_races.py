"""Several at once, with real connections: one use, one request."""

from __future__ import annotations

import pytest

from jitaccess.audit.models import Entry
from jitaccess.policy.models import BindingUse
from requests_app.models import AccessRequest
from tests.api.authzen.conftest import bearing
from tests.api.conftest import token_of
from tests.cast import Cast
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)


def test_of_several_requests_to_a_web_server_as_many_go_through_as_there_are_uses(cast: Cast):
    binding = cast.limited(2)
    token = token_of(cast.agent)

    def ask() -> int:
        return int(bearing(token).get("forward-auth", X_Jitaccess_Tool="git/git_commit").status_code)

    answers = race(*[ask] * 5)
    # A row that is held too long is refused (503) and lets nothing through; it may be asked for again.
    assert answers.count(200) + Entry.objects.filter(event="grant.used").count() <= 4
    while BindingUse.objects.get(binding=binding).left:
        answers.append(ask())
    assert answers.count(200) == 2
    assert Entry.objects.filter(event="grant.used").count() == 2
    assert ask() == 403


def test_one_denial_sent_several_times_at_once_is_one_request(cast: Cast):
    token = token_of(cast.agent)
    context = bearing(token).denied()
    answers = race(*[lambda: bearing(token).submit(context).status_code] * 4)
    assert AccessRequest.objects.count() == 1
    assert answers.count(202) == 1
    assert set(answers) <= {202, 400, 409}
