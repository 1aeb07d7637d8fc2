"""`jitaccess servers …`: describe servers, take over their tools, review them, find out what is wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from django.conf import settings

from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.text import visible
from jitaccess.runtime.given_secrets import NEVER, read_secrets
from jitaccess.runtime.helping import named
from jitaccess.runtime.screen import Screen


class _Parser(argparse.ArgumentParser):
    """argparse gives up on words that come after an option. What follows -- is a program's, word by word."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(args or ())
        at = words.index("--") if "--" in words else len(words)
        namespace, extra = super().parse_known_args(words[:at], namespace)
        if at < len(words):
            namespace.command = words[at + 1 :]
        if hasattr(namespace, "assignments"):
            namespace.assignments += [word for word in extra if not word.startswith("-")]
            extra = [word for word in extra if word.startswith("-")]
        return namespace, extra


def add(commands: Any) -> None:
    """Register the subcommands."""
    servers = commands.add_parser("servers", help="MCP servers").add_subparsers(
        required=True, metavar="action", parser_class=_Parser
    )
    listing = servers.add_parser("list", help="all servers, and how they are")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_list)
    _adding(servers)
    importing = servers.add_parser("import", help="take over the servers of another MCP client's file")
    importing.add_argument("file", type=Path)
    importing.add_argument("--dry-run", action="store_true", help="only say what would be done")
    importing.add_argument("--replace", action="store_true", help="also those that are described here differently")
    importing.set_defaults(run=_import)
    remove = servers.add_parser("remove", help="use a server no longer; its tools and rules are kept, but disabled")
    named(remove, "name", "servers", metavar="NAME")
    remove.set_defaults(run=_remove)
    for verb, enabled in (("disable", False), ("enable", True)):
        switch = servers.add_parser(verb, help=f"{verb} a server; in force for the next call")
        named(switch, "name", "servers", metavar="NAME")
        switch.add_argument("--json", action="store_true", help="one JSON document")
        switch.set_defaults(run=_switch, enabled=enabled)
    setting = servers.add_parser("set", help="set options of a server; in force for the next call")
    named(setting, "name", "servers", metavar="NAME")
    setting.add_argument("assignments", nargs="*", metavar="OPTION=VALUE", help="none: show them, with what they mean")
    setting.add_argument("--json", action="store_true", help="one JSON document")
    setting.set_defaults(run=_set)
    refresh = servers.add_parser("refresh", help="take over the tools of one server or of all")
    named(refresh, "name", "servers", nargs="?", metavar="NAME")
    refresh.add_argument("--json", action="store_true", help="one JSON document")
    refresh.set_defaults(run=_refresh)
    classify = servers.add_parser("classify", help="look at the tools of a server, and say what each of them does")
    named(classify, "name", "servers", metavar="NAME")
    classify.add_argument("assignments", nargs="*", metavar="TOOL=CLASS", help="CLASS: read, write or destructive")
    classify.add_argument(
        "--all-as-suggested",
        action="store_true",
        help="believe what the server says about its unreviewed tools, except those with warnings",
    )
    classify.add_argument("--seen", metavar="CODE", help="the code that was printed with what you looked at")
    classify.set_defaults(run=_classify)
    doctor = servers.add_parser("doctor", help="find out what is wrong with a server, or with any")
    named(doctor, "name", "servers", nargs="?", metavar="NAME")
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    doctor.set_defaults(run=_doctor)


