"""The demo: four people, one agent, one real MCP server over a small git repository. Made once, on the first start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from django.conf import settings
from django.db import transaction

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import classify_tool
from jitaccess.gateway.upstream.config import load_servers_file
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import create_agent
from jitaccess.kernel.errors import Unavailable
from jitaccess.policy.models import Requestable, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_role, save_role
from jitaccess.runtime.servers import refresh_server

OPERATOR = Actor.system("demo")
AGENT = "demo-agent"
PEOPLE = (
    ("olga", "Olga Okafor", "owns the agent"),
    ("anna", "Anna Almeida", "approver"),
    ("bert", "Bert Brandt", "approver"),
)
# As an admin would: from what the tools do, not from what the server says of them.
CLASSES = {
    AccessClass.READ: (
        "git_status", "git_diff_unstaged", "git_diff_staged", "git_diff", "git_log", "git_show", "git_branch",
    ),
    AccessClass.WRITE: ("git_add", "git_commit", "git_create_branch", "git_checkout"),
    AccessClass.DESTRUCTIVE: ("git_reset",),
}  # fmt: skip
# Olga is a reviewer too: that she cannot approve for her own agent is worth seeing.
APPROVALS = """\
kind: approval-policy
version: v1
metadata: {name: reviewers, description: One of the reviewers says yes}
spec:
  rules:
    - name: everything
      stages:
        - groups:
            - {name: reviewers, people: ["team:demo"], quorum: 1}
"""
READ_ONLY = """\
kind: role
version: v1
metadata:
  name: read-only
  description: What every agent may do without asking
spec:
  allow:
    - servers: ["*"]
      access: [read]
"""
INSTRUCTIONS = 'The git tools work on one small demo repository: always pass repo_path ".".'


def repository() -> Path:
    path: Path = settings.VAR / "demo" / "repository"
    return path


def exists() -> bool:
    return Agent.objects.filter(name=AGENT).exists()


def create() -> None:
    """Make the demo. Raises Unavailable when git or the git server cannot be run."""
    prepare_repository()
    _write_servers_file()
    config = load_servers_file(settings.SERVERS_FILE)["git"]
    refresh_server(config, operator=OPERATOR)
    with transaction.atomic():
        people = {name: _person(name, full) for name, full, _ in PEOPLE}
        team = Team.objects.create(name="demo")
        team.members.set(people.values())
        create_agent(name=AGENT, owner=people["olga"], team=team, operator=OPERATOR, description="Tries things out")
        _protect(Server.objects.get(slug="git"), team)


def prepare_repository() -> None:
    """A repository with a history and its own author, and something staged, so that git_commit has work to do."""
    path = repository()
    if not (path / ".git").exists():
        path.mkdir(parents=True, exist_ok=True)
        _git("init", "--quiet", "--initial-branch=main")
        _git("config", "user.name", "Demo Agent")
        _git("config", "user.email", "demo-agent@example.invalid")
        _git("config", "commit.gpgsign", "false")
        (path / "notes.md").write_text("# Notes\n\nA small repository to try jitaccess with.\n")
        _git("add", "notes.md")
        _git("commit", "--quiet", "--message", "Begin the notes")
    staged = subprocess.run(
        ["git", "diff", "--cached", "--quiet"],
        cwd=path,
        check=False,
        capture_output=True,
    )
    if staged.returncode == 0:
        with (path / "notes.md").open("a") as notes:
            notes.write("\n- one more thing to remember\n")
        _git("add", "notes.md")


def _git(*arguments: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],
            cwd=repository(),
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            "git.missing", "git is needed for the demo and was not found. Install it, or run `make up DEMO=no`."
        ) from error
    except subprocess.CalledProcessError as error:
        detail = error.stderr.strip() or error
        raise Unavailable(
            "git.failed", f"The demo repository {repository()} is broken ({detail}). Remove it and start again."
        ) from error


def _write_servers_file() -> None:
    path: Path = settings.SERVERS_FILE
    content = json.loads(path.read_text()) if path.exists() else {"mcpServers": {}}
    content["mcpServers"].setdefault(
        "git",
        {
            "command": sys.executable,
            "args": ["-m", "mcp_server_git", "--repository", "."],
            "cwd": str(repository()),
            "shared": True,
        },
    )
    path.write_text(json.dumps(content, indent=2) + "\n")


def _person(username: str, full_name: str) -> User:
    first, last = full_name.split(" ")
    user = User(username=username, first_name=first, last_name=last, email=f"{username}@example.invalid")
    user.set_unusable_password()
    user.save()
    return user


def _protect(server: Server, team: Team) -> None:
    server.instructions = INSTRUCTIONS
    server.save(update_fields=["instructions"])
    for access, names in CLASSES.items():
        for tool in Tool.objects.filter(server=server, name__in=names):
            classify_tool(tool=tool, access=access, operator=OPERATOR)
    ServerAccess.objects.create(server=server).teams.add(team)
    role = save_role(document=READ_ONLY, operator=OPERATOR)
    for everyone in (RoleBinding.Everyone.AGENTS, RoleBinding.Everyone.USERS):
        bind_role(role=role, operator=OPERATOR, origin=RoleBinding.Origin.DEFAULT, everyone=everyone)
    policy = save_policy(document=APPROVALS, operator=OPERATOR)
    Requestable.objects.create(server=server, team=team, access="write, destructive", max_minutes=240, policy=policy)
