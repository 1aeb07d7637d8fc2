"""Resources and prompts: whatever can be listed can be had, whatever cannot be had is in no answer; on random policies."""

from __future__ import annotations

from fnmatch import fnmatchcase
from random import Random
from typing import Any

import pytest

from jitaccess.policy.models import RoleBinding
from jitaccess.policy.services import bind_role, end_binding, save_role
from tests.cast import Cast
from tests.gateway.harness import Client, eventually, refusals, settled
from tests.gateway.library import Library, both, one_way, running, served, upstream
from tests.gateway.test_prompts import names
from tests.gateway.test_resources import listed

__all__ = ["both", "running", "served", "upstream"]
pytestmark = pytest.mark.django_db(transaction=True)
NOTES = ("memo://apples", "memo://boats", "memo://cats", "memo://salaries")
PROMPTS = ("greet", "insult")
NOTE_PATTERNS = (
    "*",
    "memo://*",
    "memo://[a-b]*",
    "memo://apples",
    "memo://*s",
    "memo://b*",
    "vault://*",
    "memo://salaries",
)
PROMPT_PATTERNS = ("*", "greet", "in*", "*t", "none")
WORLDS = 12
Rules = list[tuple[str, str, str]]


def shuffle(cast: Cast, random: Random, number: int) -> Rules:
    """Another policy for the agent: (allow or deny, resources or prompts, pattern) in all."""
    for binding in RoleBinding.objects.filter(origin="standing", ended_at=None):
        end_binding(binding=binding, operator=cast.operator)
    rules: Rules = []
    for place in range(random.randint(1, 3)):
        lines = []
        for _ in range(random.randint(1, 3)):
            effect = random.choice(("allow", "allow", "deny"))
            kind, patterns = random.choice((("resources", NOTE_PATTERNS), ("prompts", PROMPT_PATTERNS)))
            pattern = random.choice(patterns)
            rules.append((effect, kind, pattern))
            lines.append((effect, f"    - {{servers: [git], {kind}: ['{pattern}']}}\n"))
        spec = "".join(
            f"  {effect}:\n{''.join(line for one, line in lines if one == effect)}"
            for effect in {one for one, _ in lines}
        )
        document = f"kind: role\nversion: v1\nmetadata: {{name: o{number}-{place}}}\nspec:\n{spec}"
        whose: Any = random.choice([{"agent": cast.agent}, {"everyone": "agents"}])
        bind_role(role=save_role(document=document, operator=cast.operator), operator=cast.operator, **whose)
    return rules


def meant(rules: Rules, kind: str, name: str) -> bool:
    """Deny beats allow; what nobody allows is not allowed. A star stands for anything, brackets for themselves."""

    def says(effect: str) -> bool:
        return any(one[:2] == (effect, kind) and fnmatchcase(name, one[2].replace("[", "[[]")) for one in rules)

    return says("allow") and not says("deny")


@one_way
def test_what_is_listed_is_what_may_be_had_and_the_rest_is_nowhere(
    cast: Cast, both: tuple[Client, Client], upstream: Library
) -> None:
    random, seen, refused = Random(20251125), {"there": 0, "not there": 0}, 0
    had: dict[str, list[str]] = {"read": [], "prompt": []}
    for number in range(WORLDS):
        rules = shuffle(cast, random, number)
        notes = [name for name in NOTES if meant(rules, "resources", name)]
        prompts = [name for name in PROMPTS if meant(rules, "prompts", name)]
        for client in both:
            assert listed(client)[0] == notes, rules
            assert names(client) == prompts, rules
            for name in NOTES:
                refused += _agrees(client, "resources/read", {"uri": name}, there=name in notes, seen=seen)
            for name in PROMPTS:
                refused += _agrees(client, "prompts/get", _prompt(name), there=name in prompts, seen=seen)
                refused += _agrees(client, "completion/complete", _completion(name), there=name in prompts, seen=seen)
            had["read"] += notes
            had["prompt"] += prompts
            _nowhere(client, [name for name in (*NOTES, *PROMPTS) if name not in (*notes, *prompts)])
    eventually(settled)
    assert [line[1] for line in upstream.asked("read")] == had["read"]
    assert [line[1] for line in upstream.asked("prompt")] == had["prompt"]
    assert len(upstream.asked("complete")) == len(had["prompt"])
    assert refusals() == refused == seen["not there"]
    assert min(seen.values()) > WORLDS * 2, seen


def _prompt(name: str) -> dict[str, Any]:
    return {"name": name, "arguments": {"who": "Anna"}}


def _completion(name: str) -> dict[str, Any]:
    return {"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "who", "value": "an"}}


def _agrees(client: Client, method: str, params: dict[str, Any], *, there: bool, seen: dict[str, int]) -> bool:
    """Ask for it; returns whether it was refused."""
    answer = client.ask(method, params)
    seen["there" if there else "not there"] += 1
    assert ("result" in answer) is there, (method, params, answer)
    return not there


def _nowhere(client: Client, hidden: list[str]) -> None:
    methods = ["tools/list", "resources/list", "resources/templates/list", "prompts/list"]
    said = [
        client.post(client.message(one, {})).text
        for one in [*methods, *([] if client.session else ["server/discover"])]
    ]
    assert not [(name, text) for name in hidden for text in said if f'"{name}"' in text]
