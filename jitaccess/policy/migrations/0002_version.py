"""The one row that holds the policy version."""

from __future__ import annotations

from typing import Any

from django.db import migrations


def create(apps: Any, schema_editor: Any) -> None:
    apps.get_model("jit_policy", "PolicyVersion").objects.get_or_create(pk=1)


class Migration(migrations.Migration):
    dependencies = [("jit_policy", "0001_initial")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
