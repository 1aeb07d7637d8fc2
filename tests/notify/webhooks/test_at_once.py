"""Two who manage webhooks at the same moment."""

from __future__ import annotations

from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import Conflict
from jitaccess.notify.webhooks import services
from jitaccess.notify.webhooks.models import Endpoint
from tests.cast import OPERATOR, Cast
from tests.races import race

pytestmark = pytest.mark.django_db(transaction=True)
SAME: dict[str, Any] = {"name": "siem", "events": "request.*", "team": None, "owner": None, "operator": OPERATOR}


def test_of_two_who_take_one_name_at_once_one_is_told_so(cast: Cast) -> None:
    def create() -> Any:
        return services.create_endpoint(url="https://siem.example/hook", **SAME)

    results = race(create, create, create)
    assert [one.code for one in results if isinstance(one, Conflict)] == ["webhook.taken"] * 2
    assert Endpoint.objects.count() == Entry.objects.filter(event="webhook.created").count() == 1
