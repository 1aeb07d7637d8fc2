"""`jitaccess request`, `cancel`, `release`, `extend`: an agent's side, by way of the REST API with its token."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from jitaccess.kernel import strictjson
from jitaccess.kernel.durations import format_duration, parse_duration
from jitaccess.kernel.errors import Invalid
from jitaccess.runtime import shown
from jitaccess.runtime.exits import Exit, say
from jitaccess.runtime.helping import verb, whole
from jitaccess.runtime.remote import Remote, Unreached, connect, understood
from jitaccess.runtime.screen import Screen

_MAX_ARGS = 100_000
_PAUSES = (1.0, 1.0, 2.0, 2.0, 3.0, 5.0)
_PATIENCE = 60.0  # seconds that an installation may be away while somebody waits for a decision
_NEEDS = "Needs JITACCESS_URL and JITACCESS_TOKEN, the token of an agent."
_MORE_TIME = '--minutes 30 --reason "The tests take longer"'
_OUTCOMES = {"approved": Exit.DONE, "denied": Exit.REFUSED}


def add(commands: Any) -> None:
    """Register the verbs. All of them work without an installation of one's own."""
    asking = verb(
        commands,
        "request",
        understood(_request),
        "ask for access to tools, or for one exact call",
        more="Somebody decides; with --wait the exit code says how: 0 approved, 1 denied or not decided, "
        f"5 still pending when --timeout is over. {_NEEDS}",
        example='jitaccess request git/git_commit --minutes 30 --reason "Release notes of 2.4" --wait\n'
        """jitaccess request git/git_push --args '{"remote": "origin"}' --reason "Publish it" """.rstrip(),
        offline=True,
    )
    asking.add_argument("tools", nargs="+", metavar="WHAT", help="SERVER/TOOL, by exact names, or role:NAME")
    asking.add_argument("--reason", required=True, help="why; what the approver decides on")
    asking.add_argument("--args", metavar="JSON", help="for exactly this call: its arguments, or - for standard input")
    asking.add_argument("--minutes", type=whole, help="for how long (default: 30, or the most allowed)")
    asking.add_argument("--max-uses", type=whole, metavar="N", help="for so many calls")
    asking.add_argument("--ticket", help="the ticket it belongs to")
    asking.add_argument("--dry-run", action="store_true", help="only say what would come of it; nothing is written")
    asking.add_argument("--wait", action="store_true", help="until somebody has decided")
    asking.add_argument("--timeout", default="1h", metavar="TIME", help="how long to wait at most (default: 1h)")
    _ended(commands, "cancel", "REQUEST", _cancel, "withdraw a pending request of yours")
    _ended(commands, "release", "GRANT", _release, "give access back before its time is up")
    extending = _ended(commands, "extend", "GRANT", _extend, "ask for more time for a grant", words=_MORE_TIME)
    extending.add_argument("--minutes", type=whole, required=True, help="how much longer")
    extending.add_argument("--reason", required=True, help="why; what the approver decides on")
    extending.add_argument("--wait", action="store_true", help="until somebody has decided")
    extending.add_argument("--timeout", default="1h", metavar="TIME", help="how long to wait at most (default: 1h)")


def _ended(commands: Any, name: str, what: str, run: Any, help_: str, *, words: str = "") -> argparse.ArgumentParser:
    example = f"jitaccess {name} 0199a0b1-c2d3 {words}".rstrip()
    parser = verb(commands, name, understood(run), help_, more=_NEEDS, example=example, offline=True)
    parser.add_argument("id", metavar=what, help="its id, or the beginning of it as lists show it")
    return parser


def _request(arguments: argparse.Namespace) -> int:
    roles = [name.removeprefix("role:") for name in arguments.tools if name.startswith("role:")]
    tools = [_tool(name) for name in arguments.tools if not name.startswith("role:")]
    body: dict[str, Any] = {"reason": arguments.reason}
    if arguments.args is None:
        body |= ({"tools": tools} if tools else {}) | ({"roles": roles} if roles else {})
    elif roles or len(tools) != 1:
        raise Invalid("request.args", "--args goes with one tool: each exact call is a request of its own.")
    else:
        body["calls"] = [{"tool": tools[0], "arguments": _arguments(arguments.args)}]
    given = {"minutes": arguments.minutes, "max_uses": arguments.max_uses, "ticket": arguments.ticket}
    body |= {name: value for name, value in given.items() if value is not None}
    longest = parse_duration(arguments.timeout)
    remote, screen = connect(), Screen()
    if arguments.dry_run:
        return _dry_run(screen, remote.post("/requests", body | {"dry_run": True}), arguments)
    return _follow(screen, remote, remote.post("/requests", body), arguments, longest)


