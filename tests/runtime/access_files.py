"""What the tests of `jitaccess apply` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jitaccess.identity.models import User
from jitaccess.runtime.access_files import applying
from jitaccess.runtime.access_files.documents import Reading, read_files
from jitaccess.runtime.access_files.plan import Plan
from tests.cast import OPERATOR

POLICY = """\
kind: approval-policy
version: v1
metadata: {name: reviewed}
spec:
  rules:
    - name: all
      stages:
        - groups:
            - {name: reviewers, people: ["team:demo"], quorum: 1}
"""
Files = Callable[..., Reading]


def reading(folder: Path, **texts: str) -> Reading:
    """Read these texts, each as a file NAME.yaml of `folder`, and no others."""
    for old in folder.glob("*.yaml"):
        old.unlink()
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return read_files([folder])


def document(kind: str, name: str, spec: str, *, more: str = "") -> str:
    """A document of one kind; `spec` in YAML's flow style."""
    return f'kind: {kind}\nversion: v1\nmetadata: {{name: "{name}"{more}}}\nspec: {spec}\n'


def role(name: str, allow: str = '[{servers: ["*"], access: [read]}]') -> str:
    return document("role", name, f"{{allow: {allow}}}")


def binding(spec: str) -> str:
    return f"kind: binding\nversion: v1\nspec: {{{spec}}}\n"


def apply(what: Reading, *, prune: bool = False) -> Plan:
    """Look and carry out, as `--yes` does. The plan may have problems: then nothing is done."""
    plan = applying.look(what, prune=prune)
    if not plan.problems:
        applying.carry_out(what, plan, prune=prune, operator=OPERATOR)
    return plan


def problems(plan: Plan) -> str:
    return "\n".join(map(str, plan.problems))


def people(*names: str) -> None:
    for name in names:
        User.objects.create(username=name)
