"""`jitaccess roles`: what a role would do for a call, and what another text of it would change."""

from __future__ import annotations

import argparse
import difflib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.text import visible
from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import named, verb
from jitaccess.runtime.screen import Column, Screen

if TYPE_CHECKING:
    from jitaccess.policy.engine.decide import Who
    from jitaccess.policy.engine.explain import Considered, Explanation
    from jitaccess.policy.engine.roles import RoleDocument
    from jitaccess.policy.engine.rules import Snapshot

_CONSIDERED = (
    Column("WHAT"),
    Column("WHOSE", least=10, spare=True),
    Column("RULE", least=16),
    Column("ANSWER", styles={"decides": "good", "applies": "good"}),
    Column("MISSING", least=20),
)
_CHANGES = (Column("SERVER"), Column("TOOL", least=10), Column("BEFORE", least=10), Column("AFTER", least=10))


def add(commands: Any) -> None:
    """Register the subcommands."""
    roles = commands.add_parser("roles", help="roles").add_subparsers(required=True, metavar="action")
    test = verb(
        roles,
        "test",
        _test,
        "would an agent's call be allowed, if it had this role?",
        more="Besides what it has already; for an agent that acts for a person, if both had it. With a file, the role "
        "of that name says what the file says, wherever it is bound. Exit code 0 for allowed, 1 for refused.",
        example="jitaccess roles test report-writer --agent demo-agent --server files --tool write_file "
        """--args '{"path": "/srv/reports/may.txt"}'\njitaccess roles test changed.yaml --agent demo-agent """
        "--user olga --server files --tool write_file --at 2026-07-01T22:00Z",
    )
    named(test, "role", "roles", metavar="ROLE", help="the name of a role, or a file")
    test.add_argument("--agent", required=True, help="who calls")
    test.add_argument("--user", help="the person for whom the agent acts")
    test.add_argument("--server", required=True, help="the server's short name")
    test.add_argument("--tool", required=True, help="the tool's name")
    test.add_argument("--args", metavar="JSON", help="the call's arguments (default: whether any would do)")
    test.add_argument("--at", metavar="TIME", help="when, with its offset: 2026-07-01T12:00Z (default: now)")
    diff = verb(
        roles,
        "diff",
        _diff,
        "what would a file change of the role that it is about?",
        more="Line by line, and for the tools that there are. Exit code 0 when nothing would change, 1 otherwise.",
        example="jitaccess roles diff report-writer.yaml",
    )
    diff.add_argument("file", type=Path, metavar="FILE", help="a role document")


def _test(arguments: argparse.Namespace) -> int:
    from jitaccess.policy.engine.explain import explain
    from jitaccess.policy.engine.rules import Subject
    from jitaccess.policy.engine.trial import with_role, with_rules
    from jitaccess.policy.snapshots import SnapshotStore

    store = SnapshotStore()
    who = _who(store.current, arguments.agent, arguments.user)
    snapshot, clock = store.look(Subject(agent=who.agent, user=who.user))
    at = _moment(arguments.at) if arguments.at else clock
    given = _arguments(arguments.args) if arguments.args else None
    document, from_file = _role(arguments.role)
    server = snapshot.server_by_slug(arguments.server)
    if server is None:
        raise NotFound("server.unknown", f"There is no server {visible(arguments.server, limit=80)!r}.")
    if from_file:
        snapshot = with_rules(snapshot, document.facts)
    snapshot = with_role(snapshot, document.facts, who)
    found = explain(snapshot, who=who, server=server.id, tool=arguments.tool, at=at, arguments=given)
    screen = Screen()
    if arguments.json:
        screen.json(_data(found))
    else:
        _show(screen, found, any_arguments=given is None)
    return Exit.DONE if found.verdict.allowed else Exit.REFUSED


