"""`jitaccess completion bash|zsh|fish`: made from the parser itself, so that no verb or option is forgotten."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import verb

NAMES = ("agents", "servers", "roles", "people")
_SHELLS = ("bash", "zsh", "fish")


@dataclass(slots=True)
class Place:
    """A command by its words: what may follow. `values` by option: fixed words, or the names of a kind."""

    path: tuple[str, ...]
    help: str = ""
    actions: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[str, ...] | str] = field(default_factory=dict)
    kind: str = ""
    choices: tuple[str, ...] = ()


def add(commands: Any) -> None:
    """Register the verb."""
    parser = verb(
        commands,
        "completion",
        _run,
        "print what makes a shell complete jitaccess's words",
        more="Names of agents, servers, roles and people are completed where the installation is.",
        example="source <(jitaccess completion bash)\n"
        "jitaccess completion fish > ~/.config/fish/completions/jitaccess.fish",
        json=False,
        offline=lambda arguments: arguments.shell in _SHELLS,
    )
    parser.add_argument("shell", choices=(*_SHELLS, *NAMES), metavar="{bash,zsh,fish}", help="which shell")


def places(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), about: str = "") -> Iterator[Place]:
    """Every command there is, the program itself first. argparse tells of its own parts only by private names."""
    here = Place(path, about)
    below: list[Place] = []
    for action in parser._actions:  # noqa: SLF001
        kind = str(getattr(action, "completes", ""))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            for name, inner in action.choices.items():
                here.actions[name] = told.get(name, "")
                below += places(inner, (*path, name), told.get(name, ""))
        elif action.option_strings and action.help != argparse.SUPPRESS:
            longest = max(action.option_strings, key=len)
            here.options[longest] = action.help or ""
            if action.nargs != 0:
                here.values[longest] = kind or tuple(map(str, action.choices or ()))
        elif kind:
            here.kind = kind
        elif action.choices:
            here.choices = tuple(map(str, action.choices))
    yield here
    yield from below


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """For one of bash, zsh and fish."""
    every = list(places(parser))
    for place in every:
        if place.path == ("completion",):
            place.choices = _SHELLS
    return _fish(every) if shell == "fish" else _bash(every, zsh=shell == "zsh")


def _run(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.cli import _parser

    if arguments.shell in _SHELLS:
        print(script(arguments.shell, _parser()), end="")
    else:
        with contextlib.suppress(BrokenPipeError):
            print("\n".join(_names(arguments.shell)))
    return Exit.DONE


def _names(kind: str) -> list[str]:
    from jitaccess.catalog.models import Server
    from jitaccess.identity.models import Agent, User
    from jitaccess.policy.models import Role

    rows: Any = {
        "agents": Agent.objects.values_list("name", flat=True),
        "servers": Server.objects.values_list("slug", flat=True),
        "roles": Role.objects.values_list("name", flat=True),
        "people": User.objects.filter(is_active=True).values_list("username", flat=True),
    }[kind]
    # A word that a shell would have to quote is left to the person.
    return sorted(name for name in rows if shlex.quote(name) == name)


def _bash(every: list[Place], *, zsh: bool) -> str:
    head = "#compdef jitaccess\nautoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    known = " | ".join(f'"{" ".join(place.path)}"' for place in every if place.path)
    values, words = [], []
    for place in every:
        path = " ".join(place.path)
        for option, of in place.values.items():
            values.append(f'    "{path} {option}") {_offer(of)} ;;')
        offered = (*place.actions, *place.choices, *place.options)
        names = f" $(jitaccess completion {place.kind} 2>/dev/null)" if place.kind else ""
        words.append(f'    "{path}") words="{" ".join(offered)}{names}" ;;')
    lines = "\n".join(values), "\n".join(words)
    return f"""{head}_jitaccess() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" path="" try="" words="" at
  for ((at = 1; at < COMP_CWORD; at++)); do
    try="${{path:+$path }}${{COMP_WORDS[at]}}"
    case "$try" in {known}) path="$try" ;; esac
  done
  COMPREPLY=()
  case "$path ${{COMP_WORDS[COMP_CWORD-1]}}" in
{lines[0]}
  esac
  case "$path" in
{lines[1]}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _jitaccess jitaccess
"""


def _offer(of: tuple[str, ...] | str) -> str:
    """What follows an option, and nothing else does."""
    words = f"$(jitaccess completion {of} 2>/dev/null)" if isinstance(of, str) else " ".join(of)
    return f'COMPREPLY=($(compgen -W "{words}" -- "$cur")); return' if words else "return"


def _fish(every: list[Place]) -> str:
    lines = ["complete -c jitaccess -f"]
    for place in every:
        when = " && ".join([
            *(f"__fish_seen_subcommand_from {word}" for word in place.path),
            *([f"not __fish_seen_subcommand_from {' '.join(place.actions)}"] if place.actions else []),
        ]) or "__fish_use_subcommand"  # fmt: skip
        start = f"complete -c jitaccess -n {_quoted(when)}"
        lines += [f"{start} -a {name} -d {_quoted(about)}" for name, about in place.actions.items()]
        if place.choices:
            lines.append(f"{start} -a {_quoted(' '.join(place.choices))}")
        if place.kind:
            lines.append(f"{start} -a '(jitaccess completion {place.kind} 2>/dev/null)'")
        for option, about in place.options.items():
            of = place.values.get(option)
            names = f"(jitaccess completion {of} 2>/dev/null)" if isinstance(of, str) else " ".join(of or ())
            takes = f" -x -a {_quoted(names)}" if names else " -r" if of is not None else ""
            lines.append(f"{start} -l {option.lstrip('-')}{takes} -d {_quoted(about)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """For fish, where a backslash escapes inside single quotes."""
    return "'" + " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'") + "'"
