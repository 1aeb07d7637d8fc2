"""What both kinds of role documents are read with."""

from __future__ import annotations

import re

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import is_slug, visible
from jitaccess.kernel.yamldoc import Node, Reader, is_list, line_of
from jitaccess.policy.engine.rules import Labels

READ = Reader("role.invalid")
# All that names of servers and tools consist of. Anything else could never match, and a deny rule that never matches
# is an open door: `- a` above a more indented `- b` is one text, "a - b", to YAML; so is "a, b".
_NAME_OR_GLOB = re.compile(r"[A-Za-z0-9_.*-]+")
_LABEL = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_.:@/*-]{1,80}")


def role_name(node: Node, path: str) -> str:
    """The name of a role."""
    name = READ.text(node, path)
    if not is_slug(name, limit=40):
        expected = "small letters, digits and hyphens, at most 40, starting and ending with a letter or digit"
        raise READ.mistake(line_of(node), path, expected)
    return name


def labels(node: Node, path: str) -> Labels:
    """Labels by name, each with a pattern or a list of patterns for its value. None at all match nothing."""
    wanted = []
    for name, value in READ.members(node, path, (), expected="a mapping such as {env: staging}").items():
        where = f"{path}.{name}"
        if not _LABEL.fullmatch(name):
            expected = "the name of a label: small letters, digits and _ . - (a letter first, at most 40)"
            raise READ.mistake(line_of(value), where, expected)
        values = READ.items(value, where, _label_value) if is_list(value) else [_label_value(value, where)]
        wanted.append((name, PatternSet(values)))
    return Labels(tuple(wanted))


def name_pattern(node: Node, path: str) -> str:
    """A pattern for names of servers, tools or prompts."""
    return pattern(node, path, _NAME_OR_GLOB, "letters, digits and _ . - *")


def _label_value(node: Node, path: str) -> str:
    return pattern(node, path, _LABEL_VALUE, "letters, digits and _ . : @ / - *")


def pattern(node: Node, path: str, plain: re.Pattern[str], of: str) -> str:
    """A name, a glob or a regex."""
    text = READ.text(node, path)
    if not text.startswith("^") and not plain.fullmatch(text):
        expected = f"a name or a glob of {of}, or ^regex$; one in each list item"
        raise READ.mistake(line_of(node), path, f"{expected}, not {visible(text, limit=80)!r}")
    try:
        PatternSet([text])
    except Invalid as error:
        raise READ.mistake(line_of(node), path, f"a name, a glob or ^regex$ ({error.detail})") from error
    return text
