"""`jitaccess keys …`: the ring of keys that secrets and sessions are sealed with, and its rotation."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.secretbox import KeyRing, generate_key
from jitaccess.runtime.screen import Screen

_NUMBERED = re.compile(r"k(\d+)")
_BY_HAND = (
    "The ring comes from the environment (JITACCESS_KEYS), which only you can change. The ring to put there, a secret, "
    "is on standard output."
)


def add(commands: Any) -> None:
    """Register the subcommands."""
    keys = commands.add_parser("keys", help="the keys that secrets are sealed with").add_subparsers(
        required=True, metavar="action"
    )
    listing = keys.add_parser("list", help="the keys, and how much is sealed with each")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=_list)
    adding = keys.add_parser("add", help="a new key, which seals from now on; the older ones still open")
    adding.add_argument("--id", help="how it is called (default: the next of k1, k2, …)")
    adding.set_defaults(run=_add)
    rotate = keys.add_parser("rotate", help="seal with the newest key everything that is under an older one")
    rotate.set_defaults(run=_rotate)
    drop = keys.add_parser("drop", help="take an old key out of the ring; refused while something needs it")
    drop.add_argument("id")
    drop.set_defaults(run=_drop)


def _list(arguments: argparse.Namespace) -> int:
    from jitaccess.catalog.models import ServerCredential
    from jitaccess.identity import factors
    from jitaccess.notify.webhooks import keys as webhooks
    from jitaccess.store.sealing import ring, ring_file
    from requests_app.provisioning.targets import keys_in_use

    counts = Counter(row.key for row in ServerCredential.objects.all()) + keys_in_use() + webhooks.keys_in_use()
    counts += factors.keys_in_use()
    ids = ring().ids
    if arguments.json:
        held = {
            key: {"in_ring": key in ids, "credentials": counts[key]} for key in (*ids, *sorted(set(counts) - set(ids)))
        }
        Screen().json({"seals": ids[0], "keys": held})
        return int(bool(set(counts) - set(ids)))
    print(f"The ring is in {ring_file() or 'the environment (JITACCESS_KEYS)'}.")
    for place, key in enumerate(ids):
        print(f"{key:<32} {'seals' if place == 0 else 'opens'}   {counts.pop(key, 0)} credentials")
    for key, count in sorted(counts.items()):
        print(f"{key:<32} MISSING {count} credentials, which cannot be opened")
    return 1 if counts else 0


def _add(arguments: argparse.Namespace) -> int:
    from jitaccess.audit.events import Event
    from jitaccess.store.sealing import ring

    ids = ring().ids
    key = arguments.id or _next(ids)
    if key in ids:
        raise Conflict("keyring.taken", f"There is a key {key} in the ring already.")
    fresh = generate_key(key)
    by_hand = _change(lambda old: f"{fresh},{old}", Event.KEY_ADDED, key)
    if by_hand:
        print("Give it to every process and restart them all, then run: jitaccess keys rotate", file=sys.stderr)
    else:
        print(f"{key} seals from now on, in running processes too. Next: jitaccess keys rotate")
    return 0


def _rotate(_: argparse.Namespace) -> int:
    from jitaccess.catalog.credentials import rotate_credentials
    from jitaccess.identity.factors import reseal_factors
    from jitaccess.notify.webhooks.keys import reseal_endpoints
    from jitaccess.runtime.cli import operator
    from jitaccess.store.sealing import ring
    from requests_app.provisioning.targets import reseal_targets

    keys = ring()
    each = [reseal(keys, operator=operator()) for reseal in (rotate_credentials, reseal_targets, reseal_endpoints)]
    people = reseal_factors(keys, operator=operator())
    resealed = sum(one.resealed for one in each) + people.resealed
    current = sum(one.current for one in each) + people.current
    print(f"{resealed} credentials sealed anew with {keys.ids[0]}, {current} were already.")
    unreadable = [*(what for one in each for what in one.unreadable), *people.unreadable]
    for what in unreadable:
        print(f"cannot be opened, and stays as it is: {what}")
    if not unreadable and len(keys.ids) > 1:
        print(f"No credential needs the older keys now: jitaccess keys drop {keys.ids[-1]}")
    return 1 if unreadable else 0


def _drop(arguments: argparse.Namespace) -> int:
    from jitaccess.audit.events import Event
    from jitaccess.catalog.credentials import sealed_with
    from jitaccess.identity import factors
    from jitaccess.notify.webhooks import keys as webhooks
    from jitaccess.store.sealing import ring
    from requests_app.provisioning import targets

    key, ids = arguments.id, ring().ids
    if key not in ids:
        raise NotFound("keyring.unknown", f"There is no key {key} in the ring.")
    if key == ids[0]:
        raise Conflict("keyring.newest", f"{key} is the key that seals: jitaccess keys add first, then keys rotate.")
    if held := [*sealed_with(key), *targets.sealed_with(key), *webhooks.sealed_with(key), *factors.sealed_with(key)]:
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise Conflict(
            "keyring.needed",
            f"{', '.join(held[:3])}{more} would be lost: sealed with {key}. Run jitaccess keys rotate first.",
        )

    def without(old: str) -> str:
        return ",".join(entry for entry in old.split(",") if entry.strip().partition(":")[0] != key)

    if not _change(without, Event.KEY_DROPPED, key):
        print(f"{key} is dropped. Older MCP sessions that were sealed with it begin anew by themselves.")
    return 0


def _next(ids: tuple[str, ...]) -> str:
    numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, ids) if match]
    return f"k{max(numbers, default=0) + 1}"


def _change(change: Any, event: Any, key: str) -> bool:
    """Replace the ring in its file, or print the new one. True when that is left to the operator."""
    from django.db import transaction

    from jitaccess.audit.recorder import Facts, record
    from jitaccess.kernel.files import folder_locked, replace_file
    from jitaccess.runtime.cli import operator
    from jitaccess.store.sealing import ring_file, ring_text

    path: Path | None = ring_file()
    if path is None:
        new = change(ring_text())
        KeyRing.from_text(new)
        print(_BY_HAND, file=sys.stderr)
        print(new)
        return True
    with folder_locked(path.resolve().parent), transaction.atomic():
        new = change(ring_text())  # read again under the lock
        KeyRing.from_text(new)
        record(Facts(event=event, actor=operator(), data={"key": key}))
        try:
            replace_file(path, f"{new}\n".encode())
        except OSError as error:
            raise Invalid(
                "keyring.file", f"{path} cannot be written ({error.strerror}); change it where it is made."
            ) from error
    return False
