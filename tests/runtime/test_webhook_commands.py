"""`jitaccess webhooks`, by whoever has the database."""

from __future__ import annotations

import json

import pytest

from jitaccess.audit.models import Entry
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.store.clock import now
from tests.cast import Cast
from tests.notify.webhooks.play import catch_up
from tests.runtime.test_verbs_here import Run
from tests.runtime.test_verbs_here import run as run  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.pure
URL = "https://siem.example/hook?key=hidden"


def test_one_is_made_shown_tested_replayed_and_removed(cast: Cast, run: Run, monkeypatch) -> None:
    monkeypatch.setenv("CHAT_HOOK", URL)
    code, out, _ = run("webhooks", "create", "siem", "--url-from", "CHAT_HOOK", "--events", "request.*", "--json")
    made = json.loads(out)
    assert (code, made["secret"][:6], "hidden" in out) == (0, "whsec_", False)
    catch_up()
    cast.submit()
    catch_up()
    row = Endpoint.objects.get()
    code, out, _ = run("webhooks", "list")
    assert "siem" in out
    assert "siem.example" in out
    assert run("webhooks", "show", "siem")[1].count("request.submitted") == 1
    HookDelivery.objects.update(gave_up_at=now(), error="It answered 500.")
    out = run("webhooks", "deliveries", "siem", "--state", "failed")[1]
    assert "It answered 500." in out
    one = HookDelivery.objects.get()
    assert run("webhooks", "replay", "siem", str(one.pk))[0] == 0
    assert run("webhooks", "replay", "siem", str(one.pk))[0] == 4
    assert run("webhooks", "replay", "siem")[0] == 2
    for long_ago in ("31d", "999999999d999999999h"):
        assert run("webhooks", "replay", "siem", "--since", long_ago)[0] == 2
    code, out, _ = run("webhooks", "test", str(row.pk)[:13])
    assert (code, "--event webhook.tested" in out) == (0, True)
    assert json.loads(run("webhooks", "deliveries", "siem", "--event", "webhook.tested", "--json")[1])["items"]
    assert "whsec_" in run("webhooks", "rotate", "siem")[1]
    assert "whsec_" not in run("webhooks", "change", "siem", "--events", "*")[1]
    assert run("webhooks", "pause", "siem")[0] == 0
    assert run("webhooks", "pause", "siem")[0] == 4
    assert run("webhooks", "test", "siem")[0] == 4
    assert "on." in run("webhooks", "resume", "siem")[1]
    assert run("webhooks", "remove", "siem")[0] == 0
    assert not Endpoint.objects.exists()
    assert run("webhooks", "show", "siem")[0] != 0
    assert "There are no webhooks." in run("webhooks", "list")[1]
    assert Entry.objects.get(event="webhook.removed").user_name.startswith("operator:")


def test_what_cannot_be_is_refused(cast: Cast, run: Run) -> None:
    assert run("webhooks", "create", "siem", "--events", "*")[0] == 2
    assert run("webhooks", "create", "siem", URL, "--events", "nothing")[0] == 2
    assert run("webhooks", "create", "siem", URL, "--events", "*", "--team", "absent")[0] == 3
    assert run("webhooks", "create", "siem", "http://169.254.169.254/", "--events", "*")[0] == 1
    assert not Endpoint.objects.exists()
