"""GET /live as an open page sees it: real sessions, the real switch, no network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import pytest
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.contrib.staticfiles import finders
from django.db import OperationalError, connection
from django.template.loader import render_to_string
from django.test import Client

from jitaccess.audit.sequencer import sequence
from jitaccess.gateway import http
from jitaccess.identity.models import Team, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.sessions import people_of_cookies, person_of_cookie
from jitaccess.policy.delegations import delegate
from jitaccess.runtime import live, news
from jitaccess.runtime.asgi import Switch
from jitaccess.runtime.news import MOST_TOPICS
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from requests_app.seers import seers_of
from requests_app.services import revoke_grant
from requests_app.standing import standing_of
from tests.cast import Cast

pytestmark = pytest.mark.django_db(transaction=True)
SOON = 5.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody polls, so that what is heard was told; and nothing happened lately."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(live, "BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(news, "FRESH", timedelta(0))


def cookie_of(person: User) -> str:
    client = Client()
    client.force_login(User.objects.get(pk=person.pk), backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies[settings.SESSION_COOKIE_NAME].value


class Page:
    """A client of the switch: what it was answered, as it came."""

    def __init__(self, app: Any, cookie: str, topics: str, headers: dict[str, str], *, method: str = "GET") -> None:
        given = {"cookie": f"theme=dark; {settings.SESSION_COOKIE_NAME}={cookie}"} | headers
        self._scope = {
            "type": "http",
            "method": method,
            "path": "/live",
            "query_string": f"topics={topics}".encode() if topics else b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        self.status, self.headers, self.text, self.reads = 0, dict[bytes, bytes](), "", asyncio.Event()
        self.reads.set()
        self._gone, self._more = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(app(self._scope, self._receive, self._send))
        self.task.add_done_callback(lambda _: self._more.set())

    async def _receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            self.status, self.headers = event["status"], dict(event["headers"])
        else:
            await self.reads.wait()
            self.text += event["body"].decode()
        self._more.set()

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not check():
                self._more.clear()
                await self._more.wait()

    @property
    def told(self) -> list[str]:
        """Every topic it was told of, in order."""
        frames = [frame.split("\r\n") for frame in self.text.split("\r\n\r\n")]
        return [topic for frame in frames if frame[0] == "event: changed" for topic in frame[1][6:].split(" ")]

    async def leave(self) -> None:
        self._gone.set()
        await self.task


class House:
    """The switch with its pages."""

    def __init__(self) -> None:
        self.switch = Switch(role="web", gateway=None, web=True, background=None)
        self.live = self.switch._live
        assert self.live is not None
        self.pages: list[Page] = []

    async def open(self, cookie: str, topics: str = "inbox", *, method: str = "GET", **headers: str) -> Page:
        """A page that has been answered; one that is let in was looked at once, too."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        page = Page(self.switch, cookie, topics, named, method=method)
        self.pages.append(page)
        await page.until(lambda: page.status)
        await page.until(lambda: page.status != 200 or "retry:" in page.text)
        async with asyncio.timeout(SOON):
            while any(stream.fresh for stream in self.live._streams):
                await asyncio.sleep(0)
        return page

    async def settled(self) -> None:
        """All that was told until now has been looked at and said."""
        self.live._wake.set()
        seen = await in_thread(news._newest)
        async with asyncio.timeout(SOON):
            while self.live._seen < seen or any(stream.due for stream in self.live._streams):
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.switch.begin_shutdown()
        async with asyncio.timeout(SOON):
            await asyncio.gather(*(page.task for page in self.pages))
        await self.live.stop()


async def in_thread(work: Callable[[], Any]) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(run)


