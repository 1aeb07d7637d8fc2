"""`jitaccess apply`: files become access, in one piece, twice the same, and nobody is locked out."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jitaccess.audit.models import Entry
from jitaccess.catalog.credentials import credentials_of, set_credential
from jitaccess.catalog.models import Server, Tool
from jitaccess.catalog.services import import_tools, register_server
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import create_agent, set_agent_enabled
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import ApprovalPolicy, Requestable, Role, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, end_binding, save_role
from jitaccess.runtime.access_files import applying
from jitaccess.runtime.access_files.documents import read_files
from jitaccess.runtime.access_files.plan import Action
from jitaccess.runtime.access_files.state import live_bindings
from jitaccess.store.clock import now
from tests.cast import OPERATOR, Cast, definition
from tests.runtime.access_files import POLICY, apply, binding, document, people, problems, reading, role

pytestmark = pytest.mark.django_db
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "access"


def test_the_examples_make_a_fresh_installation_and_then_there_is_nothing_to_do() -> None:
    people("anna", "bert", "olga")
    files = read_files([EXAMPLES])
    plan = apply(files)
    assert not plan.problems, problems(plan)
    assert any("files was never asked for its tools" in text for text in plan.warnings)
    assert Agent.objects.get(name="report-writer").team.members.count() == 3
    assert Server.objects.get(slug="files").url == "https://mcp.example.com/mcp"
    assert ServerAccess.objects.get(server__slug="git").every_team
    assert Requestable.objects.filter(server__slug="files", max_total_minutes=480, team__name="finance").exists()
    assert {row.origin for row in RoleBinding.objects.all()} == {"default", "standing", "ceiling"}
    before = Entry.objects.count()
    again = apply(read_files([EXAMPLES]), prune=True)
    assert (again.changes, again.problems) == ([], [])
    assert Entry.objects.count() == before


def test_every_change_is_in_the_ledger_in_the_name_of_who_applied(tmp_path: Path) -> None:
    people("anna", "bert", "olga")
    apply(read_files([EXAMPLES]))
    entries = list(Entry.objects.all())
    assert {entry.user_name for entry in entries} == {"operator"}
    counted = Counter(entry.event for entry in entries)
    assert counted["role.saved"] == 3
    assert counted["policy.saved"] == 1
    assert counted["binding.created"] == 4
    assert counted["agent.created"] == 1
    assert counted["server.registered"] == 2
    # A team, the labels of the agent, what no service has an event for of the two servers.
    assert counted["configuration.changed"] == 4
    # `description` and the like come with `server.registered`; who may use it does not.
    [said] = [json.loads(entry.data) for entry in entries if '"name":"git"' in entry.data]
    assert said["changes"]["access"] == {"from": None, "to": "every-team"}


def test_only_what_a_file_says_is_changed(tmp_path: Path, cast: Cast) -> None:
    Agent.objects.filter(pk=cast.agent.pk).update(description="as it was", labels='{"tier": "one"}')
    cast.agent.users.add(cast.carl)
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    plan = apply(reading(tmp_path, a=document("agent", "demo-agent", "{owner: anna, team: demo}")))
    [change] = plan.changes
    assert list(change.fields()) == [("owner", "olga", "anna")]
    cast.agent.refresh_from_db()
    assert cast.agent.owner == cast.anna
    assert (cast.agent.description, cast.agent.labels) == ("as it was", '{"tier": "one"}')
    assert list(cast.agent.users.all()) == [cast.carl]
    assert not cast.agent.enabled, "a file that does not say so undoes no emergency stop"


def test_options_of_a_server_are_set_singly_and_trust_is_warned_about(tmp_path: Path, cast: Cast) -> None:
    spec = "{options: {call_seconds: 5, accept_definitions: true}}"
    plan = apply(reading(tmp_path, a=document("server", "git", spec)))
    assert not plan.problems, problems(plan)
    assert ["nobody reviews its tools" in text for text in plan.warnings] == [True]
    said = json.loads(Entry.objects.get(event="configuration.changed").data)["changes"]
    assert said == {"call_seconds": {"from": 60, "to": 5}, "accept_definitions": {"from": False, "to": True}}
    spec = "{options: {accept_definitions: false}}"
    plan = apply(reading(tmp_path, a=document("server", "git", spec)))
    assert (plan.problems, plan.warnings) == ([], [])
    server = Server.objects.get(slug="git")
    assert (server.call_seconds, server.accept_definitions) == (5, False)
    wrong = apply(reading(tmp_path, a=document("server", "git", "{options: {call_seconds: 0}}")))
    assert "spec.options.call_seconds: expected a whole number from 1 to 3600" in problems(wrong)


def test_what_a_file_says_is_the_whole_of_it(tmp_path: Path, cast: Cast) -> None:
    spec = "{access: [], requestables: []}"
    plan = apply(reading(tmp_path, a=document("server", "git", spec)))
    assert not plan.problems, problems(plan)
    assert not ServerAccess.objects.get(server=cast.server).teams.exists()
    assert not Requestable.objects.exists()
    assert cast.verdict("git_log").allowed is False


def test_every_problem_is_said_and_nothing_is_written(tmp_path: Path, cast: Cast) -> None:
    before = Entry.objects.count()
    files = reading(
        tmp_path,
        a=document("team", "new", "{members: [zoe]}"),
        b=document("agent", "new", "{owner: olga, team: nowhere}"),
        c=binding("role: missing, as: standing, to: ['agent:ghost', 'user:zoe']"),
        d=document("server", "git", "{url: https://mcp.example.com/mcp}"),
        e=document("server", "web", "{url: 'http://127.0.0.1/mcp'}"),
        f=document("server", "git2", "{shared: true, requestables: [{access: [write], approval: nobody}]}"),
        g=document("server", "h", "{requestables: [{tools: ['^x'], max_total: 1h, approval: review}]}"),
        h=role("fine"),
    )
    plan = apply(files)
    said = problems(plan)
    for wanted in (
        "a.yaml:4: spec.members[1]: there is no person named zoe. People come here by signing in",
        "b.yaml:4: spec.team: there is no team named nowhere",
        "c.yaml:3: spec.role: there is no role named missing",
        "there is no agent named ghost",
        "spec.url: this server is a program, which only the operator's file describes",
        "e.yaml:1: spec.url:",
        "spec.shared: only beside `url:`",
        "spec.requestables[1].approval: there is no approval-policy named nobody",
        "a regex starts with ^ and ends with $",
        "max_total: at least the max_duration, 4h",
    ):
        assert wanted in said, said
    assert not Role.objects.filter(name="fine").exists()
    assert Entry.objects.count() == before


def test_a_class_pins_what_the_server_offers_and_only_that(tmp_path: Path) -> None:
    server = register_server(slug="files", operator=OPERATOR)
    import_tools(server=server, definitions=[definition("get"), definition("put")], operator=OPERATOR)
    files = reading(
        tmp_path, a=document("server", "files", "{tools: {get: read, put: {access: write, labels: {n: x}}}}")
    )
    assert ["nobody reviewed it here" in text for text in apply(files).warnings] == [True, True]
    get = Tool.objects.get(name="get")
    assert (get.access, get.pin, get.quarantined) == ("read", get.digest, False)
    assert Tool.objects.get(name="put").labels == '{"n": "x"}'
    assert not applying.look(files, prune=False).changes
    # Poisoned: the same file must not review the new definition.
    import_tools(
        server=server, definitions=[definition("get", description="Send me all"), definition("put")], operator=OPERATOR
    )
    plan = apply(files)
    assert not plan.changes
    assert "it changed since its review, and nobody can call it" in plan.warnings[0]
    assert Tool.objects.get(name="get").quarantined
    refused = apply(reading(tmp_path, a=document("server", "files", "{tools: {get: write}}")))
    assert "a.yaml:4: spec.tools.get: it changed since its review" in problems(refused)
    assert Tool.objects.get(name="get").quarantined
    digest = Tool.objects.get(name="get").digest
    apply(reading(tmp_path, a=document("server", "files", f"{{tools: {{get: {{access: write, pin: '{digest}'}}}}}}")))
    get.refresh_from_db()
    assert (get.access, get.pin) == ("write", digest)


def test_a_pin_of_another_definition_and_a_tool_that_is_not_offered_are_refused(tmp_path: Path, cast: Cast) -> None:
    import_tools(server=cast.server, definitions=[definition("git_log")], operator=OPERATOR)
    spec = f"{{tools: {{git_log: {{access: write, pin: sha256:{'0' * 64}}}, nope: read, git_add: read}}}}"
    said = problems(apply(reading(tmp_path, a=document("server", "git", spec))))
    assert "spec.tools.git_log: the server offers another definition" in said
    assert "spec.tools.nope: git offers no such tool" in said
    assert "spec.tools.git_add: the server does not offer it any more" in said
    assert Tool.objects.get(name="git_log").access == "read"


def test_another_address_forgets_the_credentials_of_the_old_one(tmp_path: Path, settings: Any) -> None:
    apply(reading(tmp_path, a=document("server", "web", "{url: https://one.example/mcp}")))
    server = Server.objects.get(slug="web")
    set_credential(server=server, header="Authorization", value="Bearer x", operator=OPERATOR)
    plan = apply(reading(tmp_path, a=document("server", "web", "{url: https://two.example/mcp, shared: true}")))
    assert "the credentials given for the old one are removed" in plan.warnings[0]
    server.refresh_from_db()
    assert (server.url, server.shared) == ("https://two.example/mcp", True)
    assert not credentials_of(server)


def test_another_end_is_another_binding(tmp_path: Path, cast: Cast) -> None:
    later = (now() + timedelta(days=2)).isoformat()
    text = "role: read-only, as: standing, to: ['team:demo', 'user:carl']"
    apply(reading(tmp_path, a=binding(text)))
    apply(reading(tmp_path, a=binding(f"{text}, until: {later}")))
    rows = RoleBinding.objects.filter(origin="standing")
    assert rows.count() == 4
    assert {row.subject for row in live_bindings() if row.expires_at} == {"team demo", "carl"}
    assert rows.filter(ended_at=None).count() == 2
    past = apply(
        reading(tmp_path, a=binding("role: read-only, as: standing, to: ['user:anna'], until: 2020-01-01T00:00:00Z"))
    )
    assert not past.changes
    assert "ended at 2020-01-01T00:00:00Z; take it out" in past.warnings[0]


def test_pruning_is_asked_for_and_keeps_history_and_what_is_in_use(tmp_path: Path, cast: Cast) -> None:
    """Only kinds that the files have any of; people, policies and versions never."""
    save_role(document=role("never-had"), operator=OPERATOR)
    had = save_role(document=role("had"), operator=OPERATOR)
    end_binding(binding=bind_role(role=had, agent=cast.agent, operator=OPERATOR), operator=OPERATOR)
    Team.objects.create(name="empty")
    create_agent(name="unused", owner=cast.olga, team=cast.team, operator=OPERATOR)
    old = create_agent(name="old", owner=cast.olga, team=cast.team, operator=OPERATOR)
    bind_role(role=had, agent=old, operator=OPERATOR)
    create_agent(name="kept", owner=cast.olga, team=cast.team, operator=OPERATOR)
    cast.grant()
    files = reading(
        tmp_path,
        a=role("fresh"),
        b=document("agent", "kept", "{owner: olga, team: demo}"),
        c=document("team", "other", "{members: [carl]}"),
    )
    assert {change.action for change in applying.look(files, prune=False).changes} == {Action.CREATE}
    plan = apply(files, prune=True)
    gone = {(str(change.action), str(change.key)) for change in plan.changes if change.action is not Action.CREATE}
    assert gone == {
        ("remove", "role never-had"),
        ("remove", "agent unused"),
        ("remove", "team empty"),
        ("disable", "agent old"),
    }
    assert "role had: somebody had it, or may have it" in plan.kept
    assert "agent demo-agent: a grant uses it" in plan.kept
    assert any(text.startswith("team demo: ") and "names it" in text for text in plan.kept)
    assert Agent.objects.get(name="demo-agent").enabled
    assert not Agent.objects.get(name="old").enabled
    assert live_bindings().count() == 3, "the files have no bindings, so none is pruned"
    assert User.objects.count() == 5
    again = apply(
        reading(tmp_path, a=role("fresh"), b=files_text(tmp_path, "b"), c=files_text(tmp_path, "c")), prune=True
    )
    assert not again.changes


def files_text(folder: Path, name: str) -> str:
    return (folder / f"{name}.yaml").read_text()


def test_pruned_bindings_end(tmp_path: Path, cast: Cast) -> None:
    save_role(document=role("other"), operator=OPERATOR)
    plan = apply(reading(tmp_path, a=binding("role: other, as: default, to: [every-agent]")), prune=True)
    assert not plan.problems, problems(plan)
    assert [str(row) for row in live_bindings()] == ["every agent: other"]
    assert RoleBinding.objects.count() == 3


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"a": binding("role: read-only, as: default, to: [every-user]")}, "No agent would have any role left"),
        (
            {
                "a": document("agent", "demo-agent", "{owner: olga, team: demo, enabled: false}"),
                "b": document("agent", "second", "{owner: olga, team: demo, enabled: false}"),
            },
            "This would disable every agent at once (2)",
        ),
        (
            {"a": role("nothing", "[]"), "b": binding("role: nothing, as: ceiling, to: [every-agent]")},
            "binding nothing ceiling every-agent: the role allows nothing",
        ),
        (
            {"a": document("team", "demo", "{members: []}")},
            "approval-policy reviewed, rule all, group reviewers: 1 must approve, but 0 active people would be in it",
        ),
        (
            {"a": POLICY.replace("quorum: 1", "quorum: 4")},
            "4 must approve, but 3 active people would be in it, so it could never decide",
        ),
        (
            {
                "a": document("server", "git", "{enabled: false}"),
                "b": document("server", "second", "{access: []}"),
            },
            "This would close every server to everybody",
        ),
    ],
    ids=["no roles", "no agents", "a ceiling of nothing", "an empty group", "too high a quorum", "no servers"],
)
def test_nobody_is_locked_out(tmp_path: Path, cast: Cast, texts: dict[str, str], said: str) -> None:
    create_agent(name="second", owner=cast.olga, team=cast.team, operator=OPERATOR)
    ServerAccess.objects.create(server=register_server(slug="second", operator=OPERATOR), every_team=True)
    policy = save_policy(document=POLICY, operator=OPERATOR)
    Requestable.objects.create(server=cast.server, access="write", policy=policy)
    before = Entry.objects.count()
    plan = apply(reading(tmp_path, **texts), prune="No agent" in said)
    assert said in problems(plan), problems(plan)
    assert Entry.objects.count() == before


def test_what_was_already_so_is_no_reason_to_refuse(tmp_path: Path, cast: Cast) -> None:
    """Somebody left: the policy cannot be decided, which has nothing to do with the role in this file."""
    policy = save_policy(document=POLICY, operator=OPERATOR)
    Requestable.objects.create(server=cast.server, access="write", policy=policy)
    cast.team.members.clear()
    plan = apply(reading(tmp_path, a=role("fine")))
    assert not plan.problems
    assert "but 0 active people would be in it" in " ".join(plan.warnings)
    assert Role.objects.filter(name="fine").exists()


def test_a_policy_that_nothing_uses_may_be_undecidable_and_is_warned_about(tmp_path: Path, cast: Cast) -> None:
    plan = apply(reading(tmp_path, a=document("team", "demo", "{members: []}"), b=POLICY))
    assert not plan.problems, problems(plan)
    assert "nobody can ever approve" in " ".join(plan.warnings)
    assert ApprovalPolicy.objects.get(name="reviewed").head == 1


def test_what_somebody_changed_after_the_confirmation_is_not_overwritten(tmp_path: Path, cast: Cast) -> None:
    files = reading(tmp_path, a=document("agent", "demo-agent", "{owner: anna, team: demo}"), b=role("fine"))
    confirmed = applying.look(files, prune=False)
    Agent.objects.filter(pk=cast.agent.pk).update(owner=cast.bert)
    with pytest.raises(Conflict, match="Somebody changed access since"):
        applying.carry_out(files, confirmed, prune=False, operator=OPERATOR)
    assert Agent.objects.get(pk=cast.agent.pk).owner == cast.bert
    assert not Role.objects.filter(name="fine").exists()


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise Conflict("test.refused", "no")

    files = reading(tmp_path, a=role("fine"), b=binding("role: fine, as: standing, to: ['user:carl']"))
    before = Entry.objects.count()
    monkeypatch.setattr(applying, "bind_role", refuse)
    with pytest.raises(Conflict, match="no"):
        apply(files)
    assert not Role.objects.filter(name="fine").exists()
    assert Entry.objects.count() == before


def test_a_new_version_of_a_role_shows_and_saves_its_text(tmp_path: Path, cast: Cast) -> None:
    text = role("read-only", '[{servers: ["git"], access: [read]}]')
    plan = apply(reading(tmp_path, a=f"# yaml-language-server: $schema=x\n{text}"))
    [change] = plan.changes
    assert [path for path, _, _ in change.fields()] == ["document"]
    cast.read_only.refresh_from_db()
    assert (cast.read_only.head, cast.read_only.document) == (2, text)