def _adding(servers: Any) -> None:
    adding = servers.add_parser(
        "add",
        help="describe a new server",
        usage="jitaccess servers add NAME --url URL [--header-from NAME=VARIABLE] | NAME -- COMMAND [ARGUMENT …]",
    )
    adding.add_argument("name")
    adding.add_argument("--url", help="of a server over streamable HTTP")
    adding.add_argument(
        "--header-from",
        action="append",
        default=[],
        metavar="NAME=WHERE",
        help="a header to send, whose value is in the environment variable WHERE, the file @WHERE, or on standard "
        "input (-); with NAME alone you are asked for it",
    )
    adding.add_argument("--header", action="append", help=argparse.SUPPRESS)
    adding.add_argument("--era", choices=("auto", "modern", "legacy"), default="auto", help="which protocol it speaks")
    adding.add_argument("--shared", action="store_true", help="it keeps no state and no identity of its own")
    adding.add_argument("--cwd", help="of a program: the folder it runs in")
    adding.add_argument(
        "--env-from",
        action="append",
        default=[],
        metavar="NAME=WHERE",
        help="of a program: a variable to set, from where as with --header-from",
    )
    adding.set_defaults(run=_add, command=[])


def _list(arguments: argparse.Namespace) -> int:
    rows = _rows()
    if arguments.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        state = "disabled" if not row["enabled"] else row["trouble"] or row["health"]
        counts = f"tools: {row['tools']}, to review: {row['to_review']}, changed: {row['changed']}"
        print(f"{row['name']:<24} {row['where']:<48} {state}\n{'':<24} {counts}")
    if not rows:
        print("No servers yet: jitaccess servers add, or jitaccess servers import.")
    return 0


def _rows() -> list[dict[str, Any]]:
    from django.db.models import Count, F, Q

    from jitaccess.catalog.models import Server
    from jitaccess.gateway.upstream.directory import Directory

    book = Directory(settings.SERVERS_FILE).follow()
    present = Q(tools__present=True)
    found = Server.objects.select_related("health").annotate(
        n_tools=Count("tools", filter=present),
        n_new=Count("tools", filter=present & Q(tools__pin="")),
        n_changed=Count("tools", filter=present & ~Q(tools__pin="") & ~Q(tools__pin=F("tools__digest"))),
    )
    rows = [
        {
            "name": row.slug,
            "enabled": row.enabled,
            "where": where(book, row),
            "trouble": visible(book.listing.troubles.get(row.slug, ""), limit=300),
            "health": _health(row),
            "tools": row.n_tools,
            "to_review": row.n_new,
            "changed": row.n_changed,
        }
        for row in found
    ]
    known = {row["name"] for row in rows}
    empty = {"enabled": True, "trouble": "", "health": "not asked yet", "tools": 0, "to_review": 0, "changed": 0}
    return rows + [{"name": slug, "where": "the servers file", **empty} for slug in sorted(book.all().keys() - known)]


def where(book: Any, row: Any) -> str:
    """Where a server is described, in a few words."""
    if book.in_file(row.slug):
        return "the servers file"
    return row.url or "nowhere"


def _health(row: Any) -> str:
    health = getattr(row, "health", None)
    if health is None:
        return "not asked yet"
    said = f"reachable, {health.era}" if health.ok else f"not reachable: {health.detail}"
    return f"{said} ({health.checked_at:%Y-%m-%d %H:%M} UTC)"


def _add(arguments: argparse.Namespace) -> int:
    from jitaccess.catalog.services import checked_slug
    from jitaccess.runtime.cli import operator

    if arguments.header:
        raise Invalid("servers.secret", NEVER)
    name = checked_slug(arguments.name)
    if bool(arguments.url) == bool(arguments.command):
        raise Invalid(
            "servers.usage", f"Give either --url URL, or the program after --: servers add {name} -- COMMAND."
        )
    _refuse_known(name)
    (_add_url if arguments.url else _add_program)(name, arguments, operator())
    print(f"{name} is added. Running gateways find it within seconds; its tools wait for review:")
    print(f"  jitaccess servers refresh {name} && jitaccess servers classify {name}")
    return 0


def _refuse_known(name: str) -> None:
    """A disabled server may be described anew; any other must be removed first."""
    from jitaccess.catalog.models import Server
    from jitaccess.runtime import servers_file

    if name in servers_file.entries():
        raise Invalid("server.exists", f"{name} is in the servers file already: jitaccess servers remove {name} first.")
    if Server.objects.filter(slug=name, enabled=True, transport="http").exists():
        raise Invalid("server.exists", f"There is a server {name} already: jitaccess servers remove {name} first.")


