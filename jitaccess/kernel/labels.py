"""Labels: short texts by name, such as {"env": "prod", "data": "pii"}."""

from __future__ import annotations

import re

from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid

MAX_LABELS = 32
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
_VALUE = re.compile(r"[A-Za-z0-9_.:@/-]{1,80}")


def parse_labels(text: str) -> dict[str, str]:
    """The labels in a JSON text; none in an empty one. Raises Invalid("labels.invalid") with what to change."""
    try:
        value = strictjson.decode(text.encode()) if text.strip() else {}
    except Invalid as error:
        raise Invalid(
            "labels.invalid", f'Labels are a JSON object such as {{"env": "prod"}}: {error.detail}'
        ) from error
    return checked_labels(value)


def checked_labels(value: object) -> dict[str, str]:
    """The same, of what has been decoded already."""
    if not isinstance(value, dict):
        raise Invalid("labels.invalid", 'Labels are a JSON object such as {"env": "prod"}.')
    if len(value) > MAX_LABELS:
        raise Invalid("labels.invalid", f"There may be {MAX_LABELS} labels, not {len(value)}.")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Invalid(
                "labels.invalid",
                f"The name {ascii(name)[:60]} needs small letters, digits and _ . - (at most 40, a letter first).",
            )
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise Invalid(
                "labels.invalid", f"The label {name} needs a text of letters, digits and _ . : @ / - (1 to 80)."
            )
    return {str(name): str(text) for name, text in value.items()}
