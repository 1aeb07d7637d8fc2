"""The cast of the tests: people, an agent and a git server, made by the real services.

admin is a superuser; olga owns the agent; anna, bert and olga are the reviewers (olga only on paper: she is self);
carl is nobody in particular. All but admin and carl are in the teams "demo" and "reviewers".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import create_agent
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.models import ApprovalPolicy, Requestable, Role, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Concern, Grant
from requests_app.services import Ask, Submission, approve_request, deny_request, submit_request

OPERATOR = Actor(user_name="operator")
READ_ONLY = """\
kind: role
version: v1
metadata: {name: read-only, description: Read everything that an admin classified as read}
spec:
  allow:
    - servers: ["*"]
      access: [read]
"""
TOOLS = {
    "git_log": AccessClass.READ,
    "git_status": AccessClass.READ,
    "git_commit": AccessClass.WRITE,
    "git_add": AccessClass.WRITE,
    "git_reset": AccessClass.DESTRUCTIVE,
}


def definition(name: str, **members: Any) -> JsonObject:
    """A tool definition as a server would offer it."""
    return {"name": name, "description": f"The tool {name}", "inputSchema": {"type": "object"}} | members


REVIEWERS = ("team:reviewers",)


def policy_document(
    *people: str,
    name: str = "review",
    quorum: int = 1,
    groups: Sequence[tuple[str, Sequence[str], int]] = (),
    rules: str = "",
    **extra: Any,
) -> str:
    """An approval policy: one stage, one group of `people` (or several `groups`: name, people, quorum), with
    further members of the rule; or `rules`, the YAML of all rules.
    """
    asked = groups or [("reviewers", people or REVIEWERS, quorum)]
    listed = [{"name": group, "people": list(some), "quorum": needed} for group, some, needed in asked]
    rule = {"name": "all", "stages": [{"groups": listed}], **extra}
    document = {
        "kind": "approval-policy",
        "version": "v1",
        "metadata": {"name": name},
        "spec": {"rules": yaml.safe_load(rules) if rules else [rule]},
    }
    return yaml.safe_dump(document)


def like(request: AccessRequest, copies: Sequence[AccessRequest]) -> None:
    """Store rows made after `request`, for whom it concerns."""
    AccessRequest.objects.bulk_create(copies)
    subjects = list(Concern.objects.filter(request=request).values_list("subject", flat=True))
    Concern.objects.bulk_create(Concern(request=copy, subject=subject) for copy in copies for subject in subjects)


def person(name: str) -> User:
    return User.objects.create_user(username=name, email=f"{name}@example.test", password="correct horse battery")


@dataclass(slots=True)
class Cast:
    admin: User
    olga: User
    anna: User
    bert: User
    carl: User
    team: Team
    agent: Agent
    server: Server
    tools: dict[str, Tool]
    read_only: Role
    access: ServerAccess
    policy: ApprovalPolicy
    reviewers: Team
    requestable: Requestable
    operator: Actor = OPERATOR

    def principal(self, agent: Agent | None = None, user: User | None = None, **changes: Any) -> Principal:
        """Who acts: the demo agent alone, or on behalf of `user`, with a token that admin issued."""
        agent = agent or self.agent
        values: dict[str, Any] = {
            "agent": agent.pk,
            "agent_name": agent.name,
            "user": user.pk if user else None,
            "user_name": user.username if user else "",
            "client": "tests",
            "issued_by": self.admin.pk,
        }
        return Principal(**(values | changes))

    def change_policy(self, *people: str, **members: Any) -> None:
        """A new version of the approval policy; see policy_document."""
        self.policy = save_policy(document=policy_document(*people, **members), operator=OPERATOR, policy=self.policy)

    def snapshot(self) -> Snapshot:
        """All of policy as it is now."""
        return SnapshotStore().look(Subject(agent=self.agent.pk))[0]

    def verdict(self, tool: str, principal: Principal | None = None) -> Verdict:
        """What a call of `tool` on the git server gets right now."""
        principal = principal or self.principal()
        assert principal.agent
        who = Who(principal.agent, principal.user)
        return decide(self.snapshot(), who=who, server=self.server.pk, tool=tool, at=now())

    def submission(
        self,
        *tools: str,
        principal: Principal | None = None,
        reason: str = "Finish the release notes",
        seconds: int | None = 600,
        context: Mapping[str, Any] | None = None,
    ) -> Submission:
        """File a request for tools of the git server (git_commit unless told)."""
        ask = Ask(
            tools=[("git", tool) for tool in tools or ("git_commit",)],
            reason=reason,
            seconds=seconds,
            context=context or {},
        )
        return submit_request(principal=principal or self.principal(), ask=ask, snapshot=self.snapshot())

    def submit(self, *tools: str, **options: Any) -> AccessRequest:
        """As `submission`, but only the request."""
        return self.submission(*tools, **options).request

    def approve(self, request: AccessRequest, by: User | None = None, **options: Any) -> AccessRequest:
        """Approve by anna (or `by`) what is on record."""
        values: dict[str, Any] = {"channel": "web", "digest": request.digest} | options
        return approve_request(request_id=request.pk, approver=by or self.anna, **values)

    def deny(self, request: AccessRequest, by: User | None = None, **options: Any) -> AccessRequest:
        """Deny by anna (or `by`)."""
        values: dict[str, Any] = {"channel": "web", "digest": request.digest} | options
        return deny_request(request_id=request.pk, approver=by or self.anna, **values)

    def grant(self, *tools: str, **options: Any) -> Grant:
        """An approved request's live grant."""
        return Grant.objects.get(request=self.approve(self.submit(*tools, **options)))

    def limited(self, uses: int) -> RoleBinding:
        """The binding of a grant to commit so many times."""
        self.requestable.max_uses = uses
        self.requestable.save()
        return RoleBinding.objects.get(origin_id=self.grant().pk)


def build_cast() -> Cast:
    admin = User.objects.create_superuser(
        username="admin", email="admin@example.test", password="correct horse battery"
    )
    olga, anna, bert, carl = (person(name) for name in ("olga", "anna", "bert", "carl"))
    team = Team.objects.create(name="demo")
    team.members.set([olga, anna, bert])
    agent = create_agent(name="demo-agent", owner=olga, team=team, operator=OPERATOR)
    server = register_server(slug="git", operator=OPERATOR)
    import_tools(server=server, definitions=[definition(name) for name in TOOLS], operator=OPERATOR)
    for name, access in TOOLS.items():
        classify_tool(tool=Tool.objects.get(server=server, name=name), access=access, operator=OPERATOR)
    access = ServerAccess.objects.create(server=server)
    access.teams.add(team)
    read_only = save_role(document=READ_ONLY, operator=OPERATOR)
    for everyone in RoleBinding.Everyone:
        bind_role(role=read_only, everyone=everyone, origin=RoleBinding.Origin.DEFAULT, operator=OPERATOR)
    reviewers = Team.objects.create(name="reviewers")
    reviewers.members.set([anna, bert, olga])
    policy = save_policy(document=policy_document(), operator=OPERATOR)
    requestable = Requestable.objects.create(server=server, access="write, destructive", max_minutes=240, policy=policy)
    return Cast(
        admin=admin,
        olga=olga,
        anna=anna,
        bert=bert,
        carl=carl,
        team=team,
        agent=agent,
        server=server,
        tools={tool.name: tool for tool in server.tools.all()},
        read_only=read_only,
        access=access,
        policy=policy,
        reviewers=reviewers,
        requestable=requestable,
    )
