"""The story itself: eight steps. Each does what it says, looks at what came of it, and fails if that is not as told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jitaccess.runtime.story.agent import Agent, text_of, words
from jitaccess.runtime.story.browser import Browser, Page
from jitaccess.runtime.story.stage import Stage
from jitaccess.runtime.story.terminal import Terminal

AGENT, OWNER, APPROVER = "demo-agent", "olga", "anna"
MESSAGE = "Remember one more thing"
REASON = "The notes are staged and should be kept"
_NOTICE_SECONDS = 10
_PAUSE_SECONDS = 0.3
_DENY = "io.jitaccess/deny"


class NotAsTold(Exception):
    """Something else happened: what the story said would, and what came instead."""

    def __init__(self, told: str, came: str) -> None:
        super().__init__(told)
        self.told, self.came = told, came


def expect(condition: object, told: str, came: object) -> None:
    if not condition:
        raise NotAsTold(told, str(came))


class Story:
    """What is known between the steps: who is signed in, what was asked."""

    def __init__(self, terminal: Terminal, stage: Stage, agent: Agent, *, fast: bool) -> None:
        self._terminal, self._stage, self._agent = terminal, stage, agent
        self._pause = _PAUSE_SECONDS if terminal.live and not fast else 0.0
        self._browsers: dict[str, Browser] = {}
        self._ready_made: dict[str, Any] = {}
        self._request: dict[str, Any] = {}

    @property
    def steps(self) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
        return (
            ("Reading works from the start", self._read),
            ("Writing is refused", self._refused),
            ("The agent asks for access", self._ask),
            ("A person decides", self._decide),
            ("The open session hears of it", self._hear),
            ("The commit goes through", self._commit),
            ("A person takes it back", self._revoke),
            ("All of it is on record", self._record),
        )

    async def close(self) -> None:
        for browser in self._browsers.values():
            await browser.close()

    # the steps

    async def _read(self) -> None:
        tools = await self._agent.tools()
        locked = sorted(name for name, is_locked in tools.items() if is_locked)
        expect("git_commit" in locked and tools.get("git_log") is False, "git_log is open, git_commit is locked", tools)
        await self._say(f"Its list of tools has {len(tools)} entries. {len(locked)} need approval and say so:")
        self._terminal.quote(", ".join(locked), "yellow")
        result = await self._call("git_log", {"repo_path": "."})
        expect(not result.is_error and "Begin the notes" in text_of(result), "git_log shows the log", text_of(result))
        self._terminal.ok("Nobody had to approve that: the tool only reads.")

    async def _refused(self) -> None:
        result = await self._call("git_commit", self._work)
        denial = (result.meta or {}).get(_DENY, {})
        expect(result.is_error and denial.get("request"), "the commit is refused, with a request to send", result)
        self._ready_made = denial["request"]
        log = await self._stage.git("log", "--format=%s")
        expect(MESSAGE not in log, "nothing was committed", log)
        self._terminal.ok("Nothing was committed. The refusal holds the request, ready to be sent.")

    async def _ask(self) -> None:
        arguments = self._ready_made["arguments"] | {"reason": REASON}
        await self._say("It sends just that request, with a reason filled in.")
        result = await self._call(self._ready_made["tool"], arguments, shown=())
        self._request = result.structured_content or {}
        expect(self._request.get("status") == "pending", "the request is pending", text_of(result))
        names = self._request["who_can_approve"]
        self._terminal.quote(f"status: {self._request['status']}\nwho can approve: {', '.join(names)}", "yellow")
        self._terminal.quote(f"page: {self._request['url']}", "dim")
        expect(APPROVER in names and OWNER not in names, "anna may decide, olga may not", names)
        self._terminal.ok(f"{OWNER} is an approver too, but owns this agent: she is not among them.")

    async def _decide(self) -> None:
        asked = {"request_id": self._request["request_id"]}
        await self._do(AGENT, f"{words('check_request', asked)}, and waits")
        answer = asyncio.create_task(self._agent.call("check_request", asked))
        try:
            await self._olga_tries()
            await self._anna_approves()
            with self._terminal.waiting(f"{AGENT} waits for its answer", f"{AGENT} has its answer"):
                told = (await answer).structured_content or {}
        finally:
            answer.cancel()
        expect(
            (told.get("status"), told.get("decided_by")) == ("approved", APPROVER), "the agent hears: approved", told
        )
        self._terminal.quote(f"status: approved\ndecided by: {APPROVER}", "green")

    async def _olga_tries(self) -> None:
        page = await self._open_request(OWNER)
        expect(not page.form("/approve"), "olga's page has no button to approve", page.forms)
        await self._say("Her page has no button for it. She sends the approval all the same:")
        address = f"{page.url.rstrip('/')}/approve/"
        fields = next((form.fields for form in page.forms if "csrfmiddlewaretoken" in form.fields), {})
        refusal = await self._browser(OWNER).post(page, address, fields)
        said = " ".join(refusal.texts("alert")) or " ".join(refusal.texts("p"))
        self._terminal.quote(f"HTTP {refusal.status}: {said}", "red", lines=3)
        expect(refusal.status == 403, "olga is refused", f"HTTP {refusal.status}: {said}")

    async def _anna_approves(self) -> None:
        page = await self._open_request(APPROVER)
        expect(page.form("/approve"), "anna's page has a button to approve", list(page.texts()))
        shown = [text for text in page.texts("effect") if text.startswith("Approve")]
        self._terminal.quote("\n".join([*page.texts("h1"), f"Why: {' '.join(page.texts('quote'))}", *shown]))
        await self._do(APPROVER, "presses Approve")
        done = await self._browser(APPROVER).send(page, "/approve")
        expect(done.status == 200, "anna's approval is taken", f"HTTP {done.status}: {' '.join(done.texts())}")

    async def _hear(self) -> None:
        await self._say(f"{AGENT} has been connected all along, and did not have to ask.")
        with self._terminal.waiting("waiting for tools/list_changed", "tools/list_changed arrived"):
            try:
                await self._agent.next_change(within=_NOTICE_SECONDS)
            except TimeoutError:
                raise NotAsTold("tools/list_changed arrives", f"nothing within {_NOTICE_SECONDS} seconds") from None
        tools = await self._agent.tools()
        expect(tools.get("git_commit") is False, "git_commit is no longer locked", tools)
        self._terminal.ok(f"git_commit is open now. {sum(tools.values())} other tools stay locked.")

    async def _commit(self) -> None:
        result = await self._call("git_commit", self._work)
        expect(not result.is_error, "the commit goes through", text_of(result))
        log = await self._stage.git("log", "-1", "--format=%h %an: %s")
        await self._say("In the repository itself, says git log:")
        self._terminal.quote(log, "green")
        expect(MESSAGE in log, "the commit is in the repository", log)

    async def _revoke(self) -> None:
        page = await self._open_request(OWNER)
        expect(page.form("/revoke"), "olga's page has a button to revoke", list(page.texts()))
        minutes = self._ready_made["arguments"]["minutes"]
        await self._say(f"Access would end by itself after {minutes} minutes. {OWNER} does not wait.")
        await self._do(OWNER, "presses Revoke access")
        done = await self._browser(OWNER).send(page, "/revoke", reason="Thank you, that was all")
        expect(done.status == 200, "olga revokes", f"HTTP {done.status}: {' '.join(done.texts())}")
        result = await self._call("git_commit", self._work | {"message": "And another"}, lines=3)
        reason = (result.meta or {}).get(_DENY, {}).get("reason_code")
        expect(result.is_error and reason == "revoked", "the next call is refused", text_of(result))
        self._terminal.ok(f"Refused at the very next call. {OWNER} may end what she may not grant.")

    async def _record(self) -> None:
        page = await self._browser(APPROVER).open(self._path)
        moments = list(page.texts("moment-text"))
        await self._say("The request page keeps its whole life:")
        self._terminal.quote("\n".join(moments), lines=16)
        told = " / ".join(moments)
        expect(
            all(part in told for part in ("asked for", "approved", "git_commit", "revoked")), "all of it is there", told
        )
        with self._terminal.waiting("jitaccess audit verify", "jitaccess audit verify"):
            verdict = await self._stage.run("audit", "verify")
        self._terminal.quote(verdict, "green")
        expect(verdict.startswith("Intact:"), "the ledger is intact", verdict)
        self._terminal.ok("Asked, decided, used, ended: one ledger has it all. It is signed every minute.")

    # what the steps share

    @property
    def _work(self) -> dict[str, Any]:
        return {"repo_path": ".", "message": MESSAGE}

    @property
    def _path(self) -> str:
        return f"/requests/{self._request['request_id']}/"

    async def _say(self, text: str) -> None:
        await asyncio.sleep(self._pause)
        self._terminal.say(text)

    async def _do(self, who: str, what: str) -> None:
        await asyncio.sleep(self._pause)
        self._terminal.act(who, what, "blue" if who == AGENT else "purple")

    async def _call(self, name: str, arguments: dict[str, Any], *, lines: int = 6, shown: Any = None) -> Any:
        await self._do(AGENT, words(name, arguments))
        result = await self._agent.call(name, arguments)
        if shown is None:
            self._terminal.quote(text_of(result), *(("red",) if result.is_error else ()), lines=lines)
        return result

    def _browser(self, name: str) -> Browser:
        return self._browsers.setdefault(name, Browser(self._stage.url))

    async def _open_request(self, name: str) -> Page:
        """The request's page as this person sees it, who signs in with their link the first time."""
        first = name not in self._browsers
        await self._do(name, f"{'signs in with a one-time link, ' if first else ''}opens the request")
        browser = self._browser(name)
        if first:
            page = await browser.open(self._stage.links[name])
            expect(page.status == 200 and page.forms, f"the sign-in link of {name} opens", f"HTTP {page.status}")
            inbox = await browser.send(page, page.url.rstrip("/"))
            expect(inbox.status == 200, f"{name} is signed in", f"HTTP {inbox.status}: {' '.join(inbox.texts())}")
        return await browser.open(self._path)
