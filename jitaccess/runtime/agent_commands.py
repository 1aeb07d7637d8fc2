"""`jitaccess agents …`: who asks. Tokens and configuration snippets too."""

from __future__ import annotations

import argparse
from typing import Any

from jitaccess.runtime import shown, snippets
from jitaccess.runtime.exits import Exit, say
from jitaccess.runtime.helping import named, verb
from jitaccess.runtime.screen import Screen

_HELD = 50


def add(commands: Any) -> None:
    """Register the verbs."""
    agents = commands.add_parser("agents", help="agents").add_subparsers(required=True, metavar="action")
    verb(agents, "list", _list, "all agents", example="jitaccess agents list --json")
    show = verb(
        agents,
        "show",
        _show,
        "one agent: who owns and uses it, what it holds and waits for",
        example="jitaccess agents show demo-agent",
    )
    named(show, "name", "agents", metavar="NAME")
    for word, enabled, effect in (
        ("disable", False, "Its next call is refused, and its grants end."),
        ("enable", True, "Its grants that ended meanwhile do not come back."),
    ):
        switch = verb(
            agents,
            word,
            _switch,
            f"{word} an agent; in force for its next call",
            more=effect,
            example=f"jitaccess agents {word} demo-agent",
            enabled=enabled,
        )
        named(switch, "name", "agents", metavar="NAME")
    _add_tokens(agents)
    snippets.add(agents)


def _add_tokens(agents: Any) -> None:
    token = verb(
        agents,
        "token",
        _token,
        "issue an access token; it is printed once",
        more="Whoever issues a token counts as the requester of what is asked with it.",
        example="export JITACCESS_TOKEN=$(jitaccess agents token demo-agent --ttl 60m)",
    )
    named(token, "name", "agents", metavar="NAME")
    token.add_argument("--for", dest="user", metavar="USER", help="on behalf of this person")
    token.add_argument("--ttl", default="30m", help="how long it is good, at most 60m (default 30m)")
    tokens = verb(
        agents,
        "tokens",
        _tokens,
        "the access tokens of an agent that are good now, without their values",
        example="jitaccess agents tokens demo-agent",
    )
    named(tokens, "name", "agents", metavar="NAME")
    revoke = verb(
        agents,
        "revoke",
        _revoke,
        "end the access tokens of an agent, or one of them; in force for the next call",
        more="Its grants stay: whoever gets a new token uses them. To end those too, disable the agent.",
        example="jitaccess agents revoke demo-agent\njitaccess agents revoke demo-agent --token 0199a0b1-c2d3",
    )
    named(revoke, "name", "agents", metavar="NAME")
    revoke.add_argument("--token", metavar="ID", help="only this one; the beginning of its id is enough")


def _list(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.models import Agent
    from jitaccess.runtime import desk

    screen = Screen()
    rows = [desk.agent_data(agent) for agent in Agent.objects.select_related("owner", "team")]
    if arguments.json:
        screen.json({"items": rows})
    else:
        shown.agents(screen, rows)
    return Exit.DONE


def _show(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import agent_by_name
    from jitaccess.runtime import desk

    agent, screen = agent_by_name(arguments.name), Screen()
    users = list(agent.users.values_list("username", flat=True))
    data: dict[str, Any] = {**desk.agent_data(agent), "users": users}
    waiting, _, at = desk.requests(state="waiting", agent=agent.name, limit=_HELD)
    held, _, _ = desk.grants(state="live", agent=agent.name, limit=_HELD)
    if arguments.json:
        screen.json(data | {"requests": waiting, "grants": held})
        return Exit.DONE
    screen.line(f"{screen.style(f'Agent {agent.name}', 'bold')}  {shown.enabled(data)}")
    screen.fields([
        ("owner", [agent.owner.username]),
        ("team", [agent.team.name]),
        ("users", [", ".join(users) or "nobody but its owner"]),
        ("about", [agent.description]),
    ])  # fmt: skip
    screen.line()
    screen.line(screen.style("What it holds now", "bold"))
    shown.grants(screen, held, at, more=False)
    screen.line()
    screen.line(screen.style("What it waits for", "bold"))
    shown.requests(screen, waiting, at, more=False)
    return Exit.DONE


def _switch(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import agent_by_name, set_agent_enabled
    from jitaccess.runtime import desk
    from jitaccess.runtime.cli import operator

    agent, screen = agent_by_name(arguments.name), Screen()
    set_agent_enabled(agent=agent, enabled=arguments.enabled, operator=operator())
    if arguments.json:
        screen.json(desk.agent_data(agent))
    else:
        screen.line(f"{agent.name} is {'enabled' if arguments.enabled else 'disabled'}")
    return Exit.DONE


def _token(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import agent_by_name, issue_token, user_by_name
    from jitaccess.kernel.durations import parse_duration
    from jitaccess.runtime.cli import operator

    agent = agent_by_name(arguments.name)
    user = user_by_name(arguments.user) if arguments.user else None
    value, token = issue_token(agent=agent, user=user, ttl=parse_duration(arguments.ttl), operator=operator())
    if arguments.json:
        about = {"agent": agent.name, "on_behalf_of": user.username if user else None}
        Screen().json({"token": value, **about, "expires_at": token.expires_at.isoformat()})
    else:
        print(value)
        say(f"{agent.name}, good until {token.expires_at:%H:%M} UTC; shown this once")
    return Exit.DONE


def _tokens(arguments: argparse.Namespace) -> int:
    from jitaccess.api.render import token_data
    from jitaccess.identity.services import agent_by_name, live_tokens
    from jitaccess.store.clock import now

    rows = live_tokens().filter(agent=agent_by_name(arguments.name)).select_related("agent", "user")
    at, screen = now(), Screen()
    found = [token_data(token, at) for token in rows.order_by("pk")]
    if arguments.json:
        screen.json({"items": found})
    else:
        shown.tokens(screen, found, at)
    return Exit.DONE


def _revoke(arguments: argparse.Namespace) -> int:
    from django.db import transaction

    from jitaccess.api.render import token_data
    from jitaccess.identity.services import agent_by_name, live_tokens, revoke_token
    from jitaccess.runtime import references
    from jitaccess.runtime.cli import operator
    from jitaccess.store.clock import now

    rows = live_tokens().filter(agent=agent_by_name(arguments.name)).select_related("agent", "user")
    ended = [references.row_of(rows, arguments.token, "token")] if arguments.token else list(rows.order_by("pk"))
    with transaction.atomic():
        for token in ended:
            revoke_token(token=token, operator=operator())
            token.refresh_from_db()
    at, screen = now(), Screen()
    if arguments.json:
        screen.json({"items": [token_data(token, at) for token in ended]})
    else:
        screen.line(f"{len(ended)} token{'' if len(ended) == 1 else 's'} of {arguments.name} revoked")
    return Exit.DONE
