"""SQLite stores anything in any column: is each value of the ledger spelled as the product writes it?

Hashes are made of values as Django reads them, which takes a UUID in capitals or a time with a `T` for the same. A
filter in SQL does not: whoever writes the file could hide entries from every page without changing any hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connection
from django.db.models import Field, Model

from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.verify import Finding

_TIME = "-".join(("[0-9]" * 4, "[0-9]" * 2, "[0-9]" * 2)) + " " + ":".join(["[0-9]" * 2] * 3)
_TEXT = "typeof({0}) = 'text'"
_UUID = "typeof({0}) = 'text' AND length(CAST({0} AS BLOB)) = 32 AND {0} NOT GLOB '*[^0-9a-f]*'"
_INTEGER = "typeof({0}) = 'integer'"
_FORMS = {
    "CharField": _TEXT,
    "TextField": _TEXT,
    "UUIDField": _UUID,
    "OneToOneField": _UUID,
    "BigIntegerField": _INTEGER,
    # A whole second is written without a fraction by Django, and with one by jit_now(). Later Pythons read 24:00.
    "DateTimeField": f"typeof({{0}}) = 'text' AND substr({{0}}, 12, 2) < '24' AND ("
    f"({{0}} GLOB '{_TIME}' AND length(CAST({{0}} AS BLOB)) = 19) OR "
    f"({{0}} GLOB '{_TIME}.{'[0-9]' * 6}' AND length(CAST({{0}} AS BLOB)) = 26))",
}


def misspelled() -> Iterator[Finding]:
    """Entries and leaves that have a place and are stored in another form. None where columns have types.

    The form of each kind has one spelling for each value, so that SQLite can check it alone, and only what is wrong is
    read. The hash covers what a text says; that it is one, and no blob, is checked here.
    """
    if connection.vendor != "sqlite":
        return
    leaf, entry = Leaf._meta.db_table, Entry._meta.db_table
    yield from _odd(Leaf, leaf)
    # CROSS: by the places, in their order, whatever SQLite thinks of its indexes.
    yield from _odd(Entry, f"{leaf} CROSS JOIN {entry} ON {entry}.uid = {leaf}.entry_id")


def _odd(model: type[Model], source: str) -> Iterator[Finding]:
    forms = [(field.column, _form(field)) for field in model._meta.concrete_fields]
    names = " || ".join(f"CASE WHEN {form} THEN '' ELSE ' {column}' END" for column, form in forms)
    good = " AND ".join(f"({form})" for _, form in forms)
    seq = f"{Leaf._meta.db_table}.seq"  # one that is no number is found without this
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {seq}, {names} FROM {source} "  # noqa: S608 - names of our own
            f"WHERE typeof({seq}) = 'integer' AND NOT ({good}) ORDER BY {seq}"
        )
        for place, columns in cursor:
            what = ", ".join(columns.split())
            yield Finding(
                place,
                f"entry {place} is stored otherwise than it was written "
                f"({'columns' if ',' in what else 'column'} {what})",
            )


def _form(field: Field[Any, Any]) -> str:
    quote = connection.ops.quote_name
    name = f"{quote(field.model._meta.db_table)}.{quote(str(field.column))}"
    form = _FORMS[field.get_internal_type()].format(name)
    return f"{name} IS NULL OR ({form})" if field.null else form
