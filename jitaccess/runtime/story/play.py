"""Play the story: set the stage, tell the steps, say which one did not go as told, leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import time

from jitaccess.runtime.story.agent import connect
from jitaccess.runtime.story.beats import AGENT, NotAsTold, Story
from jitaccess.runtime.story.stage import Stage
from jitaccess.runtime.story.terminal import Terminal

_LOG_LINES = 8
_INTERRUPTED = 130
CAST = (
    ("demo-agent", "an agent, through the official Python client of MCP"),
    ("git", "a real MCP server, mcp-server-git, over a small repository"),
    ("olga", "owns the agent"),
    ("anna", "may approve what it asks for"),
)
NEXT = (
    ("make up", "the same installation, to keep and to click through"),
    (".venv/bin/jitaccess agents snippet demo-agent", "then, beside it: what to write where, to connect Claude Code"),
    ("docs/guides/connect-an-agent.md", "the same for Claude Desktop, Cursor, VS Code, Inspector"),
)


def play(*, fast: bool) -> int:
    """Tell the story; 0 when everything went as told, 1 when not, 130 when interrupted."""
    terminal = Terminal()
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
    for name in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C: asyncio cancels what runs, and the stage is cleared.
        signal.signal(name, lambda *_: signal.raise_signal(signal.SIGINT))
    started = time.monotonic()
    try:
        with Stage() as stage:
            _introduce(terminal, stage)
            good = asyncio.run(_tell(terminal, stage, fast=fast))
            with terminal.waiting("stopping jitaccess", "jitaccess is stopped"):
                stage.stop()
        terminal.line()
        if good:
            _end(terminal, time.monotonic() - started)
    except KeyboardInterrupt:
        terminal.line()
        terminal.say("Interrupted. jitaccess is stopped and its folder is removed.", "yellow")
        return _INTERRUPTED
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    return 0 if good else 1


def _introduce(terminal: Terminal, stage: Stage) -> None:
    terminal.line()
    terminal.say("jitaccess: an agent asks, a person decides", "bold")
    terminal.line()
    for name, what in CAST:
        terminal.say(what, mark=f"{name:<12}")
    terminal.line()
    terminal.say(
        "No language model takes part: this script makes the calls that one would make, and sends the forms that "
        "Olga and Anna would send from their browsers. Everything else is real.",
        "dim",
    )
    terminal.say(f"It happens in {stage.folder}, which is removed at the end.", "dim")
    terminal.line()


async def _tell(terminal: Terminal, stage: Stage, *, fast: bool) -> bool:
    """Whether everything went as told."""
    where = "The start"
    try:
        with terminal.waiting("starting jitaccess up", "jitaccess up is running"):
            await stage.start()
        with terminal.waiting("issuing a token", f"{AGENT} has a token, good for 10 minutes"):
            issued = json.loads(await stage.run("agents", "token", AGENT, "--ttl", "10m", "--json"))
        async with connect(f"{stage.url}/mcp/git", issued["token"]) as agent:
            terminal.ok(f"{AGENT} is connected to {stage.url}/mcp/git")
            story = Story(terminal, stage, agent, fast=fast)
            try:
                for number, (title, step) in enumerate(story.steps, 1):
                    where = f"Step {number} ({title})"
                    terminal.heading(number, title)
                    await step()
            finally:
                await story.close()
            where = "The end"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not what was told
        _not_as_told(terminal, stage, where, _innermost(error))
        return False
    return True


def _innermost(error: BaseException) -> BaseException:
    """The client's task groups wrap what happened."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _not_as_told(terminal: Terminal, stage: Stage, where: str, error: BaseException) -> None:
    terminal.line()
    terminal.say(f"{where} did not go as told.", "red", mark=f"{terminal.glyph('bad')} ", mark_style="red")
    if isinstance(error, NotAsTold):
        terminal.say(error.told, mark="told:  ")
        terminal.say("came:")
        terminal.quote(error.came, "red", lines=8)
    else:
        terminal.quote(f"{type(error).__name__}: {error}", "red", lines=8)
    last = [line for line in stage.log.splitlines() if "/sign-in/" not in line][-_LOG_LINES:]
    if last:
        terminal.say("The last lines of jitaccess itself:")
        terminal.quote("\n".join(last), "dim", lines=_LOG_LINES, wrap=False)


def _end(terminal: Terminal, seconds: float) -> None:
    terminal.ok(f"All of it went as told, in {seconds:.0f} seconds, and nothing is left of it.")
    terminal.line()
    terminal.say("What next", "bold")
    for command, what in NEXT:
        terminal.line(f"  {terminal.style(command, 'cyan')}")  # never wrapped: it is there to be copied
        terminal.say(what, "dim", indent=4)
    terminal.line()
