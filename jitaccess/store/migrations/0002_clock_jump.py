from __future__ import annotations

from django.db import migrations, models

from jitaccess.kernel.ids import uuid7


class Migration(migrations.Migration):
    dependencies = [("jit_store", "0001_clock")]

    operations = [
        migrations.CreateModel(
            name="ClockJump",
            fields=[
                ("id", models.UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False)),
                ("noticed_at", models.DateTimeField()),
                ("seconds", models.FloatField(help_text="Forward is positive, back is negative.")),
                ("accepted_at", models.DateTimeField(blank=True, null=True)),
                ("accepted_by", models.CharField(blank=True, max_length=150)),
            ],
            options={"ordering": ["id"]},
        ),
    ]
