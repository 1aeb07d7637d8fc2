from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jit_identity", "0003_revoked_tokens"),
    ]

    operations = [
        # Nullable and without a default: SQLite would make the table anew, and lose the triggers on it.
        migrations.AddField(
            model_name="user",
            name="sessions_ended",
            field=models.IntegerField(editable=False, null=True),
        ),
    ]
