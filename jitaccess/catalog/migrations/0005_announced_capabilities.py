from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jit_catalog", "0004_server_options"),
    ]

    operations = [
        migrations.AddField(
            model_name="serverhealth",
            name="announces",
            field=models.JSONField(editable=False, null=True),
        ),
    ]