def _add_url(name: str, arguments: argparse.Namespace, who: Any) -> None:
    if arguments.cwd or arguments.env_from:
        raise Invalid("servers.usage", "--cwd and --env-from are for programs, not for a URL.")
    headers = read_secrets(arguments.header_from)
    put_http_server(name, arguments.url, headers, era=arguments.era, shared=arguments.shared, who=who, enable=True)


def put_http_server(
    slug: str, url: str, headers: dict[str, str], *, era: str, shared: bool, who: Any, enable: bool = False
) -> None:
    """Describe an HTTP server, new or anew. A disabled one stays so unless `enable`. Raises JitAccessError."""
    from django.db import transaction

    from jitaccess.catalog.credentials import remove_credential, set_credential
    from jitaccess.catalog.http_servers import add_http_server, change_http_server
    from jitaccess.catalog.models import Server
    from jitaccess.catalog.services import set_server_enabled

    with transaction.atomic():
        server = Server.objects.filter(slug=slug).first()
        if server is None:
            add_http_server(slug=slug, url=url, headers=headers, era=era, shared=shared, operator=who)
            return
        change_http_server(server=server, url=url, era=era, shared=shared, operator=who)
        for header in set(server.credentials.values_list("header", flat=True)) - set(headers):
            remove_credential(server=server, header=header, operator=who)
        for header, value in headers.items():
            set_credential(server=server, header=header, value=value, operator=who)
        if enable:
            set_server_enabled(server=server, enabled=True, operator=who)


def _add_program(name: str, arguments: argparse.Namespace, who: Any) -> None:
    from django.db import transaction

    from jitaccess.catalog.http_servers import make_stdio
    from jitaccess.catalog.models import Server
    from jitaccess.catalog.services import set_server_enabled
    from jitaccess.runtime.servers_file import change_file

    if arguments.header_from:
        raise Invalid("servers.usage", "--header-from is for a URL; what a program needs is given with --env-from.")
    entry: dict[str, Any] = {"command": arguments.command[0], "args": arguments.command[1:]}
    if env := read_secrets(arguments.env_from):
        entry["env"] = env
    if arguments.cwd:
        entry["cwd"] = str(Path(arguments.cwd).resolve())
    if arguments.era != "auto":
        entry["era"] = arguments.era
    if arguments.shared:
        entry["shared"] = True

    def in_database() -> None:
        with transaction.atomic():
            if server := Server.objects.filter(slug=name).first():
                make_stdio(server=server, operator=who)
                set_server_enabled(server=server, enabled=True, operator=who)

    change_file(lambda entries: entries.update({name: entry}), commit=in_database)


