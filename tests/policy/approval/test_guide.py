"""What the guide shows can be saved, and what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jitaccess.policy.approval.choose import RISKS
from jitaccess.policy.approval.document import _RULE_KEYS, CHANNELS, VARIABLES, Kind, parse_policy
from tests.policy.approval.documents import facts

pytestmark = pytest.mark.pure

GUIDE = (Path(__file__).parents[3] / "docs/guides/write-an-approval-policy.md").read_text()


def test_its_policy_is_one():
    [document] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert [rule.name for rule in parse_policy(document).rules] == ["small-reads", "personal-data", "everything-else"]


def test_it_names_every_key_selector_channel_and_variable():
    context = facts().context()
    names = [*_RULE_KEYS, *Kind, *CHANNELS, *VARIABLES, *RISKS]
    for variable in ("principal", "request", "history"):
        names += list(context[variable])  # type: ignore[call-overload]
    names += list(context["items"][0])  # type: ignore[index]
    missing = [name for name in names if not re.search(rf"`[^`\n]*{re.escape(name)}", GUIDE)]
    assert missing == []
