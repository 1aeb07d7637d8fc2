"""`jitaccess policies …`: an approval policy in a file, checked, and tried on the requests there were."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.yamldoc import MAX_DOCUMENT
from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import verb, whole
from jitaccess.runtime.screen import Screen

if TYPE_CHECKING:
    from jitaccess.policy.approval.document import PolicyDocument
    from requests_app.simulation import Replay, Simulation

MOST = 10_000


def add(commands: Any) -> None:
    """Register the subcommands."""
    policies = commands.add_parser("policies", help="approval policies").add_subparsers(required=True, metavar="action")
    check = verb(
        policies,
        "check",
        _check,
        "check a policy in a file, without saving it",
        more="Mistakes are refused with their line; what could get stuck with the people there are is a warning.",
        example="jitaccess policies check two-person.yaml",
    )
    check.add_argument("file", metavar="FILE", type=Path)
    simulate = verb(
        policies,
        "simulate",
        _simulate,
        "try a policy in a file on the requests there were",
        more="Shows which rule would have decided, who would have been asked, and what would have been different. "
        "Nothing is written.",
        example="jitaccess policies simulate two-person.yaml --last 500",
    )
    simulate.add_argument("file", metavar="FILE", type=Path)
    simulate.add_argument("--last", type=whole, default=100, metavar="N", help="so many requests (default: 100)")
    simulate.add_argument("--all", action="store_true", help="of any policy, not only of the one with this name")


def _check(arguments: argparse.Namespace) -> int:
    from jitaccess.policy.policies import policy_warnings

    document = _read(arguments.file)
    warnings = policy_warnings(document)
    screen = Screen()
    if arguments.json:
        screen.json({"policy": document.name, "rules": [rule.name for rule in document.rules], "warnings": warnings})
        return Exit.DONE
    _warn(screen, warnings)
    screen.line(f"{document.name} can be saved: {', '.join(rule.name for rule in document.rules)}.")
    return Exit.DONE


def _simulate(arguments: argparse.Namespace) -> int:
    from jitaccess.policy.policies import policy_warnings
    from requests_app.selectors import all_requests
    from requests_app.simulation import simulate

    document = _read(arguments.file)
    warnings = policy_warnings(document)
    if arguments.last > MOST:
        raise Invalid("policies.last", f"At most {MOST} requests at a time.")
    rows = all_requests().order_by("-created_at", "-pk")
    if not arguments.all:
        rows = rows.filter(policy_name=document.name)
    simulation = simulate(document, rows[: arguments.last])
    screen = Screen()
    if arguments.json:
        screen.json(_as_json(document, simulation, warnings))
    else:
        _show(screen, document, simulation, warnings)
    return Exit.DONE


def _read(path: Path) -> PolicyDocument:
    from jitaccess.policy.approval.document import parse_policy

    with path.open("rb") as file:
        raw = file.read(4 * MAX_DOCUMENT + 1)
    try:
        return parse_policy(raw.decode())
    except UnicodeDecodeError as error:
        raise Invalid("policy.invalid", f"{path} is not UTF-8 text.") from error
    except Invalid as error:
        raise Invalid(error.code, f"{path}: {error.detail}", **error.params) from error


def _warn(screen: Screen, warnings: list[str]) -> None:
    for warning in warnings:
        screen.line(f"{screen.style('warning:', 'bold')} {warning}")


def _show(screen: Screen, document: PolicyDocument, simulation: Simulation, warnings: list[str]) -> None:
    _warn(screen, warnings)
    for replay in simulation.changed:
        request = replay.request
        screen.line(screen.style(f"{request.created_at:%F %H:%M} {request.agent}: {_what(replay)}", "bold"))
        screen.fields((one.what, [f"{one.before} → {one.after}"]) for one in replay.differences)
        errors = [f"{one.rule}: {one.error}" for one in replay.tried if one.error]
        if errors:
            screen.fields([("not decided by", errors)])
    count = len(simulation.replays)
    if not count and not simulation.unknown:
        screen.line(f"No request was filed under {document.name} yet; --all tries it on those of other policies.")
        return
    decided = decided_by(document, simulation)
    screen.line(f"decided by: {', '.join(f'{rule} {times}' for rule, times in decided.items())}")
    screen.line(f"{count} requests tried, {len(simulation.changed)} would have gone differently. Nothing was written.")
    if simulation.unknown:
        screen.line(f"{simulation.unknown} were filed before what policies look at was kept; they were left out.")


def decided_by(document: PolicyDocument, simulation: Simulation) -> dict[str, int]:
    """How many requests each rule would have taken: one that took none may be one that nothing can come to."""
    taken = [one.rule for replay in simulation.replays for one in replay.tried if one.matched]
    return {rule.name: taken.count(rule.name) for rule in document.rules}


def _what(replay: Replay) -> str:
    labels = replay.request.tool_labels
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _as_json(document: PolicyDocument, simulation: Simulation, warnings: list[str]) -> dict[str, Any]:
    return {
        "policy": document.name,
        "warnings": warnings,
        "tried": len(simulation.replays),
        "changed": len(simulation.changed),
        "without_facts": simulation.unknown,
        "decided_by": decided_by(document, simulation),
        "requests": [
            {
                "request_id": str(replay.request.pk),
                "filed_at": replay.request.created_at.isoformat(),
                "agent": replay.request.agent.name,
                "asked_for": replay.request.tool_labels,
                "before": dict(replay.before),
                "after": dict(replay.after),
                "rules": [{"rule": one.rule, "matched": one.matched, "error": one.error} for one in replay.tried],
                "differences": [
                    {"what": one.what, "before": one.before, "after": one.after} for one in replay.differences
                ],
            }
            for replay in simulation.replays
        ],
    }