def _import(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.cli import operator
    from jitaccess.runtime.importing import carry_out, plan
    from jitaccess.runtime.imports import read_client_file

    steps = plan(read_client_file(arguments.file), replace=arguments.replace)
    if not arguments.dry_run:
        carry_out(steps, who=operator())
    would = "would be " if arguments.dry_run else ""
    for step in steps:
        name = visible(step.found.name, limit=60)
        called = f" as {step.found.slug}" if step.found.slug not in {"", step.found.name} else ""
        what = f"not imported: {step.problem}" if step.problem else f"{'' if step.kept else would}{step.what}{called}"
        print(f"{name}: {what}")
    if any(not step.problem and not step.kept for step in steps) and not arguments.dry_run:
        print(
            "Next: jitaccess servers refresh, then jitaccess servers classify NAME. Nothing can be called before that."
        )
    return int(any(step.problem for step in steps))


def _remove(arguments: argparse.Namespace) -> int:
    from django.db import transaction

    from jitaccess.catalog.credentials import remove_credential
    from jitaccess.catalog.models import Server
    from jitaccess.catalog.services import set_server_enabled
    from jitaccess.runtime import servers_file
    from jitaccess.runtime.cli import operator

    name, who = arguments.name, operator()
    server = Server.objects.filter(slug=name).first()
    if server is None and name not in servers_file.entries():
        raise _unknown(name)

    def in_database() -> None:
        if server is None:
            return
        with transaction.atomic():
            for header in list(server.credentials.values_list("header", flat=True)):
                remove_credential(server=server, header=header, operator=who)
            set_server_enabled(server=server, enabled=False, operator=who)

    servers_file.change_file(lambda entries: entries.pop(name, None), commit=in_database)
    print(f"{name} is removed: nobody can use it from the next call on. Its tools and rules are kept, disabled;")
    print("to forget them too, delete the server in the admin.")
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    from jitaccess.catalog.services import server_by_slug, set_server_enabled
    from jitaccess.runtime.cli import operator

    server = server_by_slug(arguments.name)
    set_server_enabled(server=server, enabled=arguments.enabled, operator=operator())
    if arguments.json:
        Screen().json({"name": server.slug, "enabled": arguments.enabled})
    else:
        print(f"{server.slug} is {'enabled' if arguments.enabled else 'disabled'}")
    return 0


def _set(arguments: argparse.Namespace) -> int:
    from jitaccess.catalog.options import MEANINGS
    from jitaccess.catalog.services import server_by_slug, set_options
    from jitaccess.runtime.cli import operator

    server = server_by_slug(arguments.name)
    changes = dict(_option(word) for word in arguments.assignments)
    now = set_options(server=server, changes=changes, operator=operator()).as_json()
    if arguments.json:
        Screen().json({"name": server.slug, "options": now})
        return 0
    for name, value in now.items():
        print(f"{name} = {json.dumps(value):<10} {MEANINGS[name]}")
    return 0


def _option(word: str) -> tuple[str, object]:
    """NAME=VALUE with the value as it would stand in JSON; what is neither number, true nor false stays text."""
    name, equals, text = word.partition("=")
    if not equals:
        raise Invalid("server.options", f'"{visible(word, limit=60)}" is not OPTION=VALUE.')
    if text in {"true", "false"}:
        return name, text == "true"
    return name, int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _classify(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime import classify_command  # not before Django is set up, as everywhere here

    return classify_command.run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime import doctor

    return doctor.run(arguments)


def _refresh(arguments: argparse.Namespace) -> int:
    from jitaccess.gateway.upstream.directory import Directory
    from jitaccess.runtime.cli import operator
    from jitaccess.runtime.servers import refresh_servers

    book = Directory(settings.SERVERS_FILE).follow()
    configs = book.all()
    if arguments.name:
        configs = {arguments.name: config_of(book, arguments.name)}
    report = refresh_servers(configs, operator=operator())
    troubles = {slug: said for slug, said in book.listing.troubles.items() if arguments.name in {None, slug}}
    if arguments.json:
        Screen().json({"servers": report, "troubles": troubles})
    else:
        for slug, what in report.items():
            print(f"{slug}: {what}")
        for slug, trouble in troubles.items():
            print(f"{slug or 'servers file'}: {trouble}")
    return 1 if book.listing.troubles or any(what.startswith("not reached") for what in report.values()) else 0


def config_of(book: Any, name: str) -> Any:
    """How a server is reached. Raises NotFound or Invalid with what is in the way."""
    if config := book(name):
        return config
    if trouble := book.listing.troubles.get(name):
        raise Invalid("server.trouble", trouble)
    if name in book.listing.disabled:
        raise Invalid("server.disabled", f"{name} is disabled: jitaccess servers enable {name}.")
    raise _unknown(name)


def _unknown(name: str) -> NotFound:
    shown = visible(name, limit=60)
    return NotFound("server.unknown", f"There is no server {shown}. jitaccess servers list shows those there are.")
