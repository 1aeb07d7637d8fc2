"""Webhooks over the REST API: the services of the pages, their rights, and secrets that are told once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jitaccess.audit.models import Entry
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.store.clock import now
from tests.api.conftest import NOBODY, person, problem
from tests.cast import Cast
from tests.notify.webhooks.play import catch_up, endpoint

pytestmark = pytest.mark.pure
NEW = {"name": "siem", "url": "https://siem.example/hook?key=hidden", "events": "request.* grant.*"}


def test_its_whole_life_with_the_secret_told_once(cast: Cast) -> None:
    admin = person(cast.admin)
    made = admin.post("/webhooks", {**NEW, "team": "demo"})
    assert made.status_code == 201, made.json()
    data = made.json()
    assert data["secret"].startswith("whsec_")
    assert (data["host"], data["team"], data["enabled"]) == ("siem.example:443", "demo", True)
    assert "hidden" not in made.content.decode()
    path = f"/webhooks/{data['webhook_id']}"
    shown = admin.get(path).json()
    assert "secret" not in shown
    assert admin.get("/webhooks").json()["items"] == [shown]
    rotated = admin.post(f"{path}/rotate").json()
    assert rotated["secret"] not in {None, data["secret"]}
    assert rotated["both_secrets_until"]
    assert admin.post(f"{path}/change", {"events": "*"}).json()["secret"] is None
    moved = admin.post(f"{path}/change", {"url": "https://other.example/"}).json()
    assert (moved["host"], moved["events"], bool(moved["secret"])) == ("other.example:443", "*", True)
    assert admin.post(f"{path}/pause").json()["enabled"] is False
    problem(admin.post(f"{path}/pause"), 409, "webhook.as_it_is")
    problem(admin.post(f"{path}/test"), 409, "webhook.off")
    assert admin.post(f"{path}/resume").json()["enabled"] is True
    assert admin.post(f"{path}/remove").json() == {"webhook_id": data["webhook_id"], "removed": True}
    problem(admin.get(path), 404, "webhook.unknown")
    events = Entry.objects.filter(event__startswith="webhook.").order_by("uid").values_list("event", flat=True)
    assert [one.removeprefix("webhook.") for one in events] == [
        "created", "secret_rotated", "changed", "changed", "changed", "changed", "removed",
    ]  # fmt: skip


def test_what_a_change_does_not_name_stays_also_where_it_would_be_refused_today(cast: Cast, settings) -> None:
    settings.EGRESS_ALLOW = ["127.0.0.1/32"]
    row, _ = endpoint(cast, "http://127.0.0.1:9/hook")
    settings.EGRESS_ALLOW = []
    changed = person(cast.admin).post(f"/webhooks/{row.pk}/change", {"name": "renamed"})
    assert (changed.status_code, changed.json()["secret"]) == (200, None)
    assert Endpoint.objects.values("name", "url", "events", "sealed").get() == {
        "name": "renamed", "url": row.url, "events": row.events, "sealed": row.sealed,
    }  # fmt: skip
    assert Entry.objects.get(event="webhook.changed").data.count('"from"') == 1


def test_deliveries_are_listed_shown_tested_and_replayed(cast: Cast) -> None:
    row, _ = endpoint(cast, NEW["url"])
    cast.submit()
    catch_up()
    admin, path = person(cast.admin), f"/webhooks/{row.pk}"
    [owed] = admin.get(f"{path}/deliveries", state="waiting").json()["items"]
    assert (owed["event"], owed["attempts"]) == ("request.submitted", 0)
    assert admin.get(f"{path}/deliveries", state="failed").json()["items"] == []
    whole = admin.get(f"{path}/deliveries/{owed['delivery_id']}").json()
    assert whole["body"]["type"] == "request.submitted"
    problem(admin.post(f"{path}/deliveries/{owed['delivery_id']}/replay"), 409, "webhook.waits")
    HookDelivery.objects.update(gave_up_at=now())
    again = admin.post(f"{path}/deliveries/{owed['delivery_id']}/replay", headers={"Idempotency-Key": "a"})
    assert (again.status_code, again.json()["replay"]) == (201, True)
    assert admin.post(
        f"{path}/deliveries/{owed['delivery_id']}/replay", headers={"Idempotency-Key": "a"}
    ).json() == again.json()  # fmt: skip
    assert HookDelivery.objects.filter(replay=True).count() == 1
    since = (now() - timedelta(hours=1)).isoformat()
    assert admin.post(f"{path}/replay", {"since": since}).status_code == 200
    tested = admin.post(f"{path}/test").json()
    assert (tested["event"], tested["state"]) == ("webhook.tested", "waiting")
    problem(admin.get(f"{path}/deliveries/{NOBODY}"), 404, "webhook.unknown_delivery")


def test_who_may_not_sees_or_changes_nothing(cast: Cast, agent) -> None:
    mine, _ = endpoint(cast, NEW["url"], team=cast.team)
    other, _ = endpoint(cast, NEW["url"], name="all")
    olga, carl = person(cast.olga), person(cast.carl)
    assert [row["name"] for row in olga.get("/webhooks").json()["items"]] == ["hook"]
    assert carl.get("/webhooks").json()["items"] == []
    problem(carl.get(f"/webhooks/{mine.pk}"), 404, "webhook.unknown")
    problem(olga.get(f"/webhooks/{other.pk}/deliveries"), 404, "webhook.unknown")
    problem(olga.post("/webhooks", NEW), 403, "webhook.forbidden")
    for verb in ("rotate", "pause", "remove", "test", "change"):
        problem(olga.post(f"/webhooks/{mine.pk}/{verb}"), 403, "webhook.forbidden")
        problem(carl.post(f"/webhooks/{mine.pk}/{verb}"), 404, "webhook.unknown")
        problem(agent.post(f"/webhooks/{mine.pk}/{verb}"), 403, "agents_never_decide")
    problem(agent.get("/webhooks"), 403, "agents_never_decide")
    assert Endpoint.objects.filter(enabled=True).count() == 2
    assert not HookDelivery.objects.filter(event="webhook.tested").exists()


def test_what_cannot_be_is_refused_and_no_secret_is_kept_for_a_key(cast: Cast) -> None:
    admin = person(cast.admin)
    problem(admin.post("/webhooks", {**NEW, "events": "nothing.*"}), 400, "webhook.events")
    problem(admin.post("/webhooks", {**NEW, "team": "absent"}), 400, "webhook.team")
    assert admin.post("/webhooks", {**NEW, "url": "http://169.254.169.254/"}).status_code == 403
    problem(admin.post("/webhooks", NEW, headers={"Idempotency-Key": "a"}), 400, "idempotency.not_here")
    assert not Endpoint.objects.exists()
