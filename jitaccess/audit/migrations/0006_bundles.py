from __future__ import annotations

from typing import Any

from django.db import migrations, models


def keep_in_line(apps: Any, schema_editor: Any) -> None:
    """A body stands in its row or beside it, as it is: it stays for a moment, and to compress it takes longer."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE jit_audit_bundle ALTER COLUMN body SET STORAGE EXTERNAL")
        schema_editor.execute("ALTER TABLE jit_audit_bundle SET (toast_tuple_target = 8160)")


class Migration(migrations.Migration):
    dependencies = [
        ("jit_audit", "0005_leaves_without_key"),
    ]

    operations = [
        migrations.CreateModel(
            name="Bundle",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        editable=False, help_text="The uid of its first entry.", primary_key=True, serialize=False
                    ),
                ),
                ("at", models.DateTimeField(help_text="The time of its entries.")),
                ("n", models.IntegerField(help_text="How many they are.")),
                ("body", models.TextField()),
            ],
        ),
        migrations.RunPython(keep_in_line, migrations.RunPython.noop),
    ]
