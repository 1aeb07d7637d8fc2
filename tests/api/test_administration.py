"""Configuration over the API: for whom the admin shows and changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission

from jitaccess.audit import proofs
from jitaccess.audit.heads import sign_head, verifiers
from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import AccessToken, User
from jitaccess.identity.services import authenticate
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Forbidden
from tests.api.conftest import NOBODY, Api, person, problem
from tests.cast import Cast, definition

pytestmark = pytest.mark.django_db


def staff(user: User, *permissions: str) -> Api:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    for permission in permissions:
        user.user_permissions.add(Permission.objects.get(codename=permission))
    return person(User.objects.get(pk=user.pk))


def test_a_permission_opens_what_it_opens_in_the_admin_and_nothing_else(cast: Cast):
    carl = staff(cast.carl, "view_server")
    assert [server["slug"] for server in carl.get("/servers").json()["items"]] == ["git"]
    assert carl.get(f"/servers/{cast.server.pk}").status_code == 200
    for path in ("/tools", "/roles", "/bindings", "/ledger/entries"):
        problem(carl.get(path), 403, "not_permitted")
    cast.carl.user_permissions.add(Permission.objects.get(codename="change_role"))
    assert carl.get("/roles").status_code == 200


def test_a_permission_without_being_staff_opens_nothing(cast: Cast):
    cast.carl.user_permissions.add(Permission.objects.get(codename="view_server"))
    problem(person(cast.carl).get("/servers"), 403, "not_permitted")


def test_agents_are_switched_by_those_who_may_change_them(cast: Cast):
    path = f"/agents/{cast.agent.pk}"
    owner = person(cast.olga)
    assert owner.get("/agents").json()["items"][0]["name"] == "demo-agent"
    problem(owner.post(f"{path}/disable"), 403, "not_permitted")
    admin = person(cast.admin)
    assert admin.post(f"{path}/disable").json()["enabled"] is False
    assert admin.get("/agents", enabled="true").json()["items"] == []
    assert cast.verdict("git_log").code == "locked_down"
    assert admin.post(f"{path}/enable").json()["enabled"] is True
    told = list(Entry.objects.filter(event__startswith="agent.").order_by("uid").values_list("event", "user_name"))
    assert told[1:] == [("agent.disabled", "admin"), ("agent.enabled", "admin")]
    problem(admin.post(f"/agents/{NOBODY}/disable"), 404, "agent.unknown")


def test_a_token_is_in_one_answer_and_nowhere_else(cast: Cast, caplog: pytest.LogCaptureFixture):
    cast.agent.users.add(cast.bert)
    admin = person(cast.admin)
    answer = admin.post(f"/agents/{cast.agent.pk}/tokens", {"minutes": 5, "on_behalf_of": "bert"})
    assert answer.status_code == 201
    value = answer.json()["token"]
    principal = authenticate(value)
    assert (principal.label, principal.issued_by) == ("demo-agent for bert", cast.admin.pk)
    assert answer.headers["Cache-Control"] == "no-store"
    for model in apps.get_models():
        assert value not in str(list(model._default_manager.values())), model
    assert value not in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"minutes": 61}, 400, "input.invalid"),
        ({"minutes": 0}, 400, "input.invalid"),
        ({}, 400, "input.invalid"),
        ({"minutes": 5, "on_behalf_of": "carl"}, 403, "agent.not_usable"),
        ({"minutes": 5, "on_behalf_of": "nemo"}, 404, "user.unknown"),
    ],
)
def test_tokens_that_may_not_be_are_not_issued(body: dict[str, Any], status: int, code: str, cast: Cast):
    problem(person(cast.admin).post(f"/agents/{cast.agent.pk}/tokens", body), status, code)
    problem(
        staff(cast.carl, "change_agent").post(f"/agents/{cast.agent.pk}/tokens", {"minutes": 5}), 403, "not_permitted"
    )
    assert not AccessToken.objects.exists()


def test_a_token_is_revoked_by_the_owner_its_issuer_and_whoever_the_admin_would_let(cast: Cast):
    path = f"/agents/{cast.agent.pk}/tokens"
    cast.agent.users.add(cast.carl)
    issuer, owner = staff(cast.carl, "add_accesstoken"), person(cast.olga)
    issued = [issuer.post(path, {"minutes": 5}).json() for _ in range(3)]
    value, ids = issued[0]["token"], [one["token_id"] for one in issued]
    problem(issuer.get(path), 403, "not_permitted")
    problem(person(cast.bert).post(f"{path}/{ids[0]}/revoke"), 403, "not_permitted")
    assert [one["token_id"] for one in owner.get(path, live="true").json()["items"]] == ids[::-1]
    assert value not in owner.get(path).text
    authenticate(value)
    for who, token in ((owner, ids[0]), (issuer, ids[1]), (staff(cast.anna, "change_accesstoken"), ids[2])):
        done = who.post(f"{path}/{token}/revoke").json()
        assert (done["token_id"], done["live"], done["issued_by"]) == (token, False, "carl")
        assert who.post(f"{path}/{token}/revoke").json() == done, "the first time stands"
    with pytest.raises(Forbidden):
        authenticate(value)
    assert owner.get(path, live="true").json()["items"] == []
    assert len(owner.get(path, live="false").json()["items"]) == 3
    told = Entry.objects.filter(event="token.revoked").order_by("uid").values_list("user_name", flat=True)
    assert list(told) == ["olga", "carl", "anna"]
    problem(person(cast.admin).post(f"{path}/{NOBODY}/revoke"), 404, "token.unknown")
    problem(person(cast.admin).post(f"/agents/{NOBODY}/tokens/{ids[0]}/revoke"), 404, "token.unknown")


def test_a_tool_is_classified_as_it_was_looked_at(cast: Cast):
    from jitaccess.catalog.services import import_tools

    changed = [definition(name) for name in cast.tools if name != "git_log"] + [definition("git_log", title="Log")]
    import_tools(server=cast.server, definitions=changed, operator=cast.operator)
    admin = person(cast.admin)
    (tool,) = admin.get("/tools", quarantined="true", server="git").json()["items"]
    assert tool["name"] == "git_log"
    path = f"/tools/{tool['tool_id']}"
    shown = admin.get(path).json()
    assert shown["definition"]["title"] == "Log"
    problem(admin.post(f"{path}/classify", {"access": "read", "digest": shown["pin"]}), 409, "tool.changed")
    problem(admin.post(f"{path}/classify", {"access": "harmless", "digest": "x"}), 400, "input.invalid")
    done = admin.post(f"{path}/classify", {"access": "write", "digest": shown["digest"]}).json()
    assert (done["access"], done["quarantined"], done["pin"]) == ("write", False, shown["digest"])
    classed = {one["name"] for one in admin.get("/tools", access="write").json()["items"]}
    assert classed == {"git_add", "git_commit", "git_log"}


def test_options_of_a_server_are_set_by_name_and_recorded(cast: Cast):
    admin, path = person(cast.admin), f"/servers/{cast.server.pk}"
    before = admin.get(path).json()["options"]
    done = admin.post(f"{path}/options", {"call_seconds": 5, "identity_header": True, "repeat_limit": 0}).json()
    assert done["options"] == before | {"call_seconds": 5, "identity_header": True}
    entry = Entry.objects.get(event="configuration.changed")
    assert (entry.user_name, entry.server_name, strictjson.decode(entry.data.encode())["changes"]) == (
        "admin", "git",
        {"call_seconds": {"from": 60, "to": 5}, "identity_header": {"from": False, "to": True}},
    )  # fmt: skip
    for wrong in ({"call_seconds": 0}, {"call_seconds": True}, {"identity_header": 1}, {"colour": 1}):
        problem(admin.post(f"{path}/options", wrong), 400, "input.invalid")
    problem(staff(cast.carl, "view_server").post(f"{path}/options", {"call_seconds": 7}), 403, "not_permitted")
    problem(admin.post(f"/servers/{NOBODY}/options", {}), 404, "server.unknown")
    assert admin.get(path).json() == done


def test_roles_and_bindings_are_read(cast: Cast):
    cast.grant()
    admin = person(cast.admin)
    role = admin.get(f"/roles/{cast.read_only.pk}").json()
    assert (role["name"], role["head"], [one["version"] for one in role["versions"]]) == ("read-only", 1, [1])
    assert "access: [read]" in role["document"]
    origins = [one["origin"] for one in admin.get("/bindings").json()["items"]]
    assert origins == ["grant", "default", "default"]
    assert [one["subject"] for one in admin.get("/bindings", origin="grant").json()["items"]] == ["demo-agent"]
    problem(admin.get(f"/roles/{NOBODY}"), 404, "role.unknown")


def test_a_proof_by_the_api_is_the_proof_that_the_verifier_takes(cast: Cast, settings: Any, tmp_path: Path):
    settings.CHECKPOINTS, settings.CHECKPOINT_KEYS = tmp_path / "checkpoints", tmp_path / "keys"
    cast.submit()
    auditor = staff(cast.carl, "view_entry")
    uid = Entry.objects.get(event="request.submitted").pk
    problem(auditor.get(f"/ledger/entries/{uid}/proof"), 409, "proof.unsigned")
    while sequence():
        pass
    sign_head()
    document = auditor.get(f"/ledger/entries/{uid}/proof")
    assert document.status_code == 200
    assert "is in the ledger" in proofs.check(document.content, verifiers())
    (head,) = auditor.get("/ledger/checkpoints").json()["items"]
    assert head["note"] == document.json()["checkpoint"]
    entry = auditor.get(f"/ledger/entries/{uid}").json()
    assert entry["data"]["reason"] == "Finish the release notes"
    assert entry.keys() == strictjson.decode(document.content)["entry"].keys()  # type: ignore[union-attr]
    problem(auditor.get(f"/ledger/entries/{NOBODY}"), 404, "entry.unknown")
    problem(auditor.get(f"/ledger/entries/{NOBODY}/proof"), 404, "entry.unknown")


def test_the_index_leads_to_what_there_is(cast: Cast):
    admin = person(cast.admin)
    links = admin.get("/").json()["links"]
    for name, link in links.items():
        expected = 403 if name == "requestable" else 200
        assert admin.client.get(link).status_code == expected, name
