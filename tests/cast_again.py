"""The cast as rows: the services make it once in a process, and from then on it is written as they left it, under new ids
and dates. That takes a fifth of the time, and nearly every test begins with it.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import connection, transaction
from django.db.models import AutoField, BigAutoField, Model

from jitaccess.kernel.ids import uuid7
from jitaccess.store.clock import now
from tests.cast import Cast, build_cast

# What triggers write by themselves when the other rows are written.
BY_TRIGGERS = frozenset({"jit_policy_policychange", "jit_policy_policyversion", "jit_audit_unsequenced"})
UUIDS = re.compile(
    r"(?<![0-9a-f$])[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}(?![0-9a-f])"
)  # and no part of a digest


@dataclass(frozen=True, slots=True)
class Kept:
    """What build_cast left: the objects (pickled: that is the fastest way to copy them), a statement and its parameters for
    each table with the places of those that change, every id in order, and when it was done."""

    cast: bytes
    rows: list[tuple[str, list[Any], list[int]]]
    ids: list[UUID]
    at: datetime


_kept: list[Kept] = []


def cast_again() -> Cast:
    """The cast, made by the services in an empty database, else as a copy of what they made."""
    if _kept:
        return _written(_kept[0])
    empty, cast = not rows_of_all(), build_cast()
    if empty:
        rows = rows_of_all()
        # Whole values only: a digest in a text may look the same.
        ids = {UUID(str(value)) for _, values in rows for value in values if UUIDS.fullmatch(str(value))}
        places = [[place for place, value in enumerate(values) if _changes(value)] for _, values in rows]
        statements = [(*row, changing) for row, changing in zip(rows, places, strict=True)]
        _kept.append(Kept(pickle.dumps(cast), statements, sorted(ids), now()))
    return cast


def rows_of_all() -> list[tuple[str, list[Any]]]:
    """Of each of our tables that has any: the statement that writes them all, and its parameters."""
    found = []
    with connection.cursor() as cursor:
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            if model._meta.proxy or not table.startswith("jit_") or table in BY_TRIGGERS:
                continue
            # Numbers are given anew, for a sequence goes on counting; nothing refers to them.
            names = [
                field.column for field in model._meta.concrete_fields if not isinstance(field, AutoField | BigAutoField)
            ]
            columns = ", ".join(f'"{name}"' for name in names)
            cursor.execute(f'SELECT {columns} FROM "{table}"')
            if rows := cursor.fetchall():
                marks = ", ".join([f"({', '.join(['%s'] * len(names))})"] * len(rows))
                values = [value for row in rows for value in row]
                found.append((f'INSERT INTO "{table}" ({columns}) VALUES {marks}', values))
    return found


def _written(kept: Kept) -> Cast:
    ids = dict(zip(kept.ids, sorted(uuid7() for _ in kept.ids), strict=True))
    later = now() - kept.at

    def renewed(value: Any) -> Any:
        if isinstance(value, datetime):
            return value + later
        if isinstance(value, UUID):
            return ids.get(value, value)
        return UUIDS.sub(lambda found: _new(found[0], ids), value) if isinstance(value, str) else value

    with transaction.atomic(), connection.cursor() as cursor:
        for statement, values, changing in kept.rows:
            new = values.copy()
            for place in changing:
                new[place] = _stored(renewed(new[place]))
            cursor.execute(statement, new)
    cast: Cast = pickle.loads(kept.cast)
    for model in _objects(cast):
        for name, value in vars(model).items():
            if isinstance(value, datetime | UUID):
                setattr(model, name, renewed(value))
    return cast


def _changes(value: Any) -> bool:
    return isinstance(value, datetime | UUID) or (isinstance(value, str) and UUIDS.search(value) is not None)


def _new(found: str, ids: dict[UUID, UUID]) -> str:
    new = ids.get(UUID(found), UUID(found))
    return str(new) if "-" in found else new.hex


def _stored(value: Any) -> Any:
    """SQLite keeps dates as texts, as Django writes them."""
    return str(value) if isinstance(value, datetime) and connection.vendor == "sqlite" else value


def _objects(cast: Cast) -> list[Model]:
    """Each once: what they refer to is another of them."""
    named = (getattr(cast, name) for name in cast.__slots__)
    found = [*cast.tools.values(), *(one for one in named if isinstance(one, Model))]
    assert {id(one) for one in found} >= {
        id(other) for one in found for other in one._state.fields_cache.values() if other is not None
    }
    return found
