"""Lists in parts: every row once, whatever is added meanwhile."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from tests.api.conftest import Api, person
from tests.cast import Cast, like

pytestmark = pytest.mark.django_db


def file(cast: Cast, count: int) -> None:
    """Requests that were filed and have expired since, without their entries."""
    kept = cast.submit(seconds=3600)
    made = []
    for number in range(count):
        row = AccessRequest.objects.get(pk=kept.pk)
        row.pk = AccessRequest._meta.pk.get_default()
        row.dedupe_digest, row.status, row.closed_at = f"{kept.pk}{number}"[:80], "expired", now()
        made.append(row)
    like(kept, made)


def follow(api: Api, link: str) -> Any:
    response = api.client.get(link, headers=api.headers)
    assert response.status_code == 200, response.content
    return response.json()


def test_a_walk_meets_every_row_once_while_rows_are_added(cast: Cast):
    file(cast, 7)
    there = set(map(str, AccessRequest.objects.values_list("pk", flat=True)))
    for api in (person(cast.anna), person(cast.admin)):
        seen: list[str] = []
        link, sizes = "/api/v1/requests?limit=3&agent=demo-agent", []
        while link:
            part = follow(api, link)
            sizes.append(len(part["items"]))
            seen += [item["request_id"] for item in part["items"]]
            link = part["next"]
            file_one_more(cast)
        assert len(seen) == len(set(seen))
        assert there <= set(seen)
        assert all(size == 3 for size in sizes[:-1])
        there |= set(map(str, AccessRequest.objects.values_list("pk", flat=True)))


def file_one_more(cast: Cast) -> None:
    row = AccessRequest.objects.order_by("-pk")[0]
    row.pk = AccessRequest._meta.pk.get_default()
    row.dedupe_digest, row.status, row.closed_at = str(row.pk), "expired", now()
    row.save(force_insert=True)


def test_the_way_back_is_the_way_there(cast: Cast):
    file(cast, 6)
    api = person(cast.anna)
    first = follow(api, "/api/v1/requests?limit=3")
    second = follow(api, first["next"])
    third = follow(api, second["next"])
    assert (len(third["items"]), third["next"]) == (1, None)
    assert first["previous"] is None
    assert follow(api, third["previous"])["items"] == second["items"]
    assert follow(api, second["previous"])["items"] == first["items"]
    assert "limit=3" in second["previous"]


def test_the_ledger_is_walked_in_the_same_way_and_filtered(cast: Cast):
    api = person(cast.admin)
    asked = cast.submit()
    cast.approve(asked)
    everything = set(map(str, Entry.objects.values_list("pk", flat=True)))
    seen, link = [], "/api/v1/ledger/entries?limit=7"
    while link:
        part = follow(api, link)
        seen += [entry["uid"] for entry in part["items"]]
        link = part["next"]
        record(Facts(event=Event.REQUEST_EXPIRED, actor=Actor.system("tests")))
    assert len(seen) == len(set(seen))
    assert set(seen) == everything
    grant = asked.grant

    def events(**query: Any) -> list[str]:
        return [entry["event"] for entry in api.get("/ledger/entries", **query).json()["items"]]

    assert set(events(request=asked.pk, grant=grant.pk)) == {"grant.activated"}
    assert events(event="request.submitted") == ["request.submitted"]
    assert events(agent=cast.agent.pk) == ["request.submitted"]
    assert events(call=cast.agent.pk) == []
    assert events(since=(now() + timedelta(hours=1)).isoformat()) == []
    assert events(event="request.submitted", until=(now() + timedelta(hours=1)).isoformat()) == ["request.submitted"]
