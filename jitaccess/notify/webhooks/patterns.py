"""Which events an endpoint is told of: "*", "request.*" or "grant.revoked", separated by spaces."""

from __future__ import annotations

from jitaccess.audit.events import Event
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

# Every call of every agent: only for whoever asks for them by name, "*" is without.
CALLS = "call"
NOUNS = sorted({event.value.partition(".")[0] for event in Event})


def parse_patterns(text: str) -> str:
    """One canonical spelling. Raises Invalid with the word that means nothing."""
    words = sorted(set(text.split()))
    if not words:
        raise Invalid("webhook.events", "Say which events, at least one.")
    for word in words:
        if not events_of(word):
            shown = visible(word, limit=60)
            raise Invalid("webhook.events", f'"{shown}" is no event: write "*", "request.*" or "grant.revoked".')
    return " ".join(words)


def events_of(patterns: str) -> frozenset[str]:
    """The events that stored patterns mean in this release."""
    found: set[str] = set()
    for word in patterns.split():
        noun, dot, rest = word.partition(".")
        if word == "*":
            found |= {event.value for event in Event if not event.startswith(f"{CALLS}.")}
        elif dot and rest == "*":
            found |= {event.value for event in Event if event.startswith(f"{noun}.")}
        else:
            found |= {event.value for event in Event if event.value == word}
    return frozenset(found)
