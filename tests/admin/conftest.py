from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.identity.models import AccessToken, Agent, Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import create_agent, issue_token
from jitaccess.policy.compiler import compile_snapshot
from jitaccess.policy.models import ApprovalPolicy, Requestable, Role, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from requests_app.models import AccessRequest
from requests_app.services import Ask, approve_request, submit_request

READER = """\
kind: role
version: v1
metadata: {name: reader}
spec:
  allow:
    - servers: [files]
      access: [read]
"""
ONE_YES = """\
kind: approval-policy
version: v1
metadata: {name: one-yes}
spec:
  rules:
    - name: all
      stages: [{groups: [{name: leads, people: ["user:bob"]}]}]
"""


def definition(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": f"does {name}", "inputSchema": {"type": "object"}, **more}


@dataclass
class World:
    """A small installation: a server, an agent, a role, two approvers, one approved request with its grant."""

    ada: User
    owner: User
    bob: User
    team: Team
    agent: Agent
    server: Server
    read: Tool
    write: Tool
    role: Role
    standing: RoleBinding
    default: RoleBinding
    policy: ApprovalPolicy
    requestable: Requestable
    access: ServerAccess
    token: AccessToken
    request: AccessRequest


@pytest.fixture
def world(db: None) -> World:
    operator = Actor.system("test")
    ada = User.objects.create_superuser("ada")
    owner, bob = (User.objects.create_user(name) for name in ("owner", "bob"))
    team = Team.objects.create(name="core")
    team.members.add(owner, bob)
    agent = create_agent(name="bot", owner=owner, team=team, operator=operator)
    server = register_server(slug="files", operator=operator)
    import_tools(server=server, definitions=[definition("read_file"), definition("write_file")], operator=operator)
    read, write = server.tools.order_by("name")
    classify_tool(tool=write, access=AccessClass.WRITE, operator=operator)
    role = save_role(document=READER, operator=operator)
    policy = save_policy(document=ONE_YES, operator=operator)
    requestable = Requestable.objects.create(server=server, tools="write_*", policy=policy)
    access = ServerAccess.objects.create(server=server, every_team=True)
    standing = bind_role(role=role, agent=agent, operator=operator)
    default = bind_role(role=role, everyone="agents", origin=RoleBinding.Origin.DEFAULT, operator=operator)
    _, token = issue_token(agent=agent, ttl=600, operator=operator)
    principal = Principal(agent=agent.pk, agent_name=agent.name)
    ask = Ask(tools=[("files", "write_file")], reason="the <b>report</b>")
    request = submit_request(principal=principal, ask=ask, snapshot=compile_snapshot()).request
    approve_request(request_id=request.pk, approver=bob, channel="web", digest=request.digest)
    return World(
        ada,
        owner,
        bob,
        team,
        agent,
        server,
        read,
        write,
        role,
        standing,
        default,
        policy,
        requestable,
        access,
        token,
        request,
    )


@pytest.fixture
def client(world: World) -> Client:
    """Signed in as the superuser ada."""
    browser = Client()
    browser.force_login(world.ada)
    return browser


@pytest.fixture
def new_entries(world: World) -> Iterator[Callable[[], list[Entry]]]:
    """The ledger entries since the last call (or the start of the test), oldest first."""
    seen = set(Entry.objects.values_list("pk", flat=True))

    def fresh() -> list[Entry]:
        found = list(Entry.objects.exclude(pk__in=seen).order_by("uid"))
        seen.update(entry.pk for entry in found)
        return found

    return fresh


def url(row: Any, page: str = "change") -> str:
    """The admin page of a row, or with a class the list or add page of its model."""
    meta = row._meta
    args = [row.pk] if page in {"change", "delete", "history"} else []
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{page}", args=args)


def filled(response: Any, **changes: Any) -> dict[str, Any]:
    """What a browser would send when this page's form is saved, with `changes` typed in; None leaves a field out."""
    data: dict[str, Any] = {}
    for form in _forms(response):
        for bound in form:
            _fill(data, bound.html_name, bound.value())
            if bound.field.show_hidden_initial:
                _fill(data, bound.html_initial_name, bound.value())
    for name, value in changes.items():
        data.pop(name, None)
        if value is not None:
            data[name] = value
    return data


def _forms(response: Any) -> Iterator[Any]:
    yield response.context["adminform"].form
    for inline in response.context["inline_admin_formsets"]:
        yield inline.formset.management_form
        yield from inline.formset.forms


def _fill(data: dict[str, Any], name: str, value: Any) -> None:
    if value is None or value is False:
        return
    if isinstance(value, list | tuple):
        data[name] = [str(getattr(item, "pk", item)) for item in value]
    else:
        data[name] = "on" if value is True else str(value)


def save(client: Client, page: str, **changes: Any) -> Any:
    """Fill the form, look at what it would change where the page shows that first, and save."""
    response = client.post(page, data := filled(client.get(page), **changes))
    held = response.context["held"] if response.status_code == 200 and "held" in response.context else None
    return client.post(page, data | {"previewed": held.token}) if held else response


def act(client: Client, model: Any, action: str, *rows: Any, **more: Any) -> Any:
    """Choose rows in a list, look at what an action would change where that is shown first, and run it."""
    sent = {"action": action, "_selected_action": [row.pk for row in rows], **more}
    response = client.post(url(model, "changelist"), sent)
    token = response.context["token"] if response.status_code == 200 and "token" in response.context else None
    return client.post(url(model, "changelist"), sent | {"previewed": token}) if token else response


def errors(response: Any) -> str:
    """All form errors of the page in one text."""
    assert response.status_code == 200, f"saved instead of refused: {response}"
    found = [str(response.context["adminform"].form.errors.as_data())]
    for inline in response.context["inline_admin_formsets"]:
        found += [str(inline.formset.non_form_errors().as_data()), *(str(f.errors) for f in inline.formset.forms)]
    return " ".join(found)