def _extend(arguments: argparse.Namespace) -> int:
    longest = parse_duration(arguments.timeout)
    remote, screen = connect(), Screen()
    grant = remote.id_of("/grants", "grant_id", arguments.id, "grant")
    body = {"extends": grant, "minutes": arguments.minutes, "reason": arguments.reason}
    return _follow(screen, remote, remote.post("/requests", body), arguments, longest)


def _cancel(arguments: argparse.Namespace) -> int:
    remote, screen = connect(), Screen()
    asked = remote.id_of("/requests", "request_id", arguments.id, "request")
    data = remote.post(f"/requests/{asked}/cancel")
    if arguments.json:
        screen.json(data)
    else:
        screen.line(f"Request {asked} is {shown.state_of(data)}.")
    return Exit.DONE if data["status"] == "cancelled" else Exit.CONFLICT


def _release(arguments: argparse.Namespace) -> int:
    remote, screen = connect(), Screen()
    held = remote.id_of("/grants", "grant_id", arguments.id, "grant")
    data = remote.post(f"/grants/{held}/release")
    if arguments.json:
        screen.json(data)
    else:
        screen.line(f"Grant {held} is given back: the next call is refused.")
    return Exit.DONE


def _tool(name: str) -> str:
    server, slash, tool = name.partition("/")
    if not (server and slash and tool):
        raise Invalid("request.tools", "Name tools as SERVER/TOOL, such as git/git_commit.")
    return name


def _arguments(text: str) -> dict[str, Any]:
    raw = sys.stdin.buffer.read(_MAX_ARGS + 1) if text == "-" else text.encode("utf-8", "surrogateescape")
    if len(raw) > _MAX_ARGS:
        raise Invalid("request.args", f"--args holds more than {_MAX_ARGS} bytes.")
    try:
        return strictjson.decode(raw)
    except Invalid as error:
        raise Invalid("request.args", f"--args: {error.detail}") from None


def _dry_run(screen: Screen, data: dict[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        screen.json(data)
        return Exit.DONE
    screen.line(screen.style("Nothing was filed: a dry run.", "bold"))
    limits = data.get("limits") or {}
    most = f" (at most {format_duration(limits['max_minutes'] * 60)})" if limits.get("max_minutes") else ""
    screen.fields([
        ("what", data.get("tools") or ()),
        ("how long", [f"{shown.length(data)}{most}"]),
        ("policy", [str(data.get("policy", ""))]),
        ("approval", [shown.progress(data) or "at once, by nobody"]),
        ("may approve", [", ".join(data.get("who_can_approve") or ())]),
        ("pending", ["the same is pending already" if data.get("coalesced") else "not yet"]),
    ])  # fmt: skip
    return Exit.DONE


def _follow(screen: Screen, remote: Remote, data: dict[str, Any], arguments: argparse.Namespace, longest: int) -> int:
    """What was filed, and with --wait what became of it."""
    if arguments.wait:
        data = _until_decided(remote, data, longest)
    if arguments.json:
        screen.json(data)
    else:
        shown.request(screen, data, remote.at)
        if data.get("coalesced"):
            say("the same was pending already; this is that request.")
    if not arguments.wait:
        return Exit.DONE
    return Exit.UNAVAILABLE if data["status"] == "pending" else _OUTCOMES.get(data["status"], Exit.REFUSED)


def _until_decided(remote: Remote, data: dict[str, Any], longest: int) -> dict[str, Any]:
    """The request as it is when it is no longer pending, or when `longest` seconds have passed."""
    started = seen = time.monotonic()
    asked, told = str(data["request_id"]), Waiting()
    try:
        for turn in range(10**9):
            spent = time.monotonic() - started
            if data["status"] != "pending" or spent >= longest:
                break
            told.say(data, spent)
            time.sleep(min(_PAUSES[min(turn, len(_PAUSES) - 1)], max(longest - spent, 0.0)))
            try:
                data, seen = remote.get(f"/requests/{asked}"), time.monotonic()
            except Unreached:
                if time.monotonic() - seen > _PATIENCE:
                    raise
    except KeyboardInterrupt:
        told.clear()
        say(f"request {asked} is still pending; jitaccess cancel {asked} withdraws it.")
        raise
    finally:
        told.clear()
    return data


class Waiting:
    """One line on stderr that is written again and again, on a terminal only; elsewhere one line at first."""

    def __init__(self) -> None:
        self._screen, self._said = Screen(sys.stderr), False

    def say(self, data: dict[str, Any], spent: float) -> None:
        people = ", ".join((data.get("who_can_approve") or ())[:5]) or "a decision"
        text = f"waiting for {people} ({shown.progress(data) or 'pending'}), {format_duration(int(spent))}"
        if self._screen.live:
            sys.stderr.write(f"\r\x1b[K{shown.one_line(text, self._screen.width - 1)}")
            sys.stderr.flush()
        elif not self._said:
            say(f"waiting for {people}; the page is {data.get('url', '')}")
        self._said = True

    def clear(self) -> None:
        if self._screen.live and self._said:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