@pytest.fixture
def visit() -> Iterator[Callable[[Callable[[House], Coroutine[Any, Any, None]]], None]]:
    def run(story: Callable[[House], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            house = House()
            try:
                await story(house)
            finally:
                await house.close()

        asyncio.run(whole())

    return run


def filed(cast: Cast) -> AccessRequest:
    request = cast.submit()
    sequence()
    return request


def settle_ledger() -> None:
    while sequence():
        pass


def test_an_inbox_is_told_of_a_request_and_nothing_else_about_it(cast: Cast, visit: Any) -> None:
    anna, carl, admin = cookie_of(cast.anna), cookie_of(cast.carl), cookie_of(cast.admin)
    settle_ledger()

    async def story(house: House) -> None:
        page, other, root = [await house.open(one, "inbox,grants") for one in (anna, carl, admin)]
        assert page.headers[b"content-type"] == b"text/event-stream"
        assert page.headers[b"cache-control"] == b"no-store"
        request = await in_thread(lambda: filed(cast))
        await page.until(lambda: page.told)
        await root.until(lambda: root.told)
        await house.settled()
        assert page.told == root.told == ["inbox"]
        assert other.told == []
        assert not any(word in page.text for word in (str(request.pk), "release", "git", "demo", "olga"))
        grant = await in_thread(lambda: cast.approve(request).grant)
        await in_thread(sequence)
        await page.until(lambda: page.told[1:])
        await in_thread(lambda: revoke_grant(grant_id=grant.pk, user=cast.anna))
        await in_thread(sequence)
        await page.until(lambda: len(page.told) == 5)
        assert page.told[1:] == ["grants", "inbox"] * 2
        assert other.told == []

    visit(story)


def test_a_request_page_is_for_those_who_may_see_it_and_only_as_long_as_they_may(cast: Cast, visit: Any) -> None:
    bert, carl = cookie_of(cast.bert), cookie_of(cast.carl)
    request = cast.submit()
    settle_ledger()

    async def story(house: House) -> None:
        topic = f"request:{request.pk}"
        page = await house.open(bert, topic)
        refused = [await house.open(carl, one) for one in (topic, f"inbox,{topic}", f"request:{uuid4()}")]
        assert [(one.status, one.text) for one in refused] == [(404, "")] * 3
        await in_thread(lambda: cast.team.members.remove(cast.bert))
        await in_thread(lambda: cast.reviewers.members.remove(cast.bert))
        watcher = await house.open(await in_thread(lambda: cookie_of(cast.anna)), topic)
        await in_thread(lambda: cast.deny(request))
        await in_thread(sequence)
        await watcher.until(lambda: watcher.told)
        await house.settled()
        assert watcher.told == [topic]
        assert page.told == []

    visit(story)


def test_seers_are_those_whose_standing_says_that_they_may_see_it(cast: Cast) -> None:
    for name in ("dora", "emil", "fred"):
        User.objects.create_user(username=name, password="correct horse battery")
    dora, emil, fred = (User.objects.get(username=name) for name in ("dora", "emil", "fred"))
    cast.reviewers.members.add(dora)
    cast.agent.users.add(cast.carl)
    others = Team.objects.create(name="others")
    others.members.set([cast.carl, fred])
    cast.access.teams.add(others)
    asked = [cast.submit(), cast.submit(principal=cast.principal(user=cast.carl))]
    cast.approve(asked[0], by=dora)
    cast.reviewers.members.remove(dora)
    until = now() + timedelta(hours=1)
    delegate(person=cast.bert, to=emil, ends_at=until, operator=Principal.of_user(cast.bert).actor())
    found = seers_of([one.pk for one in asked])
    for request in asked:
        people = User.objects.filter(is_superuser=False)
        may = {person.username for person in people if standing_of(request, person).may_see}
        assert {person.username for person in people if person.pk in found[request.pk]} == may
        assert {"emil", "olga"} <= may
        assert "fred" not in may
    assert ("dora" in may, "carl" in may) == (False, True)
    assert dora.pk in found[asked[0].pk]
    assert seers_of([uuid4()]) == {}


def test_activity_is_for_auditors_and_for_those_whose_agents_acted(cast: Cast, visit: Any) -> None:
    cast.bert.user_permissions.add(Permission.objects.get(codename="view_entry"))
    stranger = User.objects.create_user(username="dora", password="correct horse battery")
    cookies = [cookie_of(one) for one in (cast.bert, cast.olga, cast.carl, stranger)]
    settle_ledger()

    async def story(house: House) -> None:
        auditor, owner, *nobody = [await house.open(one, "activity") for one in cookies]
        await in_thread(lambda: filed(cast))
        for page in (auditor, owner):
            await page.until(lambda page=page: page.told)
        await in_thread(lambda: cast.change_policy("team:demo"))
        await in_thread(sequence)
        await auditor.until(lambda: len(auditor.told) == 2)
        await house.settled()
        assert auditor.told == ["activity"] * 2
        assert owner.told == ["activity"]
        assert [page.told for page in nobody] == [[], []]

    visit(story)


def _sign_out(cookie: str, person: User) -> None:
    Session.objects.filter(session_key=cookie).delete()


def _new_password(cookie: str, person: User) -> None:
    person.set_password("another horse battery")
    person.save()


def _leave(cookie: str, person: User) -> None:
    User.objects.filter(pk=person.pk).update(is_active=False)


def _run_out(cookie: str, person: User) -> None:
    Session.objects.filter(session_key=cookie).update(expire_date=now())


ENDS = (_sign_out, _new_password, _leave, _run_out)


# Whoever has left is nobody's approver any more, so there would be nothing to tell them.
@pytest.mark.parametrize("end", [end for end in ENDS if end is not _leave])
def test_whose_session_has_ended_is_told_nothing_more_and_cannot_come_back(
    cast: Cast, visit: Any, end: Callable[[str, User], None]
) -> None:
    cookie = cookie_of(cast.anna)
    settle_ledger()

    async def story(house: House) -> None:
        page = await house.open(cookie)
        await in_thread(lambda: end(cookie, cast.anna))
        await in_thread(lambda: filed(cast))
        await asyncio.wait_for(page.task, SOON)
        assert page.told == []
        assert house.live.open_pages == 0
        assert (await house.open(cookie)).status == 401

    visit(story)


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_session_is_put_out_though_there_is_nothing_to_tell(
    cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch, end: Callable[[str, User], None]
) -> None:
    monkeypatch.setattr(live, "CHECK_SECONDS", -1.0)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)
    ends, stays = cookie_of(cast.anna), cookie_of(cast.bert)

    async def story(house: House) -> None:
        page, other = await house.open(ends), await house.open(stays)
        await in_thread(lambda: end(ends, cast.anna))
        await asyncio.wait_for(page.task, SOON)
        assert not other.task.done()

    visit(story)


def test_who_lacks_a_second_factor_is_told_as_little_as_pages_show_them(
    cast: Cast, visit: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie, has = cookie_of(cast.anna), cookie_of(cast.bert)
    Authenticator.objects.create(user=cast.bert, type=Authenticator.Type.TOTP, data={})
    monkeypatch.setattr(live, "CHECK_SECONDS", 0.0)

    async def story(house: House) -> None:
        page = await house.open(cookie)
        settings.MFA_REQUIRED = "all"
        house.live._wake.set()
        await asyncio.wait_for(page.task, SOON)
        refused, other = await house.open(cookie), await house.open(has)
        assert (refused.status, refused.text, other.status) == (403, "", 200)
        assert not other.task.done()

    visit(story)


def test_who_is_at_the_second_step_of_a_sign_in_is_told_nothing(cast: Cast, visit: Any) -> None:
    Authenticator.objects.create(user=cast.anna, type=Authenticator.Type.TOTP, data={})
    client = Client()
    answer: Any = client.post("/accounts/login/", {"login": "anna", "password": "correct horse battery"})
    assert answer.url == "/accounts/two-factor/"
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value

    async def story(house: House) -> None:
        assert (await house.open(cookie)).status == 401

    visit(story)


def test_a_cookie_is_read_as_django_reads_it_and_nothing_is_written(cast: Cast, settings: Any) -> None:
    cookie = cookie_of(cast.anna)
    assert person_of_cookie(cookie) == cast.anna
    before = list(Session.objects.values_list())
    for made_up in ("", "x", "\0" * 32, cookie[:-1] + "!", cookie.upper(), "a" * 32, "' OR 1=1 --" * 9):
        assert person_of_cookie(made_up) is None
    settings.AUTHENTICATION_BACKENDS = settings.AUTHENTICATION_BACKENDS[1:]
    assert person_of_cookie(cookie) is None
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    forged = Session.objects.get()
    Session.objects.create(session_key="b" * 32, session_data=forged.session_data[::-1], expire_date=forged.expire_date)
    assert people_of_cookies([cookie, "b" * 32]) == {cookie: cast.anna}
    cast.anna.set_password("another horse battery")
    cast.anna.save()
    assert people_of_cookies([cookie]) == {}
    assert [row for row in Session.objects.values_list() if row[0] == cookie] == before


@pytest.mark.parametrize(
    "topics",
    [
        "",
        "everything",
        "inbox,",
        "request:",
        "request:1",
        "request:{00000000-0000-0000-0000-000000000000}",
        "request:00000000-0000-0000-0000-00000000000A",
        "inbox%0d%0adata:x",
        "inbox&topics=grants",
        ",".join(f"request:{uuid4()}" for _ in range(MOST_TOPICS + 1)),
        "inbox" + "," * 2000,
    ],
)
def test_topics_are_spelled_in_one_way(cast: Cast, visit: Any, topics: str) -> None:
    anna = cookie_of(cast.anna)

    async def story(house: House) -> None:
        assert (await house.open(anna, topics)).status == 400

    visit(story)


def test_who_may_not_even_ask(cast: Cast, visit: Any) -> None:
    anna = cookie_of(cast.anna)

    async def story(house: House) -> None:
        assert (await house.open("a" * 32)).status == 401
        assert (await house.open(anna, method="POST")).status == 405
        for site in ("same-site", "cross-site", "none"):
            assert (await house.open(anna, sec_fetch_site=site)).status == 403
        assert (await house.open(anna, sec_fetch_site="same-origin")).status == 200

    visit(story)


def test_one_person_cannot_use_up_the_streams_of_others(
    cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_OF_ONE", 2)
    monkeypatch.setattr(live, "MOST", 3)
    anna, bert, carl = (cookie_of(one) for one in (cast.anna, cast.bert, cast.carl))

    async def story(house: House) -> None:
        pages = [await house.open(anna) for _ in range(3)]
        await asyncio.wait_for(pages[0].task, SOON)
        assert "event: enough" in pages[0].text
        assert not any(page.task.done() for page in pages[1:])
        assert (await house.open(bert)).status == 200
        assert (await house.open(carl)).status == 503
        await pages[1].leave()
        assert (await house.open(carl)).status == 200
        assert house.live.open_pages == 3

    visit(story)


def test_no_more_knock_at_once_than_are_heard(cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_OPENING", 1)
    anna = cookie_of(cast.anna)

    async def story(house: House) -> None:
        pages = [Page(house.switch, anna, "inbox", {}) for _ in range(3)]
        for page in pages:
            await page.until(lambda page=page: page.status)
        assert sorted(page.status for page in pages) == [200, 503, 503]
        house.pages += pages

    visit(story)


def test_a_slow_reader_holds_little_and_nobody_up_and_is_put_out(
    cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, bert = cookie_of(cast.anna), cookie_of(cast.bert)
    settle_ledger()

    async def story(house: House) -> None:
        slow, quick = await house.open(anna), await house.open(bert)
        monkeypatch.setattr(http, "SLOW_SECONDS", 0.3)
        slow.reads.clear()
        for tool in ("git_commit", "git_add", "git_reset"):
            count = len(quick.told)
            await in_thread(lambda tool=tool: (cast.submit(tool), sequence()))
            await quick.until(lambda count=count: len(quick.told) > count)
            assert all(len(stream.due) <= 1 for stream in house.live._streams)
        assert quick.told == ["inbox"] * 3
        await asyncio.wait_for(slow.task, SOON)
        assert slow.told == []
        assert house.live.open_pages == 1

    visit(story)


def test_what_happens_at_once_is_told_once(cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.5)
    anna = cookie_of(cast.anna)
    settle_ledger()

    async def story(house: House) -> None:
        page = await house.open(anna)
        for tool in ("git_commit", "git_add", "git_reset"):
            await in_thread(lambda tool=tool: (cast.submit(tool), sequence()))
            await page.until(lambda: page.told)
        await page.until(lambda: len(page.told) == 2)
        assert page.told == ["inbox"] * 2

    visit(story)


def test_a_page_is_told_of_what_happened_between_its_making_and_its_stream(
    cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "FRESH", timedelta(seconds=60))
    anna, carl = cookie_of(cast.anna), cookie_of(cast.carl)
    filed(cast)
    settle_ledger()

    async def story(house: House) -> None:
        for _ in range(2):
            page, other = await house.open(anna), await house.open(carl)
            await page.until(lambda page=page: page.told)
            assert (page.told, other.told) == (["inbox"], [])
        assert house.pages[0].told == ["inbox"]

    visit(story)


def test_too_much_to_look_at_is_told_to_everybody(cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "MANY_ENTRIES", 0)
    carl = cookie_of(cast.carl)
    settle_ledger()

    async def story(house: House) -> None:
        page = await house.open(carl, "inbox,grants")
        await in_thread(lambda: filed(cast))
        await page.until(lambda: page.told)
        assert page.told == ["grants", "inbox"]

    visit(story)


def test_a_database_that_is_away_for_a_while_loses_no_news(
    cast: Cast, visit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    anna = cookie_of(cast.anna)
    settle_ledger()

    async def story(house: House) -> None:
        page = await house.open(anna)

        def broken(*_: object) -> None:
            raise OperationalError("the database is away")

        with monkeypatch.context() as away:
            away.setattr(live, "look", broken)
            away.setattr(live, "listener_of", broken)
            await in_thread(lambda: filed(cast))
            assert (await house.open(anna)).status == 503
            async with asyncio.timeout(SOON):
                while "told of changes later" not in caplog.text:
                    await asyncio.sleep(0.001)
        assert page.told == []
        house.live._wake.set()
        await page.until(lambda: page.told)

    visit(story)


def test_streams_end_with_the_process_and_nobody_comes_in_any_more(cast: Cast, visit: Any) -> None:
    anna = cookie_of(cast.anna)

    async def story(house: House) -> None:
        page = await house.open(anna)
        house.switch.begin_shutdown()
        await asyncio.wait_for(page.task, SOON)
        assert "enough" not in page.text
        assert (await house.open(anna)).status == 503

    visit(story)


def test_a_process_without_pages_has_no_streams(cast: Cast) -> None:
    async def story() -> int:
        page = Page(Switch(role="gateway", gateway=None, web=False, background=None), "a" * 32, "inbox", {})
        await page.task
        return page.status

    assert asyncio.run(story()) == 404


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_htmx_needs_nothing_that_the_csp_forbids_and_its_files_are_there() -> None:
    tags = _Tags(render_to_string("parts/live_head.html")).found
    (config,) = (json.loads(found["content"] or "") for tag, found in tags if found.get("name") == "htmx-config")
    assert config["allowEval"] is config["allowScriptTags"] is config["includeIndicatorStyles"] is False
    assert config["historyCacheSize"] == 0
    scripts = [found["src"] or "" for tag, found in tags if tag == "script"]
    assert len(scripts) == 2
    assert all(finders.find(one.removeprefix("/static/")) for one in scripts)
