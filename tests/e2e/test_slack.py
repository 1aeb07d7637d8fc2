"""The approval as people do it in Slack: linked once on the web, then decided on a card, while an agent waits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.fakes.slack import server
from tests.fakes.slack.server import CHANNEL, FakeSlack
from tests.installation import Installation, eventually
from tests.mcp_client import MODERN, connect

ANNA = "U1ANNA"


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    fake = FakeSlack().start()
    yield fake
    fake.stop()


async def ask(url: str, token: str) -> None:
    async with connect(url, token, era=MODERN) as agent:
        asked = await agent.call("request_access", tools=["git_commit"], reason="Commit <!channel> notes", minutes=30)
        assert not asked.is_error


async def may_commit(url: str, token: str) -> bool:
    async with connect(url, token, era=MODERN) as agent:
        return not (await agent.call("git_commit", repo_path=".", message="Note it")).is_error


def test_a_request_is_decided_in_slack_by_socket_mode(installation: Installation, slack: FakeSlack) -> None:
    process = installation.start(
        "up",
        env={
            "JITACCESS_SLACK_API_URL": slack.url,
            "JITACCESS_SLACK_BOT_TOKEN": server.BOT,
            "JITACCESS_SLACK_APP_TOKEN": server.APP,
            "JITACCESS_SLACK_APP_ID": server.APP_ID,
            "JITACCESS_SLACK_TEAM_ID": server.TEAM,
            "JITACCESS_SLACK_CHANNELS": CHANNEL,
            "JITACCESS_EGRESS_ALLOW": "127.0.0.1/32",
        },
    )
    token = installation.ready_token
    eventually(lambda: slack.sockets)
    # Who is who: by a page, signed in.
    name = slack.envelope("slash_commands", slack.command(ANNA, "link"))
    eventually(lambda: name in slack.acks)
    link = re.search(r"/slack/link/\S+", slack.acks[name]["text"])
    assert link
    anna = installation.sign_in("anna", process.url, anew=True)
    assert "Is this you in Slack?" in anna.get(link[0]).text
    word = re.search(r"/access (link \S{9})", anna.post(link[0]).text)
    assert word
    name = slack.envelope("slash_commands", slack.command(ANNA, word[1]))
    eventually(lambda: name in slack.acks)
    assert "Linked: you are anna" in slack.acks[name]["text"]
    # A card in the channel and with him; his yes; the agent goes on.
    asyncio.run(ask(process.url, token))
    eventually(lambda: slack.to(ANNA) and slack.to(CHANNEL))
    (card,), (channel,) = slack.to(ANNA), slack.to(CHANNEL)
    assert "Commit <!channel> notes" in card.text
    assert not asyncio.run(may_commit(process.url, token))
    slack.envelope("interactive", slack.press(card, "approve", ANNA))
    eventually(lambda: "Active" in card.text and "Active" in channel.text)
    assert asyncio.run(may_commit(process.url, token))
    assert [entry["user_name"] for entry in installation.ledger("slack.linked")] == ["anna"]
    assert server.BOT not in process.output
