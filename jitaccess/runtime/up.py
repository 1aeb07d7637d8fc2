"""`jitaccess up`: everything in one process on this machine, and what to try next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.conf import settings

from jitaccess import env
from jitaccess.audit.heads import ensure_grown_from_newest
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Invalid
from jitaccess.runtime import demo
from jitaccess.runtime.links import sign_in_link
from jitaccess.runtime.preflight import lock_var, prepare_database
from jitaccess.runtime.server import bind, configured_servers, serve
from jitaccess.runtime.servers import refresh_servers, unknown_servers

OPERATOR = Actor.system("up")


def up(*, host: str, port: int, want_demo: bool, celery: bool) -> None:
    """Prepare var/ and the database, set up the demo on the first run, serve until a signal. Raises JitAccessError."""
    lock = lock_var(settings.VAR)
    listener = bind(host, port)
    _announce(host, listener.getsockname()[1])
    done = prepare_database()
    if done:
        print(f"Database: {done}.", flush=True)
    ensure_grown_from_newest()
    _prepare_content(want_demo=want_demo)
    with lock:
        alone = not settings.ON_POSTGRESQL
        serve(
            role="up", listener=listener, gateway=True, web=True, celery=celery, alone=alone, on_ready=_say_what_to_do
        )
    print("Stopped.", flush=True)


def _announce(host: str, port: int) -> None:
    """Without JITACCESS_PUBLIC_URL this process's own address is the public one."""
    if env.text("JITACCESS_PUBLIC_URL"):
        return
    if host not in {"127.0.0.1", "localhost", "::1"}:
        raise Invalid("host.public", f"To listen on {host}, say how others reach it: JITACCESS_PUBLIC_URL=https://….")
    own = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    (settings.VAR / "url").write_text(own)
    for name in ("CSRF_TRUSTED_ORIGINS", "GATEWAY_ALLOWED_ORIGINS"):
        setattr(settings, name, [*getattr(settings, name), own])
    settings.PUBLIC_URL = own


def _prepare_content(*, want_demo: bool) -> None:
    first = not User.objects.exists()
    if first:
        admin = User(username="admin", is_staff=True, is_superuser=True, email="admin@example.invalid")
        admin.set_unusable_password()
        admin.save()
    marker = settings.VAR / "no-demo"
    if first and not want_demo:
        marker.touch()
    if not demo.exists() and want_demo and not marker.exists():
        print("Setting up the demo (once): an agent, four people, a git server over a small repository.", flush=True)
        demo.create()
    if demo.exists():
        demo.prepare_repository()
    refresh_servers(unknown_servers(configured_servers()), operator=OPERATOR)


def _say_what_to_do() -> None:
    lines = [
        f"\njitaccess is running on {settings.PUBLIC_URL}\n",
        "Sign in with a link (each works once, within an hour):",
    ]
    people = [("admin", "admin"), *((name, what) for name, _, what in demo.PEOPLE)]
    for username, what in people:
        user = User.objects.filter(username=username, is_active=True).first()
        if user is not None:
            lines.append(f"  {username:<6} {what:<15} {sign_in_link(user, operator=OPERATOR)}")
    if demo.exists():
        lines += _demo_lines()
    else:
        lines.append(
            f"\nNothing to call yet: describe an MCP server in {settings.SERVERS_FILE}, "
            "then run `jitaccess servers refresh`."
        )
    lines.append("\nAdmin: " + settings.PUBLIC_URL + "/admin/    Stop with Ctrl-C.\n")
    print("\n".join(lines), flush=True)


def _demo_lines() -> list[str]:
    command = os.path.relpath(Path(sys.executable).with_name("jitaccess"))
    url, token = f"{settings.PUBLIC_URL}/mcp/git", f"{command} agents token {demo.AGENT} --ttl 60m"
    return [
        f"\nMCP server for agents: {url}",
        f"A token for {demo.AGENT}:  {token}",
        "\nConnect a client, for example Claude Code, in the folder you work in:",
        f"  {command} agents snippet {demo.AGENT} --server git > .mcp.json",
        "\nThen try, in the client:",
        '  1. "Show the log of the repository."         works: reading is allowed from the start',
        '  2. "Commit what is staged."                  refused; the agent is told to ask with request_access',
        "  3. sign in as anna, open the inbox, approve  (olga owns the agent: she cannot)",
        '  4. "Try again."                              works now, and the request page shows every use',
    ]
