from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

import pytest
from django.core import mail

from jitaccess.audit.sequencer import sequence
from jitaccess.notify.models import Delivery
from jitaccess.notify.tasks import deliver as task
from jitaccess.store.clock import now
from requests_app.models import Decision
from tests.cast import Cast

pytestmark = pytest.mark.pure

HOSTILE = (
    "<script>alert(1)</script><a href=https://evil.example/x>Approve</a> https://evil.example/approve www.evil.example\n"
    "mailto:a@evil.example \u202etxt\u200b\x00 <!channel> ![x](https://evil.example/y.png)"
)


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(autouse=True)
def _channels(settings) -> None:
    settings.NOTIFY_CHANNELS = ["email"]
    settings.PUBLIC_URL = "https://desk.example"


def sent() -> list[mail.EmailMultiAlternatives]:
    sequence()
    task()
    return list(mail.outbox)  # type: ignore[arg-type]


def html_of(message: mail.EmailMultiAlternatives) -> str:
    [(content, kind)] = message.alternatives
    assert kind == "text/html"
    return str(content)


def test_nothing_that_an_agent_wrote_becomes_a_tag_or_a_link(cast: Cast) -> None:
    asked = cast.submit(reason=HOSTILE)
    message = sent()[0]
    page = Parsed(html_of(message))
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "table", "tr", "td", "th", "h1", "p", "div", "a",
    }  # fmt: skip
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"https://desk.example/requests/{asked.pk}/", "https://desk.example/preferences/"}
    assert not any("src" in attributes or "background" in attributes for _, attributes in page.tags)
    for text in (page.words, message.body):
        assert "https://evil" not in text
        assert "www.evil" not in text
        assert "https[:]//evil.example/approve" in text
        assert "\u202e" not in text
        assert "\u200b" not in text


def test_the_card_is_told_whole_in_both_parts_and_the_subject_holds_names_only(cast: Cast) -> None:
    cast.submit("git_commit", "git_reset", reason="One\ntwo")
    message = sent()[0]
    page = Parsed(html_of(message)).words
    for text in (page, message.body):
        for part in ("demo-agent", "git/git_reset (destructive)", "10 min, any number of calls", "never asked", "two"):
            assert part in text, part
    assert "> two" in message.body
    assert message.subject == "[jitaccess] demo-agent asks for git/git_commit, git/git_reset for 10 min"


def test_a_notice_is_marked_as_a_machines_and_those_of_a_request_belong_together(cast: Cast) -> None:
    asked = cast.submit()
    first = sent()[0].message()
    cast.approve(asked)
    last = sent()[-1].message()
    assert last["To"] == "olga@example.test"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["References"] == last["References"] == f"<{asked.pk}@desk.example>"
    assert first["Message-ID"] != last["Message-ID"]
    assert "approvals" not in last.get_payload()[0].get_payload()


def test_a_notice_that_is_tried_again_has_its_message_id(cast: Cast) -> None:
    cast.submit()
    before = [one.message()["Message-ID"] for one in sent()]
    Delivery.objects.update(sent_at=None, due_at=now() - timedelta(seconds=1))
    assert [one.message()["Message-ID"] for one in sent()][len(before) :] == before


def test_the_link_in_a_mail_decides_nothing(cast: Cast, client) -> None:
    asked = cast.submit()
    path = f"/requests/{asked.pk}/"
    assert f"https://desk.example{path}" in sent()[0].body
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer.url == f"/accounts/login/?next={path}"
    client.force_login(cast.anna, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(path).status_code == 200
    assert not Decision.objects.exists()


def test_a_long_text_is_cut_in_the_mail_and_says_so(cast: Cast) -> None:
    from jitaccess.notify.notice import _for_mail

    [(_, text)] = _for_mail([("its rules", "x" * 50_000)])
    assert len(text) < 5000
    assert text.endswith("(cut here: the page has all of it)")
    assert _for_mail([("a", "b")] * 70)[-1] == ("more", "The page has all of it.")