def _role(text: str) -> tuple[RoleDocument, bool]:
    """The role of that name, or the one in the file of that name; whether it is from a file."""
    from jitaccess.policy.engine.roles import parse_role
    from jitaccess.policy.models import Role

    row = Role.objects.filter(name=text, head__gte=1).first()
    if row is not None:
        return parse_role(row.document, version=row.head), False
    path = Path(text)
    if not path.is_file():
        raise NotFound("role.unknown", f"There is no role and no file {visible(text, limit=120)!r}.")
    return parse_role(path.read_text(encoding="utf-8")), True


def _who(snapshot: Snapshot, agent: str, user: str | None) -> Who:
    from jitaccess.policy.engine.decide import Who

    found = next((one.id for one in snapshot.agents.values() if one.name == agent), None)
    if found is None:
        raise NotFound("agent.unknown", f"There is no agent {visible(agent, limit=80)!r}.")
    person = next((one.id for one in snapshot.users.values() if one.name == user), None) if user else None
    if user and person is None:
        raise NotFound("user.unknown", f"There is no person {visible(user, limit=80)!r}.")
    return Who(found, person)


def _arguments(text: str) -> strictjson.JsonObject:
    try:
        return strictjson.decode(text.encode())
    except (Invalid, UnicodeEncodeError) as error:
        raise Invalid("roles.arguments", f"--args takes one JSON object: {error}") from error


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid("roles.moment", "--at takes a time with its offset, such as 2026-07-01T12:00Z.")
    return found


def _show(screen: Screen, found: Explanation, *, any_arguments: bool) -> None:
    verdict = found.verdict
    some = " with some arguments" if verdict.allowed and any_arguments else ""
    screen.line(f"{'Allowed' if verdict.allowed else f'Refused ({verdict.code})'}{some}: {verdict.rule}.")
    if found.considered:
        screen.line()
        screen.table(
            _CONSIDERED, [(one.part, one.whose, one.rule, _answer(one), one.missing) for one in found.considered]
        )
    for line in found.advice:
        screen.line(f"What would help: {line}.")


def _answer(one: Considered) -> str:
    return "decides" if one.decided else "applies" if one.applies else "no"


def _data(found: Explanation) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "allowed": verdict.allowed,
        "code": str(verdict.code),
        "rule": verdict.rule,
        "grant": str(verdict.grant) if verdict.grant else None,
        "considered": [
            {
                "part": str(one.part),
                "binding": str(one.binding) if one.binding.int > 1 else None,
                "whose": one.whose,
                "rule": one.rule,
                "applies": one.applies,
                "decided": one.decided,
                "missing": one.missing,
            }
            for one in found.considered
        ],
        "advice": list(found.advice),
    }


def _diff(arguments: argparse.Namespace) -> int:
    from jitaccess.policy.engine.roles import parse_role
    from jitaccess.policy.engine.trial import changes
    from jitaccess.policy.models import Role
    from jitaccess.policy.snapshots import SnapshotStore

    text = arguments.file.read_text(encoding="utf-8")
    after = parse_role(text)
    row = Role.objects.filter(name=after.name, head__gte=1).first()
    before = parse_role(row.document, version=row.head) if row else None
    old, name = row.document if row else "", str(row) if row else "(no such role)"
    lines = list(difflib.unified_diff(old.splitlines(), text.splitlines(), name, str(arguments.file), lineterm=""))
    found = list(changes(SnapshotStore().current, before.facts if before else None, after.facts))
    screen = Screen()
    if arguments.json:
        fields = ("server", "tool", "before", "after")
        tools = [{field: getattr(one, field) for field in fields} for one in found]
        screen.json({"role": after.name, "version": row.head if row else None, "lines": lines, "tools": tools})
    else:
        for line in lines:
            screen.line(visible(line, limit=500))
        screen.line()
        cells = [(one.server, one.tool, one.before, one.after) for one in found]
        screen.table(_CHANGES, cells, empty="It says the same of every tool that there is.")
    return Exit.REFUSED if lines or found else Exit.DONE
